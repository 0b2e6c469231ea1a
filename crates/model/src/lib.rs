//! Placeholder head.

pub mod backend;
