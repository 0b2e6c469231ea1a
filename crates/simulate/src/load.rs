//! Load: who asks when, for how much, and how soon it must come.

mod arrivals;
mod lengths;

use std::sync::Arc;
use std::time::Duration;

use dsde_bench::LatencyClasses;

pub use arrivals::{Arrivals, recorded};
pub use lengths::Lengths;

use crate::faults::Faults;
use crate::process::Recording;
use crate::process::recorded::RecordedText;
use crate::random::Random;

/// One request to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// When, in an open load; in a closed one it comes when another has ended.
    pub arrival: Option<Duration>,
    /// Tokens of its prompt, at least 1.
    pub prompt_len: u32,
    /// Tokens of its answer, at least 1.
    pub output_len: u32,
    /// How long after its arrival it is cancelled, if it is.
    pub patience: Option<Duration>,
}

/// How requests follow each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// So many in flight at any time: one comes when one ends.
    Closed(u32),
    /// At times of their own.
    Open(Arrivals),
}

/// Where the lengths of requests come from.
#[derive(Clone, Debug)]
pub enum Sizes {
    /// Two distributions.
    Drawn {
        /// Of prompts.
        prompt: Lengths,
        /// Of answers.
        output: Lengths,
    },
    /// Pairs of a file, in order and from its beginning again.
    Listed(Arc<[(u32, u32)]>),
    /// Those of the requests that are replayed.
    Recorded {
        /// The requests.
        recording: Arc<Recording>,
        /// Of answers, if not as recorded.
        output: Option<Lengths>,
    },
}

/// A load without its traffic.
#[derive(Clone, Debug)]
pub struct Load {
    /// Requests.
    pub n_requests: usize,
    /// How large they are.
    pub sizes: Sizes,
    /// Tokens that all prompts begin with.
    pub shared_prefix: u32,
    /// Longest context, which bounds prompt and answer together, tokens.
    pub context_len_max: u32,
    /// Latency classes, taken in turns.
    pub classes: LatencyClasses,
}

/// Keeps the numbers of loads apart from those of texts.
const LOADS: u64 = 0x10AD;

impl Load {
    /// All requests of the load; the same for every policy.
    pub fn demands(&self, traffic: &Traffic, faults: &Faults, seed: u64) -> Vec<Demand> {
        let mut random = Random::new(&[seed, LOADS]);
        let mut clock = arrivals::Clock::default();
        let demand = |i: usize| {
            let arrival = match traffic {
                Traffic::Closed(_) => None,
                Traffic::Open(arrivals) => Some(clock.next(arrivals, i, &mut random)),
            };
            let (prompt_len, output_len) = self.lens(i, &mut random);
            let patience = faults.cancellation(&mut random);
            Demand { arrival, prompt_len, output_len: self.staggered(traffic, i, output_len), patience }
        };
        (0..self.n_requests).map(demand).collect()
    }

    /// Most tokens of prompt and answer together.
    pub fn longest(&self) -> u32 {
        let longest = match &self.sizes {
            Sizes::Drawn { prompt, output } => prompt.longest().saturating_add(output.longest()),
            Sizes::Listed(pairs) => pairs.iter().map(|(a, b)| a.saturating_add(*b)).max().unwrap_or(0),
            Sizes::Recorded { recording, output } => {
                let text = |text: &RecordedText| {
                    let output_len = output.as_ref().map_or(text.output_len, Lengths::longest);
                    text.prompt_len.saturating_add(output_len)
                };
                recording.texts().iter().map(text).max().unwrap_or(0)
            }
        };
        longest.saturating_add(self.shared_prefix).min(self.context_len_max)
    }

    fn lens(&self, i: usize, random: &mut Random) -> (u32, u32) {
        let (prompt_len, output_len) = match &self.sizes {
            Sizes::Drawn { prompt, output } => (prompt.draw(random), output.draw(random)),
            Sizes::Listed(pairs) => pairs[i % pairs.len()],
            Sizes::Recorded { recording, output } => {
                let text = &recording.texts()[i % recording.texts().len()];
                let output_len = output.as_ref().map_or(text.output_len, |output| output.draw(random));
                (text.prompt_len, output_len)
            }
        };
        let prompt_len = self.shared_prefix.saturating_add(prompt_len).clamp(1, self.context_len_max - 1);
        (prompt_len, output_len.clamp(1, self.context_len_max - prompt_len))
    }

    /// Where there are two requests per slot or more, the first ones of a closed load have from one share to all of their tokens, so
    /// that later ones come one by one, as in `dsde bench`.
    fn staggered(&self, traffic: &Traffic, i: usize, output_len: u32) -> u32 {
        match *traffic {
            Traffic::Closed(n) if i < n as usize && self.n_requests >= 2 * n as usize => {
                (u64::from(output_len) * (i as u64 + 1)).div_ceil(u64::from(n)) as u32
            }
            _ => output_len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(n_requests: usize) -> Load {
        Load {
            n_requests,
            sizes: Sizes::Drawn { prompt: Lengths::Fixed(100), output: Lengths::Fixed(40) },
            shared_prefix: 0,
            context_len_max: 4096,
            classes: LatencyClasses::default(),
        }
    }

    #[test]
    fn the_first_requests_of_a_closed_load_are_staggered() {
        let lens = |load: &Load, n| {
            let demands = load.demands(&Traffic::Closed(n), &Faults::default(), 1);
            demands.iter().map(|demand| demand.output_len).collect::<Vec<_>>()
        };
        assert_eq!(lens(&load(8), 4), [10, 20, 30, 40, 40, 40, 40, 40]);
        assert_eq!(lens(&load(7), 4), [40; 7]);
    }

    #[test]
    fn prompts_and_answers_fit_into_the_context() {
        let load = Load { context_len_max: 120, shared_prefix: 50, ..load(1) };
        let demand = load.demands(&Traffic::Closed(1), &Faults::default(), 1)[0];
        assert_eq!((demand.prompt_len, demand.output_len), (119, 1));
    }

    #[test]
    fn a_load_is_that_of_its_seed() {
        let traffic = Traffic::Open(Arrivals::Random { rate: 3.0, cv: 1.0 });
        let demands = |seed| load(20).demands(&traffic, &Faults::default(), seed);
        assert_eq!(demands(1), demands(1));
        assert_ne!(demands(1), demands(2));
    }
}
