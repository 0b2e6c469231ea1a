//! The source of a template before it is compiled: bounded, and in the words that the interpreter knows.
//!
//! What Jinja2 has and the interpreter lacks is written in other words: `{% generation %}`, a tag with which training marks what
//! the assistant wrote, becomes a block that only opens a scope; `a % b`, which formats where `a` is a text, becomes
//! `(a) | MODULO(b)`; sums and products of lists, which the interpreter only promises, become lists at once with
//! `(a + b) | LISTED`; and a sign `+` goes. Lines end with a line feed, and one that follows `{% raw %}` stays. Texts, comments
//! and raw parts are not touched otherwise.
//!
//! The parser follows operators, filters and blocks by recursion, so both are counted here first.

mod words;

use std::ops::Range;

use minijinja::{Error, ErrorKind};

use words::{Kind, Word, words};

/// The filter that does what Python's `%` does.
pub(super) const MODULO: &str = "__modulo";
/// The filter that makes a list of what is only going to be one.
pub(super) const LISTED: &str = "__listed";
/// Longest template, in bytes; published ones stay under 50 kB.
pub(super) const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Most blocks inside each other, every `elif` of an open one counted; published templates nest ten.
const BLOCKS_MAX: usize = 512;
/// Statements that contain others. `set` does where it assigns nothing.
const BLOCKS: [&str; 9] =
    ["if", "for", "macro", "call", "filter", "with", "block", "autoescape", "generation"];
/// Words that end a product.
const KEYWORDS: [&str; 10] = ["and", "or", "not", "in", "if", "else", "elif", "for", "set", "recursive"];

/// A template as the interpreter takes it.
///
/// # Errors
/// If it exceeds the bounds.
pub(super) fn prepared(source: &str) -> Result<String, Error> {
    check("bytes of a template", source.len(), SOURCE_BYTES_MAX)?;
    let source = &source.replace("\r\n", "\n").replace('\r', "\n");
    let mut edits = Vec::new();
    let mut blocks = Vec::new();
    let mut at = 0;
    while let Some(open) = next_tag(source, at) {
        if source[open..].starts_with("{#") {
            at = source[open..].find("#}").map_or(source.len(), |end| open + end + 2);
            continue;
        }
        let is_block = source[open..].starts_with("{%");
        let (words, end) = words(source, open + 2, if is_block { "%}" } else { "}}" })?;
        at = end;
        let text = |word: Option<&Word>| word.map_or("", |word| &source[word.range.clone()]);
        match text(words.first()) {
            "raw" if is_block => {
                if source[at..].starts_with('\n') && !source[..at].ends_with("-%}") {
                    edits.push((at..at, "\n".to_string()));
                }
                at = after_raw(source, at);
            }
            name if is_block => {
                nest(&mut blocks, name, !words.iter().any(|word| &source[word.range.clone()] == "="))?;
                if let ("generation" | "endgeneration", [word]) = (name, words.as_slice()) {
                    edits.push((word.range.clone(), name.replace("generation", "with")));
                }
            }
            _ => {}
        }
        edit_operations(source, &words, &mut edits);
        let signs = (0..words.len()).filter(|&i| is_sign(source, &words, i)).map(|i| words[i].range.clone());
        edits.extend(signs.filter(|sign| source[sign.clone()] == *"+").map(|sign| (sign, String::new())));
    }
    Ok(edited(source, edits))
}

fn check(what: &str, got: usize, max: usize) -> Result<(), Error> {
    match got <= max {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::SyntaxError, format!("{what} must be at most {max}, got {got}"))),
    }
}

/// Start of the next `{{`, `{%` or `{#`.
fn next_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let is_tag = |&at: &usize| bytes[at] == b'{' && matches!(bytes[at + 1], b'{' | b'%' | b'#');
    (from..bytes.len().saturating_sub(1)).find(is_tag)
}

/// End of a raw part whose text begins at `from`.
fn after_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(open) = source[at..].find("{%").map(|open| at + open) {
        let inner = source[open + 2..].trim_start_matches(['-', '+']).trim_start();
        let Some(rest) = inner.strip_prefix("endraw") else {
            at = open + 2;
            continue;
        };
        let after = source.len() - rest.len();
        return source[after..].find("%}").map_or(source.len(), |end| after + end + 2);
    }
    source.len()
}

/// Keeps count of the blocks that are open, and of the branches of each.
fn nest(blocks: &mut Vec<usize>, name: &str, assigns_nothing: bool) -> Result<(), Error> {
    match name {
        "elif" => blocks.last_mut().into_iter().for_each(|branches| *branches += 1),
        _ if name.starts_with("end") => drop(blocks.pop()),
        _ if BLOCKS.contains(&name) || (name == "set" && assigns_nothing) => blocks.push(1),
        _ => {}
    }
    check("nested blocks of a template", blocks.iter().sum(), BLOCKS_MAX)
}

/// A sum or product that is being read between two brackets.
#[derive(Default)]
struct Chain {
    /// Where it begins.
    start: Option<usize>,
    /// Whether it may be one of lists: it adds or multiplies, and no text.
    is_of_lists: bool,
    has_text: bool,
    /// Whether its last factor is the right side of a `%`.
    is_modulo: bool,
}

/// What is being read between two brackets.
#[derive(Default)]
struct Level {
    sum: Chain,
    product: Chain,
}

impl Chain {
    /// Closes the right side of a `%`.
    fn close_modulo(&mut self, end: usize, edits: &mut Vec<(Range<usize>, String)>) {
        if std::mem::take(&mut self.is_modulo) {
            edits.push((end..end, ")".to_string()));
        }
    }

    fn close(&mut self, end: usize, edits: &mut Vec<(Range<usize>, String)>) {
        let Self { start, is_of_lists, has_text, .. } = *self;
        self.close_modulo(end, edits);
        if let Some(start) = start.filter(|_| is_of_lists && !has_text) {
            edits.push((start..start, "(".to_string()));
            edits.push((end..end, format!(") | {LISTED}")));
        }
        *self = Self::default();
    }
}

impl Level {
    fn begin(&mut self, at: usize) {
        self.sum.start.get_or_insert(at);
        self.product.start.get_or_insert(at);
    }

    fn close(&mut self, end: usize, edits: &mut Vec<(Range<usize>, String)>) {
        self.product.close(end, edits);
        self.sum.close(end, edits);
    }
}

/// Writes every `a % b` as a filter, and passes sums and products that may be lists through one.
///
/// Both group from the left, so what stands before an operator is bracketed as a whole. `~` binds tighter than a sum and less
/// tightly than a product.
fn edit_operations(source: &str, words: &[Word], edits: &mut Vec<(Range<usize>, String)>) {
    let mut levels = vec![Level::default()];
    let mut last_end = words.first().map_or(0, |word| word.range.start);
    for (i, word) in words.iter().enumerate() {
        let text = &source[word.range.clone()];
        let level = levels.last_mut().expect("the outermost level is never closed");
        match word.kind {
            Kind::Open => {
                level.begin(word.range.start);
                levels.push(Level::default());
            }
            Kind::Close => {
                level.close(last_end, edits);
                if levels.len() > 1 {
                    levels.pop();
                }
            }
            Kind::Operator if matches!(text, "." | "|" | "**") || is_sign(source, words, i) => {
                level.begin(word.range.start);
            }
            Kind::Operator => operate(level, text, &word.range, last_end, edits),
            Kind::Name if KEYWORDS.contains(&text) && !is_test(source, words, i) => {
                level.close(last_end, edits);
            }
            Kind::Name | Kind::Number | Kind::Text => {
                level.begin(word.range.start);
                level.product.has_text |= word.kind == Kind::Text;
                level.sum.has_text |= word.kind == Kind::Text;
            }
        }
        last_end = word.range.end;
    }
    levels.iter_mut().for_each(|level| level.close(last_end, edits));
}

/// * `end`: of the word before the operator.
fn operate(
    level: &mut Level,
    operator: &str,
    range: &Range<usize>,
    end: usize,
    edits: &mut Vec<(Range<usize>, String)>,
) {
    match operator {
        "%" => {
            level.product.close_modulo(end, edits);
            let start = level.product.start.unwrap_or(range.start);
            edits.push((start..start, "(".to_string()));
            edits.push((range.clone(), format!(") | {MODULO}(")));
            level.product.is_modulo = true;
        }
        "*" | "/" | "//" => {
            level.product.close_modulo(end, edits);
            level.product.is_of_lists |= operator == "*";
        }
        "+" | "-" | "~" => {
            level.product.close(end, edits);
            level.sum.is_of_lists |= operator == "+";
        }
        _ => level.close(end, edits),
    }
}

/// Whether word `i` is the sign of a number and not an operation.
fn is_sign(source: &str, words: &[Word], i: usize) -> bool {
    let is_plus_or_minus = matches!(&source[words[i].range.clone()], "+" | "-");
    let before = i.checked_sub(1).map(|before| &words[before]);
    let ends_operand = before.is_some_and(|word| match word.kind {
        Kind::Name => !KEYWORDS.contains(&&source[word.range.clone()]),
        Kind::Number | Kind::Text | Kind::Close => true,
        Kind::Open | Kind::Operator => false,
    });
    is_plus_or_minus && !ends_operand
}

/// Whether word `i` belongs to a test: `is not x`, `is in x`, or is an attribute's name.
fn is_test(source: &str, words: &[Word], i: usize) -> bool {
    let text = |n: usize| i.checked_sub(n).map_or("", |before| &source[words[before].range.clone()]);
    matches!(text(1), "is" | ".") || (text(1) == "not" && text(2) == "is")
}

/// The source with its edits, which may touch each other but do not overlap.
fn edited(source: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    // At one place, what closes comes before what opens.
    edits.sort_by_key(|(range, text)| (range.start, range.end, text == "("));
    let mut text = String::with_capacity(source.len() + 16 * edits.len());
    let mut at = 0;
    for (range, new) in edits {
        text.push_str(&source[at..range.start]);
        text.push_str(&new);
        at = range.end;
    }
    text.push_str(&source[at..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_prepared(source: &str, expected: &str) {
        let got = prepared(source).unwrap().replace(MODULO, "M").replace(LISTED, "L");
        assert_eq!(got, expected, "{source}");
    }

    #[test]
    fn modulo_is_a_filter_over_the_whole_product() {
        check_prepared("{{ a % b }}", "{{ (a ) | M( b) }}");
        check_prepared("{{ x + '%s' % y.z | f(1) + 1 }}", "{{ x + ('%s' ) | M( y.z | f(1)) + 1 }}");
        check_prepared("{{ a * b % c % d / e }}", "{{ (((a * b ) | M( c) ) | M( d) / e) | L }}");
        check_prepared("{{ -a % -b == 1 }}", "{{ (-a ) | M( -b) == 1 }}");
        check_prepared("{{ f('%s' % (a, b % c)) }}", "{{ f(('%s' ) | M( (a, (b ) | M( c)))) }}");
        check_prepared("{{ 1.5e-3 % 2 }}", "{{ (1.5e-3 ) | M( 2) }}");
        check_prepared("{%- if a % 2 is not none -%}", "{%- if (a ) | M( 2 is not none) -%}");
        check_prepared("{% set x = not a % 2 if b else c %}", "{% set x = not (a ) | M( 2) if b else c %}");
        check_prepared("{{ {'a': b % c}[d % e] }}", "{{ {'a': (b ) | M( c)}[(d ) | M( e)] }}");
    }

    #[test]
    fn sums_and_products_of_lists_are_lists_at_once() {
        check_prepared("{{ a + b }}", "{{ (a + b) | L }}");
        check_prepared(
            "{{ a + b * c ~ d - e == f + 1 }}",
            "{{ (a + (b * c) | L ~ d - e) | L == (f + 1) | L }}",
        );
        check_prepared(
            "{{ a + 'x' + b }}{{ '-' * n }}{{ a - b }}",
            "{{ a + 'x' + b }}{{ '-' * n }}{{ a - b }}",
        );
        check_prepared("{% for x in a + b[i + 1] if c %}", "{% for x in (a + b[(i + 1) | L]) | L if c %}");
        check_prepared("{% set x, y = a+b, c %}", "{% set x, y = (a+b) | L, c %}");
    }

    #[test]
    fn what_is_no_code_stays() {
        for source in [
            "100 % {# {{ a % b }} #} {{ 'a % b' }} {{ \"}}\" }} %}",
            "{% raw %}{{ a % b }}{% generation %}{%- endraw -%} x",
            "{{ unfinished % ",
            "{# unfinished {{ a % b }}",
        ] {
            let expected = source.replace("unfinished % ", "(unfinished ) | M( )");
            let got = prepared(source).unwrap().replace(MODULO, "M");
            assert!(got == source || got.replace(' ', "") == expected.replace(' ', ""), "{got}");
        }
        check_prepared("{{ {'a': {}} }}{{ a % b }}", "{{ {'a': {}} }}{{ (a ) | M( b) }}");
    }

    #[test]
    fn generation_only_opens_a_scope() {
        check_prepared("{%- generation -%} a {%+ endgeneration %}", "{%- with -%} a {%+ endwith %}");
        check_prepared(
            "{{ generation }}{% set generation = 1 %}",
            "{{ generation }}{% set generation = 1 %}",
        );
    }

    #[test]
    fn signs_and_line_ends_are_as_in_jinja2() {
        check_prepared("{{ +1 }}{{ a - -b - +c }}", "{{ 1 }}{{ a - -b - c }}");
        check_prepared("a\r\nb\rc", "a\nb\nc");
        check_prepared("{% raw %}\n{{ +1 }}{% endraw %}\n", "{% raw %}\n\n{{ +1 }}{% endraw %}\n");
        check_prepared("{% raw -%}\n{% endraw %}", "{% raw -%}\n{% endraw %}");
    }

    #[test]
    fn long_and_deep_sources_are_refused() {
        let refused = |source: &str| prepared(source).expect_err("too much").to_string();
        let long = refused(&"a".repeat(SOURCE_BYTES_MAX + 1));
        assert!(long.ends_with("bytes of a template must be at most 1048576, got 1048577"), "{long}");
        let words = refused(&format!("{{{{ 1{} }}}}", "+1".repeat(3000)));
        assert!(words.contains("words of a template's statement must be at most 4096"), "{words}");
        let blocks = refused(&"{% if a %}".repeat(513));
        assert!(blocks.contains("nested blocks of a template must be at most 512, got 513"), "{blocks}");
        let chain = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(600));
        assert!(refused(&chain).contains("nested blocks"));
        assert!(prepared(&"{% if a %}{% endif %}".repeat(2000)).is_ok());
    }
}
