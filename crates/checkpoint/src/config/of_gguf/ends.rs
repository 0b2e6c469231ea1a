//! Tokens that end a text, by keys and by text.

use super::super::END_TOKENS_MAX;
use super::token;
use crate::error::Error;
use crate::gguf::Metadata;

/// Keys of tokens that end a text, a turn or a message.
const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Control tokens that end a text of the families here. Files name one or two of a model's, the others are known by their text.
const END_TEXTS: [&str; 10] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    END_OF_MESSAGE,
    "<end_of_turn>",
    "<turn|>",
    END_OF_CALL,
    "<|return|>",
];
/// Ends a text of Phi-3, and a message of many in one of gpt-oss, which is known by the other.
const END_OF_MESSAGE: &str = "<|end|>";
const END_OF_CALL: &str = "<|call|>";
/// Ends a turn of Gemma 4 in which tools were asked; of another type in files, since readers of answers are to see it.
const BEGIN_OF_TOOL_ANSWER: &str = "<|tool_response>";
/// Types of control tokens and of pieces of text that are found before others, in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// # Errors
/// If a key names no token of the vocabulary.
pub(super) fn tokens(metadata: &Metadata, vocab_len: usize) -> Result<Vec<u32>, Error> {
    let mut tokens = Vec::new();
    for key in ENDS {
        tokens.extend(token(metadata, key, vocab_len)?);
    }
    let texts = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let types = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let has_messages = texts.iter().any(|text| text == END_OF_CALL);
    let is_end = |text: &str| END_TEXTS.contains(&text) && !(has_messages && text == END_OF_MESSAGE);
    for (id, (text, kind)) in texts.iter().zip(types).enumerate().take(vocab_len) {
        let is_tool_answer = text == BEGIN_OF_TOOL_ANSWER && [CONTROL, USER_DEFINED].contains(&kind);
        if (kind == CONTROL && is_end(text)) || is_tool_answer {
            tokens.push(id as u32);
        }
    }
    let mut distinct = Vec::new();
    for token in tokens {
        // A file that has a text many times means one of them.
        if !distinct.contains(&token) && distinct.len() < END_TOKENS_MAX {
            distinct.push(token);
        }
    }
    Ok(distinct)
}
