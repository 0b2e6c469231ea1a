//! What a policy costs per step: all four moments for a batch of settled sequences that draft up to five positions each.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsde_policy::{
    Config, DraftPosition, Outcome, PlanView, Planned, Policy, PositionSignals, SeqId, SequenceView,
    StepFeedback,
};

const N_SEQUENCES: u64 = 64;

/// Positions drafted at most, and accepted at most.
const DRAFTED_MAX: u32 = 5;
const ACCEPTED_MAX: u32 = 3;

const TEXTS: [&str; 17] = [
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
    "tetris",
    "dspark",
    "adaptive_verification",
    "adaserve:w_max=1",
    "ddd:width=1",
];

/// A batch whose drafts look alike in every step.
struct Batch {
    step: u64,
    sequences: Vec<SequenceView>,
    positions: Vec<DraftPosition>,
    signals: Vec<PositionSignals>,
    plan: Vec<Planned>,
    verify_lens: Vec<u32>,
}

impl Batch {
    fn new() -> Self {
        let sequence = |seq| SequenceView {
            seq: SeqId(seq),
            limit: DRAFTED_MAX,
            context_len: 500,
            draft_lag: 1,
            temperature: 0.0,
            emitted: 100,
            decode_time: Duration::ZERO,
            tpot_max: None,
            priority: 0,
        };
        let position = |index: u32| DraftPosition {
            index,
            entropy: 0.1,
            top_prob: 0.9,
            path_log_prob: -0.1 * (index + 1) as f32,
        };
        let signal = |kld| PositionSignals { kld, ..PositionSignals::default() };
        Self {
            step: 0,
            sequences: (0..N_SEQUENCES).map(sequence).collect(),
            positions: (0..DRAFTED_MAX).map(position).collect(),
            signals: [0.05, 0.1, 0.2, 0.1, 0.4].map(signal).to_vec(),
            plan: vec![Planned::none(); N_SEQUENCES as usize],
            verify_lens: Vec::new(),
        }
    }

    /// Drafts what is planned as long as the policy goes on, and verifies what it leaves.
    fn step(&mut self, policy: &mut dyn Policy) {
        self.step += 1;
        let view = PlanView {
            step: self.step,
            sequences: &self.sequences,
            prefill_rows: 0,
            n_waiting: 0,
            blocks_free: 100,
            blocks_total: 1000,
            now: Duration::ZERO,
        };
        policy.plan(black_box(&view), &mut self.plan);
        self.verify_lens.clear();
        self.verify_lens.extend(self.plan.iter().map(|planned| planned.len.min(1)));
        for index in 1..DRAFTED_MAX {
            let position = black_box(&self.positions[index as usize - 1]);
            for ((sequence, planned), len) in self.sequences.iter().zip(&self.plan).zip(&mut self.verify_lens)
            {
                let may_go_on = *len == index && index < planned.len;
                *len += u32::from(may_go_on && policy.keep_drafting(sequence.seq, position));
            }
        }
        let drafted: Vec<&[DraftPosition]> =
            self.verify_lens.iter().map(|&len| &self.positions[..len as usize]).collect();
        policy.trim(black_box(&view), black_box(&drafted), &mut self.verify_lens);
        let outcome = |i: usize| Outcome {
            seq: self.sequences[i].seq,
            planned: self.plan[i].len.min(DRAFTED_MAX),
            drafted: drafted[i].len() as u32,
            verified: self.verify_lens[i],
            accepted: self.verify_lens[i].min(ACCEPTED_MAX),
            temperature: 0.0,
            signals: &self.signals[..self.verify_lens[i] as usize],
        };
        let outcomes: Vec<Outcome<'_>> = (0..self.sequences.len()).map(outcome).collect();
        policy.observe(black_box(&feedback(self.step, &outcomes)));
    }
}

/// A draft round takes 1 ms, the target pass 20 ms and 10 us per row.
fn feedback<'a>(step: u64, outcomes: &'a [Outcome<'a>]) -> StepFeedback<'a> {
    let target_rows = outcomes.iter().map(|outcome| outcome.verified + 1).sum();
    let draft_rounds = outcomes.iter().map(|outcome| outcome.drafted).max().unwrap_or(0);
    let draft_time = Duration::from_millis(1) * draft_rounds;
    let verify_time = Duration::from_millis(20) + Duration::from_micros(10) * target_rows;
    StepFeedback {
        step,
        outcomes,
        target_rows,
        prefill_rows: 0,
        draft_rounds,
        draft_rows: outcomes.iter().map(|outcome| outcome.drafted).sum(),
        context_len_sum: 500 * N_SEQUENCES,
        draft_time,
        verify_time,
        step_time: draft_time + verify_time,
    }
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(N_SEQUENCES));
    for text in TEXTS {
        let config: Config = text.parse().expect("the configurations above are valid");
        let mut policy = config.build();
        let mut batch = Batch::new();
        group.bench_function(text, |bencher| {
            bencher.iter(|| batch.step(policy.as_mut()));
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
