//! Latency targets of a command: classes with names of their own, or one for all requests.

use dsde_bench::{LatencyClass, LatencyClasses};

use super::BenchArgs;
use crate::failure::{Outcome, usage};
use crate::speculation::first_repeated;

/// Longest latency target, ms: a day.
pub(super) const SLO_MS_MAX: f64 = 86_400_000.0;
/// Shortest latency target, ms.
pub(super) const SLO_MS_MIN: f64 = 0.001;
/// Longest name of a class, letters: it heads a column.
const NAME_LEN_MAX: usize = 24;
/// What all requests are together, where they have targets and no classes.
const ALL: &str = "all";

/// Classes that the requests take in turns; none where there are no targets.
pub(super) fn classes(args: &BenchArgs) -> LatencyClasses {
    let ttft_ms_max = args.slo_ttft_ms;
    let named = args.slo_classes.iter().cloned().map(|class| LatencyClass { ttft_ms_max, ..class });
    let all = LatencyClass { name: ALL.to_owned(), ttft_ms_max, tpot_ms_max: args.slo_tpot_ms };
    let has_targets = ttft_ms_max.is_some() || args.slo_tpot_ms.is_some();
    let all = Some(all).filter(|_| has_targets && args.slo_classes.is_empty());
    LatencyClasses::new(named.chain(all).collect())
}

/// # Errors
/// If two classes have the same name.
pub(super) fn check_names(args: &BenchArgs) -> Outcome {
    let names: Vec<&str> = args.slo_classes.iter().map(|class| class.name.as_str()).collect();
    match first_repeated(&names) {
        Some(name) => Err(usage(format!("--slo-classes: {name} is listed twice"))),
        None => Ok(()),
    }
}

/// Reads `NAME:MS`.
pub(super) fn latency_class(text: &str) -> Result<LatencyClass, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let class = text.split_once(':').and_then(|(name, ms)| {
        let is_name = (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(is_plain);
        let ms = ms.parse().ok().filter(|ms| (SLO_MS_MIN..=SLO_MS_MAX).contains(ms));
        let tpot_ms_max = Some(ms.filter(|_| is_name)?);
        Some(LatencyClass { name: name.to_owned(), ttft_ms_max: None, tpot_ms_max })
    });
    class.ok_or_else(|| {
        format!(
            "expected NAME:MS, a name of at most {NAME_LEN_MAX} letters, digits, - and _, and a number in \
             {SLO_MS_MIN}..={SLO_MS_MAX}, got '{text}'"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_name_and_a_target() {
        let class = |text| latency_class(text).map(|class| (class.name, class.tpot_ms_max));
        assert_eq!(class("tight:0.5"), Ok(("tight".to_owned(), Some(0.5))));
        let long = format!("{}:1", "x".repeat(25));
        for wrong in
            ["tight", "tight:", ":1", "tight:0", "tight:-1", "t:NaN", "t:1x", "a b:1", "a:b:1", &long]
        {
            let message = latency_class(wrong).unwrap_err();
            assert!(message.starts_with("expected NAME:MS"), "{message}");
            assert!(message.ends_with(&format!("got '{wrong}'")), "{message}");
        }
    }
}
