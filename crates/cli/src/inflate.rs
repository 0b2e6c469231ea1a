//! `dsde inspect inflate`: a model that computes the same function at the cost of a larger one.
//!
//! Speculation is worth what a pass of the target costs over one of the draft. A small pair has the acceptance of its text but
//! not the cost ratio of the pairs that are served; a target inflated from the small one has both. Its output shows nothing
//! new, only its speed does.
//!
//! Wider: the residual stream gains elements that are always zero. The mean of squares over `H'` elements of which `H` are
//! not zero is `H / H'` of that over `H`, so epsilons take the factor `H / H'` and the norms' weights `sqrt(H / H')`. With
//! `H' / H` a power of four, both are powers of two and nothing is rounded differently. More heads and feed-forward channels:
//! their columns in the projection back to the stream are zero. Deeper: the added layers add zero.
//!
//! Most added weights are random numbers that meet a zero on their way, so that they cost what trained ones cost. Dense
//! kernels have no shortcut for the others either: no operation here depends on the values of its operands.

mod tensors;

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use dsde_checkpoint::config::ModelConfig;
use serde_json::{Map, Value};

use crate::args::positive_up_to;
use crate::derived::{self, Files};
use crate::failure::{Outcome, usage};
use crate::models::found_folder;
use crate::opened::{Opened, Role};
use crate::speculation::Source;
use crate::stores::bytes;

/// Most weights of the result: 16 GiB.
const PARAMETERS_MAX: usize = 8 << 30;
/// Most layers and largest widths that can be typed; what a model may have is narrower and checked when it is read.
const SIZE_MAX: u32 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  dsde inspect inflate --hidden 1024 --layers 8 --out big
  dsde bench --model big --draft demo

The result computes exactly what the model computes, in a pass as dear as that of a model of its size. Acceptance is that of \
the small pair, cost is that of a large one.";

/// Write a larger model that computes the same function
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InflateArgs {
    /// Model to inflate: a folder with bf16 weights, or `demo`.
    #[arg(long, value_name = "PATH", default_value = "demo")]
    model: String,

    /// Width of the residual stream: the model's times a power of four.
    #[arg(long, value_name = "H", value_parser = positive_up_to(SIZE_MAX))]
    hidden: NonZeroU32,

    /// Layers.
    #[arg(long, value_name = "L", value_parser = positive_up_to(SIZE_MAX))]
    layers: NonZeroU32,

    /// Width of the feed-forward layers. Default: grows like the residual stream.
    #[arg(long, value_name = "N", value_parser = positive_up_to(SIZE_MAX))]
    ff: Option<NonZeroU32>,

    /// Query heads; key/value heads keep their share of them. Default: grow like the residual stream.
    #[arg(long, value_name = "N", value_parser = positive_up_to(SIZE_MAX))]
    heads: Option<NonZeroU32>,

    /// Folder to write; must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What of a model's shape can grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    hidden: usize,
    layers: usize,
    ff: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Sizes {
    fn of(config: &ModelConfig) -> Self {
        Self {
            hidden: config.hidden,
            layers: config.n_layers,
            ff: config.intermediate,
            heads: config.n_heads,
            kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Elements of all queries of a row.
    fn q_len(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of all keys of a row.
    fn kv_len(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// `H' / H`.
    fn widening(&self, config: &ModelConfig) -> f64 {
        self.hidden as f64 / config.hidden as f64
    }

    /// The sizes that were asked for.
    fn asked(args: &InflateArgs, config: &ModelConfig) -> Outcome<Self> {
        let small = Self::of(config);
        let hidden = args.hidden.get() as usize;
        let factor = hidden / small.hidden;
        let is_power_of_four = factor.is_power_of_two() && factor.trailing_zeros().is_multiple_of(2);
        if !hidden.is_multiple_of(small.hidden) || !is_power_of_four {
            return Err(usage(format!(
                "--hidden must be {0} times a power of four (1, 4, 16, ...), so that nothing is rounded differently, got {hidden}",
                small.hidden
            )));
        }
        let or_grown =
            |asked: Option<NonZeroU32>, small: usize| asked.map_or(small * factor, |n| n.get() as usize);
        let heads = or_grown(args.heads, small.heads);
        let group = small.heads / small.kv_heads;
        if !heads.is_multiple_of(group) {
            return Err(usage(format!(
                "--heads must be a multiple of {group}, the query heads per key/value head, got {heads}"
            )));
        }
        let layers = args.layers.get() as usize;
        let large =
            Self { hidden, layers, ff: or_grown(args.ff, small.ff), heads, kv_heads: heads / group, ..small };
        for (option, small, large) in [
            ("layers", small.layers, large.layers),
            ("ff", small.ff, large.ff),
            ("heads", small.heads, large.heads),
        ] {
            if large < small {
                return Err(usage(format!(
                    "--{option} must be at least {small}, as the model has, got {large}"
                )));
            }
        }
        Ok(large)
    }

    /// Weights without biases and norms; saturates.
    fn n_parameters(&self, config: &ModelConfig) -> usize {
        let layer = (2 * self.q_len() + 2 * self.kv_len() + 3 * self.ff).saturating_mul(self.hidden);
        let tables = if config.tie_embeddings { 1 } else { 2 };
        self.layers.saturating_mul(layer).saturating_add(tables * config.n_embeddings * self.hidden)
    }
}

/// Runs the command.
pub(crate) fn run(args: InflateArgs) -> Outcome {
    let source = found_folder("model", Source::parse(&args.model))?;
    // The whole table counts, padding included, so the checkpoint is not cut to the tokens of the tokenizer.
    let opened = Opened::untrimmed(&source, Role::Target)?;
    let config = opened.config();
    derived::check_family(config.family)?;
    if config.experts.is_some() {
        return Err(usage(format!(
            "{} is a mixture of experts, which cannot be inflated; choose a dense model",
            args.model
        )));
    }
    let sizes = Sizes::asked(&args, config)?;
    let n_parameters = sizes.n_parameters(config);
    if n_parameters > PARAMETERS_MAX {
        return Err(usage(format!(
            "the result would have {:.1} billion weights, at most {:.1} are written; choose smaller sizes",
            n_parameters as f64 / 1e9,
            PARAMETERS_MAX as f64 / 1e9
        )));
    }
    let files = Files::of(&source, Role::Target)?;
    let config_json = inflated_config(&files.config, config, &sizes)?;
    let n_bytes = n_parameters * tensors::ELEMENT_BYTES;
    let bar = derived::progress(n_bytes);
    let tensors = tensors::tensors(&opened.checkpoint, &sizes, &bar)?;
    let named = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor));
    let written = derived::write(&args.out, named.collect(), config_json.as_bytes(), &files);
    bar.finish_and_clear();
    written?;
    writeln!(
        io::stdout(),
        "{}: {:.1} million parameters, {}",
        args.out.display(),
        n_parameters as f64 / 1e6,
        bytes(n_bytes)
    )?;
    Ok(())
}

/// `config.json` with the sizes that have grown.
fn inflated_config(text: &[u8], config: &ModelConfig, sizes: &Sizes) -> Outcome<String> {
    let mut fields: Map<String, Value> = serde_json::from_slice(text)?;
    // The f32 value divided by a power of two is exact, and so is its way through the file.
    let rms_eps = f64::from(config.rms_eps) / sizes.widening(config);
    for (key, value) in [
        ("hidden_size", sizes.hidden.into()),
        ("num_hidden_layers", sizes.layers.into()),
        ("num_attention_heads", sizes.heads.into()),
        ("num_key_value_heads", sizes.kv_heads.into()),
        ("head_dim", sizes.head_dim.into()),
        ("intermediate_size", sizes.ff.into()),
        ("rms_norm_eps", Value::from(rms_eps)),
        ("torch_dtype", "bfloat16".into()),
    ] {
        fields.insert(key.to_owned(), value);
    }
    // The newer spelling of `torch_dtype`, and one entry per layer of the small model.
    fields.remove("dtype");
    fields.remove("layer_types");
    Ok(serde_json::to_string_pretty(&fields)? + "\n")
}

#[cfg(test)]
mod tests {
    use dsde_model::embedded;

    use super::*;

    fn args(options: &[&str]) -> InflateArgs {
        #[derive(clap::Parser)]
        struct Typed {
            #[command(flatten)]
            args: InflateArgs,
        }
        let fixed = ["inflate", "--out", "nowhere"];
        <Typed as clap::Parser>::parse_from(fixed.iter().chain(options)).args
    }

    /// The embedded target: hidden 256, 6 layers, 4 heads (2 key/value) of 64, feed-forward 768.
    #[track_caller]
    fn check(options: &[&str], expected: Option<[usize; 5]>) {
        let sizes = Sizes::asked(&args(options), embedded::target().config()).ok();
        let got = sizes.map(|sizes| [sizes.hidden, sizes.layers, sizes.ff, sizes.heads, sizes.kv_heads]);
        assert_eq!(got, expected, "{options:?}");
    }

    #[test]
    fn sizes_grow_together_and_never_shrink() {
        check(&["--hidden", "1024", "--layers", "8"], Some([1024, 8, 3072, 16, 8]));
        check(&["--hidden", "256", "--layers", "6"], Some([256, 6, 768, 4, 2]));
        let more = ["--hidden", "256", "--layers", "7", "--ff", "769", "--heads", "6"];
        check(&more, Some([256, 7, 769, 6, 3]));
        check(&["--hidden", "512", "--layers", "6"], None);
        check(&["--hidden", "64", "--layers", "6"], None);
        check(&["--hidden", "300", "--layers", "6"], None);
        check(&["--hidden", "1024", "--layers", "5"], None);
        check(&["--hidden", "256", "--layers", "6", "--ff", "767"], None);
        check(&["--hidden", "256", "--layers", "6", "--heads", "5"], None);
        check(&["--hidden", "256", "--layers", "6", "--heads", "2"], None);
    }

    #[test]
    fn parameters_are_those_of_the_matrices() {
        let config = embedded::target();
        let config = config.config();
        // 4096 * 256 + 6 * 256 * (2 * 256 + 2 * 128 + 3 * 768).
        assert_eq!(Sizes::of(config).n_parameters(config), 5_767_168);
    }
}
