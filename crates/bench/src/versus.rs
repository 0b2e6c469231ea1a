//! Two logs against each other: a version, an option or a machine over another one.
//!
//! Whether a difference is more than noise is asked of the rounds themselves, by a permutation test (Fisher, *The Design of
//! Experiments*, 1935): among all ways to deal the rounds out to two logs, the share that differ at least as much. It assumes
//! nothing of how noise is distributed, and with too few rounds it cannot say yes: three against three reach 0.1 at best.
//! Several conditions are asked at once, so their shares are adjusted (Holm, *A Simple Sequentially Rejective Multiple Test
//! Procedure*, 1979).

mod markdown;
mod permutation;

use crate::conditions::Conditions;
use crate::log::Log;
use crate::matrix::{Measured, Ratio, cells};
use crate::run::Run;
pub use markdown::page;
use permutation::{binomial, holm, share_apart, share_paired};

/// Share below which a difference counts as one.
const SIGNIFICANCE: f64 = 0.05;
/// How rounds of two logs belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// They do not: the logs were measured one after the other, and what changed in between counts as a difference.
    None,
    /// Rounds of the same number were measured soon after each other, in turns.
    Rounds,
}

/// What conditions that both logs have say.
#[derive(Clone, Debug)]
pub struct Difference<'a> {
    /// Of the second log.
    pub conditions: &'a Conditions,
    /// Tokens/s, mean over rounds, of the first log and of the second.
    pub rates: [f64; 2],
    /// The second's over the first's.
    pub ratio: Ratio,
    /// Share of the ways to deal out the rounds that differ as much, adjusted for all conditions.
    pub share: f64,
    /// The least that so many rounds could have reached, likewise.
    pub least_share: f64,
    /// Median time to the first token, and per token after it: the second's over the first's, where both have it.
    pub latencies: [Option<Ratio>; 2],
    /// Whether greedy output is the same; absent if it cannot be told.
    pub is_same_output: Option<bool>,
}

/// What a difference amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The second has more tokens/s.
    Faster,
    /// It has fewer.
    Slower,
    /// Noise alone would do as much.
    Even,
    /// There are too few rounds to tell any difference.
    TooFewRounds,
}

impl Difference<'_> {
    /// What it amounts to.
    pub fn verdict(&self) -> Verdict {
        match () {
            () if self.share <= SIGNIFICANCE && self.ratio.mean > 1.0 => Verdict::Faster,
            () if self.share <= SIGNIFICANCE => Verdict::Slower,
            () if self.least_share > SIGNIFICANCE => Verdict::TooFewRounds,
            () => Verdict::Even,
        }
    }
}

/// Compares what both logs have, in the order of the second.
pub fn differences<'a>(first: &'a Log, second: &'a Log, pairing: Pairing) -> Vec<Difference<'a>> {
    let (first_cells, second_cells) = (cells(first), cells(second));
    let pairs = second_cells.iter().flat_map(|cell| {
        let other = first_cells.iter().find(|other| other.is_of(cell.conditions()));
        cell.policies().iter().filter_map(move |after| Some((other?.find(after.policy)?, after)))
    });
    let mut shares = Vec::new();
    let mut differences = Vec::new();
    for (before, after) in pairs {
        let Some((difference, share)) = difference(before, after, pairing) else { continue };
        shares.push(share);
        differences.push(difference);
    }
    let adjusted = [0, 1].map(|i| holm(&shares.iter().map(|share| share[i]).collect::<Vec<f64>>()));
    for (i, difference) in differences.iter_mut().enumerate() {
        (difference.share, difference.least_share) = (adjusted[0][i], adjusted[1][i]);
    }
    differences
}

/// The difference in one policy's conditions, its share and the least one before they are adjusted.
fn difference<'a>(
    before: &Measured<'a>,
    after: &Measured<'a>,
    pairing: Pairing,
) -> Option<(Difference<'a>, [f64; 2])> {
    let of_runs = |value: fn(&Run) -> Option<f64>| Samples::of(before, after, pairing, value);
    let rates = of_runs(|run| Some(run.tokens_per_s).filter(|&rate| rate > 0.0))?;
    let latency = |value| Some(of_runs(value)?.ratio());
    let latencies = [
        latency(|run| Some(run.ttft_ms?.p50).filter(|&ms| ms > 0.0)),
        latency(|run| Some(run.tpot_ms?.p50).filter(|&ms| ms > 0.0)),
    ];
    let mean = |measured: &Measured<'_>| {
        let runs = measured.runs();
        runs.clone().map(|run| run.tokens_per_s).sum::<f64>() / runs.count() as f64
    };
    let difference = Difference {
        conditions: &after.runs().next()?.conditions,
        rates: [mean(before), mean(after)],
        ratio: rates.ratio(),
        share: 1.0,
        least_share: 1.0,
        latencies,
        is_same_output: same_output(before, after),
    };
    Some((difference, [rates.share(), rates.least_share()]))
}

/// Of the runs that answered as many requests, all or none of whose tokens are told.
fn same_output(before: &Measured<'_>, after: &Measured<'_>) -> Option<bool> {
    let digests = before.runs().filter_map(|run| Some((run.requests, run.digest.as_deref()?)));
    let pairs = digests.flat_map(|(requests, digest)| {
        let others = after.runs().filter(move |run| run.requests == requests);
        others.filter_map(move |run| Some(run.digest.as_deref()? == digest))
    });
    pairs.reduce(|all, same| all && same)
}

/// Logarithms of what was measured.
enum Samples {
    Apart([Vec<f64>; 2]),
    /// Differences of pairs.
    Paired(Vec<f64>),
}

impl Samples {
    fn of(
        before: &Measured<'_>,
        after: &Measured<'_>,
        pairing: Pairing,
        value: fn(&Run) -> Option<f64>,
    ) -> Option<Self> {
        let log = |run: &Run| value(run).map(f64::ln);
        match pairing {
            Pairing::None => {
                let both =
                    [before, after].map(|measured| measured.runs().filter_map(log).collect::<Vec<f64>>());
                both.iter().all(|logs| !logs.is_empty()).then_some(Self::Apart(both))
            }
            Pairing::Rounds => {
                let pair =
                    |run: &Run| Some(log(run)? - log(before.runs().find(|other| other.round == run.round)?)?);
                let logs: Vec<f64> = after.runs().filter_map(pair).collect();
                (!logs.is_empty()).then_some(Self::Paired(logs))
            }
        }
    }

    fn ratio(&self) -> Ratio {
        match self {
            Self::Apart([before, after]) => Ratio::between(before, after),
            Self::Paired(logs) => Ratio::of_logs(logs).expect("there is a pair"),
        }
    }

    fn share(&self) -> f64 {
        match self {
            Self::Apart([before, after]) => share_apart(before, after),
            Self::Paired(logs) => share_paired(logs),
        }
    }

    /// The way around counts as well, where there is one.
    fn least_share(&self) -> f64 {
        let (n_ways, n_extreme) = match self {
            Self::Apart([before, after]) => {
                let n_extreme = if before.len() == after.len() { 2.0 } else { 1.0 };
                (binomial(before.len() + after.len(), before.len()), n_extreme)
            }
            Self::Paired(logs) => (2_f64.powi(logs.len().min(1000) as i32), 2.0),
        };
        n_extreme / n_ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::log;

    #[test]
    fn a_faster_second_log_is_told_from_noise() {
        let first = log(&[("off", &[10.0, 10.2, 9.9, 10.1, 10.0]), ("auto", &[10.0, 11.0, 9.0, 10.5, 9.5])]);
        let second = log(&[
            ("off", &[11.0, 11.2, 10.9, 11.1, 11.0]),
            ("auto", &[10.1, 10.9, 9.1, 10.4, 9.6]),
            ("dsde", &[1.0]),
        ]);
        let found = differences(&first, &second, Pairing::None);
        let verdicts: Vec<Verdict> = found.iter().map(Difference::verdict).collect();
        assert_eq!(verdicts, [Verdict::Faster, Verdict::Even]);
        assert!((found[0].ratio.mean - 1.1).abs() < 0.002 && (found[0].share - 4.0 / 252.0).abs() < 1e-9);
        let back = differences(&second, &first, Pairing::None);
        assert_eq!(back[0].verdict(), Verdict::Slower);
        let page = page(["a", "b"], [&first, &second], Pairing::None, &found);
        assert!(page.contains("1 faster, 0 slower, 1 even"), "{page}");
    }

    #[test]
    fn pairs_see_through_noise_that_both_have_and_few_rounds_tell_nothing() {
        let rates = [10.0, 20.0, 5.0, 40.0, 12.0, 30.0];
        let faster = rates.map(|rate| rate * 1.05);
        let (first, second) = (log(&[("off", &rates)]), log(&[("off", &faster)]));
        assert_eq!(differences(&first, &second, Pairing::None)[0].verdict(), Verdict::Even);
        assert_eq!(differences(&first, &second, Pairing::Rounds)[0].verdict(), Verdict::Faster);
        let (first, second) = (log(&[("off", &rates[..3])]), log(&[("off", &faster[..3])]));
        assert_eq!(differences(&first, &second, Pairing::Rounds)[0].verdict(), Verdict::TooFewRounds);
    }
}
