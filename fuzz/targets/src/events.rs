//! Server-sent events, which other servers send.

#[allow(dead_code, clippy::unwrap_used, reason = "a part of the program, which is no library")]
#[path = "../../../crates/cli/src/remote/sse.rs"]
mod sse;

use sse::{Event, Events, TooLong};

/// However a stream is cut, the same events come of it.
pub fn events(bytes: &[u8]) {
    let whole = read(bytes, bytes.len().max(1));
    for len in [1, 2, 7] {
        assert_eq!(whole, read(bytes, len), "in pieces of {len} bytes");
    }
}

fn read(bytes: &[u8], len: usize) -> Result<Vec<Event>, TooLong> {
    let mut events = Events::default();
    let mut got = Vec::new();
    for piece in bytes.chunks(len) {
        events.push(piece)?;
        got.extend(std::iter::from_fn(|| events.next()));
    }
    events.finish()?;
    got.extend(std::iter::from_fn(|| events.next()));
    Ok(got)
}
