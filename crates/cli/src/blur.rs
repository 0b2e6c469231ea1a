//! `dsde inspect blur`: the same model with noise on its weights, to see what policies do with a draft that guesses badly.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use dsde_checkpoint::Dtype;
use dsde_checkpoint::{Checkpoint, TensorView};
use half::{bf16, f16};
use indicatif::ProgressBar;
use safetensors::tensor::{self, View};

use crate::args::{number_in, seed};
use crate::derived::{self, Files};
use crate::failure::Outcome;
use crate::models::found_folder;
use crate::opened::{Opened, Role};
use crate::speculation::Source;

/// Ten times its size leaves nothing of a weight.
const NOISE_MAX: f64 = 10.0;

const EXAMPLES: &str = "\
Examples:
  dsde inspect blur --noise 0.3 --out bad
  dsde bench --draft bad

Output does not change with the draft, only speed does.";

/// Write the same model with random noise on its weights, to serve as a bad draft
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct BlurArgs {
    /// Model to blur: a folder, or `demo`, the embedded draft.
    #[arg(long, value_name = "PATH", default_value = "demo")]
    model: String,

    /// Standard deviation of the noise over the root mean square of the matrix that it is added to, 0 to 10.
    #[arg(long, value_name = "S", value_parser = number_in(0.0..=NOISE_MAX))]
    noise: f64,

    /// Of the noise; the same seed writes the same bytes.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = seed)]
    seed: u64,

    /// Folder to write; must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &BlurArgs) -> Outcome {
    let source = found_folder("model", Source::parse(&args.model))?;
    let opened = Opened::untrimmed(&source, Role::Draft)?;
    derived::check_family(opened.config().family)?;
    let files = Files::of(&source, Role::Draft)?;
    let bar = derived::progress(opened.checkpoint.stored_bytes());
    let tensors = tensors(&opened.checkpoint, args, &bar)?;
    let written = derived::write(&args.out, tensors, &files.config, &files);
    bar.finish_and_clear();
    written?;
    writeln!(io::stdout(), "{}: noise {}, seed {}", args.out.display(), args.noise, args.seed)?;
    Ok(())
}

/// Why quantised models are left alone.
const QUANTISED: &str = "noise is added to f32, f16 and bf16 weights, not to quantised ones";

/// All tensors of the model, in the order of their names.
fn tensors<'a>(
    checkpoint: &'a Checkpoint,
    args: &BlurArgs,
    bar: &'a ProgressBar,
) -> anyhow::Result<Vec<(String, Blurred<'a>)>> {
    let mut names: Vec<&str> = checkpoint.tensor_names().collect();
    names.sort_unstable();
    let blurred = names.into_iter().map(|name| {
        let stored = checkpoint.stored(name)?;
        anyhow::ensure!(!stored.dtype.is_quantised(), "{name}: {QUANTISED}");
        // Norms and biases keep their values: noise on them shifts everything alike.
        let noise = if stored.shape.len() == 2 { args.noise } else { 0.0 };
        let noise = Noise { size: noise, state: seed_of(args.seed, name) };
        Ok((name.to_owned(), Blurred { stored, noise, bar }))
    });
    blurred.collect()
}

/// A tensor as stored and what is added to it.
struct Blurred<'a> {
    stored: TensorView<'a>,
    noise: Noise,
    bar: &'a ProgressBar,
}

impl View for Blurred<'_> {
    fn dtype(&self) -> tensor::Dtype {
        match self.stored.dtype {
            Dtype::F32 => tensor::Dtype::F32,
            Dtype::F16 => tensor::Dtype::F16,
            Dtype::Bf16 => tensor::Dtype::BF16,
            _ => unreachable!("{QUANTISED}"),
        }
    }

    fn shape(&self) -> &[usize] {
        self.stored.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bar.inc(self.stored.bytes.len() as u64);
        if self.noise.size == 0.0 {
            return Cow::Borrowed(self.stored.bytes);
        }
        let mut values = self.stored.to_f32();
        self.noise.clone().add_to(&mut values);
        let values = values.into_iter();
        Cow::Owned(match self.stored.dtype {
            Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Dtype::F16 => values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            _ => unreachable!("{QUANTISED}"),
        })
    }

    fn data_len(&self) -> usize {
        self.stored.bytes.len()
    }
}

/// Normal noise from a stream of random words (SplitMix64; Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
struct Noise {
    /// Over the root mean square.
    size: f64,
    state: u64,
}

impl Noise {
    fn add_to(&mut self, values: &mut [f32]) {
        let sum: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let deviation = self.size * (sum / values.len().max(1) as f64).sqrt();
        for x in values {
            *x = (f64::from(*x) + deviation * self.normal()) as f32;
        }
    }

    /// Sum of 12 uniform numbers less its mean: variance 1, close to normal, and the same bits on every machine.
    fn normal(&mut self) -> f64 {
        let sum: u64 = (0..3).map(|_| sum_of_quarters(self.next())).sum();
        sum as f64 / f64::from(1 << 16) + 12.0 / f64::from(1 << 17) - 6.0
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The four 16-bit numbers of a word, added.
fn sum_of_quarters(word: u64) -> u64 {
    (0..4).map(|i| word >> (16 * i) & 0xffff).sum()
}

/// Where the stream of a tensor begins.
fn seed_of(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed, |state, byte| {
        Noise { size: 0.0, state: state.wrapping_mul(257).wrapping_add(byte.into()) }.next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_size_that_was_asked_for() {
        let mut values = vec![2.0_f32; 40_000];
        Noise { size: 0.25, state: 7 }.add_to(&mut values);
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = values.iter().map(|&x| (f64::from(x) - 2.0).powi(2)).sum::<f64>() / n;
        // Standard errors: 0.5 / 200 and 0.25 sqrt(2) / 200.
        assert!((mean - 2.0).abs() < 6.0 * 0.0025, "{mean}");
        assert!((variance - 0.25).abs() < 6.0 * 0.0018, "{variance}");
        let beyond =
            |bound: f64| values.iter().filter(|&&x| (f64::from(x) - 2.0).abs() > bound).count() as f64 / n;
        // Of a normal distribution 31.7 % lie beyond one deviation and 4.6 % beyond two.
        assert!((beyond(0.5) - 0.317).abs() < 0.015 && (beyond(1.0) - 0.046).abs() < 0.01);
    }

    #[test]
    fn streams_differ_by_seed_and_tensor() {
        let starts = [seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "b"), seed_of(0, "ab"), seed_of(0, "ba")];
        for (i, start) in starts.iter().enumerate() {
            assert!(!starts[..i].contains(start));
        }
    }
}
