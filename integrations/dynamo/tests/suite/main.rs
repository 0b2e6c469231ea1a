//! The worker as Dynamo sees it, over the embedded pair; no frontend, no network.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod answers;
mod cache;
mod common;
mod life;
mod refusals;
