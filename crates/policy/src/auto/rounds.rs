//! Which draft rounds a step took, from what each sequence drafted.

use crate::StepFeedback;

/// Rows of every draft round of a step, and what they attended to.
pub(super) struct Rounds {
    pub(super) rows: Vec<u32>,
    /// Positions stored by the sequences that draft in each.
    pub(super) stored: Vec<f64>,
    /// Whether the first round read much more than the token or two that every sequence leaves unread.
    pub(super) catches_up: bool,
}

impl Rounds {
    pub(super) fn of(feedback: &StepFeedback<'_>) -> Self {
        let guessed = || feedback.outcomes.iter().filter(|outcome| !outcome.is_foreseen);
        let deepest = guessed().map(|outcome| outcome.drafted).max().unwrap_or(0) as usize;
        let (mut rows, mut stored) = (vec![0; deepest], vec![0.0; deepest]);
        for outcome in guessed() {
            let drafted = outcome.drafted as usize;
            rows[..drafted].iter_mut().for_each(|rows| *rows += 1);
            stored[..drafted].iter_mut().for_each(|stored| *stored += f64::from(outcome.context_len));
        }
        let mut catches_up = false;
        if let Some(first) = rows.first_mut() {
            let n_drafting = *first;
            let others: u32 = guessed().map(|outcome| outcome.drafted.saturating_sub(1)).sum();
            *first = feedback.draft_rows.saturating_sub(others).max(n_drafting);
            catches_up = *first > 2 * n_drafting;
        }
        Self { rows, stored, catches_up }
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
            assert_eq!((&rounds.rows[..], rounds.catches_up), (expected, catches_up), "{lens:?}");
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
