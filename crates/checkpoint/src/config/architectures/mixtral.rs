//! Mistral with experts (arXiv:2401.04088), the weights of the chosen ones scaled to a sum of 1.

use crate::config::Family;
use crate::config::architecture::{Architecture, LIKE_LLAMA, PerFile};
use crate::config::experts::{self, Experts};
use crate::config::windows::{window_of_fields, window_of_keys};

pub(in crate::config) const MIXTRAL: Architecture = Architecture {
    family: Family::Mixtral,
    name: "MixtralForCausalLM",
    model_type: "mixtral",
    gguf: "llama",
    turns_neighbours: PerFile { folder: false, gguf: true },
    fields: experts::FIELDS,
    of_fields: |config, fields| {
        config.experts = Some(Experts::parse(fields, "intermediate_size", true)?);
        config.set_windows(window_of_fields(fields)?, |_| true);
        Ok(())
    },
    keys: experts::KEYS,
    of_keys: |config, keys| {
        config.experts = Some(keys.experts(true)?);
        config.set_windows(window_of_keys(keys)?, |_| true);
        Ok(())
    },
    ..LIKE_LLAMA
};
