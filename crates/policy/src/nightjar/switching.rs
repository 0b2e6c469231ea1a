//! What it costs to take up speculation again: a table over how far the draft is behind and how many sequences there are.

/// Ranges of lags that double: 1, 2 and 3, 4 to 7, and so on; the last begins at 32768 and has no end.
const N_LAGS: usize = 16;

/// Switches that an entry remembers, about.
const MEMORY: f64 = 16.0;

/// Switches of one range of lags at one load.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    n: u32,
    /// Mean lag, tokens.
    lag: f64,
    /// Mean cost.
    seconds: f64,
}

/// `C_switch(L_max, B)` of Nightjar, as far as it was measured.
#[derive(Clone, Debug)]
pub struct SwitchTable {
    /// By range of batch sizes, then by range of lags.
    rows: Vec<[Entry; N_LAGS]>,
}

impl SwitchTable {
    /// Nothing was measured.
    ///
    /// * `n_contexts`: ranges of batch sizes.
    pub fn new(n_contexts: usize) -> Self {
        Self { rows: vec![[Entry::default(); N_LAGS]; n_contexts] }
    }

    /// Takes in what a switch cost. Lags of less than a token and times that are not finite are ignored.
    ///
    /// * `lag`: of the sequence that was furthest behind, tokens.
    /// * `seconds`: beyond what drafting takes anyway; below zero counts as zero.
    pub fn learn(&mut self, context_idx: usize, lag: f64, seconds: f64) {
        if !(1.0..f64::INFINITY).contains(&lag) || !seconds.is_finite() {
            return;
        }
        // The cast saturates; the last range has no end.
        let range = ((lag as u32).max(1).ilog2() as usize).min(N_LAGS - 1);
        let entry = &mut self.rows[context_idx][range];
        entry.n = entry.n.saturating_add(1);
        let gain = 1.0 / f64::from(entry.n).min(MEMORY);
        entry.lag += gain * (lag - entry.lag);
        entry.seconds += gain * (seconds.max(0.0) - entry.seconds);
    }

    /// What a switch costs at this lag; `None` if none was measured at this load.
    ///
    /// Straight between the lags that were measured, and from no lag at no cost; beyond the longest in proportion to it.
    pub fn seconds(&self, context_idx: usize, lag: f64) -> Option<f64> {
        let mut measured = self.rows[context_idx].iter().filter(|entry| entry.n > 0);
        let mut below = Entry::default();
        let above = measured.find(|entry| {
            let is_below = entry.lag < lag;
            if is_below {
                below = **entry;
            }
            !is_below
        });
        match above {
            Some(above) => {
                let share = (lag - below.lag) / (above.lag - below.lag);
                Some(below.seconds + share * (above.seconds - below.seconds))
            }
            None if below.n > 0 => Some(below.seconds * lag / below.lag),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(table: &SwitchTable, context_idx: usize, lag: f64, expected: Option<f64>) {
        let got = table.seconds(context_idx, lag);
        let is_near =
            got.zip(expected).map_or(got == expected, |(got, expected)| (got - expected).abs() < 1e-12);
        assert!(is_near, "load {context_idx}, lag {lag}: expected {expected:?}, got {got:?}");
    }

    #[test]
    fn costs_are_read_between_the_entries_of_a_load() {
        let mut table = SwitchTable::new(2);
        check(&table, 0, 100.0, None);
        // 18 ms at 128 tokens, 58 ms at 512: 40 ms for 384 tokens.
        table.learn(0, 128.0, 0.018);
        table.learn(0, 512.0, 0.058);
        check(&table, 0, 128.0, Some(0.018));
        check(&table, 0, 320.0, Some(0.038));
        check(&table, 0, 512.0, Some(0.058));
        // Half the lag of the shortest, twice that of the longest.
        check(&table, 0, 64.0, Some(0.009));
        check(&table, 0, 1024.0, Some(0.116));
        check(&table, 1, 128.0, None);
    }

    #[test]
    fn an_entry_is_the_mean_of_its_range() {
        let mut table = SwitchTable::new(1);
        // 40 to 63 are one range: 48 tokens, 12 ms on average.
        for (lag, seconds) in [(40.0, 0.010), (56.0, 0.014)] {
            table.learn(0, lag, seconds);
        }
        check(&table, 0, 48.0, Some(0.012));
        // After many of another kind only these are left.
        (0..400).for_each(|_| table.learn(0, 48.0, 0.030));
        let got = table.seconds(0, 48.0).unwrap();
        assert!((got - 0.030).abs() < 1e-9, "{got}");
    }

    #[test]
    fn what_cannot_be_is_ignored() {
        let mut table = SwitchTable::new(1);
        for (lag, seconds) in [(0.0, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0), (9.0, f64::NAN)] {
            table.learn(0, lag, seconds);
        }
        check(&table, 0, 9.0, None);
        // A switch that seemed to save time cost none.
        table.learn(0, 1e9, -1.0);
        check(&table, 0, 9.0, Some(0.0));
    }
}
