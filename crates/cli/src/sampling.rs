//! From typed sampling options to requests.

use dsde_engine::{Refused, Request, Shape, Stop};
use dsde_sampling::Params;

use crate::args::SamplingArgs;

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
    pub(crate) fn new(args: &SamplingArgs, wanted: Wanted, eos_tokens: &[u32]) -> Self {
        let tokens = if args.ignore_eos { Vec::new() } else { eos_tokens.to_vec() };
        Self {
            params: Params {
                temperature: args.temperature,
                top_k: args.top_k,
                top_p: args.top_p,
                min_p: args.min_p,
                repetition_penalty: args.repetition_penalty,
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
        request.params.seed = self.params.seed.wrapping_add(index as u64);
        request.stop = self.stop.clone();
        request.n_choices = self.n_choices;
        request
    }
}
