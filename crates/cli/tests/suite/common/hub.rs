//! A Hub on this machine, and the other host that has its large files.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest as _, Sha256};

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// What lets in.
pub const TOKEN: &str = "hf_secret17";

/// A file of the repository `org/model`.
#[derive(Clone)]
pub struct File {
    pub name: String,
    pub content: Vec<u8>,
    /// Whether it lies on the other host.
    pub is_large: bool,
}

impl File {
    pub fn small(name: &str, content: &[u8]) -> Self {
        Self { name: name.to_owned(), content: content.to_vec(), is_large: false }
    }

    pub fn large(name: &str, content: &[u8]) -> Self {
        Self { is_large: true, ..Self::small(name, content) }
    }

    /// The name of its blob.
    pub fn etag(&self) -> String {
        let digits: String = Sha256::digest(&self.content).iter().map(|byte| format!("{byte:02x}")).collect();
        if self.is_large { digits } else { digits[..40].to_owned() }
    }
}

/// What the other host does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Ends one answer after so many bytes.
    CutOnce(usize),
    /// The same, and is down from then on.
    CutAndDown(usize),
    Down,
    /// Sends another content.
    Wrong,
    /// Sends everything whatever range was asked for.
    IgnoresRanges,
}

/// The Hub and the other host; both serve until the test ends.
pub struct Hub {
    /// Address of the Hub.
    pub endpoint: String,
    /// Requests to the Hub.
    pub asked: Heads,
    /// Requests to the other host.
    pub asked_other: Heads,
    fault: Arc<Mutex<Fault>>,
}

/// Heads of requests.
pub type Heads = Arc<Mutex<Vec<String>>>;

impl Hub {
    pub fn start(files: &[File]) -> Self {
        let fault = Arc::new(Mutex::new(Fault::None));
        let (large, state) = (files.to_vec(), fault.clone());
        let (other, asked_other) = serve(move |head| other_answer(head, &large, &state));
        let files = files.to_vec();
        let (address, asked) = serve(move |head| hub_answer(head, &files, other));
        Self { endpoint: format!("http://{address}"), asked, asked_other, fault }
    }

    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock().expect("nobody panicked") = fault;
    }

    /// Requests so far, to both hosts.
    pub fn n_asked(&self) -> usize {
        [&self.asked, &self.asked_other]
            .map(|heads| heads.lock().expect("nobody panicked").len())
            .iter()
            .sum()
    }
}

/// An answer to each head of a request.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (heads, answer) = (Heads::default(), Arc::new(answer));
    let asked = heads.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (heads, answer) = (heads.clone(), answer.clone());
            thread::spawn(move || converse(stream, &heads, &*answer));
        }
    });
    (address, asked)
}

/// A client that leaves ends it; that is no failure.
fn converse(mut stream: TcpStream, heads: &Heads, answer: &dyn Fn(&str) -> Vec<u8>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    heads.lock().ok()?.push(head.clone());
    let mut answer = answer(&head);
    if head.starts_with("HEAD ") {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        answer.truncate(end + 4);
    }
    stream.write_all(&answer).ok()
}

fn hub_answer(head: &str, files: &[File], other: SocketAddr) -> Vec<u8> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/api/models/org/private/") && !head.contains(&format!("Bearer {TOKEN}\r\n")) {
        let said = "X-Error-Message: Access to model org/private is restricted.\r\n";
        return reply("401 Unauthorized", said, b"Invalid username or password.");
    }
    if ["model", "private"].iter().any(|name| path == format!("/api/models/org/{name}/revision/main")) {
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({"rfilename": file.name})).collect();
        let listing = serde_json::json!({"sha": COMMIT, "siblings": siblings, "private": false});
        return reply("200 OK", "", listing.to_string().as_bytes());
    }
    let resolved =
        ["/org/model/resolve/", "/org/private/resolve/"].iter().find_map(|root| path.strip_prefix(root));
    let direct = path.strip_prefix("/api/resolve-cache/models/org/model/");
    let named = resolved.or(direct).and_then(|path| path.strip_prefix(&format!("{COMMIT}/")));
    match named.and_then(|name| files.iter().find(|file| file.name == name)) {
        None => reply("404 Not Found", "", br#"{"error": "Repository not found"}"#),
        Some(file) if file.is_large => {
            let (etag, size, name) = (file.etag(), file.content.len(), &file.name);
            let announced = format!(
                "X-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {size}\r\nETag: \"other\"\r\n\
                 Location: http://{other}/{name}?Signature=signature17\r\n"
            );
            reply("302 Found", &announced, b"Found. Redirecting.")
        }
        Some(file) if direct.is_none() => {
            let location =
                format!("Location: /api/resolve-cache/models/org/model/{COMMIT}/{}\r\n", file.name);
            reply("307 Temporary Redirect", &location, b"")
        }
        Some(file) => reply("200 OK", &format!("ETag: W/\"{}\"\r\n", file.etag()), &file.content),
    }
}

fn other_answer(head: &str, files: &[File], state: &Mutex<Fault>) -> Vec<u8> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let name = path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let Some(file) = files.iter().find(|file| file.name == name) else {
        return reply("404 Not Found", "", b"");
    };
    let mut fault = state.lock().expect("nobody panicked");
    let from = head.to_lowercase().lines().find_map(|line| {
        let range = line.strip_prefix("range: bytes=")?;
        range.strip_suffix('-')?.parse::<usize>().ok()
    });
    let from = from.filter(|_| *fault != Fault::IgnoresRanges);
    let mut content = file.content[from.unwrap_or(0)..].to_vec();
    if *fault == Fault::Wrong {
        content[0] ^= 1;
    }
    let size = file.content.len();
    let mut answer = match from {
        Some(from) => reply(
            "206 Partial Content",
            &format!("Content-Range: bytes {from}-{}/{size}\r\n", size - 1),
            &content,
        ),
        None => reply("200 OK", "", &content),
    };
    let unsent = |n_bytes: usize| content.len().saturating_sub(n_bytes);
    match *fault {
        Fault::CutOnce(n_bytes) => {
            answer.truncate(answer.len() - unsent(n_bytes));
            *fault = Fault::None;
        }
        Fault::CutAndDown(n_bytes) => {
            answer.truncate(answer.len() - unsent(n_bytes));
            *fault = Fault::Down;
        }
        Fault::Down => answer = reply("503 Service Unavailable", "", b"down"),
        Fault::None | Fault::Wrong | Fault::IgnoresRanges => {}
    }
    answer
}

/// A whole answer.
fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
