//! Two logs against each other: a version, an option or a machine over another one.
//!
//! Whether a difference is more than noise is asked of the rounds themselves, by a permutation test (Fisher, *The Design of
//! Experiments*, 1935): among all ways to deal the rounds out to two logs, the share that differ at least as much. It assumes
//! nothing of how noise is distributed, and with too few rounds it cannot say yes: three against three reach 0.1 at best.
//! Several conditions are asked at once, so their shares are adjusted (Holm, *A Simple Sequentially Rejective Multiple Test
//! Procedure*, 1979).

use std::fmt::Write as _;

use crate::conditions::Conditions;
use crate::log::{Heading, Log};
use crate::matrix::{Measured, Ratio, cells, mean_over_cells};
use crate::report::{Table, absent, percent};
use crate::run::Run;

/// Share below which a difference counts as one.
const SIGNIFICANCE: f64 = 0.05;
/// Ways that are all looked at; of more than these, as many are drawn.
const WAYS_MAX: u64 = 100_000;
/// Differences closer than this are equal: sums in another order round otherwise.
const ROUNDING: f64 = 1e-12;

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

/// Among the ways to choose which of all values stand in the first sample, the share whose means differ at least as much.
fn share_apart(first: &[f64], second: &[f64]) -> f64 {
    let all: Vec<f64> = first.iter().chain(second).copied().collect();
    let (n, total) = (first.len(), all.iter().sum::<f64>());
    let difference = |sum: f64| (sum / n as f64 - (total - sum) / (all.len() - n) as f64).abs();
    let observed = difference(first.iter().sum()) - ROUNDING;
    if binomial(all.len(), n) <= WAYS_MAX as f64 {
        let [mut extreme, mut ways] = [0_u64; 2];
        each_choice(&all, n, 0.0, &mut |sum| {
            ways += 1;
            extreme += u64::from(difference(sum) >= observed);
        });
        return extreme as f64 / ways as f64;
    }
    let mut dice = Dice(all.len() as u64);
    drawn_share(|| {
        let mut values = all.clone();
        for i in 0..n {
            let other = i + dice.below((values.len() - i) as u64) as usize;
            values.swap(i, other);
        }
        difference(values[..n].iter().sum()) >= observed
    })
}

/// Among the ways to turn pairs around, the share whose mean is at least as far from 0.
fn share_paired(differences: &[f64]) -> f64 {
    let n = differences.len();
    let observed = differences.iter().sum::<f64>().abs() - ROUNDING;
    let turned = |ways: &mut dyn FnMut(usize) -> bool| {
        let sum: f64 = differences.iter().enumerate().map(|(i, d)| if ways(i) { -d } else { *d }).sum();
        sum.abs() >= observed
    };
    if n < 64 && 1 << n <= WAYS_MAX {
        let extreme = (0..1_u64 << n).filter(|ways| turned(&mut |i| ways >> i & 1 == 1)).count();
        return extreme as f64 / (1_u64 << n) as f64;
    }
    let mut dice = Dice(n as u64);
    drawn_share(|| turned(&mut |_| dice.below(2) == 1))
}

/// Share of as many draws as there may be, the observed way counted as one of them.
fn drawn_share(mut is_extreme: impl FnMut() -> bool) -> f64 {
    let extreme = (0..WAYS_MAX).filter(|_| is_extreme()).count();
    (1 + extreme) as f64 / (1 + WAYS_MAX) as f64
}

/// Tells the sum of every choice of `n` of the values, on top of `sum`.
fn each_choice(values: &[f64], n: usize, sum: f64, tell: &mut dyn FnMut(f64)) {
    match values.split_first() {
        _ if n == 0 => tell(sum),
        Some((first, rest)) => {
            each_choice(rest, n - 1, sum + first, tell);
            if rest.len() >= n {
                each_choice(rest, n, sum, tell);
            }
        }
        None => {}
    }
}

fn binomial(n: usize, k: usize) -> f64 {
    (0..k.min(n - k)).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// Numbers that look random and repeat (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Holm's adjustment: a share counts as many times as there are shares not smaller, and no less than a smaller one.
fn holm(shares: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| shares[a].total_cmp(&shares[b]));
    let mut adjusted = vec![0.0; shares.len()];
    let mut least = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        least = least.max(shares[i] * (shares.len() - rank) as f64).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

/// The comparison in Markdown.
///
/// * `names`: of the two logs.
pub fn page(names: [&str; 2], logs: [&Log; 2], pairing: Pairing, differences: &[Difference<'_>]) -> String {
    let mut out = format!("# {} over {}\n\n", names[1], names[0]);
    for what in unlike(&logs[0].heading, &logs[1].heading) {
        let _ = writeln!(out, "**Not the same:** {what}.\n");
    }
    out += match pairing {
        Pairing::None => {
            "Rounds are compared as two heaps: what changed on the machine between the two logs counts as a difference. \
             `--paired` is for logs that were measured in turns.\n\n"
        }
        Pairing::Rounds => "Rounds of the same number are compared with each other.\n\n",
    };
    out += "over: tokens/s of the second log over those of the first, geometric mean, ± half of its 95 % confidence interval; p: share \
            of the ways to deal out the rounds that differ as much, adjusted for all lines; TTFT, TPOT: medians likewise, less is \
            better; output: of greedy runs.\n\n";
    out += &table(differences).markdown();
    out += &summary(differences);
    out
}

fn table(differences: &[Difference<'_>]) -> Table {
    let mut table = Table::new(&[
        "policy", "workload", "C", "T", "first", "second", "over", "p", "verdict", "TTFT", "TPOT", "output",
    ]);
    for difference in differences {
        let Conditions { policy, workload, concurrency, temperature, segment } = difference.conditions;
        let load = segment.as_ref().map_or_else(
            || concurrency.to_string(),
            |segment| format!("{} part {}", segment.profile, segment.segment),
        );
        let latency = |ratio: Option<Ratio>| ratio.map_or_else(absent, in_words);
        table.push(vec![
            policy.clone(),
            workload.clone(),
            load,
            temperature.to_string(),
            format!("{:.1}", difference.rates[0]),
            format!("{:.1}", difference.rates[1]),
            in_words(difference.ratio),
            format!("{:.3}", difference.share),
            match difference.verdict() {
                Verdict::Faster => "faster",
                Verdict::Slower => "SLOWER",
                Verdict::Even => "even",
                Verdict::TooFewRounds => "too few rounds",
            }
            .to_owned(),
            latency(difference.latencies[0]),
            latency(difference.latencies[1]),
            match difference.is_same_output {
                Some(true) => "same",
                Some(false) => "DIFFERS",
                None => "-",
            }
            .to_owned(),
        ]);
    }
    table
}

fn summary(differences: &[Difference<'_>]) -> String {
    let count = |verdict| differences.iter().filter(|difference| difference.verdict() == verdict).count();
    let ratios: Vec<Ratio> = differences.iter().map(|difference| difference.ratio).collect();
    let mean = mean_over_cells(&ratios).map_or_else(absent, in_words);
    format!(
        "\nOver all {} conditions: {mean}; {} faster, {} slower, {} even, {} with too few rounds.\n",
        differences.len(),
        count(Verdict::Faster),
        count(Verdict::Slower),
        count(Verdict::Even),
        count(Verdict::TooFewRounds),
    )
}

fn in_words(Ratio { mean, half_width }: Ratio) -> String {
    match half_width {
        Some(_) => format!("{mean:.3} ± {}", percent(half_width)),
        None => format!("{mean:.3}"),
    }
}

/// What differs between two headings, other than what a comparison may be about.
fn unlike(first: &Heading, second: &Heading) -> Vec<String> {
    let pairs = [
        ("machine", first.machine.cpu.clone(), second.machine.cpu.clone()),
        ("cores", first.machine.cores.to_string(), second.machine.cores.to_string()),
        ("kernels", first.machine.backend.clone(), second.machine.backend.clone()),
        ("model", first.model.clone(), second.model.clone()),
        ("draft", first.draft.clone(), second.draft.clone()),
        ("tokens per answer", first.settings.max_tokens.to_string(), second.settings.max_tokens.to_string()),
    ];
    let differing = pairs.into_iter().filter(|(_, first, second)| first != second);
    differing.map(|(what, first, second)| format!("{what} {first} and {second}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::log;

    #[test]
    fn all_ways_to_deal_out_rounds_are_counted() {
        // Of the 20 ways to choose 3 of 6, this one and its mirror are the most extreme.
        assert_eq!(share_apart(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]), 0.1);
        // 1 + 4 = 2 + 3: every way but (1, 2) and (3, 4) differs as little.
        assert_eq!(share_apart(&[1.0, 4.0], &[2.0, 3.0]), 1.0);
        assert!((share_apart(&[1.0, 2.0], &[3.0, 4.0]) - 2.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn all_ways_to_turn_pairs_around_are_counted() {
        assert_eq!(share_paired(&[1.0; 5]), 2.0 / 32.0);
        assert_eq!(share_paired(&[1.0, -1.0]), 1.0);
        // Sums of +-1 +-2 +-4: only +-7 reach 7, and +-7 and +-5 reach 5.
        assert_eq!(share_paired(&[1.0, 2.0, 4.0]), 0.25);
        assert_eq!(share_paired(&[-1.0, 2.0, 4.0]), 0.5);
    }

    #[test]
    fn where_there_are_too_many_ways_the_share_is_drawn() {
        let [low, high]: [Vec<f64>; 2] =
            [0.0, 0.25].map(|base| (0..20).map(|i| base + f64::from(i) / 20.0).collect());
        let share = share_apart(&low, &high);
        assert!((0.007..0.017).contains(&share), "{share}");
        let noise: Vec<f64> = (0..40).map(|i| if i % 2 == 0 { 1.0 } else { -0.9 }).collect();
        let share = share_paired(&noise);
        assert!((0.6..0.9).contains(&share), "{share}");
    }

    #[test]
    fn of_many_conditions_each_needs_more() {
        assert_eq!(holm(&[0.04]), [0.04]);
        let rounded: Vec<f64> =
            holm(&[0.04, 0.01, 0.03]).iter().map(|share| (share * 1e9).round() / 1e9).collect();
        assert_eq!(rounded, [0.06, 0.03, 0.06]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

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
