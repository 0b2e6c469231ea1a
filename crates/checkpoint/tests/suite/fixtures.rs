//! Configurations of fixtures, as they are and changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dsde_checkpoint::Error;
use dsde_checkpoint::config::ModelConfig;
use serde_json::{Value, json};

/// The folder of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// The configuration of a fixture with `changes` applied; `null` deletes.
pub(crate) fn changed(name: &str, changes: &Value) -> Value {
    let text = std::fs::read(fixture(name).join("config.json")).unwrap();
    with_changes(serde_json::from_slice(&text).unwrap(), changes)
}

/// An object with `changes` applied; `null` deletes.
pub(crate) fn with_changes(object: Value, changes: &Value) -> Value {
    let mut fields: BTreeMap<String, Value> = serde_json::from_value(object).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => fields.remove(field),
            value => fields.insert(field.clone(), value.clone()),
        };
    }
    json!(fields)
}

/// What that configuration means.
pub(crate) fn parsed(name: &str, changes: Value) -> Result<ModelConfig, Error> {
    ModelConfig::parse(changed(name, &changes).to_string().as_bytes(), None)
}
