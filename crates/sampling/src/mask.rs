//! Leaving tokens out that may not be emitted, by the bits of a mask.

/// Gives every token whose bit is not set probability zero.
///
/// * `row`: logits `[vocab_len]`.
/// * `allowed`: `[vocab_len.div_ceil(32)]`; token `t` is bit `t % 32` of word `t / 32`. At least one bit is set.
pub fn mask(row: &mut [f32], allowed: &[u32]) {
    for (logits, word) in row.chunks_mut(32).zip(allowed) {
        if *word == u32::MAX {
            continue;
        }
        for (i, logit) in logits.iter_mut().enumerate() {
            if word >> i & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_tokens_of_set_bits_remain() {
        let mut row = vec![0.5; 70];
        mask(&mut row, &[1 << 3 | 1 << 31, u32::MAX, 1 << 2]);
        let kept: Vec<usize> = (0..70).filter(|&t| row[t] == 0.5).collect();
        let expected: Vec<usize> = [3, 31].into_iter().chain(32..64).chain([66]).collect();
        assert_eq!(kept, expected);
        assert!(row.iter().all(|logit| *logit == 0.5 || *logit == f32::NEG_INFINITY));
    }
}
