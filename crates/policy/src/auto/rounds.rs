//! Which draft rounds a step took, from what each sequence drafted.

use crate::StepFeedback;

/// A draft round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    pub(super) rows: u32,
    /// Positions stored by the sequences that draft in it.
    pub(super) stored: f64,
}

/// The draft rounds of a step.
pub(super) struct Rounds {
    pub(super) rounds: Vec<Round>,
    /// Whether the first round read much more than the token or two that every sequence leaves unread.
    pub(super) catches_up: bool,
}

impl Rounds {
    pub(super) fn of(feedback: &StepFeedback<'_>) -> Self {
        let guessed = || feedback.outcomes.iter().filter(|outcome| !outcome.is_foreseen);
        let deepest = guessed().map(|outcome| outcome.drafted).max().unwrap_or(0) as usize;
        let mut rounds = vec![Round::default(); deepest];
        for outcome in guessed() {
            for round in &mut rounds[..outcome.drafted as usize] {
                round.rows += 1;
                round.stored += f64::from(outcome.context_len);
            }
        }
        let mut catches_up = false;
        if let Some(first) = rounds.first_mut() {
            let n_drafting = first.rows;
            let others: u32 = guessed().map(|outcome| outcome.drafted.saturating_sub(1)).sum();
            first.rows = feedback.draft_rows.saturating_sub(others).max(n_drafting);
            catches_up = first.rows > 2 * n_drafting;
        }
        Self { rounds, catches_up }
    }
}

#[cfg(test)]
mod tests {
    use super::super::costs::tests::{feedback, outcome};
    use super::*;
    use crate::Outcome;

    #[test]
    fn rounds_shrink_as_sequences_stop() {
        let check = |lens: &[u32], draft_rows, expected: &[u32], catches_up| {
            let outcomes: Vec<Outcome<'_>> = lens.iter().map(|&len| outcome(len)).collect();
            let rounds = Rounds::of(&feedback(&outcomes, draft_rows, 1, 1));
            let rows: Vec<u32> = rounds.rounds.iter().map(|round| round.rows).collect();
            assert_eq!((&rows[..], rounds.catches_up), (expected, catches_up), "{lens:?}");
        };
        // Three sequences, of which one reads two tokens in the first round.
        check(&[3, 1, 2], 7, &[4, 2, 1], false);
        // One sequence that had 40 tokens to read.
        check(&[2], 41, &[40, 1], true);
        check(&[0, 0], 0, &[], false);
        // Rows that were not reported.
        check(&[2, 2], 0, &[2, 2], false);
    }
}
