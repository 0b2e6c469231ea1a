//! Proof by enumeration: the exact law of whatever is emitted, over tiny vocabularies.
//!
//! A [`Script`] answers draws like dice would, but [`for_each_outcome`] plays every sequence of answers once and knows its
//! probability. Summing over all of them gives the law of the emitted tokens without sampling error, so a wrong acceptance
//! test, residual or stop rule shows as a plain difference of numbers. Crates above use it to prove their own stop and trim
//! rules; it is no part of serving.
//!
//! ```
//! use dsde_sampling::{Rule, law};
//!
//! let target = |_: &[u32]| vec![0.7, 0.3];
//! let draft = |_: &[u32]| vec![0.5, 0.5];
//! let models = law::Models { target: &target, draft: &draft };
//! let emitted = law::of_emission(&target, 2, |script| {
//!     let drafted = models.drafted(&[], script, |_, len| len < 1);
//!     models.emitted(&[], &drafted, Rule::Block, script)
//! });
//! assert!(law::distance(&emitted, &law::of_target(&target, 2)) < 1e-6);
//! ```

use std::collections::BTreeMap;

use crate::{Draws, Evidence, Params, Proposal, Purpose, Rows, Rule, Verdict, Weights, verify};

/// A model over a tiny vocabulary: the distribution of the next token after a prefix.
pub type Model<'a> = &'a dyn Fn(&[u32]) -> Vec<f32>;

/// Probability of each sequence of tokens.
pub type Law = BTreeMap<Vec<u32>, f64>;

/// The law of the first `len` tokens of a model.
pub fn of_target(target: Model<'_>, len: usize) -> Law {
    let mut law = Law::new();
    extend(target, Vec::new(), 1.0, len, &mut law);
    law
}

/// The law of the first `len` tokens when a step emits some and the target draws the rest.
///
/// * `step`: emits tokens after the empty prefix; asks the script for every random decision, and nothing else.
pub fn of_emission(target: Model<'_>, len: usize, mut step: impl FnMut(&mut Script) -> Vec<u32>) -> Law {
    let mut law = Law::new();
    for_each_outcome(&mut step, |mut emitted, probability| {
        emitted.truncate(len);
        extend(target, emitted, probability, len, &mut law);
    });
    law
}

fn extend(target: Model<'_>, prefix: Vec<u32>, probability: f64, len: usize, law: &mut Law) {
    if prefix.len() == len {
        *law.entry(prefix).or_insert(0.0) += probability;
        return;
    }
    for (token, p) in target(&prefix).into_iter().enumerate().filter(|(_, p)| *p > 0.0) {
        let mut longer = prefix.clone();
        longer.push(token as u32);
        extend(target, longer, probability * f64::from(p), len, law);
    }
}

/// Total variation distance of two laws, in `0..=1`.
pub fn distance(a: &Law, b: &Law) -> f64 {
    let left = a.iter().map(|(key, p)| (p - b.get(key).unwrap_or(&0.0)).abs());
    let right = b.iter().filter(|(key, _)| !a.contains_key(*key)).map(|(_, p)| p);
    (left.sum::<f64>() + right.sum::<f64>()) / 2.0
}

/// Runs `experiment` once for every sequence of answers of positive probability, and hands each result with its probability
/// to `visit`.
pub fn for_each_outcome<T>(mut experiment: impl FnMut(&mut Script) -> T, mut visit: impl FnMut(T, f64)) {
    let mut script = Script::default();
    loop {
        let result = experiment(&mut script);
        visit(result, script.probability());
        if !script.advance() {
            return;
        }
    }
}

/// Draws that follow a plan instead of chance.
#[derive(Clone, Debug, Default)]
pub struct Script {
    decisions: Vec<Decision>,
    /// Decisions that have been asked for in this run.
    asked: usize,
}

/// One random decision: its possible answers with their probabilities, the current one last.
#[derive(Clone, Debug)]
struct Decision {
    /// Never empty; the answers after the current one wait in front of it.
    answers: Vec<(u32, f64)>,
}

impl Script {
    /// Answers with the planned alternative; a decision beyond the plan takes its first one.
    ///
    /// * `answers`: with their probabilities; impossible ones are left out of the enumeration.
    fn decide(&mut self, answers: impl Iterator<Item = (u32, f64)>) -> u32 {
        if self.asked == self.decisions.len() {
            let mut answers: Vec<_> = answers.filter(|&(_, probability)| probability > 0.0).collect();
            answers.reverse();
            self.decisions.push(Decision { answers });
        }
        let decision = &self.decisions[self.asked];
        self.asked += 1;
        decision.current().0
    }

    fn probability(&self) -> f64 {
        self.decisions.iter().map(|decision| decision.current().1).product()
    }

    /// Turns to the next run: the last decision with answers left takes its next one, later decisions are forgotten.
    fn advance(&mut self) -> bool {
        self.asked = 0;
        while let Some(mut decision) = self.decisions.pop() {
            decision.answers.pop();
            if !decision.answers.is_empty() {
                self.decisions.push(decision);
                return true;
            }
        }
        false
    }
}

impl Decision {
    fn current(&self) -> (u32, f64) {
        *self.answers.last().expect("a decision has at least one possible answer")
    }
}

impl Draws for Script {
    fn accept(&mut self, _index: u32, probability: f64) -> bool {
        self.decide([(1, probability), (0, 1.0 - probability)].into_iter()) == 1
    }

    fn token(&mut self, _purpose: Purpose, _index: u32, weights: Weights<'_>) -> u32 {
        let mass = weights.mass();
        let share = |token| weights.weight(token as usize) / mass;
        self.decide((0..weights.vocab_len() as u32).map(|token| (token, share(token))))
    }
}

/// A pair of models whose speculation is examined.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// The model that decides.
    pub target: Model<'a>,
    /// The model that guesses.
    pub draft: Model<'a>,
}

/// A proposal and the distributions its tokens were drawn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drafted {
    /// The tokens.
    pub proposal: Proposal,
    /// One row per node; `None` if the tokens were not sampled.
    pub rows: Option<Vec<Vec<f32>>>,
}

impl Models<'_> {
    /// Draws a chain from the draft after `prefix`.
    ///
    /// * `keep_drafting(next_row, len)`: asked before each token with the distribution it would be drawn from and the length
    ///   so far; false ends the chain. Whatever it computes from these two is a function of the prefix.
    pub fn drafted(
        &self,
        prefix: &[u32],
        draws: &mut impl Draws,
        mut keep_drafting: impl FnMut(&[f32], u32) -> bool,
    ) -> Drafted {
        let mut proposal = Proposal::new();
        let mut rows = Vec::new();
        loop {
            let row = (self.draft)(&[prefix, proposal.tokens()].concat());
            if !keep_drafting(&row, proposal.len()) {
                let rows = Some(rows);
                return Drafted { proposal, rows };
            }
            proposal.push_chain(draws.token(Purpose::Draft, proposal.len(), Weights::Row(&row)));
            rows.push(row);
        }
    }

    /// Verifies a proposal after `prefix` at temperature 1.
    pub fn verdict(&self, prefix: &[u32], drafted: &Drafted, rule: Rule, draws: &mut impl Draws) -> Verdict {
        let proposal = &drafted.proposal;
        let root = (self.target)(prefix);
        let vocab_len = root.len();
        let below = (0..proposal.len()).map(|node| (self.target)(&[prefix, &proposal.path(node)].concat()));
        let target: Vec<f32> = std::iter::once(root).chain(below).flatten().collect();
        let draft = drafted.rows.as_ref().map(|rows| rows.concat());
        let evidence = Evidence {
            proposal,
            target: Rows::new(&target, vocab_len),
            draft: draft.as_deref().map(|values| Rows::new(values, vocab_len)),
        };
        let params = Params { temperature: 1.0, ..Params::greedy() };
        verify(&params, rule, &evidence, draws)
    }

    /// Verifies a proposal after `prefix` at temperature 1 and returns the emitted tokens.
    pub fn emitted(&self, prefix: &[u32], drafted: &Drafted, rule: Rule, draws: &mut impl Draws) -> Vec<u32> {
        self.verdict(prefix, drafted, rule, draws).emitted(&drafted.proposal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coin(_: &[u32]) -> Vec<f32> {
        vec![0.25, 0.75]
    }

    /// Forbids a token twice in a row.
    fn alternating(prefix: &[u32]) -> Vec<f32> {
        match prefix.last() {
            None => vec![0.5, 0.5],
            Some(0) => vec![0.0, 1.0],
            Some(_) => vec![1.0, 0.0],
        }
    }

    fn check(law: Law, expected: &[(&[u32], f64)]) {
        let expected: Law = expected.iter().map(|(tokens, p)| (tokens.to_vec(), *p)).collect();
        assert_eq!(law, expected);
    }

    #[test]
    fn the_law_of_a_model_multiplies_along_the_prefix() {
        check(of_target(&coin, 0), &[(&[], 1.0)]);
        check(
            of_target(&coin, 2),
            &[(&[0, 0], 0.0625), (&[0, 1], 0.1875), (&[1, 0], 0.1875), (&[1, 1], 0.5625)],
        );
        check(of_target(&alternating, 3), &[(&[0, 1, 0], 0.5), (&[1, 0, 1], 0.5)]);
    }

    #[test]
    fn emissions_are_cut_or_continued_to_the_length() {
        check(of_emission(&alternating, 2, |_| vec![0]), &[(&[0, 1], 1.0)]);
        check(of_emission(&alternating, 1, |_| vec![1, 1]), &[(&[1], 1.0)]);
    }

    #[test]
    fn every_outcome_is_visited_once_with_its_probability() {
        let mut outcomes = Vec::new();
        for_each_outcome(
            |script| {
                let token = script.token(Purpose::Draft, 0, Weights::Row(&[1.0, 0.0, 3.0]));
                // Only token 2 asks again; certain answers leave one way.
                let is_kept = token == 0 || script.accept(0, 0.25);
                (token, is_kept, script.accept(1, 1.0))
            },
            |outcome, probability| outcomes.push((outcome, probability)),
        );
        let expected = [((0, true, true), 0.25), ((2, true, true), 0.1875), ((2, false, true), 0.5625)];
        assert_eq!(outcomes, expected);
    }

    #[test]
    fn distance_counts_what_only_one_law_knows() {
        let law =
            |pairs: &[(u32, f64)]| -> Law { pairs.iter().map(|&(token, p)| (vec![token], p)).collect() };
        let (a, b) = (law(&[(0, 0.5), (1, 0.5)]), law(&[(1, 0.75), (2, 0.25)]));
        assert_eq!(distance(&a, &a), 0.0);
        // (0.5 + 0.25 + 0.25) / 2
        assert_eq!(distance(&a, &b), 0.5);
        assert_eq!(distance(&b, &a), 0.5);
    }
}
