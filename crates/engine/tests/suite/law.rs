//! Sampled output follows the target's law through the whole engine, for every policy, rule and drafter.
//!
//! 20,000 requests that differ only in their draws emit four tokens each; the joint counts of the four are compared with
//! the law computed from the script by Pearson's chi-square. Draws are fixed, so the test is deterministic; over random
//! ones it would fail a correct engine with probability 1e-6 per case (threshold by Wilson and Hilferty).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::*;
use dsde_engine::{Config, Constraint, ConstraintError, Grammar, Request, Script, ScriptedExecutor};
use dsde_policy::{Policy, registry};
use dsde_sampling::distribution::{Scratch, softmax};
use dsde_sampling::{Params, Rule};

const N_REQUESTS: u64 = 20_000;
/// The first comes with the prompt and the last without a draft of its own: proposals of two tokens fit in between.
const TOKENS: usize = 4;
/// Upper quantile of the standard normal distribution at 1e-6.
const Z: f64 = 4.753;

const SCRIPT: Script = Script { vocab_len: 4, agreement: 0.5, sharpness: 3.0, seed: 3, window: None };

fn params() -> Params {
    Params { temperature: 0.8, ..Params::greedy() }
}

/// Probability of each continuation of `prompt` under plain sampling.
fn law(prompt: &[u32]) -> BTreeMap<Vec<u32>, f64> {
    law_of(prompt, |_, _| true)
}

/// The same where a token may only follow tokens that allow it.
///
/// * `may_follow`: emitted tokens, token.
fn law_of(prompt: &[u32], may_follow: impl Fn(&[u32], u32) -> bool) -> BTreeMap<Vec<u32>, f64> {
    let mut law = BTreeMap::from([(Vec::new(), 1.0)]);
    for _ in 0..TOKENS {
        let mut longer = BTreeMap::new();
        for (tokens, probability) in law {
            let mut row = SCRIPT.target_logits(prompt.iter().chain(&tokens).copied());
            let forbidden = (0..).zip(&mut row).filter(|(token, _)| !may_follow(&tokens, *token));
            forbidden.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            softmax(&mut row, &params(), &mut Scratch::default());
            for (token, &p) in row.iter().enumerate() {
                let next = [&tokens[..], &[token as u32]].concat();
                longer.insert(next, probability * f64::from(p));
            }
        }
        law = longer;
    }
    law
}

/// Chi-square over its bound; above 1 the counts do not follow the law.
fn excess(counts: &BTreeMap<Vec<u32>, f64>, law: &BTreeMap<Vec<u32>, f64>) -> f64 {
    let n: f64 = counts.values().sum();
    let mut statistic = 0.0;
    let mut n_cells = 0.0;
    // Cells with fewer than 5 expected draws are pooled.
    let (mut rare_expected, mut rare_count) = (0.0, 0.0);
    for (tokens, probability) in law {
        let (expected, count) = (n * probability, counts.get(tokens).copied().unwrap_or(0.0));
        if expected < 5.0 {
            rare_expected += expected;
            rare_count += count;
        } else {
            statistic += (count - expected).powi(2) / expected;
            n_cells += 1.0;
        }
    }
    if rare_expected > 0.0 {
        statistic += (rare_count - rare_expected).powi(2) / rare_expected;
        n_cells += 1.0;
    }
    let freedom: f64 = n_cells - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    statistic / (freedom * (1.0 - spread + Z * spread.sqrt()).powi(3))
}

/// What a run of all requests came to.
struct Sample {
    /// How often each continuation was emitted.
    counts: BTreeMap<Vec<u32>, f64>,
    planned: u32,
    drafted: u32,
    verified: u32,
    accepted: u32,
}

fn sample(prompt: &[u32], config: Config, policy: Box<dyn Policy>, rule: Rule) -> Sample {
    sample_chosen(prompt, config, policy, rule, |_| None)
}

/// * `choice`: policy of the request with a number, if not `policy`.
fn sample_chosen(
    prompt: &[u32],
    config: Config,
    policy: Box<dyn Policy>,
    rule: Rule,
    choice: impl Fn(u64) -> Option<registry::Config>,
) -> Sample {
    sample_requests(prompt, config, policy, rule, |request, i| request.policy = choice(i))
}

/// * `change`: changes the request with a number.
fn sample_requests(
    prompt: &[u32],
    config: Config,
    policy: Box<dyn Policy>,
    rule: Rule,
    change: impl Fn(&mut Request, u64),
) -> Sample {
    let executor = ScriptedExecutor::new(SCRIPT, shape(200), rule);
    let mut engine = engine_of(Config { waiting_max: 1 << 20, ..config }, "off", executor);
    engine.set_policy(policy);
    for i in 0..N_REQUESTS {
        let mut request = Request::new(prompt.to_vec(), params(), TOKENS as u32);
        change(&mut request, i);
        engine.submit(request).unwrap();
    }
    let mut sample = Sample { counts: BTreeMap::new(), planned: 0, drafted: 0, verified: 0, accepted: 0 };
    let mut outputs = Outputs::new();
    while !engine.is_idle() {
        let report = engine.step().unwrap();
        sample.planned += report.planned;
        sample.drafted += report.drafted;
        sample.verified += report.verified;
        sample.accepted += report.accepted;
        collect(engine.drain_events(), &mut outputs);
    }
    for output in outputs.into_values() {
        *sample.counts.entry(output.tokens).or_insert(0.0) += 1.0;
    }
    sample
}

fn policies() -> Vec<String> {
    let mut policies: Vec<String> = registry::ENTRIES.iter().map(|entry| entry.name.to_owned()).collect();
    policies.retain(|name| name != "fixed");
    policies.extend(
        [
            "fixed:k=1",
            "fixed:k=2",
            "dsde:cap=mean",
            "dsde:variant=released",
            "faser:depth=0.5",
            "faser:choice=gp",
        ]
        .map(str::to_owned),
    );
    policies.extend(["beams:1x3", "beams:2x2", "reranked:2x2", "mixed"].map(str::to_owned));
    policies
}

#[test]
fn every_policy_and_rule_keeps_the_law() {
    let prompt = [1, 2, 0, 1];
    let law = law(&prompt);
    let mut policies = policies();
    // Thresholds in the middle of what this draft offers: many proposals are stopped and many are not.
    let stopping = ["adaedl:lambda=0.6", "confidence:p_min=0.6"];
    policies.extend(stopping.map(str::to_owned));
    // Policies that plan for the whole batch speculate less or not at all in larger ones.
    let config = Config { sequences_max: 24, ..model_config() };
    for rule in [Rule::TokenWise, Rule::Block] {
        for policy in &policies {
            if (policy.starts_with("beams") || policy.starts_with("reranked")) && rule != Rule::default() {
                // Rules judge chains.
                continue;
            }
            let sample = sample(&prompt, config, crate::common::policy(policy), rule);
            assert_eq!(sample.accepted > 0, policy != "off", "{policy} is not vacuous");
            if stopping.contains(&policy.as_str()) {
                assert!(sample.drafted < sample.planned, "{policy} stops");
            }
            let excess = excess(&sample.counts, &law);
            assert!(excess < 1.0, "{policy}, {rule:?}: chi-square is {excess} of its bound");
        }
    }
}

/// Two requests that are equal, seed included, say the same; over all seeds it follows the law.
#[test]
fn equal_requests_with_equal_seeds_keep_the_law() {
    let prompt = [1, 2, 0, 1];
    let law = law(&prompt);
    let config = Config { sequences_max: 24, ..model_config() };
    for policy in policies() {
        let share_seed = |request: &mut Request, i: u64| request.params.seed = Some(i / 2);
        let mut sample =
            sample_requests(&prompt, config, crate::common::policy(&policy), Rule::Block, share_seed);
        assert_eq!(sample.accepted > 0, policy != "off", "{policy} is not vacuous");
        for count in sample.counts.values_mut() {
            assert_eq!(*count % 2.0, 0.0, "{policy}: pairs say the same");
            *count /= 2.0;
        }
        let excess = excess(&sample.counts, &law);
        assert!(excess < 1.0, "{policy}: chi-square is {excess} of its bound");
    }
}

/// Pairs of requests with different prompts, one seed or none, under policies that rank positions of one against those of the
/// other.
#[test]
fn pairs_that_are_ranked_against_each_other_keep_the_law() {
    let prompts = [[1, 2, 0, 1], [3, 0, 2, 2]];
    let ranking = ["tetris:base_k=1,extra=1", "dspark", "adaptive_verification", "adaserve:w_max=1", "auto"];
    for (policy, is_seeded) in ranking.into_iter().flat_map(|policy| [(policy, false), (policy, true)]) {
        let executor = ScriptedExecutor::new(SCRIPT, shape(100), Rule::Block);
        let mut engine = engine_of(model_config(), policy, executor);
        let mut counts = [BTreeMap::new(), BTreeMap::new()];
        for seed in 0..N_REQUESTS {
            for prompt in prompts {
                let params = Params { seed: is_seeded.then_some(seed), ..params() };
                engine.submit(Request::new(prompt.to_vec(), params, TOKENS as u32)).unwrap();
            }
            for ((id, _), output) in run(&mut engine) {
                *counts[(id.0 % 2) as usize].entry(output.tokens).or_insert(0.0) += 1.0;
            }
        }
        for (counts, prompt) in counts.iter().zip(&prompts) {
            let excess = excess(counts, &law(prompt));
            assert!(excess < 1.0, "{policy}, seeds {is_seeded}: chi-square is {excess} of its bound");
        }
    }
}

/// Four policies share every batch: one that trims, one that stops, one that learns from costs, one that calibrates.
#[test]
fn policies_side_by_side_keep_the_law() {
    let prompt = [1, 2, 0, 1];
    let law = law(&prompt);
    let chosen = [None, Some("tetris"), Some("adaedl:lambda=0.6"), Some("auto")];
    for rule in [Rule::TokenWise, Rule::Block] {
        let config = Config { sequences_max: 24, ..model_config() };
        let choice = |i: u64| chosen[i as usize % chosen.len()].map(|text| text.parse().unwrap());
        let sample = sample_chosen(&prompt, config, crate::common::policy("dsde"), rule, choice);
        assert!(sample.accepted > 0);
        let excess = excess(&sample.counts, &law);
        assert!(excess < 1.0, "{rule:?}: chi-square is {excess} of its bound");
    }
}

/// No token may follow itself, and none may be followed by the one below it.
#[derive(Debug)]
struct Restless;

/// What a [`Restless`] answer has emitted.
#[derive(Debug)]
struct Following(Vec<u32>);

fn may_follow(tokens: &[u32], token: u32) -> bool {
    tokens.last().is_none_or(|&last| token != last && token + 1 != last)
}

impl Grammar for Restless {
    fn begin(&self) -> Box<dyn Constraint> {
        Box::new(Following(Vec::new()))
    }
}

impl Constraint for Following {
    fn allow(&mut self, path: &[u32], mask: &mut [u32]) -> Result<bool, ConstraintError> {
        let mut tokens = self.0.clone();
        for &token in path {
            if !may_follow(&tokens, token) {
                return Ok(false);
            }
            tokens.push(token);
        }
        mask[0] = (0..SCRIPT.vocab_len).filter(|&t| may_follow(&tokens, t)).map(|t| 1 << t).sum();
        Ok(true)
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<bool, ConstraintError> {
        for &token in tokens {
            assert!(may_follow(&self.0, token), "{:?} then {token}", self.0);
            self.0.push(token);
        }
        Ok(false)
    }
}

#[test]
fn answers_of_a_form_follow_the_law_given_the_form() {
    let prompt = [1, 2, 0, 1, 2];
    let law = law_of(&prompt, may_follow);
    let [by_suffix, with_answers] = suffix_configs();
    let cases = [
        (model_config(), "fixed:k=2"),
        (model_config(), "adaedl:lambda=0.6"),
        (model_config(), "tetris"),
        (model_config(), "beams:2x2"),
        (model_config(), "off"),
        (by_suffix, "fixed:k=2"),
        (with_answers, "beams:2x2"),
    ];
    for rule in [Rule::TokenWise, Rule::Block] {
        for (config, policy) in cases {
            let config = Config { sequences_max: 24, ..config };
            let form: Arc<dyn Grammar> = Arc::new(Restless);
            let set_form = |request: &mut Request, _| request.grammar = Some(form.clone());
            let sample = sample_requests(&prompt, config, crate::common::policy(policy), rule, set_form);
            assert_eq!(sample.accepted > 0, policy != "off", "{policy} is not vacuous");
            let excess = excess(&sample.counts, &law);
            assert!(excess < 1.0, "{policy}, {rule:?}: chi-square is {excess} of its bound");
        }
    }
}

#[test]
fn stopping_and_trimming_keep_the_law() {
    let prompt = [1, 2, 0, 1];
    for rule in [Rule::TokenWise, Rule::Block] {
        for width in [1, 2] {
            let sample = sample(&prompt, model_config(), Box::new(Fickle { len: 4, width }), rule);
            let Sample { planned, drafted, verified, accepted, .. } = sample;
            assert!(
                planned > drafted && drafted > verified && verified > accepted && accepted > 0,
                "both rules act"
            );
            let excess = excess(&sample.counts, &law(&prompt));
            assert!(excess < 1.0, "{rule:?}, width {width}: chi-square is {excess} of its bound");
        }
    }
}

#[test]
fn repetitions_keep_the_law_and_change_no_token() {
    let prompt = [1, 2, 0, 1, 2];
    let law = law(&prompt);
    let plain = sample(&prompt, Config::default(), policy("off"), Rule::Block).counts;
    let [own, with_answers] = suffix_configs();
    for (config, text) in [(own, "fixed:k=2"), (own, "fickle:3x2"), (with_answers, "beams:2x3")] {
        let sample = sample(&prompt, config, policy(text), Rule::Block);
        assert!(sample.accepted > 0, "{text} is not vacuous");
        let excess = excess(&sample.counts, &law);
        assert!(excess < 1.0, "{text}: chi-square is {excess} of its bound");
        // What the target draws depends on the position alone, whatever was guessed.
        assert_eq!(sample.counts, plain, "{text}");
    }
}

#[test]
fn two_drafters_follow_the_law() {
    let prompt = [1, 2, 0, 1, 2];
    let law = law(&prompt);
    for rule in [Rule::TokenWise, Rule::Block] {
        for text in [
            "choosy:fixed:k=2",
            "choosy:fickle:3x1",
            "choosy:beams:2x2",
            "choosy:tetris",
            "bandit:drafters=2",
            "auto",
        ] {
            let sample = sample(&prompt, either_config(), policy(text), rule);
            assert!(sample.accepted > 0, "{text} is not vacuous");
            let excess = excess(&sample.counts, &law);
            assert!(excess < 1.0, "{text}, {rule:?}: chi-square is {excess} of its bound");
        }
    }
}

#[test]
fn the_test_notices_a_wrong_law() {
    let prompt = [1, 2, 0, 1];
    let counts = sample(&prompt, model_config(), policy("off"), Rule::Block).counts;
    let mut wrong = law(&prompt);
    // One percent of probability moved from the most to the least probable continuation.
    let by_probability = |(_, a): &(&Vec<u32>, &f64), (_, b): &(&Vec<u32>, &f64)| a.total_cmp(b);
    let most = wrong.iter().max_by(by_probability).unwrap().0.clone();
    let least = wrong.iter().min_by(by_probability).unwrap().0.clone();
    *wrong.get_mut(&most).unwrap() -= 0.01;
    *wrong.get_mut(&least).unwrap() += 0.01;
    assert!(excess(&counts, &wrong) > 1.0);
}
