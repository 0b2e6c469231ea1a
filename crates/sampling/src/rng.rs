//! Random numbers without state: a number is a function of its key.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a keyed bijection
//! of 128-bit counters, built from multiplications and tested by its authors against BigCrush. Here the counter names the
//! decision and the sequence that takes it, so a draw does not depend on the order in which decisions are made, and two
//! decisions never share one: a bijection gives different counters different numbers.

use crate::lanes::LANES;

/// Whose numbers they are. Different streams have no number in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Of one sequence alone: the `number`-th that had no seed, below `2^61`, under the key of its engine.
    Own {
        /// Key of the engine.
        key: u64,
        /// Number of the sequence.
        number: u64,
    },
    /// Of everybody who asks with this seed.
    Seeded {
        /// The user's seed.
        seed: u64,
        /// Tells apart answers that share a seed and must differ.
        choice: u32,
    },
}

impl Stream {
    /// Key of the generator.
    #[inline(always)]
    fn key(self) -> [u32; 2] {
        let (Self::Own { key, .. } | Self::Seeded { seed: key, .. }) = self;
        [key as u32, (key >> 32) as u32]
    }

    /// The counter of a decision: bits 0 to 1 of the third word hold the purpose, bit 2 the kind of stream.
    #[inline(always)]
    fn counter(self, position: u32, purpose: Purpose, index: u32) -> [u32; 4] {
        let purpose = purpose as u32;
        match self {
            Self::Own { number, .. } => {
                [position, index, purpose | ((number >> 32) as u32) << 3, number as u32]
            }
            Self::Seeded { choice, .. } => [position, index, purpose | 1 << 2, choice],
        }
    }
}

/// What a draw decides; part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A drafted token.
    Draft,
    /// Whether a drafted token, or the block that ends with it, is accepted.
    Accept,
    /// A token drawn from the target: recovered, bonus, or plain.
    Target,
}

/// A number in `[0, 1)` with 53 random bits, keyed by all four arguments.
///
/// * `position`: length of the sequence, prompt and output, that the decision belongs to.
/// * `index`: tells decisions of the same purpose and position apart.
pub fn uniform(stream: Stream, position: u32, purpose: Purpose, index: u32) -> f64 {
    let [high, low, ..] = philox(stream.counter(position, purpose, index), stream.key());
    let bits = (u64::from(high) << 32 | u64::from(low)) >> (u64::BITS - f64::MANTISSA_DIGITS);
    bits as f64 / (1_u64 << f64::MANTISSA_DIGITS) as f64
}

/// Words that [`words`] yields at a time.
pub const WORDS: usize = 4 * LANES;

/// [`WORDS`] random words, the `part`-th so many under the rest of the key.
#[inline(always)]
pub fn words(stream: Stream, position: u32, purpose: Purpose, part: u32) -> [u32; WORDS] {
    let [position, _, third, fourth] = stream.counter(position, purpose, 0);
    let mut counters = [[position; LANES], [0; LANES], [third; LANES], [fourth; LANES]];
    for (lane, index) in counters[1].iter_mut().enumerate() {
        *index = part * LANES as u32 + lane as u32;
    }
    let mut out = [0; WORDS];
    let mixed = philox_lanes(counters, stream.key());
    for (out, word) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(mixed) {
        *out = word;
    }
    out
}

/// Rounds of mixing; the authors' recommendation.
const N_ROUNDS: u32 = 10;

/// Multipliers of the first and third word of the counter.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// Added to the key after every round: the golden ratio and `sqrt(3) - 1`, as fractions of `2^32`.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

#[inline(always)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..N_ROUNDS {
        counter = round(counter, key);
        key = next_key(key);
    }
    counter
}

/// [`philox`] of as many counters as there are lanes, word by word.
#[inline(always)]
fn philox_lanes(mut counters: [[u32; LANES]; 4], mut key: [u32; 2]) -> [[u32; LANES]; 4] {
    for _ in 0..N_ROUNDS {
        let [a, b, c, d] = &mut counters;
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            [*a, *b, *c, *d] = round([*a, *b, *c, *d], key);
        }
        key = next_key(key);
    }
    counters
}

#[inline(always)]
fn round([a, b, c, d]: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let first = u64::from(MULTIPLIERS[0]) * u64::from(a);
    let second = u64::from(MULTIPLIERS[1]) * u64::from(c);
    [(second >> 32) as u32 ^ b ^ key[0], second as u32, (first >> 32) as u32 ^ d ^ key[1], first as u32]
}

#[inline(always)]
fn next_key(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // Known answers that the authors distribute with their code (Random123, kat_vectors, philox4x32-10).
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    fn seeded(seed: u64) -> Stream {
        Stream::Seeded { seed, choice: 0 }
    }

    #[test]
    fn numbers_are_a_function_of_the_whole_key() {
        let base = uniform(seeded(7), 11, Purpose::Draft, 3);
        assert_eq!(base, uniform(seeded(7), 11, Purpose::Draft, 3));
        let own = |number| uniform(Stream::Own { key: 7, number }, 11, Purpose::Draft, 3);
        let others = [
            uniform(seeded(8), 11, Purpose::Draft, 3),
            uniform(seeded(7 + (1 << 32)), 11, Purpose::Draft, 3),
            uniform(seeded(7), 12, Purpose::Draft, 3),
            uniform(seeded(7), 11, Purpose::Accept, 3),
            uniform(seeded(7), 11, Purpose::Target, 3),
            uniform(seeded(7), 11, Purpose::Draft, 4),
            uniform(Stream::Seeded { seed: 7, choice: 1 }, 11, Purpose::Draft, 3),
            own(0),
            own(1),
            own(1 << 32),
            own(1 << 60),
        ];
        for (i, other) in others.into_iter().enumerate() {
            assert_ne!(base, other, "key part {i}");
            assert!(others[..i].iter().all(|earlier| *earlier != other), "key part {i}");
        }
    }

    #[test]
    fn decisions_have_counters_of_their_own() {
        let streams =
            [0, 1, u64::from(u32::MAX), 1 << 32, (1 << 61) - 1].map(|number| Stream::Own { key: 5, number });
        let seeded = [0, 1, u32::MAX].map(|choice| Stream::Seeded { seed: 5, choice });
        let mut seen = std::collections::HashSet::new();
        for stream in streams.into_iter().chain(seeded) {
            for purpose in [Purpose::Draft, Purpose::Accept, Purpose::Target] {
                for (position, index) in [(0, 0), (0, 1), (1, 0), (u32::MAX, u32::MAX)] {
                    assert!(seen.insert(stream.counter(position, purpose, index)), "{stream:?}, {purpose:?}");
                }
            }
        }
    }

    #[test]
    fn words_are_those_of_single_counters() {
        let stream = Stream::Seeded { seed: 3, choice: 2 };
        let got = words(stream, 9, Purpose::Target, 5);
        for (i, word) in got.into_iter().enumerate() {
            let index = (5 * LANES + i % LANES) as u32;
            let single = philox(stream.counter(9, Purpose::Target, index), stream.key());
            assert_eq!(word, single[i / LANES], "word {i}");
        }
    }

    /// Numbers along one part of the key, the other parts fixed.
    fn along(part: usize, i: u32) -> f64 {
        match part {
            0 => uniform(seeded(u64::from(i)), 5, Purpose::Accept, 1),
            1 => uniform(seeded(42), i, Purpose::Accept, 1),
            2 => uniform(seeded(42), 5, Purpose::Accept, i),
            3 => uniform(Stream::Seeded { seed: 42, choice: i }, 5, Purpose::Accept, 1),
            _ => uniform(Stream::Own { key: 42, number: u64::from(i) }, 5, Purpose::Accept, 1),
        }
    }

    const N: u32 = 40_000;

    #[test]
    fn numbers_are_uniform_along_every_part_of_the_key() {
        // Pearson's chi-square over 64 bins has 63 degrees of freedom and exceeds 118.4 with probability 3e-5.
        for part in 0..5 {
            let mut bins = [0_u32; 64];
            for i in 0..N {
                let x = along(part, i);
                assert!((0.0..1.0).contains(&x));
                bins[(x * 64.0) as usize] += 1;
            }
            let expected = f64::from(N) / 64.0;
            let chi_square: f64 = bins.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            assert!(chi_square < 118.4, "part {part}: chi-square {chi_square}");
        }
    }

    #[test]
    fn neighbouring_keys_are_uncorrelated() {
        // The mean of N products of independent centred uniforms has sigma (1/12) / sqrt(N) = 4.2e-4; five sigma are
        // exceeded with probability 6e-7.
        for part in 0..5 {
            let centred = |i| along(part, i) - 0.5;
            let products: f64 = (0..N).map(|i| centred(i) * centred(i + 1)).sum();
            let mean = products / f64::from(N);
            assert!(mean.abs() < 5.0 / 12.0 / f64::from(N).sqrt(), "part {part}: {mean}");
        }
    }
}
