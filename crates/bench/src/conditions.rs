//! Under which conditions something was measured.

use serde::{Deserialize, Serialize};

/// What was measured in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Policy with its parameters.
    pub policy: String,
    /// Name of the workload.
    pub workload: String,
    /// Requests kept in flight; of a load that changes and is meant as a whole, the most.
    pub concurrency: u32,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Which part of a changing load; absent if the load is constant.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Segment>,
}

/// A part of a load that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The whole load, for example `1-16-2@10s`.
    pub profile: String,
    /// Counted from 1; 0 is all of it.
    pub segment: u32,
}
