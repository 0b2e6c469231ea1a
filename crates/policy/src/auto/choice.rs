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
//! is the head of all positions ranked by `w_r a_rj`; every depth and every head is tried, and the best rate wins. Measured costs
//! have bumps, so a worse head says nothing about longer ones; heads are left out only where all that is left of the ranking, at the
//! least that it could cost, would not do. Nothing here was drafted yet, so nothing can leak.

//!
//! A step that also reads prompts has time in it that no length changes, and its rate is low whatever is drafted. There the
//! time has the price that it has in steps without prompts, and the lengths maximise `progress - price * seconds`.

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

/// A position in the ranking.
#[derive(Clone, Copy, Debug)]
struct Position {
    worth: f64,
    /// Worth, less what attending to the context is worth elsewhere.
    net: f64,
    candidate: u32,
    index: u32,
}

/// Buffers of the search, kept between steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    ranking: Vec<Position>,
    floors: Prices,
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
        self.rank(candidates, weight / plain);
        self.floors.set_to_floors_of(prices);
        let value = objective.value(weight, plain);
        let mut best = Best { value, tokens: weight, seconds: plain, n_drafts: 0, depth: 0 };
        let mut worth_of_levels = [0.0; DEPTH_MAX];
        for position in &self.ranking {
            worth_of_levels[position.index as usize] += position.worth;
        }
        let mut worth = 0.0;
        for (depth, of_level) in (1..).zip(worth_of_levels).take_while(|&(_, worth)| worth > 0.0) {
            worth += of_level;
            self.improve(&mut best, candidates, prices, objective, (depth, worth));
        }
        lens.clear();
        lens.resize(candidates.len(), 0);
        for position in self.within(best.depth).take(best.n_drafts) {
            lens[position.candidate as usize] = position.index + 1;
        }
        best
    }

    /// All positions by falling net worth; of equal ones the shallower first, so that every head holds whole prefixes.
    ///
    /// * `rate`: of plain decoding, tokens per second.
    fn rank(&mut self, candidates: &[Candidate], rate: f64) {
        self.ranking.clear();
        for (i, candidate) in (0..).zip(candidates) {
            let alive = &candidate.survivals[..candidate.len_max() as usize];
            self.ranking.extend((0..).zip(alive).map(|(index, &survival)| Position {
                worth: candidate.weight * survival,
                net: candidate.weight * survival - rate * candidate.row_seconds,
                candidate: i,
                index,
            }));
        }
        self.ranking.sort_unstable_by(|a, b| {
            b.net.total_cmp(&a.net).then(a.index.cmp(&b.index)).then(a.candidate.cmp(&b.candidate))
        });
    }

    fn within(&self, depth: usize) -> impl Iterator<Item = &Position> {
        self.ranking.iter().filter(move |position| (position.index as usize) < depth)
    }

    /// Tries every head of the ranking among positions of lengths up to `depth` that could be better.
    ///
    /// * `worth`: of all these positions.
    fn improve(
        &self,
        best: &mut Best,
        candidates: &[Candidate],
        prices: &Prices,
        objective: Objective,
        (depth, worth): (usize, f64),
    ) {
        let mut per_level = [0; DEPTH_MAX];
        let mut tokens: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut rest = worth;
        let (mut drafting, mut drafting_floor, mut attending) = (0.0, 0.0, 0.0);
        for (n, position) in (1..prices.target.len()).zip(self.within(depth)) {
            let least_seconds = drafting_floor + attending + self.floors.target[n];
            if objective.value(tokens + rest, least_seconds) <= best.value {
                return;
            }
            let candidate = &candidates[position.candidate as usize];
            if !candidate.is_foreseen {
                let level = &mut per_level[position.index as usize];
                *level += 1;
                drafting += added(prices, position.index, *level);
                drafting_floor += added(&self.floors, position.index, *level);
                if position.index == 0 {
                    drafting += candidate.catch_up;
                    drafting_floor += candidate.catch_up;
                }
            }
            tokens += position.worth;
            rest -= position.worth;
            attending += candidate.row_seconds;
            let seconds = drafting + attending + prices.target[n];
            let value = objective.value(tokens, seconds);
            if value > best.value {
                *best = Best { value, tokens, seconds, n_drafts: n, depth };
            }
        }
    }
}

/// Seconds that the `n`-th sequence of a level adds to its round.
fn added(prices: &Prices, index: u32, n: usize) -> f64 {
    let round = if index == 0 { &prices.first_round } else { &prices.round };
    if n > 1 { round[n] - round[n - 1] } else { round[n] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(weight: f64, acceptance: f64, len_max: usize) -> Candidate {
        let mut survivals = [0.0; DEPTH_MAX];
        (0..len_max).for_each(|j| survivals[j] = acceptance.powi(j as i32 + 1));
        Candidate { weight, survivals, catch_up: 0.0, row_seconds: 0.0, is_foreseen: false }
    }

    fn check(candidates: &[Candidate], prices: &Prices, expected: &[u32], rate: f64) {
        let mut lens = Vec::new();
        let best = Search::default().run(candidates, prices, Objective::Rate, &mut lens);
        assert_eq!(lens, expected, "{best:?}");
        assert!((best.value / rate - 1.0).abs() < 1e-9, "expected {rate}, got {best:?}");
    }

    /// A target pass of 10 s plus `row` per draft row; rounds of 1 s.
    fn prices(row: f64) -> Prices {
        Prices {
            target: (0..40).map(|n| 10.0 + row * f64::from(n)).collect(),
            first_round: vec![1.0; 9],
            round: vec![1.0; 9],
        }
    }

    #[test]
    fn lengths_of_hand_computed_rates() {
        // 1.5 / 11, 1.75 / 12, 1.875 / 13: two.
        check(&[candidate(1.0, 0.5, 8)], &prices(0.0), &[2], 1.75 / 12.0);
        // At 5 s per row 1.5 / 16 is below 1 / 10.
        check(&[candidate(1.0, 0.5, 8)], &prices(5.0), &[0], 0.1);
        // One position at most.
        check(&[candidate(1.0, 0.5, 1)], &prices(0.0), &[1], 1.5 / 11.0);
        // 0.9 and 0.2 at 1 s per row: (2 + 0.9 + 0.81 + 0.729 + 0.6561) / (10 + 4 + 4) = 0.283061; a fifth draft lowers it to
        // 5.68559 / 20 = 0.28428, which is more, a sixth to 6.217031 / 22 = 0.28259.
        check(&[candidate(1.0, 0.9, 8), candidate(1.0, 0.2, 8)], &prices(1.0), &[5, 0], 5.68559 / 20.0);
    }

    #[test]
    fn urgency_buys_length() {
        // Of equals, the one with four times the weight gets more.
        let mut lens = Vec::new();
        Search::default().run(
            &[candidate(4.0, 0.5, 8), candidate(1.0, 0.5, 8)],
            &prices(1.0),
            Objective::Rate,
            &mut lens,
        );
        assert!(lens[0] > lens[1], "{lens:?}");
    }

    #[test]
    fn catching_up_has_to_be_paid_for() {
        let behind = Candidate { catch_up: 8.0, ..candidate(1.0, 0.5, 8) };
        check(&[behind], &prices(0.0), &[0], 0.1);
    }

    #[test]
    fn prompts_do_not_make_drafts_cheap() {
        // A step of 110 s, 100 of them for prompts: any token raises its rate, but none is worth 1.5 s at 1 token / s.
        let mixed = Prices {
            target: (0..9).map(|n| 110.0 + 0.5 * f64::from(n)).collect(),
            first_round: vec![1.0; 2],
            round: vec![1.0; 2],
        };
        let one = [candidate(1.0, 0.9, 8)];
        let mut lens = Vec::new();
        Search::default().run(&one, &mixed, Objective::Rate, &mut lens);
        assert_eq!(lens, [8]);
        Search::default().run(&one, &mixed, Objective::Surplus(1.0), &mut lens);
        assert_eq!(lens, [0]);
        // At 0.5 tokens / s 0.9 and 0.81 beat the 0.75 that a draft costs; 0.729 does not.
        Search::default().run(&one, &mixed, Objective::Surplus(0.5), &mut lens);
        assert_eq!(lens, [2]);
    }

    #[test]
    fn a_row_in_a_long_context_has_to_pay_for_it() {
        // Alike but for their contexts: a draft row of the second takes 9 s, nearly a pass, to attend to its own.
        let long = Candidate { row_seconds: 9.0, ..candidate(1.0, 0.8, 8) };
        let mut lens = Vec::new();
        Search::default().run(&[candidate(1.0, 0.8, 8), long], &prices(1.0), Objective::Rate, &mut lens);
        assert!(lens[0] > 0 && lens[1] == 0, "{lens:?}");
    }

    proptest! {
        /// Leaving out heads changes nothing, whatever bumps the costs have.
        #[test]
        fn heads_that_could_be_better_are_tried(
            sequences in prop::collection::vec((1.0f64..4.0, 0.05f64..0.99, 1usize..=DEPTH_MAX, 0.0f64..0.5, 0.0f64..0.3, any::<bool>()), 1..8),
            target in prop::collection::vec(5.0f64..12.0, 60),
            rounds in prop::collection::vec((0.05f64..2.0, 0.05f64..2.0), 9),
            price in prop::option::of(0.0f64..2.0),
        ) {
            let candidates: Vec<Candidate> = sequences
                .into_iter()
                .map(|(weight, acceptance, len, catch_up, row_seconds, is_foreseen)| Candidate {
                    catch_up,
                    row_seconds,
                    is_foreseen,
                    ..candidate(weight, acceptance, len)
                })
                .collect();
            let (first_round, round) = rounds.into_iter().unzip();
            let prices = Prices { target, first_round, round };
            let objective = price.map_or(Objective::Rate, Objective::Surplus);
            let mut search = Search::default();
            let best = search.run(&candidates, &prices, objective, &mut Vec::new());
            let weight: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
            let mut expected = objective.value(weight, prices.target[0]);
            for depth in 1..=DEPTH_MAX {
                let (mut per_level, mut tokens) = ([0; DEPTH_MAX], weight);
                let mut others = 0.0;
                for (n, position) in (1..prices.target.len()).zip(search.within(depth)) {
                    let candidate = &candidates[position.candidate as usize];
                    if !candidate.is_foreseen {
                        per_level[position.index as usize] += 1;
                        others += if position.index == 0 { candidate.catch_up } else { 0.0 };
                    }
                    others += candidate.row_seconds;
                    tokens += position.worth;
                    let drafting: f64 = (0..)
                        .zip(per_level)
                        .filter(|&(_, n)| n > 0)
                        .map(|(index, n)| if index == 0 { prices.first_round[n] } else { prices.round[n] })
                        .sum();
                    expected = expected.max(objective.value(tokens, drafting + others + prices.target[n]));
                }
            }
            prop_assert!((best.value - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{best:?}, expected {expected}");
        }

        /// Against all lengths of three sequences up to three tokens.
        #[test]
        fn equal_weights_get_the_best_of_all_lengths(
            acceptances in prop::collection::vec(0.05f64..0.95, 3),
            row in 0.0f64..4.0,
            round in 0.1f64..4.0,
        ) {
            let candidates: Vec<Candidate> = acceptances.iter().map(|&a| candidate(1.0, a, 3)).collect();
            let prices = Prices { target: (0..10).map(|n| 10.0 + row * f64::from(n)).collect(), first_round: vec![round; 4], round: vec![round; 4] };
            let best = Search::default().run(&candidates, &prices, Objective::Rate, &mut Vec::new());
            for lens in (0..64u32).map(|i| [i % 4, i / 4 % 4, i / 16]) {
                let tokens: f64 = 3.0 + candidates.iter().zip(lens).map(|(c, l)| c.survivals[..l as usize].iter().sum::<f64>()).sum::<f64>();
                let depth = f64::from(lens.into_iter().max().unwrap_or(0));
                let seconds = 10.0 + row * f64::from(lens.iter().sum::<u32>()) + round * depth;
                prop_assert!(best.value >= tokens / seconds * (1.0 - 1e-9), "{lens:?} {best:?}");
            }
        }
    }
}
