//! What a server needs to know; constant while it runs.

use std::sync::Arc;
use std::time::Duration;

use dsde_checkpoint::config::SamplingDefaults;
use dsde_text::{ChatTemplate, Date, Tokenizer};

use crate::forms::Trial;

/// Names, keys and bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names under which the model can be asked for, at least one; answers carry the first.
    pub model_names: Vec<String>,
    /// Accepted keys; none lets everybody in.
    pub api_keys: Vec<String>,
    /// Origins whose pages may use the server, as browsers write them (`https://example.org`); `*` are all, none is none.
    pub cors_origins: Vec<String>,
    /// The policy, as typed; shown by `/version` and `/v1/live`.
    pub policy: String,
    /// Values for what a request leaves out of how to sample; where they say nothing, the API's own. None.
    pub sampling: SamplingDefaults,
    /// Longest request body, bytes. 4 MiB: a context of a million tokens in English.
    pub body_bytes_max: usize,
    /// Longest request head, bytes. 64 KiB: cookies and proxies' headers fit, a flood does not.
    pub head_bytes_max: usize,
    /// Connections at once; more are answered with 503. 1024: each costs some ten KiB, and one open file.
    pub connections_max: u32,
    /// Longest wait for a request head, on a new connection or after an answer, and for a client that reads nothing. 75 s: longer
    /// than pools of clients keep a connection.
    pub head_timeout: Duration,
    /// Sequences that may wait for their turn; more requests are answered with 429. 256: beyond it waiting takes longer than
    /// clients have patience.
    pub waiting_max: u32,
    /// Longest time from arrival to the end of an answer. 10 minutes: what official clients wait by default.
    pub request_timeout: Duration,
    /// How long an announced shutdown lets requests come before the listener closes. 5 s: what container platforms take to
    /// send them elsewhere.
    pub drain_delay: Duration,
    /// How long requests in flight may go on after a shutdown began, the delay included. 30 s: what container platforms grant.
    pub drain_timeout: Duration,
    /// Time between two events of a stream, which then have all that came meanwhile, and are filled up. `None`: every step is told at
    /// once, and when is as telling as what.
    pub pace: Option<Duration>,
    /// Who compiles a client's form first, so that one that takes all memory does not take the server's. `None`: nobody.
    pub trial: Option<Trial>,
    /// Silence of a stream after which a comment is sent, so that proxies keep it. 15 s.
    pub keep_alive: Duration,
}

impl Config {
    /// Defaults for a model of this name.
    pub fn new(model_name: impl Into<String>, policy: impl Into<String>) -> Self {
        Self {
            model_names: vec![model_name.into()],
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            policy: policy.into(),
            sampling: SamplingDefaults::default(),
            body_bytes_max: 4 << 20,
            head_bytes_max: 64 << 10,
            connections_max: 1024,
            head_timeout: Duration::from_secs(75),
            waiting_max: 256,
            request_timeout: Duration::from_secs(600),
            drain_delay: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            pace: None,
            trial: None,
            keep_alive: Duration::from_secs(15),
        }
    }

    /// The name that answers carry.
    pub fn model_name(&self) -> &str {
        self.model_names.first().map_or("", String::as_str)
    }
}

/// Text in and out of the served model.
#[derive(Debug)]
pub struct Text {
    /// Shared with the engine.
    pub tokenizer: Arc<Tokenizer>,
    /// `None`: there are no conversations, only completions.
    pub template: Option<ChatTemplate>,
    /// Why there is no template, where this is known.
    pub template_fault: Option<String>,
    /// Tokens that end a text.
    pub eos_tokens: Vec<u32>,
    /// The date, for templates that mention it.
    pub today: fn() -> Option<Date>,
}
