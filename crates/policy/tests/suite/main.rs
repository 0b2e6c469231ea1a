//! Policies from outside: one program, since linking a program per file takes longer than the tests.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod auto;
mod batch_wide;
mod common;
mod dsde;
mod dsde_released;
mod dsde_trace;
mod every_policy;
mod load_aware;
mod mixture;
mod non_anticipation;
mod simulation;
