//! The pair of models that is part of the program, so that everything runs on a fresh machine; see `models/README.md`.

use crate::{Checkpoint, EmbeddedFiles};

const VALID: &str = "the embedded files are valid; a test opens them";

macro_rules! model_file {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $path))
    };
}

/// The target: 5.8 million parameters.
pub fn target() -> Checkpoint {
    let files = EmbeddedFiles {
        config: model_file!("target/config.json"),
        generation_config: model_file!("target/generation_config.json"),
        weights: model_file!("target/model.safetensors"),
    };
    Checkpoint::embedded(files).expect(VALID)
}

/// The draft: 0.9 million parameters.
pub fn draft() -> Checkpoint {
    let files = EmbeddedFiles {
        config: model_file!("draft/config.json"),
        generation_config: model_file!("draft/generation_config.json"),
        weights: model_file!("draft/model.safetensors"),
    };
    Checkpoint::embedded(files).expect(VALID)
}
