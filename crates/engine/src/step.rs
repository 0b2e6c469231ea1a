//! One turn of the engine. [`Engine::step`] reads like the description of the method.

use std::time::Duration;

use dsde_policy::{DraftPosition, Outcome, PlanView, Planned, Policy as _, SequenceView, StepFeedback};
use dsde_sampling::proposal::NODES_MAX;

use crate::ahead::DraftAhead;
use crate::carry;
use crate::commit::{SlotMoves, commit};
use crate::engine::Engine;
use crate::passes::{Drafted, ExecutorError, TargetDraw, Verification};
use crate::report::{Emission, Event, FinishReason, StepReport};
use crate::rows::RowBatch;
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;
use crate::suffix::FOLLOWERS_MAX;

/// Buffers of a step, kept between steps.
#[derive(Default)]
pub(crate) struct Scratch {
    views: Vec<SequenceView>,
    /// Index in the running list of each view.
    view_owners: Vec<usize>,
    /// What their drafters have to offer, one behind the other.
    foreseen: Vec<DraftPosition>,
    plan: Vec<Planned>,
    pub(crate) rows: RowBatch,
    pub(crate) drafting: Vec<usize>,
    pub(crate) drafted: Vec<Drafted>,
    pub(crate) verifications: Vec<Verification>,
    /// Index in the running list of each verification.
    pub(crate) drawing: Vec<usize>,
    moves: SlotMoves,
}

impl Scratch {
    /// What the policy was told to be the limit of running sequence `i`, and what it asked for; `None` if it was not asked.
    pub(crate) fn asked(&self, i: usize) -> Option<(u32, Planned)> {
        let view_idx = self.view_owners.binary_search(&i).ok()?;
        Some((self.views[view_idx].limit, self.plan[view_idx]))
    }
}

impl Engine {
    /// Takes one step: plan, draft, trim, verify, commit, observe. Without work it does nothing.
    ///
    /// # Errors
    /// If the executor failed. Every sequence that took part has then ended with [`FinishReason::Failed`]; the engine itself
    /// stays usable.
    pub fn step(&mut self) -> Result<StepReport, ExecutorError> {
        let started = self.clock.now();
        let mut report = StepReport { step: self.n_steps, ..StepReport::default() };
        let result = self.run_passes(started, &mut report);
        if result.is_err() {
            self.fail_running();
        }
        report.step_time = self.clock.now() - started;
        if result.is_ok() {
            self.trace_step(started, &report);
            self.observe(&report);
            self.retire_finished();
        }
        self.n_steps += 1;
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        result.map(|()| report)
    }

    fn run_passes(&mut self, started: Duration, report: &mut StepReport) -> Result<(), ExecutorError> {
        self.update_lending()?;
        report.blocks_lent = self.lending.n_blocks();
        report.lending_time = self.clock.now() - started;
        report.preempted = self.scheduler.schedule();
        self.plan(started);
        self.copy_blocks()?;
        let drafting = self.clock.now();
        self.draft(report)?;
        report.draft_time = self.clock.now() - drafting;
        self.trim(started);
        let verifying = self.clock.now();
        self.score(started, report)?;
        self.verify()?;
        report.verify_time = self.clock.now() - verifying;
        self.commit(started, report)
    }

    /// Asks the policy for a length per decoding sequence and reserves what fits.
    fn plan(&mut self, now: Duration) {
        if let Some(suffix) = self.config.drafter.suffix() {
            self.offer(suffix, self.config.sl_limit);
        }
        self.view_sequences(now);
        let Scratch { views, foreseen, plan, .. } = &mut self.scratch;
        plan.clear();
        plan.resize(views.len(), Planned::none());
        self.policy.plan(&plan_view(now, self.n_steps, views, foreseen, &self.scheduler), plan);
        self.reserve_planned();
        if let Some(limits) = self.ahead_limits() {
            carry::reserve(&mut self.scheduler, limits);
        }
    }

    /// Notes what the policy may know of every sequence that decodes.
    fn view_sequences(&mut self, now: Duration) {
        let (sl_limit, shape, drafter) = (self.config.sl_limit, self.shape, self.config.drafter);
        let is_loaded = self.lending.is_loaded();
        let Scratch { views, view_owners, foreseen, .. } = &mut self.scratch;
        foreseen.clear();
        views.clear();
        view_owners.clear();
        for (i, seq) in self.scheduler.running.iter().enumerate() {
            if seq.is_decoding() && seq.remaining(shape.context_len_max) > 0 {
                let readable = if drafter.has_model() { shape.draft_limit(seq.len()) } else { 0 };
                let guessable = if is_loaded { readable } else { 0 };
                let n_offered = seq.turn.offered.len() as u32;
                let draftable = if guessable > 0 { guessable } else { n_offered };
                let mut view = view(seq, now, sl_limit.min(draftable), shape.context_len_max);
                if readable == 0 {
                    // What no draft can read it will not have to catch up with.
                    view.draft_lag = 1;
                }
                view.can_choose = guessable > 0 && n_offered > 0;
                view.foreseen = (foreseen.len() as u32, n_offered);
                foreseen.extend(seq.turn.offered.iter().map(|offered| offered.position));
                views.push(view);
                view_owners.push(i);
            }
        }
    }

    /// Reserves slots for what was planned, as far as there are any and the step may draft as much.
    fn reserve_planned(&mut self) {
        let shape = self.shape;
        let Scratch { views, view_owners, plan, .. } = &self.scratch;
        let mut budget = self.config.drafted_max;
        for ((&i, planned), view) in view_owners.iter().zip(plan.iter()).zip(views.iter()) {
            let n_foreseen = view.foreseen.1;
            let is_foreseen = n_foreseen > 0 && (!view.can_choose || self.policy.takes_foreseen(view.seq));
            let (limit, width_max) = match is_foreseen {
                true => (n_foreseen, FOLLOWERS_MAX as u32),
                false => (view.limit, shape.vocab_len.clamp(1, NODES_MAX)),
            };
            let (levels, width) = (planned.len.min(limit), planned.width.clamp(1, width_max));
            let wanted = levels.saturating_mul(width).min(NODES_MAX).min(budget);
            let len = if wanted > 0 { self.scheduler.reserve_speculation(i, wanted) } else { 0 };
            budget -= len;
            let turn = &mut self.scheduler.running[i].turn;
            (turn.planned, turn.levels, turn.width) = (len, levels, width);
            turn.is_foreseen = is_foreseen;
            turn.reranks = turn.is_tree() && self.policy.reranks(view.seq);
        }
    }

    pub(crate) fn copy_blocks(&mut self) -> Result<(), ExecutorError> {
        if self.scheduler.copies.is_empty() {
            return Ok(());
        }
        let copied = self.executor.copy_blocks(&self.scheduler.copies);
        self.scheduler.copies.clear();
        copied
    }

    /// Lets the policy cut what was drafted.
    fn trim(&mut self, now: Duration) {
        let running = &self.scheduler.running;
        let owners = &self.scratch.view_owners;
        let mut verify_lens: Vec<u32> = owners.iter().map(|&i| running[i].turn.drafted).collect();
        if verify_lens.iter().all(|&len| len == 0) {
            return;
        }
        let drafted: Vec<&[DraftPosition]> = owners.iter().map(|&i| &running[i].turn.positions[..]).collect();
        let Scratch { views, foreseen, .. } = &self.scratch;
        let view = plan_view(now, self.n_steps, views, foreseen, &self.scheduler);
        self.policy.trim(&view, &drafted, &mut verify_lens);
        let limits = self.ahead_limits();
        for (&i, len) in self.scratch.view_owners.iter().zip(verify_lens) {
            let seq = &mut self.scheduler.running[i];
            assert!(len <= seq.turn.drafted, "trim only shortens");
            if limits.is_some() {
                seq.set_aside(len);
            }
            seq.turn.proposal.truncate(len);
        }
    }

    /// One target pass over all rows of all sequences, and beside it what is drafted ahead.
    fn verify(&mut self) -> Result<(), ExecutorError> {
        let limits = self.ahead_limits();
        let Scratch { rows, drawing, verifications, .. } = &mut self.scratch;
        let signals = self.policy.signals();
        let has_model = self.config.drafter.has_model();
        let prune = self.policy.prune().filter(|_| has_model);
        rows.clear();
        drawing.clear();
        for seq in self.scheduler.running.iter_mut().filter(|seq| seq.turn.is_drawing) {
            seq.mask_rows(self.shape.vocab_len);
        }
        let mut draws = Vec::with_capacity(self.scheduler.running.len());
        for (i, seq) in self.scheduler.running.iter().enumerate().filter(|(_, seq)| seq.turn.n_known > 0) {
            let known = &seq.tokens[seq.context_len as usize..][..seq.turn.n_known as usize];
            rows.push(seq.context_len, known, &seq.turn.proposal, &seq.table);
            rows.states.extend(seq.state_use());
            if seq.turn.is_drawing {
                drawing.push(i);
                draws.push(TargetDraw {
                    seq_idx: rows.n_seqs() - 1,
                    seq: seq.id,
                    params: &seq.params,
                    stream: seq.stream,
                    history: &seq.tokens,
                    prompt_len: seq.prompt_len,
                    proposal: &seq.turn.proposal,
                    is_model_drafted: has_model && !seq.turn.is_foreseen && seq.turn.carried == 0,
                    drafted_as: seq.turn.is_tree().then_some(&seq.turn.drafted_as),
                    prune: prune.filter(|_| seq.can_prune()),
                    banned: seq.banned(),
                    signals,
                });
            }
        }
        let mut ahead = match limits {
            Some(limits) => carry::chains(&self.scheduler.running, limits, signals),
            None => DraftAhead::default(),
        };
        if rows.n_rows() == 0 {
            verifications.clear();
        } else if ahead.is_empty() {
            self.executor.verify(rows, &draws, verifications)?;
        } else {
            self.executor.verify_ahead(rows, &draws, &mut ahead, verifications)?;
        }
        assert_eq!(verifications.len(), draws.len(), "a verification for every draw");
        let drafted = ahead.into_drafted().collect();
        carry::note(&mut self.scheduler.running, drafted);
        Ok(())
    }

    /// Moves lengths, emits tokens, gives back unused slots and closes the gaps that rejected branches left.
    fn commit(&mut self, started: Duration, report: &mut StepReport) -> Result<(), ExecutorError> {
        let now = self.clock.now();
        report.target_rows += self.scratch.rows.n_rows() as u32;
        report.n_seqs += self.scratch.rows.n_seqs() as u32;
        report.experts = self.executor.take_experts_woken();
        let Scratch { drawing, verifications, moves, .. } = &mut self.scratch;
        moves.clear();
        let mut verifications = drawing.iter().copied().zip(verifications).peekable();
        for i in 0..self.scheduler.running.len() {
            let seq = &mut self.scheduler.running[i];
            if seq.turn.n_known == 0 {
                continue;
            }
            seq.timeline.admitted.get_or_insert(started);
            if !seq.is_decoding() {
                report.prefill_rows += seq.turn.n_known;
            }
            match verifications.next_if(|(drawing, _)| *drawing == i) {
                None => seq.context_len += seq.turn.n_known,
                Some((_, verification)) => {
                    report.context_len_sum += u64::from(seq.context_len);
                    let base = seq.len();
                    seq.turn.prune(verification.pruned);
                    let gain = commit(seq, verification, &*self.vocabulary, &self.shape);
                    moves.close_gaps(seq, base, &verification.verdict, &self.shape);
                    count(report, seq, verification, gain.tokens.len());
                    seq.timeline.first_token.get_or_insert(now);
                    seq.turn.emitted = gain.tokens.len() as u32;
                    seq.turn.finish = gain.finish;
                    seq.carry(verification);
                    if !gain.tokens.is_empty() {
                        self.events.push(Event::Emitted(Emission {
                            request: seq.request,
                            choice: seq.choice,
                            tokens: gain.tokens,
                            text: gain.text,
                        }));
                    }
                }
            }
            self.scheduler.settle(i);
        }
        match moves.is_empty() {
            true => Ok(()),
            false => self.executor.move_slots(&moves.target, &moves.draft),
        }
    }

    /// Tells the policy what the step achieved.
    fn observe(&mut self, report: &StepReport) {
        let outcomes: Vec<Outcome<'_>> = self
            .scratch
            .drawing
            .iter()
            .zip(&self.scratch.verifications)
            .map(|(&i, verification)| {
                let seq = &self.scheduler.running[i];
                Outcome {
                    seq: seq.id,
                    planned: seq.turn.planned,
                    drafted: seq.turn.drafted,
                    verified: seq.turn.proposal.len(),
                    accepted: verification.verdict.accepted(),
                    temperature: seq.params.temperature,
                    context_len: seq.len() - seq.turn.emitted - 1,
                    is_foreseen: seq.turn.is_foreseen,
                    signals: &verification.signals,
                }
            })
            .collect();
        self.policy.observe(&StepFeedback {
            step: report.step,
            outcomes: &outcomes,
            target_rows: report.target_rows,
            prefill_rows: report.prefill_rows,
            draft_rounds: report.draft_rounds,
            draft_rows: report.draft_rows,
            experts: report.experts,
            draft_time: report.draft_time,
            verify_time: report.verify_time,
            step_time: report.step_time,
        });
    }

    fn retire_finished(&mut self) {
        for i in (0..self.scheduler.running.len()).rev() {
            if let Some(reason) = self.scheduler.running[i].turn.finish {
                let seq = self.scheduler.retire(i);
                self.finish(seq, reason);
            }
        }
    }

    /// Ends every running sequence: after a failed pass nobody's stored keys and values can be trusted.
    fn fail_running(&mut self) {
        self.scheduler.copies.clear();
        while let Some(i) = self.scheduler.running.len().checked_sub(1) {
            let seq = self.scheduler.retire(i);
            self.finish(seq, FinishReason::Failed);
        }
        self.scheduler.pool.forget_cached();
    }
}

fn view(seq: &Sequence, now: Duration, sl_limit: u32, context_len_max: u32) -> SequenceView {
    SequenceView {
        seq: seq.id,
        limit: sl_limit.min(seq.sl_limit(context_len_max)),
        remaining: seq.remaining(context_len_max),
        context_len: seq.context_len,
        draft_lag: seq.len() - seq.draft_len,
        temperature: seq.params.temperature,
        emitted: seq.emitted(),
        decode_time: seq.timeline.first_token.map_or(Duration::ZERO, |first| now.saturating_sub(first)),
        tpot_max: seq.slo.tpot_ms_max.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        priority: seq.priority,
        foreseen: (0, 0),
        can_choose: false,
    }
}

fn plan_view<'a>(
    now: Duration,
    step: u64,
    sequences: &'a [SequenceView],
    foreseen: &'a [DraftPosition],
    scheduler: &Scheduler,
) -> PlanView<'a> {
    let prefill_rows =
        scheduler.running.iter().filter(|seq| !seq.is_decoding()).map(|seq| seq.turn.n_known).sum();
    PlanView {
        step,
        sequences,
        foreseen,
        prefill_rows,
        n_waiting: scheduler.waiting.len() as u32,
        blocks_free: scheduler.pool.n_free(),
        blocks_total: scheduler.pool.n_total(),
        block_len: scheduler.limits.block_len,
        now,
    }
}

fn count(report: &mut StepReport, seq: &Sequence, verification: &Verification, emitted: usize) {
    report.planned += seq.turn.planned;
    report.drafted += seq.turn.drafted;
    report.verified += seq.turn.proposal.len();
    report.accepted += verification.verdict.accepted();
    report.emitted += emitted as u32;
    report.carried += seq.turn.carried;
    report.ahead += seq.turn.ahead_len();
}
