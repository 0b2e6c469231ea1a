//! The `tojson` filter: Python's `json.dumps` with `ensure_ascii=False`, without the escapes that web pages need.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize as _;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::numbers::python_float;

/// Deepest indentation accepted, in spaces per level.
const INDENT_MAX: usize = 16;

/// `json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)`.
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let ensures_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sorts_keys: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("indent must be at most {INDENT_MAX}")));
    }
    let [comma, colon] = match separators.as_deref() {
        None if indent.is_some() => [",", ": "].map(String::from),
        None => [", ", ": "].map(String::from),
        Some([comma, colon]) => [comma.clone(), colon.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two texts")),
    };
    let format =
        Python { indent, comma, colon, ensures_ascii: ensures_ascii == Some(true), depth: 0, is_empty: true };
    let sorted;
    let value = match sorts_keys {
        Some(true) => {
            sorted = with_sorted_keys(state, value)?;
            &sorted
        }
        _ => value,
    };
    let mut json = Bounded { state, bytes: Vec::new(), n_paid: 0 };
    let written = value.serialize(&mut Serializer::with_formatter(&mut json, format));
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, "tojson failed").with_source(e))?;
    Ok(Value::from(String::from_utf8(json.bytes).expect("JSON of text is UTF-8")))
}

/// Text that is paid for while it grows: a value that holds another many times is longer than it looks.
struct Bounded<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    bytes: Vec<u8>,
    /// Bytes that fuel was taken for.
    n_paid: usize,
}

impl Write for Bounded<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// Twice what the interpreter charges for text: it is written bit by bit.
        const BYTES_PER_FUEL: usize = 32;
        self.bytes.extend_from_slice(bytes);
        let n_unpaid = self.bytes.len() - self.n_paid;
        if n_unpaid >= BYTES_PER_FUEL {
            self.state.consume_fuel((n_unpaid / BYTES_PER_FUEL) as u64).map_err(io::Error::other)?;
            self.n_paid += n_unpaid - n_unpaid % BYTES_PER_FUEL;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn with_sorted_keys(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            keys.sort();
            let pair = |key: Value| Ok((key.clone(), with_sorted_keys(state, &value.get_item(&key)?)?));
            Ok(Value::from_pairs(keys.into_iter().map(pair).collect::<Result<Vec<_>, Error>>()?))
        }
        ValueKind::Seq => {
            let items = value.try_iter()?.map(|item| with_sorted_keys(state, &item));
            Ok(Value::from(items.collect::<Result<Vec<_>, Error>>()?))
        }
        _ => Ok(value.clone()),
    }
}

/// As Python's encoder writes.
struct Python {
    indent: Option<usize>,
    comma: String,
    colon: String,
    ensures_ascii: bool,
    depth: usize,
    /// Whether nothing was written since the last bracket was opened.
    is_empty: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::replace(&mut self.is_empty, false) {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        self.is_empty = false;
        if !is_first {
            writer.write_all(self.comma.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        self.item(writer, is_first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        self.item(writer, is_first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.colon.as_bytes())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ensures_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for c in fragment.chars() {
            // Private characters stand for others here, which are ASCII.
            match c.is_ascii() || super::super::veil::is_private(&c) {
                true => write!(writer, "{c}")?,
                false => {
                    c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        let short = match escape {
            CharEscape::Quote => "\\\"",
            CharEscape::ReverseSolidus => "\\\\",
            CharEscape::Solidus => "/",
            CharEscape::Backspace => "\\b",
            CharEscape::FormFeed => "\\f",
            CharEscape::LineFeed => "\\n",
            CharEscape::CarriageReturn => "\\r",
            CharEscape::Tab => "\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04x}"),
        };
        writer.write_all(short.as_bytes())
    }
}
