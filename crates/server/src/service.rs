//! The life of a server: start, serve, drain, end.

use std::sync::Arc;
use std::time::Duration;

use dsde_engine::Engine;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::app::{App, Ids, router};
use crate::config::{Config, Text};
use crate::connections::{self, Limits};
use crate::engine_thread::{self, EngineHandle, EngineThread};
use crate::forms::Forms;
use crate::live::Board;
use crate::metrics::Metrics;
use crate::openai::generation::seconds_since_epoch;

/// Time for the last messages of requests that a shutdown has cancelled.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a server is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// `/ready` says 503 for [`Config::drain_delay`] while everything else goes on, so that whoever sends requests here hears
    /// of it before the listener closes.
    Announced,
    /// The listener closes now.
    Unannounced,
}

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// There is none.
    #[default]
    Serving,
    /// `/ready` says so; requests are still taken.
    Leaving,
    /// Requests in flight end, nothing else is taken.
    Draining,
}

/// Why a server could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No model name to answer to.
    #[error("at least one model name is needed")]
    NoModelName,
    /// The thread of the engine could not start.
    #[error("cannot start the engine's thread")]
    Thread(#[source] std::io::Error),
    /// The thread of the engine has ended, by a panic that it could not recover from.
    #[error("the engine's thread has ended by a panic; its message stands above")]
    EngineEnded,
    /// The runtime could not start.
    #[error("cannot start the threads for connections")]
    Runtime(#[source] std::io::Error),
    /// The process cannot be told to end.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// The address is in use, or not of this machine.
    #[error("cannot listen on {address}")]
    Address {
        /// As asked for.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The socket failed.
    #[error("cannot serve connections")]
    Socket(#[source] std::io::Error),
}

/// Serves until `shutdown` completes, then lets requests in flight end, at most for `config.drain_timeout` from there on.
///
/// The engine moves to a thread of its own and ends with it.
///
/// # Errors
/// If the configuration names no model, or thread or socket fail.
pub async fn serve(
    listener: TcpListener,
    engine: Engine,
    text: Text,
    config: Config,
    shutdown: impl Future<Output = Shutdown> + Send + 'static,
) -> Result<(), Error> {
    if config.model_names.is_empty() {
        return Err(Error::NoModelName);
    }
    let metrics = Arc::new(Metrics::new(config.model_name(), &engine.shape()));
    let board = Arc::new(Board::new());
    let EngineThread { handle: engine, thread, ended } =
        engine_thread::start(engine, metrics.clone(), board.clone(), config.waiting_max)
            .map_err(Error::Thread)?;
    let (advance, phase) = watch::channel(Phase::Serving);
    let Config { drain_delay, drain_timeout, .. } = config;
    let limits = Limits {
        connections_max: config.connections_max as usize,
        head_bytes_max: config.head_bytes_max,
        head_timeout: config.head_timeout,
    };
    let forms = Forms::new(text.tokenizer.clone(), text.eos_tokens.clone(), config.trial.clone());
    let app = App {
        engine: engine.clone(),
        text,
        config,
        metrics: metrics.clone(),
        created: seconds_since_epoch(),
        phase: phase.clone(),
        board,
        ids: Ids::new(),
        forms,
    };
    let began = async move {
        if shutdown.await == Shutdown::Announced {
            advance.send_replace(Phase::Leaving);
            tokio::time::sleep(drain_delay).await;
        }
        advance.send_replace(Phase::Draining);
    };
    tokio::spawn(began);
    let server = connections::serve(listener, router(Arc::new(app)), limits, metrics, phase.clone());
    let served = tokio::select! {
        () = server => Ok(()),
        () = stop_late(engine.clone(), phase, drain_timeout) => Ok(()),
        () = outlives(engine.clone(), ended) => Err(Error::EngineEnded),
    };
    engine.stop();
    drop(engine);
    let joined = tokio::task::spawn_blocking(move || thread.join());
    // A step in progress may take longer than anyone wants to wait; the process ends anyway.
    let _ = timeout(FAREWELL, joined).await;
    served
}

/// Completes when the engine's thread has ended though nobody asked it to, and its clients had time to hear of it.
async fn outlives(engine: EngineHandle, ended: oneshot::Receiver<()>) {
    let _ = ended.await;
    if engine.is_stopping() {
        return std::future::pending().await;
    }
    tracing::error!("the engine's thread has ended; so does the server");
    tokio::time::sleep(FAREWELL).await;
}

/// Stops the engine when a shutdown has taken too long, and leaves time to tell the clients.
async fn stop_late(engine: EngineHandle, mut phase: watch::Receiver<Phase>, drain_timeout: Duration) {
    if phase.wait_for(|&phase| phase > Phase::Serving).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(drain_timeout).await;
    tracing::warn!("requests in flight did not end in {drain_timeout:?}; they are cancelled");
    engine.stop();
    tokio::time::sleep(FAREWELL).await;
}
