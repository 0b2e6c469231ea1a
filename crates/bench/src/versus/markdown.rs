//! Two logs against each other, in Markdown.

use std::fmt::Write as _;

use super::{Difference, Pairing, Verdict};
use crate::conditions::Conditions;
use crate::log::{Heading, Log};
use crate::matrix::{Ratio, mean_over_cells};
use crate::report::{Table, absent, percent};

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
