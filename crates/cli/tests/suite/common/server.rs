//! Servers to ask: the program itself, and sockets that do what no good server does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

/// `dsde serve` on a port of its own; ends with this value.
pub struct Serving {
    child: Child,
    /// Address to ask.
    pub url: String,
}

impl Serving {
    /// Starts it on the embedded pair and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dsde"))
            .args(["serve", "--port", "0", "--threads", "1"])
            .args(args)
            .env_remove("DSDE_API_KEY")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let ready = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let url = line.strip_prefix("ready: ")?;
            Some(url.to_owned())
        });
        // What it says later must not fill the pipe.
        thread::spawn(move || lines.for_each(drop));
        let url = ready.expect("the server gets ready");
        Self { child, url }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a stub does with a connection after it has read the request.
pub enum Reply {
    /// Sends this and closes.
    Close(String),
    /// Sends this and then nothing more, until the client leaves.
    Hold(String),
    /// Sends the first text once and the second one again and again, until the client leaves.
    Repeat(String, &'static str),
}

/// A socket that answers `/v1/models` as it should, and the `i`-th other request (from 0) as `reply` says to its body;
/// `/metrics` is not there. Serves until the test ends.
pub fn stub(reply: impl Fn(usize, &Value) -> Reply + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut n_asked = 0;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let Some((head, body)) = read_request(&mut reader) else { continue };
            let answer = match head.split(' ').nth(1) {
                Some("/v1/models") => Reply::Close(json("200 OK", r#"{"data": [{"id": "stub"}]}"#)),
                Some("/metrics") => Reply::Close(json("404 Not Found", "{}")),
                _ => {
                    n_asked += 1;
                    reply(n_asked - 1, &body)
                }
            };
            thread::spawn(move || act(reader.into_inner(), answer));
        }
    });
    address
}

/// The head of a request and its body, `null` without any.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = Vec::new();
    reader.take(length.unwrap_or(0)).read_to_end(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).unwrap_or_default()))
}

/// A client that leaves ends it; that is no failure.
fn act(mut stream: TcpStream, reply: Reply) {
    match reply {
        Reply::Close(text) => {
            let _ = stream.write_all(text.as_bytes());
        }
        Reply::Hold(text) => {
            let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.read_to_end(&mut Vec::new()));
        }
        Reply::Repeat(first, then) => {
            let mut sent = stream.write_all(first.as_bytes());
            while sent.is_ok() {
                sent = stream.write_all(then.as_bytes());
            }
        }
    }
}

/// A whole answer.
pub fn json(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// A stream that ends when the connection does.
pub fn events(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n{body}"
    )
}

/// A chunk with text.
pub fn chunk(text: &str) -> String {
    format!("data: {{\"choices\": [{{\"delta\": {{\"content\": \"{text}\"}}}}]}}\n\n")
}

/// The chunks of a whole answer of five tokens.
pub fn whole_answer() -> String {
    [
        &*chunk("one "),
        ": keep-alive\n\n",
        &*chunk("two").replace('\n', "\r\n"),
        "data: {\"choices\": [{\"delta\": {}, \"finish_reason\": \"stop\"}]}\n\n",
        "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 5}}\n\n",
        "data: [DONE]\n\n",
    ]
    .concat()
}
