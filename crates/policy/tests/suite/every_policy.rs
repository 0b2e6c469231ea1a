//! What must hold for every policy of the registry, whatever the engine reports.

use crate::common::Fate;
use dsde_policy::registry::{ENTRIES, LEN_MAX, Parameter, ValueSet};
use dsde_policy::{Config, Planned, Policy, SeqId};
use proptest::prelude::*;

/// Every policy with its defaults and with every other word of every parameter, with and without the cap where it applies.
fn configurations() -> Vec<String> {
    let mut texts = Vec::new();
    for entry in ENTRIES {
        let required: Vec<String> =
            entry.parameters().filter(|p| p.default.is_none()).map(|p| format!("{}=4", p.key)).collect();
        let words = entry.parameters.iter().flat_map(other_words);
        for choice in std::iter::once(Vec::new()).chain(words.map(|word| vec![word])) {
            let with = |extra: Option<&str>| {
                let parameters =
                    [required.clone(), choice.clone(), extra.into_iter().map(str::to_owned).collect()];
                match parameters.concat().join(",") {
                    parameters if parameters.is_empty() => entry.name.to_owned(),
                    parameters => format!("{}:{parameters}", entry.name),
                }
            };
            texts.push(with(None));
            if entry.is_per_sequence {
                texts.push(with(Some("cap=mean")));
            }
        }
    }
    texts
}

/// Choices of a parameter that takes one of several words, its default left out.
fn other_words(parameter: &Parameter) -> Vec<String> {
    let ValueSet::Word(words) = parameter.values else { return Vec::new() };
    let others = words.iter().filter(|&&word| parameter.default != Some(word));
    others.map(|word| format!("{}={word}", parameter.key)).collect()
}

fn build(text: &str) -> Box<dyn Policy> {
    text.parse::<Config>().expect("a valid configuration").build()
}

fn is_per_sequence(text: &str) -> bool {
    text.parse::<Config>().expect("a valid configuration").entry().is_per_sequence
}

/// Policies that plan for each sequence out of what all of them have taught.
const MIXED: [&str; 2] = ["auto", "faser"];

fn is_mixed(text: &str) -> bool {
    MIXED.contains(&text.parse::<Config>().expect("a valid configuration").entry().name)
}

#[test]
fn names_parse_to_the_same_policy() {
    for text in configurations() {
        assert_eq!(build(&text).name(), text);
    }
}

const DOCUMENTATION: &str = include_str!("../../../../docs/policies.md");

/// Documentation of a policy: from its heading to the next.
fn section(name: &str) -> &'static str {
    let (_, rest) = DOCUMENTATION.split_once(&format!("\n## `{name}`")).expect("a section per policy");
    rest.split("\n## ").next().expect("the first piece")
}

#[test]
fn parameters_are_documented_with_their_defaults() {
    for entry in ENTRIES {
        for parameter in entry.parameters.iter().filter(|parameter| parameter.key != "variant") {
            let start = format!("| `{}` |", parameter.key);
            let row = section(entry.name).lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("no row for {} of {}", parameter.key, entry.name));
            let default = row.split('|').nth(2).expect("a table with defaults").trim().trim_matches('`');
            assert_eq!(default, parameter.default.unwrap_or("none, must be given"), "{row}");
        }
    }
}

#[test]
fn what_is_as_published_is_said_of_every_policy() {
    let (_, parts) = DOCUMENTATION.split_once("\n## What is as published").expect("such a section");
    for entry in ENTRIES.iter().filter(|entry| !["auto", "off"].contains(&entry.name)) {
        assert!(parts.contains(&format!("\n| **`{}`**", entry.name)), "{}", entry.name);
    }
}

/// Divergences as a healthy and as a broken executor would report them.
fn kld() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => 0.0f32..2.0,
        1 => 0.0f32..18.0,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, -1.0, f32::MAX, 0.0]),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    (
        0u64..6,
        0u32..=LEN_MAX,
        0u32..=LEN_MAX,
        prop_oneof![Just(0.0f32), Just(1.0f32), 1e-3f32..2.0],
        prop::collection::vec(kld(), 0..12),
    )
        .prop_map(|(seq, limit, accepted_max, temperature, klds)| Fate {
            seq: SeqId(seq),
            limit,
            accepted_max,
            temperature,
            klds,
        })
}

/// Steps of batches in which no sequence appears twice.
fn batches() -> impl Strategy<Value = Vec<Vec<Fate>>> {
    let batch = prop::collection::vec(fate(), 0..6).prop_map(|mut fates| {
        fates.sort_by_key(|fate| fate.seq);
        fates.dedup_by_key(|fate| fate.seq);
        fates
    });
    prop::collection::vec(batch, 0..40)
}

fn run(policy: &mut dyn Policy, batches: &[Vec<Fate>]) -> Vec<Vec<Planned>> {
    (0..).zip(batches).map(|(step, fates)| crate::common::step(policy, step, fates)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn lengths_stay_within_what_can_be_configured(batches in batches()) {
        for text in configurations() {
            for planned in run(build(&text).as_mut(), &batches).concat() {
                prop_assert!(planned.width >= 1);
                prop_assert!(planned.len * planned.width <= LEN_MAX, "{} planned {:?}", text, planned);
                prop_assert!(!planned.reason.is_empty());
            }
        }
    }

    #[test]
    fn the_same_history_gives_the_same_plans(batches in batches()) {
        for text in configurations() {
            prop_assert_eq!(run(build(&text).as_mut(), &batches), run(build(&text).as_mut(), &batches), "{}", text);
        }
    }

    /// What batch-wide policies learn belongs to no sequence; they pass the test below instead.
    #[test]
    fn a_forgotten_sequence_starts_anew(batches in batches(), again in batches()) {
        for text in configurations().into_iter().filter(|text| is_per_sequence(text)) {
            let mut policy = build(&text);
            run(policy.as_mut(), &batches);
            (0..6).for_each(|seq| policy.forget(SeqId(seq)));
            prop_assert_eq!(run(policy.as_mut(), &again), run(build(&text).as_mut(), &again), "{}", text);
        }
    }

    #[test]
    fn a_batch_wide_policy_treats_all_sequences_alike(batches in batches(), shift in 1u64..100) {
        let mut renamed = batches.clone();
        renamed.iter_mut().flatten().for_each(|fate| fate.seq.0 += shift);
        for text in configurations().into_iter().filter(|text| !is_per_sequence(text)) {
            let plans = run(build(&text).as_mut(), &batches);
            for plan in plans.iter().filter(|_| !is_mixed(&text)) {
                prop_assert!(plan.windows(2).all(|pair| pair[0] == pair[1]), "{} planned {:?}", text, plan);
            }
            prop_assert_eq!(plans, run(build(&text).as_mut(), &renamed), "{}", text);
        }
    }

    #[test]
    fn dsde_plans_between_its_bounds(
        batches in batches(),
        sl_min in 1u32..=20,
        span in 0u32..=40,
        k_init in 1u32..=LEN_MAX,
        activation in 2u32..60,
        variant in prop::sample::select(vec!["paper", "released"]),
    ) {
        let sl_max = sl_min + span;
        let text = format!(
            "dsde:variant={variant},sl_min={sl_min},sl_max={sl_max},k_init={k_init},activation={activation},long=40",
        );
        // The first released length is `k_init` whatever the bounds.
        let is_first = |len: u32| variant == "released" && len == k_init;
        for planned in run(build(&text).as_mut(), &batches).concat() {
            let is_between = (sl_min..=sl_max).contains(&planned.len);
            prop_assert!(is_between || is_first(planned.len), "{} planned {:?}", text, planned);
        }
    }
}
