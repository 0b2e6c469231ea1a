//! ADA-BINGREEDY: explore in short runs that become rarer, and hold a length for the whole of a run.

/// Longest block, `2^30` steps; at a thousand steps a second it ends after twelve days.
const BLOCK_MAX: u32 = 31;

/// One length within one context.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arm {
    /// Steps it was played.
    pub n: u64,
    /// Mean goodput `g`, tokens per sequence and second.
    pub goodput: f64,
}

impl Arm {
    /// Takes in the goodput of one step.
    pub fn learn(&mut self, goodput: f64) {
        self.n += 1;
        self.goodput += (goodput - self.goodput) / self.n as f64;
    }
}

/// Length in steps of the bins of a block of `2^(block - 1)` steps, the integral part of its root.
pub fn bin_len(block: u32) -> u32 {
    (1u32 << (block - 1)).isqrt()
}

/// Length with the least time per token, the shorter among equals; lengths that were never played are left out.
///
/// Nightjar: `argmin of 1 / g + C / len`, the second term for lengths above 0 only.
///
/// * `arms`: by length, from 0.
/// * `switch_seconds`: `C`, what it costs the draft to come back; 0 if it is there.
pub fn exploit(arms: &[Arm], switch_seconds: f64) -> usize {
    let seconds_per_token = |len: usize, arm: &Arm| {
        let switching = if len > 0 { switch_seconds / len as f64 } else { 0.0 };
        1.0 / arm.goodput + switching
    };
    let played = arms.iter().enumerate().filter(|(_, arm)| arm.n > 0);
    let costs = played.map(|(len, arm)| (len, seconds_per_token(len, arm)));
    costs.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(len, _)| len)
}

/// What one range of batch sizes has learnt, and where it is in its blocks and bins.
#[derive(Clone, Debug)]
pub struct Context {
    /// By length, from 0.
    pub arms: Vec<Arm>,
    block: u32,
    /// Steps of the block that no bin has taken yet.
    block_left: u32,
    /// Bins of the block so far, this one included.
    bin: u32,
    /// Steps of the bin still to come.
    bin_left: u32,
    /// Length that the bin is locked to.
    len: usize,
}

impl Context {
    /// Nothing is learnt; the first step begins the first block.
    pub fn new(n_arms: usize) -> Self {
        Self { arms: vec![Arm::default(); n_arms], block: 0, block_left: 0, bin: 0, bin_left: 0, len: 0 }
    }

    /// The length of the next step.
    ///
    /// * `uniform`: draws numbers in `[0, 1)`.
    /// * `switch_seconds`: see [`exploit`].
    pub fn next_len(&mut self, mut uniform: impl FnMut() -> f64, switch_seconds: f64) -> usize {
        if self.bin_left == 0 {
            self.begin_bin();
            let is_exploring = uniform() < 1.0 / f64::from(self.bin);
            self.len =
                if is_exploring { self.explore(uniform()) } else { exploit(&self.arms, switch_seconds) };
        }
        self.bin_left -= 1;
        self.len
    }

    fn begin_bin(&mut self) {
        if self.block_left == 0 {
            self.block = (self.block + 1).min(BLOCK_MAX);
            self.block_left = 1 << (self.block - 1);
            self.bin = 0;
        }
        self.bin += 1;
        self.bin_left = bin_len(self.block).min(self.block_left);
        self.block_left -= self.bin_left;
    }

    /// The shortest length that was never played, or any.
    fn explore(&self, share: f64) -> usize {
        let unplayed = self.arms.iter().position(|arm| arm.n == 0);
        unplayed.unwrap_or((share * self.arms.len() as f64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_double_and_their_bins_grow_with_the_root() {
        // Blocks of 1, 2, 4, 8, 16 and 32 steps.
        assert_eq!([1, 2, 3, 4, 5, 6, 31].map(bin_len), [1, 1, 2, 2, 4, 5, 32768]);
        let mut context = Context::new(3);
        let mut bins = Vec::new();
        while context.block < 7 {
            context.begin_bin();
            bins.push((context.block, context.bin_left));
        }
        let of_block = |block| bins.iter().filter(|bin| bin.0 == block).map(|bin| bin.1).collect::<Vec<_>>();
        assert_eq!(of_block(1), [1]);
        assert_eq!(of_block(2), [1, 1]);
        assert_eq!(of_block(3), [2, 2]);
        assert_eq!(of_block(4), [2, 2, 2, 2]);
        assert_eq!(of_block(5), [4, 4, 4, 4]);
        assert_eq!(of_block(6), [5, 5, 5, 5, 5, 5, 2]);
    }

    #[test]
    fn the_least_time_per_token_wins() {
        let arms =
            |goodputs: &[f64]| goodputs.iter().map(|&goodput| Arm { n: 1, goodput }).collect::<Vec<_>>();
        // 10, 8 and 6.7 ms per token.
        let rising = arms(&[100.0, 125.0, 150.0]);
        assert_eq!(exploit(&rising, 0.0), 2);
        // 10, 8 + 6 and 6.7 + 3 ms; with 8 ms to switch 10, 16 and 10.7.
        assert_eq!(exploit(&rising, 0.006), 2);
        assert_eq!(exploit(&rising, 0.008), 0);
        assert_eq!(exploit(&arms(&[100.0, 100.0]), 0.0), 0);
        assert_eq!(exploit(&arms(&[0.0, 100.0]), 0.0), 1);
        assert_eq!(exploit(&[Arm::default(), Arm { n: 1, goodput: 1.0 }], 9.0), 1);
        assert_eq!(exploit(&[Arm::default()], 0.0), 0);
    }

    #[test]
    fn a_bin_explores_by_its_number_and_holds_its_length() {
        let mut context = Context::new(3);
        let play = |context: &mut Context, uniform: f64| {
            let len = context.next_len(|| uniform, 0.0);
            context.arms[len].learn([10.0, 30.0, 20.0][len]);
            len
        };
        // First bins of a block always explore, the shortest unplayed length first; second ones at 0.49, not at 0.51.
        assert_eq!(play(&mut context, 0.99), 0);
        assert_eq!(play(&mut context, 0.99), 1);
        assert_eq!(play(&mut context, 0.49), 2);
        // Block of four: any length (0.7 * 3 = 2), held for two steps; then the best.
        assert_eq!([play(&mut context, 0.7), play(&mut context, 0.0)], [2, 2]);
        assert_eq!([play(&mut context, 0.51), play(&mut context, 0.0)], [1, 1]);
    }

    #[test]
    fn means_are_those_of_the_goodputs() {
        let mut arm = Arm::default();
        [100.0, 200.0, 0.0].into_iter().for_each(|goodput| arm.learn(goodput));
        assert_eq!((arm.n, arm.goodput), (3, 100.0));
    }
}
