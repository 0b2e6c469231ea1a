//! What a user asks for, checked at the door.

use std::sync::Arc;

use dsde_policy::{mixture, registry};
use dsde_sampling::Params;

use crate::constraint::Grammar;
use crate::executor::Shape;

/// Identity of a request; unique for the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// When a sequence ends, besides its token bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Ends after any of these tokens, which stays in the output as a token but not as text. Put end-of-text here.
    pub tokens: Vec<u32>,
    /// Ends before any of these strings appears in the text, special tokens counted as theirs; the string itself is not emitted.
    /// UTF-8, not empty.
    pub strings: Vec<String>,
}

/// Latency targets of a request, milliseconds; `None` asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slo {
    /// Arrival to first token.
    pub ttft_ms_max: Option<f64>,
    /// Mean time per token after the first.
    pub tpot_ms_max: Option<f64>,
}

/// One prompt and how to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are drawn.
    pub params: Params,
    /// When to end early.
    pub stop: Stop,
    /// Most tokens to emit per choice; the context bounds it too. 0 reads the prompt and ends.
    pub tokens_max: u32,
    /// Stop tokens have probability zero before this many tokens.
    pub tokens_min: u32,
    /// Independent continuations of the same prompt; each has random numbers of its own.
    pub n_choices: u32,
    /// Number of the first choice among all that share the seed; equal requests with equal seeds and other numbers differ.
    pub first_choice: u32,
    /// Lower runs first; equal priorities run in order of arrival.
    pub priority: i32,
    /// Latency targets.
    pub slo: Slo,
    /// Who plans how far to speculate, if not the engine's own policy. It changes no text.
    pub policy: Option<registry::Config>,
    /// Whose it is: requests of the same salt share the prefix cache, and past answers where
    /// [`Suffix::answer_tokens`](crate::Suffix::answer_tokens) keeps any; others share neither. How fast an answer comes tells what
    /// was asked and said before, so requests that must not learn of each other have different ones. Changes no token.
    pub salt: String,
    /// Form that the answer must have; it ends the answer, so `tokens_min` must be 0.
    pub grammar: Option<Arc<dyn Grammar>>,
    /// Whether emitted tokens carry the drafted tokens that were rejected beside them. Changes no token.
    pub tells_rejected: bool,
    /// Whether the tokens of the prompt have log-probabilities, too, told by [`Event::Scored`](crate::Event::Scored); as many of
    /// the most probable ones as `params` ask for. Then nothing of the prompt comes from the prefix cache. Changes no token.
    pub scores_prompt: bool,
    /// Whether special tokens are part of the text; those that end it never are. Changes no token.
    pub shows_special_tokens: bool,
    /// Whether the text leaves out a space that it begins with, as it must where vocabularies mark words by the space before
    /// them and the answer begins a text. Changes no token.
    pub drops_leading_space: bool,
}

impl Request {
    /// Most continuations of one prompt.
    pub const CHOICES_MAX: u32 = 128;
    /// Most stop strings of a request.
    pub const STOP_STRINGS_MAX: usize = 16;
    /// Most bytes of one stop string.
    pub const STOP_STRING_BYTES_MAX: usize = 1024;
    /// Most bytes of a salt.
    pub const SALT_BYTES_MAX: usize = 256;
    /// Most stop tokens of a request.
    pub const STOP_TOKENS_MAX: usize = 128;

    /// A request with one choice and no extras.
    pub fn new(prompt: Vec<u32>, params: Params, tokens_max: u32) -> Self {
        Self {
            prompt,
            params,
            stop: Stop::default(),
            tokens_max,
            tokens_min: 0,
            n_choices: 1,
            first_choice: 0,
            priority: 0,
            slo: Slo::default(),
            policy: None,
            salt: String::new(),
            grammar: None,
            tells_rejected: false,
            scores_prompt: false,
            shows_special_tokens: false,
            drops_leading_space: false,
        }
    }

    /// Refuses what `shape` cannot serve and values without meaning.
    ///
    /// # Errors
    /// The first thing that is wrong, with what was expected and got.
    pub fn check(&self, shape: &Shape) -> Result<(), Refused> {
        if self.prompt.is_empty() {
            return Err(Refused::EmptyPrompt);
        }
        let context_len_max = shape.context_len_max.min(shape.storable_len()) as usize;
        // One slot must remain for the first emitted token, if any is asked for.
        let prompt_len_max = context_len_max.saturating_sub(usize::from(self.tokens_max > 0));
        if self.prompt.len() > prompt_len_max {
            let prompt_len = self.prompt.len();
            return Err(Refused::PromptTooLong { prompt_len, prompt_len_max, context_len_max });
        }
        for (name, tokens) in [("prompt", &self.prompt), ("stop tokens", &self.stop.tokens)] {
            if let Some(&token) = tokens.iter().find(|&&token| token >= shape.vocab_len) {
                return Err(Refused::UnknownToken { name, token, vocab_len: shape.vocab_len });
            }
        }
        self.check_bounds()?;
        Ok(self.params.check(shape.vocab_len)?)
    }

    fn check_bounds(&self) -> Result<(), Refused> {
        let tokens_min_max = if self.grammar.is_some() { 0 } else { self.tokens_max as usize };
        let bounds = [
            ("tokens_min", self.tokens_min as usize, 0, tokens_min_max),
            ("n_choices", self.n_choices as usize, 1, Self::CHOICES_MAX as usize),
            ("number of stop tokens", self.stop.tokens.len(), 0, Self::STOP_TOKENS_MAX),
            ("bytes of the salt", self.salt.len(), 0, Self::SALT_BYTES_MAX),
            ("number of stop strings", self.stop.strings.len(), 0, Self::STOP_STRINGS_MAX),
        ];
        let lengths = self
            .stop
            .strings
            .iter()
            .map(|s| ("bytes of a stop string", s.len(), 1, Self::STOP_STRING_BYTES_MAX));
        for (name, got, min, max) in bounds.into_iter().chain(lengths) {
            if got < min || got > max {
                return Err(Refused::OutOfRange { name, got, min, max });
            }
        }
        for (name, slo) in [("ttft_ms_max", self.slo.ttft_ms_max), ("tpot_ms_max", self.slo.tpot_ms_max)] {
            if let Some(got) = slo.filter(|ms| !ms.is_finite() || *ms <= 0.0) {
                return Err(Refused::Slo { name, got });
            }
        }
        Ok(())
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Nothing to continue.
    #[error("the prompt is empty; at least one token is needed")]
    EmptyPrompt,
    /// The prompt leaves no room for a token, or does not fit at all. Clients that shorten conversations know the case by these words.
    #[error(
        "the prompt is too long: this model's maximum context length is {context_len_max} tokens, and the prompt has {prompt_len} tokens, \
         at most {prompt_len_max} fit{}",
        if .prompt_len_max < .context_len_max { " beside an answer" } else { "" }
    )]
    PromptTooLong {
        /// Length of the prompt, tokens.
        prompt_len: usize,
        /// Longest prompt that can be served, tokens; without an answer it may fill the context.
        prompt_len_max: usize,
        /// Longest prompt and answer together, tokens.
        context_len_max: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_len} tokens")]
    UnknownToken {
        /// Where it stands.
        name: &'static str,
        /// The offending id.
        token: u32,
        /// Tokens in the vocabulary.
        vocab_len: u32,
    },
    /// A count or length outside its bounds.
    #[error("{name} must be in {min}..={max}, got {got}")]
    OutOfRange {
        /// What was counted.
        name: &'static str,
        /// What was given.
        got: usize,
        /// Smallest accepted value.
        min: usize,
        /// Largest accepted value.
        max: usize,
    },
    /// A latency target that is not a positive number.
    #[error("{name} must be a positive number of milliseconds, got {got}")]
    Slo {
        /// Which target.
        name: &'static str,
        /// What was given.
        got: f64,
    },
    /// A sampling parameter outside its range.
    #[error(transparent)]
    Sampling(#[from] dsde_sampling::Error),
    /// Too many different policies at once; try again later.
    #[error(transparent)]
    Policies(#[from] mixture::Full),
    /// The queue is full; try again later.
    #[error("{waiting} sequences are waiting already, at most {waiting_max} may; try again later")]
    QueueFull {
        /// Sequences waiting now.
        waiting: usize,
        /// Bound of the queue.
        waiting_max: usize,
    },
}
