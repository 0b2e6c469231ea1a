//! What may be emitted: from logits and parameters to tokens that follow the target's distribution.
//!
//! Everything here works on slices of numbers and knows nothing of models, batches or policies. Verification rules are
//! written against an abstract source of draws, so that tests can enumerate every draw and prove the output law exactly.

pub mod error;
pub mod params;
pub mod proposal;
pub mod verdict;

pub use error::Error;
pub use params::Params;
pub use proposal::Proposal;
pub use verdict::{Rule, TokenLogprobs, Verdict};
