//! `tokenizer.json`.

use dsde_engine::Vocabulary as _;
use dsde_text::Tokenizer;

use crate::input::sections;

/// A tokenizer that can be read takes every text apart, into tokens that it has.
///
/// Input: `tokenizer.json`, and behind lines of dashes texts.
pub fn tokenizer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sections = sections(&text);
    let file = sections.next().unwrap_or_default();
    let Ok(tokenizer) = Tokenizer::parse("tokenizer.json", file.as_bytes()) else { return };
    assert_usable(&tokenizer, "Hello, world! 12 \u{E9}\u{1F600}<s>");
    sections.for_each(|text| assert_usable(&tokenizer, text));
}

/// Tokens of `text` are tokens of the vocabulary, and what is decoded piece by piece is what is decoded at once.
pub(crate) fn assert_usable(tokenizer: &Tokenizer, text: &str) {
    let vocab_len = tokenizer.vocab_len();
    assert!(tokenizer.end_tokens().iter().all(|&token| (token as usize) < vocab_len));
    for tokens in [tokenizer.encode(text), tokenizer.encode_plain(text)].into_iter().flatten() {
        assert!(tokens.iter().all(|&token| (token as usize) < vocab_len), "{tokens:?} of {vocab_len}");
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
        let whole = String::from_utf8_lossy(&bytes).into_owned();
        let decoded = tokenizer.decode(&tokens);
        assert!(whole == decoded || whole.strip_prefix(' ') == Some(&decoded), "{decoded:?} of {whole:?}");
        let _ = tokenizer.decode_with_special(&tokens);
    }
    let _ = tokenizer.special_token_at(text);
    assert!(tokenizer.same_tokens(tokenizer, vocab_len).is_ok());
}
