//! Text from outside: one program, since linking a program per file takes longer than the tests.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod continued;
mod control_tokens;
mod correspondence;
mod gguf;
mod goldens;
mod templates_wild;
mod tool_templates;
