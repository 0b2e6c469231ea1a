//! Request heads of bounded length.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::openai::error::ApiError;

/// Refuses longer heads. What a connection may buffer is bounded apart, and more loosely.
pub(crate) async fn bound(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let max = app.config.head_bytes_max;
    match head_bytes(&request) > max {
        true => Err(ApiError::head_too_long(max)),
        false => Ok(next.run(request).await),
    }
}

/// Length of the head up to and including its empty line, with one space after each colon, however many were sent.
fn head_bytes(request: &Request) -> usize {
    let line = request.method().as_str().len() + request.uri().to_string().len() + "  HTTP/1.1\r\n".len();
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + headers.sum::<usize>() + "\r\n".len()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn the_length_is_that_of_the_bytes_on_the_wire() {
        let request = Request::post("/v1/chat/completions?a=b")
            .header("host", "x")
            .header("x-twice", "1")
            .header("x-twice", "")
            .body(Body::empty())
            .unwrap();
        let wire = "POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: x\r\nx-twice: 1\r\nx-twice: \r\n\r\n";
        assert_eq!(head_bytes(&request), wire.len());
    }
}
