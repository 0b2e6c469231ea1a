//! Policies by name, as on the command line and in requests.

use dsde_policy::registry::Config;

/// A policy that can be built has a name, by which it is the same policy again.
pub fn policy(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(config) = text.parse::<Config>() else { return };
    let name = config.to_string();
    let again: Config = name.parse().unwrap_or_else(|error| panic!("{text:?} is called {name:?}: {error}"));
    assert_eq!((again.to_string(), again.entry().name), (name, config.entry().name));
}
