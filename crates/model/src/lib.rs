//! Architectures, and the real executor.
//!
//! [`llama`] runs every architecture over ragged rows, `head` what drafts from a model's states (`eagle3`, `mtp`, `assistant`), and
//! [`executor`] joins a target and a draft behind the engine's [`Executor`](dsde_engine::Executor) port.
//!
//! The key decision: no tensor framework. A pass knows all its shapes, so it works on plain slices in buffers that live from
//! pass to pass, and everything that depends on hardware stands behind one trait of a dozen operations over ragged rows,
//! [`Backend`](dsde_kernels::Backend). Weights are packed once into the backend's layout; the checkpoint can be dropped then.
//! Backends are batch-invariant: what a row gets depends on that row and what it sees alone, bit for bit, and the executor
//! keeps it so, which is why speculation cannot change greedy output.
//!
//! It does not decide what runs (`dsde-engine`), how far to speculate (`dsde-policy`) or what may be emitted
//! (`dsde-sampling`), and it knows nothing of files (`dsde-checkpoint`), text (`dsde-text`) or HTTP. Decoders of text
//! only: no images.

mod assistant;
mod attention;
mod buffers;
mod delta;
mod eagle3;
pub mod embedded;
mod error;
pub mod executor;
mod features;
mod feed_forward;
mod head;
mod layer_inputs;
pub mod llama;
mod mtp;
mod rope;
mod states;
mod translation;
mod weights;

pub use error::Error;
pub use executor::ModelExecutor;
pub use llama::Llama;
pub use translation::Translation;
pub use weights::OnPacked;
