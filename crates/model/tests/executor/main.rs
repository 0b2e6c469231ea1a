//! The real executor from outside: logits against an independent implementation, batches against single sequences, and
//! speculation against plain decoding.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[path = "../common/logits.rs"]
mod logits;

mod ahead;
mod assistant;
mod batches;
mod contexts;
mod delta;
mod eagle3;
mod experts;
mod families;
mod gemma4;
mod greedy;
mod law;
mod lending;
mod mtp;
mod pair;
mod pruning;
mod rows;
mod scoring;
mod serve;
mod setup;
mod signals;
mod translated;
mod trees;
mod windows;
