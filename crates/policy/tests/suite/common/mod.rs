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

/// Runs one step of a batch: what is planned is drafted until the policy stops, and verified as far as it lets it.
///
/// The draft's entropy at a position is its divergence, and its top probability the exponential of minus that. Of a tree, the
/// nodes of a level are equally likely. Times grow with the rows; in every fifth step the clock stands still.
#[allow(dead_code, reason = "not every test binary runs steps at the usual cost")]
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
    let view = plan_view(step, &sequences);
    let mut plan = vec![Planned::none(); fates.len()];
    policy.plan(&view, &mut plan);

    let planned: Vec<u32> = plan.iter().zip(fates).map(|(p, f)| p.len.min(f.limit)).collect();
    let drafted = drafted(policy, fates, &plan, &planned);
    let lens: Vec<u32> = drafted.iter().map(|positions| positions.len() as u32).collect();
    let mut verify_lens = lens.clone();
    let positions: Vec<&[DraftPosition]> = drafted.iter().map(Vec::as_slice).collect();
    policy.trim(&view, &positions, &mut verify_lens);
    assert!(
        verify_lens.iter().zip(&lens).all(|(verified, drafted)| verified <= drafted),
        "trim only shortens"
    );

    let signals: Vec<Vec<PositionSignals>> =
        fates.iter().zip(&verify_lens).map(|(fate, &len)| signals_of(&fate.klds, len)).collect();
    let outcomes: Vec<Outcome<'_>> = (0..fates.len())
        .map(|i| Outcome {
            seq: fates[i].seq,
            planned: planned[i],
            drafted: lens[i],
            verified: verify_lens[i],
            accepted: fates[i].accepted_max.min(verify_lens[i]).min(planned[i]),
            temperature: fates[i].temperature,
            context_len: 100,
            is_foreseen: false,
            signals: &signals[i],
        })
        .collect();
    let target_rows = verify_lens.iter().sum::<u32>() + lens.len() as u32;
    let levels = |(positions, plan): (&Vec<DraftPosition>, &Planned)| positions.len() as u32 / plan.width;
    let draft_rounds = drafted.iter().zip(&plan).map(levels).max().unwrap_or(0);
    let Cost { draft, verify } = cost(draft_rounds, target_rows);
    policy.observe(&StepFeedback {
        step,
        outcomes: &outcomes,
        target_rows,
        prefill_rows: 0,
        draft_rounds,
        draft_rows: lens.iter().sum(),
        experts: None,
        draft_time: draft,
        verify_time: verify,
        step_time: draft + verify,
    });
    plan
}

/// Positions drafted of `planned` levels each, round by round as the engine does: everyone draws, then each is asked in turn.
fn drafted(
    policy: &mut dyn Policy,
    fates: &[Fate],
    plan: &[Planned],
    planned: &[u32],
) -> Vec<Vec<DraftPosition>> {
    let mut positions: Vec<Vec<DraftPosition>> = vec![Vec::new(); fates.len()];
    let mut drafting: Vec<usize> = (0..fates.len()).filter(|&i| planned[i] > 0).collect();
    for index in 0.. {
        if drafting.is_empty() {
            break;
        }
        for &i in &drafting {
            push_level(&mut positions[i], &fates[i], index, plan[i].width);
        }
        drafting.retain(|&i| {
            let level = level_of(positions[i].last().expect("drafted above"), plan[i].width);
            index + 1 < planned[i] && policy.keep_drafting(fates[i].seq, &level)
        });
    }
    positions
}

/// Appends a level of `width` nodes that are equally likely.
fn push_level(positions: &mut Vec<DraftPosition>, fate: &Fate, index: u32, width: u32) {
    let before = positions.last().map_or(0.0, |node| level_of(node, width).path_log_prob);
    let n_klds = fate.klds.len().max(1);
    let entropy = fate.klds.get(index as usize % n_klds).copied().unwrap_or(0.0);
    let top_prob = (-entropy).exp();
    let path_log_prob = before + top_prob.ln() - (width as f32).ln();
    positions.extend((0..width).map(|_| DraftPosition { index, entropy, top_prob, path_log_prob }));
}

/// What the policy is told of the level of a node.
fn level_of(node: &DraftPosition, width: u32) -> DraftPosition {
    DraftPosition { path_log_prob: node.path_log_prob + (width as f32).ln(), ..*node }
}

/// How the engine shows a sequence.
#[allow(dead_code, reason = "not every test binary looks at views")]
pub(crate) fn view_of(fate: &Fate) -> SequenceView {
    SequenceView {
        seq: fate.seq,
        limit: fate.limit,
        remaining: fate.limit + 1,
        context_len: 100,
        draft_lag: 1,
        temperature: fate.temperature,
        emitted: 1,
        decode_time: Duration::ZERO,
        tpot_max: None,
        priority: 0,
        foreseen: (0, 0),
        can_choose: false,
    }
}

/// How the engine shows a batch.
#[allow(dead_code, reason = "not every test binary looks at views")]
pub(crate) fn plan_view(step: u64, sequences: &[SequenceView]) -> PlanView<'_> {
    PlanView {
        step,
        sequences,
        foreseen: &[],
        prefill_rows: 0,
        n_waiting: 0,
        blocks_free: 10,
        blocks_total: 100,
        block_len: 16,
        now: Duration::from_millis(6 * step),
    }
}

fn signals_of(klds: &[f32], len: u32) -> Vec<PositionSignals> {
    let n = if klds.is_empty() { 0 } else { len as usize };
    klds.iter().cycle().take(n).map(|&kld| PositionSignals { kld, ..PositionSignals::default() }).collect()
}
