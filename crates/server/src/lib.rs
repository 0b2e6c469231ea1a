//! Serves the engine over HTTP in the OpenAI API: routes, streams, metrics, and the thread the engine runs on.
//!
//! Start at [`run`] or [`serve`]; a program with another way in than HTTP starts at [`Serving`]. The key decision: the engine is a plain value that one thread owns (`engine_thread`);
//! connections hand it requests over a bounded channel and find results in inboxes that the engine fills without ever
//! waiting (`inbox`). A slow, broken or vanished client costs nobody else anything: its inbox is bounded by its own token
//! bound, and its requests are cancelled between two steps.
//!
//! Everything a client can send is bounded and checked here or by the engine; errors have the shape that OpenAI's clients
//! understand. Keys and plain HTTP only: encryption belongs to a proxy in front.

mod app;
mod body;
mod config;
mod connections;
mod cors;
mod engine_thread;
mod forms;
mod head;
mod inbox;
mod live;
mod metrics;
mod openai;
mod openapi;
mod page;
mod paths;
mod policies;
mod run;
mod service;
mod serving;
mod stamp;

pub use config::{Config, Text};
pub use engine_thread::Rejected;
pub use forms::{Form, FormFault, Forms, Trial, tried_form};
pub use inbox::{Delta, Done, End, Loss, SpeculativeStep, Update};
pub use openai::statistics::{Detail, metrics as statistics};
pub use run::run;
pub use service::{Error, Shutdown, serve};
pub use serving::{Answer, Cancellation, Load, Serving};
