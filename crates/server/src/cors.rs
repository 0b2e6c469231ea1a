//! Access from the pages of other origins, for those that the configuration names; without any, browsers keep it to themselves.
//!
//! A key travels in a header that a page must know, never in a cookie, so credentials are not allowed to any origin.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;

/// Lets every page in.
const ANY: &str = "*";
/// Headers of answers that pages may read.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");
/// How long a browser may remember what it may send, seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// What an answer depends on, for caches.
const VARY: HeaderValue = HeaderValue::from_static("origin, access-control-request-headers");

/// Answers the questions that browsers ask before they send anything, and marks answers as readable.
pub(crate) async fn allow(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.config.cors_origins.is_empty() {
        return next.run(request).await;
    }
    let allowed =
        request.headers().get(header::ORIGIN).and_then(|origin| allowed(origin, &app.config.cors_origins));
    let is_question = *request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = match allowed.is_some() && is_question {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, VARY);
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        match is_question {
            true => {
                let mut insert = |name: HeaderName, value| headers.insert(name, value);
                insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                // Clients send headers of their own, which change nothing here.
                asked.and_then(|asked| insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked));
            }
            false => {
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
        }
    }
    response
}

/// What an origin is told, if it is let in.
fn allowed(origin: &HeaderValue, origins: &[String]) -> Option<HeaderValue> {
    let is_named = |named: &String| origin.as_bytes() == named.as_bytes();
    match origins.iter().any(|named| named == ANY) {
        true => Some(HeaderValue::from_static(ANY)),
        false => origins.iter().any(is_named).then(|| origin.clone()),
    }
}
