//! The OpenAI API: what is read, what is answered.

mod call_ids;
pub(crate) mod chat;
mod choice;
pub(crate) mod completions;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod generation;
pub(crate) mod messages;
pub(crate) mod models;
mod origins;
mod padding;
pub(crate) mod responses;
mod span;
pub(crate) mod statistics;
pub(crate) mod tokens;
pub(crate) mod tools;
mod wire;
