//! What passes of several sizes cost on this machine, measured before anybody waits for them.
//!
//! A profile is a list of steps over made-up sequences that were told how far to draft. It teaches costs and nothing else: what
//! is accepted of made-up text says nothing about real text. Every policy that knows costs takes it in through
//! [`Policy::learn_costs`], refines it with every real step, and without it learns costs from its first steps instead.

use std::time::Duration;

use crate::{ExpertsWoken, Outcome, Policy, SeqId, StepFeedback};

/// One step of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Measured {
    /// Tokens drafted and verified, and positions stored, per sequence.
    sequences: Vec<(u32, u32)>,
    target_rows: u32,
    draft_rounds: u32,
    draft_rows: u32,
    experts: Option<ExpertsWoken>,
    draft_time: Duration,
    verify_time: Duration,
    step_time: Duration,
}

/// Measured steps without prompts, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CostProfile {
    steps: Vec<Measured>,
}

impl CostProfile {
    /// Keeps a step; one that read prompts is left out, since its rows are not those of decoding.
    pub fn record(&mut self, feedback: &StepFeedback<'_>) {
        if feedback.prefill_rows > 0 {
            return;
        }
        self.steps.push(Measured {
            sequences: feedback.outcomes.iter().map(|o| (o.drafted, o.context_len)).collect(),
            target_rows: feedback.target_rows,
            draft_rounds: feedback.draft_rounds,
            draft_rows: feedback.draft_rows,
            experts: feedback.experts,
            draft_time: feedback.draft_time,
            verify_time: feedback.verify_time,
            step_time: feedback.step_time,
        });
    }

    /// Steps that were kept.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was kept.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Lets a policy learn from every step.
    pub fn teach(&self, policy: &mut dyn Policy) {
        for step in &self.steps {
            let outcome = |(seq, &(len, context_len))| Outcome {
                seq: SeqId(seq),
                planned: len,
                drafted: len,
                verified: len,
                accepted: 0,
                temperature: 0.0,
                context_len,
                is_foreseen: false,
                signals: &[],
            };
            let outcomes: Vec<Outcome<'_>> = (0..).zip(&step.sequences).map(outcome).collect();
            policy.learn_costs(&StepFeedback {
                step: 0,
                outcomes: &outcomes,
                target_rows: step.target_rows,
                prefill_rows: 0,
                draft_rounds: step.draft_rounds,
                draft_rows: step.draft_rows,
                experts: step.experts,
                draft_time: step.draft_time,
                verify_time: step.verify_time,
                step_time: step.step_time,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{FEEDBACK, OUTCOME};
    use crate::{PlanView, Planned, Signals};

    /// Keeps what it is taught.
    #[derive(Default)]
    struct Pupil {
        profile: CostProfile,
    }

    impl Policy for Pupil {
        fn name(&self) -> String {
            String::new()
        }

        fn signals(&self) -> Signals {
            Signals::default()
        }

        fn plan(&mut self, _view: &PlanView<'_>, _plan: &mut [Planned]) {}

        fn observe(&mut self, _feedback: &StepFeedback<'_>) {
            panic!("a profile is no traffic");
        }

        fn learn_costs(&mut self, feedback: &StepFeedback<'_>) {
            self.profile.record(feedback);
        }

        fn forget(&mut self, _seq: SeqId) {}
    }

    #[test]
    fn what_is_recorded_is_taught_and_prompts_are_left_out() {
        let outcome = |drafted| Outcome {
            seq: SeqId(7),
            planned: drafted,
            drafted,
            verified: drafted,
            accepted: 1,
            context_len: 40,
            ..OUTCOME
        };
        let outcomes = [outcome(2), outcome(1)];
        let mut profile = CostProfile::default();
        for prefill_rows in [0, 9] {
            profile.record(&StepFeedback {
                step: 3,
                outcomes: &outcomes,
                target_rows: 5 + prefill_rows,
                prefill_rows,
                draft_rounds: 2,
                draft_rows: 4,
                draft_time: Duration::from_millis(1),
                verify_time: Duration::from_millis(2),
                step_time: Duration::from_millis(4),
                ..FEEDBACK
            });
        }
        assert_eq!((profile.len(), &profile.steps[0].sequences[..]), (1, &[(2, 40), (1, 40)][..]));
        let mut pupil = Pupil::default();
        profile.teach(&mut pupil);
        assert_eq!(pupil.profile, profile);
    }
}
