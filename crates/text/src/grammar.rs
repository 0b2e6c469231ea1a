//! Forms of answers as masks over the vocabulary: JSON, of any kind or of a schema, and what a regular expression, a list of
//! texts or a grammar describes.
//!
//! A form is compiled once per request and followed token by token; both are bounded in work and memory, because forms come
//! from strangers. White space between the parts of a document is left out, so that no answer can consist of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use dsde_engine::{Constraint, ConstraintError, Grammar, Vocabulary as _};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::{CallFormat, ReasoningFormat, Tokenizer};
use crate::error::Error;

mod calls;
mod gbnf;
mod schema;

use calls::Lark;
pub use calls::{Function, Thoughts};

/// Longest schema, bytes of compact JSON; longest regular expression, grammar, or list of texts, bytes.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Longest grammar of calls, bytes; the schemas of all functions are part of it.
pub const CALLS_BYTES_MAX: usize = 4 * SCHEMA_BYTES_MAX;
/// Most states of a schema's lexer, about 2 KiB each; the answers of a request share them.
const LEXER_STATES_MAX: usize = 4000;
/// Most symbols of a schema's grammar.
const GRAMMAR_SIZE_MAX: usize = 50_000;

/// Most brackets of a grammar that are open at once.
const OPEN_MAX: usize = 1000;
/// Stack for compiling, bytes, which is used up by rules that refer to each other in a chain: 64 KiB hold some 8000 of them, and
/// each takes some KiB in a debug build. Only what is used becomes memory.
const STACK_BYTES: usize = 256 << 20;
/// Name of a form that something may come before.
const FORM: &str = "form";
/// Longest reason that is repeated, characters.
const REASON_MAX: usize = 300;

/// Compiles forms for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    /// Tokens of the markers that have one of their own.
    markers: HashMap<&'static str, u32>,
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
        let vocab_len = tokenizer.vocab_len() as u32;
        let eos_tokens: Vec<u32> = eos_tokens.iter().copied().filter(|&token| token < vocab_len).collect();
        let first = *eos_tokens.first().ok_or_else(|| failed("no token of the model ends an answer"))?;
        let words: Vec<Vec<u8>> = (0..vocab_len).map(|token| tokenizer.token_bytes(token).to_vec()).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab_len, first), &words).with_eos_tokens(&eos_tokens);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(failed)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = LEXER_STATES_MAX;
        limits.max_grammar_size = GRAMMAR_SIZE_MAX;
        limits.verbose_errors = false;
        let markers = ReasoningFormat::ALL.into_iter().flat_map(ReasoningFormat::markers);
        let markers =
            markers.chain(CallFormat::ALL.into_iter().flat_map(|format| format.markers().iter().copied()));
        let markers = markers.filter_map(|marker| Some((marker, tokenizer.token(marker)?))).collect();
        Ok(Self { factory, markers })
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
        schema::drop_annotations(&mut schema);
        self.compiled(self.behind(thoughts, GrammarWithLexer::from_json_schema(schema)))
    }

    /// What a regular expression matches as a whole, with or without anchors at its ends.
    ///
    /// # Errors
    /// If it is too long, is none, looks around or back, or takes too much to compile.
    pub fn regex(&self, regex: &str, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        check_len("regular expression", regex.len())?;
        self.compiled(self.behind(thoughts, GrammarWithLexer::from_regex(without_anchors(regex))))
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
        self.compiled(self.behind(thoughts, GrammarWithLexer::from_lark(lark)))
    }

    /// What a grammar describes, written for llama.cpp (GBNF, which has `::=`) or in llguidance's variant of Lark.
    ///
    /// # Errors
    /// If it is too long, is none, or takes too much to compile.
    pub fn grammar(&self, text: &str, thoughts: Thoughts) -> Result<Arc<dyn Grammar>, Error> {
        check_len("grammar", text.len())?;
        let lark = if gbnf::is_gbnf(text) { gbnf::to_lark(text).map_err(failed)? } else { text.to_owned() };
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
        self.compiled(self.behind(thoughts, GrammarWithLexer::from_lark(lark)))
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
        let token = |marker: &str| self.markers.get(marker).copied();
        let lark = Lark::new(thoughts, &token).calls(format, functions, are_parallel);
        if lark.len() > CALLS_BYTES_MAX {
            return Err(failed(format!(
                "the schemas of all functions together must have at most {CALLS_BYTES_MAX} bytes, got {}",
                lark.len()
            )));
        }
        self.compiled(TopLevelGrammar::from_lark(lark))
    }

    /// A form behind what may come before it.
    fn behind(&self, thoughts: Thoughts, form: GrammarWithLexer) -> TopLevelGrammar {
        if thoughts == Thoughts::None {
            return TopLevelGrammar::from_grammar(form);
        }
        let token = |marker: &str| self.markers.get(marker).copied();
        let whole = GrammarWithLexer::from_lark(Lark::new(thoughts, &token).form(FORM));
        let form = GrammarWithLexer { name: Some(FORM.to_owned()), ..form };
        TopLevelGrammar { grammars: vec![whole, form], max_tokens: None }
    }

    fn compiled(&self, grammar: TopLevelGrammar) -> Result<Arc<dyn Grammar>, Error> {
        let compile = || {
            let mut matcher = Matcher::new(self.factory.create_parser(grammar));
            matcher.compute_mask().map_err(|error| failed(told(&error.to_string())))?;
            Ok(matcher)
        };
        let matcher = thread::scope(|scope| {
            let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let compiling = builder.spawn_scoped(scope, compile).map_err(failed)?;
            compiling.join().unwrap_or_else(|_| Err(failed("it cannot be compiled")))
        })?;
        Ok(Arc::new(Compiled(Mutex::new(matcher))))
    }
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

/// A form before any answer.
struct Compiled(Mutex<Matcher>);

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

impl Grammar for Compiled {
    fn begin(&self) -> Box<dyn Constraint> {
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(Followed(matcher.clone()))
    }
}

/// A form as far as an answer has followed it.
struct Followed(Matcher);

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Followed")
    }
}

impl Constraint for Followed {
    fn allow(&mut self, path: &[u32], mask: &mut [u32]) -> Result<bool, ConstraintError> {
        let n_consumed = self.0.try_consume_tokens(path).map_err(lost)?;
        let allowed = (n_consumed == path.len()).then(|| self.0.compute_mask_or_eos()).transpose();
        self.0.rollback(n_consumed).map_err(lost)?;
        let Some(allowed) = allowed.map_err(lost)? else {
            return Ok(false);
        };
        for (word, bits) in mask.iter_mut().zip(allowed.as_slice()) {
            *word = *bits;
        }
        Ok(true)
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<bool, ConstraintError> {
        let n_consumed = self.0.try_consume_tokens(tokens).map_err(lost)?;
        match n_consumed == tokens.len() {
            true => Ok(self.0.is_stopped()),
            false => Err(ConstraintError("a token that was not allowed was emitted".to_owned())),
        }
    }
}

fn lost(reason: impl fmt::Display) -> ConstraintError {
    ConstraintError(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    fn grammars() -> Grammars {
        Grammars::new(&embedded::tokenizer(), &dsde_checkpoint::embedded::target().config().eos_tokens)
            .unwrap()
    }

    fn followed(schema: Value, text: &str) -> (String, bool) {
        follows(grammars().json_schema(schema, Thoughts::None).unwrap().begin(), text)
    }

    fn follows(mut constraint: Box<dyn Constraint>, text: &str) -> (String, bool) {
        let tokenizer = embedded::tokenizer();
        let eos = dsde_checkpoint::embedded::target().config().eos_tokens[0];
        let mut passed = Vec::new();
        let allowed = |constraint: &mut Box<dyn Constraint>, path: &[u32], token: u32| {
            let mut mask = vec![0; tokenizer.vocab_len().div_ceil(32)];
            let is_path = constraint.allow(path, &mut mask).unwrap();
            is_path && mask[token as usize / 32] >> (token % 32) & 1 == 1
        };
        for token in tokenizer.encode(text).unwrap() {
            if !allowed(&mut constraint, &[], token) {
                break;
            }
            // Looking further changes nothing.
            allowed(&mut constraint, &[token, token, token], token);
            constraint.advance(&[token]).unwrap();
            passed.push(token);
        }
        (tokenizer.decode(&passed), allowed(&mut constraint, &[], eos))
    }

    #[test]
    fn a_schema_lets_pass_what_has_its_form() {
        let schema = json!({
            "type": "object",
            "properties": {"animal": {"enum": ["dog", "cat"]}, "n": {"type": "integer"}},
            "required": ["animal", "n"],
            "additionalProperties": false,
        });
        let good = r#"{"animal":"dog","n":12}"#;
        assert_eq!(followed(schema.clone(), good), (good.to_owned(), true));
        let (passed, may_end) = followed(schema.clone(), r#"{"animal":"cow","n":12}"#);
        assert!(passed.len() < 14 && !may_end, "{passed}");
        let (passed, may_end) = followed(schema, "Sure, here is a dog");
        assert_eq!((passed.as_str(), may_end), ("", false));
    }

    #[test]
    fn schemas_that_make_no_sense_or_too_much_of_it_are_refused() {
        let grammars = grammars();
        for schema in [
            json!([1]),
            json!({"type": "no such type"}),
            json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}),
            json!({"type": "string", "pattern": "(("}),
            json!({"$ref": "#/nowhere"}),
        ] {
            assert!(grammars.json_schema(schema.clone(), Thoughts::None).is_err(), "{schema}");
        }
        assert!(grammars.json_object(Thoughts::None).is_ok());
    }

    fn functions() -> Vec<Function> {
        let parameters = json!({
            "type": "object", "properties": {"x": {"type": "integer"}, "y": {"$ref": "#/$defs/y"}}, "required": ["x"],
            "$defs": {"y": {"enum": ["a", "b"]}},
        });
        vec![
            Function { name: "f".to_owned(), parameters: Some(parameters) },
            Function { name: "g".to_owned(), parameters: None },
        ]
    }

    #[track_caller]
    fn check_call(format: CallFormat, are_parallel: bool, thoughts: Thoughts, text: &str, is_whole: bool) {
        let grammar = grammars().calls(format, &functions(), are_parallel, thoughts).unwrap();
        let (passed, may_end) = follows(grammar.begin(), text);
        assert_eq!((passed == text, may_end), (is_whole, is_whole), "{text}: {passed}");
    }

    #[test]
    fn calls_have_the_format_of_the_model_and_the_schema_of_the_function() {
        use CallFormat::{Hermes, Llama, Mistral, MistralNamed};
        let none = Thoughts::None;
        let f = r#"<tool_call>
{"name": "f", "arguments": {"x": 12, "y": "b"}}
</tool_call>"#;
        let g = "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
        check_call(Hermes, false, none, f, true);
        check_call(Hermes, false, none, g, true);
        check_call(Hermes, true, none, &format!("{f}\n{g}"), true);
        check_call(Hermes, false, none, &format!("{f}\n{g}"), false);
        check_call(Hermes, true, none, &f.replace("12", "\"x\""), false);
        check_call(Hermes, true, none, &f.replace("\"f\"", "\"h\""), false);
        check_call(Hermes, true, none, &f.replace("\"y\": \"b\"", "\"z\": 1"), false);
        check_call(Llama, true, none, r#"{"name": "f", "parameters": {"x": 1}}"#, true);
        check_call(
            Mistral,
            true,
            none,
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]"#,
            true,
        );
        check_call(MistralNamed, true, none, r#"[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[ARGS]{}"#, true);
    }

    #[test]
    fn thoughts_may_come_before_a_form() {
        use CallFormat::Hermes;
        let format = ReasoningFormat::Think;
        let call = "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
        let thought = format!("<think>\nI could call f.\n</think>\n\n{call}");
        check_call(Hermes, false, Thoughts::Possible(format), &thought, true);
        check_call(Hermes, false, Thoughts::Possible(format), call, true);
        check_call(Hermes, false, Thoughts::None, &thought, false);
        let begun = thought.strip_prefix("<think>").unwrap();
        check_call(Hermes, false, Thoughts::Begun(format), begun, true);
        let grammar = grammars().calls(Hermes, &functions(), false, Thoughts::Begun(format)).unwrap();
        assert_eq!(follows(grammar.begin(), "No end."), ("No end.".to_owned(), false));
        let json = "{\"a\":1}";
        for (thoughts, text) in [
            (Thoughts::Begun(format), format!("Hm.</think>\n{json}")),
            (Thoughts::Possible(format), format!("<think>Hm.</think>{json}")),
            (Thoughts::Possible(format), json.to_owned()),
        ] {
            let grammar = grammars().json_object(thoughts).unwrap();
            assert_eq!(follows(grammar.begin(), &text), (text.clone(), true), "{text}");
        }
    }

    #[test]
    fn forms_and_calls_of_messages_have_headers() {
        use CallFormat::Harmony;
        let (possible, begun) = (Thoughts::POSSIBLE_HARMONY, Thoughts::BEGUN_HARMONY);
        let thoughts = "I could call f.<|end|><|start|>assistant";
        let header = "<|channel|>analysis<|message|>";
        let call =
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"x\": 12, \"y\": \"b\"}";
        for (thoughts, text) in [
            (possible, call.to_owned()),
            (possible, format!("{header}{thoughts}{call}")),
            (begun, format!("{thoughts}{call}")),
        ] {
            check_call(Harmony, true, thoughts, &text, true);
            check_call(Harmony, true, thoughts, &text.replace("functions.f", "functions.h"), false);
            check_call(Harmony, true, thoughts, &text.replace("12", "true"), false);
        }
        let grammar = grammars().json_object(possible).unwrap();
        for (text, is_whole) in [
            (format!("{header}{thoughts}<|channel|>final<|message|>{{\"a\":1}}"), true),
            ("<|channel|>final<|message|>{\"a\":1}".to_owned(), true),
            ("{\"a\":1}".to_owned(), false),
        ] {
            let (passed, may_end) = follows(grammar.begin(), &text);
            assert_eq!((passed == text, may_end), (is_whole, is_whole), "{text}: {passed}");
        }
        // An answer that goes on in the last message is the form alone.
        let grammar = grammars().json_object(Thoughts::None).unwrap();
        assert_eq!(follows(grammar.begin(), "{}"), ("{}".to_owned(), true));
    }

    #[test]
    fn markers_that_are_tokens_are_those_tokens() {
        let mut grammars = grammars();
        let token = 1;
        grammars.markers.insert("<tool_call>", token);
        let mut constraint =
            grammars.calls(CallFormat::Hermes, &functions(), false, Thoughts::None).unwrap().begin();
        let mut mask = vec![0; embedded::tokenizer().vocab_len().div_ceil(32)];
        assert!(constraint.allow(&[], &mut mask).unwrap());
        let n_allowed: u32 = mask.iter().map(|word| word.count_ones()).sum();
        assert!(n_allowed == 1 && mask[0] == 1 << token, "{n_allowed}");
        assert!(!constraint.advance(&[token]).unwrap());
        let rest = "\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
        assert_eq!(follows(constraint, rest), (rest.to_owned(), true));
    }

    #[track_caller]
    fn check(grammar: Result<Arc<dyn Grammar>, Error>, whole: &[&str], broken: &[&str]) {
        let grammar = grammar.unwrap();
        for text in whole {
            assert_eq!(follows(grammar.begin(), text), ((*text).to_owned(), true), "{text}");
        }
        for text in broken {
            assert_ne!(follows(grammar.begin(), text), ((*text).to_owned(), true), "{text}");
        }
    }

    #[test]
    fn expressions_match_whole_answers() {
        let grammars = grammars();
        check(grammars.regex("[a-c]{2}/[0-9]+", Thoughts::None), &["ab/12"], &["ab/", "abc/1", "xab/12"]);
        check(grammars.regex("^(yes|no)$", Thoughts::None), &["yes", "no"], &["yesno", "maybe"]);
        check(grammars.regex("a\\$", Thoughts::None), &["a$"], &["a"]);
    }

    #[test]
    fn a_choice_is_one_of_its_texts() {
        let texts = ["a dog", "a dog's \"home\"\n", "ä"].map(str::to_owned);
        check(
            grammars().choice(&texts, Thoughts::None),
            &["a dog", "a dog's \"home\"\n", "ä"],
            &["a", "a dogs", "a dog a dog"],
        );
    }

    #[test]
    fn grammars_may_be_written_in_two_ways() {
        let grammars = grammars();
        let lark = "start: item (\", \" item)*\nitem: WORD | \"[\" start \"]\"\nWORD: /[a-z]+/\n";
        let gbnf =
            "# a list\nroot ::= item (\", \" item)*\nitem ::= word\n  | \"[\" root \"]\"\nword ::= [a-z]+";
        for text in [lark, gbnf] {
            check(grammars.grammar(text, Thoughts::None), &["a", "a, [b, [c]], d"], &["a,b", "[a", "A"]);
        }
        let flat = "root ::= (\"if\" | [a-z]+) \"!\"? ws\nws ::= [ \\t]*";
        check(grammars.grammar(flat, Thoughts::None), &["if", "ifx!", "ix  "], &["!", "if!!"]);
        let json = r#"root ::= value
value ::= object | string | [0-9]+ | ("true" | "false") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
string ::= "\"" ([^"\\\x00-\x1F] | "\\" ["\\/bfnrt])* "\"" ws
ws ::= [ \t\n]{0,3}"#;
        check(
            grammars.grammar(json, Thoughts::None),
            &[r#"{"a": {"b\"": 12}, "c":true}"#, "{}"],
            &["{", r#"{"a":}"#],
        );
    }

    #[test]
    fn forms_that_make_no_sense_or_too_much_of_it_are_refused_in_plain_words() {
        let grammars = grammars();
        let refused = |form: Result<Arc<dyn Grammar>, Error>, message: &str| {
            let got = form.unwrap_err().to_string();
            assert!(got.contains(message), "{got}");
            assert!(!["verbose", "NoExtension", "backtrace"].iter().any(|word| got.contains(word)), "{got}");
            assert!(got.len() < 500, "{got}");
        };
        refused(grammars.json_schema(json!({"$ref": "#"}), Thoughts::None), "no answer can have it");
        refused(
            grammars.json_schema(json!({"contains": {"type": "null"}}), Thoughts::None),
            "keywords that are not supported",
        );
        refused(grammars.regex("((", Thoughts::None), "");
        refused(grammars.regex("(?=a)b", Thoughts::None), "");
        refused(grammars.regex(&"(".repeat(60_000), Thoughts::None), "");
        refused(grammars.regex(&"a".repeat(70_000), Thoughts::None), "at most 65536 bytes");
        refused(grammars.choice(&[], Thoughts::None), "at least one text");
        refused(grammars.choice(&[String::new()], Thoughts::None), "none of them is empty");
        refused(grammars.grammar("start: nothing\n", Thoughts::None), "");
        refused(grammars.grammar("start: start\n", Thoughts::None), "");
        refused(grammars.grammar("root ::= root", Thoughts::None), "");
        refused(grammars.grammar("", Thoughts::None), "");
        refused(
            grammars.grammar(&format!("start: {}", "(".repeat(60_000)), Thoughts::None),
            "brackets may be open",
        );
        // Compiled lazily or refused, but at once.
        let _ = grammars.regex("(((a{1,1000}){1,1000}){1,1000}){1,1000}b", Thoughts::None);
        let chain: String = (0..5000).map(|i| format!("a{i}:a{}\n", i + 1)).collect();
        let _ = grammars.grammar(&format!("start: a0\n{chain}a5000: \"x\"\n"), Thoughts::None);
        let chain: String = (0..5000).map(|i| format!("A{i}:A{}\n", i + 1)).collect();
        let _ = grammars.grammar(&format!("start: A0\n{chain}A5000: \"x\"\n"), Thoughts::None);
    }

    #[test]
    fn annotations_are_no_reason_to_refuse() {
        let set =
            json!({"type": "array", "items": {"type": "string", "format": "path"}, "uniqueItems": true});
        assert_eq!(followed(set, r#"["a","a"]"#), (r#"["a","a"]"#.to_owned(), true));
        for format in schema::FORMATS {
            assert!(
                grammars().json_schema(json!({"type": "string", "format": format}), Thoughts::None).is_ok(),
                "{format}"
            );
        }
    }
}
