//! Weights, text and the real executor.
//!
//! From a published model to something the engine can step: [`checkpoint`] opens a folder or the embedded pair, [`text`]
//! turns text into tokens and back, [`llama`] runs the dense Llama family over ragged rows, and [`executor`] joins a target
//! and a draft behind the engine's [`Executor`](dsde_engine::Executor) port.
//!
//! The key decision: no tensor framework. A pass knows all its shapes, so it works on plain slices in buffers that live from
//! pass to pass, and everything that depends on hardware stands behind one trait of a dozen operations over ragged rows,
//! [`Backend`](backend::Backend). Weights are packed once into the backend's layout; the checkpoint can be dropped then.
//! Backends are batch-invariant: what a row gets depends on that row and what it sees alone, bit for bit, and the executor
//! keeps it so, which is why speculation cannot change greedy output.
//!
//! It does not decide what runs (`dsde-engine`), how far to speculate (`dsde-policy`) or what may be emitted
//! (`dsde-sampling`), and it knows nothing of HTTP. Dense decoders only: no experts, no sliding windows, no images.

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

pub use checkpoint::Checkpoint;
pub use config::ModelConfig;
pub use error::Error;
pub use executor::ModelExecutor;
pub use llama::Llama;
