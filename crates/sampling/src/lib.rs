//! What may be emitted: from logits and parameters to tokens that follow the target's distribution.
//!
//! Everything here works on slices of numbers and knows nothing of models, batches or policies. A row of logits becomes a
//! distribution ([`distribution`]), two rows are compared ([`divergence`]), and [`verify`] turns a proposal and the rows of
//! the target into a [`Verdict`] whose tokens follow the law of the target, up to the rounding of rows to `f32`. Three
//! decisions carry the crate:
//!
//! * **One source for every instruction set.** Passes over the vocabulary are `#[inline(always)]` functions over arrays of
//!   [`lanes::LANES`] values, with their own `exp` and `ln` and without fused multiply-add. Called from a function with
//!   `#[target_feature]` they become code for that feature; the result is the same, bit for bit, everywhere. No `unsafe`.
//! * **Draws are an argument.** Rules ask a [`Draws`] for their random decisions. Production answers from a counter-based
//!   generator ([`CounterDraws`]), tests visit every answer and prove the output law exactly ([`law`]).
//! * **Rounding never invents a token.** Sums over a vocabulary accumulate in `f64`, and a token of weight zero is never
//!   drawn, whatever the rounding.
//!
//! | read in this order | for |
//! |---|---|
//! | [`params`] | what a request may ask for |
//! | [`distribution`], `truncation` | logits to probabilities |
//! | [`mask()`] | what the form of an answer leaves |
//! | [`divergence`], [`logprobs`] | what is measured on rows, for policies and for people |
//! | [`branches()`] | what a token tree branches into |
//! | [`proposal`], [`verdict`] | what is judged, the result, and the door [`verify`] |
//! | [`walk`], [`chain`], [`token`], [`block`] | the rules |
//! | [`draws`], [`rng`], [`race`] | random decisions and where they come from |
//! | [`law`] | the proof by enumeration |
//! | [`lanes`] | arithmetic under all of it |
//!
//! It does not choose lengths, does not know stop conditions, and keeps no state between steps.

pub mod block;
pub mod branches;
pub mod chain;
pub mod distribution;
pub mod divergence;
pub mod draws;
pub mod error;
pub mod lanes;
pub mod law;
mod log_softmax;
pub mod logprobs;
pub mod mask;
pub mod params;
pub mod proposal;
pub mod race;
pub mod rng;
pub mod token;
mod truncation;
pub mod verdict;
pub mod walk;

pub use branches::branches;
pub use distribution::{Adjustment, Scratch, adjust, argmax, softmax};
pub use divergence::{Divergence, Shape};
pub use draws::{CounterDraws, Draws, Weights};
pub use error::Error;
pub use logprobs::TokenLogprobs;
pub use mask::mask;
pub use params::Params;
pub use proposal::Proposal;
pub use rng::{Purpose, Stream};
pub use verdict::{Evidence, Rows, Rule, Verdict, verify};
