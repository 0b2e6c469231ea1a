//! All positions that lengths may hold, the most valuable first.

use super::Candidate;

/// A position in the ranking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Weighted tokens.
    pub(super) worth: f64,
    /// Whose it is.
    pub(super) candidate: u32,
    /// Place in the proposal, from 0.
    pub(super) index: u32,
}

/// Positions by falling net worth; of equal ones the shallower first, so that every head holds whole prefixes.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking {
    /// What the order is: net worth, falling, then index and candidate. One number, since comparing is most of the work.
    keys: Vec<u128>,
    positions: Vec<Position>,
}

impl Ranking {
    /// Ranks the positions of lengths up to `depth_max`.
    ///
    /// * `rate`: of plain decoding, tokens per second.
    pub(super) fn set(&mut self, candidates: &[Candidate], rate: f64, depth_max: usize) {
        self.keys.clear();
        for (i, candidate) in (0_u64..).zip(candidates) {
            let alive = candidate.survivals[..depth_max].iter().take_while(|&&survival| survival > 0.0);
            self.keys.extend((0_u64..).zip(alive).map(|(index, &survival)| {
                let place = index << 32 | i;
                u128::from(falling(candidate.net(survival, rate))) << 64 | u128::from(place)
            }));
        }
        self.keys.sort_unstable();
        self.positions.clear();
        self.positions.extend(self.keys.iter().map(|&key| {
            let (index, i) = ((key >> 32) as u32, key as u32);
            let candidate = &candidates[i as usize];
            let worth = candidate.weight * candidate.survivals[index as usize];
            Position { worth, candidate: i, index }
        }));
    }

    /// In order.
    pub(super) fn positions(&self) -> &[Position] {
        &self.positions
    }
}

/// A number that is the smaller the larger `x` is in the order of `f64::total_cmp`.
fn falling(x: f64) -> u64 {
    let bits = x.to_bits();
    if x.is_sign_negative() { bits } else { !bits & !(1 << 63) }
}

#[cfg(test)]
mod tests {
    use super::falling;

    #[test]
    fn numbers_fall_as_floats_rise() {
        let rising = [f64::NEG_INFINITY, -2.5, -1.0, -1e-300, -0.0, 0.0, 1e-300, 0.3, 7.0, f64::INFINITY];
        let numbers: Vec<u64> = rising.iter().map(|&x| falling(x)).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]), "{numbers:?}");
    }
}
