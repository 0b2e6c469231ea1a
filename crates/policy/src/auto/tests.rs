//! Decisions from given costs: when one stands, who goes beyond it, and what is foreseen.

use super::costs::tests::{feedback, outcome};
use super::*;
use crate::SequenceView;
use crate::samples::{SEQUENCE, VIEW};

fn auto() -> Auto {
    Auto::new(&Settings::parse(&ENTRY, None).unwrap())
}

fn sequences(n: u64) -> Vec<SequenceView> {
    let sequence = |seq| SequenceView { seq: SeqId(seq), emitted: 10, ..SEQUENCE };
    (0..n).map(sequence).collect()
}

fn view<'a>(step: u64, sequences: &'a [SequenceView], foreseen: &'a [DraftPosition]) -> PlanView<'a> {
    PlanView { step, sequences, foreseen, ..VIEW }
}

/// A step of one sequence in which every row of the target takes 10 ms, and a draft round as long.
fn learn_step(auto: &mut Auto, drafted: u32) {
    let outcomes = [outcome(drafted)];
    let [draft_ms, rest_ms] = [drafted, 1 + drafted].map(|rows| 10 * u64::from(rows));
    auto.learn_costs(&feedback(&outcomes, drafted, draft_ms, rest_ms));
}

#[test]
fn a_decision_to_decode_plainly_stands_while_the_batch_stays() {
    let mut auto = auto();
    for len in [0, 2] {
        (0..FIRST_LENS.len()).for_each(|_| learn_step(&mut auto, len));
    }
    let mut decides = |n_sequences: u64, prefill_rows: u32| {
        let sequences = sequences(n_sequences);
        let view = PlanView { prefill_rows, ..view(1, &sequences, &[]) };
        let mut plan = vec![Planned::none(); sequences.len()];
        let decides = !auto.rest.stands(&view);
        auto.plan(&view, &mut plan);
        assert!(plan.iter().all(|planned| planned.len == 0), "{plan:?}");
        decides
    };
    let pattern: Vec<bool> = (0..33).map(|_| decides(4, 0)).collect();
    let expected: Vec<bool> = (0..33).map(|i| i % 32 == 0).collect();
    assert_eq!(pattern, expected);
    assert!(!decides(4, 5) && !decides(3, 5), "beside prompts");
    assert!(decides(3, 0) && !decides(3, 0), "another batch");
}

#[test]
fn now_and_then_a_draft_goes_beyond_what_pays() {
    let mut auto = auto();
    // Two rows take a quarter of what an empty pass does, a round next to nothing.
    for len in 0..=12 {
        for _ in 0..FIRST_LENS.len() {
            let outcomes = [outcome(len), outcome(0)];
            let rest_ms = 20_000 + 2_500 * u64::from(2 + len);
            auto.learn_costs(&feedback(&outcomes, len, u64::from(len), rest_ms));
        }
    }
    let sequences = sequences(2);
    let (mut n_beyond, mut n_speculating) = (0, 0);
    for step in 0..8192 {
        let view = view(step, &sequences, &[]);
        let mut plan = vec![Planned::none(); 2];
        auto.plan(&view, &mut plan);
        n_speculating += usize::from(auto.step.turn == Turn::Speculating);
        for (i, planned) in plan.iter().enumerate().filter(|(_, p)| p.reason == "looking beyond") {
            n_beyond += 1;
            let position = DraftPosition { index: 0, entropy: 9.0, top_prob: 0.001, path_log_prob: -7.0 };
            assert_eq!(planned.len, auto.step.lens[i] + 1);
            assert!(auto.keep_drafting(sequences[i].seq, &position), "its shape does not end it");
        }
    }
    // Two of 512.
    assert!(n_speculating > 6000 && (16..=64).contains(&n_beyond), "{n_beyond} of {n_speculating}");
}

#[test]
fn foreseen_drafts_are_planned_by_what_they_promise_in_every_step() {
    let mut auto = auto();
    // Two rows take a quarter of what an empty pass does, a round next to nothing. Every size is known.
    for len in 0..=12 {
        let rest_ms = 20_000 + 2_500 * u64::from(2 + len);
        for _ in 0..FIRST_LENS.len() {
            let outcomes = [outcome(len), outcome(0)];
            auto.learn_costs(&feedback(&outcomes, len, u64::from(len), rest_ms));
        }
    }
    let foreseen = |top_prob: f32, len: u32| {
        (0..len).map(move |index| DraftPosition { index, entropy: 0.1, top_prob, path_log_prob: 0.0 })
    };
    let mut plan_of = |step: u64, probabilities: [f32; 2]| {
        let mut sequences = sequences(2);
        let positions: Vec<DraftPosition> =
            probabilities.iter().flat_map(|&top_prob| foreseen(top_prob, 6)).collect();
        (0..).zip(&mut sequences).for_each(|(i, sequence)| {
            (sequence.limit, sequence.foreseen) = (6, (6 * i, 6));
        });
        let view = view(step, &sequences, &positions);
        let mut plan = vec![Planned::none(); 2];
        // Plain decoding is measured now and then.
        for _ in 0..10 {
            auto.plan(&view, &mut plan);
            if plan[0].reason != "measuring" {
                break;
            }
        }
        [plan[0].len, plan[1].len]
    };
    let [long, none] = plan_of(1, [0.99, 0.02]);
    assert!(long >= 4 && none == 0, "{long} {none}");
    assert_eq!(plan_of(2, [0.02, 0.02]), [0, 0]);
    // Nobody rests on that.
    assert_eq!(plan_of(3, [0.02, 0.99]), [0, long]);
}
