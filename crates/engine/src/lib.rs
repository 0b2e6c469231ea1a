//! The serving loop: who runs, where it is stored, one step at a time.
//!
//! Start at [`Engine::step`]: plan, draft, trim, verify, commit, observe. The key decision is that everything is *rows*: a
//! prompt chunk, a plain decode and the verification of a proposal are n, 1 and 1 + l rows of a sequence in one ragged pass,
//! so there is one code path, and every sequence may speculate to its own length on every step without padding.
//!
//! The engine knows nothing of tensors, text, HTTP or wall clocks. They stand behind ports: [`Executor`] (a real model, or
//! [`ScriptedExecutor`] in tests), [`Vocabulary`] and [`Clock`]. It is a plain value without threads: its owner calls
//! [`Engine::step`] while there is work, and the same requests in the same order give the same tokens.

pub mod clock;
pub mod config;
pub mod drafter;
pub mod engine;
pub mod executor;
pub mod report;
pub mod request;
pub mod rows;
pub mod scripted;
pub mod vocabulary;

mod block_pool;
mod commit;
mod scheduler;
mod sequence;
mod step;
mod stop;

pub use clock::{Clock, MonotonicClock};
pub use config::{Config, ConfigError, Drafter};
pub use drafter::PromptLookup;
pub use dsde_policy::SeqId;
pub use engine::Engine;
pub use executor::{DraftDraw, Drafted, Executor, ExecutorError, Shape, TargetDraw, Verification};
pub use report::{
    Emission, EmittedToken, Event, FinishReason, Finished, Origin, RequestTimeline, StepReport,
};
pub use request::{Refused, Request, RequestId, Slo, Stop};
pub use rows::{BlockCopy, BlockId, RowBatch};
pub use scripted::{IdleExecutor, Script, ScriptedExecutor};

pub use vocabulary::Vocabulary;
