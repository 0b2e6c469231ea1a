//! Names of models of the Hub, from which paths and addresses are made.

#[allow(dead_code, clippy::unwrap_used, reason = "a part of the program, which is no library")]
#[path = "../../../crates/cli/src/hub/name.rs"]
mod name;

use std::path::{Component, Path};

use name::Name;

/// A name that is taken is written as it was typed, and its parts lead nowhere else.
pub fn model_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(name) = text.parse::<Name>() else { return };
    assert_eq!(name.to_string(), text);
    let parts = name.parts().into_iter().chain([name.revision()]).chain(name.file());
    for part in parts {
        let is_plain = |component| matches!(component, Component::Normal(_));
        assert!(!part.is_empty() && Path::new(part).components().all(is_plain), "{part:?}");
        assert!(!part.contains(['\\', '\0']) && !part.contains(char::is_control), "{part:?}");
    }
}
