//! Checkpoints from outside: one program, since linking a program per file takes longer than the tests.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod assistant;
mod config;
mod eagle3;
mod encode;
mod experts;
mod fixtures;
mod folders;
mod gemma4;
mod gguf;
mod gpt_oss;
mod hostile;
mod qwen3_5;
