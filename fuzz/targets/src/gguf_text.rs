//! Tokenizer and chat template in the metadata of a GGUF file.

use dsde_checkpoint::gguf::Gguf;
use dsde_text::{ChatTemplate, Tokenizer};

use crate::input::files;
use crate::tokenizer::assert_usable;

/// A tokenizer that can be read takes every text apart, and a template that can be read does not harm.
pub fn gguf_text(bytes: &[u8]) {
    let folder = files(&[("model.gguf", bytes)]);
    let Ok(file) = Gguf::open(&folder.path().join("model.gguf")) else { return };
    let tokenizer = Tokenizer::from_gguf("model.gguf", file.metadata());
    if let Ok(tokenizer) = &tokenizer {
        assert_usable(tokenizer, "Hello, world! 12 \u{E9}\u{1F600}<s>");
    }
    if let Ok(template) = ChatTemplate::from_gguf(file.metadata()) {
        let _ = template.try_out();
        if let Ok(tokenizer) = &tokenizer {
            let _ = template.end_of_turn(tokenizer);
            let _ = template.for_tokenizer(tokenizer).is_ok_and(|template| template.try_out().is_ok());
        }
    }
}
