//! What the environment says, under the names that other clients of the Hub know.

use std::ffi::OsString;
use std::path::PathBuf;
use std::{fs, io};

use reqwest::Url;

use crate::failure::{OrUsage as _, Outcome, usage};
use crate::remote::ApiKey;

/// The Hub itself.
const ENDPOINT: &str = "https://huggingface.co";

/// Where models are and where they come from.
pub(super) struct Settings {
    /// Folder of all repositories, shared with other clients.
    pub(super) cache: PathBuf,
    /// The Hub or a mirror.
    pub(super) endpoint: Url,
    /// What the Hub knows the user by.
    pub(super) token: Option<ApiKey>,
    /// Whether nothing may be asked.
    pub(super) is_offline: bool,
}

impl Settings {
    /// * `variable`: a variable of the environment; an empty one counts as not set.
    ///
    /// # Errors
    /// If an address or a token cannot be one, or nobody says where the cache is.
    pub(super) fn new(variable: impl Fn(&str) -> Option<OsString>) -> Outcome<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
            Some(cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("huggingface"))
        });
        let cache = set("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let file = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")));
        Ok(Self {
            cache: cache
                .ok_or_else(|| usage("no home folder is known; set HF_HOME to where models may lie"))?,
            endpoint: endpoint(set("HF_ENDPOINT"))?,
            token: token(set("HF_TOKEN"), file)?,
            is_offline: set("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value.to_string_lossy())),
        })
    }
}

fn endpoint(typed: Option<OsString>) -> Outcome<Url> {
    let text = typed.map_or_else(|| ENDPOINT.to_owned(), |typed| typed.to_string_lossy().into_owned());
    let is_plain = |url: &Url| {
        ["http", "https"].contains(&url.scheme())
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let url = Url::parse(&text).ok().filter(is_plain);
    url.ok_or_else(|| usage("the variable HF_ENDPOINT: expected http://HOST[:PORT] or https://HOST[:PORT]"))
}

/// The token that is typed, else that of a file where there is one.
fn token(typed: Option<OsString>, file: Option<PathBuf>) -> Outcome<Option<ApiKey>> {
    let (text, origin) = match (typed, file) {
        (Some(typed), _) => (typed.to_string_lossy().into_owned(), "the variable HF_TOKEN".to_owned()),
        (None, None) => return Ok(None),
        (None, Some(file)) => match fs::read_to_string(&file) {
            Ok(text) => (text, format!("the token of {}", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).or_usage_of(format!("cannot read {}", file.display())),
        },
    };
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error| usage(format!("{origin}: {error}"))),
    }
}

/// As other clients read it.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&&*value.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Outcome<Settings> {
        Settings::new(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_where_other_clients_have_it() {
        for (variables, cache) in [
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")] as &[_], "/c"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HUB_CACHE", "")], "/h/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
        ] {
            assert_eq!(settings(variables).ok().unwrap().cache, PathBuf::from(cache));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let home = ("HF_HOME", "/nowhere");
        for variable in [
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_ENDPOINT", "ftp://a"),
            ("HF_ENDPOINT", "https://a:b@c"),
            ("HF_TOKEN", "a\nb"),
        ] {
            assert!(settings(&[home, variable]).is_err(), "{variable:?}");
        }
        let plain = settings(&[home, ("HF_HUB_OFFLINE", "0")]).ok().unwrap();
        assert!(plain.token.is_none() && !plain.is_offline);
        assert_eq!(plain.endpoint.as_str(), "https://huggingface.co/");
        assert!(settings(&[home, ("HF_HUB_OFFLINE", "TRUE")]).ok().unwrap().is_offline);
    }
}
