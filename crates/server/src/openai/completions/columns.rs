//! Log-probabilities as `/v1/completions` writes them: a list for each property, one entry per token.

use dsde_engine::Vocabulary as _;
use dsde_sampling::TokenLogprobs;
use dsde_text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::openai::tokens::token_text;

/// The lists, while they grow.
pub(super) struct Columns<'a> {
    tokenizer: &'a Tokenizer,
    /// Characters of the choice's text before the next token.
    offset: usize,
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl<'a> Columns<'a> {
    /// Empty lists of what begins `offset` characters into the text.
    pub(super) fn new(tokenizer: &'a Tokenizer, offset: usize) -> Self {
        let (tokens, token_logprobs) = (Vec::new(), Vec::new());
        Self { tokenizer, offset, tokens, token_logprobs, top_logprobs: Vec::new(), text_offset: Vec::new() }
    }

    /// Appends a prompt; of its first token nobody asks how probable it was.
    ///
    /// * `text`: the prompt as it is repeated, in which special tokens stand or not.
    /// * `scored`: one per token but the first.
    pub(super) fn push_prompt(&mut self, tokens: &[u32], text: &str, scored: &[TokenLogprobs]) {
        let scores = std::iter::once(None).chain(scored.iter().map(Some));
        let mut rest = text;
        for (&token, score) in tokens.iter().zip(scores) {
            let (shown, _) = token_text(self.tokenizer, token);
            let is_special = !self.tokenizer.special_bytes(token).is_empty();
            let after = rest.strip_prefix(shown.as_str());
            self.push(token, score, !is_special || after.is_some());
            rest = after.unwrap_or(rest);
        }
        self.offset = text.chars().count();
    }

    /// Appends a token.
    ///
    /// * `is_shown`: whether it is part of the text.
    pub(super) fn push(&mut self, token: u32, score: Option<&TokenLogprobs>, is_shown: bool) {
        let text = |token| token_text(self.tokenizer, token).0;
        let top = |score: &TokenLogprobs| {
            // The token itself is always there, so that nobody has to look for it twice.
            let entries = score.top.iter().copied().chain([(token, score.logprob)]);
            entries.map(|(token, logprob)| (text(token), json!(logprob))).collect()
        };
        let shown = text(token);
        self.text_offset.push(self.offset);
        self.token_logprobs.push(score.map(|score| score.logprob));
        self.top_logprobs.push(score.map(top));
        self.offset += if is_shown { shown.chars().count() } else { 0 };
        self.tokens.push(shown);
    }

    /// `null` without tokens.
    pub(super) fn finish(self) -> Value {
        let Self { tokens, token_logprobs, top_logprobs, text_offset, .. } = self;
        match tokens.is_empty() {
            true => Value::Null,
            false => json!({
                "tokens": tokens, "token_logprobs": token_logprobs, "top_logprobs": top_logprobs,
                "text_offset": text_offset,
            }),
        }
    }
}
