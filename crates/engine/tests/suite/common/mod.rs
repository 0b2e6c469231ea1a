//! What the engine's tests share: a scripted engine, and a way to run it to the end.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dsde_engine::{
    Config, CountingClock, Drafter, Engine, Event, Executor, FinishReason, Finished, Origin, Request,
    RequestId, Script, ScriptedExecutor, Shape, Suffix, Vocabulary,
};
use dsde_policy::{DraftPosition, PlanView, Planned, Policy, Prune, SeqId, Signals, StepFeedback, registry};
use dsde_sampling::{Params, Rule, TokenLogprobs};

/// One millisecond per reading.
pub fn clock() -> CountingClock {
    CountingClock::new(Duration::from_millis(1))
}

/// Token `t` is the letter `a + t`.
pub struct Letters(Vec<u8>);

impl Letters {
    pub fn new() -> Self {
        Self((0..64).map(|t| b'a' + t).collect())
    }
}

impl Vocabulary for Letters {
    fn token_bytes(&self, token: u32) -> &[u8] {
        self.0.get(token as usize).map_or(&[], std::slice::from_ref)
    }
}

pub const BLOCK_LEN: u32 = 4;

pub fn shape(n_blocks: u32) -> Shape {
    Shape {
        vocab_len: 31,
        context_len_max: 256,
        block_len: BLOCK_LEN,
        n_blocks,
        draft_context_len: Some(256),
        draft_reads_target: false,
        window: None,
        n_states: 0,
    }
}

/// States of a target with recurrent layers: one per sequence and some to spare; `None` is a target without.
pub fn n_states(sequences_max: u32, n_spare: Option<u32>) -> u32 {
    n_spare.map_or(0, |n_spare| sequences_max + n_spare)
}

/// A policy of the registry, `beams:LENxWIDTH`, `fickle:LENxWIDTH`, `mixed`, `pruning`, or `ahead:LEN:` or `choosy:` and any of
/// these.
pub fn policy(text: &str) -> Box<dyn Policy> {
    if let Some(test_policy) = test_policy(text) {
        return test_policy;
    }
    text.parse::<registry::Config>().unwrap_or_else(|e| panic!("{text}: {e}")).build()
}

fn test_policy(text: &str) -> Option<Box<dyn Policy>> {
    match text {
        "mixed" => return Some(Box::new(Mixed { prune: None })),
        "pruning" => {
            let prune = Some(Prune { depth: 0.5, n_rivals: 3, margin: 0.0 });
            return Some(Box::new(Mixed { prune }));
        }
        _ => {}
    }
    let (name, size) = text.split_once(':')?;
    if name == "ahead" {
        let (len, inner) = size.split_once(':').unwrap();
        return Some(Box::new(Ahead { len: len.parse().unwrap(), inner: policy(inner) }));
    }
    if name == "choosy" {
        return Some(Box::new(Choosy { step: 0, inner: policy(size) }));
    }
    let size = || {
        let (len, width) = size.split_once('x').unwrap();
        (len.parse().unwrap(), width.parse().unwrap())
    };
    match name {
        "beams" | "reranked" => {
            let (len, width) = size();
            Some(Box::new(Beams { len, width, reranks: name == "reranked" }))
        }
        "fickle" => {
            let (len, width) = size();
            Some(Box::new(Fickle { len, width }))
        }
        _ => None,
    }
}

pub fn engine(config: Config, policy_text: &str, n_blocks: u32) -> Engine {
    let executor = ScriptedExecutor::new(Script::default(), shape(n_blocks), Rule::Block);
    engine_of(config, policy_text, executor)
}

pub fn engine_of(config: Config, policy_text: &str, executor: impl Executor + 'static) -> Engine {
    let words = Arc::new(Letters::new());
    Engine::new(config, policy(policy_text), words, Box::new(executor), clock()).unwrap()
}

/// An engine whose texts are made of these words.
pub fn engine_with_words(policy_text: &str, words: impl Vocabulary + 'static) -> Engine {
    let executor = ScriptedExecutor::new(Script::default(), shape(100), Rule::Block);
    Engine::new(model_config(), policy(policy_text), Arc::new(words), Box::new(executor), clock()).unwrap()
}

pub fn model_config() -> Config {
    Config { drafter: Drafter::Model, ..Config::default() }
}

/// Drafts what repeats; with past answers too.
pub fn suffix_configs() -> [Config; 2] {
    [0, 1 << 14].map(|answer_tokens| {
        let drafter = Drafter::Suffix(Suffix { answer_tokens, ..Suffix::default() });
        Config { drafter, ..Config::default() }
    })
}

/// Drafts what repeats or what the draft model guesses, as the policy says.
pub fn either_config() -> Config {
    Config { drafter: Drafter::Either(Suffix::default()), ..Config::default() }
}

/// A prompt of `len` tokens that differs from others in its first token.
pub fn prompt(salt: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (salt * 7 + i * i * 3 + i) % 31).collect()
}

pub fn greedy(prompt: Vec<u32>, tokens_max: u32) -> Request {
    Request::new(prompt, Params::greedy(), tokens_max)
}

/// Everything one choice produced.
#[derive(Debug, Default)]
pub struct Output {
    /// Of the prompt.
    pub scored: Vec<TokenLogprobs>,
    pub tokens: Vec<u32>,
    pub origins: Vec<Origin>,
    pub rejected: Vec<Vec<Vec<u32>>>,
    pub text: String,
    pub finished: Option<Finished>,
}

impl Output {
    pub fn reason(&self) -> FinishReason {
        self.finished.as_ref().expect("the choice has ended").reason
    }
}

pub type Outputs = BTreeMap<(RequestId, u32), Output>;

pub fn collect(events: Vec<Event>, outputs: &mut Outputs) {
    for event in events {
        match event {
            Event::Scored(scored) => {
                let output = outputs.entry((scored.request, 0)).or_default();
                assert!(output.tokens.is_empty(), "a prompt is read before it is continued");
                output.scored.extend(scored.logprobs);
            }
            Event::Emitted(emission) => {
                let output = outputs.entry((emission.request, emission.choice)).or_default();
                assert!(output.finished.is_none(), "nothing follows the end");
                assert!(!emission.tokens.is_empty() || !emission.text.is_empty());
                output.tokens.extend(emission.tokens.iter().map(|t| t.token));
                output.origins.extend(emission.tokens.iter().map(|t| t.origin));
                output.text += std::str::from_utf8(&emission.text).unwrap();
                output.rejected.extend(emission.tokens.into_iter().map(|t| t.rejected));
            }
            Event::Finished(finished) => {
                let output = outputs.entry((finished.request, finished.choice)).or_default();
                assert!(output.finished.is_none(), "one end per choice");
                output.finished = Some(finished);
            }
        }
    }
}

/// Steps until nothing is left; every debug step checks the invariants.
pub fn run(engine: &mut Engine) -> Outputs {
    let mut outputs = Outputs::new();
    for _ in 0..100_000 {
        if engine.is_idle() {
            break;
        }
        engine.step().unwrap();
        collect(engine.drain_events(), &mut outputs);
    }
    assert!(engine.is_idle(), "the engine makes progress");
    let (free, total) = engine.blocks_free_and_total();
    assert_eq!(free, total, "an idle engine owns no block");
    outputs
}

/// Plans the same tree for everyone.
pub struct Beams {
    pub len: u32,
    pub width: u32,
    pub reranks: bool,
}

impl Policy for Beams {
    fn name(&self) -> String {
        "beams".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: true, draft_shape: false }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: self.len, width: self.width, is_settled: true, reason: "beams" });
    }

    fn reranks(&self, _seq: SeqId) -> bool {
        self.reranks
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        for outcome in feedback.outcomes {
            let compared = if feedback.draft_rounds > 0 { outcome.verified } else { 0 };
            assert_eq!(outcome.signals.len(), compared as usize, "a divergence for every node of a model");
        }
    }

    fn explain(&self, seq: SeqId, numbers: &mut Vec<(&'static str, f64)>) {
        numbers.push(("seq", seq.0 as f64));
    }

    fn forget(&mut self, _seq: SeqId) {}
}

/// Plain decoding, chains and trees side by side, changing from step to step.
pub struct Mixed {
    pub prune: Option<Prune>,
}

impl Policy for Mixed {
    fn name(&self) -> String {
        "mixed".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        for (sequence, planned) in view.sequences.iter().zip(plan) {
            let turn = view.step + sequence.seq.0;
            let (len, width) = ((turn % 7) as u32, 1 + (turn / 7 % 4) as u32);
            *planned = Planned { len, width, is_settled: true, reason: "mixed" };
        }
    }

    fn prune(&self) -> Option<Prune> {
        self.prune
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

/// Plans the same for everyone, stops after a token whose distribution was flat, and verifies only up to the first position
/// of middling entropy: in a chain both rules read functions of the prefix alone, in a tree they may read what they like.
pub struct Fickle {
    pub len: u32,
    pub width: u32,
}

impl Policy for Fickle {
    fn name(&self) -> String {
        "fickle".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals { divergence: false, draft_shape: true }
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: self.len, width: self.width, is_settled: true, reason: "fickle" });
    }

    fn keep_drafting(&mut self, _seq: SeqId, position: &DraftPosition) -> bool {
        position.top_prob > 0.35
    }

    fn trim(&mut self, _view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        for (positions, len) in drafted.iter().zip(verify_lens) {
            let is_middling = |position: &DraftPosition| (0.9..1.1).contains(&position.entropy);
            *len = positions.iter().position(is_middling).unwrap_or(positions.len()) as u32;
        }
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

/// Does what `inner` does, and drafts so many tokens ahead.
pub struct Ahead {
    pub len: u32,
    pub inner: Box<dyn Policy>,
}

impl Policy for Ahead {
    fn name(&self) -> String {
        "ahead".to_owned()
    }

    fn signals(&self) -> Signals {
        self.inner.signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.inner.plan(view, plan);
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.inner.keep_drafting(seq, position)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.inner.trim(view, drafted, verify_lens);
    }

    fn prune(&self) -> Option<Prune> {
        self.inner.prune()
    }

    fn ahead_len(&self) -> u32 {
        self.len
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.inner.observe(feedback);
    }

    fn forget(&mut self, seq: SeqId) {
        self.inner.forget(seq);
    }
}

/// Does what `inner` does, and takes what was foreseen in two steps of three.
pub struct Choosy {
    pub step: u64,
    pub inner: Box<dyn Policy>,
}

impl Policy for Choosy {
    fn name(&self) -> String {
        "choosy".to_owned()
    }

    fn signals(&self) -> Signals {
        self.inner.signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.step = view.step;
        self.inner.plan(view, plan);
    }

    fn takes_foreseen(&self, seq: SeqId) -> bool {
        !(self.step + seq.0).is_multiple_of(3)
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.inner.keep_drafting(seq, position)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.inner.trim(view, drafted, verify_lens);
    }

    fn prune(&self) -> Option<Prune> {
        self.inner.prune()
    }

    fn reranks(&self, seq: SeqId) -> bool {
        self.inner.reranks(seq)
    }

    fn ahead_len(&self) -> u32 {
        self.inner.ahead_len()
    }

    /// Drafts that were foreseen have no divergences, so `inner` does not hear of them.
    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        let outcomes = feedback.outcomes.iter().filter(|outcome| !self.takes_foreseen(outcome.seq));
        let outcomes: Vec<_> = outcomes.copied().collect();
        self.inner.observe(&StepFeedback { outcomes: &outcomes, ..*feedback });
    }

    fn forget(&mut self, seq: SeqId) {
        self.inner.forget(seq);
    }
}
