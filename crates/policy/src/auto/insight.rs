//! Whether the shape of the draft's distributions is worth computing: what it tells against what it takes.

/// Relative gain in rate per nat that the shape adds to the prediction of a label. Measured with a small pair: 0.14 nats
/// were worth 7 % of the rate.
const GAIN_PER_NAT: f64 = 0.5;

/// Nats per label below which the shape tells nothing, however cheap it is.
const NATS_MIN: f64 = 0.003;

/// Steps after which the other way is tried for one step.
const RECHECK_STEPS: u64 = 16;

/// Steps that are remembered, about.
const MEMORY: f64 = 64.0;

/// Mean of what was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    value: f64,
    n: f64,
}

impl Mean {
    fn note(&mut self, value: f64) {
        self.n = (self.n + 1.0).min(MEMORY);
        self.value += (value - self.value) / self.n;
    }
}

/// What the shape takes, from steps with and without it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Insight {
    /// Logarithm by which drafting missed its expected time, `[without, with]` the shape.
    missed: [Mean; 2],
    /// Share of a step's time that goes into drafting.
    drafting: Mean,
}

impl Insight {
    /// Whether to compute the shape in a step.
    ///
    /// * `nats`: what it adds per label; `None` while unknown.
    pub(super) fn is_wanted(&self, step: u64, nats: Option<f64>) -> bool {
        let pays = nats.is_none_or(|nats| nats > NATS_MIN && GAIN_PER_NAT * nats > self.cost());
        pays != step.is_multiple_of(RECHECK_STEPS)
    }

    /// Takes in a step that drafted.
    ///
    /// * `missed`: logarithm by which drafting missed its expected time; `share`: of the step's time that it took.
    pub(super) fn note(&mut self, has_shape: bool, missed: f64, share: f64) {
        self.missed[usize::from(has_shape)].note(missed);
        self.drafting.note(share);
    }

    /// Share of a step's time that the shape takes; 0 while unknown.
    fn cost(&self) -> f64 {
        let [without, with] = self.missed;
        if without.n == 0.0 || with.n == 0.0 {
            return 0.0;
        }
        (1.0 - (without.value - with.value).exp()).max(0.0) * self.drafting.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of which a quarter is drafting, which takes `slower` times as long with the shape.
    fn measured(slower: f64) -> Insight {
        let mut insight = Insight::default();
        for _ in 0..100 {
            insight.note(true, slower.ln(), 0.25);
            insight.note(false, 0.0, 0.25);
        }
        insight
    }

    #[test]
    fn a_shape_is_computed_while_it_tells_more_than_it_takes() {
        // (1 - 1 / 1.25) / 4 = 5 % of the time: 0.1 nats are needed.
        let insight = measured(1.25);
        assert!((insight.cost() - 0.05).abs() < 1e-9);
        assert!(insight.is_wanted(1, Some(0.11)) && !insight.is_wanted(1, Some(0.09)));
        // Where it costs nothing, little is enough, but not nothing.
        let free = measured(1.0);
        assert!(free.is_wanted(1, Some(0.004)) && !free.is_wanted(1, Some(0.002)));
        assert!(insight.is_wanted(1, None), "unknown");
    }

    #[test]
    fn the_other_way_is_tried_now_and_then() {
        let insight = measured(1.25);
        assert!(!insight.is_wanted(32, Some(1.0)) && insight.is_wanted(32, Some(0.01)));
        assert_eq!(Insight::default().cost(), 0.0);
    }
}
