//! The program from outside: one test program, since linking one per file takes longer than the tests.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod architecture;
mod bench;
mod blur;
mod common;
mod documentation;
mod drafters;
mod eagle3;
mod generate;
mod hub;
mod inflate;
mod perplexity;
mod quantize;
mod remote;
mod serve;
mod simulate;
mod translation;
mod usage;
mod worker;
