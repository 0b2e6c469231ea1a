//! What a log of runs says about policies: throughput over that of plain decoding, and what it costs not to have known the best
//! fixed length.
//!
//! Runs of one round were measured soon after each other, so policies are compared round by round and the ratios are averaged:
//! what slows the whole machine for a minute cancels out. Averages of ratios are geometric and, from five rounds on, trimmed. On
//! a machine with other work, many short rounds say more than a few long ones.
//!
//! *Best fixed length of a cell*: among `off` (length 0) and `fixed:k=N`, the one with the highest throughput. *Regret* of a
//! policy in a cell: the share of that throughput it misses. The length that the regret of a round is taken against is chosen by
//! all *other* rounds, so that being the luckiest of nine noisy measurements does not count as being better.

use std::collections::BTreeMap;

use crate::conditions::Conditions;
use crate::log::Log;
use crate::run::Run;

/// Where policies are compared: everything of the conditions but the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell<'a> {
    conditions: &'a Conditions,
    /// One entry per policy, in the order of appearance.
    policies: Vec<Measured<'a>>,
}

/// A policy in a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured<'a> {
    /// Its name with parameters.
    pub policy: &'a str,
    /// By round.
    runs: BTreeMap<u32, &'a Run>,
}

/// Average of ratios and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Geometric mean.
    pub mean: f64,
    /// Half of the 95 % confidence interval, as a share of the mean (Student's t on the logarithms); absent for one round.
    pub half_width: Option<f64>,
}

/// Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
const T_95: [f64; 12] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179];
/// One of so many rounds is left out at either end.
const TRIMMED_SHARE: usize = 5;
/// Where the table ends: close to the normal distribution.
const T_95_MORE: f64 = 2.1;

impl Ratio {
    /// Averages logarithms of ratios; `None` if there are none.
    ///
    /// From five rounds on a fifth of them is left out at either end, so that a round in which the machine was busy with
    /// something else does not decide: trimmed mean with Winsorised variance (Yuen, *The Two-Sample Trimmed t for Unequal
    /// Population Variances*, Biometrika 61, 1974, for one sample).
    pub(crate) fn of_logs(logs: &[f64]) -> Option<Self> {
        let n = logs.len();
        let mut sorted = logs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n_cut = n / TRIMMED_SHARE;
        let kept = sorted.get(n_cut..n - n_cut).filter(|kept| !kept.is_empty())?;
        let mean = average(kept);
        let half_width = (n > 1).then(|| {
            let ends = (kept[0], kept[kept.len() - 1]);
            let winsorised: Vec<f64> = sorted.iter().map(|log| log.clamp(ends.0, ends.1)).collect();
            let centre = average(&winsorised);
            let squares: f64 = winsorised.iter().map(|log| (log - centre).powi(2)).sum();
            t_95(kept.len()) * (squares / (n - 1) as f64 * n as f64).sqrt() / kept.len() as f64
        });
        Some(Self { mean: mean.exp(), half_width })
    }

    /// The second values over the first, from their logarithms; neither may be empty. Errors are taken as independent.
    pub(crate) fn between(first: &[f64], second: &[f64]) -> Self {
        let [first, second] = [first, second].map(|logs| Self::of_logs(logs).expect("there is a value"));
        let half_width = first.half_width.zip(second.half_width).map(|(a, b)| a.hypot(b));
        Self { mean: second.mean / first.mean, half_width }
    }
}

/// Student's t for the mean of `n` values, two at least.
fn t_95(n: usize) -> f64 {
    T_95.get(n - 2).copied().unwrap_or(T_95_MORE)
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Geometric mean over cells, and its half-width: as if their errors were independent. Where a cell had one round only, it comes
/// from the spread over the cells, three at least, which also holds what really differs between them.
pub fn mean_over_cells(ratios: &[Ratio]) -> Option<Ratio> {
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.mean.ln()).collect();
    let n = logs.len() as f64;
    let half_widths: Option<Vec<f64>> = ratios.iter().map(|ratio| ratio.half_width).collect();
    let half_width = match half_widths {
        Some(widths) => Some(widths.iter().map(|width| width * width).sum::<f64>().sqrt() / n),
        None => half_width_of_spread(&logs),
    };
    (!ratios.is_empty()).then(|| Ratio { mean: average(&logs).exp(), half_width })
}

/// Half of the 95 % confidence interval of the mean of `logs`, if there are three or more.
fn half_width_of_spread(logs: &[f64]) -> Option<f64> {
    let n = logs.len();
    (n > 2).then(|| {
        let squares: f64 = logs.iter().map(|log| (log - average(logs)).powi(2)).sum();
        t_95(n) * (squares / (n - 1) as f64 / n as f64).sqrt()
    })
}

/// The cells of a log, in the order of their first runs.
pub fn cells(log: &Log) -> Vec<Cell<'_>> {
    let mut cells: Vec<Cell<'_>> = Vec::new();
    for run in &log.runs {
        let place = cells.iter().position(|cell| cell.is_of(&run.conditions));
        let place = place.unwrap_or_else(|| {
            cells.push(Cell { conditions: &run.conditions, policies: Vec::new() });
            cells.len() - 1
        });
        cells[place].add(run);
    }
    cells
}

impl<'a> Cell<'a> {
    /// Any conditions of the cell; the policy is that of its first run.
    pub fn conditions(&self) -> &'a Conditions {
        self.conditions
    }

    /// What was measured here.
    pub fn policies(&self) -> &[Measured<'a>] {
        &self.policies
    }

    /// Whether these are its conditions, whatever the policy.
    pub(crate) fn is_of(&self, other: &Conditions) -> bool {
        let Conditions { policy: _, workload, concurrency, temperature, segment } = self.conditions;
        (workload, concurrency, temperature, segment)
            == (&other.workload, &other.concurrency, &other.temperature, &other.segment)
    }

    fn add(&mut self, run: &'a Run) {
        let policy = run.conditions.policy.as_str();
        let place = self.policies.iter().position(|measured| measured.policy == policy);
        let place = place.unwrap_or_else(|| {
            self.policies.push(Measured { policy, runs: BTreeMap::new() });
            self.policies.len() - 1
        });
        self.policies[place].runs.insert(run.round, run);
    }

    /// A policy, if it was measured here.
    pub fn find(&self, policy: &str) -> Option<&Measured<'a>> {
        self.policies.iter().find(|measured| measured.policy == policy)
    }

    /// Throughput of `measured` over that of `off`, in the rounds that have both.
    pub fn ratio_to_off(&self, measured: &Measured<'_>) -> Option<Ratio> {
        self.ratio(measured, self.find("off")?)
    }

    /// Throughput of `measured` over that of `other`, in the rounds that have both.
    pub fn ratio(&self, measured: &Measured<'_>, other: &Measured<'_>) -> Option<Ratio> {
        let log = |(round, rate)| Some(ln_ratio(rate, other.rate(round)?));
        Ratio::of_logs(&measured.rates().filter_map(log).collect::<Vec<f64>>())
    }

    /// The best length of all rounds together, among those measured in every round that has any.
    pub fn best_fixed(&self) -> Option<&Measured<'a>> {
        let fixed = self.fixed();
        let rounds = common_rounds(&fixed);
        best(&fixed, &rounds)
    }

    /// Throughput of `measured` over that of the best fixed length; 1 less the regret, see the module's head.
    ///
    /// `None` without a round that has the policy, `off` and some fixed length.
    pub fn ratio_to_best(&self, measured: &Measured<'_>) -> Option<Ratio> {
        let fixed = self.fixed();
        let has_lengths = fixed.len() > 1 && fixed.iter().any(|measured| measured.policy == "off");
        let rounds = common_rounds(&fixed);
        let log_of = |&round: &u32| {
            let others: Vec<u32> = rounds.iter().copied().filter(|&other| other != round).collect();
            let rival = best(&fixed, if others.is_empty() { &rounds } else { &others })?;
            Some(ln_ratio(measured.rate(round)?, rival.rate(round)?))
        };
        let logs: Vec<f64> = rounds.iter().filter(|_| has_lengths).filter_map(log_of).collect();
        Ratio::of_logs(&logs)
    }

    /// `off` and every plain fixed length.
    fn fixed(&self) -> Vec<&Measured<'a>> {
        self.policies.iter().filter(|measured| fixed_len(measured.policy).is_some()).collect()
    }

    /// Whether all greedy runs here emitted the same tokens; `None` if fewer than two can be compared.
    pub fn is_lossless(&self) -> Option<bool> {
        let runs = self.policies.iter().flat_map(|measured| measured.runs.values());
        // Runs of another number of requests answer other prompts.
        let digests: Vec<_> = runs.filter_map(|run| Some((run.requests, run.digest.as_deref()?))).collect();
        let is_same = |(i, (requests, digest)): (usize, &(u64, &str))| {
            digests[..i].iter().filter(|other| other.0 == *requests).all(|other| other.1 == *digest)
        };
        (digests.len() > 1).then(|| digests.iter().enumerate().all(is_same))
    }
}

impl<'a> Measured<'a> {
    fn rate(&self, round: u32) -> Option<f64> {
        self.runs.get(&round).map(|run| run.tokens_per_s)
    }

    fn rates(&self) -> impl Iterator<Item = (u32, f64)> {
        self.runs.iter().map(|(&round, run)| (round, run.tokens_per_s))
    }

    /// All runs, by round.
    pub fn runs(&self) -> impl Iterator<Item = &'a Run> + Clone {
        self.runs.values().copied()
    }
}

/// Length of `off` (0) or `fixed:k=N` without further parameters.
pub fn fixed_len(policy: &str) -> Option<u32> {
    match policy.strip_prefix("fixed:k=") {
        None => (policy == "off").then_some(0),
        Some(len) => len.parse().ok(),
    }
}

/// Rounds in which every one of `fixed` was measured.
fn common_rounds(fixed: &[&Measured<'_>]) -> Vec<u32> {
    let Some((first, others)) = fixed.split_first() else {
        return Vec::new();
    };
    let is_common = |round: &&u32| others.iter().all(|other| other.runs.contains_key(round));
    first.runs.keys().filter(is_common).copied().collect()
}

/// The fastest in `rounds`, all of which have every one of `fixed`: compared with the first of them round by round.
fn best<'m, 'a>(fixed: &[&'m Measured<'a>], rounds: &[u32]) -> Option<&'m Measured<'a>> {
    let first = fixed.first()?;
    let speed = |measured: &Measured<'_>| {
        let log = |&round: &u32| Some(ln_ratio(measured.rate(round)?, first.rate(round)?));
        let logs: Vec<f64> = rounds.iter().filter_map(log).collect();
        Ratio::of_logs(&logs).map_or(0.0, |ratio| ratio.mean)
    };
    let candidates = fixed.iter().copied().filter(|_| !rounds.is_empty());
    candidates.max_by(|a, b| speed(a).total_cmp(&speed(b)))
}

fn ln_ratio(rate: f64, base: f64) -> f64 {
    (rate / base).ln()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::log::Heading;
    use crate::record::{Machine, Settings};

    /// Throughputs per policy, one per round, all in one cell.
    pub(crate) fn log(rates: &[(&str, &[f64])]) -> Log {
        let machine = Machine {
            cpu: String::new(),
            cores: 1,
            isa: Vec::new(),
            memory_bytes: 0,
            os: String::new(),
            backend: String::new(),
        };
        let settings = Settings { max_tokens: 1, ignore_eos: true, repeats: 1, ..Settings::default() };
        let run = |policy: &str, round: usize, tokens_per_s: f64| Run {
            conditions: Conditions {
                policy: policy.to_owned(),
                workload: "chat".to_owned(),
                concurrency: 4,
                temperature: 0.0,
                segment: None,
            },
            round: round as u32,
            requests: 1,
            output_tokens: 1,
            tokens_per_s,
            ttft_ms: None,
            tpot_ms: None,
            drafted: 0,
            verified: 0,
            accepted: 0,
            steps: 1,
            digest: Some("same".to_owned()),
            gap_ms: None,
            goodput: None,
            attained: Vec::new(),
            failures: None,
        };
        let runs = rates.iter().flat_map(|(policy, rates)| {
            rates.iter().enumerate().map(|(round, &rate)| run(policy, round, rate))
        });
        let heading = Heading { machine, model: String::new(), draft: String::new(), settings };
        Log { heading, runs: runs.collect() }
    }

    fn regret(log: &Log, policy: &str) -> Option<f64> {
        let cells = cells(log);
        assert_eq!(cells.len(), 1);
        Some(1.0 - cells[0].ratio_to_best(cells[0].find(policy).unwrap())?.mean)
    }

    #[test]
    fn ratios_are_paired_by_round() {
        // The machine was half as fast in the second round; the ratio was 1.5 in both.
        let log = log(&[("off", &[100.0, 50.0]), ("fixed:k=2", &[150.0, 75.0]), ("auto", &[200.0, 50.0])]);
        let cells = cells(&log);
        let ratio = |policy| cells[0].ratio_to_off(cells[0].find(policy).unwrap()).unwrap();
        assert!((ratio("fixed:k=2").mean - 1.5).abs() < 1e-12);
        assert!(ratio("fixed:k=2").half_width.unwrap() < 1e-12);
        // Geometric mean of 2 and 1; logarithms stray by ln(2) / 2 around theirs, so the error of the mean is that, too.
        assert!((ratio("auto").mean - 2_f64.sqrt()).abs() < 1e-12);
        assert!((ratio("auto").half_width.unwrap() - 12.706 * 2_f64.ln() / 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_round_that_was_disturbed_does_not_decide() {
        let ratio = Ratio::of_logs(&[0.1, 5.0, 0.2, 0.3, -4.0]).unwrap();
        // Of -4, 0.1, 0.2, 0.3, 5 the three in the middle count.
        assert!((ratio.mean.ln() - 0.2).abs() < 1e-12);
        // Winsorised: 0.1, 0.1, 0.2, 0.3, 0.3; variance 0.04 / 4 = 0.01; error 0.1 / (0.6 * sqrt(5)); t for 2 degrees.
        assert!((ratio.half_width.unwrap() - 4.303 * 0.1 / (0.6 * 5_f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn errors_of_cells_shrink_in_their_mean() {
        let ratio = |mean, half_width| Ratio { mean, half_width };
        let mean = mean_over_cells(&[ratio(2.0, Some(0.03)), ratio(0.5, Some(0.04))]).unwrap();
        assert!((mean.mean - 1.0).abs() < 1e-12);
        // sqrt(0.03^2 + 0.04^2) / 2.
        assert!((mean.half_width.unwrap() - 0.025).abs() < 1e-12);
        let one_round = mean_over_cells(&[ratio(2.0, Some(0.1)), ratio(2.0, None)]).unwrap();
        assert_eq!(one_round.half_width, None);
        // Logarithms -1, 0 and 1: sd 1, t of 2 degrees of freedom 4.303.
        let spread = mean_over_cells(&[-1.0, 0.0, 1.0].map(|log: f64| ratio(log.exp(), None))).unwrap();
        assert!((spread.half_width.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-9);
        assert_eq!(mean_over_cells(&[]), None);
    }

    #[test]
    fn regret_is_what_the_best_fixed_length_would_have_given_more() {
        let log = log(&[
            ("off", &[100.0, 100.0]),
            ("fixed:k=1", &[120.0, 120.0]),
            ("fixed:k=2", &[110.0, 110.0]),
            ("auto", &[114.0, 114.0]),
            ("fixed:k=9,cap=mean", &[500.0, 500.0]),
        ]);
        assert_eq!(cells(&log)[0].best_fixed().unwrap().policy, "fixed:k=1");
        // 1 - 114 / 120.
        assert!((regret(&log, "auto").unwrap() - 0.05).abs() < 1e-12);
        assert!(regret(&log, "fixed:k=1").unwrap().abs() < 1e-12);
        assert!((regret(&log, "off").unwrap() - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_length_that_was_lucky_once_is_no_rival() {
        // k=1 won by luck in round 0 only; judged by round 1, k=2 and off are the rivals of round 0.
        let log = log(&[
            ("off", &[100.0, 100.0]),
            ("fixed:k=1", &[150.0, 90.0]),
            ("fixed:k=2", &[110.0, 110.0]),
            ("auto", &[110.0, 110.0]),
        ]);
        // Round 0 against k=2 (best of round 1): 0. Round 1 against k=1 (best of round 0): ln(110 / 90).
        let expected = 1.0 - (110_f64 / 90.0).sqrt();
        assert!((regret(&log, "auto").unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn without_lengths_or_common_rounds_there_is_no_regret() {
        assert_eq!(regret(&log(&[("off", &[1.0]), ("auto", &[1.0])]), "auto"), None);
        assert_eq!(
            regret(&log(&[("fixed:k=1", &[1.0]), ("fixed:k=2", &[1.0]), ("auto", &[1.0])]), "auto"),
            None
        );
        assert_eq!(regret(&log(&[("off", &[]), ("fixed:k=2", &[1.0]), ("auto", &[1.0])]), "auto"), None);
        // One round is compared with itself.
        assert_eq!(
            regret(&log(&[("off", &[1.0]), ("fixed:k=2", &[2.0]), ("auto", &[1.0])]), "auto"),
            Some(0.5)
        );
    }

    #[test]
    fn different_greedy_tokens_are_noticed() {
        let mut log = log(&[("off", &[1.0]), ("auto", &[1.0])]);
        assert_eq!(cells(&log)[0].is_lossless(), Some(true));
        log.runs[1].digest = Some("other".to_owned());
        assert_eq!(cells(&log)[0].is_lossless(), Some(false));
        log.runs[1].digest = None;
        assert_eq!(cells(&log)[0].is_lossless(), None);
    }

    #[test]
    fn lengths_are_read_from_plain_names_only() {
        let lens = ["off", "fixed:k=12", "fixed:k=2,cap=mean", "dsde"].map(fixed_len);
        assert_eq!(lens, [Some(0), Some(12), None, None]);
    }
}
