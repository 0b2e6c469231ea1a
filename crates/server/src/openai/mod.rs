//! The OpenAI API: what is read, what is answered.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod generation;
pub(crate) mod models;
mod origins;
mod span;
mod statistics;
pub(crate) mod tokens;
