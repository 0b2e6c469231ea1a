//! Distributions of lengths.

use crate::random::Random;

/// Tokens of prompts or answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    /// All the same.
    Fixed(u32),
    /// Every length of a range as likely.
    Uniform(u32, u32),
    /// Log-normal, as lengths of conversations roughly are.
    LogNormal {
        /// Mean before clamping, tokens.
        mean: f64,
        /// Standard deviation over mean.
        cv: f64,
        /// Shortest and longest.
        bounds: (u32, u32),
    },
}

impl Lengths {
    /// The longest of them, tokens.
    pub(super) fn longest(&self) -> u32 {
        match *self {
            Self::Fixed(len) => len,
            Self::Uniform(_, max) | Self::LogNormal { bounds: (_, max), .. } => max,
        }
    }

    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        match *self {
            Self::Fixed(len) => len,
            Self::Uniform(min, max) => min + random.below(u64::from(max - min) + 1) as u32,
            Self::LogNormal { mean, cv, bounds: (min, max) } => {
                // Mean and variance of a log-normal number: exp(m + v / 2), and that squared times exp(v) - 1.
                let variance = (1.0 + cv * cv).ln();
                let len = (mean.ln() - variance / 2.0 + variance.sqrt() * random.normal()).exp();
                (len.round() as u32).clamp(min, max)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_their_means_and_bounds() {
        let mut random = Random::new(&[1]);
        let mut mean = |lengths: Lengths| {
            let lens: Vec<u32> = (0..50_000).map(|_| lengths.draw(&mut random)).collect();
            let sum: u64 = lens.iter().map(|&len| u64::from(len)).sum();
            (sum as f64 / lens.len() as f64, *lens.iter().min().unwrap(), *lens.iter().max().unwrap())
        };
        assert_eq!(mean(Lengths::Fixed(7)), (7.0, 7, 7));
        let (uniform, min, max) = mean(Lengths::Uniform(3, 9));
        assert!((uniform - 6.0).abs() < 0.05 && (min, max) == (3, 9));
        let (mean, min, max) = mean(Lengths::LogNormal { mean: 200.0, cv: 0.5, bounds: (50, 1000) });
        assert!((mean / 200.0 - 1.0).abs() < 0.02 && min >= 50 && max <= 1000, "{mean}");
    }
}
