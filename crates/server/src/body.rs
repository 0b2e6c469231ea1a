//! Request bodies: JSON of bounded length, read in bounded time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::app::App;
use crate::openai::error::ApiError;

/// Longest time that a body may take to arrive: the longest one at a slow line's 1 Mbit/s.
const ARRIVAL_MAX: Duration = Duration::from_secs(32);

/// A body as JSON, whatever the content type says. Nesting is bounded by the parser, to 128 levels.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let arrived = timeout(ARRIVAL_MAX, Bytes::from_request(request, app)).await;
        let bytes =
            arrived.map_err(|_| ApiError::slow_body())?.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_long(app.config.body_bytes_max),
                _ => ApiError::bad_request(format!("the body could not be read: {rejection}")),
            })?;
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(Self)
            .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
    }
}
