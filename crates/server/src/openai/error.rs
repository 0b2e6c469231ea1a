//! Errors as clients of the OpenAI API expect them.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dsde_engine::Refused;
use serde_json::{Value, json};

use crate::engine_thread::Rejected;
use crate::forms::FormFault;
use crate::inbox::Loss;

/// Seconds after which a refused client may try again; an answer takes about as long.
const RETRY_AFTER: &str = "1";

/// What the engine calls the field that a prompt comes from.
const PROMPT: &str = "prompt";

/// An answer with an error status.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None }
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400 because of one field.
    pub(crate) fn bad_field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }

    /// 400 because of a form that no answer can have; 500 if that is not the client's fault.
    pub(crate) fn of_form(fault: &FormFault, field: &str) -> Self {
        match fault {
            FormFault::Unfit(_) | FormFault::Slow { .. } | FormFault::Dear { .. } | FormFault::Deep => {
                Self::bad_field(field, fault.to_string())
            }
            FormFault::Failed | FormFault::Untried(_) => Self::internal(fault.to_string()),
        }
    }

    /// 401.
    pub(crate) fn unauthorized() -> Self {
        let message = "a valid API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`";
        let error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        error.with_code("invalid_api_key")
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// 404 for a model.
    pub(crate) fn unknown_model(got: &str, expected: &[String]) -> Self {
        let expected = expected.join(", ");
        let message = format!("the model `{got}` does not exist; this server has: {expected}");
        Self { param: Some("model".to_owned()), ..Self::not_found(message) }.with_code("model_not_found")
    }

    /// 405.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "this route does not know the method; GET / lists routes and methods";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// 408.
    pub(crate) fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "the body took too long to arrive")
    }

    /// 413.
    pub(crate) fn body_too_long(max: usize) -> Self {
        let message = format!("the body must have at most {max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 415.
    pub(crate) fn encoded_body(got: &str) -> Self {
        let message = format!("the body must be sent as it is, got `Content-Encoding: {got}`");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// 429.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).with_code("queue_full")
    }

    /// 431.
    pub(crate) fn head_too_long(max: usize) -> Self {
        let message = format!("the head of a request must have at most {max} bytes");
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "invalid_request_error", message)
    }

    /// 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 503.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    /// 504.
    fn timeout() -> Self {
        let message = "the answer took longer than this server allows; ask for fewer tokens";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", message)
    }

    /// The same for a route where the field has another name; `None` keeps the one it has.
    pub(crate) fn renamed(mut self, name: impl Fn(&str) -> Option<String>) -> Self {
        if let Some((old, new)) = self.param.as_ref().and_then(|old| Some((old, name(old)?))) {
            self.message = self.message.replace(old, &new);
            self.param = Some(new);
        }
        self
    }

    fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// What is wrong, in words.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The same, where prompts come from the field `name`.
    pub(crate) fn of_prompt(mut self, name: &str) -> Self {
        self.param = self.param.map(|param| if param == PROMPT { name.to_owned() } else { param });
        self
    }

    /// The body, which is also what a stream carries that fails on the way.
    pub(crate) fn body(&self) -> Value {
        let Self { kind, message, param, code, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(format!("the path cannot be read: {}", rejection.body_text()))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl From<Refused> for ApiError {
    /// The engine's refusals in the words of the API.
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::QueueFull { .. } | Refused::Policies(_) => Self::busy(message),
            Refused::PromptTooLong { .. } => {
                Self::bad_field(PROMPT, message).with_code("context_length_exceeded")
            }
            Refused::EmptyPrompt => Self::bad_field(PROMPT, message),
            Refused::UnknownToken { name, .. } => {
                Self::bad_field(if name == PROMPT { PROMPT } else { "stop_token_ids" }, message)
            }
            Refused::OutOfRange { name, got, min, max } => out_of_range(name, got, min, max),
            Refused::Slo { name, got } => {
                let name = if name == "ttft_ms_max" { "slo_ttft_ms" } else { "slo_tpot_ms" };
                let message = format!("`{name}` must be a positive number of milliseconds, got {got}");
                Self::bad_field(name, message)
            }
            Refused::Sampling(error) => of_sampling(&error),
            _ => Self::bad_request(message),
        }
    }
}

fn out_of_range(name: &str, got: usize, min: usize, max: usize) -> ApiError {
    let (param, of_field) = match name {
        "tokens_min" => ("min_tokens", ""),
        "n_choices" => ("n", ""),
        "number of stop tokens" => ("stop_token_ids", "the number of "),
        "number of stop strings" => ("stop", "the number of strings in "),
        "bytes of a stop string" => ("stop", "the length in bytes of each string in "),
        other => (other, ""),
    };
    ApiError::bad_field(param, format!("{of_field}`{param}` must be from {min} to {max}, got {got}"))
}

fn of_sampling(error: &dsde_sampling::Error) -> ApiError {
    match error {
        dsde_sampling::Error::OutOfRange { name, expected, got } => {
            let expected = expected.replace("..=", " to ");
            ApiError::bad_field(*name, format!("`{name}` must be {expected}, got {got}"))
        }
        dsde_sampling::Error::BiasOutsideVocabulary { .. } => {
            ApiError::bad_field("logit_bias", error.to_string())
        }
        _ => ApiError::bad_request(error.to_string()),
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Refused(refused) => refused.into(),
            Rejected::Busy => Self::busy(rejected.to_string()),
            Rejected::Stopped => Self::unavailable(rejected.to_string()),
        }
    }
}

impl From<Loss> for ApiError {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::Failed => Self::internal("the engine failed on this request"),
            Loss::Form => Self::bad_request(
                "the form of the answer could not be followed to its end: it has too many states, takes too long to follow, or asks for what is not \
                 supported; simplify it",
            ),
            Loss::Deadline => Self::timeout(),
            Loss::Shutdown => Self::unavailable("the server is shutting down"),
        }
    }
}
