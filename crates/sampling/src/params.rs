//! Sampling parameters of a request.

use std::ops::RangeInclusive;

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
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output, in `[0.01, 100]`; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens seen in the output, in `[-2, 2]`; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output, in `[-2, 2]`; 0 is off.
    pub frequency_penalty: f32,
    /// Added to single logits, each in `[-100, 100]`, as `(token, bias)`.
    pub logit_bias: Vec<(u32, f32)>,
    /// With a seed the text is a function of request and seed: that of plain decoding, whoever drafts and however far. A guess
    /// is accepted if it is what the target draws. Without one it is accepted by a [`Rule`](crate::Rule), which accepts more,
    /// and the draws are those of no other sequence.
    pub seed: Option<u64>,
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
            seed: None,
            logprobs: None,
        }
    }

    /// Whether the most probable token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Probability that a sampled token is rejected whose draft is so far from the target: the distance itself where a rule
    /// judges; with a seed, where both race with the same numbers, at most this.
    ///
    /// * `tv`: total variation distance of the processed distributions, in `0..=1`.
    pub fn rejection(&self, tv: f32) -> f32 {
        if self.seed.is_some() { 2.0 * tv / (1.0 + tv) } else { tv }
    }

    /// Whether logits depend on the tokens before them through a penalty.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Refuses values outside their documented ranges and biased tokens outside the vocabulary.
    ///
    /// # Errors
    /// [`Error`] naming the first offending parameter.
    pub fn check(&self, vocab_len: u32) -> Result<(), Error> {
        let numbers = [
            Bound::new("temperature", self.temperature, 0.0..=Self::TEMPERATURE_MAX, "in 0..=100"),
            Bound::new("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1"),
            Bound::new("min_p", self.min_p, 0.0..=1.0, "in 0..=1"),
            Bound::new("repetition_penalty", self.repetition_penalty, 0.01..=100.0, "in 0.01..=100"),
            Bound::new("presence_penalty", self.presence_penalty, -2.0..=2.0, "in -2..=2"),
            Bound::new("frequency_penalty", self.frequency_penalty, -2.0..=2.0, "in -2..=2"),
        ];
        numbers.into_iter().try_for_each(Bound::check)?;
        if self.logprobs > Some(Self::LOGPROBS_MAX) {
            return Err(Error::out_of_range("logprobs", "at most 20", self.logprobs.unwrap_or(0)));
        }
        self.check_bias(vocab_len)
    }

    fn check_bias(&self, vocab_len: u32) -> Result<(), Error> {
        if self.logit_bias.len() > Self::LOGIT_BIAS_MAX {
            let got = format!("{} entries", self.logit_bias.len());
            return Err(Error::out_of_range("logit_bias", "at most 300 entries", got));
        }
        for &(token, bias) in &self.logit_bias {
            if token >= vocab_len {
                return Err(Error::BiasOutsideVocabulary { token, vocab_len });
            }
            Bound::new("logit_bias", bias, -100.0..=100.0, "in -100..=100").check()?;
        }
        Ok(())
    }
}

/// A number, and where it may lie.
struct Bound {
    name: &'static str,
    got: f32,
    range: RangeInclusive<f32>,
    expected: &'static str,
}

impl Bound {
    fn new(name: &'static str, got: f32, range: RangeInclusive<f32>, expected: &'static str) -> Self {
        Self { name, got, range, expected }
    }

    /// NaN lies in no range.
    fn check(self) -> Result<(), Error> {
        if self.range.contains(&self.got) {
            Ok(())
        } else {
            Err(Error::out_of_range(self.name, self.expected, self.got))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Params), expected: Result<(), &str>) {
        let mut params = Params::greedy();
        change(&mut params);
        let got = params.check(100).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{params:?}");
    }

    #[test]
    fn values_inside_their_ranges_are_accepted() {
        check(|_| (), Ok(()));
        check(|p| p.temperature = Params::TEMPERATURE_MAX, Ok(()));
        check(|p| p.temperature = 1e-6, Ok(()));
        check(|p| p.top_k = u32::MAX, Ok(()));
        check(|p| p.top_p = 1e-9, Ok(()));
        check(|p| p.min_p = 1.0, Ok(()));
        check(|p| p.repetition_penalty = 0.5, Ok(()));
        check(|p| p.presence_penalty = -2.0, Ok(()));
        check(|p| p.frequency_penalty = 2.0, Ok(()));
        check(|p| p.logprobs = Some(20), Ok(()));
        check(|p| p.logit_bias = vec![(99, -100.0), (0, 100.0)], Ok(()));
    }

    #[test]
    fn values_outside_their_ranges_are_named() {
        type Change = fn(&mut Params);
        let cases: [(Change, &str); 22] = [
            (|p| p.temperature = -0.1, "temperature must be in 0..=100, got -0.1"),
            (|p| p.temperature = 100.1, "temperature must be in 0..=100, got 100.1"),
            (|p| p.temperature = f32::NAN, "temperature must be in 0..=100, got NaN"),
            (|p| p.temperature = f32::INFINITY, "temperature must be in 0..=100, got inf"),
            (|p| p.top_p = 0.0, "top_p must be above 0 and at most 1, got 0"),
            (|p| p.top_p = 1.5, "top_p must be above 0 and at most 1, got 1.5"),
            (|p| p.top_p = f32::NAN, "top_p must be above 0 and at most 1, got NaN"),
            (|p| p.min_p = -1.0, "min_p must be in 0..=1, got -1"),
            (|p| p.min_p = 1.1, "min_p must be in 0..=1, got 1.1"),
            (|p| p.min_p = f32::NAN, "min_p must be in 0..=1, got NaN"),
            (|p| p.repetition_penalty = 0.0, "repetition_penalty must be in 0.01..=100, got 0"),
            (|p| p.repetition_penalty = 0.001, "repetition_penalty must be in 0.01..=100, got 0.001"),
            (|p| p.repetition_penalty = f32::INFINITY, "repetition_penalty must be in 0.01..=100, got inf"),
            (|p| p.repetition_penalty = f32::NAN, "repetition_penalty must be in 0.01..=100, got NaN"),
            (|p| p.presence_penalty = 2.5, "presence_penalty must be in -2..=2, got 2.5"),
            (|p| p.presence_penalty = f32::NAN, "presence_penalty must be in -2..=2, got NaN"),
            (|p| p.frequency_penalty = -3.0, "frequency_penalty must be in -2..=2, got -3"),
            (|p| p.frequency_penalty = f32::NAN, "frequency_penalty must be in -2..=2, got NaN"),
            (|p| p.logprobs = Some(21), "logprobs must be at most 20, got 21"),
            (|p| p.logit_bias = vec![(1, 101.0)], "logit_bias must be in -100..=100, got 101"),
            (|p| p.logit_bias = vec![(100, 1.0)], "logit_bias names token 100, the vocabulary ends at 99"),
            (
                |p| p.logit_bias = vec![(0, 0.0); 301],
                "logit_bias must be at most 300 entries, got 301 entries",
            ),
        ];
        for (change, message) in cases {
            check(change, Err(message));
        }
    }
}
