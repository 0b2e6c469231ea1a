//! One step of an imaginary engine, seen from the policy's side.

use std::time::Duration;

use dsde_policy::{
    DraftPosition, Outcome, PlanView, Planned, Policy, PositionSignals, SeqId, SequenceView, StepFeedback,
};

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

/// Runs one step of a batch: what is planned is drafted until the policy stops, and everything drafted is verified.
///
/// The draft's entropy at a position is its divergence, and its top probability the exponential of minus that. Times grow
/// with the rows; in every fifth step the clock stands still.
pub(crate) fn step(policy: &mut dyn Policy, step: u64, fates: &[Fate]) -> Vec<Planned> {
    let tick = Duration::from_millis(u64::from(step % 5 != 4));
    let cost =
        |rounds: u32, target_rows: u32| Cost { draft: tick * rounds, verify: tick * (4 + target_rows) };
    step_at(policy, step, fates, cost)
}

/// Times of a step.
pub(crate) struct Cost {
    pub(crate) draft: Duration,
    /// Of everything else.
    pub(crate) verify: Duration,
}

/// As [`step`], at a cost that depends on the draft rounds and on the rows of the target pass.
pub(crate) fn step_at(
    policy: &mut dyn Policy,
    step: u64,
    fates: &[Fate],
    cost: impl Fn(u32, u32) -> Cost,
) -> Vec<Planned> {
    let sequences: Vec<SequenceView> = fates.iter().map(view_of).collect();
    let mut plan = vec![Planned::none(); fates.len()];
    policy.plan(&plan_view(step, &sequences), &mut plan);

    let planned: Vec<u32> = plan.iter().zip(fates).map(|(p, f)| p.len.min(f.limit)).collect();
    let lens: Vec<u32> = planned.iter().zip(fates).map(|(&len, fate)| drafted(policy, fate, len)).collect();
    let signals: Vec<Vec<PositionSignals>> =
        fates.iter().zip(&lens).map(|(fate, &len)| signals_of(&fate.klds, len)).collect();
    let outcomes: Vec<Outcome<'_>> = fates
        .iter()
        .zip(planned)
        .zip(&lens)
        .zip(&signals)
        .map(|(((fate, planned), &len), signals)| Outcome {
            seq: fate.seq,
            planned,
            drafted: len,
            verified: len,
            accepted: fate.accepted_max.min(len),
            temperature: fate.temperature,
            signals,
        })
        .collect();
    let target_rows = lens.iter().sum::<u32>() + lens.len() as u32;
    let Cost { draft, verify } = cost(lens.iter().copied().max().unwrap_or(0), target_rows);
    policy.observe(&StepFeedback {
        step,
        outcomes: &outcomes,
        target_rows,
        prefill_rows: 0,
        draft_rounds: 0,
        draft_rows: 0,
        context_len_sum: 0,
        draft_time: draft,
        verify_time: verify,
        step_time: draft + verify,
    });
    plan
}

/// Tokens drafted of `len` planned ones.
fn drafted(policy: &mut dyn Policy, fate: &Fate, len: u32) -> u32 {
    let mut klds = fate.klds.iter().copied().cycle();
    for index in 0..len.saturating_sub(1) {
        let entropy = klds.next().unwrap_or(0.0);
        if !policy.keep_drafting(fate.seq, &DraftPosition { index, entropy, top_prob: (-entropy).exp(), path_log_prob: 0.0 }) {
            return index + 1;
        }
    }
    len
}

fn view_of(fate: &Fate) -> SequenceView {
    SequenceView {
        seq: fate.seq,
        limit: fate.limit,
        context_len: 100,
        draft_lag: 1,
        temperature: fate.temperature,
        emitted: 1,
        decode_time: Duration::ZERO,
        tpot_max: None,
        priority: 0,
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
