//! What fuzzing checks: one function per parser that bytes of strangers reach.
//!
//! The key decision: a target is a plain function of bytes that panics if something is wrong. libFuzzer calls it with inputs that it
//! invents (`scripts/fuzz`), and an ordinary test with those that are kept (`tests/replay.rs`), so what was found once stays mended.
//! Most targets check more than that nothing panics: what was read can be written and is read again as the same, or two ways to the
//! same answer agree.
//!
//! Not here: time and memory, which libFuzzer bounds. `docs/fuzzing.md` tells what was run and found.

mod answer;
mod arrivals;
mod chat_template;
mod config;
mod control_tokens;
mod events;
mod folder;
mod form;
mod gguf;
mod gguf_text;
mod input;
mod log;
mod model_name;
mod policy;
mod safetensors;
mod scenario;
#[cfg(feature = "server")]
mod server;
mod tokenizer;
mod trace;
mod workload;

pub use answer::answer;
pub use arrivals::arrivals;
pub use chat_template::chat_template;
pub use config::config;
pub use control_tokens::control_tokens;
pub use events::events;
pub use folder::folder;
pub use form::form;
pub use gguf::gguf;
pub use gguf_text::gguf_text;
pub use log::log;
pub use model_name::model_name;
pub use policy::policy;
pub use safetensors::safetensors;
pub use scenario::scenario;
#[cfg(feature = "server")]
pub use server::server;
pub use tokenizer::tokenizer;
pub use trace::trace;
pub use workload::workload;

/// A parser under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of the function, of its program in `fuzz/src/bin` and of the folder of its inputs in `fuzz/corpus`.
    pub name: &'static str,
    /// Panics if something is wrong with what becomes of the bytes.
    pub check: fn(&[u8]),
}

macro_rules! targets {
    ($($(#[$if:meta])? $name:ident),* $(,)?) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$($(#[$if])? Target { name: stringify!($name), check: $name }),*];
    };
}

targets! {
    answer,
    arrivals,
    chat_template,
    config,
    control_tokens,
    events,
    folder,
    form,
    gguf,
    gguf_text,
    log,
    model_name,
    policy,
    safetensors,
    scenario,
    #[cfg(feature = "server")]
    server,
    tokenizer,
    trace,
    workload,
}
