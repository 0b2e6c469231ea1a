//! Keys about rotary embedding.

use super::{Keys, LONG_ROPE_FACTORS, ROPE_FACTORS, SHORT_ROPE_FACTORS};
use crate::config::rope::{
    ATTENTION_FACTOR, BETA_FAST_DEFAULT, BETA_SLOW_DEFAULT, DIVISOR, FACTOR, ROPE_THETA_DEFAULT, THETA,
    TURNS, yarn_attention_factor,
};
use crate::config::{CONTEXT_LEN_MAX, Rope, RopeScaling, ranges, unsupported};
use crate::error::Error;
use crate::stored::TensorView;

/// What converters divide the frequency of a pair by that does not turn.
const STANDING: f32 = 1e30;

impl Keys<'_> {
    pub(super) fn rope(&self, head_dim: usize, trained: u32) -> Result<Rope, Error> {
        let theta = self.optional_number("rope.freq_base", THETA)?.unwrap_or(ROPE_THETA_DEFAULT);
        let span = self.rotary_dim(head_dim)?;
        let mut rotary_dim = span;
        let scaling = match (self.scaling(span, trained)?, self.gguf.tensor(ROPE_FACTORS)) {
            (scaling, None) => scaling,
            (RopeScaling::None, Some(factors)) => {
                let factors = rope_factors(ROPE_FACTORS, factors, span, n_turning)?;
                rotary_dim = 2 * factors.len();
                match factors.iter().all(|&factor| factor == 1.0) {
                    true => RopeScaling::None,
                    false => RopeScaling::Factors(factors),
                }
            }
            (_, Some(_)) => {
                let feature = "a rotary embedding that is scaled twice";
                return Err(self.unsupported("rope.scaling.factor", ROPE_FACTORS, feature));
            }
        };
        Ok(Rope { theta, scaling, rotary_dim, span })
    }

    /// Elements of a head that turn; all, or some where the architecture may leave out the rest.
    fn rotary_dim(&self, head_dim: usize) -> Result<usize, Error> {
        const NAME: &str = "rope.dimension_count";
        let Some(rotary_dim) = self.optional_len(NAME, 2..=head_dim)? else {
            return Ok(head_dim);
        };
        if rotary_dim != head_dim && !self.read.contains(&NAME) {
            return Err(self.unsupported(NAME, rotary_dim, unsupported::PARTIAL_ROTARY));
        }
        ranges::head_dim(&self.key(NAME), rotary_dim)
    }

    /// The type of scaling is linear where the file names none, and off without a factor.
    fn scaling(&self, rotary_dim: usize, trained: u32) -> Result<RopeScaling, Error> {
        const TYPE: &str = "rope.scaling.type";
        const ATTENTION: &str = "rope.scaling.attn_factor";
        const ORIGINAL: &str = "rope.scaling.original_context_length";
        let original = self.optional_len(ORIGINAL, 1..=CONTEXT_LEN_MAX)?.map_or(trained, |len| len as u32);
        let attention_factor = self.optional_number(ATTENTION, ATTENTION_FACTOR)?.unwrap_or(1.0);
        let tensors =
            [SHORT_ROPE_FACTORS, LONG_ROPE_FACTORS].map(|name| Some((name, self.gguf.tensor(name)?)));
        if let [Some((_, short)), Some((_, long))] = tensors {
            return Ok(RopeScaling::LongRope {
                short: rope_factors(SHORT_ROPE_FACTORS, short, rotary_dim, <[f32]>::len)?,
                long: rope_factors(LONG_ROPE_FACTORS, long, rotary_dim, <[f32]>::len)?,
                original_context_len: original,
                attention_factor,
            });
        }
        let kind = self.metadata.text(&self.key(TYPE))?.unwrap_or("linear");
        if kind == "yarn" {
            return self.yarn(original, attention_factor);
        }
        if attention_factor != 1.0 {
            return Err(self.unsupported(ATTENTION, attention_factor, "cosines and sines with a factor"));
        }
        match kind {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(self.factor()?.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor })),
            other => {
                Err(self.unsupported(TYPE, other, "rotary scaling other than linear, yarn and by factors"))
            }
        }
    }

    fn factor(&self) -> Result<Option<f64>, Error> {
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            let is_off = self.metadata.number(&self.key(name))? == Some(0.0);
            let factor = if is_off { None } else { self.optional_number(name, FACTOR)? };
            if let Some(factor) = factor.filter(|&factor| factor != 1.0) {
                return Ok(Some(factor));
            }
        }
        Ok(None)
    }

    /// * `attention_factor`: comes on top of the one that the factor implies.
    fn yarn(&self, original_context_len: u32, attention_factor: f64) -> Result<RopeScaling, Error> {
        let Some(factor) = self.factor()? else { return Ok(RopeScaling::None) };
        let optional = |name, default| Ok::<_, Error>(self.optional_number(name, TURNS)?.unwrap_or(default));
        let beta_fast = optional("rope.scaling.yarn_beta_fast", BETA_FAST_DEFAULT)?;
        let beta_slow = optional("rope.scaling.yarn_beta_slow", BETA_SLOW_DEFAULT)?;
        let share =
            self.optional_number("rope.scaling.yarn_log_multiplier", 0.0..=*ATTENTION_FACTOR.end())?;
        let implied = match share.filter(|&share| share != 0.0) {
            Some(share) => yarn_attention_factor(factor, 1.0) / yarn_attention_factor(factor, share),
            None => yarn_attention_factor(factor, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context_len,
            beta_fast,
            beta_slow,
            is_truncated: true,
            attention_factor: implied * attention_factor,
        })
    }
}

/// How many pairs turn: those at the end that do not are left out, all of them at most but one.
fn n_turning(factors: &[f32]) -> usize {
    factors.iter().rposition(|&factor| factor != STANDING).map_or(1, |last| last + 1)
}

/// What frequencies are divided by, one number per pair.
///
/// * `n_kept`: how many of them, from the first.
fn rope_factors(
    name: &str,
    factors: TensorView<'_>,
    rotary_dim: usize,
    n_kept: impl Fn(&[f32]) -> usize,
) -> Result<Vec<f32>, Error> {
    let (expected, got) = (vec![rotary_dim / 2], factors.shape.to_vec());
    if expected != got {
        return Err(Error::TensorShape { name: name.to_string(), expected, got });
    }
    let mut factors = factors.to_f32();
    factors.truncate(n_kept(&factors));
    match factors.iter().find(|&&factor| !DIVISOR.contains(&f64::from(factor))) {
        None => Ok(factors),
        Some(got) => Err(Error::Field {
            field: name.to_string(),
            expected: format!("numbers from {:?} to {:?}", DIVISOR.start(), DIVISOR.end()),
            got: format!("{got:?}"),
        }),
    }
}
