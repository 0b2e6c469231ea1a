//! `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::app::App;

/// Every name of the model.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let cards: Vec<Value> = app.config.model_names.iter().map(|name| card(&app, name)).collect();
    Json(json!({"object": "list", "data": cards}))
}

/// One name.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name?;
    app.check_model(Some(&name))?;
    Ok(Json(card(&app, &name)))
}

fn card(app: &App, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.created,
        "owned_by": "dsde",
        "root": app.config.model_name(),
        "parent": null,
        "max_model_len": app.engine.shape.context_len_max,
    })
}
