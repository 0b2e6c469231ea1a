//! Many streaming clients, some of which leave early, and a check of every stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::forms::{Form, Forms, told, with};
use super::reference::{QUESTIONS, References};
use super::scrape::client;

/// Of single requests; a server takes 16 beside its own.
const POLICIES: [&str; 15] = [
    "off",
    "fixed:k=3",
    "dsde",
    "dsde:variant=released,cap=mean",
    "adaedl",
    "confidence",
    "tetris",
    "dspark",
    "adaptive_verification",
    "adaserve",
    "turbospec",
    "nightjar",
    "faser",
    "ddd",
    "bandit",
];
/// One request in so many has a policy of its own.
const CHOOSING: u64 = 2;
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
    /// What greedy answers must say.
    pub references: Arc<References>,
    /// What else is asked.
    pub forms: Arc<Forms>,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Streams read to their end.
    pub answered: AtomicU64,
    /// Those of them whose answer was known and that said it.
    pub as_alone: AtomicU64,
    /// Streams left on purpose.
    pub left: AtomicU64,
    /// Requests answered with 429.
    pub refused: AtomicU64,
    /// Events of streams read to their end.
    pub events: AtomicU64,
    /// Everything that may not happen.
    pub n_faults: AtomicU64,
    /// Some of it in words.
    pub faults: Mutex<Vec<String>>,
}

impl Outcome {
    fn fault(&self, text: String) {
        count(&self.n_faults);
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_MAX {
            faults.push(text);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
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

/// One request, as drawn.
struct Ask<'a> {
    what: What<'a>,
    policy: Option<&'static str>,
    /// Parts of the stream after which the client leaves.
    leaves_after: Option<u64>,
}

enum What<'a> {
    Question { question: usize, tokens_max: u64, temperature: f64, ignores_eos: bool },
    Form(&'a Form),
}

impl<'a> Ask<'a> {
    fn draw(dice: &mut Dice, load: &'a Load) -> Self {
        let forms = &load.forms.known;
        let what = match dice.below(2) {
            0 if !forms.is_empty() => What::Form(&forms[dice.below(forms.len() as u64) as usize]),
            _ => What::Question {
                question: dice.below(QUESTIONS.len() as u64) as usize,
                tokens_max: 1 + dice.below(load.tokens_max),
                temperature: [0.0, 0.0, 0.8][dice.below(3) as usize],
                ignores_eos: dice.below(2) == 0,
            },
        };
        Self {
            what,
            policy: (dice.below(CHOOSING) == 0).then(|| POLICIES[dice.below(POLICIES.len() as u64) as usize]),
            leaves_after: (dice.below(4) == 0).then(|| dice.below(12)),
        }
    }

    fn name(&self) -> &'static str {
        match self.what {
            What::Question { .. } => "a greedy question",
            What::Form(form) => form.name,
        }
    }

    fn path(&self) -> &'static str {
        match self.what {
            What::Question { .. } => "/v1/chat/completions",
            What::Form(form) => form.path,
        }
    }

    fn body(&self) -> Value {
        let body = match self.what {
            What::Form(form) => form.body.clone(),
            What::Question { question, tokens_max, temperature, ignores_eos } => json!({
                "messages": [{"role": "user", "content": QUESTIONS[question]}],
                "stream": true,
                "stream_options": {"include_usage": true},
                "max_tokens": tokens_max,
                "temperature": temperature,
                "ignore_eos": ignores_eos,
            }),
        };
        with(&body, json!({"policy": self.policy}))
    }
}

/// Runs all clients to their end.
pub async fn run(load: Load) -> Arc<Outcome> {
    let outcome = Arc::new(Outcome::default());
    let client = client();
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
        let ask = Ask::draw(&mut dice, load);
        let body = ask.body();
        let sent = client.post(format!("{}{}", load.url, ask.path())).json(&body).send().await;
        match sent {
            Ok(response) if response.status() == StatusCode::OK => {
                let read = read(response, ask.leaves_after, outcome).await;
                if let Some(text) = read {
                    check(&text, &ask, &load.references, outcome);
                }
            }
            Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => {
                count(&outcome.refused);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(response) => outcome.fault(format!("{} for {body}", response.status())),
            Err(error) => outcome.fault(format!("{error:?} for {body}")),
        }
    }
}

/// Reads a stream to its end; `None` if the client leaves before, or the stream breaks.
async fn read(mut response: Response, leaves_after: Option<u64>, outcome: &Outcome) -> Option<String> {
    let mut bytes = Vec::new();
    let mut n_parts = 0;
    while leaves_after != Some(n_parts) {
        match response.chunk().await {
            Ok(Some(part)) => bytes.extend_from_slice(&part),
            Ok(None) => return Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => {
                outcome.fault(format!("a stream broke: {error:?}"));
                return None;
            }
        }
        n_parts += 1;
    }
    count(&outcome.left);
    None
}

/// Checks that a stream is whole, and where its answer is known that it says that.
fn check(stream: &str, ask: &Ask<'_>, references: &References, outcome: &Outcome) {
    let mut events: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    // At the start: a token may be called error, too.
    let error = events.iter().find(|event| event.starts_with("{\"error\"")).copied();
    let last = events.pop();
    if last != Some("[DONE]") || error.is_some() {
        return outcome.fault(format!("a stream ended with {last:?} and told {error:?}"));
    }
    count(&outcome.answered);
    outcome.events.fetch_add(events.len() as u64, Ordering::Relaxed);
    let (text, expected) = match ask.what {
        What::Form(form) => (told(stream), Some(form.expected.clone())),
        What::Question { temperature, .. } if temperature > 0.0 => return,
        What::Question { question, tokens_max, ignores_eos, .. } => {
            let text: String = events.iter().filter_map(|event| content(event)).collect();
            (Some(json!(text)), Some(json!(references.text(question, tokens_max, ignores_eos))))
        }
    };
    match text == expected {
        true => count(&outcome.as_alone),
        false => outcome.fault(format!("{} {} got {text:?}, expected {expected:?}", ask.name(), ask.body())),
    }
}

/// The text that an event adds.
fn content(event: &str) -> Option<String> {
    let event: Value = serde_json::from_str(event).ok()?;
    event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
}
