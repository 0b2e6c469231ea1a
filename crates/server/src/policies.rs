//! `/v1/policies`: how far to speculate, by name.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dsde_policy::registry::{ENTRIES, Entry};
use serde_json::{Value, json};

use crate::app::App;

/// The server's policy, and all that there are.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let policies: Vec<Value> = ENTRIES.iter().map(|entry| policy(entry)).collect();
    Json(json!({"default": app.config.policy, "policies": policies}))
}

fn policy(entry: &Entry) -> Value {
    let parameters = entry.parameters().map(|parameter| {
        json!({
            "key": parameter.key,
            "values": parameter.values.to_string(),
            "default": parameter.default,
            "meaning": parameter.meaning,
        })
    });
    json!({
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "parameters": parameters.collect::<Vec<_>>(),
    })
}
