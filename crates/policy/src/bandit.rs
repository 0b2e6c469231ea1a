//! Try every length, prefer what has paid: lengths, and drafters if asked for, as the arms of a bandit with upper confidence bounds.
//!
//! Hou et al., "BanditSpec: Adaptive Speculative Decoding via Bandit Algorithms", ICML 2025, arXiv:2505.15141, with the arms
//! being lengths, or a drafter and a length each. The reward of a step is what the user sees: emitted tokens per
//! second. An arm's index is its mean reward plus a bonus that shrinks as it is played, so that no length is given up on
//! by bad luck; the bound on the regret is the usual one, of order log t.
//!
//! | rule | here |
//! |---|---|
//! | play every arm once, in order | `Context::choice` |
//! | then `argmax mean_a + sqrt(2 ln t / n_a)` | [`index`], `Context::choice` |
//! | reward: emitted tokens / time of the step | [`Bandit::observe`](Policy::observe) |
//!
//! Deviations:
//! * The bonus counts the plays of its own arm, as in the textbook (UCB1, Auer et al. 2002). The released code divides by
//!   those of all arms: its bonus is the same for every arm, and the choice greedy.
//! * Mean rewards are divided by the largest of them. UCB1 needs rewards up to 1, and tokens per second have no scale.
//! * Every power of two of the batch size learns by itself. A step for 32 sequences emits more per second than one for 2,
//!   whatever the length; in one common mean a rising load would praise the length that happens to be played.
//! * 0 is an arm: plain decoding must be an option under load. The released code plays 1 to 4.
//! * Arms that every sequence's limit would clip are not played, and those of a drafter that has nothing to offer.
//! * There is no window and no discount, as published: within a range of batch sizes rewards are taken to be stationary.

use crate::registry::{Entry, LEN_MAX, Parameter, Settings, ValueSet};
use crate::{Error, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};

/// The row of this policy in the registry.
pub static ENTRY: Entry = Entry {
    name: "bandit",
    summary: "the same length for every sequence, by upper confidence bounds on emitted tokens per second",
    source: "Hou et al., arXiv:2505.15141",
    parameters: &[
        Parameter {
            key: "k_min",
            values: ValueSet::Count { min: 0, max: LEN_MAX },
            default: Some("0"),
            meaning: "shortest length that is played, tokens",
        },
        Parameter {
            key: "k_max",
            values: ValueSet::Count { min: 0, max: LEN_MAX },
            default: Some("4"),
            meaning: "longest length that is played, tokens",
        },
        Parameter {
            key: "explore",
            values: ValueSet::Number { min: 0.0, max: 10.0 },
            default: Some("1"),
            meaning: "weight of the bonus, in shares of the best mean reward",
        },
        Parameter {
            key: "drafters",
            values: ValueSet::Count { min: 1, max: 2 },
            default: Some("1"),
            meaning: "drafters that are arms: 2 has arms of the draft model's and of what repeats, where there are both",
        },
    ],
    presets: &[],
    is_per_sequence: false,
    build: |settings| Ok(Box::new(Bandit::new(settings)?)),
};

/// Ranges of batch sizes that learn separately: 1, 2 and 3, 4 to 7, and so on; the last has no end.
const N_CONTEXTS: usize = 12;

/// Upper confidence bound of an arm, in shares of the best mean reward.
///
/// UCB1 (Auer et al. 2002): `mean_a + sqrt(2 ln t / n_a)`, the bonus weighed by `explore`.
///
/// * `mean_share`: the arm's mean reward over the best arm's.
/// * `n`, `t`: plays of the arm and of all arms, at least 1.
pub fn index(mean_share: f64, n: u64, t: u64, explore: f64) -> f64 {
    mean_share + explore * (2.0 * (t as f64).ln() / n as f64).sqrt()
}

/// What an arm stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    len: u32,
    /// Whether sequences that can choose draft what was foreseen.
    is_foreseen: bool,
}

/// One arm within one context.
#[derive(Clone, Copy, Debug, Default)]
struct Arm {
    /// How often it was played.
    n: u64,
    /// Mean of emitted tokens per second.
    mean: f64,
}

impl Arm {
    fn learn(&mut self, reward: f64) {
        self.n += 1;
        self.mean += (reward - self.mean) / self.n as f64;
    }
}

/// What one range of batch sizes has learnt, one arm per choice.
#[derive(Clone, Debug)]
struct Context {
    arms: Vec<Arm>,
}

impl Context {
    /// Position of the arm to play among those that `is_playable`; `None` without any. The first wins ties.
    fn choice(&self, is_playable: impl Fn(usize) -> bool, explore: f64) -> Option<usize> {
        let arms = || self.arms.iter().enumerate().filter(|(i, _)| is_playable(*i));
        if let Some((unplayed, _)) = arms().find(|(_, arm)| arm.n == 0) {
            return Some(unplayed);
        }
        let t = arms().map(|(_, arm)| arm.n).sum();
        let best_mean = arms().map(|(_, arm)| arm.mean).fold(f64::MIN_POSITIVE, f64::max);
        let indices = arms().map(|(i, arm)| (i, index(arm.mean / best_mean, arm.n, t, explore)));
        indices.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(i, _)| i)
    }
}

/// Where the reward of the step under way belongs.
#[derive(Clone, Copy, Debug)]
struct Play {
    context_idx: usize,
    arm_idx: usize,
}

/// Plans the choice with the highest upper confidence bound.
#[derive(Clone, Debug)]
pub struct Bandit {
    name: String,
    explore: f64,
    choices: Vec<Choice>,
    contexts: Vec<Context>,
    /// `None` if nobody could speculate.
    play: Option<Play>,
}

impl Bandit {
    /// Reads the settings of [`ENTRY`]; nothing is learnt yet.
    ///
    /// # Errors
    /// [`Error::Order`] if `k_min > k_max`.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let (k_min, k_max) = (settings.count("k_min"), settings.count("k_max"));
        settings.check_order(("k_min", k_min), ("k_max", k_max))?;
        let of_model = (k_min..=k_max).map(|len| Choice { len, is_foreseen: false });
        // Drafting nothing is the same whoever does it.
        let n_repeating = if settings.count("drafters") > 1 { k_max } else { 0 };
        let repeating = (k_min.max(1)..=n_repeating).map(|len| Choice { len, is_foreseen: true });
        let choices: Vec<Choice> = of_model.chain(repeating).collect();
        let context = Context { arms: vec![Arm::default(); choices.len()] };
        Ok(Self {
            name: settings.name(),
            explore: settings.number("explore"),
            choices,
            contexts: vec![context; N_CONTEXTS],
            play: None,
        })
    }
}

impl Policy for Bandit {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, view: &PlanView<'_>, plan: &mut [Planned]) {
        self.play = None;
        let Some(batch_size_log2) = view.sequences.len().checked_ilog2() else {
            return;
        };
        let context_idx = (batch_size_log2 as usize).min(N_CONTEXTS - 1);
        let limit = view.sequences.iter().map(|sequence| sequence.limit).max().unwrap_or(0);
        let is_offered = view.sequences.iter().any(|sequence| sequence.can_choose && sequence.foreseen.1 > 0);
        let is_playable = |arm_idx: usize| {
            let Choice { len, is_foreseen } = self.choices[arm_idx];
            len <= limit && (is_offered || !is_foreseen)
        };
        if let Some(arm_idx) = self.contexts[context_idx].choice(is_playable, self.explore) {
            self.play = Some(Play { context_idx, arm_idx });
            let Choice { len, is_foreseen } = self.choices[arm_idx];
            for (planned, sequence) in plan.iter_mut().zip(view.sequences) {
                let has_nothing = is_foreseen && sequence.can_choose && sequence.foreseen.1 == 0;
                let len = if has_nothing { 0 } else { len };
                *planned = Planned { len, width: 1, is_settled: true, reason: "bandit" };
            }
        }
    }

    fn takes_foreseen(&self, _seq: SeqId) -> bool {
        self.play.is_some_and(|play| self.choices[play.arm_idx].is_foreseen)
    }

    fn observe(&mut self, feedback: &StepFeedback<'_>) {
        let seconds = feedback.step_time.as_secs_f64();
        if let Some(Play { context_idx, arm_idx }) = self.play.take()
            && seconds > 0.0
        {
            let emitted: u32 = feedback.outcomes.iter().map(|outcome| outcome.emitted()).sum();
            self.contexts[context_idx].arms[arm_idx].learn(f64::from(emitted) / seconds);
        }
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_of_hand_computed_arms() {
        // ln 1 = 0: no bonus.
        assert_eq!(index(1.0, 1, 1, 1.0), 1.0);
        // 2 ln 8 / 2 = 2.0794, its root 1.4420.
        assert!((index(0.5, 2, 8, 1.0) - 1.9420).abs() < 1e-4);
        assert!((index(0.5, 2, 8, 0.5) - 1.2210).abs() < 1e-4);
        assert_eq!(index(0.5, 2, 8, 0.0), 0.5);
    }

    fn check(arms: &[(u64, f64)], n_arms: usize, explore: f64, expected: Option<usize>) {
        let context = Context { arms: arms.iter().map(|&(n, mean)| Arm { n, mean }).collect() };
        assert_eq!(
            context.choice(|i| i < n_arms, explore),
            expected,
            "{arms:?}, {n_arms} of them, explore {explore}"
        );
    }

    #[test]
    fn the_arm_with_the_highest_bound_is_played() {
        check(&[(1, 50.0), (0, 0.0), (0, 0.0)], 3, 1.0, Some(1));
        // Greedy: the best mean, the first of equals.
        check(&[(9, 50.0), (9, 80.0), (9, 80.0)], 3, 0.0, Some(1));
        // t = 102, 2 ln t = 9.25: 1 + 0.30 for the often played, 0.9 + 2.15 for the other.
        check(&[(100, 100.0), (2, 90.0)], 2, 1.0, Some(1));
        // A tenth of the bonus: 1.03 against 0.7 + 0.215.
        check(&[(100, 100.0), (2, 70.0)], 2, 0.1, Some(0));
        // Arms above the limit are not played, not even to try them.
        check(&[(9, 50.0), (9, 80.0), (0, 0.0)], 2, 0.0, Some(1));
        check(&[(9, 50.0)], 0, 1.0, None);
        // Rewards of nothing.
        check(&[(1, 0.0), (1, 0.0)], 2, 1.0, Some(0));
    }

    #[test]
    fn means_are_those_of_the_rewards() {
        let mut arm = Arm::default();
        for (reward, mean) in [(100.0, 100.0), (200.0, 150.0), (0.0, 100.0)] {
            arm.learn(reward);
            assert_eq!(arm.mean, mean);
        }
        assert_eq!(arm.n, 3);
    }
}
