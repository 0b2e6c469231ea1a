//! How the authors of a model recommend to sample, from `generation_config.json` or a GGUF file's metadata.

use std::ops::RangeInclusive;

use super::fields::Fields;
use super::ranges;
use crate::error::Error;
use crate::gguf::Metadata;

/// Largest temperature; requests are held to the same.
const TEMPERATURE: RangeInclusive<f64> = 0.0..=100.0;
/// A probability that is not 0.
const PROBABILITY: RangeInclusive<f64> = f64::MIN_POSITIVE..=1.0;
/// Penalties that requests may have.
const PENALTY: RangeInclusive<f64> = 0.01..=100.0;

/// Values for what a request leaves out; `None` where the authors recommend nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Smallest set of tokens with this probability.
    pub top_p: Option<f32>,
    /// Most probable tokens; 0 is off.
    pub top_k: Option<u32>,
    /// Share of the largest probability.
    pub min_p: Option<f32>,
    /// Above 1 makes tokens that were there less likely.
    pub repetition_penalty: Option<f32>,
}

impl SamplingDefaults {
    /// Reads the fields of `generation_config.json`. A recommendation that no request could follow is passed over with a
    /// warning; `do_sample: false` recommends to be greedy.
    pub(super) fn parse(fields: Fields<'_>) -> Self {
        let number = |field: &'static str, range| {
            usable("generation_config.json", fields.optional_number(field, range))
        };
        // Some tools write -1 for off.
        let is_top_k_off = fields.get("top_k").is_some_and(|value| *value == -1);
        let top_k = if is_top_k_off { Some(0.0) } else { number("top_k", 0.0..=f64::from(i32::MAX)) };
        let is_greedy = fields.get("do_sample").is_some_and(|value| *value == false);
        Self {
            temperature: if is_greedy { Some(0.0) } else { number("temperature", TEMPERATURE) },
            top_p: number("top_p", PROBABILITY),
            top_k: top_k.map(|k| k as u32),
            min_p: number("min_p", 0.0..=1.0),
            repetition_penalty: number("repetition_penalty", PENALTY),
        }
    }

    /// Reads the keys `general.sampling.*`; as above.
    pub(super) fn of_gguf(metadata: &Metadata) -> Self {
        let number = |name: &str, range: RangeInclusive<f64>| {
            let key = format!("general.sampling.{name}");
            let x = metadata.number(&key).and_then(|x| {
                x.map(|x| ranges::number(&key, Some(x), range, || format!("{x:?}"))).transpose()
            });
            usable("the metadata", x)
        };
        Self {
            temperature: number("temp", TEMPERATURE),
            top_p: number("top_p", PROBABILITY),
            top_k: number("top_k", 0.0..=f64::from(i32::MAX)).map(|k| k as u32),
            min_p: number("min_p", 0.0..=1.0),
            repetition_penalty: number("penalty_repeat", PENALTY),
        }
    }
}

/// * `file`: where the recommendation stands, for the warning.
fn usable(file: &str, recommended: Result<Option<f64>, Error>) -> Option<f32> {
    let value = recommended.unwrap_or_else(|error| {
        tracing::warn!("{file}: {error}; it is ignored");
        None
    });
    value.map(|x| x as f32)
}

/// Names and values, as options are typed; empty if nothing is recommended.
impl std::fmt::Display for SamplingDefaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = [
            ("temperature", self.temperature),
            ("top-p", self.top_p),
            ("top-k", self.top_k.map(|k| k as f32)),
            ("min-p", self.min_p),
            ("repetition-penalty", self.repetition_penalty),
        ];
        let given = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (i, (name, value)) in given.enumerate() {
            write!(f, "{}{name} {value}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
