//! The words of a statement or expression.

use std::ops::Range;

use minijinja::Error;

use super::check;

/// Most words of one statement or expression; published ones stay under 200.
const WORDS_MAX: usize = 4096;

/// A name, number, text, bracket or operator.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) range: Range<usize>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Number,
    Text,
    Open,
    Close,
    Operator,
}

/// The words up to `end`, and where the source goes on behind it.
///
/// # Errors
/// If they are too many.
pub(super) fn words(source: &str, from: usize, end: &str) -> Result<(Vec<Word>, usize), Error> {
    let mut words: Vec<Word> = Vec::new();
    let mut n_open = 0_usize;
    let mut at = from;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        if n_open == 0 {
            let marked = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if marked.starts_with(end) {
                return Ok((words, source.len() - marked.len() + end.len()));
            }
        }
        if at == from && (first == '-' || first == '+') {
            // Says how white space before the tag is treated.
            at += 1;
            continue;
        }
        let (kind, len) = word(rest, first);
        match kind {
            Kind::Open => n_open += 1,
            Kind::Close => n_open = n_open.saturating_sub(1),
            _ => {}
        }
        words.push(Word { range: at..at + len, kind });
        check("words of a template's statement", words.len(), WORDS_MAX)?;
        at += len;
    }
    // Unfinished; the parser says so.
    Ok((words, source.len()))
}

/// Kind and bytes of the word that `rest` begins with.
fn word(rest: &str, first: char) -> (Kind, usize) {
    let run = |is_part: &dyn Fn(char) -> bool| rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    match first {
        '\'' | '"' => (Kind::Text, text_len(rest, first)),
        '(' | '[' | '{' => (Kind::Open, 1),
        ')' | ']' | '}' => (Kind::Close, 1),
        c if c.is_ascii_digit() => (Kind::Number, number_len(rest)),
        c if c.is_alphabetic() || c == '_' => (Kind::Name, run(&|c| c.is_alphanumeric() || c == '_')),
        _ if ["**", "//", "==", "!=", "<=", ">="].iter().any(|two| rest.starts_with(two)) => {
            (Kind::Operator, 2)
        }
        other => (Kind::Operator, other.len_utf8()),
    }
}

/// Bytes of a number without what follows its point; the sign of an exponent belongs to it.
fn number_len(rest: &str) -> usize {
    let run = |from: usize| {
        let end = rest[from..].find(|c: char| !c.is_alphanumeric() && c != '_');
        end.map_or(rest.len(), |end| from + end)
    };
    let len = run(0);
    let is_exponent = rest[..len].ends_with(['e', 'E']) && !rest.starts_with("0x");
    match is_exponent && rest[len..].starts_with(['+', '-']) {
        true => run(len + 1),
        false => len,
    }
}

fn text_len(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
