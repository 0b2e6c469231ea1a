//! The vocabulary of a GGUF file: its tokens, and what each is for.

use std::collections::HashMap;

use dsde_checkpoint::config::VOCAB_LEN_MAX;
use dsde_checkpoint::gguf::Metadata;
use tokenizers::AddedToken;

use super::{refused, repeated};
use crate::error::Error;

/// Texts of all tokens.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
/// Longest token, in bytes; the longest published ones, 128 spaces each of which stands for two bytes, have 256.
const TOKEN_BYTES_MAX: usize = 1 << 10;
/// Most bytes of all tokens together; published vocabularies of 262 144 tokens have 3 million.
const TOKENS_BYTES_MAX: usize = 16 << 20;

/// What a token is for, as numbered in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// Steers the model.
    Control,
    /// A piece of text that is found before all others.
    UserDefined,
    /// A piece of text that training left out.
    Unused,
    /// One byte.
    Byte,
}

impl Kind {
    fn numbered(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Tokens with their ids and kinds.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    texts: &'a [String],
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Entries<'a> {
    /// Reads the vocabulary. Tokens that only fill it up to the length of the embedding, `[PAD7]` with id 7, are left out,
    /// and so are empty ones.
    ///
    /// # Errors
    /// If there is none, or one that no model can have: too long, with two tokens of the same text, or of other kinds.
    pub(super) fn read(metadata: &'a Metadata) -> Result<Self, Error> {
        let texts = metadata.texts(TOKENS)?.ok_or_else(|| refused(TOKENS, "an array of texts", "none"))?;
        if !(1..=VOCAB_LEN_MAX).contains(&texts.len()) {
            return Err(refused(TOKENS, format!("1 to {VOCAB_LEN_MAX} tokens"), texts.len()));
        }
        if let Some(got) = texts.iter().map(String::len).max().filter(|&len| len > TOKEN_BYTES_MAX) {
            return Err(refused(TOKENS, format!("tokens of at most {TOKEN_BYTES_MAX} bytes"), got));
        }
        let n_bytes = texts.iter().map(String::len).sum::<usize>();
        if n_bytes > TOKENS_BYTES_MAX {
            return Err(refused(TOKENS, format!("at most {TOKENS_BYTES_MAX} bytes"), n_bytes));
        }
        let kinds = kinds(metadata, texts.len())?;
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, (text, kind)) in (0..).zip(texts.iter().zip(&kinds)) {
            if text.is_empty() || is_filler(id, text, *kind) {
                continue;
            }
            if let Some(first) = ids.insert(text.as_str(), id) {
                let got = format!("{} as {first} and {id}", repeated(text));
                return Err(refused(TOKENS, "tokens of which no two are the same", got));
            }
        }
        Ok(Self { texts, kinds, ids })
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Ids by text.
    pub(super) fn ids(&self) -> &HashMap<&'a str, u32> {
        &self.ids
    }

    /// Id of a text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Text of an id.
    ///
    /// # Panics
    /// If the vocabulary has no such id; ids from files are checked when they are read.
    pub(super) fn text(&self, id: u32) -> &'a str {
        &self.texts[id as usize]
    }

    /// What an id is for.
    ///
    /// # Panics
    /// As [`Entries::text`].
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    /// Tokens that are found in a text before it is taken apart; those that steer the model, and `special`, are special.
    pub(super) fn added(&self, special: &[u32]) -> Vec<AddedToken> {
        let mut ids: Vec<u32> = self.ids.values().copied().collect();
        ids.sort_unstable();
        let token = |id: u32| {
            let is_special = match self.kind(id) {
                Kind::Control | Kind::Unknown => true,
                _ if special.contains(&id) => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            Some(AddedToken::from(self.text(id), is_special).normalized(false))
        };
        ids.into_iter().filter_map(token).collect()
    }
}

fn kinds(metadata: &Metadata, len: usize) -> Result<Vec<Kind>, Error> {
    let Some(numbers) = metadata.integers(KINDS)? else {
        return Ok(vec![Kind::Normal; len]);
    };
    if numbers.len() != len {
        return Err(refused(KINDS, format!("as long as {TOKENS}, {len}"), numbers.len()));
    }
    let kind = |number| Kind::numbered(number).ok_or_else(|| refused(KINDS, "numbers from 1 to 6", number));
    numbers.into_iter().map(kind).collect()
}

/// Whether a token has no text: programs that write files add such ones for rows of the embedding without a token.
fn is_filler(id: u32, text: &str, kind: Kind) -> bool {
    let is_kind = matches!(kind, Kind::Unused | Kind::UserDefined);
    is_kind && text.strip_prefix("[PAD").and_then(|rest| rest.strip_suffix(']')) == Some(&id.to_string())
}
