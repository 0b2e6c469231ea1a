//! What is typed: options shared by several commands, and their help.
//!
//! Values stay as typed here; `speculation`, `sampling` and `session` turn them into what is needed and check the relations.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use clap::builder::TypedValueParser;
use clap::{ArgAction, Args, ValueEnum};
use dsde_kernels::cpu::KvType;
use dsde_policy::registry;
use dsde_sampling::Rule;

/// Most threads that can be asked for.
pub(crate) const THREADS_MAX: u32 = 1024;
/// Most requests in flight that can be asked for; the engine runs no more sequences at once.
pub(crate) const CONCURRENCY_MAX: u32 = 4096;

/// Shortest context that can be asked for: one token of prompt and one of output.
const CONTEXT_MIN: u32 = 2;

/// Parses a whole number within `range`; what does not fit is told what would.
pub(crate) fn whole_number_in(range: RangeInclusive<u32>) -> impl TypedValueParser<Value = u32> {
    let parse = move |text: String| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a whole number in {}..={}", range.start(), range.end()))
    };
    clap::builder::StringValueParser::new().try_map(parse)
}

/// Parses a number in `1..=max`.
pub(crate) fn positive_up_to(max: u32) -> impl TypedValueParser<Value = NonZeroU32> {
    whole_number_in(1..=max).try_map(NonZeroU32::try_from)
}

/// Parses a number within `range`.
pub(crate) fn number_in(range: RangeInclusive<f64>) -> impl TypedValueParser<Value = f64> {
    let parse = move |text: String| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a number in {}..={}", range.start(), range.end()))
    };
    clap::builder::StringValueParser::new().try_map(parse)
}

/// Parses a seed: what the API takes, where it has a sign, and the whole range of the engine, in which -1 is 2^64 - 1.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    let signed = || text.parse::<i64>().ok().map(i64::cast_unsigned);
    let expected = || format!("expected a whole number in {}..={}", i64::MIN, u64::MAX);
    text.parse().ok().or_else(signed).ok_or_else(expected)
}

/// Which models run, and with how much of the machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Target model: a GGUF file, a folder as downloaded from Hugging Face (config.json, tokenizer.json, *.safetensors),
    /// `ORG/NAME[:FILE]` for one of the Hugging Face Hub, which is fetched if need be (`dsde pull --help` tells more), or `demo` for
    /// the small pair inside this program, which is the default.
    #[arg(long, value_name = "PATH|ORG/NAME", help_heading = "Model")]
    pub(crate) model: Option<String>,

    /// Who drafts: a model (as for --model), an EAGLE-3 head for the model (a folder, a GGUF file or `ORG/NAME`), the assistant of a Gemma 4,
    /// `mtp` (the head that some models bring in their files), `demo`, `suffix` (the text goes on as it did where the same tokens stood before; no model
    /// needed), `suffix:answers=TOKENS` (so do the last so many tokens of past answers) or `none`. Default: the embedded draft for
    /// the model `demo`; for other models `mtp` where they bring a head, else `suffix`.
    #[arg(long, value_name = "PATH|ORG/NAME|mtp|suffix|none", help_heading = "Model")]
    pub(crate) draft: Option<String>,

    /// Weights of the draft in memory. Guesses are verified, so this changes speed and how many are right, never the answers.
    #[arg(long, value_name = "HOW", help_heading = "Model", value_enum, default_value_t)]
    pub(crate) draft_weights: DraftWeights,

    /// Threads that compute. Default: all logical cores.
    #[arg(long, value_name = "N", help_heading = "Model", value_parser = positive_up_to(THREADS_MAX))]
    pub(crate) threads: Option<NonZeroU32>,

    /// Blocks of the key/value stores, 16 tokens each. Default: room for 32 sequences of full length, but at most 1 GiB; where a
    /// single one needs more than that, room for it, but at most 4 GiB; never more than half of the memory that the weights leave.
    #[arg(long, value_name = "N", help_heading = "Model", value_parser = positive_up_to(u32::MAX))]
    pub(crate) kv_blocks: Option<NonZeroU32>,

    /// Type in which keys and values are kept.
    #[arg(long, value_name = "TYPE", help_heading = "Model", default_value_t)]
    pub(crate) kv_type: KvTypeArg,

    /// Longest sequence in tokens, prompt and output together. Default: the model's own limit.
    #[arg(long, value_name = "N", help_heading = "Model", value_parser = whole_number_in(CONTEXT_MIN..=u32::MAX))]
    pub(crate) context: Option<u32>,

    /// Let messages spell control tokens, such as `<|im_end|>`. Without it, what a message says stays text, and only the chat
    /// template's own words become tokens that steer the model.
    #[arg(
        long,
        value_name = "BOOL",
        help_heading = "Model",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub(crate) allow_control_tokens: bool,
}

impl ModelArgs {
    /// The embedded pair.
    pub(crate) fn demo(threads: Option<NonZeroU32>) -> Self {
        Self {
            model: None,
            draft: None,
            draft_weights: DraftWeights::default(),
            threads,
            kv_blocks: None,
            kv_type: KvTypeArg::default(),
            context: None,
            allow_control_tokens: false,
        }
    }
}

/// What becomes of a draft's weights when they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DraftWeights {
    /// Weights of 16 or 32 bits are rounded to 4 (heads) or 8 (models): a guess takes as long as reading them.
    #[default]
    Rounded,
    /// As in the files.
    Stored,
}

/// Type in which keys and values are kept; docs/kernels.md says what it costs and errs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvTypeArg {
    /// 16 bits, with the range of 32.
    #[default]
    Bf16,
    /// 16 bits, more exact than bf16 and with less range.
    F16,
    /// 8 bits and scales: room for nearly twice as many tokens.
    Int8,
}

impl From<KvTypeArg> for KvType {
    fn from(arg: KvTypeArg) -> Self {
        match arg {
            KvTypeArg::Bf16 => Self::Bf16,
            KvTypeArg::F16 => Self::F16,
            KvTypeArg::Int8 => Self::Int8,
        }
    }
}

/// As typed.
impl fmt::Display for KvTypeArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KvType::from(*self).name())
    }
}

/// How sampled proposals are judged; greedy ones are always compared with the most probable token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verification {
    /// Jointly over the proposal: never accepts fewer tokens.
    #[default]
    Block,
    /// Token by token.
    Token,
}

/// As typed.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Token => "token",
        })
    }
}

impl From<Verification> for Rule {
    fn from(verification: Verification) -> Self {
        match verification {
            Verification::Block => Self::Block,
            Verification::Token => Self::TokenWise,
        }
    }
}

/// Whether the model's authors have a say in how tokens are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GenerationConfig {
    /// What generation_config.json recommends stands in for what nobody asked for.
    #[default]
    Model,
    /// It is not asked.
    None,
}

/// Where defaults of sampling come from.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct DefaultsArgs {
    /// Whether temperature, top-p, top-k, min-p and repetition penalty are those of the model's generation_config.json where
    /// nobody asks for others; `dsde inspect` shows them.
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "model|none",
        help_heading = "Model"
    )]
    pub(crate) generation_config: GenerationConfig,
}

/// As typed.
impl fmt::Display for GenerationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::None => "none",
        })
    }
}

/// Which policy plans speculation lengths.
#[derive(Args, Clone, Debug)]
pub(crate) struct PolicyArgs {
    /// How far to speculate; `dsde policies` lists what there is. Default: `auto`, or `off` with `--draft none`.
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]", help_heading = "Speculation")]
    pub(crate) policy: Option<registry::Config>,

    /// How sampled proposals are judged; both follow the target's distribution exactly.
    #[arg(long, value_enum, default_value_t, help_heading = "Speculation")]
    pub(crate) verification: Verification,
}

/// How tokens are drawn.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most tokens of an answer; the context bounds it, too. Default: 256.
    #[arg(long, value_name = "N", value_parser = positive_up_to(u32::MAX))]
    pub(crate) max_tokens: Option<NonZeroU32>,

    /// 0 is greedy; higher is more random, at most 100. Default: the model's own, else 0.
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,

    /// Draw from the smallest set of tokens with this probability, above 0 and at most 1; 1 is off. Default: the model's own,
    /// else 1.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,

    /// Draw from the K most probable tokens; 0 is off. Default: the model's own, else 0.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,

    /// Draw from tokens with at least this share of the largest probability, 0 to 1; 0 is off. Default: the model's own,
    /// else 0.
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,

    /// Makes tokens of prompt and output less likely (above 1) or more likely, 0.01 to 100; 1 is off. Default: the model's
    /// own, else 1.
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,

    /// Subtracted from the logits of tokens in the output, -2 to 2; 0 is off.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(crate) presence_penalty: f32,

    /// Subtracted per occurrence in the output, -2 to 2; 0 is off.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(crate) frequency_penalty: f32,

    /// Added to the logit of a token id, -100 to 100; may be given several times.
    #[arg(long, value_name = "TOKEN=BIAS", value_parser = logit_bias, allow_hyphen_values = true)]
    pub(crate) logit_bias: Vec<(u32, f32)>,

    /// Random draws for the prompt or message i (from 0) use the seed S + i, and sampled text depends on nothing else: neither on drafts and
    /// policy nor on what runs beside it. A guess is then accepted where it is what the target draws, which happens a little
    /// less often than without a seed. Without one, text is drawn anew each time. -2^63 to 2^64 - 1.
    #[arg(long, value_name = "S", value_parser = seed)]
    pub(crate) seed: Option<u64>,

    /// End before this text appears; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,

    /// Go on past the end of text, to the most tokens allowed.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parse = || {
        let (token, bias) = text.split_once('=')?;
        Some((token.parse().ok()?, bias.parse().ok()?))
    };
    parse().ok_or_else(|| "expected TOKEN=BIAS, a token id and a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_those_of_the_api_and_of_the_engine() {
        for (text, expected) in [
            ("7", Some(7)),
            ("-1", Some(u64::MAX)),
            ("-9223372036854775808", Some(1 << 63)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-9223372036854775809", None),
            ("one", None),
        ] {
            assert_eq!(seed(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_logit_bias_is_a_token_and_a_number() {
        assert_eq!(logit_bias("17=-2.5"), Ok((17, -2.5)));
        for text in ["", "17", "17=", "=1", "x=1", "-1=1", "17=high"] {
            assert!(logit_bias(text).is_err(), "{text}");
        }
    }
}
