//! What a policy costs per step: all four moments for a batch of settled sequences, five drafted positions each.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsde_policy::{
    Config, DraftPosition, Outcome, PlanView, Planned, PositionSignals, SeqId, SequenceView, StepFeedback,
};

const N_SEQUENCES: u64 = 64;

fn decide(criterion: &mut Criterion) {
    let sequences: Vec<SequenceView> = (0..N_SEQUENCES)
        .map(|seq| SequenceView {
            seq: SeqId(seq),
            limit: 64,
            context_len: 500,
            draft_lag: 1,
            temperature: 0.0,
            emitted: 100,
            decode_time: Duration::ZERO,
            tpot_max: None,
            priority: 0,
        })
        .collect();
    let view = PlanView {
        step: 0,
        sequences: &sequences,
        prefill_rows: 0,
        n_waiting: 0,
        blocks_free: 100,
        blocks_total: 1000,
        now: Duration::ZERO,
    };
    let signals = [0.05, 0.1, 0.2, 0.1, 0.4].map(|kld| PositionSignals { kld, ..PositionSignals::default() });
    let outcomes: Vec<Outcome<'_>> = (0..N_SEQUENCES)
        .map(|seq| Outcome {
            seq: SeqId(seq),
            planned: 5,
            drafted: 5,
            verified: 5,
            accepted: 3,
            temperature: 0.0,
            signals: &signals,
        })
        .collect();
    let feedback = StepFeedback {
        step: 0,
        outcomes: &outcomes,
        target_rows: 6 * N_SEQUENCES as u32,
        prefill_rows: 0,
        draft_rounds: 0,
        draft_rows: 0,
        context_len_sum: 0,
        draft_time: Duration::from_millis(5),
        verify_time: Duration::from_millis(20),
        step_time: Duration::from_millis(26),
    };

    let position = |index: u32| DraftPosition {
        index,
        entropy: 0.1,
        top_prob: 0.9,
        path_log_prob: -0.1 * (index + 1) as f32,
    };
    let positions: Vec<DraftPosition> = (0..5).map(position).collect();
    let drafted = vec![&positions[..]; sequences.len()];

    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(N_SEQUENCES));
    let texts = [
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
        "adaserve:w_max=1",
        "ddd:width=1",
    ];
    for text in texts {
        let config: Config = text.parse().expect("the configurations above are valid");
        let mut policy = config.build();
        let mut plan = vec![Planned::none(); sequences.len()];
        let mut verify_lens = vec![5; sequences.len()];
        group.bench_function(text, |bencher| {
            bencher.iter(|| {
                policy.plan(black_box(&view), &mut plan);
                for position in &positions[..4] {
                    for sequence in &sequences {
                        black_box(policy.keep_drafting(sequence.seq, black_box(position)));
                    }
                }
                verify_lens.fill(5);
                policy.trim(black_box(&view), black_box(&drafted), &mut verify_lens);
                policy.observe(black_box(&feedback));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
