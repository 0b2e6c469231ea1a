//! Where a server is, and the key it wants.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use reqwest::header::HeaderValue;

/// The part of the path that all routes of the OpenAI API share.
const API: &str = "v1";

/// Address of a server, with or without the `/v1` that clients of the OpenAI API are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    /// Ends with `/`, without `/v1`.
    root: Url,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected http://HOST[:PORT] or https://HOST[:PORT], with or without /v1";
        let mut url = Url::parse(text).map_err(|error| format!("{expected}: {error}"))?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(expected.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected an address without user and password; --api-key takes a key".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{expected}, and nothing behind `?` or `#`"));
        }
        let path = url.path().trim_end_matches('/');
        let root = path.strip_suffix(&format!("/{API}")).unwrap_or(path);
        url.set_path(&format!("{root}/"));
        Ok(Self { root: url })
    }
}

/// As it is recorded.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root.as_str().trim_end_matches('/'))
    }
}

impl ServerUrl {
    /// A route of the OpenAI API, for example `models`.
    pub(super) fn api(&self, route: &str) -> Url {
        self.beside(&format!("{API}/{route}"))
    }

    /// A route beside the API, for example `metrics`.
    pub(super) fn beside(&self, route: &str) -> Url {
        let mut url = self.root.clone();
        url.set_path(&format!("{}{route}", self.root.path()));
        url
    }

    /// Whether the server runs on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.root)
    }

    /// Whether others on the way can read along.
    pub(super) fn is_plain(&self) -> bool {
        self.root.scheme() == "http"
    }
}

/// Whether an address is one of this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A key; it shows itself to nobody but the server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ApiKey(HeaderValue);

impl FromStr for ApiKey {
    type Err = String;

    fn from_str(key: &str) -> Result<Self, String> {
        let header = (!key.is_empty()).then(|| HeaderValue::try_from(format!("Bearer {key}")));
        let mut header = header
            .and_then(Result::ok)
            .ok_or("expected a key of visible ASCII characters, got none or others")?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

impl ApiKey {
    /// The value of `Authorization`.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_end_where_clients_are_used_to() {
        for text in ["http://a:8000", "http://a:8000/", "http://a:8000/v1", "http://a:8000/v1/"] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), "http://a:8000");
            assert_eq!(url.api("models").as_str(), "http://a:8000/v1/models");
            assert_eq!(url.beside("metrics").as_str(), "http://a:8000/metrics");
        }
        let url: ServerUrl = "https://a.org/proxy/v1".parse().unwrap();
        assert_eq!(url.api("models").as_str(), "https://a.org/proxy/v1/models");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "a:8000", "localhost:1", "ftp://a", "http://", "http://u:p@a", "http://a?b", "http://a#b"]
        {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        let is_loopback = |text: &str| text.parse::<ServerUrl>().unwrap().is_loopback();
        assert!(["http://localhost:1", "http://127.0.0.9", "http://[::1]:8"].into_iter().all(is_loopback));
        assert!(!["http://10.0.0.1", "https://a.org"].into_iter().any(is_loopback));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let key: ApiKey = "sk-secret".parse().unwrap();
        assert!(!format!("{key:?} {:?}", key.header()).contains("secret"));
        assert!("".parse::<ApiKey>().is_err() && "a\nb".parse::<ApiKey>().is_err());
    }
}
