//! Added tokens in a text some places of which must not be part of one.
//!
//! Added tokens are cut out of a text before it is tokenised. The library decides by their text alone where; here a place can be
//! forbidden, and all else is as in the library, so that the rest of the text becomes the same tokens: it is not cut there.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use tokenizers::tokenizer::normalizer::Range as Of;
use tokenizers::tokenizer::pre_tokenizer::OffsetType;
use tokenizers::{
    AddedToken, Model as _, NormalizedString, Normalizer as _, NormalizerWrapper, PreTokenizedString,
    PreTokenizer as _, Token,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A part of a text, and its tokens if it is an added one.
type Piece = (NormalizedString, Option<Vec<Token>>);

/// Finds added tokens.
#[derive(Debug)]
pub(super) struct AddedTokens {
    /// Those that are looked for before the text is normalised.
    raw: Finder,
    /// Those that are looked for afterwards.
    normalized: Finder,
}

#[derive(Debug)]
struct Finder {
    automaton: AhoCorasick,
    tokens: Vec<(u32, AddedToken)>,
}

impl AddedTokens {
    pub(super) fn new(inner: &tokenizers::Tokenizer) -> Result<Self, Failure> {
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for (&id, token) in inner.get_added_vocabulary().get_added_tokens_decoder() {
            match token.normalized {
                false => raw.push((token.content.clone(), id, token.clone())),
                true => normalized.push((normal(inner.get_normalizer(), &token.content)?, id, token.clone())),
            }
        }
        Ok(Self { raw: Finder::new(raw)?, normalized: Finder::new(normalized)? })
    }

    /// Tokens of `text`; no added token holds one of the bytes `forbidden`, which are in order.
    pub(super) fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        forbidden: &[usize],
    ) -> Result<Vec<u32>, Failure> {
        let is_free = |range: Range<usize>| {
            let next = forbidden.partition_point(|&at| at < range.start);
            forbidden.get(next).is_none_or(|&at| at >= range.end)
        };
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| self.raw.cut(piece, &is_free))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = inner.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            self.normalized.cut(piece, &is_free)
        })?;
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        Ok(inner.post_process(encoding, None, false)?.get_ids().to_vec())
    }
}

/// A text as it is after normalisation.
pub(crate) fn normal(normalizer: Option<&NormalizerWrapper>, text: &str) -> Result<String, Failure> {
    let mut string = NormalizedString::from(text);
    if let Some(normalizer) = normalizer {
        normalizer.normalize(&mut string)?;
    }
    Ok(string.get().to_string())
}

impl Finder {
    fn new(mut tokens: Vec<(String, u32, AddedToken)>) -> Result<Self, Failure> {
        tokens.retain(|(text, ..)| !text.is_empty());
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, ..)| text))?;
        Ok(Self { automaton, tokens: tokens.into_iter().map(|(_, id, token)| (id, token)).collect() })
    }

    /// Cuts a piece at its added tokens.
    fn cut(
        &self,
        piece: NormalizedString,
        is_free: &impl Fn(Range<usize>) -> bool,
    ) -> Result<Vec<Piece>, Failure> {
        let first = piece.offsets_original().0;
        let original = |range: Range<usize>| {
            let range = piece.convert_offsets(Of::Normalized(range)).unwrap_or_default();
            first + range.start..first + range.end
        };
        let cuts = self.cuts(piece.get(), |range| is_free(original(range)));
        let slice = |(id, range): (Option<u32>, Range<usize>)| {
            let slice = piece.slice(Of::Normalized(range)).ok_or("a token begins inside a character")?;
            let tokens = id.map(|id| {
                let text = slice.get().to_owned();
                let len = text.len();
                vec![Token::new(id, text, (0, len))]
            });
            Ok((slice, tokens))
        };
        cuts.into_iter().map(slice).collect()
    }

    /// Added tokens of a text and what is between them.
    fn cuts(&self, text: &str, is_free: impl Fn(Range<usize>) -> bool) -> Vec<(Option<u32>, Range<usize>)> {
        let mut cuts = Vec::new();
        let (mut from, mut done) = (0, 0);
        while let Some(found) = self.automaton.find(Input::new(text).range(from..)) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            let mut range = found.range();
            if !is_free(range.clone()) {
                // A token of the template may begin inside.
                from = range.start + text[range.start..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            from = range.end;
            if token.single_word && !is_word(text, range.clone()) {
                continue;
            }
            if token.lstrip {
                range.start = text[..range.start].trim_end().len().max(done);
            }
            if token.rstrip {
                range.end = text.len() - text[range.end..].trim_start().len();
            }
            if done < range.start {
                cuts.push((None, done..range.start));
            }
            done = range.end;
            cuts.push((Some(*id), range));
        }
        if done < text.len() {
            cuts.push((None, done..text.len()));
        }
        cuts
    }
}

/// Whether a range has no letters of a word on either side.
fn is_word(text: &str, range: Range<usize>) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    !text[..range.start].ends_with(is_letter) && !text[range.end..].starts_with(is_letter)
}
