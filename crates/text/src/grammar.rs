//! Forms of answers as masks over the vocabulary: JSON, of any kind or of a schema, and what a regular expression, a list of
//! texts or a grammar describes.
//!
//! A form is compiled once and followed token by token by every answer; both are bounded in work and memory, because forms come from
//! strangers. White space between the parts of a document is left out, so that no answer can consist of it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use dsde_engine::{Constraint, ConstraintError, Grammar, Vocabulary as _};
use llguidance::api::{GrammarInit, GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Cancelled, Matcher, ParserFactory};
use serde_json::{Value, json};

use super::{CallFormat, Tokenizer};
use crate::error::Error;

mod calls;
mod gbnf;
mod lark;
mod outline;
mod schema;
#[cfg(test)]
mod tests;
mod watch;
mod work;

use calls::Lark;
pub use calls::{Function, Thoughts};
pub use outline::Outline;
use watch::Watched;

/// Longest schema, bytes of compact JSON; longest regular expression, grammar, or list of texts, bytes.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Longest grammar of calls, bytes; the schemas of all functions are part of it.
pub const CALLS_BYTES_MAX: usize = 4 * SCHEMA_BYTES_MAX;
/// Most states of a schema's lexer, about 2 KiB each; every answer has its own.
const LEXER_STATES_MAX: usize = 4000;
/// Most symbols of a schema's grammar.
const GRAMMAR_SIZE_MAX: usize = 50_000;

/// Most brackets of a grammar that are open at once.
const OPEN_MAX: usize = 1000;
/// Stack for compiling, bytes, which is used up by rules that refer to each other in a chain: 64 KiB hold some 8000 of them, and
/// each takes some KiB in a debug build. Only what is used becomes memory.
const STACK_BYTES: usize = 256 << 20;
/// Before a schema in a grammar.
const SCHEMA_RULE: &str = "%json";
/// Name of a form that something may come before.
const FORM: &str = "form";
/// Before what the library says of a schema that stands in a grammar.
const SCHEMA_FAULT: &str = "failed to compile JSON schema: ";
/// Longest reason that is repeated, characters.
const REASON_MAX: usize = 300;

/// Compiles forms for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    outline: Outline,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars")
    }
}

impl Grammars {
    /// * `eos_tokens`: end an answer; at least one.
    ///
    /// # Errors
    /// If nothing ends an answer.
    pub fn new(tokenizer: &Tokenizer, eos_tokens: &[u32]) -> Result<Self, Error> {
        let outline = Outline::new(tokenizer, eos_tokens);
        let words: Vec<Vec<u8>> =
            (0..outline.vocab_len).map(|token| tokenizer.token_bytes(token).to_vec()).collect();
        Self::of_words(outline, &words)
    }

    /// Compiles for as many tokens with the same ends and markers, but one for each byte and no others: what a form takes is nearly
    /// that of the whole vocabulary, which takes a tenth of a second to prepare.
    ///
    /// # Errors
    /// As [`Grammars::new`].
    pub fn of_bytes(mut outline: Outline) -> Result<Self, Error> {
        let words = outline.byte_words();
        Self::of_words(outline, &words)
    }

    fn of_words(outline: Outline, words: &[Vec<u8>]) -> Result<Self, Error> {
        let first =
            *outline.eos_tokens.first().ok_or_else(|| failed("no token of the model ends an answer"))?;
        let trie = TokTrie::from(&TokRxInfo::new(outline.vocab_len, first), words)
            .with_eos_tokens(&outline.eos_tokens);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(failed)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = LEXER_STATES_MAX;
        limits.max_grammar_size = GRAMMAR_SIZE_MAX;
        limits.verbose_errors = false;
        // It can be given more than it counts, and cannot be stopped.
        limits.precompute_large_lexemes = false;
        Ok(Self { factory, outline })
    }

    /// What forms are compiled for, without its texts.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// A JSON object of any kind.
    ///
    /// # Errors
    /// As [`Grammars::json_schema`].
    pub fn json_object(&self, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        self.json_schema(json!({"type": "object"}), thoughts)
    }

    /// JSON of a schema.
    ///
    /// * `thoughts`: what may come before it.
    ///
    /// # Errors
    /// If the schema is no object or too long, says what is not supported, or takes too much to compile.
    pub fn json_schema(&self, mut schema: Value, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        check_len("schema", schema.to_string().len())?;
        let Some(fields) = schema.as_object_mut() else {
            return Err(failed("the schema must be an object"));
        };
        // Also replaces what a stranger may have put there.
        fields.insert("x-guidance".to_owned(), json!({"whitespace_flexible": false, "coerce_one_of": true}));
        prepare(&mut schema).map_err(failed)?;
        let form = GrammarWithLexer::from_json_schema(schema.clone());
        self.compiled(self.behind(thoughts, form), &[schema], Source::Schemas)
    }

    /// What a regular expression matches as a whole, with or without anchors at its ends.
    ///
    /// # Errors
    /// If it is too long, is none, looks around or back, or takes too much to compile.
    pub fn regex(&self, regex: &str, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        check_len("regular expression", regex.len())?;
        self.compiled(
            self.behind(thoughts, GrammarWithLexer::from_regex(without_anchors(regex))),
            &[],
            Source::Text,
        )
    }

    /// One of some texts.
    ///
    /// # Errors
    /// If there are none, one is empty, or they are too long together.
    pub fn choice(&self, texts: &[String], thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            return Err(failed("a choice is between at least one text, and none of them is empty"));
        }
        check_len("list of texts", texts.iter().map(String::len).sum())?;
        let texts: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
        let lark = format!("start: TEXT\nTEXT: {}\n", texts.join(" | "));
        self.compiled(self.behind(thoughts, GrammarWithLexer::from_lark(lark)), &[], Source::Text)
    }

    /// What a grammar describes, written for llama.cpp (GBNF, which has `::=`) or in llguidance's variant of Lark.
    ///
    /// # Errors
    /// If it is too long, is none, or takes too much to compile.
    pub fn grammar(&self, text: &str, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        check_len("grammar", text.len())?;
        let lark = if gbnf::is_gbnf(text) { gbnf::to_lark(text).map_err(failed)? } else { text.to_owned() };
        lark::check(&lark).map_err(failed)?;
        let mut n_open = 0_usize;
        for byte in lark.bytes() {
            match byte {
                b'(' | b'[' | b'{' => n_open += 1,
                b')' | b']' | b'}' => n_open = n_open.saturating_sub(1),
                _ => {}
            }
            if n_open > OPEN_MAX {
                return Err(failed(format!("at most {OPEN_MAX} brackets may be open at once")));
            }
        }
        let schemas = schemas_within(&lark);
        for schema in &schemas {
            let mut kept = schema.clone();
            check_schema(&mut kept).map_err(failed)?;
            if kept != *schema {
                return Err(failed(
                    "bounds of numbers beyond 2^53, and exclusive ones of 0 beside another, must be in a schema of its own",
                ));
            }
        }
        self.compiled(self.behind(thoughts, GrammarWithLexer::from_lark(lark)), &schemas, Source::Text)
    }

    /// One call of a function, or several if they may be parallel and the format knows that; their arguments are of the
    /// functions' schemas.
    ///
    /// # Errors
    /// As [`Grammars::json_schema`]; the bound on length is of all schemas together.
    pub fn calls(
        &self,
        format: CallFormat,
        functions: &[Function],
        are_parallel: bool,
        thoughts: Thoughts,
    ) -> Result<Arc<dyn Grammar>, Error> {
        let mut functions = functions.to_vec();
        for function in &mut functions {
            let prepared = function.parameters.as_mut().map_or(Ok(()), prepare);
            prepared.map_err(|reason| {
                failed(format!("parameters of the function '{}': {reason}", function.name))
            })?;
        }
        let token = |marker: &str| self.outline.marker(marker);
        let lark = Lark::new(thoughts, &token).calls(format, &functions, are_parallel);
        if lark.len() > CALLS_BYTES_MAX {
            return Err(failed(format!(
                "the schemas of all functions together must have at most {CALLS_BYTES_MAX} bytes, got {}",
                lark.len()
            )));
        }
        let schemas: Vec<Value> = functions.into_iter().filter_map(|function| function.parameters).collect();
        self.compiled(TopLevelGrammar::from_lark(lark), &schemas, Source::Schemas)
    }

    /// A form behind what may come before it.
    fn behind(&self, thoughts: Thoughts, form: GrammarWithLexer) -> TopLevelGrammar {
        if thoughts == Thoughts::None {
            return TopLevelGrammar::from_grammar(form);
        }
        let token = |marker: &str| self.outline.marker(marker);
        let whole = GrammarWithLexer::from_lark(Lark::new(thoughts, &token).form(FORM));
        let form = GrammarWithLexer { name: Some(FORM.to_owned()), ..form };
        TopLevelGrammar { grammars: vec![whole, form], max_tokens: None }
    }

    /// * `schemas`: all that are part of it.
    fn compiled(
        &self,
        grammar: TopLevelGrammar,
        schemas: &[Value],
        source: Source,
    ) -> Result<Arc<dyn Grammar>, Error> {
        let compile = || {
            if !schemas.iter().all(schema::patterns_fit) {
                return Err(failed(
                    "too many or too long patterns of its schema must hold at once (allOf, $ref)",
                ));
            }
            let environment = self.factory.tok_env().clone();
            let read = GrammarInit::Serialized(grammar)
                .to_internal(Some(environment), self.factory.limits().clone());
            let (rules, lexer) = read.map_err(|error| failed(told(&error.to_string())))?;
            // Proposals are followed and taken back.
            if !lexer.can_rollback() {
                return Err(failed(
                    "`stop` and `max_tokens` of rules are not supported; `suffix` and `lazy` are",
                ));
            }
            if !work::fits(lexer.regex_builder.exprset(), source) {
                return Err(failed(
                    "its expressions are too large or may go on in too many ways: too many of them must hold at once (&) or must not \
                     (~), or too many parts in a row may be left out",
                ));
            }
            let parser = self.factory.create_parser_from_init_default(GrammarInit::Internal(rules, lexer));
            let mut followed = Followed::of(Matcher::new(parser).into_cancellable());
            followed.call(Matcher::compute_mask).map_err(failed)?;
            Ok(followed.matcher)
        };
        let matcher = thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            // Not the form's fault, so no error of it.
            let compiling =
                builder.spawn_scoped(scope, compile).expect("compiling needs a thread and its stack");
            compiling.join().unwrap_or_else(|_| Err(failed("it cannot be compiled")))
        })?;
        Ok(Arc::new(Compiled(Mutex::new(matcher))))
    }
}

/// Makes a schema one that can be followed, if it can be.
fn prepare(schema: &mut Value) -> Result<(), String> {
    schema::drop_annotations(schema);
    check_schema(schema)
}

/// Refuses a schema that the library would follow elsewhere, or at too high a price; and keeps its numbers.
fn check_schema(schema: &mut Value) -> Result<(), String> {
    schema::keep_references(schema)?;
    schema::keep_small(schema)?;
    schema::keep_numbers(schema)
}

/// What a form was written as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Schemas,
    /// An expression or a grammar.
    Text,
}

/// Schemas that a grammar has among its rules.
fn schemas_within(lark: &str) -> Vec<Value> {
    let begun = lark.match_indices(SCHEMA_RULE).map(|(at, rule)| &lark[at + rule.len()..]);
    // What is no JSON is refused by the library.
    begun.filter_map(|rest| serde_json::Deserializer::from_str(rest).into_iter().next()?.ok()).collect()
}

fn failed(reason: impl fmt::Display) -> Error {
    Error::Grammar { reason: reason.to_string() }
}

fn check_len(what: &str, len: usize) -> Result<(), Error> {
    match len > SCHEMA_BYTES_MAX {
        true => Err(failed(format!("the {what} must have at most {SCHEMA_BYTES_MAX} bytes, got {len}"))),
        false => Ok(()),
    }
}

/// The library's reason without what it tells its own authors.
fn told(reason: &str) -> String {
    if reason.contains("NoExtensionBias") {
        return "no answer can have it".to_owned();
    }
    if reason.contains(&Cancelled.to_string()) {
        return "what may come next takes too long to find".to_owned();
    }
    // Of a schema within a grammar of calls, what is said of the schema, without where that stands.
    let reason = match reason.split_once(SCHEMA_FAULT) {
        Some((_, reason)) => reason.lines().next().unwrap_or_default(),
        None => reason,
    };
    let reason = reason.split("\n<").next().unwrap_or_default().trim();
    let reason =
        reason.replace("Unimplemented keys:", "it has keywords that are not supported:").replace('\n', " ");
    reason.chars().take(REASON_MAX).collect()
}

/// An expression that matches a whole text needs none.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        // A dollar behind an odd number of backslashes is a character.
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()) % 2 == 0 => rest,
        _ => regex,
    }
}

/// A form before any answer, which requests may share.
struct Compiled(Mutex<Matcher>);

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

impl Grammar for Compiled {
    fn begin(&self) -> Box<dyn Constraint> {
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // With states of its own: those of all answers together would reach the limit of one.
        Box::new(Followed::of(matcher.deep_clone()))
    }
}

/// A form as far as an answer has followed it.
struct Followed {
    matcher: Matcher,
    watched: Watched,
}

impl Followed {
    fn of(matcher: Matcher) -> Self {
        let watched = Watched::new(matcher.cancellation_handle().unwrap_or_default());
        Self { matcher, watched }
    }

    /// Calls the library; an answer that was stopped during the call is lost, whatever came of it.
    fn call<T, E: fmt::Display>(
        &mut self,
        work: impl FnOnce(&mut Matcher) -> Result<T, E>,
    ) -> Result<T, String> {
        let result = self.watched.call(|| work(&mut self.matcher));
        match self.matcher.is_cancelled() {
            true => Err(told(&Cancelled.to_string())),
            false => result.map_err(|error| told(&error.to_string())),
        }
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Followed")
    }
}

impl Constraint for Followed {
    fn allow(&mut self, path: &[u32], mask: &mut [u32]) -> Result<bool, ConstraintError> {
        let allowed = self.call(|matcher| {
            let n_consumed = matcher.try_consume_tokens(path)?;
            let allowed = (n_consumed == path.len()).then(|| matcher.compute_mask_or_eos()).transpose();
            matcher.rollback(n_consumed)?;
            allowed
        });
        let Some(allowed) = allowed.map_err(lost)? else {
            return Ok(false);
        };
        self.watched.charge(self.matcher.last_step_stats().map_or(0, |stats| stats.lexer_cost));
        for (word, bits) in mask.iter_mut().zip(allowed.as_slice()) {
            *word = *bits;
        }
        Ok(true)
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<bool, ConstraintError> {
        self.watched.allow_more();
        let n_consumed = self.call(|matcher| matcher.try_consume_tokens(tokens)).map_err(lost)?;
        match n_consumed == tokens.len() {
            true => Ok(self.matcher.is_stopped()),
            false => Err(ConstraintError("a token that was not allowed was emitted".to_owned())),
        }
    }
}

fn lost(reason: impl fmt::Display) -> ConstraintError {
    ConstraintError(reason.to_string())
}
