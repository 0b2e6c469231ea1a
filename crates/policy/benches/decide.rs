//! What a policy costs per step and sequence: all four moments for batches of settled sequences that draft up to five positions, or
//! levels of a tree, each.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dsde_policy::{
    Config, DraftPosition, Outcome, PlanView, Planned, Policy, PositionSignals, SeqId, SequenceView,
    StepFeedback,
};

const N_SEQUENCES: [u64; 3] = [1, 8, 64];

/// Positions drafted at most, and accepted at most.
const DRAFTED_MAX: u32 = 5;
const ACCEPTED_MAX: u32 = 3;

/// Logarithm by which a node of a tree is less probable than its neighbour on the level.
const NODE_GAP: f32 = 0.5;

const TEXTS: [&str; 21] = [
    "auto",
    "fixed:k=5",
    "dsde",
    "dsde:variant=released,cap=mean",
    "adaedl",
    "confidence",
    "batch_schedule",
    "tiered",
    "bandit",
    "turbospec:interval=1",
    "nightjar",
    "faser",
    "faser:choice=gp",
    "faser:choice=gp,k_max=64",
    "tetris",
    "dspark",
    "adaptive_verification",
    "adaserve:w_max=1",
    "ddd:width=1",
    // Trees.
    "adaserve",
    "ddd",
];

/// A batch whose drafts look alike in every step.
struct Batch {
    step: u64,
    sequences: Vec<SequenceView>,
    /// One per level of a chain; what is asked about a level of a tree.
    positions: Vec<DraftPosition>,
    /// Of a tree of [`Batch::width`], level by level.
    nodes: Vec<DraftPosition>,
    width: u32,
    signals: Vec<PositionSignals>,
    plan: Vec<Planned>,
    /// Levels drafted.
    depths: Vec<u32>,
    verify_lens: Vec<u32>,
}

impl Batch {
    fn new(n_sequences: u64) -> Self {
        let sequence = |seq| SequenceView {
            seq: SeqId(seq),
            limit: DRAFTED_MAX,
            remaining: 1000,
            context_len: 500,
            draft_lag: 1,
            temperature: 0.0,
            emitted: 100,
            decode_time: Duration::ZERO,
            tpot_max: None,
            priority: 0,
            foreseen: (0, 0),
            can_choose: false,
        };
        let signal = |kld| PositionSignals { kld, ..PositionSignals::default() };
        Self {
            step: 0,
            sequences: (0..n_sequences).map(sequence).collect(),
            positions: (0..DRAFTED_MAX).map(|index| position(index, 0)).collect(),
            nodes: Vec::new(),
            width: 0,
            signals: [0.05, 0.1, 0.2, 0.1, 0.4].map(signal).to_vec(),
            plan: vec![Planned::none(); n_sequences as usize],
            depths: Vec::new(),
            verify_lens: Vec::new(),
        }
    }

    /// Drafts what is planned and verifies what the policy leaves.
    fn step(&mut self, policy: &mut dyn Policy) {
        self.step += 1;
        let view = PlanView {
            step: self.step,
            sequences: &self.sequences,
            foreseen: &[],
            prefill_rows: 0,
            n_waiting: 0,
            blocks_free: 100,
            blocks_total: 1000,
            block_len: 16,
            now: Duration::ZERO,
        };
        policy.plan(black_box(&view), &mut self.plan);
        drafted_levels(policy, &self.sequences, &self.positions, &self.plan, &mut self.depths);
        let width = self.plan[0].width;
        if width != self.width {
            self.width = width;
            self.nodes = (0..DRAFTED_MAX * width).map(|i| position(i / width, i % width)).collect();
        }
        self.verify_lens.clear();
        self.verify_lens.extend(self.depths.iter().map(|depth| depth * width));
        let drafted: Vec<&[DraftPosition]> =
            self.verify_lens.iter().map(|&len| &self.nodes[..len as usize]).collect();
        policy.trim(black_box(&view), black_box(&drafted), &mut self.verify_lens);
        let outcome = |i: usize| Outcome {
            seq: self.sequences[i].seq,
            planned: self.plan[i].len.min(DRAFTED_MAX) * width,
            drafted: drafted[i].len() as u32,
            verified: self.verify_lens[i],
            accepted: self.verify_lens[i].min(ACCEPTED_MAX),
            temperature: 0.0,
            context_len: 500,
            is_foreseen: false,
            signals: if width == 1 { &self.signals[..self.verify_lens[i] as usize] } else { &[] },
        };
        let outcomes: Vec<Outcome<'_>> = (0..self.sequences.len()).map(outcome).collect();
        policy.observe(black_box(&feedback(self.step, width, &outcomes)));
    }
}

/// Drafts level after level of what is planned, as long as the policy goes on.
fn drafted_levels(
    policy: &mut dyn Policy,
    sequences: &[SequenceView],
    positions: &[DraftPosition],
    plan: &[Planned],
    depths: &mut Vec<u32>,
) {
    depths.clear();
    depths.extend(plan.iter().map(|planned| planned.len.min(1)));
    for index in 1..DRAFTED_MAX {
        let position = black_box(&positions[index as usize - 1]);
        for ((sequence, planned), depth) in sequences.iter().zip(plan).zip(&mut *depths) {
            let may_go_on = *depth == index && index < planned.len;
            *depth += u32::from(may_go_on && policy.keep_drafting(sequence.seq, position));
        }
    }
}

/// The node of a level that has `n_better` better ones beside it.
fn position(level: u32, n_better: u32) -> DraftPosition {
    let path_log_prob = -0.1 * (level + 1) as f32 - NODE_GAP * n_better as f32;
    DraftPosition { index: level, entropy: 0.1, top_prob: 0.9, path_log_prob }
}

/// A draft round takes 1 ms, the target pass 20 ms and 10 us per row.
fn feedback<'a>(step: u64, width: u32, outcomes: &'a [Outcome<'a>]) -> StepFeedback<'a> {
    let target_rows = outcomes.iter().map(|outcome| outcome.verified + 1).sum();
    let draft_rounds = outcomes.iter().map(|outcome| outcome.drafted / width).max().unwrap_or(0);
    let draft_time = Duration::from_millis(1) * draft_rounds;
    let verify_time = Duration::from_millis(20) + Duration::from_micros(10) * target_rows;
    StepFeedback {
        step,
        outcomes,
        target_rows,
        prefill_rows: 0,
        draft_rounds,
        draft_rows: outcomes.iter().map(|outcome| outcome.drafted).sum(),
        experts: None,
        draft_time,
        verify_time,
        step_time: draft_time + verify_time,
    }
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    for text in TEXTS {
        let config: Config = text.parse().expect("the configurations above are valid");
        for n_sequences in N_SEQUENCES {
            let mut policy = config.build();
            let mut batch = Batch::new(n_sequences);
            group.throughput(Throughput::Elements(n_sequences));
            group.bench_function(BenchmarkId::new(text, n_sequences), |bencher| {
                bencher.iter(|| batch.step(policy.as_mut()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
