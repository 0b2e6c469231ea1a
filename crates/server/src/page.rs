//! The page at `/` that shows speculation live; who does not ask for HTML gets the list of routes instead.
//!
//! Its files are part of the binary and load nothing from elsewhere, so the page works without a network and under a policy
//! that forbids everything but itself. It is served without a key, because it holds nothing secret: it asks for the key and
//! sends it with every request of its own.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::openai::error::ApiError;

/// Nothing but the page's own files and routes; nobody may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SECURITY: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = include_str!("../page/index.html");

/// Name below `/page/`, type and contents.
const FILES: [(&str, &str, &str); 12] = [
    ("answer.js", SCRIPT, include_str!("../page/answer.js")),
    ("connection.js", SCRIPT, include_str!("../page/connection.js")),
    ("icon.svg", SVG, include_str!("../page/icon.svg")),
    ("main.js", SCRIPT, include_str!("../page/main.js")),
    ("page.css", CSS, include_str!("../page/page.css")),
    ("playground.js", SCRIPT, include_str!("../page/playground.js")),
    ("plots.js", SCRIPT, include_str!("../page/plots.js")),
    ("sequences.js", SCRIPT, include_str!("../page/sequences.js")),
    ("theme.js", SCRIPT, include_str!("../page/theme.js")),
    ("vendor/uPlot.LICENSE", TEXT, include_str!("../page/vendor/uPlot.LICENSE")),
    ("vendor/uPlot.iife.min.js", SCRIPT, include_str!("../page/vendor/uPlot.iife.min.js")),
    ("vendor/uPlot.min.css", CSS, include_str!("../page/vendor/uPlot.min.css")),
];

/// Method, path, and what it is for.
pub(crate) const ROUTES: [(&str, &str, &str); 16] = [
    ("POST", "/v1/chat/completions", "answers a conversation"),
    ("POST", "/v1/completions", "continues a text"),
    ("POST", "/v1/responses", "answers a list of items, and keeps nothing"),
    ("GET", "/v1/models", "names of the model"),
    ("GET", "/v1/models/NAME", "one of them"),
    ("GET", "/v1/policies", "policies and their parameters"),
    ("GET", "/v1/live", "the engine's state, four times per second"),
    ("POST", "/tokenize", "tokens of a text"),
    ("POST", "/detokenize", "text of tokens"),
    ("GET", "/health", "whether the engine runs"),
    ("GET", "/ready", "whether new requests are welcome"),
    ("GET", "/metrics", "Prometheus text"),
    ("GET", "/version", "version, model and policy"),
    ("GET", "/openapi.json", "what may be asked, for programs"),
    ("GET", "/page/FILE", "files of the page"),
    ("GET", "/", "the page for browsers, this list for others"),
];

/// The page, or the routes.
pub(crate) async fn root(headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let vary = [(header::VARY, "accept")];
    match accepted.flat_map(|value| value.split([',', ';'])).any(|kind| kind.trim() == "text/html") {
        true => (vary, served(HTML, INDEX)).into_response(),
        false => (vary, Json(routes())).into_response(),
    }
}

/// A file of the page.
///
/// # Errors
/// 404 if there is none of this name, 400 if the name is no UTF-8.
pub(crate) async fn file(name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name?;
    let file = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = file.ok_or_else(|| ApiError::not_found("the page has no such file"))?;
    Ok(served(kind, text))
}

/// After an update the old page is not to be found in a cache.
fn served(kind: &'static str, text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    (SECURITY, headers, text).into_response()
}

fn routes() -> Value {
    let route =
        |(method, path, what): &(&str, &str, &str)| json!({"method": method, "path": path, "what": what});
    json!({
        "name": "dsde",
        "version": env!("CARGO_PKG_VERSION"),
        "routes": ROUTES.iter().map(route).collect::<Vec<_>>(),
    })
}
