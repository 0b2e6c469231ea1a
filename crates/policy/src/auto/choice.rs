//! Which draft tokens are worth the time they take: lengths that maximise weighted progress per second.
//!
//! ```text
//!            sum over r of w_r (1 + sum over j <= l_r of a_rj)
//! rate(l) = ---------------------------------------------------
//!                  T_draft(l) + T_target(rows + sum of l)
//! ```
//!
//! `a_rj` is the survival of position `j`, `T_draft` one round per level over the sequences that reach it, plus a share of
//! the catching up that a sequence needs first. A request's survivals only fall, so the best set of a given size and depth
//! is the head of all positions ranked by `w_r a_rj`, and the best of all heads of all depths wins. Nothing here was drafted yet, so
//! nothing can leak.
//!
//! Measured costs have bumps, so a worse head says nothing about longer ones. Heads are left out where all positions of their depth, at
//! the least time that any of them takes, would not do, which spares deep levels even the ranking; where the last search ended is what
//! has to be beaten, since steps are alike. A head without a position of the deepest level was tried before.
//!
//! A step that also reads prompts has time in it that no length changes, and its rate is low whatever is drafted. There the
//! time has the price that it has in steps without prompts, and the lengths maximise `progress - price * seconds`.

mod head;
mod ranking;
#[cfg(test)]
mod tests;

use head::{Head, Mark};
use ranking::Ranking;

/// Longest length that is considered, tokens.
pub(super) const DEPTH_MAX: usize = 16;

/// One sequence that may speculate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Weight of its progress, at least 1.
    pub(super) weight: f64,
    /// Probability that positions `0..=j` are all accepted; falling, and 0 beyond what may be planned.
    pub(super) survivals: [f64; DEPTH_MAX],
    /// Seconds that its first draft costs on top of the round, for what the draft has not read.
    pub(super) catch_up: f64,
    /// Seconds that each of its drafts takes for attending to its context, beyond a row of the pass and one of a round.
    pub(super) row_seconds: f64,
    /// Whether its drafts take no rounds, since they are there already.
    pub(super) is_foreseen: bool,
}

impl Candidate {
    /// Most tokens that may be planned.
    pub(super) fn len_max(&self) -> u32 {
        self.survivals.iter().take_while(|&&survival| survival > 0.0).count() as u32
    }

    /// Worth of a position that survives with this probability, less what attending to the context is worth elsewhere.
    ///
    /// * `rate`: of plain decoding, tokens per second.
    fn net(&self, survival: f64, rate: f64) -> f64 {
        self.weight * survival - rate * self.row_seconds
    }

    /// Probability that position `index` is accepted if all before it are; 0 beyond what may be planned.
    pub(super) fn chance(&self, index: usize) -> f64 {
        let survival = self.survivals.get(index).copied().unwrap_or(0.0);
        let before = index.checked_sub(1).map_or(1.0, |before| self.survivals[before]);
        if survival > 0.0 { survival / before } else { 0.0 }
    }
}

/// Times of a step that could be taken, seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Prices {
    /// Target pass with `i` draft rows; its length bounds the draft rows.
    pub(super) target: Vec<f64>,
    /// First draft round of `i` sequences, which may have to read a token more than one.
    pub(super) first_round: Vec<f64>,
    /// Later draft round of `i` sequences.
    pub(super) round: Vec<f64>,
}

/// What the best lengths are best in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Objective {
    /// Weighted tokens per second.
    Rate,
    /// Weighted tokens, less this many for each second.
    Surplus(f64),
}

impl Objective {
    fn value(self, tokens: f64, seconds: f64) -> f64 {
        match self {
            Self::Rate => tokens / seconds,
            Self::Surplus(price) => tokens - price * seconds,
        }
    }

    /// Seconds beyond which so many tokens do not reach `value`, whatever rounding did.
    fn seconds_to_reach(self, value: f64, tokens: f64) -> f64 {
        let slack = SLACK * (tokens + value.abs());
        match self {
            Self::Rate => (1.0 + SLACK) * tokens / value,
            Self::Surplus(price) => (tokens - value + slack) / price,
        }
    }
}

/// The best lengths found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Best {
    /// In terms of the objective.
    pub(super) value: f64,
    /// Weighted tokens of the step.
    pub(super) tokens: f64,
    /// Seconds of the step, catching up included.
    pub(super) seconds: f64,
    /// Draft tokens.
    pub(super) n_drafts: usize,
    /// Longest length.
    pub(super) depth: usize,
}

/// Bound on what rounding may have added to a sum or a product, as a share of it: what is left out for falling short does so by more.
const SLACK: f64 = 1e-9;

/// Buffers of the search, kept between steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    ranking: Ranking,
    floors: Prices,
    /// Where the last search ended; decides what is left out at once, never what is found.
    mark: Option<Mark>,
}

/// What is tried, and against what.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    candidates: &'a [Candidate],
    prices: &'a Prices,
    objective: Objective,
    /// That some head is known to reach.
    reached: f64,
}

impl Prices {
    /// Sets these prices to the least that as many or more cost in `prices`.
    fn set_to_floors_of(&mut self, prices: &Self) {
        let floor = |floors: &mut Vec<f64>, prices: &[f64]| {
            floors.clear();
            floors.extend_from_slice(prices);
            let mut least = f64::INFINITY;
            for floor in floors.iter_mut().rev() {
                least = least.min(*floor);
                *floor = least;
            }
        };
        floor(&mut self.target, &prices.target);
        floor(&mut self.first_round, &prices.first_round);
        floor(&mut self.round, &prices.round);
    }
}

impl Search {
    /// Finds the best lengths; those of plain decoding if nothing is better.
    ///
    /// * `lens`: filled with one length per candidate.
    pub(super) fn run(
        &mut self,
        candidates: &[Candidate],
        prices: &Prices,
        objective: Objective,
        lens: &mut Vec<u32>,
    ) -> Best {
        let weight: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let plain = prices.target[0];
        let value = objective.value(weight, plain);
        let mut best = Best { value, tokens: weight, seconds: plain, n_drafts: 0, depth: 0 };
        let rate = weight / plain;
        let reached = self.mark.and_then(|mark| mark.value(candidates, prices, objective, rate));
        let reached = reached.map_or(value, |reached| reached.max(value));
        let question = Question { candidates, prices, objective, reached };
        self.floors.set_to_floors_of(prices);
        let tokens = tokens_up_to(candidates, weight);
        let depth_max = self.depth_max(&question, &tokens);
        self.ranking.set(candidates, rate, depth_max);
        let mut head = Head::new(weight);
        for (depth, tokens) in (1..=depth_max).zip(tokens) {
            self.improve(&mut best, &question, head.clone(), depth, tokens);
            head.take_until(&self.ranking, &question, &self.floors, depth);
        }
        self.settle(&best, candidates, rate, lens);
        best
    }

    /// Longest length that may do, judged by all positions of such lengths at the least that any of them takes.
    ///
    /// * `tokens`: see [`tokens_up_to`].
    fn depth_max(&self, question: &Question<'_>, tokens: &[f64; DEPTH_MAX]) -> usize {
        let lens = question.candidates.iter().map(|candidate| (candidate.is_foreseen, candidate.len_max()));
        let longest = |is_foreseen| {
            lens.clone().filter(|len| len.0 == is_foreseen).map(|len| len.1 as usize).max().unwrap_or(0)
        };
        let (guessed, foreseen) = (longest(false), longest(true));
        let mut drafting = 0.0;
        let mut depth_max = 0;
        for (depth, tokens) in (1..=guessed.max(foreseen).min(self.floors.target.len() - 1)).zip(tokens) {
            drafting += if depth <= guessed { added(&self.floors, depth as u32 - 1, 1) } else { 0.0 };
            let least = self.floors.target[depth] + if depth <= foreseen { 0.0 } else { drafting };
            if least <= question.objective.seconds_to_reach(question.reached, *tokens) {
                depth_max = depth;
            }
        }
        depth_max
    }

    /// Tries the heads of the ranking that hold a length of `depth` and none beyond, as long as one could be better.
    ///
    /// * `head`: the longest that holds none of that length.
    /// * `tokens`: of all positions of lengths up to `depth`, and plain ones.
    fn improve(&self, best: &mut Best, question: &Question<'_>, mut head: Head, depth: usize, tokens: f64) {
        let Question { prices, objective, reached, .. } = *question;
        let mut seconds_max = objective.seconds_to_reach(reached.max(best.value), tokens);
        while head.take_next(&self.ranking, question, &self.floors, depth) {
            let n = head.n_drafts;
            let is_too_many = n >= prices.target.len();
            if is_too_many || head.seconds_at_least(&self.floors) > seconds_max {
                return;
            }
            let seconds = head.seconds(prices);
            let value = objective.value(head.tokens, seconds);
            if value > best.value {
                *best = Best { value, tokens: head.tokens, seconds, n_drafts: n, depth };
                seconds_max = objective.seconds_to_reach(reached.max(value), tokens);
            }
        }
    }

    /// Remembers where the search ended, and turns it into lengths.
    fn settle(&mut self, best: &Best, candidates: &[Candidate], rate: f64, lens: &mut Vec<u32>) {
        lens.clear();
        lens.resize(candidates.len(), 0);
        let within =
            self.ranking.positions().iter().filter(|position| (position.index as usize) < best.depth);
        let mut last = None;
        for position in within.take(best.n_drafts) {
            lens[position.candidate as usize] = position.index + 1;
            last = Some(position);
        }
        if let Some(last) = last {
            let candidate = &candidates[last.candidate as usize];
            let net = candidate.net(candidate.survivals[last.index as usize], rate);
            self.mark = Some(Mark { net, depth: best.depth });
        }
    }
}

/// Weighted tokens of all positions of lengths up to each, and plain ones.
fn tokens_up_to(candidates: &[Candidate], weight: f64) -> [f64; DEPTH_MAX] {
    let mut tokens = [0.0; DEPTH_MAX];
    for candidate in candidates {
        tokens
            .iter_mut()
            .zip(candidate.survivals)
            .for_each(|(tokens, survival)| *tokens += candidate.weight * survival);
    }
    let mut sum = weight;
    tokens.map(|of_level| {
        sum += of_level;
        sum
    })
}

/// Seconds that the `n`-th sequence of a level adds to its round.
fn added(prices: &Prices, index: u32, n: usize) -> f64 {
    let round = if index == 0 { &prices.first_round } else { &prices.round };
    if n > 1 { round[n] - round[n - 1] } else { round[n] }
}
