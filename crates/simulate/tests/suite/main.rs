//! Simulations against what is known without them, and episodes of faults.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod answers;
mod common;
mod determinism;
mod episodes;
mod errors;
mod examples;
mod plans;
mod queueing;
mod theory;
