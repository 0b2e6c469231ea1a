//! Connections: how many there may be, and how long each may keep the server waiting.
//!
//! A connection waits for a request head at most [`Limits::head_timeout`], be it the first or a later one, and holds its place
//! in vain no longer than that while its client reads nothing. Beyond the bound on connections a few are told so, with status
//! 503; further ones are closed. Small writes leave at once (no Nagle delay): tokens are small.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower_service::Service as _;

use crate::metrics::Metrics;
use crate::openai::error::ApiError;
use crate::service::Phase;
use crate::stamp::Stamp;

/// Connections beyond the bound that are told so before they are closed, at once.
const TOLD_MAX: usize = 64;
/// Longest time for a connection beyond the bound to send a request head.
const TOLD_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a head is read, over how long it may be: one that is a little too long is read and told so, a flood is cut off.
const HEAD_READ_RATIO: usize = 2;
/// Pause after the system could not accept a connection, for example for lack of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Bytes of a request head.
    pub(crate) head_bytes_max: usize,
    /// Longest wait for a request head, or for a client that reads.
    pub(crate) head_timeout: Duration,
}

/// Serves connections until draining begins, then waits for those with a request in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut phase: watch::Receiver<Phase>,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let told = Arc::new(Semaphore::new(TOLD_MAX));
    let full = Router::new().fallback(async || {
        ApiError::unavailable("this server has as many connections as it may have; try again later")
            .into_response()
    });
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|&phase| phase == Phase::Draining) => break,
        };
        let Some(stream) = accepted_stream(accepted).await else {
            continue;
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            let connection =
                Connection { stream, place, metrics: metrics.clone(), watcher: graceful.watcher() };
            tokio::spawn(connection.serve(router.clone(), limits, true));
            continue;
        }
        metrics.refused(503);
        if let Ok(place) = told.clone().try_acquire_owned() {
            let connection =
                Connection { stream, place, metrics: metrics.clone(), watcher: graceful.watcher() };
            let limits = Limits { head_timeout: limits.head_timeout.min(TOLD_TIMEOUT), ..limits };
            tokio::spawn(connection.serve(full.clone(), limits, false));
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// `None` if there is nothing to serve; waits a little if the system is short of something.
async fn accepted_stream(accepted: io::Result<(TcpStream, std::net::SocketAddr)>) -> Option<TcpStream> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    match accepted {
        Ok((stream, _)) => {
            // Slower without, not wrong.
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) => None,
        Err(error) => {
            tracing::error!("cannot accept a connection: {error}");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// An accepted connection and the place it takes.
struct Connection {
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
    watcher: Watcher,
}

impl Connection {
    async fn serve(self, router: Router, limits: Limits, keeps_alive: bool) {
        let Self { stream, place, metrics, watcher } = self;
        let stamp = Arc::new(Stamp::default());
        let service = service_fn({
            let stamp = stamp.clone();
            move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(stamp.clone());
                router.clone().call(request)
            }
        });
        metrics.connected();
        let counted = metrics.clone();
        let io = Socket { stream, patience: limits.head_timeout, stalled: None, stamp, metrics };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size(HEAD_READ_RATIO * limits.head_bytes_max)
            .keep_alive(keeps_alive)
            .serve_connection(TokioIo::new(io), service);
        // A connection that breaks is no event for anybody else.
        if let Err(error) = watcher.watch(served).await {
            tracing::debug!("a connection ended early: {error}");
        }
        counted.connections.dec();
        drop(place);
    }
}

/// A socket that gives up on a client who reads nothing, and tells when tokens leave.
struct Socket {
    stream: TcpStream,
    /// Longest time without progress in writing.
    patience: Duration,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    stamp: Arc<Stamp>,
    metrics: Arc<Metrics>,
}

impl Socket {
    fn progress(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            if let Some(age) = self.stamp.take() {
                self.metrics.delivered(age);
            }
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let patience = Duration::from_millis(20);
        let metrics = Arc::new(Metrics::new("m", &crate::metrics::TEST_SHAPE));
        let mut socket = Socket { stream, patience, stalled: None, stamp: Arc::default(), metrics };
        // Buffers of the system hold some of it, and nobody takes it out.
        let written = socket.write_all(&vec![0; 64 << 20]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_time_from_emission_to_socket_is_counted_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (stamp, metrics) =
            (Arc::new(Stamp::default()), Arc::new(Metrics::new("m", &crate::metrics::TEST_SHAPE)));
        let patience = Duration::from_secs(60);
        let mut socket =
            Socket { stream, patience, stalled: None, stamp: stamp.clone(), metrics: metrics.clone() };
        socket.write_all(b"head").await.unwrap();
        stamp.set(Instant::now().into_std());
        socket.write_all(b"first event").await.unwrap();
        socket.write_all(b"keep-alive").await.unwrap();
        let count = "dsde:delivery_seconds_count{engine=\"0\",model_name=\"m\"} 1\n";
        assert!(metrics.text().contains(count), "{}", metrics.text());
    }
}
