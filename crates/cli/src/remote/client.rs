//! Asks a server.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::url::{ApiKey, ServerUrl};
use super::{Error, counters};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is no stream, bytes.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Latency targets, as headers: servers that do not know them ignore them.
const SLO_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-slo-ttft-ms"), HeaderName::from_static("x-slo-tpot-ms")];

/// A pool of connections to one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: ServerUrl,
    timeout: Duration,
}

/// A model that a server offers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Model {
    /// Its name.
    #[serde(rename = "id")]
    pub(crate) name: String,
    /// Longest sequence in tokens, where the server says so.
    #[serde(default, rename = "max_model_len")]
    pub(crate) context: Option<u32>,
    #[serde(default)]
    owned_by: Option<String>,
}

impl Model {
    /// A model of which nothing but the name is known.
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), context: None, owned_by: None }
    }

    /// Whether the server knows the field `spec_decode_metrics`; others may refuse fields that they do not know.
    pub(crate) fn has_statistics(&self) -> bool {
        ["dsde", "vllm"].map(Some).contains(&self.owned_by.as_deref())
    }
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

/// The two ways to ask for a continuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Of a conversation.
    Chat,
    /// Of a text.
    Text,
}

/// Fields of a request.
pub(crate) type Fields = Map<String, Value>;

impl Client {
    /// * `timeout`: longest wait for an answer to begin, and for each event of it.
    ///
    /// # Errors
    /// If the system's certificates cannot be used.
    pub(crate) fn new(url: ServerUrl, key: Option<&ApiKey>, timeout: Duration) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(AUTHORIZATION, key.header());
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("dsde/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // A request that is sent on elsewhere would arrive without its body or with a key that is not meant for there.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if url.is_loopback() {
            builder = builder.no_proxy();
        }
        Ok(Self { http: builder.build()?, url, timeout })
    }

    /// Names of the models, the default one first.
    ///
    /// # Errors
    /// If the server cannot be reached, refuses, or has none.
    pub(crate) async fn models(&self) -> Result<Vec<Model>, Error> {
        let models: Models = self.json(self.url.api("models")).await?;
        match models.data.is_empty() {
            true => Err(Error::Malformed { what: "the list of models is empty".to_owned() }),
            false => Ok(models.data),
        }
    }

    /// Whether the server takes requests; only ours says so in this place.
    ///
    /// # Errors
    /// If it does not, cannot be reached, or is another.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        self.begin(self.http.get(self.url.beside("ready"))).await.map(drop)
    }

    /// What the server has counted about speculation since it started; `None` where it does not count.
    pub(crate) async fn counters(&self) -> Option<counters::Counters> {
        let response = self.begin(self.http.get(self.url.beside("metrics"))).await.ok()?;
        counters::Counters::parse(&self.text(response).await.ok()?)
    }

    /// Asks for a stream.
    ///
    /// # Errors
    /// If the server cannot be reached, refuses, or answers with something else than a stream.
    pub(crate) async fn ask(
        &self,
        route: Route,
        fields: &Fields,
        slo_ms: [Option<f64>; 2],
    ) -> Result<Answer, Error> {
        let route = match route {
            Route::Chat => "chat/completions",
            Route::Text => "completions",
        };
        let mut request = self.http.post(self.url.api(route)).json(fields);
        for (name, value) in SLO_HEADERS.into_iter().zip(slo_ms) {
            request = match value {
                Some(value) => request.header(name, value.to_string()),
                None => request,
            };
        }
        let response = self.begin(request).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        match kind.starts_with("text/event-stream") {
            true => Ok(Answer::new(response, self.timeout)),
            false => Err(Error::Malformed { what: format!("expected text/event-stream, got {kind:?}") }),
        }
    }

    async fn json<T: DeserializeOwned>(&self, url: Url) -> Result<T, Error> {
        let response = self.begin(self.http.get(url)).await?;
        let text = self.text(response).await?;
        serde_json::from_str(&text).map_err(|error| Error::Malformed { what: error.to_string() })
    }

    /// Sends a request and returns the answer once its head is there and says that all is well.
    async fn begin(&self, request: RequestBuilder) -> Result<Response, Error> {
        let wait = tokio::time::timeout(self.timeout, request.send());
        let response = wait.await.map_err(|_| Error::silent(self.timeout))?;
        let response = response.map_err(|cause| Error::Unreachable { url: self.url.to_string(), cause })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(seconds);
        let body = self.text(response).await.unwrap_or_default();
        Err(Error::status(status, retry_after, &body))
    }

    /// A whole body.
    async fn text(&self, mut response: Response) -> Result<String, Error> {
        let read = async {
            let mut body = Vec::new();
            while let Some(bytes) =
                response.chunk().await.map_err(|cause| Error::Cut { cause: Some(cause) })?
            {
                body.extend_from_slice(&bytes);
                if body.len() > BODY_BYTES_MAX {
                    let what = format!("an answer is longer than {BODY_BYTES_MAX} bytes");
                    return Err(Error::Malformed { what });
                }
            }
            Ok(String::from_utf8_lossy(&body).into_owned())
        };
        tokio::time::timeout(self.timeout, read).await.map_err(|_| Error::silent(self.timeout))?
    }
}

/// The seconds of `Retry-After`; its other form, a date, counts as none.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_nothing() {
        let read = |text| seconds(&HeaderValue::from_static(text));
        assert_eq!(read("2"), Some(Duration::from_secs(2)));
        for text in ["", "-1", "NaN", "1e300", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn models_are_read_as_servers_list_them() {
        let models: Models = serde_json::from_str(
            r#"{"object": "list", "data": [{"id": "a", "owned_by": "vllm", "max_model_len": 4096, "x": 1}, {"id": "b"}]}"#,
        )
        .unwrap();
        assert_eq!((models.data[0].context, models.data[0].has_statistics()), (Some(4096), true));
        assert_eq!(models.data[1], Model::named("b"));
    }
}
