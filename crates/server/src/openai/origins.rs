//! Where the tokens of an answer came from; asked for by the field `token_origins`.

use dsde_engine::{EmittedToken, Origin, Vocabulary as _};
use dsde_text::Tokenizer;
use serde_json::{Value, json};

use super::tokens::token_text;

/// The value of `token_origins` for one part of a choice: an entry per token.
pub(crate) fn origins(tokenizer: &Tokenizer, tokens: &[EmittedToken]) -> Value {
    let entry = |emitted: &EmittedToken| {
        // Entries add up to the text, of which special tokens are no part.
        let bytes = tokenizer.token_bytes(emitted.token);
        let text = String::from_utf8_lossy(bytes);
        let text_of = |&token: &u32| token_text(tokenizer, token).0;
        let texts = |branch: &Vec<u32>| branch.iter().map(text_of).collect::<Vec<_>>();
        json!({
            "id": emitted.token,
            "token": text,
            "bytes": bytes,
            "origin": name(emitted.origin),
            "rejected": emitted.rejected.iter().map(texts).collect::<Vec<_>>(),
        })
    };
    tokens.iter().map(entry).collect()
}

fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::Accepted => "accepted",
        Origin::Recovered => "recovered",
        Origin::Bonus => "bonus",
        Origin::Plain => "plain",
    }
}
