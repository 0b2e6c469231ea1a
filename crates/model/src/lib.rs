//! Weights, text and the real executor.

pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod embedded;
pub mod error;
pub mod executor;
pub mod llama;
mod rope;
pub mod text;
mod weights;
