//! Workloads, load generation, metrics and reports: how an engine is asked and how its answers are judged.
//!
//! Every latency, rate and share has its one definition in [`metrics`], computed from the
//! [`RequestTimeline`](dsde_engine::RequestTimeline)s that the engine writes on its own clock. The same functions therefore
//! judge real runs and simulated ones, and a figure of one command means the same as that of another.
//!
//! Nothing here reads the environment: machine and command line are passed in. Nothing here knows models or text; prompts
//! arrive as tokens.

pub mod class;
pub mod comparison;
pub mod conditions;
pub mod failures;
pub mod gaps;
pub mod load;
pub mod log;
pub mod matrix;
pub mod metrics;
pub mod observed;
pub mod page;
pub mod plot;
pub mod profile;
pub mod record;
pub mod report;
pub mod run;
pub mod stats;
pub mod versus;
pub mod workload;

pub use class::{Attained, LatencyClass, LatencyClasses};
pub use conditions::{Conditions, Segment};
pub use failures::Failures;
pub use load::{Choice, Observer, Served, closed_loop, profiled_loop};
pub use log::{Heading, Log};
pub use profile::Profile;
pub use record::{Machine, Record, Row, Settings};
pub use run::{Run, Seen};
pub use stats::{Quantiles, Summary};
pub use workload::{Item, Message, Prompt, SuspectKey, Workload};
