//! One step of an imaginary engine, seen from the policy's side.

use std::time::Duration;

use dsde_policy::{Outcome, PlanView, Planned, Policy, PositionSignals, SeqId, SequenceView, StepFeedback};

/// What one sequence does in a step once its length is planned.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) seq: SeqId,
    /// Clips the planned length, as the engine does.
    pub(crate) limit: u32,
    /// Accepted tokens if that many are verified.
    pub(crate) accepted_max: u32,
    pub(crate) temperature: f32,
    /// Divergences of the positions, nats; repeated if more are verified, none if empty.
    pub(crate) klds: Vec<f32>,
}

/// Runs plan and observe over one batch; everything planned is drafted and verified.
pub(crate) fn step(policy: &mut dyn Policy, step: u64, fates: &[Fate]) -> Vec<Planned> {
    let sequences: Vec<SequenceView> = fates.iter().map(view_of).collect();
    let mut plan = vec![Planned::none(); fates.len()];
    policy.plan(&plan_view(step, &sequences), &mut plan);

    let lens: Vec<u32> = plan.iter().zip(fates).map(|(p, f)| p.len.min(f.limit)).collect();
    let signals: Vec<Vec<PositionSignals>> =
        fates.iter().zip(&lens).map(|(fate, &len)| signals_of(&fate.klds, len)).collect();
    let outcomes: Vec<Outcome<'_>> = fates
        .iter()
        .zip(&lens)
        .zip(&signals)
        .map(|((fate, &len), signals)| Outcome {
            seq: fate.seq,
            planned: len,
            drafted: len,
            verified: len,
            accepted: fate.accepted_max.min(len),
            temperature: fate.temperature,
            signals,
        })
        .collect();
    policy.observe(&StepFeedback {
        step,
        outcomes: &outcomes,
        target_rows: lens.iter().sum::<u32>() + lens.len() as u32,
        draft_time: Duration::from_millis(1),
        verify_time: Duration::from_millis(4),
        step_time: Duration::from_millis(6),
    });
    plan
}

fn view_of(fate: &Fate) -> SequenceView {
    SequenceView {
        seq: fate.seq,
        limit: fate.limit,
        context_len: 100,
        draft_lag: 1,
        temperature: fate.temperature,
        emitted: 1,
    }
}

fn plan_view(step: u64, sequences: &[SequenceView]) -> PlanView<'_> {
    PlanView {
        step,
        sequences,
        prefill_rows: 0,
        n_waiting: 0,
        blocks_free: 10,
        blocks_total: 100,
        now: Duration::from_millis(6 * step),
    }
}

fn signals_of(klds: &[f32], len: u32) -> Vec<PositionSignals> {
    let n = if klds.is_empty() { 0 } else { len as usize };
    klds.iter().cycle().take(n).map(|&kld| PositionSignals { kld, ..PositionSignals::default() }).collect()
}
