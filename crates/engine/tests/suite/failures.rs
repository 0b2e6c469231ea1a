//! A pass that fails, code that panics, a policy that panics: each ends what it belongs to and nothing else.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::common::*;
use dsde_engine::{Config, Engine, FinishReason, Script, ScriptedExecutor};
use dsde_policy::{DraftPosition, PlanView, Planned, Policy, Prune, SeqId, Signals, StepFeedback};
use dsde_sampling::Rule;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Error,
    Panic,
}

fn failing_at(failure: Failure, pass: u64) -> ScriptedExecutor {
    let executor = ScriptedExecutor::new(Script::default(), shape(60), Rule::Block);
    match failure {
        Failure::Error => executor.fail_at(pass),
        Failure::Panic => executor.panic_at(pass),
    }
}

/// A step as an owner takes it that goes on after a panic; whether it failed.
fn fails(engine: &mut Engine) -> bool {
    let step = catch_unwind(AssertUnwindSafe(|| engine.step().is_err()));
    step.unwrap_or_else(|_| {
        engine.recover();
        engine.check_invariants();
        true
    })
}

#[test]
fn a_pass_that_fails_ends_its_sequences_and_the_engine_goes_on() {
    for (failure, pass) in
        [Failure::Error, Failure::Panic].into_iter().flat_map(|f| (0..8).map(move |p| (f, p)))
    {
        let config = Config { sequences_max: 2, ..model_config() };
        let mut engine = engine_of(config, "fixed:k=2", failing_at(failure, pass));
        for i in 0..4 {
            engine.submit(greedy(prompt(i, 10), 20)).unwrap();
        }
        let mut outputs = Outputs::new();
        let mut n_failures = 0;
        while !engine.is_idle() {
            n_failures += u32::from(fails(&mut engine));
            collect(engine.drain_events(), &mut outputs);
        }
        let n_failed = outputs.values().filter(|o| o.reason() == FinishReason::Failed).count();
        assert_eq!((n_failures, n_failed, outputs.len()), (1, 2, 4), "{failure:?} at pass {pass}");
    }
}

/// What a policy can be asked or told.
const MOMENTS: [&str; 11] = [
    "signals",
    "plan",
    "keep_drafting",
    "takes_foreseen",
    "reranks",
    "trim",
    "prune",
    "ahead_len",
    "observe",
    "wants_draft",
    "forget",
];

/// Does what another one does, and panics at a moment that has come so many times before.
struct Panicking {
    inner: Box<dyn Policy>,
    moment: &'static str,
    n_before: Cell<u32>,
}

impl Panicking {
    fn at(&self, moment: &str) {
        if moment == self.moment {
            let n_before = self.n_before.get();
            assert!(n_before > 0, "scripted panic at {moment}");
            self.n_before.set(n_before - 1);
        }
    }
}

impl Policy for Panicking {
    fn name(&self) -> String {
        "panicking".to_owned()
    }

    fn signals(&self) -> Signals {
        self.at("signals");
        self.inner.signals()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.inner.plan(view, plan);
        self.at("plan");
    }

    fn keep_drafting(&mut self, seq: SeqId, position: &DraftPosition) -> bool {
        self.at("keep_drafting");
        self.inner.keep_drafting(seq, position)
    }

    fn takes_foreseen(&self, seq: SeqId) -> bool {
        self.at("takes_foreseen");
        self.inner.takes_foreseen(seq)
    }

    fn reranks(&self, seq: SeqId) -> bool {
        self.at("reranks");
        self.inner.reranks(seq)
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        self.inner.trim(view, drafted, verify_lens);
        self.at("trim");
    }

    fn prune(&self) -> Option<Prune> {
        self.at("prune");
        self.inner.prune()
    }

    fn ahead_len(&self) -> u32 {
        self.at("ahead_len");
        self.inner.ahead_len()
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.at("observe");
        self.inner.observe(feedback);
    }

    fn wants_draft(&self) -> bool {
        self.at("wants_draft");
        self.inner.wants_draft()
    }

    fn forget(&mut self, seq: SeqId) {
        self.at("forget");
        self.inner.forget(seq);
    }
}

fn engine_with(policy: impl Policy + 'static, executor: ScriptedExecutor) -> Engine {
    let words = Arc::new(Letters::new());
    Engine::new(model_config(), Box::new(policy), words, Box::new(executor), clock()).unwrap()
}

#[test]
fn a_policy_that_panics_is_told_of_once_and_its_sequences_decode_plainly() {
    for moment in MOMENTS {
        let policy = Panicking { inner: policy("reranked:3x2"), moment, n_before: Cell::new(2) };
        let executor = ScriptedExecutor::new(Script::default(), shape(60), Rule::Block);
        let mut engine = engine_with(policy, executor);
        let id = engine.submit(greedy(prompt(1, 10), 40)).unwrap();
        for salt in 2..5 {
            engine.submit(greedy(prompt(salt, 10), 5)).unwrap();
        }
        let output = run(&mut engine).remove(&(id, 0)).unwrap();
        assert_eq!(output.tokens, Script::default().greedy_continuation(&prompt(1, 10), 40), "{moment}");
        let failures = engine.take_policy_failures();
        let told: Vec<_> = failures.iter().map(|f| (f.policy.as_str(), f.message.as_str())).collect();
        let is_asked = !matches!(moment, "keep_drafting" | "prune" | "ahead_len" | "takes_foreseen");
        let message = format!("scripted panic at {moment}");
        if is_asked || !told.is_empty() {
            assert_eq!(told, [("panicking", message.as_str())]);
        }
        assert_eq!(engine.take_policy_failures(), []);
    }
}

/// Makes every proposal longer than it was drafted.
struct Lengthening;

impl Policy for Lengthening {
    fn name(&self) -> String {
        "lengthening".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned { len: 2, ..Planned::none() });
    }

    fn trim(&mut self, _view: &PlanView<'_>, _drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        verify_lens.iter_mut().for_each(|len| *len += 1);
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {}

    fn forget(&mut self, _seq: SeqId) {}
}

#[test]
fn a_policy_that_lengthens_what_it_may_cut_has_failed() {
    let mut engine =
        engine_with(Lengthening, ScriptedExecutor::new(Script::default(), shape(60), Rule::Block));
    let id = engine.submit(greedy(prompt(1, 10), 20)).unwrap();
    let outputs = run(&mut engine);
    assert_eq!(outputs[&(id, 0)].tokens, Script::default().greedy_continuation(&prompt(1, 10), 20));
    let failures = engine.take_policy_failures();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].message.contains("longer than it was drafted"), "{failures:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_fails_nobody_else_is_hurt(
        requests in prop::collection::vec((0..5u32, 1..40u32, 1..30u32, 1..4u32, 0..4u32), 1..10),
        failure in prop::sample::select(vec![Failure::Error, Failure::Panic]),
        pass in 0..40u64,
        moment in prop::sample::select(&MOMENTS[..]),
        n_before in 0..30u32,
        inner in prop::sample::select(vec!["fixed:k=3", "fickle:4x4", "mixed", "ahead:3:mixed", "dsde", "auto"]),
        prefix_cache in any::<bool>(),
    ) {
        let policy = Panicking { inner: policy(inner), moment, n_before: Cell::new(n_before) };
        let config = Config { sequences_max: 3, rows_max: 16, prefix_cache, ..model_config() };
        let words = Arc::new(Letters::new());
        let executor = failing_at(failure, pass);
        let mut engine = Engine::new(config, Box::new(policy), words, Box::new(executor), clock()).unwrap();
        let mut submitted = Vec::new();
        let mut outputs = Outputs::new();
        let mut n_failures = 0;
        for (salt, prompt_len, tokens_max, n_choices, n_steps) in requests {
            let request = dsde_engine::Request { n_choices, ..greedy(prompt(salt, prompt_len), tokens_max) };
            submitted.push((engine.submit(request.clone()).unwrap(), request));
            for _ in 0..n_steps {
                n_failures += u32::from(fails(&mut engine));
                collect(engine.drain_events(), &mut outputs);
            }
        }
        for _ in 0..10_000 {
            if engine.is_idle() {
                break;
            }
            n_failures += u32::from(fails(&mut engine));
            collect(engine.drain_events(), &mut outputs);
        }
        prop_assert!(engine.is_idle(), "the engine makes progress");
        prop_assert!(n_failures <= 1, "{n_failures} steps failed, but one pass");
        let (free, total) = engine.blocks_free_and_total();
        prop_assert_eq!(free, total);
        for (id, request) in &submitted {
            let expected = Script::default().greedy_continuation(&request.prompt, request.tokens_max as usize);
            for choice in 0..request.n_choices {
                let output = &outputs[&(*id, choice)];
                prop_assert_eq!(&output.tokens[..], &expected[..output.tokens.len()]);
                match output.reason() {
                    FinishReason::Failed => prop_assert_eq!(n_failures, 1),
                    reason => prop_assert_eq!((reason, output.tokens.len()), (FinishReason::Length, expected.len())),
                }
            }
        }
    }
}
