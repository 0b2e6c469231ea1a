//! What a tracing subscriber learns of a request: one span with request, model, tokens, policy and outcome.
//!
//! A program of its own: where other requests came first, without a subscriber, a new one is not told of spans.

#[path = "suite/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{Setup, chat, start, with};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

type Fields = BTreeMap<String, String>;

/// Keeps the fields of every span that it sees, by id.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<u64, Fields>>>);

struct Reading<'a>(&'a mut Fields);

impl Visit for Reading<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Kept {
    fn spans(&self) -> MutexGuard<'_, BTreeMap<u64, Fields>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation with this outcome.
    fn generation(&self, outcome: &str) -> Option<Fields> {
        let spans = self.spans();
        spans.values().find(|fields| fields.get("dsde.outcome").is_some_and(|got| got == outcome)).cloned()
    }
}

impl<S: tracing::Subscriber> Layer<S> for Kept {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        // Ids may be used again; the fields of both spans are then seen as one, which no test here depends on.
        attributes.record(&mut Reading(self.spans().entry(id.into_u64()).or_default()));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut Reading(self.spans().entry(id.into_u64()).or_default()));
    }
}

#[tokio::test]
async fn every_generation_has_a_span_with_its_outcome() {
    let kept = Kept::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(kept.clone()));
    let setup = Setup { config: |config| config.waiting_max = 4, ..Setup::default() };
    let server = start(setup).await;
    let request = server.client.post(server.url("/v1/chat/completions")).header("x-request-id", "mine-7");
    let body = with(chat("Hello."), json!({"policy": "fixed:k=2", "ignore_eos": true, "max_tokens": 9}));
    request.json(&body).send().await.unwrap().text().await.unwrap();
    let answered = kept.generation("answered").unwrap();
    for (field, expected) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "demo"),
        ("gen_ai.response.id", "chatcmpl-mine-7"),
        ("gen_ai.request.max_tokens", "9"),
        ("gen_ai.usage.output_tokens", "9"),
        ("dsde.policy", "fixed:k=2"),
    ] {
        assert_eq!(answered.get(field).map(String::as_str), Some(expected), "{field}");
    }
    assert!(answered["gen_ai.usage.input_tokens"].parse::<u32>().unwrap() > 0);
    assert!(kept.spans().values().any(|fields| fields.get("id").is_some_and(|id| id == "mine-7")));

    let endless = json!({"prompt": "Once", "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let mut stream = server.send("/v1/completions", &endless).await;
    stream.chunk().await.unwrap();
    drop(stream);
    server.until_metric("vllm:num_requests_running", 0.0).await;
    let cancelled = kept.generation("cancelled").unwrap();
    assert_eq!(cancelled["gen_ai.operation.name"], "text_completion");
    assert_eq!(cancelled["dsde.policy"], "dsde");

    let unknown = with(endless, json!({"prompt": [99_999_999]}));
    server.send("/v1/completions", &unknown).await;
    assert_eq!(kept.generation("refused").unwrap()["error.type"], "refused");
}
