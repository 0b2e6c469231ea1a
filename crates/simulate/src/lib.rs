//! The real engine, scheduler and policies on a virtual clock, over a pair that is pretended.
//!
//! What is real: everything in `dsde-engine` and `dsde-policy`, step by step. What is pretended stands behind the engine's ports: an
//! executor whose passes take the time that a cost model says ([`cost`]: by data sheet, or fitted to the steps of a real machine),
//! and whose drafts are accepted as a process says ([`process`]: synthetic, or replayed from the traces of a real pair). So a policy
//! is judged on machines that nobody here has, under loads of any length, and a run is a function of its scenario and seed.
//!
//! Start at [`Scenario::read`] and [`run()`]. Latencies, throughput and goodput are those of `dsde-bench`, by the same functions.
//!
//! Deliberately absent: forms of answers, what an EAGLE-3 head reads, pruning inside the target, and text, but for recorded answers, in which suffix
//! decoding finds what it repeats.

pub mod clock;
pub mod cost;
pub mod device;
pub mod dimensions;
pub mod episode;
pub mod error;
pub mod executor;
pub mod faults;
pub mod load;
pub mod pass;
pub mod plan;
pub mod process;
pub mod report;
pub mod results;
pub mod run;
pub mod scenario;
pub mod series;
pub mod serving;
pub mod signals;
pub mod trace;

mod random;

pub use clock::VirtualClock;
pub use error::Error;
pub use executor::SimExecutor;
pub use plan::Plan;
pub use results::Results;
pub use run::run;
pub use scenario::Scenario;
