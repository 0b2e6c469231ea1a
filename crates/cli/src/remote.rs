//! `--url`: a server that speaks the OpenAI API, ours or another's, asked over HTTP.

mod answer;
mod client;
mod counters;
mod error;
mod sse;
mod url;

use std::time::Duration;

use clap::Args;
use dsde_bench::Message;
use dsde_bench::observed::Observed;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::args::number_in;
use crate::failure::{Outcome, usage};

pub(crate) use answer::{Answer, Summary};
pub(crate) use client::{Client, Fields, Model, Route};
pub(crate) use counters::Counters;
pub(crate) use error::{Error, innermost, message_of};
pub(crate) use url::{ApiKey, ServerUrl, is_loopback};

/// Where a key may stand instead of on the command line, which other users of the machine can read; the first one counts.
const API_KEY_VARIABLES: [&str; 2] = ["DSDE_API_KEY", "OPENAI_API_KEY"];
/// Longest wait that can be asked for, seconds: a day.
const TIMEOUT_MAX: f64 = 86_400.0;
/// Shortest one.
const TIMEOUT_MIN: f64 = 0.01;

/// Which server is asked.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct RemoteArgs {
    /// Ask a server in the OpenAI API instead of running a model here, ours or another: its address, with or without /v1.
    /// --model then names one of its models; default: the first one it lists.
    #[arg(long, value_name = "URL", conflicts_with_all = ["draft", "draft_weights", "threads", "kv_blocks", "kv_type", "context", "verification"])]
    pub(crate) url: Option<ServerUrl>,

    /// Key for the server. Default: the variable DSDE_API_KEY, else OPENAI_API_KEY.
    #[arg(long, value_name = "KEY", requires = "url")]
    api_key: Option<ApiKey>,

    /// Longest wait for an answer of the server to begin, and for each part of it, seconds.
    #[arg(long, value_name = "S", requires = "url", default_value_t = 600.0,
          value_parser = number_in(TIMEOUT_MIN..=TIMEOUT_MAX))]
    timeout: f64,
}

/// A server that answers, and the model that is asked there.
pub(crate) struct Remote {
    /// Runs everything below.
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    pub(crate) model: Model,
}

impl Remote {
    /// Makes sure that the server is there and finds the model.
    ///
    /// * `model`: its name; `None` is the first one.
    ///
    /// # Errors
    /// If the key cannot be one, or the server cannot be reached, refuses, or lists no model.
    pub(crate) fn open(url: &ServerUrl, args: &RemoteArgs, model: Option<&str>) -> Outcome<Self> {
        let key = match &args.api_key {
            Some(key) => Some(key.clone()),
            None => key_of_environment()?,
        };
        if key.is_some() && url.is_plain() && !url.is_loopback() {
            tracing::warn!("the key goes to {url} unencrypted; everybody on the way can read it");
        }
        let client = Client::new(url.clone(), key.as_ref(), Duration::from_secs_f64(args.timeout))?;
        // One thread is enough to read, and leaves the others to a server on this machine.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let model = runtime.block_on(find(&client, model))?;
        Ok(Self { runtime, client, model })
    }
}

/// A server that lists nothing or does not list the model may know it all the same.
async fn find(client: &Client, name: Option<&str>) -> Result<Model, Error> {
    let listed = match (client.models().await, name) {
        (Ok(listed), _) => listed,
        (Err(Error::Status { status, .. }), Some(_)) if status == reqwest::StatusCode::NOT_FOUND => {
            Vec::new()
        }
        (Err(error), _) => return Err(error),
    };
    let found = listed.iter().find(|model| name.is_none_or(|name| model.name == name));
    Ok(found.cloned().unwrap_or_else(|| Model::named(name.unwrap_or_default())))
}

fn key_of_environment() -> Outcome<Option<ApiKey>> {
    for name in API_KEY_VARIABLES {
        if let Some(key) = std::env::var(name).ok().filter(|key| !key.is_empty()) {
            let key = key.trim().parse();
            return key.map(Some).map_err(|error| usage(format!("the variable {name}: {error}")));
        }
    }
    Ok(None)
}

/// The fields that every request has.
pub(crate) fn base_fields(model: &Model) -> Fields {
    let mut fields = Fields::new();
    fields.insert("model".to_owned(), model.name.as_str().into());
    fields.insert("stream".to_owned(), true.into());
    fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
    if model.has_statistics() {
        fields.insert("spec_decode_metrics".to_owned(), "summary".into());
    }
    fields
}

/// A conversation as a request holds it.
pub(crate) fn messages(messages: &[Message]) -> Value {
    messages.iter().map(|message| json!({"role": message.role, "content": message.content})).collect()
}

impl Summary {
    /// Adds what the server says to what was seen.
    pub(crate) fn complete(&self, observed: &mut Observed) {
        observed.usage = self.usage.map(|usage| [usage.prompt_tokens, usage.completion_tokens]);
        observed.speculation = self
            .speculation
            .map(|speculation| [speculation.num_draft_tokens, speculation.num_accepted_draft_tokens]);
    }
}
