//! Why a server did not answer.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use super::sse;

/// Longest message of a server that is shown, characters.
const MESSAGE_CHARS_MAX: usize = 600;

/// A failed exchange. Keys never stand in it. A cause is told in its message alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No connection, or it broke before the answer began.
    #[error("cannot reach {url}: {}", innermost(cause))]
    Unreachable { url: String, cause: reqwest::Error },
    /// An answer with an error status.
    #[error("the server answered {status}: {message}")]
    Status { status: StatusCode, message: String, code: Option<String>, retry_after: Option<Duration> },
    /// An error within a stream.
    #[error("the server broke off the answer: {message}")]
    Event { message: String },
    /// The connection ended first.
    #[error("the connection ended before the answer did{}", of(cause.as_ref()))]
    Cut { cause: Option<reqwest::Error> },
    /// Nothing came.
    #[error("nothing came from the server for {seconds} s; --timeout sets how long to wait")]
    Silent { seconds: f64 },
    /// Something else than the OpenAI API.
    #[error("this is no answer in the OpenAI API: {what}")]
    Malformed { what: String },
}

impl Error {
    pub(super) fn silent(timeout: Duration) -> Self {
        Self::Silent { seconds: timeout.as_secs_f64() }
    }

    /// An error status with the server's words.
    ///
    /// * `body`: as far as it was read.
    pub(super) fn status(status: StatusCode, retry_after: Option<Duration>, body: &str) -> Self {
        let code = serde_json::from_str::<Value>(body).ok();
        let code = code.and_then(|body| Some(body.get("error")?.get("code")?.as_str()?.to_owned()));
        Self::Status { status, message: message_of(body), code, retry_after }
    }

    /// How long the server asks to wait before the next attempt, if another one makes sense; zero where it names no time.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { status, retry_after, .. }
                if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(status) =>
            {
                Some(retry_after.unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Whether the prompt is longer than the context. OpenAI and this project say it by code, others in words.
    pub(crate) fn is_context_full(&self) -> bool {
        match self {
            Self::Status { status: StatusCode::BAD_REQUEST, message, code, .. } => {
                code.as_deref() == Some("context_length_exceeded")
                    || message.to_lowercase().contains("context length")
            }
            _ => false,
        }
    }
}

impl From<sse::TooLong> for Error {
    fn from(error: sse::TooLong) -> Self {
        Self::Malformed { what: error.to_string() }
    }
}

/// What a body says in its error, or its beginning; without control characters, which could steer a terminal.
pub(crate) fn message_of(body: &str) -> String {
    let value: Option<Value> = serde_json::from_str(body).ok();
    let said = value.as_ref().and_then(said);
    let text: String = said.unwrap_or(body).trim().chars().take(MESSAGE_CHARS_MAX).collect();
    match text.is_empty() {
        true => "(no message)".to_owned(),
        false => text.replace(|c: char| c.is_control(), " "),
    }
}

/// OpenAI: `error.message`; others: `error`, `message` or `detail` as a text.
fn said(body: &Value) -> Option<&str> {
    let nested = body.get("error").and_then(|error| error.get("message")?.as_str());
    nested.or_else(|| ["error", "message", "detail"].into_iter().find_map(|key| body.get(key)?.as_str()))
}

/// The last cause: those above it only say that something was sent.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn of(source: Option<&reqwest::Error>) -> String {
    source.map_or_else(String::new, |source| format!(": {}", innermost(source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_where_servers_put_them() {
        for (body, expected) in [
            (r#"{"error": {"message": "no such model", "code": "x"}}"#, "no such model"),
            (r#"{"object": "error", "message": "too long"}"#, "too long"),
            (r#"{"error": "busy"}"#, "busy"),
            (r#"{"detail": "Not Found"}"#, "Not Found"),
            (r#"{"detail": [1]}"#, r#"{"detail": [1]}"#),
            ("<html>\n\u{1b}[2J", "<html>  [2J"),
            (" \n", "(no message)"),
        ] {
            assert_eq!(message_of(body), expected);
        }
    }

    #[test]
    fn a_full_context_is_recognised_by_code_or_words() {
        let error = |status, body| Error::status(status, None, body).is_context_full();
        let bad = StatusCode::BAD_REQUEST;
        assert!(error(bad, r#"{"error": {"message": "m", "code": "context_length_exceeded"}}"#));
        assert!(error(bad, r#"{"message": "This model's maximum context length is 4096 tokens."}"#));
        assert!(!error(bad, r#"{"error": {"message": "temperature"}}"#));
        assert!(!error(StatusCode::UNAUTHORIZED, r#"{"message": "context length"}"#));
    }

    #[test]
    fn only_busy_servers_are_asked_again() {
        let wait = |status, after| Error::status(status, after, "").retry_after();
        let second = Some(Duration::from_secs(1));
        assert_eq!(wait(StatusCode::TOO_MANY_REQUESTS, second), second);
        assert_eq!(wait(StatusCode::SERVICE_UNAVAILABLE, None), Some(Duration::ZERO));
        assert_eq!(wait(StatusCode::INTERNAL_SERVER_ERROR, second), None);
    }
}
