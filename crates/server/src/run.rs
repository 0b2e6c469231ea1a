//! A server as a program: runtime, socket and signals around [`serve`].

use std::net::SocketAddr;
use std::time::Duration;

use dsde_engine::Engine;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::config::{Config, Text};
use crate::service::{Error, Shutdown, serve};

/// Threads that handle connections: one can be held up by a long body while the other goes on. The cores belong to the engine.
const CONNECTION_THREADS: usize = 2;
/// Threads for what takes long, such as tokenizing prompts and compiling schemas: more would only be in each other's way, and in
/// that of the threads above. One waits for the engine's thread to end.
const TEXT_THREADS: usize = 4;
/// Time for text that is still being processed when everything else has ended.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// Serves on `host` and `port` until the process is told to end; told twice, it ends without waiting.
///
/// SIGTERM comes from whoever also sends requests here, and is announced ([`Shutdown::Announced`]); SIGINT comes from a person
/// who wants an end.
///
/// * `port`: 0 takes a free one.
/// * `listening`: called with the address once connections are accepted.
///
/// # Errors
/// If the address cannot be taken, or as [`serve`].
pub fn run(
    engine: Engine,
    text: Text,
    config: Config,
    (host, port): (&str, u16),
    listening: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(CONNECTION_THREADS)
        .max_blocking_threads(TEXT_THREADS)
        .enable_all()
        .build();
    let runtime = runtime.map_err(Error::Runtime)?;
    let served = runtime.block_on(async {
        let in_use = |source| Error::Address { address: format!("{host}:{port}"), source };
        let listener = TcpListener::bind((host, port)).await.map_err(in_use)?;
        let address = listener.local_addr().map_err(Error::Socket)?;
        let mut signals = Signals::new().map_err(Error::Signals)?;
        listening(address);
        let (asked_twice, twice) = tokio::sync::oneshot::channel::<()>();
        let asked = async move {
            let shutdown = signals.next().await;
            tracing::info!("shutting down; requests in flight may end, another signal ends them");
            tokio::spawn(async move {
                signals.next().await;
                let _ = asked_twice.send(());
            });
            shutdown
        };
        tokio::select! {
            served = serve(listener, engine, text, config, asked) => served,
            Ok(()) = twice => Ok(()),
        }
    });
    runtime.shutdown_timeout(RUNTIME_END);
    served
}

/// What tells a process to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) -> Shutdown {
        tokio::select! {
            _ = self.terminate.recv() => Shutdown::Announced,
            _ = tokio::signal::ctrl_c() => Shutdown::Unannounced,
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> Shutdown {
        let _ = tokio::signal::ctrl_c().await;
        Shutdown::Unannounced
    }
}
