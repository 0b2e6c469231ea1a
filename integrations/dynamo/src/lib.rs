//! The engine as a worker of NVIDIA Dynamo: a frontend in front tokenises, routes and speaks HTTP, and workers generate.
//!
//! [`Worker`] implements the engine trait of `dynamo-backend-common`, whose `run` does the rest of the process: it registers the
//! model, receives requests, watches for cancellations and signals. Start reading there. The key decision: nothing is wrapped
//! twice. The engine is loaded by the code behind `dsde serve` ([`dsde_cli::EngineArgs`]) and runs on the thread that serves HTTP
//! otherwise ([`dsde_server::Serving`]); what is left here is translation, of requests (`request`), answers (`answer`) and of what the
//! prefix cache holds (`cache`).
//!
//! Not here: prefill and decode on different workers, adapters (LoRA), pictures and sound. Who asks for them is refused.

mod answer;
mod args;
mod cache;
mod error;
mod form;
mod request;
mod running;
mod worker;

pub use args::Args;
pub use cache::Books;
pub use worker::Worker;
