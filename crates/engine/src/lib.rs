//! The serving loop: who runs, where it is stored, one step at a time.
//!
//! Start at [`Engine::step`]: plan, draft, trim, verify, commit, observe. The key decision is that everything is *rows*: a
//! prompt chunk, a plain decode and the verification of a proposal are n, 1 and 1 + l rows of a sequence in one ragged pass,
//! so there is one code path, and every sequence may speculate to its own length on every step without padding. Token trees
//! are rows too: a node sees its ancestors only, and after the verdict the accepted path moves to consecutive slots.
//!
//! The engine knows nothing of tensors, text, HTTP or wall clocks. They stand behind ports: [`Executor`] (a real model, or
//! [`ScriptedExecutor`] in tests), [`Vocabulary`], [`Clock`], and [`Grammar`] where an answer must have a form. It is a plain
//! value without threads: its owner calls [`Engine::step`] while there is work, and the same requests in the same order give
//! the same tokens. Why a step did what it did is told by a [`StepTrace`], if somebody asks.

pub mod ahead;
pub mod cache_events;
pub mod clock;
pub mod config;
pub mod constraint;
pub mod engine;
pub mod executor;
pub mod idle;
pub mod passes;
pub mod report;
pub mod request;
pub mod rows;
pub mod scripted;
pub mod trace;
pub mod vocabulary;

mod block_pool;
mod carry;
mod commit;
mod cost_profile;
mod draft;
mod lending;
mod scheduler;
mod scoring;
mod sequence;
mod state_pool;
mod step;
mod stop;
mod suffix;
mod tree;

pub use ahead::DraftAhead;
pub use cache_events::{CacheEvent, CacheObserver, CachedBlockId};
pub use clock::{Clock, CountingClock, MonotonicClock};
pub use config::{Config, ConfigError, Drafter};
pub use constraint::{Constraint, ConstraintError, Grammar};
pub use dsde_policy::SeqId;
pub use engine::Engine;
pub use executor::{Executor, Shape};
pub use idle::IdleExecutor;
pub use passes::{Beam, DraftDraw, Drafted, ExecutorError, PromptScore, TargetDraw, Verification};
pub use report::{
    Emission, EmittedToken, Event, FinishReason, Finished, Origin, RequestTimeline, Scored, StepReport,
};
pub use request::{Refused, Request, RequestId, Slo, Stop};
pub use rows::{BlockCopy, BlockId, RowBatch, Slot, SlotMove, StateSlot, StateUse};
pub use scripted::{Script, ScriptedExecutor, ScriptedLending};
pub use suffix::Suffix;
pub use trace::{SequenceTrace, StepTrace, TraceSink};
pub use vocabulary::Vocabulary;
