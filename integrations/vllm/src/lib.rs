//! The compiled half of the Python package `dsde`: policies, and the arithmetic on logits that they ask for.
//!
//! Its key decision: what a policy sees and learns is written in Python, as two dataclasses of columns (`Batch`, `Feedback`); this
//! half reads their attributes, checks every number, and speaks to [`dsde_policy`]. So there is one place where a field is explained,
//! one where it is checked, and none where it is copied by hand.
//!
//! Python never sees a panic: wrong input raises `ValueError` or `TypeError` with what was expected and what came, and a policy that
//! fails nevertheless raises `RuntimeError` from then on (`guard.rs`).
//!
//! It knows nothing of vLLM; that half is plain Python (`python/dsde/vllm`).

mod batch;
mod columns;
mod feedback;
mod guard;
mod logits;
mod policy;

use pyo3::prelude::*;

/// Policies that choose speculation lengths, and what they are told.
#[pymodule]
mod _dsde {
    #[pymodule_export]
    use crate::logits::{compare, shape};
    #[pymodule_export]
    use crate::policy::{Plan, Policy, policies};
}
