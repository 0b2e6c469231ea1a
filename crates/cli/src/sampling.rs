//! From typed sampling options to requests.

use dsde_checkpoint::config::SamplingDefaults;
use dsde_engine::{Refused, Request, Shape, Stop};
use dsde_sampling::Params;
use serde_json::Value;

use crate::args::SamplingArgs;
use crate::remote::Fields;

/// Most tokens per prompt where nobody says otherwise.
const MAX_TOKENS_DEFAULT: u32 = 256;

/// How all requests of a command are sampled.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    params: Params,
    stop: Stop,
    max_tokens: Option<u32>,
    n_choices: u32,
}

/// What a command asks of every prompt beyond [`SamplingArgs`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Continuations per prompt.
    pub(crate) n_choices: u32,
    /// Most probable tokens to report per token.
    pub(crate) logprobs: Option<u32>,
}

impl Sampling {
    /// * `eos_tokens`: end the text unless it is to be ignored.
    /// * `defaults`: the model's own, for what is not given.
    pub(crate) fn new(
        args: &SamplingArgs,
        wanted: Wanted,
        eos_tokens: &[u32],
        defaults: &SamplingDefaults,
    ) -> Self {
        let off = Params::greedy();
        let tokens = if args.ignore_eos { Vec::new() } else { eos_tokens.to_vec() };
        Self {
            params: Params {
                temperature: args.temperature.or(defaults.temperature).unwrap_or(off.temperature),
                top_k: args.top_k.or(defaults.top_k).unwrap_or(off.top_k),
                top_p: args.top_p.or(defaults.top_p).unwrap_or(off.top_p),
                min_p: args.min_p.or(defaults.min_p).unwrap_or(off.min_p),
                repetition_penalty: args
                    .repetition_penalty
                    .or(defaults.repetition_penalty)
                    .unwrap_or(off.repetition_penalty),
                presence_penalty: args.presence_penalty,
                frequency_penalty: args.frequency_penalty,
                logit_bias: args.logit_bias.clone(),
                seed: args.seed,
                logprobs: wanted.logprobs,
            },
            stop: Stop { tokens, strings: args.stop.clone() },
            max_tokens: args.max_tokens.map(u32::from),
            n_choices: wanted.n_choices,
        }
    }

    /// Refuses what no prompt could be asked with.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub(crate) fn check(&self, shape: &Shape) -> Result<(), Refused> {
        self.request(0, vec![0], None).check(shape)
    }

    /// The request of prompt number `index`.
    ///
    /// * `max_tokens_own`: the prompt's own bound, used where the command line gives none.
    pub(crate) fn request(&self, index: usize, prompt: Vec<u32>, max_tokens_own: Option<u32>) -> Request {
        let tokens_max = self.max_tokens.or(max_tokens_own).unwrap_or(MAX_TOKENS_DEFAULT);
        let mut request = Request::new(prompt, self.params.clone(), tokens_max);
        request.params.seed = self.params.seed.map(|seed| seed.wrapping_add(index as u64));
        request.stop = self.stop.clone();
        request.n_choices = self.n_choices;
        request
    }
}

/// The options as fields of a request to a server. Those that are not given and those without effect are left out, and so is
/// the seed of greedy requests: servers may refuse or slow down what they do not need. Greedy unless a temperature is given.
pub(crate) fn fields(args: &SamplingArgs) -> Fields {
    let mut fields = Fields::new();
    let mut set = |name: &str, value: Value, is_given: bool| {
        if is_given {
            fields.insert(name.to_owned(), value);
        }
    };
    set("max_tokens", args.max_tokens.map_or(MAX_TOKENS_DEFAULT, u32::from).into(), true);
    let mut set_number =
        |name: &str, value: Option<f32>| set(name, value.map(shortest).into(), value.is_some());
    set_number("temperature", Some(args.temperature.unwrap_or(0.0)));
    set_number("top_p", args.top_p);
    set_number("min_p", args.min_p);
    set_number("repetition_penalty", args.repetition_penalty);
    set("top_k", args.top_k.into(), args.top_k.is_some());
    set("presence_penalty", shortest(args.presence_penalty).into(), args.presence_penalty != 0.0);
    set("frequency_penalty", shortest(args.frequency_penalty).into(), args.frequency_penalty != 0.0);
    let bias = args.logit_bias.iter().map(|(token, bias)| (token.to_string(), shortest(*bias).into()));
    set("logit_bias", Value::Object(bias.collect()), !args.logit_bias.is_empty());
    set("stop", args.stop.clone().into(), !args.stop.is_empty());
    set("ignore_eos", true.into(), args.ignore_eos);
    fields
}

/// `fields` of one request, with the seed if there is one, unless the request is greedy.
pub(crate) fn fields_with_seed(fields: &Fields, seed: Option<u64>) -> Fields {
    let mut fields = fields.clone();
    let is_greedy = fields.get("temperature").and_then(Value::as_f64) == Some(0.0);
    if let Some(seed) = seed.filter(|_| !is_greedy) {
        // The API has signed seeds.
        fields.insert("seed".to_owned(), seed.cast_signed().into());
    }
    fields
}

/// The number that was typed: `0.7` as f32 is not the f64 closest to 0.7.
pub(crate) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_passed_on_as_typed() {
        assert_eq!(shortest(0.7), 0.7);
        assert_eq!(shortest(0.0), 0.0);
    }

    #[test]
    fn greedy_requests_have_no_seed() {
        let with = |temperature: f64| {
            let fields = Fields::from_iter([("temperature".to_owned(), temperature.into())]);
            fields_with_seed(&fields, Some(7)).get("seed").cloned()
        };
        assert_eq!(with(0.0), None);
        assert_eq!(with(0.7), Some(7.into()));
    }
}
