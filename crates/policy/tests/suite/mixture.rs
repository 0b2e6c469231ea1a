//! Several policies in one batch: who plans for whom, what they see of each other, and that one alone is left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::common::Fate;
use dsde_policy::mixture::OTHERS_MAX;
use dsde_policy::registry::ENTRIES;
use dsde_policy::{
    Config, DraftPosition, Mixture, Outcome, PlanView, Planned, Policy, SeqId, Signals, StepFeedback,
};

fn config(text: &str) -> Config {
    text.parse().expect("a valid configuration")
}

fn fate(seq: u64) -> Fate {
    Fate { seq: SeqId(seq), limit: 16, accepted_max: 2, temperature: 1.0, klds: vec![0.2, 0.9, 0.4] }
}

fn lens(policy: &mut Mixture, step: u64, seqs: &[u64]) -> Vec<u32> {
    let fates: Vec<Fate> = seqs.iter().map(|&seq| fate(seq)).collect();
    crate::common::step(policy, step, &fates).iter().map(|planned| planned.len).collect()
}

#[test]
fn without_a_choice_the_main_policy_does_what_it_does_alone() {
    for entry in ENTRIES {
        let text = if entry.name == "fixed" { "fixed:k=4" } else { entry.name };
        let (mut alone, mut mixture) = (config(text).build(), Mixture::new(config(text).build()));
        // A choice of the main policy itself is none.
        mixture.choose(&config(text), [SeqId(1)]).unwrap();
        for step in 0..80 {
            let fates: Vec<Fate> = (0..1 + step % 5).map(fate).collect();
            let expected = crate::common::step(alone.as_mut(), step, &fates);
            assert_eq!(crate::common::step(&mut mixture, step, &fates), expected, "{text}, step {step}");
            assert_eq!(mixture.signals(), alone.signals());
        }
        assert_eq!(mixture.name(), text);
    }
}

#[test]
fn every_sequence_gets_its_own_policy_until_it_ends() {
    let mut mixture = Mixture::new(config("fixed:k=3").build());
    mixture.choose(&config("fixed:k=5"), [SeqId(1), SeqId(4)]).unwrap();
    mixture.choose(&config("off"), [SeqId(2)]).unwrap();
    assert_eq!(lens(&mut mixture, 0, &[0, 1, 2, 3, 4]), [3, 5, 0, 3, 5]);
    assert_eq!(lens(&mut mixture, 1, &[4, 2]), [5, 0]);
    assert_eq!(lens(&mut mixture, 2, &[0, 3]), [3, 3]);
    for seq in 0..5 {
        mixture.forget(SeqId(seq));
    }
    assert_eq!(lens(&mut mixture, 3, &[1, 2]), [3, 3], "what has ended has no choice any more");
}

#[test]
fn batch_wide_rules_look_at_their_share() {
    let mut mixture = Mixture::new(config("batch_schedule:table=1-2:6;3-4:1;5-:2").build());
    mixture.choose(&config("fixed:k=4"), [SeqId(0), SeqId(1), SeqId(2)]).unwrap();
    assert_eq!(lens(&mut mixture, 0, &[0, 1, 2, 3, 4]), [4, 4, 4, 6, 6]);
}

#[test]
fn a_policy_too_many_is_refused_until_another_is_unused() {
    let mut mixture = Mixture::new(config("off").build());
    let fixed = |k: usize| config(&format!("fixed:k={k}"));
    for k in 1..=OTHERS_MAX {
        mixture.choose(&fixed(k), [SeqId(k as u64)]).unwrap();
    }
    let full = mixture.choose(&fixed(50), [SeqId(50)]).unwrap_err();
    assert!(full.to_string().contains("16 other policies are in use, fixed:k=50 would be one too many"));
    assert!(full.to_string().contains("fixed:k=1, fixed:k=2"), "{full}");
    mixture.choose(&fixed(7), [SeqId(51)]).unwrap();
    mixture.forget(SeqId(7));
    assert!(mixture.choose(&fixed(50), [SeqId(50)]).is_err(), "one of its two sequences goes on");
    mixture.forget(SeqId(51));
    mixture.choose(&fixed(50), [SeqId(50)]).unwrap();
    assert_eq!(lens(&mut mixture, 0, &[3, 7, 50]), [3, 0, 50]);
}

#[test]
fn what_was_learnt_outlives_the_sequences_while_there_is_room() {
    let after = |n_practised: u64| {
        let mut mixture = Mixture::new(config("off").build());
        for step in 0..n_practised {
            mixture.choose(&config("auto"), [SeqId(step)]).unwrap();
            lens(&mut mixture, step, &[step]);
            mixture.forget(SeqId(step));
        }
        mixture.choose(&config("auto"), [SeqId(1000)]).unwrap();
        crate::common::step(&mut mixture, 1000, &[fate(1000)])[0].reason
    };
    assert_eq!(after(0), "learning");
    assert_ne!(after(60), "learning");
}

/// What a main policy saw of its steps.
#[derive(Default)]
struct Seen {
    sequences: Vec<Vec<SeqId>>,
    prefill_rows: Vec<u32>,
    outcomes: Vec<Vec<SeqId>>,
    fed_prefill_rows: Vec<u32>,
    forgotten: Vec<SeqId>,
}

/// Plans one token for everyone and remembers what it is shown.
struct Recorder(Arc<Mutex<Seen>>);

impl Recorder {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Recorder {
    fn name(&self) -> String {
        "recorder".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.seen().sequences.push(view.sequences.iter().map(|sequence| sequence.seq).collect());
        self.seen().prefill_rows.push(view.prefill_rows);
        plan.fill(Planned { len: 1, width: 1, is_settled: true, reason: "recorded" });
    }

    fn trim(&mut self, view: &PlanView<'_>, drafted: &[&[DraftPosition]], verify_lens: &mut [u32]) {
        assert_eq!((view.sequences.len(), drafted.len()), (verify_lens.len(), verify_lens.len()));
        assert_eq!(Some(&view.prefill_rows), self.seen().prefill_rows.last(), "as planned");
        verify_lens.fill(0);
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        self.seen().outcomes.push(feedback.outcomes.iter().map(|outcome| outcome.seq).collect());
        self.seen().fed_prefill_rows.push(feedback.prefill_rows);
    }

    fn forget(&mut self, seq: SeqId) {
        self.seen().forgotten.push(seq);
    }
}

#[test]
fn the_others_appear_as_rows_of_prompts() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut mixture = Mixture::new(Box::new(Recorder(seen.clone())));
    mixture.choose(&config("fixed:k=4"), [SeqId(1), SeqId(2)]).unwrap();
    let fates: Vec<Fate> = (0..4).map(fate).collect();
    crate::common::step(&mut mixture, 0, &fates);
    crate::common::step(&mut mixture, 1, &fates[1..3]);
    mixture.forget(SeqId(0));
    mixture.forget(SeqId(1));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.sequences, [vec![SeqId(0), SeqId(3)], vec![]]);
    // Two other sequences with a row and four drafted tokens each.
    assert_eq!(seen.prefill_rows, [10, 10]);
    assert_eq!(seen.outcomes, [vec![SeqId(0), SeqId(3)], vec![]]);
    // The same, verified: its own drafts were trimmed away, theirs were not.
    assert_eq!(seen.fed_prefill_rows, [10, 10]);
    assert_eq!(seen.forgotten, [SeqId(0)], "the other one belongs to somebody else");
}

#[test]
fn only_a_policy_that_everybody_has_drafts_ahead() {
    let mut mixture = Mixture::new(config("faser:overlap=3").build());
    assert_eq!(mixture.ahead_len(), 3);
    mixture.choose(&config("off"), [SeqId(1)]).unwrap();
    assert_eq!(mixture.ahead_len(), 0);
    mixture.forget(SeqId(1));
    assert_eq!(mixture.ahead_len(), 3);
}

/// A sequence whose prompt has just ended emits without having been planned for; its rows are its prompt's.
#[test]
fn the_end_of_a_prompt_is_no_row_of_decoding() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut mixture = Mixture::new(Box::new(Recorder(seen.clone())));
    mixture.choose(&config("off"), [SeqId(1)]).unwrap();
    let sequences = [fate(1), fate(2)].map(|fate| crate::common::view_of(&fate));
    let whole = PlanView { prefill_rows: 7, ..crate::common::plan_view(0, &sequences) };
    mixture.plan(&whole, &mut [Planned::none(); 2]);
    let outcome = |seq, verified| Outcome {
        seq: SeqId(seq),
        planned: verified,
        drafted: verified,
        verified,
        accepted: 0,
        temperature: 0.0,
        context_len: 15,
        is_foreseen: false,
        signals: &[],
    };
    // Sequence 0 read the last 7 rows of its prompt, 1 decoded plainly, 2 verified one token: 7 + 1 + 2 rows.
    let outcomes = [outcome(0, 0), outcome(1, 0), outcome(2, 1)];
    mixture.observe(&StepFeedback {
        step: 0,
        outcomes: &outcomes,
        target_rows: 10,
        prefill_rows: 7,
        draft_rounds: 1,
        draft_rows: 1,
        experts: None,
        draft_time: Duration::ZERO,
        verify_time: Duration::ZERO,
        step_time: Duration::ZERO,
    });
    let seen = seen.lock().unwrap();
    assert_eq!((&seen.prefill_rows[..], &seen.fed_prefill_rows[..]), (&[8][..], &[8][..]));
    assert_eq!(seen.outcomes, [[SeqId(0), SeqId(2)]]);
}
