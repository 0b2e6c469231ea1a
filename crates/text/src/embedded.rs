//! Tokenizer and chat template of the pair that is part of the program; see `models/README.md`.

use crate::{ChatTemplate, Tokenizer};

const VALID: &str = "the embedded files are valid; a test opens them";

macro_rules! model_file {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $path))
    };
}

/// The tokenizer of both.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::parse("embedded tokenizer.json", model_file!("target/tokenizer.json")).expect(VALID)
}

/// The chat template of both.
pub fn chat_template() -> ChatTemplate {
    ChatTemplate::parse(model_file!("target/tokenizer_config.json"), None).expect(VALID)
}
