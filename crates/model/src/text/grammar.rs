//! Forms of answers: JSON, of any kind or of a schema, as masks over the vocabulary.
//!
//! A schema is compiled once per request and followed token by token; both are bounded in work and memory, because schemas come
//! from strangers. White space between the parts of a document is left out, so that no answer can consist of it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use dsde_engine::{Constraint, ConstraintError, Grammar, Vocabulary as _};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::Tokenizer;
use crate::error::Error;

/// Longest schema, bytes of compact JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Most states of a schema's lexer, about 2 KiB each; the answers of a request share them.
const LEXER_STATES_MAX: usize = 4000;
/// Most symbols of a schema's grammar.
const GRAMMAR_SIZE_MAX: usize = 50_000;

/// Compiles schemas for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
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
        Ok(Self { factory })
    }

    /// A JSON object of any kind.
    ///
    /// # Errors
    /// As [`Grammars::json_schema`].
    pub fn json_object(&self) -> Result<Arc<dyn Grammar>, Error> {
        self.json_schema(json!({"type": "object"}))
    }

    /// JSON of a schema.
    ///
    /// # Errors
    /// If the schema is no object or too long, says what is not supported, or takes too much to compile.
    pub fn json_schema(&self, mut schema: Value) -> Result<Arc<dyn Grammar>, Error> {
        let len = schema.to_string().len();
        if len > SCHEMA_BYTES_MAX {
            return Err(failed(format!("the schema must have at most {SCHEMA_BYTES_MAX} bytes, got {len}")));
        }
        let Some(fields) = schema.as_object_mut() else {
            return Err(failed("the schema must be an object"));
        };
        // Also replaces what a stranger may have put there.
        fields.insert("x-guidance".to_owned(), json!({"whitespace_flexible": false}));
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let mut matcher = Matcher::new(parser);
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
        let tokenizer = embedded::tokenizer();
        let eos = embedded::target().config().eos_tokens[0];
        let mut constraint = grammars().json_schema(schema).unwrap().begin();
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
            assert!(grammars.json_schema(schema.clone()).is_err(), "{schema}");
        }
        assert!(grammars.json_object().is_ok());
    }
}
