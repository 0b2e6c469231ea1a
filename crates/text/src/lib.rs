//! Text in and out: tokenizer, chat template, forms of answers and what they say beside text, and the assembly of streamed bytes into characters.
//!
//! The key decision: a token *is* its bytes. The text of a sequence is the concatenation of the bytes of its tokens, looked up
//! in a table ([`Vocabulary`](dsde_engine::Vocabulary)), so streaming, stop strings and whole texts agree by construction; a
//! tokenizer whose decoder does not work that way is refused. Characters are made of bytes at the very end, by [`Utf8Stream`].
//!
//! Chat templates are programs written by strangers. They run in an interpreter without files, clock or network, within limits
//! on work, recursion and output.

mod answer;
mod chat;
mod conversation;
mod correspondence;
mod date;
mod decoder;
pub mod embedded;
mod error;
mod grammar;
mod jinja;
mod template_config;
mod tokenizer;
mod utf8;
mod veil;

pub use answer::{AnswerReader, CallFormat, ExpectedCalls, HELD_BYTES_MAX, Part, ReasoningFormat};
pub use chat::ChatTemplate;
pub use conversation::{Call, Conversation, Message, RESERVED_VARIABLES};
pub use correspondence::Correspondence;
pub use date::Date;
pub use error::Error;
pub use grammar::{CALLS_BYTES_MAX, Function, Grammars, Outline, SCHEMA_BYTES_MAX, Thoughts};
pub use tokenizer::{Tokenizer, gguf_keys};
pub use utf8::Utf8Stream;
pub use veil::Prompt;

/// Longest text that is tokenised or that a chat template may write, in bytes: a context of a million tokens in English.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
