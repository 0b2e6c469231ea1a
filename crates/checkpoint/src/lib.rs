//! The files of published models: what a model is, and its weights as stored.
//!
//! A [`Checkpoint`] is an opened folder or the embedded pair: a checked configuration and every tensor by name, mapped and not
//! read. A [`Conversion`] writes it as a GGUF file in other element types. Everything in a file is data from strangers, so every length is checked before a byte is touched.
//!
//! Not done here: packing weights for a processor (`dsde-kernels`), tokenizers and chat templates (`dsde-text`).

mod blocks;
mod checkpoint;
pub mod config;
mod conversion;
pub mod embedded;
mod error;
pub mod files;
pub mod gguf;
mod stored;

pub use blocks::{IQ4_VALUES, MXFP4_VALUES, Misfit};
pub use checkpoint::{
    AssistantCheckpoint, BesideDense, Checkpoint, DeltaProjections, Eagle3Checkpoint, EmbeddedFiles, Expert,
    ExpertBiases, GatedQueries, HeadCheckpoint, LayerExperts, MtpCheckpoint, gguf_file,
};
pub use config::{AssistantConfig, Eagle3Config, ModelConfig};
pub use conversion::{Conversion, Mix, Total};
pub use error::Error;
pub use stored::{Dense, Dtype, Group, RowOrder, TensorView};
