//! Tokens that stand around texts: which begin one and which end it.

use dsde_checkpoint::gguf::Metadata;

use super::entries::{Entries, Kind, TOKENS};
use super::refused;
use crate::error::Error;

const BEGIN: &str = "tokenizer.ggml.bos_token_id";
const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADDS_BEGIN: &str = "tokenizer.ggml.add_bos_token";
const ADDS_END: &str = "tokenizer.ggml.add_eos_token";

/// Control tokens that end a text or a turn wherever they occur. Files name one end, models of chat have several.
const END_TEXTS: [&str; 15] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<EOT>",
    "<|return|>",
    "<|call|>",
    "[EOS]",
    "[EOT]",
];
/// Ends a turn in which tools were asked, though files call it a piece of text, which readers of answers are to see.
const BEGIN_OF_TOOL_ANSWER: &str = "<|tool_response>";
/// Ends a part of an answer where a vocabulary has the second, which ends the whole.
const END_OF_PART: [&str; 2] = ["<|end|>", "<|return|>"];

/// Ids of tokens that stand around texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Begins a text.
    pub(crate) begin: Option<u32>,
    /// Ends a text.
    pub(crate) end: Option<u32>,
    /// Other tokens that the file says end something.
    more_ends: Vec<u32>,
    /// Stands for text that has no token.
    pub(super) unknown: Option<u32>,
}

impl Marks {
    /// Reads ids; `vocab_len` is the number of tokens.
    ///
    /// # Errors
    /// If one is no id of the vocabulary.
    pub(crate) fn read(metadata: &Metadata, vocab_len: usize) -> Result<Self, Error> {
        let id = |key: &str| match metadata.len(key)? {
            Some(id) if id < vocab_len => Ok(Some(id as u32)),
            Some(id) => Err(refused(key, format!("an id below {vocab_len}, the length of {TOKENS}"), id)),
            None => Ok::<_, Error>(None),
        };
        let [end, of_turn, of_message] = [id(ENDS[0])?, id(ENDS[1])?, id(ENDS[2])?];
        let more_ends = of_turn.into_iter().chain(of_message).collect();
        Ok(Self { begin: id(BEGIN)?, end, more_ends, unknown: id(UNKNOWN)? })
    }

    /// Tokens that are special whatever the vocabulary says of them.
    pub(super) fn special(&self) -> Vec<u32> {
        self.begin.into_iter().chain(self.end).chain(self.more_ends.iter().copied()).collect()
    }

    /// Tokens that end a text, by id and by text.
    pub(super) fn ends(&self, entries: &Entries) -> Vec<u32> {
        let [part, whole] = END_OF_PART;
        let by_text = END_TEXTS
            .into_iter()
            .filter(|&text| text != part || entries.id(whole).is_none())
            .filter_map(|text| entries.id(text))
            .filter(|&id| entries.kind(id) == Kind::Control)
            .chain(entries.id(BEGIN_OF_TOOL_ANSWER).filter(|&id| entries.kind(id) != Kind::Normal));
        let mut ends = Vec::new();
        for id in self.end.into_iter().chain(self.more_ends.iter().copied()).chain(by_text) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    /// Tokens put before and behind plain text.
    ///
    /// * `begins`: whether there is one before where the file says nothing of it.
    ///
    /// # Errors
    /// If the file asks for a token that it does not name.
    pub(super) fn around(&self, metadata: &Metadata, begins: bool) -> Result<[Option<u32>; 2], Error> {
        let named = |flag: &str, id: Option<u32>, key: &str| match metadata.flag(flag)? {
            Some(true) if id.is_none() => Err(refused(key, format!("an id, as {flag} asks for it"), "none")),
            flag => Ok(flag.map(|is_added| id.filter(|_| is_added))),
        };
        let before = named(ADDS_BEGIN, self.begin, BEGIN)?.unwrap_or(self.begin.filter(|_| begins));
        let behind = named(ADDS_END, self.end, ENDS[0])?.flatten();
        Ok([before, behind])
    }
}
