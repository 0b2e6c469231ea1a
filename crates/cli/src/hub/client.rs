//! Asks the Hub.
//!
//! Redirects are followed here and not by the HTTP client, because two things depend on them: the token stays with the endpoint,
//! and what a file holds is announced beside the address of another host that has it.

use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;

use super::Error;
use super::name::{Name, is_commit, is_inside};
use super::settings::Settings;
use crate::remote::{ApiKey, innermost, is_loopback, message_of};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the next bytes.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest list of files, bytes.
const LISTING_BYTES_MAX: usize = 32 << 20;
/// Longest error that is read, bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 16;
/// Most redirects of one request.
const N_REDIRECTS_MAX: usize = 8;
/// Longest etag, bytes.
const ETAG_BYTES_MAX: usize = 128;
/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// The Hub or a mirror of it.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<ApiKey>,
}

/// What a revision is at the moment.
pub(super) struct Listing {
    pub(super) commit: String,
    /// All files, none of which leads out of the folder.
    pub(super) files: Vec<String>,
}

/// A file as announced.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) file: String,
    pub(super) url: Url,
    /// Name of its content.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Remote {
    /// What its SHA-256 has to be, where the etag says it: of files in Git LFS.
    pub(super) fn sha256(&self) -> Option<&str> {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        Some(&*self.etag).filter(|etag| etag.len() == SHA256_DIGITS && etag.chars().all(is_digit))
    }
}

#[derive(Deserialize)]
struct ModelAnswer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    /// # Errors
    /// If the system's certificates cannot be used.
    pub(super) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        // Length and etag are to be those of the file itself.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("dsde/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if is_loopback(&settings.endpoint) {
            builder = builder.no_proxy();
        } else if settings.token.is_some() && settings.endpoint.scheme() == "http" {
            tracing::warn!("the token goes to HF_ENDPOINT unencrypted; everybody on the way can read it");
        }
        Ok(Self {
            http: builder.build()?,
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
        })
    }

    /// Commit and files of a revision.
    ///
    /// # Errors
    /// If the repository is not there or not for this user, or a file name leads out of its folder.
    pub(super) async fn listing(&self, name: &Name) -> Result<Listing, Error> {
        let [org, model] = name.parts();
        let url = self.url(&["api", "models", org, model, "revision", name.revision()]);
        let what = match name.revision() {
            "main" => name.repository(),
            revision => format!("{} at revision {revision}", name.repository()),
        };
        let response = self.send(Method::GET, &url, None, &what).await?;
        let malformed = |what: String| Error::Malformed { host: host(&url), what };
        let text = read_up_to(response, LISTING_BYTES_MAX).await.map_err(malformed)?;
        let answer: ModelAnswer =
            serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        if !is_commit(&answer.sha) {
            return Err(malformed("it names no commit".to_owned()));
        }
        let files: Vec<String> = answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        match files.iter().find(|file| !is_inside(file)) {
            Some(file) => Err(Error::Escaping(file.clone())),
            None => Ok(Listing { commit: answer.sha, files }),
        }
    }

    /// What a file of a commit is.
    ///
    /// # Errors
    /// If it is not there, or it is not said how long it is.
    pub(super) async fn announced(&self, name: &Name, commit: &str, file: &str) -> Result<Remote, Error> {
        let [org, model] = name.parts();
        let mut parts = vec![org, model, "resolve", commit];
        parts.extend(file.split('/'));
        let url = self.url(&parts);
        let response = self.send(Method::HEAD, &url, None, file).await?;
        let header = |name: &HeaderName| response.headers().get(name)?.to_str().ok();
        let etag = header(&LINKED_ETAG).or_else(|| header(&ETAG)).and_then(bare_etag);
        let size =
            header(&LINKED_SIZE).or_else(|| header(&CONTENT_LENGTH)).and_then(|size| size.parse().ok());
        match (etag, size) {
            (Some(etag), Some(size)) => Ok(Remote { file: file.to_owned(), url, etag, size }),
            _ => Err(Error::Malformed { host: host(&url), what: format!("no etag or no length of {file}") }),
        }
    }

    /// The content of a file from byte `from` on, or all of it if the host cannot do that.
    ///
    /// # Errors
    /// If it is not there any more.
    pub(super) async fn content(&self, remote: &Remote, from: u64) -> Result<Response, Error> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        self.send(Method::GET, &remote.url, range.as_deref(), &remote.file).await
    }

    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Follows redirects to an answer; that to HEAD may also be one that announces a content and where it is.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        range: Option<&str>,
        what: &str,
    ) -> Result<Response, Error> {
        let mut url = url.clone();
        for _ in 0..=N_REDIRECTS_MAX {
            let mut request = self.http.request(method.clone(), url.clone());
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            // A token is for the endpoint and for nobody else.
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
                request = request.header(AUTHORIZATION, token.header());
            }
            let unreachable = |cause: reqwest::Error| Error::Unreachable { host: host(&url), cause };
            let response = request.send().await.map_err(|error| unreachable(error.without_url()))?;
            if !response.status().is_redirection() {
                return self.checked(response, &url, what).await;
            }
            let announces =
                [LINKED_ETAG, LINKED_SIZE].iter().all(|name| response.headers().contains_key(name));
            if method == Method::HEAD && announces {
                return Ok(response);
            }
            url = redirected(&url, response.headers())?;
        }
        Err(Error::Malformed { host: host(&url), what: format!("{what} is redirected again and again") })
    }

    async fn checked(&self, response: Response, url: &Url, what: &str) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said =
            response.headers().get(ERROR_MESSAGE).and_then(|said| said.to_str().ok()).map(str::to_owned);
        let said = match said {
            Some(said) => said,
            None => {
                let body = read_up_to(response, MESSAGE_BYTES_MAX).await.unwrap_or_default();
                String::from_utf8_lossy(&body).into_owned()
            }
        };
        let (what, message, endpoint) = (what.to_owned(), message_of(&said), self.shown_endpoint());
        let is_endpoint = url.origin() == self.endpoint.origin();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_endpoint => {
                Error::Refused { endpoint, what, status, message }
            }
            StatusCode::NOT_FOUND if is_endpoint => Error::NotFound { endpoint, what, status, message },
            _ => Error::Status { host: host(url), what, status, message },
        })
    }

    fn shown_endpoint(&self) -> String {
        self.endpoint.as_str().trim_end_matches('/').to_owned()
    }
}

/// Where a redirect leads; never from an encrypted host to one that is not.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok());
    let is_allowed = |to: &Url| to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http");
    to.filter(is_allowed).ok_or_else(|| Error::Malformed {
        host: host(from),
        what: "it redirects to nowhere, or to a host without encryption".to_owned(),
    })
}

/// Host and port; a path might hold a signature.
fn host(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What stands within the quotes of an etag, if it can be a file name.
fn bare_etag(etag: &str) -> Option<String> {
    let bare = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_name = (1..=ETAG_BYTES_MAX).contains(&bare.len()) && bare.chars().all(is_allowed);
    is_name.then(|| bare.to_owned())
}

async fn read_up_to(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| innermost(&error.without_url()))? {
        body.extend_from_slice(&bytes);
        if body.len() > bytes_max {
            return Err(format!("it is longer than {bytes_max} bytes"));
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_file_names_or_nothing() {
        assert_eq!(bare_etag("\"ab-1\""), Some("ab-1".to_owned()));
        assert_eq!(bare_etag("W/\"ab\""), Some("ab".to_owned()));
        for etag in ["", "\"\"", "\"../x\"", "a/b", "a.incomplete", &"a".repeat(129)] {
            assert_eq!(bare_etag(etag), None, "{etag}");
        }
    }

    #[test]
    fn redirects_never_give_up_encryption() {
        let to = |from: &str, location: &'static str| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            redirected(&Url::parse(from).unwrap(), &headers).ok().map(|url| url.to_string())
        };
        assert_eq!(to("https://a/b/c", "/d"), Some("https://a/d".to_owned()));
        assert_eq!(to("https://a/b", "https://c/d"), Some("https://c/d".to_owned()));
        assert_eq!(to("http://a/b", "http://c/d"), Some("http://c/d".to_owned()));
        assert_eq!(to("https://a/b", "http://c/d"), None);
        assert_eq!(to("http://a/b", "file:///etc/passwd"), None);
    }
}
