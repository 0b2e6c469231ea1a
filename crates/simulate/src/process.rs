//! Acceptance processes: at which places of a text the draft guesses right, and what can be seen of it.
//!
//! Whether the draft is right is a property of the place in the text, drawn once, and not of the step that comes by. For a greedy
//! draft model that is so in reality, since what it guesses depends on the tokens before and on nothing else; for sampled requests it
//! gives the same law, since a place is judged once. All policies therefore meet the same luck, and little time tells them apart.

pub mod answers;
pub mod recorded;
pub mod regimes;
pub mod ties;

use std::sync::Arc;

use dsde_policy::PositionSignals;

use crate::random::Random;
pub use recorded::Recording;
pub use regimes::{Regime, Regimes};

/// What a draft meets at one place of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Tokens that the draft thinks more probable than the text's; 0 where it guesses right.
    pub rank: u32,
    /// The draft's largest probability.
    pub top_prob: f32,
    /// How draft and target compare.
    pub signals: PositionSignals,
}

/// Chooses the places of all texts.
#[derive(Clone, Debug)]
pub enum Process {
    /// Synthetic.
    Regimes(Regimes),
    /// As a real pair met them.
    Recorded(Arc<Recording>),
}

/// The places of one text, as far as anybody has looked.
#[derive(Clone, Debug)]
pub struct Text {
    number: u64,
    random: Random,
    regimes: regimes::State,
    places: Vec<Place>,
}

impl Process {
    /// What is replayed, if something is.
    pub fn recording(&self) -> Option<&Recording> {
        match self {
            Self::Regimes(_) => None,
            Self::Recorded(recording) => Some(recording),
        }
    }

    /// Text `number`, nothing of it known yet.
    pub fn text(&self, seed: u64, number: u64) -> Text {
        let mut random = Random::new(&[seed, TEXTS, number]);
        let regimes = match self {
            Self::Regimes(regimes) => regimes.begin(&mut random),
            Self::Recorded(_) => regimes::State::default(),
        };
        Text { number, random, regimes, places: Vec::new() }
    }
}

/// Keeps the numbers of texts apart from those of loads.
const TEXTS: u64 = 0x7E87;

impl Text {
    /// Place `index`, counted from the first emitted token.
    pub fn place(&mut self, process: &Process, index: usize) -> Place {
        while self.places.len() <= index {
            let next = match process {
                Process::Regimes(regimes) => regimes.next(&mut self.regimes, &mut self.random),
                Process::Recorded(recording) => {
                    recording.place(self.number, self.places.len(), &mut self.random)
                }
            };
            self.places.push(next);
        }
        self.places[index]
    }
}

/// Share of the probability that is left which each further token gets; a guess, and of token trees only: no trace holds ranks.
const RANK_DECAY: f64 = 0.5;

/// Rank of a token that is not the draft's first.
fn later_rank(random: &mut Random) -> u32 {
    let steps = (1.0 - random.uniform()).ln() / RANK_DECAY.ln();
    1 + steps.min(1e6) as u32
}

/// Probability of the draft's token of a rank, of which none exceeds the one before.
pub(crate) fn rank_prob(top_prob: f32, rank: u32) -> f32 {
    if rank == 0 {
        return top_prob;
    }
    let decay = RANK_DECAY as f32;
    ((1.0 - top_prob) * (1.0 - decay) * decay.powi(rank as i32 - 1)).min(top_prob).max(f32::MIN_POSITIVE)
}
