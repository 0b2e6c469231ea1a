//! Token trees through the whole engine: what is drafted, where it is stored, and that nothing of it can be seen in the output.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{
    BlockCopy, Config, DraftDraw, Drafted, Engine, Executor, ExecutorError, FinishReason, IdleExecutor,
    PromptScore, Request, RowBatch, Script, ScriptedExecutor, Shape, SlotMove, StepTrace, TargetDraw,
    Verification,
};
use dsde_sampling::{Params, Rule, TokenLogprobs};

/// What becomes of the moves that an engine asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moves {
    Made,
    LostInTarget,
    LostInDraft,
    /// The first time.
    Failing,
}

/// A scripted executor that counts moves, and may lose them or fail.
struct Watched {
    inner: ScriptedExecutor,
    moves: Moves,
    /// In the target's and in the draft's store.
    n_moves: Arc<[AtomicUsize; 2]>,
}

impl Watched {
    fn new(script: Script, n_blocks: u32, moves: Moves) -> Self {
        let inner = ScriptedExecutor::new(script, shape(n_blocks), Rule::Block);
        Self { inner, moves, n_moves: Arc::default() }
    }
}

impl Executor for Watched {
    fn shape(&self) -> Shape {
        self.inner.shape()
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), ExecutorError> {
        self.inner.copy_blocks(copies)
    }

    fn move_slots(&mut self, target: &[SlotMove], draft: &[SlotMove]) -> Result<(), ExecutorError> {
        for (n_moves, moves) in self.n_moves.iter().zip([target, draft]) {
            n_moves.fetch_add(moves.len(), Relaxed);
        }
        match self.moves {
            Moves::Made => self.inner.move_slots(target, draft),
            Moves::LostInTarget => self.inner.move_slots(&[], draft),
            Moves::LostInDraft => self.inner.move_slots(target, &[]),
            Moves::Failing => {
                self.moves = Moves::Made;
                Err(ExecutorError { pass: "move", source: "scripted failure".into() })
            }
        }
    }

    fn draft(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError> {
        self.inner.draft(rows, draws, drafted)
    }

    fn verify(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        self.inner.verify(rows, draws, verifications)
    }

    fn score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError> {
        self.inner.score(rows, scores, logprobs)
    }
}

/// One step of a sequence, as the trace tells it.
#[derive(Clone, Debug)]
struct Seen {
    planned: u32,
    width: u32,
    drafted: u32,
    verified: u32,
    accepted: u32,
    emitted: u32,
    context_len: u32,
    /// Of each drafted node.
    depths: Vec<u32>,
    path_log_probs: Vec<f32>,
    n_signals: usize,
    numbers: Vec<(&'static str, f64)>,
    seq: u64,
}

/// Notes every step of every sequence from now on.
fn watch(engine: &mut Engine) -> Arc<Mutex<Vec<Seen>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| {
        let emitted: u32 = trace.sequences.iter().map(|seq| seq.emitted).sum();
        assert_eq!(emitted, trace.report.emitted);
        assert!(trace.report.step_time > trace.report.verify_time);
        notes.lock().unwrap().extend(trace.sequences.iter().map(|seq| Seen {
            planned: seq.planned,
            width: seq.asked.width,
            drafted: seq.drafted,
            verified: seq.verified,
            accepted: seq.accepted,
            emitted: seq.emitted,
            context_len: seq.context_len,
            depths: seq.positions.iter().map(|position| position.index).collect(),
            path_log_probs: seq.positions.iter().map(|position| position.path_log_prob).collect(),
            n_signals: seq.signals.len(),
            numbers: seq.numbers.to_vec(),
            seq: seq.seq.0,
        }));
    })));
    seen
}

/// Runs eight prompts greedily; the outputs, how many slots moved, and what was seen.
fn outputs_of(executor: Watched, policy: &str) -> (Vec<Vec<u32>>, [usize; 2], Vec<Seen>) {
    let n_moves = executor.n_moves.clone();
    let mut engine = engine_of(model_config(), policy, executor);
    let seen = watch(&mut engine);
    for i in 0..8 {
        engine.submit(greedy(prompt(i, 3 + i), 60)).unwrap();
    }
    let outputs = run(&mut engine).into_values().map(|output| output.tokens).collect();
    let seen = seen.lock().unwrap().clone();
    (outputs, n_moves.each_ref().map(|n_moves| n_moves.load(Relaxed)), seen)
}

fn plain(script: Script) -> Vec<Vec<u32>> {
    (0..8).map(|i| script.greedy_continuation(&prompt(i, 3 + i), 60)).collect()
}

#[test]
fn accepted_branches_move_in_both_stores() {
    let script = Script::default();
    let (outputs, n_moves, _) = outputs_of(Watched::new(script, 400, Moves::Made), "beams:4x3");
    assert_eq!(outputs, plain(script));
    assert!(n_moves[0] > 50 && n_moves[1] > 20, "{n_moves:?}");
}

#[test]
fn moves_lost_in_the_target_are_noticed() {
    let script = Script::default();
    let (outputs, ..) = outputs_of(Watched::new(script, 400, Moves::LostInTarget), "beams:4x3");
    assert_ne!(outputs, plain(script));
}

#[test]
fn a_failed_move_ends_its_sequences_and_the_engine_goes_on() {
    let executor = Watched::new(Script::default(), 60, Moves::Failing);
    let mut engine = engine_of(Config { sequences_max: 2, ..model_config() }, "beams:4x3", executor);
    let ids: Vec<_> = (0..4).map(|i| engine.submit(greedy(prompt(i, 10), 20)).unwrap()).collect();
    let mut outputs = Outputs::new();
    let mut n_errors = 0;
    while !engine.is_idle() {
        n_errors += u32::from(engine.step().is_err());
        collect(engine.drain_events(), &mut outputs);
    }
    assert_eq!(n_errors, 1);
    for (i, id) in ids.into_iter().enumerate() {
        let (output, expected) =
            (&outputs[&(id, 0)], Script::default().greedy_continuation(&prompt(i as u32, 10), 20));
        let reason = if i < 2 { FinishReason::Failed } else { FinishReason::Length };
        assert_eq!(output.reason(), reason);
        assert_eq!(output.tokens, expected[..output.tokens.len()]);
    }
}

/// With a sharp draft that always agrees the most probable path is the target's: the whole depth is accepted in every step.
#[test]
fn a_perfect_draft_is_accepted_to_the_last_level() {
    let script = Script { agreement: 1.0, sharpness: 300.0, ..Script::default() };
    let n_missed = |moves| {
        let (outputs, _, seen) = outputs_of(Watched::new(script, 400, moves), "beams:4x3");
        assert_eq!(outputs, plain(script));
        let depth = |seen: &Seen| seen.depths.iter().map(|depth| depth + 1).max().unwrap_or(0);
        seen.iter().filter(|seen| seen.accepted < depth(seen)).count()
    };
    assert_eq!(n_missed(Moves::Made), 0);
    // The output survives a draft that reads the wrong slots; its guesses do not.
    assert!(n_missed(Moves::LostInDraft) > 0);
}

#[test]
fn nodes_stand_by_falling_path_probability_below_their_parents() {
    let (_, _, seen) = outputs_of(Watched::new(Script::default(), 400, Moves::Made), "beams:5x3");
    for seen in seen.iter().filter(|seen| seen.drafted > 0) {
        assert!(seen.path_log_probs.is_sorted_by(|a, b| a >= b), "{seen:?}");
        for depth in 0..5 {
            let n_nodes = seen.depths.iter().filter(|&&d| d == depth).count();
            assert!(n_nodes <= 3, "{seen:?}");
        }
    }
    assert!(seen.iter().any(|seen| seen.drafted == 15));
}

#[test]
fn a_reranked_tree_holds_the_best_of_all_that_was_offered() {
    let script = Script::default();
    let log_probs = |policy: &str| {
        let (outputs, _, seen) = outputs_of(Watched::new(script, 400, Moves::Made), policy);
        assert_eq!(outputs, plain(script));
        let first = seen.into_iter().find(|seen| seen.drafted == 15).unwrap();
        assert!(first.path_log_probs.is_sorted_by(|a, b| a >= b), "{first:?}");
        (first.path_log_probs.clone(), first.depths.iter().filter(|&&depth| depth == 1).count())
    };
    let ((beams, n_second), (reranked, n_second_reranked)) =
        (log_probs("beams:5x3"), log_probs("reranked:5x3"));
    // The same step of the same sequence: every place is taken by a node at least as probable.
    assert!(reranked.iter().zip(&beams).all(|(reranked, beam)| reranked >= beam), "{reranked:?}, {beams:?}");
    assert!(
        n_second == 3 && n_second_reranked > 3,
        "the second level is wider than its beam: {n_second_reranked}"
    );
}

#[test]
fn a_tree_gets_a_slot_per_node_and_no_more_than_its_bounds() {
    // 8 levels of 9 nodes would be 72.
    let (_, _, seen) = outputs_of(Watched::new(Script::default(), 400, Moves::Made), "beams:8x9");
    assert_eq!(seen.iter().map(|seen| seen.planned).max(), Some(64));
    assert!(seen.iter().all(|seen| seen.drafted <= seen.planned));
    // A vocabulary of 31 offers no more than 31 tokens after the root.
    let (outputs, _, seen) = outputs_of(Watched::new(Script::default(), 400, Moves::Made), "beams:1x60");
    assert_eq!(seen.iter().map(|seen| seen.drafted).max(), Some(31));
    assert!(seen.iter().all(|seen| seen.drafted == 0 || seen.accepted == 1), "every token was guessed");
    assert_eq!(outputs, plain(Script::default()));

    let config = Config { drafted_max: 7, ..model_config() };
    let mut engine = engine(config, "beams:3x2", 400);
    for i in 0..6 {
        engine.submit(greedy(prompt(i, 5), 40)).unwrap();
    }
    let mut most = 0;
    while !engine.is_idle() {
        most = most.max(engine.step().unwrap().drafted);
    }
    assert_eq!(most, 7);
}

#[test]
fn a_level_is_one_round_and_its_nodes_are_its_rows() {
    let mut engine = engine(model_config(), "beams:3x2", 400);
    engine.submit(greedy(prompt(1, 5), 40)).unwrap();
    engine.step().unwrap();
    let first = engine.step().unwrap();
    // The draft reads the prompt and the first token; then two levels of two nodes are drafted after.
    assert_eq!((first.draft_rounds, first.draft_rows), (3, 6 + 2 + 2));
    assert_eq!((first.planned, first.drafted, first.target_rows), (6, 6, 7));
}

/// A tree is judged by the target's own draws alone, which are keyed by position.
#[test]
fn sampled_trees_emit_token_for_token_what_plain_decoding_emits() {
    let tokens = |policy: &str| {
        let mut engine = engine(model_config(), policy, 400);
        for i in 0..12 {
            let params = Params { temperature: 0.9, top_k: 5 * (i % 2), ..Params::greedy() };
            let params = Params { frequency_penalty: [0.0, 0.7][i as usize / 2 % 2], ..params };
            engine.submit(Request::new(prompt(i, 3 + i), params, 50)).unwrap();
        }
        run(&mut engine).into_values().map(|output| output.tokens).collect::<Vec<_>>()
    };
    for policy in ["beams:1x4", "beams:3x3", "beams:6x2", "reranked:3x3", "reranked:6x2", "ddd", "fickle:5x4"]
    {
        assert_eq!(tokens(policy), tokens("off"), "{policy}");
    }
}

#[test]
fn a_trace_tells_every_sequence_of_every_step() {
    let mut engine = engine(Config { sequences_max: 3, ..model_config() }, "beams:2x3", 400);
    let seen = watch(&mut engine);
    for i in 0..4 {
        engine.submit(greedy(prompt(i, 6), 20)).unwrap();
    }
    let outputs = run(&mut engine);
    let seen = seen.lock().unwrap().clone();
    for (i, ((_, choice), output)) in outputs.iter().enumerate() {
        let own: Vec<&Seen> = seen.iter().filter(|seen| seen.seq == i as u64).collect();
        let timeline = output.finished.as_ref().unwrap().timeline;
        let sum = |part: fn(&Seen) -> u32| own.iter().map(|seen| part(seen)).sum::<u32>();
        assert_eq!((*choice, own.len() as u32), (0, timeline.steps));
        assert_eq!(sum(|seen| seen.emitted), 20);
        assert_eq!(sum(|seen| seen.drafted), timeline.drafted);
        assert_eq!(sum(|seen| seen.verified), timeline.verified);
        assert_eq!(sum(|seen| seen.accepted), timeline.accepted);
        // The first step reads the prompt; later ones continue where the one before ended.
        assert_eq!((own[0].context_len, own[0].width), (0, 1));
        let mut context_len = 6;
        for (before, seen) in own.iter().zip(&own[1..]) {
            context_len += before.emitted - u32::from(before.context_len == 0);
            assert_eq!((seen.context_len, seen.width), (context_len, 3));
            assert_eq!(seen.n_signals, seen.verified as usize);
            assert_eq!(seen.numbers, [("seq", i as f64)]);
        }
    }
    let n_seen = seen.len();
    engine.set_trace(None);
    engine.submit(greedy(prompt(1, 6), 5)).unwrap();
    run(&mut engine);
    assert_eq!(n_seen, seen.len());
}

#[test]
fn an_idle_executor_follows_the_path_of_zeros() {
    let mut engine = engine_of(model_config(), "beams:3x2", IdleExecutor(shape(100)));
    engine.set_policy(Box::new(Wide));
    let id = engine.submit(greedy(prompt(1, 5), 21)).unwrap();
    let output = &run(&mut engine)[&(id, 0)];
    assert_eq!(output.tokens, [0; 21]);
    // One token with the prompt, then five times three accepted and one more.
    assert_eq!(output.finished.as_ref().unwrap().timeline.steps, 6);
}

/// Like `beams:3x2`, without asking for divergences.
struct Wide;

impl dsde_policy::Policy for Wide {
    fn name(&self) -> String {
        "wide".to_owned()
    }

    fn signals(&self) -> dsde_policy::Signals {
        dsde_policy::Signals::default()
    }

    fn plan(&mut self, _view: &dsde_policy::PlanView<'_>, plan: &mut [dsde_policy::Planned]) {
        plan.fill(dsde_policy::Planned { len: 3, width: 2, is_settled: true, reason: "wide" });
    }

    fn observe(&mut self, _feedback: &dsde_policy::StepFeedback<'_>) {}

    fn forget(&mut self, _seq: dsde_policy::SeqId) {}
}
