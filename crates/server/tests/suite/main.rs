//! The server from outside: one program, since linking a program per file takes longer than the tests.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod answers;
mod common;
mod dashboard;
mod failures;
mod faults;
mod forms;
mod limits;
mod matrix;
mod origins;
mod page;
mod policies;
mod responses;
mod serving;
mod soak;
mod special_tokens;
mod tools;
