//! Routes, who may use them, and what handlers share.

mod text;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::config::{Config, Text};
use crate::engine_thread::EngineHandle;
use crate::forms::Forms;
use crate::live::{self, Board};
use crate::metrics::Metrics;
use crate::openai::error::ApiError;
use crate::openai::fields::Fields;
use crate::openai::{chat, completions, models, responses, tokens};
use crate::service::Phase;
use crate::{cors, head, openapi, page, paths, policies};
pub(crate) use text::PromptEnd;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Longest id that is taken over from a client, bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// What `/metrics` answers with.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What handlers share.
pub(crate) struct App {
    pub(crate) engine: EngineHandle,
    pub(crate) text: Text,
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    /// Start of the server, seconds since 1970.
    pub(crate) created: u64,
    /// How far a shutdown has come.
    pub(crate) phase: watch::Receiver<Phase>,
    /// The running sequences, and who looks at them.
    pub(crate) board: Arc<Board>,
    pub(crate) ids: Ids,
    pub(crate) forms: Forms,
}

/// Makes ids of requests: random per server, then counted.
pub(crate) struct Ids {
    start: u64,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self { start: RandomState::new().hash_one(0), next: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        format!("{:016x}{:08x}", self.start, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The client's id of a request, or one of ours.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

impl App {
    /// Whether requests in flight end and nothing else is taken.
    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() == Phase::Draining
    }

    /// Refuses models that are not served; no name, or an empty one, means the only one there is.
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if !name.is_empty() && !self.config.model_names.iter().any(|known| known == name) => {
                Err(ApiError::unknown_model(name, &self.config.model_names))
            }
            _ => Ok(()),
        }
    }

    /// Number of the key that a request came with; 0 where none is needed. Every key is compared in full, so that the time tells
    /// nothing but lengths.
    ///
    /// # Errors
    /// 401 if it is none of the keys.
    fn key_number(&self, headers: &HeaderMap) -> Result<usize, ApiError> {
        let keys = &self.config.api_keys;
        if keys.is_empty() {
            return Ok(0);
        }
        let given = given_key(headers).ok_or_else(ApiError::unauthorized)?;
        let matches = keys.iter().map(|key| bool::from(key.as_bytes().ct_eq(given)));
        let known = matches
            .zip(0..)
            .fold(None, |known, (matches, number)| if matches { Some(number) } else { known });
        known.ok_or_else(ApiError::unauthorized)
    }

    /// With whom a request shares the prefix cache and past answers: those of the same key and the same `cache_salt`.
    ///
    /// # Errors
    /// 401 if it came with none of the keys.
    pub(crate) fn salt(&self, headers: &HeaderMap, fields: &Fields) -> Result<String, ApiError> {
        Ok(format!("{} {}", self.key_number(headers)?, fields.salt()))
    }
}

/// All routes. Those in `open` need no key.
pub(crate) fn router(app: Arc<App>) -> Router {
    let open = Router::new()
        .route("/", get(page::root))
        .route("/page/{*name}", get(page::file))
        .route("/openapi.json", get(openapi::description))
        .route("/health", get(health))
        .route("/ready", get(ready));
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/responses", post(responses::respond_to))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/v1/policies", get(policies::list))
        .route("/v1/live", get(live::live))
        .route_layer(from_fn_with_state(app.clone(), authenticate));
    let routes = open
        .merge(guarded)
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(app.config.body_bytes_max))
        .layer(from_fn_with_state(app.clone(), head::bound))
        .layer(from_fn_with_state(app.clone(), accompany))
        .layer(from_fn_with_state(app.clone(), cors::allow))
        .with_state(app);
    paths::tidied(routes)
}

/// Gives every request an id and a span, and counts errors.
async fn accompany(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).and_then(usable_id).unwrap_or_else(|| app.ids.next());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", %id, method = %request.method(), path = request.uri().path());
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        app.metrics.refused(status.as_u16());
    }
    span.in_scope(|| tracing::debug!(status = status.as_u16(), "response begins"));
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn usable_id(value: &HeaderValue) -> Option<String> {
    let id = value.to_str().ok()?;
    (!id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX).then(|| id.to_owned())
}

/// Lets requests with a valid key pass.
async fn authenticate(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    app.key_number(request.headers())?;
    Ok(next.run(request).await)
}

fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().as_bytes())
    });
    bearer.or_else(|| headers.get(API_KEY).map(HeaderValue::as_bytes))
}

/// Whether the process can serve at all.
async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    match app.engine.is_alive() {
        true => Ok(Json(json!({"status": "ok"}))),
        false => Err(ApiError::unavailable("the engine has stopped")),
    }
}

/// Whether new requests are welcome.
async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if *app.phase.borrow() > Phase::Serving {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    health(State(app)).await
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.metrics.process(Handle::current().metrics().num_alive_tasks());
    (StatusCode::OK, [(header::CONTENT_TYPE, METRICS_TYPE)], app.metrics.text()).into_response()
}

async fn version(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.config.model_name(),
        "policy": app.config.policy,
    }))
}

async fn unknown_route() -> ApiError {
    ApiError::not_found("no such route; GET / lists what there is")
}

async fn unknown_method() -> ApiError {
    ApiError::method_not_allowed()
}
