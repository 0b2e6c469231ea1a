//! An executor without tensors, for tests.
//!
//! Its stores hold the *tokens* that were written to them, and the distribution after a row is a hash of the tokens the row
//! attends to through its block table. A wrong table, a stale slot, a lost copy or a draft that drafts from old state therefore
//! changes the output, which [`Script::greedy_continuation`] tells without any engine. Where the draft reads the target's states it
//! also checks that they are there ([`Shape::draft_reads_target`]), and where the target has states of its own, that each has read exactly
//! the tokens before a row ([`Shape::n_states`]).

mod recurrent;
mod script;
mod states;
mod store;

use std::collections::HashMap;

use dsde_policy::{DraftPosition, PositionSignals, SeqId};
use dsde_sampling::distribution::{Adjustment, Scratch, adjust, argmax, softmax};
use dsde_sampling::divergence;
use dsde_sampling::{
    Divergence, Draws, Evidence, Params, Purpose, Rows, Rule, TokenLogprobs, Weights, branches, mask, verify,
};

use crate::executor::{Executor, Shape};
use crate::passes::{DraftDraw, Drafted, ExecutorError, PromptScore, TargetDraw, Verification};
use crate::rows::{BlockCopy, RowBatch, SlotMove};
use recurrent::Recurrent;
pub use script::Script;
use script::mix;
use states::States;
use store::Store;

/// Runs a [`Script`].
#[derive(Debug)]
pub struct ScriptedExecutor {
    shape: Shape,
    script: Script,
    rule: Rule,
    target: Store<u32>,
    draft: Store<u32>,
    /// Of a draft that reads the target's.
    states: Option<States>,
    /// Of a target with states of its own.
    recurrent: Option<Recurrent>,
    /// Draft probabilities and logits of the current step, per sequence: a row for each that was drafted after.
    drafted: HashMap<SeqId, DraftedRows>,
    scratch: Scratch,
    n_passes: u64,
    failing_pass: Option<u64>,
    panicking_pass: Option<u64>,
    lending: Option<ScriptedLending>,
    is_lent: bool,
}

/// What lending the draft's memory brings and how taking it back goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptedLending {
    /// Blocks that the draft's memory holds.
    pub n_blocks: u32,
    /// Times that loading the draft fails before it succeeds.
    pub n_failures: u32,
}

#[derive(Debug, Default)]
struct DraftedRows {
    probabilities: Vec<f32>,
    logits: Vec<f32>,
}

impl ScriptedExecutor {
    /// An executor whose stores are empty.
    pub fn new(script: Script, shape: Shape, rule: Rule) -> Self {
        let shape = Shape { vocab_len: script.vocab_len, window: script.window, ..shape };
        Self {
            shape,
            script,
            rule,
            target: Store::new(&shape),
            draft: Store::new(&shape),
            states: shape.draft_reads_target.then(|| States::new(&shape)),
            recurrent: (shape.n_states > 0).then(|| Recurrent::new(&shape)),
            drafted: HashMap::new(),
            scratch: Scratch::default(),
            n_passes: 0,
            failing_pass: None,
            panicking_pass: None,
            lending: None,
            is_lent: false,
        }
    }

    /// Makes the draft's memory worth `lending` to the target's store; without it the draft stays.
    pub fn lending(mut self, lending: ScriptedLending) -> Self {
        self.lending = Some(lending);
        self
    }

    /// Makes pass number `pass` (drafts and verifications counted together, from 0) fail.
    pub fn fail_at(mut self, pass: u64) -> Self {
        self.failing_pass = Some(pass);
        self
    }

    /// As [`ScriptedExecutor::fail_at`], with a panic.
    pub fn panic_at(mut self, pass: u64) -> Self {
        self.panicking_pass = Some(pass);
        self
    }

    fn begin_pass(&mut self, pass: &'static str) -> Result<(), ExecutorError> {
        let is_failing = self.failing_pass == Some(self.n_passes);
        let is_panicking = self.panicking_pass == Some(self.n_passes);
        self.n_passes += 1;
        assert!(!is_panicking, "scripted panic");
        match is_failing {
            true => Err(ExecutorError { pass, source: "scripted failure".into() }),
            false => Ok(()),
        }
    }

    fn resize_target(&mut self, n_blocks: u32) {
        self.target.resize(n_blocks);
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.resize(n_blocks);
        }
    }

    fn read_target(&mut self, rows: &RowBatch) -> Result<(), ExecutorError> {
        self.begin_pass("target")?;
        self.target.write(rows, |_, r| rows.tokens[r]);
        if let Some(states) = &mut self.states {
            states.verify(rows);
        }
        match &mut self.recurrent {
            Some(recurrent) => recurrent.read(rows, &self.target),
            None => assert!(rows.states.is_empty(), "the target has no states"),
        }
        Ok(())
    }

    /// Drafts after row `i` of those that `draw` asks about.
    fn draw_draft(&mut self, rows: &RowBatch, draw: &DraftDraw<'_>, i: u32, drafted: &mut Vec<Drafted>) {
        let r = rows.rows_of(draw.seq_idx).end - (draw.n_rows() - i) as usize;
        let mut row = self.script.draft_logits(self.draft.visible(rows, draw.seq_idx, r));
        let path = draw.node(i).map_or_else(Vec::new, |node| draw.proposal.path(node));
        let adjustment = Adjustment {
            params: draw.params,
            history: draw.history,
            prompt_len: draw.prompt_len,
            drafted: &path,
            banned: draw.banned,
        };
        adjust(&mut row, &adjustment, &mut self.scratch);
        let row_idx = draw.node(i).map_or(0, |node| 1 + node as usize);
        draw.proposal.mask(row_idx).into_iter().for_each(|allowed| mask(&mut row, allowed));
        assert!(!draw.is_ahead || draw.params.is_greedy(), "greedy chains are drafted ahead");
        let kept = match draw.is_ahead {
            true => &mut DraftedRows::default(),
            false => self.drafted.entry(draw.seq).or_default(),
        };
        kept.logits.extend_from_slice(&row);
        let shape = draw
            .signals
            .draft_shape
            .then(|| divergence::Shape::of_logits(&row, signal_temperature(draw.params)));
        let divergence::Shape { entropy, top_prob } = shape.unwrap_or(CERTAIN);
        let index = draw.proposal.len();
        if let Some(beam) = draw.beam {
            let tokens = branches(&mut row, draw.params, beam.width, &mut self.scratch).into_iter();
            drafted.extend(tokens.map(|(token, path_log_prob)| Drafted {
                token,
                position: DraftPosition { index, entropy, top_prob, path_log_prob },
            }));
            return;
        }
        let token = if draw.params.is_greedy() {
            argmax(&row)
        } else {
            softmax(&mut row, draw.params, &mut self.scratch);
            kept.probabilities.extend_from_slice(&row);
            draw.draws().token(Purpose::Draft, index, Weights::Row(&row))
        };
        drafted.push(Drafted {
            token,
            position: DraftPosition { index, entropy, top_prob, path_log_prob: 0.0 },
        });
    }

    /// Judges what pruning leaves, which here has nothing to do with what would be accepted: guesses may be as wrong as
    /// they like.
    fn judge(&mut self, rows: &RowBatch, draw: &TargetDraw<'_>) -> Verification {
        let n_proposed = draw.proposal.len();
        let mut proposal = draw.proposal.clone();
        if draw.prune.is_some() {
            proposal.truncate((mix(draw.history.len() as u64) % (2 + u64::from(n_proposed))) as u32);
        }
        let pruned = n_proposed - proposal.len();
        let first = rows.rows_of(draw.seq_idx).end - 1 - n_proposed as usize;
        let draw = TargetDraw { proposal: &proposal, ..*draw };
        Verification { pruned, ..self.judge_all(rows, first, &draw) }
    }

    /// * `first`: row of the last known token.
    fn judge_all(&mut self, rows: &RowBatch, first: usize, draw: &TargetDraw<'_>) -> Verification {
        let n_nodes = draw.proposal.len() as usize;
        let (mut target, mut logits) = (Vec::new(), Vec::new());
        for i in 0..=n_nodes {
            let mut row = self.script.target_logits(self.target.visible(rows, draw.seq_idx, first + i));
            // Row 0 stands after the last known token, row `1 + node` after a node.
            let path = (i as u32).checked_sub(1).map_or_else(Vec::new, |node| draw.proposal.path(node));
            let adjustment = Adjustment {
                params: draw.params,
                history: draw.history,
                prompt_len: draw.prompt_len,
                drafted: &path,
                banned: draw.banned,
            };
            adjust(&mut row, &adjustment, &mut self.scratch);
            draw.proposal.mask(i).into_iter().for_each(|allowed| mask(&mut row, allowed));
            logits.extend_from_slice(&row);
            if !draw.params.is_greedy() {
                softmax(&mut row, draw.params, &mut self.scratch);
            }
            target.extend_from_slice(&row);
        }
        let kept = self.drafted.remove(&draw.seq).unwrap_or_default();
        let vocab_len = self.script.vocab_len as usize;
        let is_drawn = draw.is_model_drafted && draw.drafted_as.is_none() && !draw.params.is_greedy();
        let evidence = Evidence {
            proposal: draw.proposal,
            target: Rows::new(&target, vocab_len),
            draft: is_drawn.then(|| Rows::new(&kept.probabilities, vocab_len)),
        };
        let verdict = verify(draw.params, self.rule, &evidence, &mut draw.draws());
        let wants_signals = draw.signals.divergence && draw.is_model_drafted;
        let signals =
            if wants_signals { signals(draw, &logits, &kept.logits, vocab_len) } else { Vec::new() };
        Verification { verdict, pruned: 0, signals, logprobs: Vec::new() }
    }
}

impl Executor for ScriptedExecutor {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<(), ExecutorError> {
        for &copy in copies {
            self.target.copy(copy);
            if !self.is_lent {
                self.draft.copy(copy);
            }
            if let Some(states) = &mut self.states {
                states.copy(copy);
            }
            if let Some(recurrent) = &mut self.recurrent {
                recurrent.copy(copy);
            }
        }
        Ok(())
    }

    fn move_slots(&mut self, target: &[SlotMove], draft: &[SlotMove]) -> Result<(), ExecutorError> {
        self.target.move_slots(target);
        self.draft.move_slots(draft);
        if let Some(states) = &mut self.states {
            states.move_slots(target, draft);
        }
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.move_slots(target);
        }
        Ok(())
    }

    fn draft(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        drafted: &mut Vec<Drafted>,
    ) -> Result<(), ExecutorError> {
        assert!(!self.is_lent, "nobody drafts while the draft is away");
        let readable = self.shape.draft_context_len.unwrap_or(0);
        assert!(
            rows.positions.iter().all(|&position| position < readable),
            "the draft reads {readable} tokens"
        );
        assert!(rows.states.is_empty(), "the draft has no states");
        self.begin_pass("draft")?;
        self.draft.write(rows, |_, r| rows.tokens[r]);
        if let Some(states) = &mut self.states {
            states.draft(rows, draws);
        }
        drafted.clear();
        for draw in draws {
            for i in 0..draw.n_rows() {
                self.draw_draft(rows, draw, i, drafted);
            }
        }
        Ok(())
    }

    fn verify(
        &mut self,
        rows: &RowBatch,
        draws: &[TargetDraw<'_>],
        verifications: &mut Vec<Verification>,
    ) -> Result<(), ExecutorError> {
        self.read_target(rows)?;
        verifications.clear();
        for draw in draws {
            let one = self.judge(rows, draw);
            if let Some(recurrent) = &mut self.recurrent {
                recurrent.check(rows, draw);
                recurrent.prune(rows, draw.seq_idx, one.pruned);
            }
            verifications.push(one);
        }
        self.drafted.clear();
        Ok(())
    }

    fn score(
        &mut self,
        rows: &RowBatch,
        scores: &[PromptScore<'_>],
        logprobs: &mut Vec<TokenLogprobs>,
    ) -> Result<(), ExecutorError> {
        self.read_target(rows)?;
        logprobs.clear();
        for score in scores {
            let first = rows.rows_of(score.seq_idx).end - score.successors.len();
            for (i, &token) in score.successors.iter().enumerate() {
                let row = self.script.target_logits(self.target.visible(rows, score.seq_idx, first + i));
                logprobs.push(TokenLogprobs::of_logits(&row, token, score.top_len));
            }
        }
        Ok(())
    }

    fn lend_draft(&mut self) -> Option<u32> {
        let ScriptedLending { n_blocks, .. } = self.lending.filter(|_| !self.is_lent)?;
        self.is_lent = true;
        self.draft.resize(0);
        self.resize_target(self.shape.n_blocks + n_blocks);
        Some(n_blocks)
    }

    fn reclaim_draft(&mut self) -> Result<(), ExecutorError> {
        self.resize_target(self.shape.n_blocks);
        if let Some(lending) = self.lending.as_mut().filter(|lending| lending.n_failures > 0) {
            lending.n_failures -= 1;
            return Err(ExecutorError { pass: "loading", source: "scripted failure".into() });
        }
        self.is_lent = false;
        self.draft.resize(self.shape.n_blocks);
        Ok(())
    }
}

/// Shape of a distribution that nobody asked for.
const CERTAIN: divergence::Shape = divergence::Shape { entropy: 0.0, top_prob: 1.0 };

/// Temperature at which distributions are compared; greedy requests are compared at 1.
fn signal_temperature(params: &Params) -> f32 {
    if params.is_greedy() { 1.0 } else { params.temperature }
}

fn signals(draw: &TargetDraw<'_>, target: &[f32], draft: &[f32], vocab_len: usize) -> Vec<PositionSignals> {
    let temperature = signal_temperature(draw.params);
    let (target, draft) = (Rows::new(target, vocab_len), Rows::new(draft, vocab_len));
    let parents = draw.proposal.parents().iter();
    parents
        .map(|&parent| {
            let q = draft.row(draw.draft_row(parent));
            let found = Divergence::of_logits(target.row(draw.target_row(parent)), q, temperature);
            PositionSignals {
                kld: found.kld,
                rejection: draw.params.rejection(found.tv),
                draft_entropy: found.draft_entropy,
                target_entropy: found.target_entropy,
            }
        })
        .collect()
}
