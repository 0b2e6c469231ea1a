//! Rotary position embedding as configured.

use std::ops::RangeInclusive;

use super::CONTEXT_LEN_MAX;
use super::fields::Fields;
use crate::error::Error;

/// Base of the rotary frequencies where the file names none, as in the reference implementation of every family here.
pub(super) const ROPE_THETA_DEFAULT: f64 = 10_000.0;
/// Bases that are accepted; published models stay under 1e8, and their powers must not leave the range of f64.
pub(super) const THETA: RangeInclusive<f64> = 1.0..=1e12;
/// Factors that divide frequencies; published ones stay under 1000.
pub(super) const FACTOR: RangeInclusive<f64> = 1.0..=1e6;
/// Turns within the original context.
const TURNS: RangeInclusive<f64> = 1e-6..=1e6;

/// Field about rotary embedding in files of newer tools, base included.
const NEW: &str = "rope_parameters";
/// Field about scaling in files of older tools.
const OLD: &str = "rope_scaling";

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: dimension pair `i` turns by `theta^(-2 i / head_dim)` radians per position.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
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
        /// `[head_dim / 2]`.
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
}

impl Rope {
    /// Reads the fields about rotary embedding, in the older spelling or the newer (`rope_parameters`).
    pub(super) fn parse(fields: Fields<'_>) -> Result<Self, Error> {
        let field = if fields.get(NEW).is_some() { NEW } else { OLD };
        let scaling = fields.object(field)?;
        let theta = match fields.optional_number("rope_theta", THETA)? {
            Some(theta) => Some(theta),
            None => scaling.map(|s| s.optional_number("rope_theta", THETA)).transpose()?.flatten(),
        };
        let scaling = scaling.map_or(Ok(RopeScaling::None), |scaling| RopeScaling::parse(field, scaling))?;
        Ok(Self { theta: theta.unwrap_or(ROPE_THETA_DEFAULT), scaling })
    }
}

impl RopeScaling {
    /// What the frequency of every dimension pair is divided by, where no key of a GGUF file says it.
    pub(crate) fn factors(&self, theta: f64, head_dim: usize) -> Option<Vec<f32>> {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } = *self else {
            return match self {
                Self::Factors(factors) => Some(factors.clone()),
                _ => None,
            };
        };
        let divisor = |i: usize| {
            let frequency = theta.powf(-2.0 * i as f64 / head_dim as f64);
            let turns = f64::from(original_context_len) * frequency / std::f64::consts::TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / factor + kept)) as f32
        };
        Some((0..head_dim / 2).map(divisor).collect())
    }

    /// * `field`: where `fields` stand in the file, for errors.
    fn parse(field: &str, fields: Fields<'_>) -> Result<Self, Error> {
        let key = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
        match fields.text(key)? {
            None if fields.is_mentioned("factor") => Err(Error::FieldMissing { field: "rope_type" }),
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear { factor: fields.number("factor", FACTOR)? }),
            Some("llama3") => Self::parse_llama3(fields),
            Some(other) => Err(Error::Unsupported {
                feature: "rotary scaling other than linear and llama3",
                got: format!("{field}.{key}: {other}"),
                hint: "set it to \"default\" in config.json, and leave rope_theta, to serve contexts up to the original length",
            }),
        }
    }

    fn parse_llama3(fields: Fields<'_>) -> Result<Self, Error> {
        let low_freq_factor = fields.number("low_freq_factor", TURNS)?;
        let high_freq_factor = fields.number("high_freq_factor", TURNS)?;
        if high_freq_factor <= low_freq_factor {
            return Err(Error::Field {
                field: "high_freq_factor".into(),
                expected: format!("above low_freq_factor ({low_freq_factor})"),
                got: high_freq_factor.to_string(),
            });
        }
        Ok(Self::Llama3 {
            factor: fields.number("factor", FACTOR)?,
            low_freq_factor,
            high_freq_factor,
            original_context_len: fields.len("original_max_position_embeddings", CONTEXT_LEN_MAX)? as u32,
        })
    }
}
