//! The HTTP API: a real server over the embedded pair, asked over a socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dsde_engine::{Drafter, Engine, MonotonicClock};
use dsde_kernels::Cpu;
use dsde_model::embedded;
use dsde_model::executor::{self, Checkpoints, CpuExecutor, DraftCheckpoint, KvSize};
use dsde_policy::registry;
use dsde_server::{Config, Shutdown, Text};
use dsde_text::ChatTemplate;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Context of the model, tokens: answers are short, though long enough for a call.
const CONTEXT: u32 = 96;
/// Choices of a request.
const CHOICES_MAX: u32 = 4;
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Few tokens, and a form for thoughts and for calls of functions, which the embedded template has not.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{{ m.reasoning_content }}\
    {% for c in m.tool_calls %}<tool_call>{{ c.function.name }}</tool_call>{% endfor %} {% endfor %}\
    {% for t in tools %}{{ t.function.name }} {% endfor %}{% if enable_thinking %}<think>{% endif %}";
/// Headers about the connection, which are ours.
const OURS: [&str; 5] = ["connection", "content-length", "expect", "transfer-encoding", "upgrade"];

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// Every request is answered: never by an error of the server, errors in the shape that clients know, all else as JSON, as whole events,
/// or as a page.
///
/// Input: a request as in HTTP, with line feeds alone; what belongs to the connection is left out and added.
pub fn server(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().trim();
    // Streams without an end.
    if line.contains("live") {
        return;
    }
    let is_ours =
        |line: &&str| OURS.iter().any(|name| line.trim_start().to_ascii_lowercase().starts_with(name));
    let headers: String = lines.filter(|line| !is_ours(line)).map(|line| format!("{line}\r\n")).collect();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let answer = SERVER.ask(request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    assert!((200..500).contains(&status), "{answer}");
    let is = |kind: &str| head.to_ascii_lowercase().contains(&format!("content-type: {kind}"));
    // A request that is none, or asks for no body.
    if body.is_empty() {
        return;
    }
    if status >= 400 {
        let error: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string(), "{answer}");
    } else if is("application/json") {
        serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    } else if is("text/event-stream") {
        assert_events(&unchunked(body));
    }
}

/// Events are JSON, and the last one says that it is.
fn assert_events(text: &str) {
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (last, events) = data.split_last().unwrap_or_else(|| panic!("no event: {text}"));
    let event = |data: &str| -> Value {
        serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    events.iter().for_each(|data| assert!(event(data).is_object()));
    let is_last = |event: &Value| {
        event["type"]
            .as_str()
            .is_some_and(|kind| ["response.completed", "response.incomplete"].contains(&kind))
    };
    assert!(*last == "[DONE]" || is_last(&event(last)), "{text}");
}

/// The body of an answer in chunks.
fn unchunked(body: &str) -> String {
    let mut rest = body.as_bytes();
    let mut whole = Vec::new();
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let len = str::from_utf8(&rest[..end]).ok().and_then(|len| usize::from_str_radix(len, 16).ok());
        let len = len.unwrap_or_else(|| panic!("a length in {body}"));
        whole.extend_from_slice(&rest[end + 2..][..len]);
        rest = &rest[end + 2 + len + 2..];
    }
    String::from_utf8(whole).expect("events are text")
}

struct Server {
    address: SocketAddr,
    /// Its threads live as long.
    _runtime: Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = Runtime::new().expect("threads can be started");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let tokenizer = embedded::tokenizer();
        let template = ChatTemplate::parse(b"{}", Some(TEMPLATE)).expect("a template");
        let template = template.for_tokenizer(&tokenizer);
        let text = Text {
            template: Some(template.expect("the embedded tokenizer normalises nothing")),
            template_fault: None,
            tokenizer: Arc::new(tokenizer),
            eos_tokens: embedded::target().config().eos_tokens.clone(),
            today: || None,
        };
        let config = Config { waiting_max: CHOICES_MAX, ..Config::new("demo", POLICY) };
        let forever = std::future::pending::<Shutdown>();
        runtime.spawn(dsde_server::serve(listener, engine(), text, config, forever));
        Self { address, _runtime: runtime }
    }

    /// All bytes of the answer.
    fn ask(&self, request: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).expect("the server listens");
        socket.set_read_timeout(Some(ANSWER_MAX)).expect("a time can be set");
        let mut answer = Vec::new();
        // A server that has heard enough may close before everything is said.
        let _ = socket.write_all(request);
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

const POLICY: &str = "dsde";

fn engine() -> Engine {
    let (target, draft) = (embedded::target(), embedded::draft());
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) };
    let config = executor::Config { kv: KvSize::Blocks(64), context_len_max: CONTEXT, ..Default::default() };
    let CpuExecutor { executor, .. } =
        CpuExecutor::new(Cpu::new(1), checkpoints, None, config, &mut |_, _| {})
            .expect("the embedded pair fits");
    let config =
        dsde_engine::Config { sequences_max: CHOICES_MAX, drafter: Drafter::Model, ..Default::default() };
    let policy: registry::Config = POLICY.parse().expect("a policy");
    let vocabulary = Arc::new(embedded::tokenizer());
    Engine::new(config, policy.build(), vocabulary, executor, MonotonicClock::start()).expect("sizes agree")
}
