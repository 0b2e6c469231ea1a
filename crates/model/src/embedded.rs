//! The pair of models that is part of the program, so that everything runs on a fresh machine; see `models/README.md`.

pub use dsde_checkpoint::embedded::{draft, target};
pub use dsde_text::embedded::{chat_template, tokenizer};
