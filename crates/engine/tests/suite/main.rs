//! The engine from outside: one program, since linking a program per file takes longer than the tests.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod ahead;
mod cache_events;
mod common;
mod draft_context;
mod either;
mod failures;
mod features;
mod law;
mod lending;
mod lossless;
mod pairs;
mod properties;
mod pruning;
mod recurrent;
mod scoring;
mod seeds;
mod states;
mod suffix;
mod trees;
mod windows;
