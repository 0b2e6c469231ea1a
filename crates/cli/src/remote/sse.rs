//! Server-sent events from bytes, as the WHATWG HTML standard defines them (section 9.2.6), with bounds.

use std::collections::VecDeque;

/// Longest line and longest event, bytes: far above any chunk of an answer.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// What some servers put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type, where the server names one.
    pub(crate) name: Option<String>,
    /// Its data; lines are joined by `\n`.
    pub(crate) data: String,
}

/// A line or an event longer than any server has reason to send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct TooLong;

/// Turns bytes, cut anywhere, into events. Comments, ids and retry times are skipped.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The event that has not ended yet.
    event: Event,
    has_data: bool,
    /// The last byte ended a line as `\r`; a `\n` now belongs to it.
    is_after_return: bool,
    is_begun: bool,
    ready: VecDeque<Event>,
}

impl Events {
    /// Reads on.
    ///
    /// # Errors
    /// If a line or an event is too long; nothing more can be read then.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        for &byte in bytes {
            let is_second_half = byte == b'\n' && std::mem::take(&mut self.is_after_return);
            match byte {
                _ if is_second_half => {}
                b'\n' | b'\r' => {
                    self.is_after_return = byte == b'\r';
                    self.end_line()?;
                }
                _ => {
                    self.is_after_return = false;
                    self.line.push(byte);
                }
            }
            if self.line.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(())
    }

    /// The next whole event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// The bytes have ended. An event without the blank line behind it counts: some servers close the connection instead.
    ///
    /// # Errors
    /// If it is too long.
    pub(crate) fn finish(&mut self) -> Result<(), TooLong> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        self.end_event();
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), TooLong> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.is_begun, true) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.is_empty() {
            self.end_event();
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => self.event.name = Some(value.to_owned()),
            _ => {}
        }
        if self.event.data.len() > EVENT_BYTES_MAX { Err(TooLong) } else { Ok(()) }
    }

    fn end_event(&mut self) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            self.ready.push_back(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of `n_bytes` and expects events of these names and data.
    #[track_caller]
    fn check(text: &str, n_bytes: usize, expected: &[(Option<&str>, &str)]) {
        let mut events = Events::default();
        for piece in text.as_bytes().chunks(n_bytes) {
            events.push(piece).unwrap();
        }
        events.finish().unwrap();
        let got: Vec<Event> = std::iter::from_fn(|| events.next()).collect();
        let got: Vec<_> = got.iter().map(|event| (event.name.as_deref(), event.data.as_str())).collect();
        assert_eq!(got, expected, "in pieces of {n_bytes}");
    }

    #[test]
    fn events_do_not_depend_on_where_bytes_are_cut() {
        let text = "\u{FEFF}data: {\"a\": \"é\"}\n\n: keep-alive\r\n\r\nevent: error\r\ndata:x\r\ndata: y\r\n\r\n\
                    id: 3\nretry: 10\nunknown\n\ndata\n\ndata:  two\r\rdata: [DONE]\n";
        let expected =
            [(None, "{\"a\": \"é\"}"), (Some("error"), "x\ny"), (None, ""), (None, " two"), (None, "[DONE]")];
        for n_bytes in 1..text.len() {
            check(text, n_bytes, &expected);
        }
    }

    #[test]
    fn events_are_there_as_soon_as_they_are_whole() {
        let mut events = Events::default();
        events.push(b"data: 1\r\n\r").unwrap();
        assert_eq!(events.next().unwrap().data, "1");
        events.push(b"\ndata: 2\n").unwrap();
        assert_eq!(events.next(), None);
        events.push(b"\n").unwrap();
        assert_eq!(events.next().unwrap().data, "2");
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let mut events = Events::default();
        assert_eq!(events.push(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(TooLong));
        let mut events = Events::default();
        let line = format!("data: {}\n", "x".repeat(1 << 20));
        assert!((0..5).any(|_| events.push(line.as_bytes()) == Err(TooLong)));
    }
}
