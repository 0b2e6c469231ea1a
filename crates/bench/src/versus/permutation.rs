//! Permutation tests: among all ways to deal values out, the share that differ at least as much as what was observed.

/// Ways that are all looked at; of more than these, as many are drawn.
const WAYS_MAX: u64 = 100_000;
/// Differences closer than this are equal: sums in another order round otherwise.
const ROUNDING: f64 = 1e-12;

/// Among the ways to choose which of all values stand in the first sample, the share whose means differ at least as much.
pub(super) fn share_apart(first: &[f64], second: &[f64]) -> f64 {
    let all: Vec<f64> = first.iter().chain(second).copied().collect();
    let (n, total) = (first.len(), all.iter().sum::<f64>());
    let difference = |sum: f64| (sum / n as f64 - (total - sum) / (all.len() - n) as f64).abs();
    let observed = difference(first.iter().sum()) - ROUNDING;
    if binomial(all.len(), n) <= WAYS_MAX as f64 {
        let [mut extreme, mut ways] = [0_u64; 2];
        each_choice(&all, n, 0.0, &mut |sum| {
            ways += 1;
            extreme += u64::from(difference(sum) >= observed);
        });
        return extreme as f64 / ways as f64;
    }
    let mut dice = Dice(all.len() as u64);
    drawn_share(|| {
        let mut values = all.clone();
        for i in 0..n {
            let other = i + dice.below((values.len() - i) as u64) as usize;
            values.swap(i, other);
        }
        difference(values[..n].iter().sum()) >= observed
    })
}

/// Among the ways to turn pairs around, the share whose mean is at least as far from 0.
pub(super) fn share_paired(differences: &[f64]) -> f64 {
    let n = differences.len();
    let observed = differences.iter().sum::<f64>().abs() - ROUNDING;
    let turned = |ways: &mut dyn FnMut(usize) -> bool| {
        let sum: f64 = differences.iter().enumerate().map(|(i, d)| if ways(i) { -d } else { *d }).sum();
        sum.abs() >= observed
    };
    if n < 64 && 1 << n <= WAYS_MAX {
        let extreme = (0..1_u64 << n).filter(|ways| turned(&mut |i| ways >> i & 1 == 1)).count();
        return extreme as f64 / (1_u64 << n) as f64;
    }
    let mut dice = Dice(n as u64);
    drawn_share(|| turned(&mut |_| dice.below(2) == 1))
}

/// Share of as many draws as there may be, the observed way counted as one of them.
fn drawn_share(mut is_extreme: impl FnMut() -> bool) -> f64 {
    let extreme = (0..WAYS_MAX).filter(|_| is_extreme()).count();
    (1 + extreme) as f64 / (1 + WAYS_MAX) as f64
}

/// Tells the sum of every choice of `n` of the values, on top of `sum`.
fn each_choice(values: &[f64], n: usize, sum: f64, tell: &mut dyn FnMut(f64)) {
    match values.split_first() {
        _ if n == 0 => tell(sum),
        Some((first, rest)) => {
            each_choice(rest, n - 1, sum + first, tell);
            if rest.len() >= n {
                each_choice(rest, n, sum, tell);
            }
        }
        None => {}
    }
}

/// Ways to choose `k` of `n`.
pub(super) fn binomial(n: usize, k: usize) -> f64 {
    (0..k.min(n - k)).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// Numbers that look random and repeat (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Holm's adjustment: a share counts as many times as there are shares not smaller, and no less than a smaller one.
pub(super) fn holm(shares: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| shares[a].total_cmp(&shares[b]));
    let mut adjusted = vec![0.0; shares.len()];
    let mut least = 0.0_f64;
    for (rank, &i) in order.iter().enumerate() {
        least = least.max(shares[i] * (shares.len() - rank) as f64).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_deal_out_rounds_are_counted() {
        // Of the 20 ways to choose 3 of 6, this one and its mirror are the most extreme.
        assert_eq!(share_apart(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]), 0.1);
        // 1 + 4 = 2 + 3: every way but (1, 2) and (3, 4) differs as little.
        assert_eq!(share_apart(&[1.0, 4.0], &[2.0, 3.0]), 1.0);
        assert!((share_apart(&[1.0, 2.0], &[3.0, 4.0]) - 2.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn all_ways_to_turn_pairs_around_are_counted() {
        assert_eq!(share_paired(&[1.0; 5]), 2.0 / 32.0);
        assert_eq!(share_paired(&[1.0, -1.0]), 1.0);
        // Sums of +-1 +-2 +-4: only +-7 reach 7, and +-7 and +-5 reach 5.
        assert_eq!(share_paired(&[1.0, 2.0, 4.0]), 0.25);
        assert_eq!(share_paired(&[-1.0, 2.0, 4.0]), 0.5);
    }

    #[test]
    fn where_there_are_too_many_ways_the_share_is_drawn() {
        let [low, high]: [Vec<f64>; 2] =
            [0.0, 0.25].map(|base| (0..20).map(|i| base + f64::from(i) / 20.0).collect());
        let share = share_apart(&low, &high);
        assert!((0.007..0.017).contains(&share), "{share}");
        let noise: Vec<f64> = (0..40).map(|i| if i % 2 == 0 { 1.0 } else { -0.9 }).collect();
        let share = share_paired(&noise);
        assert!((0.6..0.9).contains(&share), "{share}");
    }

    #[test]
    fn of_many_conditions_each_needs_more() {
        assert_eq!(holm(&[0.04]), [0.04]);
        let rounded: Vec<f64> =
            holm(&[0.04, 0.01, 0.03]).iter().map(|share| (share * 1e9).round() / 1e9).collect();
        assert_eq!(rounded, [0.06, 0.03, 0.06]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
