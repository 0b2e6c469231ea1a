//! The pretended pair of models.

use dsde_sampling::distribution::argmax;

/// The pretended pair: two functions from a prefix to logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Script {
    /// Tokens in the vocabulary.
    pub vocab_len: u32,
    /// Share of prefixes after which the draft has the target's own logits; elsewhere it has unrelated ones.
    pub agreement: f64,
    /// Logits lie in `0..sharpness`, nats.
    pub sharpness: f32,
    /// Chooses the functions.
    pub seed: u64,
    /// How many tokens of a prefix count, the last ones; `None` is all.
    pub window: Option<u32>,
}

impl Default for Script {
    fn default() -> Self {
        Self { vocab_len: 31, agreement: 0.7, sharpness: 6.0, seed: 1, window: None }
    }
}

impl Script {
    /// Logits of the target after `prefix`, `[vocab_len]`.
    pub fn target_logits(&self, prefix: impl Iterator<Item = u32>) -> Vec<f32> {
        self.logits(self.hash(prefix))
    }

    /// Logits of the draft after `prefix`, `[vocab_len]`.
    pub fn draft_logits(&self, prefix: impl Iterator<Item = u32>) -> Vec<f32> {
        let hash = self.hash(prefix);
        let agrees = unit(mix(hash ^ 0xA6EE)) < self.agreement;
        self.logits(if agrees { hash } else { mix(hash ^ 0xD15A) })
    }

    /// What plain greedy decoding of the target emits after `prompt`.
    pub fn greedy_continuation(&self, prompt: &[u32], len: usize) -> Vec<u32> {
        let mut tokens = prompt.to_vec();
        for _ in 0..len {
            tokens.push(argmax(&self.target_logits(tokens.iter().copied())));
        }
        tokens.split_off(prompt.len())
    }

    fn hash(&self, prefix: impl Iterator<Item = u32>) -> u64 {
        let prefix: Vec<u32> = prefix.collect();
        let n_before = self.window.map_or(0, |window| prefix.len().saturating_sub(window as usize));
        prefix[n_before..].iter().fold(mix(self.seed), |hash, token| mix(hash ^ u64::from(*token)))
    }

    fn logits(&self, hash: u64) -> Vec<f32> {
        (0..u64::from(self.vocab_len))
            .map(|token| self.sharpness * unit(mix(hash ^ (token << 32))) as f32)
            .collect()
    }
}

/// A bijection of 64-bit words that spreads every bit (the finaliser of SplitMix64, Steele et al., OOPSLA 2014).
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The upper bits of a hash as a number in `[0, 1)`.
fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}
