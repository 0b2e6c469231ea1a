//! What the policy is asked and told in a step: lengths before anything is drafted, cuts behind it, and what it brought.

use std::time::Duration;

use dsde_policy::{DraftPosition, Outcome, PlanView, Planned, Policy as _, SequenceView, StepFeedback};
use dsde_sampling::proposal::NODES_MAX;

use super::Scratch;
use crate::carry;
use crate::engine::Engine;
use crate::report::StepReport;
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;
use crate::suffix::FOLLOWERS_MAX;

impl Engine {
    /// Asks the policy for a length per decoding sequence and reserves what fits.
    pub(super) fn plan(&mut self, now: Duration) {
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

    /// Lets the policy cut what was drafted.
    pub(super) fn trim(&mut self, now: Duration) {
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

    /// Tells the policy what the step achieved.
    pub(super) fn observe(&mut self, report: &StepReport) {
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
