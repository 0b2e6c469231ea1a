//! Forms of answers: JSON schemas, regular expressions, grammars, lists of texts, calls of functions.

use std::panic::resume_unwind;
use std::sync::{Arc, LazyLock};
use std::thread;

use dsde_checkpoint::embedded::target;
use dsde_engine::{Constraint, Grammar, Vocabulary as _};
use dsde_text::{CallFormat, Function, Grammars, ReasoningFormat, Thoughts, Tokenizer, embedded};
use regex::Regex;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::input::{head_and_body, sections};

/// Most tokens of an answer.
const TOKENS_MAX: usize = 40;
/// Tokens by which a mask is held against what it is a mask of, per step.
const PROBES: usize = 4;
/// Stack of the thread that follows forms in a server, bytes: Rust's default.
const STACK_BYTES: usize = 2 << 20;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(embedded::tokenizer);
static END: LazyLock<u32> = LazyLock::new(|| target().config().eos_tokens[0]);
static GRAMMARS: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(&TOKENIZER, &[*END]).expect("the embedded model ends its answers"));

/// What an answer is to be.
enum Asked<'a> {
    Schema(Value),
    Regex(&'a str),
    Grammar(&'a str),
    Choice(Vec<String>),
    Calls(CallFormat, Vec<Function>),
}

/// A form is refused or can be followed: its mask has a token, and exactly those that may follow; looking ahead changes nothing; an
/// answer that follows it to the end has the form.
///
/// Input: a line of words, `schema`, `regex`, `grammar`, `choice` or `calls`, for calls `hermes`, `llama`, `mistral` or `named`, and
/// `think` or `begun` for thoughts; below it the form; behind a line of dashes the choices of tokens, one per byte.
pub fn form(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = head_and_body(&text);
    let words: Vec<&str> = head.split_whitespace().collect();
    let mut sections = sections(rest);
    let Some(asked) = Asked::read(&words, sections.next().unwrap_or_default()) else { return };
    let choices = sections.next().unwrap_or("0aA~0aA~").as_bytes();
    let thoughts = match () {
        () if words.contains(&"think") => Thoughts::Possible(ReasoningFormat::Think),
        () if words.contains(&"begun") => Thoughts::Begun(ReasoningFormat::Think),
        () => Thoughts::None,
    };
    let Some(grammar) = asked.compiled(thoughts) else { return };
    let answer = thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let following = thread.spawn_scoped(scope, || follow(&*grammar, choices)).expect("a thread starts");
        following.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    if let (Some(answer), Thoughts::None) = (answer, thoughts) {
        asked.assert_met(&answer);
    }
}

impl<'a> Asked<'a> {
    fn read(words: &[&str], text: &'a str) -> Option<Self> {
        let format = words.iter().find_map(|word| match *word {
            "llama" => Some(CallFormat::Llama),
            "mistral" => Some(CallFormat::Mistral),
            "named" => Some(CallFormat::MistralNamed),
            _ => None,
        });
        match *words.first()? {
            "schema" => serde_json::from_str(text).ok().map(Self::Schema),
            "regex" => Some(Self::Regex(text)),
            "grammar" => Some(Self::Grammar(text)),
            "choice" => Some(Self::Choice(text.lines().map(str::to_owned).collect())),
            "calls" => Some(Self::Calls(format.unwrap_or(CallFormat::Hermes), functions(text)?)),
            _ => None,
        }
    }

    fn compiled(&self, thoughts: Thoughts) -> Option<Arc<dyn Grammar>> {
        let compiled = match self {
            Self::Schema(schema) => GRAMMARS.json_schema(schema.clone(), thoughts),
            Self::Regex(regex) => GRAMMARS.regex(regex, thoughts),
            Self::Grammar(text) => GRAMMARS.grammar(text, thoughts),
            Self::Choice(texts) => GRAMMARS.choice(texts, thoughts),
            Self::Calls(format, functions) => GRAMMARS.calls(*format, functions, true, thoughts),
        };
        compiled.ok()
    }

    fn assert_met(&self, answer: &[u8]) {
        let answer = str::from_utf8(answer).expect("an answer is text");
        match self {
            Self::Schema(_) => {
                // Numbers of any size are JSON.
                let read = serde_json::from_str::<IgnoredAny>(answer);
                read.unwrap_or_else(|error| panic!("{answer:?}: {error}"));
            }
            // A comment would reach over the end.
            Self::Regex(regex) if !regex.contains('#') => {
                if let Ok(regex) = Regex::new(&format!(r"\A(?:{regex})\z")) {
                    assert!(regex.is_match(answer), "{answer:?} does not match {regex}");
                }
            }
            Self::Choice(texts) => assert!(texts.iter().any(|text| text == answer), "{answer:?}"),
            Self::Regex(_) | Self::Grammar(_) | Self::Calls(..) => {}
        }
    }
}

/// Of a list of objects with `name` and `parameters`; `None` if there are none or a name is none.
fn functions(text: &str) -> Option<Vec<Function>> {
    let list: Value = serde_json::from_str(text).ok()?;
    let function = |value: &Value| {
        let name = value["name"].as_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()))?;
        Some(Function { name: name.to_owned(), parameters: value.get("parameters").cloned() })
    };
    list.as_array().filter(|list| !list.is_empty())?.iter().map(function).collect()
}

/// Walks through a form, and returns the answer if it came to an end. A limit on work may end the walk.
fn follow(grammar: &dyn Grammar, choices: &[u8]) -> Option<Vec<u8>> {
    let mut constraint = grammar.begin();
    let mut answer = Vec::new();
    for step in 0..TOKENS_MAX {
        let mask = mask(&mut *constraint, &[])?.expect("nothing may always follow");
        let allowed: Vec<u32> =
            (0..TOKENIZER.vocab_len() as u32).filter(|&token| has(&mask, token)).collect();
        assert!(
            !allowed.is_empty(),
            "an answer that can neither go on nor end: {}",
            String::from_utf8_lossy(&answer)
        );
        let choice = |i: usize| usize::from(*choices.iter().cycle().nth(step + i).unwrap_or(&0));
        for i in 0..PROBES {
            let token = (choice(i) * 151 + i * 977 + step) % TOKENIZER.vocab_len();
            let may_follow = self::mask(&mut *constraint, &[token as u32])?.is_some();
            assert_eq!(may_follow, has(&mask, token as u32), "token {token} behind {answer:?}");
        }
        let again = self::mask(&mut *constraint, &[])?;
        assert!(Some(&mask) == again.as_ref(), "looking ahead changed what may follow");
        let token = allowed[choice(0) * allowed.len() / 256];
        let is_over = constraint.advance(&[token]).ok()?;
        if token == *END {
            return Some(answer);
        }
        answer.extend(TOKENIZER.token_bytes(token));
        if is_over {
            return Some(answer);
        }
    }
    None
}

/// What may follow a path; `Some(None)` if the path itself may not.
fn mask(constraint: &mut dyn Constraint, path: &[u32]) -> Option<Option<Vec<u32>>> {
    let mut mask = vec![0; TOKENIZER.vocab_len().div_ceil(32)];
    let is_allowed = constraint.allow(path, &mut mask).ok()?;
    assert!(is_allowed || mask.iter().all(|word| *word == 0));
    Some(is_allowed.then_some(mask))
}

fn has(mask: &[u32], token: u32) -> bool {
    mask[token as usize / 32] >> (token % 32) & 1 == 1
}
