//! Rotary position embedding as configured.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::fields::{Fields, invalid};
use super::{CONTEXT_LEN_MAX, ModelConfig};
use crate::error::Error;

/// Base of the rotary frequencies where the file names none, in the reference implementation of most families here.
pub(super) const ROPE_THETA_DEFAULT: f64 = 10_000.0;
/// Bases that are accepted; published models stay under 1e8, and their powers must not leave the range of f64.
pub(super) const THETA: RangeInclusive<f64> = 1.0..=1e12;
/// Factors that divide frequencies; published ones stay under 1000.
pub(super) const FACTOR: RangeInclusive<f64> = 1.0..=1e6;
/// Divisors of single frequencies; published ones are from 1 to 70, give or take a rounding.
pub(super) const DIVISOR: RangeInclusive<f64> = 0.5..=1e6;
/// Factors of cosines and sines; published ones are from 1 to 1.5.
pub(super) const ATTENTION_FACTOR: RangeInclusive<f64> = 1e-3..=1e3;
/// Turns within the original context.
pub(super) const TURNS: RangeInclusive<f64> = 1e-6..=1e6;
/// Turns between which YaRN mixes where the file names none: its paper, Section 3.2.
pub(super) const BETA_FAST_DEFAULT: f64 = 32.0;
pub(super) const BETA_SLOW_DEFAULT: f64 = 1.0;
/// Shares of a head that turn.
const SHARE: RangeInclusive<f64> = 1e-3..=1.0;

/// Field about rotary embedding in files of newer tools, base included.
const NEW: &str = "rope_parameters";
/// Field about scaling in files of older tools.
const OLD: &str = "rope_scaling";
const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";
/// Type of a rotary embedding whose slowest pairs do not turn, while the others turn as if all did.
const PROPORTIONAL: &str = "proportional";

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: dimension pair `i` turns by `theta^(-2 i / span)` radians per position.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
    /// Elements of each head that turn; even.
    pub rotary_dim: usize,
    /// Elements over which pairs lie, the first of a head, each pair half of them apart: `rotary_dim`, or more where the slowest pairs
    /// do not turn.
    pub span: usize,
}

/// Change of rotary frequencies for contexts longer than those of the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// The frequency of dimension pair `i` is divided by factor `i`: whatever scaling it was, as GGUF files have it.
    Factors(
        /// `[rotary_dim / 2]`.
        Vec<f32>,
    ),
    /// Llama 3.1: with wavelength `w = 2 pi / frequency` and `n = original_context_len`, frequencies with
    /// `w < n / high_freq_factor` stay, those with `w > n / low_freq_factor` are divided by `factor`, and between them
    /// the two are mixed: weight `(n / w - low) / (high - low)` on the unchanged one.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Turns within the original context under which a frequency is divided.
        low_freq_factor: f64,
        /// Turns within the original context over which a frequency stays; above `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions of the first training.
        original_context_len: u32,
    },
    /// "NTK-aware": the base grows with the longest sequence that is served, so that the slowest frequency is that of linear
    /// scaling; within the original context nothing changes.
    Dynamic {
        /// At least 1.
        factor: f64,
        /// Positions of the first training.
        original_context_len: u32,
    },
    /// YaRN: frequencies of more than `beta_fast` turns within the original context stay, those of less than `beta_slow` are divided
    /// by `factor`, and between them the two are mixed by the index of the pair.
    Yarn {
        /// At least 1.
        factor: f64,
        /// Positions of the first training.
        original_context_len: u32,
        /// Above `beta_slow`.
        beta_fast: f64,
        /// See `beta_fast`.
        beta_slow: f64,
        /// Whether the ends of the mixed range are rounded to whole pairs.
        is_truncated: bool,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
    /// LongRoPE: divisors for sequences within the original context, others if a longer one is served.
    LongRope {
        /// `[rotary_dim / 2]`.
        short: Vec<f32>,
        /// `[rotary_dim / 2]`.
        long: Vec<f32>,
        /// Positions of the first training.
        original_context_len: u32,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
}

/// What an absent field means, and what fields about rotary embedding refer to.
#[derive(Clone, Copy)]
pub(super) struct Surroundings {
    pub(super) head_dim: usize,
    pub(super) theta: f64,
    pub(super) rotary_share: f64,
    /// `max_position_embeddings`.
    pub(super) context_len: u32,
}

impl Rope {
    /// All of a head turns by the usual base.
    pub(super) fn plain(head_dim: usize) -> Self {
        Self { theta: ROPE_THETA_DEFAULT, scaling: RopeScaling::None, rotary_dim: head_dim, span: head_dim }
    }

    /// Reads the fields about rotary embedding, in the older spelling or the newer (`rope_parameters`).
    pub(super) fn parse(fields: Fields<'_>, around: Surroundings) -> Result<Self, Error> {
        let field = if fields.get(NEW).is_some() { NEW } else { OLD };
        match fields.object(field)? {
            Some(inner) => Self::of(field, fields, Some(inner), around),
            None => Self::of(field, fields, None, around),
        }
    }

    /// Reads those of one kind of layers, which newer files keep apart.
    ///
    /// * `head_dim`: of these layers.
    pub(super) fn of_layers(
        fields: Fields<'_>,
        kind: &'static str,
        head_dim: usize,
        config: &ModelConfig,
    ) -> Result<Option<Self>, Error> {
        let Some(inner) = fields.object(NEW)?.map(|all| all.object(kind)).transpose()?.flatten() else {
            return Ok(None);
        };
        let around = Surroundings {
            head_dim,
            theta: config.ropes[0].theta,
            rotary_share: 1.0,
            context_len: config.context_len_max,
        };
        Self::of(NEW, fields, Some(inner), around).map(Some)
    }

    fn of(
        field: &str,
        outer: Fields<'_>,
        inner: Option<Fields<'_>>,
        around: Surroundings,
    ) -> Result<Self, Error> {
        let number = |name, range: RangeInclusive<f64>| {
            let of_inner =
                inner.map(|inner| inner.optional_number(name, range.clone())).transpose()?.flatten();
            of_inner.map_or_else(|| outer.optional_number(name, range), |number| Ok(Some(number)))
        };
        let theta = number("rope_theta", THETA)?.unwrap_or(around.theta);
        let share = number(PARTIAL, SHARE)?.unwrap_or(around.rotary_share);
        let rotary_dim = (around.head_dim as f64 * share) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            let expected =
                format!("an even number of the {} elements of a head, at least 2", around.head_dim);
            return Err(Error::Field { field: PARTIAL.into(), expected, got: format!("{share:?}") });
        }
        let scaling = match inner {
            Some(inner) => RopeScaling::parse(field, outer, inner, rotary_dim, around.context_len)?,
            None => RopeScaling::None,
        };
        let is_proportional = match inner {
            Some(inner) => inner.text(RopeScaling::key(inner))? == Some(PROPORTIONAL),
            None => false,
        };
        let span = if is_proportional { around.head_dim } else { rotary_dim };
        Ok(Self { theta, scaling, rotary_dim, span })
    }
}

impl RopeScaling {
    /// What the frequency of every dimension pair is divided by, where no key of a GGUF file says it.
    pub(crate) fn factors(&self, theta: f64, rotary_dim: usize) -> Option<Vec<f32>> {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } = *self else {
            return match self {
                Self::Factors(factors) => Some(factors.clone()),
                _ => None,
            };
        };
        let divisor = |i: usize| {
            let frequency = theta.powf(-2.0 * i as f64 / rotary_dim as f64);
            let turns = f64::from(original_context_len) * frequency / std::f64::consts::TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / factor + kept)) as f32
        };
        Some((0..rotary_dim / 2).map(divisor).collect())
    }

    /// Positions for which a model is made whose configuration says `trained`.
    pub(super) fn context_len(&self, trained: u32) -> u32 {
        let extended = match *self {
            Self::Dynamic { factor, original_context_len }
            | Self::Yarn { factor, original_context_len, .. } => {
                (factor * f64::from(original_context_len)) as u32
            }
            _ => 0,
        };
        extended.clamp(trained, trained.max(CONTEXT_LEN_MAX as u32))
    }

    /// The field that names it, in the newer spelling or the older.
    fn key(fields: Fields<'_>) -> &'static str {
        if fields.get("rope_type").is_some() { "rope_type" } else { "type" }
    }

    /// * `field`: where `fields` stand in the file, for errors.
    /// * `outer`: where `field` stands.
    fn parse(
        field: &str,
        outer: Fields<'_>,
        fields: Fields<'_>,
        rotary_dim: usize,
        context_len: u32,
    ) -> Result<Self, Error> {
        let key = Self::key(fields);
        let original = || {
            let inner = fields.optional_len(ORIGINAL, 1..=CONTEXT_LEN_MAX)?;
            let outer = outer.optional_len(ORIGINAL, 1..=CONTEXT_LEN_MAX)?;
            Ok::<_, Error>(inner.or(outer).map_or(context_len, |len| len as u32))
        };
        match fields.text(key)? {
            None if fields.is_mentioned("factor") => Err(Error::FieldMissing { field: "rope_type" }),
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear { factor: fields.number("factor", FACTOR)? }),
            Some(PROPORTIONAL) => {
                let factor = fields.optional_number("factor", FACTOR)?.filter(|&factor| factor != 1.0);
                Ok(factor.map_or(Self::None, |factor| Self::Linear { factor }))
            }
            Some("llama3") => Self::parse_llama3(fields),
            Some("dynamic") => Ok(Self::Dynamic {
                factor: fields.number("factor", FACTOR)?,
                original_context_len: context_len,
            }),
            // Phi-3 calls it by the names of what it tried before.
            Some("longrope" | "su") => Self::parse_long(fields, rotary_dim, original()?, context_len),
            Some("yarn") if fields.get("long_factor").is_some() => {
                Self::parse_long(fields, rotary_dim, original()?, context_len)
            }
            Some("yarn") => Self::parse_yarn(fields, original()?, context_len),
            Some(other) => Err(Error::Unsupported {
                feature: "rotary scaling other than linear, dynamic, yarn, longrope, llama3 and proportional",
                got: format!("{field}.{key}: {other}"),
                hint: "set it to \"default\" in config.json, and leave rope_theta, to serve contexts up to the original length",
            }),
        }
    }

    fn parse_llama3(fields: Fields<'_>) -> Result<Self, Error> {
        let low_freq_factor = fields.number("low_freq_factor", TURNS)?;
        let high_freq_factor = fields.number("high_freq_factor", TURNS)?;
        above("high_freq_factor", high_freq_factor, "low_freq_factor", low_freq_factor)?;
        Ok(Self::Llama3 {
            factor: fields.number("factor", FACTOR)?,
            low_freq_factor,
            high_freq_factor,
            original_context_len: fields.len(ORIGINAL, CONTEXT_LEN_MAX)? as u32,
        })
    }

    fn parse_yarn(fields: Fields<'_>, original_context_len: u32, context_len: u32) -> Result<Self, Error> {
        let ratio = || (f64::from(context_len) / f64::from(original_context_len)).max(1.0);
        let factor = fields.optional_number("factor", FACTOR)?.unwrap_or_else(ratio);
        let optional =
            |name, default| Ok::<_, Error>(fields.optional_number(name, TURNS)?.unwrap_or(default));
        let beta_fast = optional("beta_fast", BETA_FAST_DEFAULT)?;
        let beta_slow = optional("beta_slow", BETA_SLOW_DEFAULT)?;
        above("beta_fast", beta_fast, "beta_slow", beta_slow)?;
        let share = |name| fields.optional_number(name, 0.0..=*ATTENTION_FACTOR.end());
        let attention_factor = match fields.optional_number("attention_factor", ATTENTION_FACTOR)? {
            Some(attention_factor) => attention_factor,
            None => match (share("mscale")?, share("mscale_all_dim")?) {
                (Some(part), Some(all)) if part != 0.0 && all != 0.0 => {
                    yarn_attention_factor(factor, part) / yarn_attention_factor(factor, all)
                }
                _ => yarn_attention_factor(factor, 1.0),
            },
        };
        let is_truncated = fields.optional_flag("truncate")?.unwrap_or(true);
        Ok(Self::Yarn { factor, original_context_len, beta_fast, beta_slow, is_truncated, attention_factor })
    }

    fn parse_long(
        fields: Fields<'_>,
        rotary_dim: usize,
        original_context_len: u32,
        context_len: u32,
    ) -> Result<Self, Error> {
        let ratio = || f64::from(context_len) / f64::from(original_context_len);
        let factor = fields.optional_number("factor", FACTOR)?.unwrap_or_else(ratio);
        let attention_factor = fields.optional_number("attention_factor", ATTENTION_FACTOR)?;
        Ok(Self::LongRope {
            short: divisors(fields, "short_factor", rotary_dim / 2)?,
            long: divisors(fields, "long_factor", rotary_dim / 2)?,
            original_context_len,
            attention_factor: attention_factor
                .unwrap_or_else(|| long_attention_factor(factor, original_context_len)),
        })
    }
}

/// `0.1 * share * ln(factor) + 1`: Peng et al. (arXiv:2309.00071), Eq. 22.
pub(super) fn yarn_attention_factor(factor: f64, share: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * share * factor.ln() + 1.0 }
}

/// `sqrt(1 + ln(factor) / ln(n))` for `n` positions of the first training: Ding et al. (arXiv:2402.13753), Section 4.
pub(super) fn long_attention_factor(factor: f64, original_context_len: u32) -> f64 {
    let original = f64::from(original_context_len.max(2));
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

fn above(field: &str, value: f64, lower_field: &str, lower: f64) -> Result<(), Error> {
    match value > lower {
        true => Ok(()),
        false => Err(Error::Field {
            field: field.into(),
            expected: format!("above {lower_field} ({lower})"),
            got: value.to_string(),
        }),
    }
}

/// A list of `n` divisors of frequencies.
fn divisors(fields: Fields<'_>, field: &'static str, n: usize) -> Result<Vec<f32>, Error> {
    let value = fields.get(field).ok_or(Error::FieldMissing { field })?;
    let expected = || format!("{n} numbers from {:?} to {:?}", DIVISOR.start(), DIVISOR.end());
    let list = value.as_array().ok_or_else(|| invalid(field, expected(), value))?;
    if list.len() != n {
        let got = format!("{} of them", list.len());
        return Err(Error::Field { field: field.into(), expected: expected(), got });
    }
    let divisor = |value: &Value| {
        let divisor = value.as_f64().filter(|divisor| DIVISOR.contains(divisor));
        divisor.map(|divisor| divisor as f32).ok_or_else(|| invalid(field, expected(), value))
    };
    list.iter().map(divisor).collect()
}
