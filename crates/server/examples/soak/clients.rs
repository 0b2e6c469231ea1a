//! Many streaming clients, some of which leave early, and a check of every stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const QUESTIONS: [&str; 8] = [
    "Tell me a story about a dog.",
    "What is 3 + 4?",
    "Tell me about the sea.",
    "Write a function that adds two numbers.",
    "Hello.",
    "Why is the sky blue?",
    "Count to ten.",
    "Tell me a long story about a ship and a storm.",
];
const POLICIES: [Option<&str>; 6] = [None, None, None, Some("off"), Some("fixed:k=3"), Some("dsde")];
/// Pause of a client that was told to come back later.
const PAUSE: Duration = Duration::from_millis(50);
/// Faults that are kept in full.
const FAULTS_MAX: usize = 10;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the server is, without a path.
    pub url: String,
    /// Clients at once.
    pub n_clients: u64,
    /// Requests of each client at most.
    pub n_requests: u64,
    /// No request begins later.
    pub until: Option<Instant>,
    /// Most tokens of an answer.
    pub tokens_max: u64,
    /// Whether requests choose policies of their own.
    pub chooses_policies: bool,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Streams read to their end.
    pub answered: AtomicU64,
    /// Streams left on purpose.
    pub left: AtomicU64,
    /// Requests answered with 429.
    pub refused: AtomicU64,
    /// Events with text.
    pub events: AtomicU64,
    /// Everything that may not happen.
    pub n_faults: AtomicU64,
    /// Some of it in words.
    pub faults: std::sync::Mutex<Vec<String>>,
}

impl Outcome {
    fn fault(&self, text: String) {
        self.n_faults.fetch_add(1, Ordering::Relaxed);
        let mut faults = self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if faults.len() < FAULTS_MAX {
            faults.push(text);
        }
    }
}

/// Numbers that look random and repeat (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Runs all clients to their end.
pub async fn run(load: Load) -> Arc<Outcome> {
    let outcome = Arc::new(Outcome::default());
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(300)).build().expect("a client");
    let mut clients = JoinSet::new();
    for i in 0..load.n_clients {
        let (load, outcome, client) = (load.clone(), outcome.clone(), client.clone());
        clients.spawn(async move { one_client(i, &load, &client, &outcome).await });
    }
    clients.join_all().await;
    outcome
}

async fn one_client(i: u64, load: &Load, client: &Client, outcome: &Outcome) {
    let mut dice = Dice((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for _ in 0..load.n_requests {
        if load.until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let leaves_after = (dice.below(4) == 0).then(|| dice.below(12));
        let body = body(&mut dice, load);
        let sent = client.post(format!("{}/v1/chat/completions", load.url)).json(&body).send().await;
        match sent {
            Ok(response) if response.status() == StatusCode::OK => {
                read(response, leaves_after, outcome).await
            }
            Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => {
                outcome.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(response) => outcome.fault(format!("{} for {body}", response.status())),
            Err(error) => outcome.fault(format!("{error:?} for {body}")),
        }
    }
}

fn body(dice: &mut Dice, load: &Load) -> Value {
    let question = QUESTIONS[dice.below(QUESTIONS.len() as u64) as usize];
    let temperature = [0.0, 0.0, 0.8][dice.below(3) as usize];
    let mut body = json!({
        "messages": [{"role": "user", "content": question}],
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_tokens": 1 + dice.below(load.tokens_max),
        "temperature": temperature,
        "ignore_eos": dice.below(2) == 0,
    });
    if load.chooses_policies {
        body["policy"] = json!(POLICIES[dice.below(POLICIES.len() as u64) as usize]);
    }
    body
}

/// Reads a stream, checks its events, and leaves after some parts of it if told to.
async fn read(mut response: Response, leaves_after: Option<u64>, outcome: &Outcome) {
    let mut text = String::new();
    let mut n_parts = 0;
    loop {
        if leaves_after == Some(n_parts) {
            outcome.left.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match response.chunk().await {
            Ok(Some(part)) => text += &String::from_utf8_lossy(&part),
            Ok(None) => break,
            Err(error) => return outcome.fault(format!("a stream broke: {error:?}")),
        }
        n_parts += 1;
    }
    let mut events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let is_whole = events.pop() == Some("[DONE]") && !events.iter().any(|event| event.contains("\"error\""));
    match is_whole {
        true => {
            outcome.answered.fetch_add(1, Ordering::Relaxed);
            outcome.events.fetch_add(events.len() as u64, Ordering::Relaxed);
        }
        false => outcome.fault(format!("a stream ended with {:?}", text.lines().next_back())),
    }
}

/// Values of the server's metrics that have only the constant labels, by name; buckets carry theirs.
pub async fn metrics(url: &str) -> Vec<(String, f64)> {
    let response = reqwest::get(format!("{url}/metrics")).await.expect("the server answers");
    let text = response.text().await.expect("metrics are text");
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let name = name.replace("engine=\"0\",", "");
        Some((name.split("model_name=").next()?.to_owned() + bound(&name), value.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// The upper bound of a bucket's line.
fn bound(name: &str) -> &str {
    name.split_once(",le=").map_or("", |(_, bound)| bound.trim_end_matches('}'))
}

/// The value of one metric; 0 if it is not there.
pub fn value(metrics: &[(String, f64)], name: &str) -> f64 {
    let name = format!("{name}{{");
    metrics.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, value)| *value)
}

/// Upper bound of the bucket in which a quantile lies.
pub fn quantile(metrics: &[(String, f64)], name: &str, quantile: f64) -> f64 {
    let begin = format!("{name}_bucket{{");
    let buckets = metrics.iter().filter_map(|(known, count)| {
        let bound = known.strip_prefix(&begin)?.trim_matches('"');
        Some((bound.replace("+Inf", "inf").parse::<f64>().ok()?, *count))
    });
    let buckets: Vec<(f64, f64)> = buckets.collect();
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    buckets.iter().find(|(_, count)| *count >= quantile * total).map_or(f64::NAN, |(bound, _)| *bound)
}

/// Waits until the server is idle again; whether it is.
pub async fn settles(url: &str) -> bool {
    for _ in 0..2000 {
        let now = metrics(url).await;
        let is_idle = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]
            .iter()
            .all(|name| value(&now, name) == 0.0);
        if is_idle {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
