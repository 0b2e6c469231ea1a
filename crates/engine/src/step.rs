//! One turn of the engine. [`Engine::step`] reads like the description of the method.

mod policy;

use std::time::Duration;

use dsde_policy::{DraftPosition, Planned, Policy as _, SequenceView};

use crate::ahead::DraftAhead;
use crate::carry;
use crate::commit::{SlotMoves, commit};
use crate::engine::Engine;
use crate::passes::{Drafted, ExecutorError, TargetDraw, Verification};
use crate::report::{Emission, Event, FinishReason, StepReport};
use crate::rows::RowBatch;
use crate::sequence::Sequence;

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

    pub(crate) fn copy_blocks(&mut self) -> Result<(), ExecutorError> {
        if self.scheduler.copies.is_empty() {
            return Ok(());
        }
        let copied = self.executor.copy_blocks(&self.scheduler.copies);
        self.scheduler.copies.clear();
        copied
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

fn count(report: &mut StepReport, seq: &Sequence, verification: &Verification, emitted: usize) {
    report.planned += seq.turn.planned;
    report.drafted += seq.turn.drafted;
    report.verified += seq.turn.proposal.len();
    report.accepted += verification.verdict.accepted();
    report.emitted += emitted as u32;
    report.carried += seq.turn.carried;
    report.ahead += seq.turn.ahead_len();
}
