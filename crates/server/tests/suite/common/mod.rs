//! A server over the embedded pair on a port of its own, and a pooled client.

// Each test program uses a part of it; what fails here fails the test.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use dsde_bench::load::closed_loop;
use dsde_engine::{Clock, Drafter, Engine, MonotonicClock, Request};
use dsde_kernels::Cpu;
use dsde_model::embedded;
use dsde_model::executor::{self, Checkpoints, CpuExecutor, DraftCheckpoint, KvSize};
use dsde_server::{Config, Shutdown, Text};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Context of the server, tokens; short enough that an endless answer ends.
pub const CONTEXT: u32 = 2048;

/// What differs between servers.
#[derive(Clone, Copy)]
pub struct Setup {
    pub policy: &'static str,
    pub sequences_max: u32,
    pub config: fn(&mut Config),
}

impl Default for Setup {
    fn default() -> Self {
        Self { policy: "dsde", sequences_max: 8, config: |_| () }
    }
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub client: Client,
    pub shutdown: Option<oneshot::Sender<Shutdown>>,
    pub ended: JoinHandle<Result<(), dsde_server::Error>>,
}

pub fn engine(policy: &str, sequences_max: u32) -> Engine {
    engine_with_clock(policy, sequences_max, MonotonicClock::start())
}

pub fn engine_with_clock(policy: &str, sequences_max: u32, clock: impl Clock + 'static) -> Engine {
    let (target, draft) = (embedded::target(), embedded::draft());
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) };
    let config = executor::Config { kv: KvSize::Blocks(512), context_len_max: CONTEXT, ..Default::default() };
    let CpuExecutor { executor, .. } =
        CpuExecutor::new(Cpu::new(1), checkpoints, None, config, &mut |_, _| {}).unwrap();
    let config = dsde_engine::Config { sequences_max, drafter: Drafter::Model, ..Default::default() };
    let policy: dsde_policy::registry::Config = policy.parse().unwrap();
    let vocabulary = Arc::new(embedded::tokenizer());
    Engine::new(config, policy.build(), vocabulary, executor, clock).unwrap()
}

pub async fn start(setup: Setup) -> Server {
    serve_engine(engine(setup.policy, setup.sequences_max), setup).await
}

/// A server over an engine whose tokens are those of the embedded pair.
pub async fn serve_engine(engine: Engine, setup: Setup) -> Server {
    let tokenizer = embedded::tokenizer();
    let text = Text {
        template: Some(embedded::chat_template().for_tokenizer(&tokenizer).unwrap()),
        template_fault: None,
        tokenizer: Arc::new(tokenizer),
        eos_tokens: embedded::target().config().eos_tokens.clone(),
        today: || None,
    };
    let mut config = Config::new("demo", setup.policy);
    (setup.config)(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, asked) = oneshot::channel::<Shutdown>();
    let until = async move { asked.await.unwrap_or(Shutdown::Unannounced) };
    let ended = tokio::spawn(dsde_server::serve(listener, engine, text, config, until));
    let client = Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap();
    Server { address, client, shutdown: Some(shutdown), ended }
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn send(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.send(path, &body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// The data of all events of a stream, the last of which says that it is over.
    pub async fn events(&self, path: &str, body: Value) -> Vec<Value> {
        let response = self.send(path, &body).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        events(&response.text().await.unwrap())
    }

    /// The value of a metric without labels of its own; 0 if it does not exist yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let of_line =
            |line: &str| line.strip_prefix(name)?.strip_prefix('{')?.split(' ').next_back()?.parse().ok();
        text.lines().find_map(of_line).unwrap_or(0.0)
    }

    /// Waits until a metric has a value; bounded, so that a server that never gets there fails the test.
    pub async fn until_metric(&self, name: &str, wanted: f64) {
        for _ in 0..8000 {
            if self.metric(name).await == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{name} is {}, expected {wanted}", self.metric(name).await);
    }
}

pub fn events(text: &str) -> Vec<Value> {
    let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// A conversation of one message.
pub fn chat(text: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24})
}

/// `base` with the fields of `more`.
pub fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

/// Text that plain decoding without any server gives for the tokens of a prompt.
pub fn plain(prompt: Vec<u32>, tokens_max: u32) -> String {
    let mut engine = engine("off", 1);
    let mut request = Request::new(prompt, dsde_sampling::Params::greedy(), tokens_max);
    request.stop.tokens = embedded::target().config().eos_tokens.clone();
    let choices = closed_loop(&mut engine, [request], NonZeroUsize::MIN, &mut ()).unwrap();
    String::from_utf8_lossy(&choices[0][0].text).into_owned()
}
