//! Forms of answers: JSON, of any kind or of a schema, as masks over the vocabulary.
//!
//! A schema is compiled once per request and followed token by token; both are bounded in work and memory, because schemas come
//! from strangers. White space between the parts of a document is left out, so that no answer can consist of it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use dsde_engine::{Constraint, ConstraintError, Grammar, Vocabulary as _};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::{CallFormat, ReasoningFormat, Tokenizer};
use crate::error::Error;

mod calls;

use calls::Lark;
pub use calls::{Function, Thoughts};

/// Longest schema, bytes of compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Longest grammar of calls, bytes; the schemas of all functions are part of it.
pub const CALLS_BYTES_MAX: usize = 4 * SCHEMA_BYTES_MAX;
/// Most states of a schema's lexer, about 2 KiB each; the answers of a request share them.
const LEXER_STATES_MAX: usize = 4000;
/// Most symbols of a schema's grammar.
const GRAMMAR_SIZE_MAX: usize = 50_000;

/// Compiles schemas for one vocabulary.
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
        let len = schema.to_string().len();
        if len > SCHEMA_BYTES_MAX {
            return Err(failed(format!("the schema must have at most {SCHEMA_BYTES_MAX} bytes, got {len}")));
        }
        let Some(fields) = schema.as_object_mut() else {
            return Err(failed("the schema must be an object"));
        };
        // Also replaces what a stranger may have put there.
        fields.insert("x-guidance".to_owned(), json!({"whitespace_flexible": false}));
        if thoughts == Thoughts::None {
            return self.compiled(TopLevelGrammar::from_json_schema(schema));
        }
        let token = |marker: &str| self.markers.get(marker).copied();
        self.compiled(TopLevelGrammar::from_lark(Lark::new(thoughts, &token).json(&schema)))
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

    fn compiled(&self, grammar: TopLevelGrammar) -> Result<Arc<dyn Grammar>, Error> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        matcher.compute_mask().map_err(failed)?;
        Ok(Arc::new(Compiled(Mutex::new(matcher))))
    }
}

fn failed(reason: impl fmt::Display) -> Error {
    Error::Grammar { reason: reason.to_string() }
}

/// A schema before any answer.
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

/// A schema as far as an answer has followed it.
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
        Grammars::new(&embedded::tokenizer(), &embedded::target().config().eos_tokens).unwrap()
    }

    /// How much of a text the schema lets pass, token by token, and whether the answer may end there.
    fn followed(schema: Value, text: &str) -> (String, bool) {
        follows(grammars().json_schema(schema, Thoughts::None).unwrap().begin(), text)
    }

    fn follows(mut constraint: Box<dyn Constraint>, text: &str) -> (String, bool) {
        let tokenizer = embedded::tokenizer();
        let eos = embedded::target().config().eos_tokens[0];
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
}
