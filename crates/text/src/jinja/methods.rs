//! Methods of Python's texts, lists and numbers that chat templates call; what is not here comes from the interpreter's own set.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::TEXT_BYTES_MAX;

/// Widest text that padding makes, in characters.
const WIDTH_MAX: usize = 1 << 16;

/// Calls a method that the interpreter does not know.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let known = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(text, method, args)?,
        (_, ValueKind::Seq | ValueKind::Iterable) => of_list(state, value, method, args)?,
        (_, ValueKind::Map) if method == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        (_, ValueKind::Number) if method == "is_integer" => {
            let () = from_args(args)?;
            Some(f64::try_from(value.clone())?.fract().eq(&0.0).into())
        }
        _ => None,
    };
    known.map_or_else(|| unknown_method_callback(state, value, method, args), Ok)
}

fn of_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "split" => split(text, args, Side::Left)?,
        "rsplit" => split(text, args, Side::Right)?,
        "partition" => partition(text, args, Side::Left)?,
        "rpartition" => partition(text, args, Side::Right)?,
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "strip" => stripped(text, args, &[Side::Left, Side::Right])?,
        "lstrip" => stripped(text, args, &[Side::Left])?,
        "rstrip" => stripped(text, args, &[Side::Right])?,
        "zfill" => zero_filled(text, args)?,
        "ljust" => padded(text, args, |missing| (0, missing))?,
        "rjust" => padded(text, args, |missing| (missing, 0))?,
        "center" => {
            let (width, _): (usize, Option<&str>) = from_args(args)?;
            // Python gives the odd space to the left where the width is odd, too.
            padded(text, args, |missing| {
                let left = missing / 2 + (missing & width & 1);
                (left, missing - left)
            })?
        }
        "find" | "index" => found(method, text, args, |text, what| text.find(what))?,
        "rfind" | "rindex" => found(method, text, args, |text, what| text.rfind(what))?,
        "count" => {
            let (what, part) = part(text, args)?;
            let n = part.map_or(0, |(part, _)| match what.as_str() {
                "" => part.chars().count() + 1,
                what => part.matches(what).count(),
            });
            n.into()
        }
        "startswith" | "endswith" => match args {
            [_] => return Ok(None),
            _ => {
                let (what, part) = part(text, args)?;
                let part = part.map_or("", |(part, _)| part);
                let is_there =
                    if method == "startswith" { part.starts_with(&what) } else { part.ends_with(&what) };
                is_there.into()
            }
        },
        _ => return without_arguments(text, method, args),
    }))
}

fn without_arguments(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let is_some_and_all = |is: &dyn Fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let value = match method {
        "casefold" => text.to_lowercase().replace('ß', "ss").into(),
        "swapcase" => {
            let mut swapped = String::with_capacity(text.len());
            for c in text.chars() {
                match c.is_uppercase() {
                    true => swapped.extend(c.to_lowercase()),
                    false => swapped.extend(c.to_uppercase()),
                }
            }
            swapped.into()
        }
        "title" => titled(text).into(),
        "istitle" => (text.chars().any(|c| c.is_uppercase()) && titled(text) == text).into(),
        "isdecimal" => is_some_and_all(&|c| c.is_ascii_digit()).into(),
        "isdigit" => is_some_and_all(&|c| c.is_ascii_digit() || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c)).into(),
        "isprintable" => text.chars().all(|c| !c.is_control() && (c == ' ' || !c.is_whitespace())).into(),
        "isidentifier" => {
            let is_word = is_some_and_all(&|c| c.is_alphanumeric() || c == '_');
            (is_word && !text.starts_with(|c: char| c.is_numeric())).into()
        }
        "splitlines" => {
            let (keeps_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keeps_ends = keeps_ends.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            return Ok(Some(lines(text, keeps_ends).into_iter().map(Value::from).collect()));
        }
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            let size = size.unwrap_or(8);
            if text.matches('\t').count().saturating_mul(size) > TEXT_BYTES_MAX {
                return Err(failed("the text would become too long"));
            }
            return Ok(Some(tabs_expanded(text, size).into()));
        }
        _ => return Ok(None),
    };
    let () = from_args(args)?;
    Ok(Some(value))
}

fn of_list(
    state: &State<'_, '_>,
    list: &Value,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    if matches!(method, "index" | "count") {
        state.consume_fuel(list.len().unwrap_or_default() as u64)?;
    }
    match method {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(list.clone()))
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let place = list.try_iter()?.position(|item| item == *what);
            place.map(|place| Some(place.into())).ok_or_else(|| failed("this value is not in the list"))
        }
        _ => Ok(None),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// `split` from the left, `rsplit` from the right.
fn split(text: &str, args: &[Value], from: Side) -> Result<Value, Error> {
    let (sep, max, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let named: Option<String> = kwargs.get("sep")?;
    let sep = sep.or(named.as_deref());
    let max: Option<i64> = max.or(kwargs.get("maxsplit")?);
    kwargs.assert_all_used()?;
    let n_parts =
        max.and_then(|max| usize::try_from(max).ok()).map_or(usize::MAX, |max| max.saturating_add(1));
    let parts: Vec<&str> = match (sep, from) {
        (Some(""), _) => return Err(failed("the separator must not be empty")),
        (Some(sep), Side::Left) => text.splitn(n_parts, sep).collect(),
        (Some(sep), Side::Right) => reversed(text.rsplitn(n_parts, sep).collect()),
        (None, Side::Left) => words(text, n_parts),
        (None, Side::Right) => last_words(text, n_parts),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn reversed(mut parts: Vec<&str>) -> Vec<&str> {
    parts.reverse();
    parts
}

/// At most `n_parts` words, the last of which is the rest.
fn words(text: &str, n_parts: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() + 1 == n_parts { None } else { rest.find(is_space) };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    parts
}

/// At most `n_parts` words, the first of which is the rest.
fn last_words(text: &str, n_parts: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let space = if parts.len() + 1 == n_parts { None } else { rest.rfind(is_space) };
        let start = space.map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    reversed(parts)
}

/// Python's white space: Unicode's and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn partition(text: &str, args: &[Value], from: Side) -> Result<Value, Error> {
    let (sep,): (&str,) = from_args(args)?;
    if sep.is_empty() {
        return Err(failed("the separator must not be empty"));
    }
    let cut = match from {
        Side::Left => text.split_once(sep),
        Side::Right => text.rsplit_once(sep),
    };
    let parts = match (cut, from) {
        (Some((before, after)), _) => [before, sep, after],
        (None, Side::Left) => [text, "", ""],
        (None, Side::Right) => ["", "", text],
    };
    Ok(Value::from_object(Tuple::from(parts.map(Value::from))))
}

fn stripped(text: &str, args: &[Value], sides: &[Side]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let is_cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let mut text = text;
    if sides.contains(&Side::Left) {
        text = text.trim_start_matches(is_cut);
    }
    if sides.contains(&Side::Right) {
        text = text.trim_end_matches(is_cut);
    }
    Ok(text.into())
}

fn zero_filled(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (usize,) = from_args(args)?;
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let missing = missing(text, width)?;
    Ok(format!("{sign}{}{digits}", "0".repeat(missing)).into())
}

/// * `sides`: how many of the missing characters stand on the left and on the right.
fn padded(text: &str, args: &[Value], sides: impl Fn(usize) -> (usize, usize)) -> Result<Value, Error> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let (left, right) = sides(missing(text, width)?);
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(failed("the fill must be one character"));
    }
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(right)).into())
}

fn missing(text: &str, width: usize) -> Result<usize, Error> {
    match width <= WIDTH_MAX {
        true => Ok(width.saturating_sub(text.chars().count())),
        false => Err(failed("the width is too large")),
    }
}

/// A text to look for, and the part of `text` in which to look with the number of characters before it.
#[expect(clippy::type_complexity, reason = "a part and its place")]
fn part<'a>(text: &'a str, args: &[Value]) -> Result<(String, Option<(&'a str, usize)>), Error> {
    let (what, start, end): (String, Option<i64>, Option<i64>) = from_args(args)?;
    if start.is_none() && end.is_none() {
        return Ok((what, Some((text, 0))));
    }
    let len = text.chars().count();
    let index = |at: i64| match usize::try_from(at) {
        Ok(at) => at.min(len),
        Err(_) => len.saturating_sub(at.unsigned_abs() as usize),
    };
    let (start, end) = (start.map_or(0, index), end.map_or(len, index));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((what, (start <= end).then(|| (&text[byte(start)..byte(end)], start))))
}

/// Place of a text, in characters; where there is none, `find` says -1 and `index` fails.
fn found(
    method: &str,
    text: &str,
    args: &[Value],
    find: impl Fn(&str, &str) -> Option<usize>,
) -> Result<Value, Error> {
    let (what, part) = part(text, args)?;
    let place =
        part.and_then(|(part, before)| find(part, &what).map(|byte| before + part[..byte].chars().count()));
    match place {
        Some(place) => Ok(place.into()),
        None if method.ends_with("find") => Ok((-1).into()),
        None => Err(failed("substring not found")),
    }
}

fn titled(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut is_inside = false;
    for c in text.chars() {
        match is_inside {
            true => titled.extend(c.to_lowercase()),
            false => titled.extend(c.to_uppercase()),
        }
        is_inside = c.is_alphabetic();
    }
    titled
}

fn lines(text: &str, keeps_ends: bool) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ENDS).unwrap_or(rest.len());
        let after = match rest[end..].starts_with("\r\n") {
            true => end + 2,
            false => end + rest[end..].chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keeps_ends { after } else { end }]);
        rest = &rest[after..];
    }
    lines
}

fn tabs_expanded(text: &str, size: usize) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let n = size - column % size;
                expanded.push_str(&" ".repeat(n));
                column += n;
            }
            '\t' => {}
            c => {
                expanded.push(c);
                column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
            }
        }
    }
    expanded
}

fn failed(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
