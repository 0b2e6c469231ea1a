//! Ctrl-C stops an answer while there is one, and ends the program otherwise.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::signal;
use tokio::sync::watch;

/// Exit code of a program that was ended by SIGINT, by the convention of shells.
const EXIT_CODE: i32 = 130;

/// What Ctrl-C would do, or has done.
pub(crate) struct Interrupt {
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Answering,
    Stopped,
}

impl Interrupt {
    /// Listens from now on, as long as the program runs.
    ///
    /// # Errors
    /// If there is no way to listen.
    pub(crate) fn listen() -> io::Result<Arc<Self>> {
        let interrupt = Arc::new(Self { state: watch::Sender::new(State::Idle) });
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let mut pressed = {
            let _entered = runtime.enter();
            presses()?
        };
        let listener = interrupt.clone();
        let listen = async move {
            while pressed.recv().await.is_some() {
                if !listener.stop() {
                    // The shell's next line begins at the left.
                    let _ = writeln!(io::stderr());
                    std::process::exit(EXIT_CODE);
                }
            }
        };
        thread::Builder::new().name("ctrl-c".to_owned()).spawn(move || runtime.block_on(listen))?;
        Ok(interrupt)
    }

    /// Runs `answer`, which Ctrl-C stops once; it has to ask whether that was done.
    pub(crate) fn during<T>(&self, answer: impl FnOnce() -> T) -> T {
        self.state.send_replace(State::Answering);
        let result = answer();
        self.state.send_replace(State::Idle);
        result
    }

    /// Whether the answer is to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.state.borrow() == State::Stopped
    }

    /// Waits until the answer is to stop.
    pub(crate) async fn stopped(&self) {
        let mut state = self.state.subscribe();
        // The sender is here as long as this runs.
        let _ = state.wait_for(|&state| state == State::Stopped).await;
    }

    /// Stops the answer; `false` if there is none or it was stopped before.
    fn stop(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_answering = *state == State::Answering;
            if is_answering {
                *state = State::Stopped;
            }
            is_answering
        })
    }
}

/// Every Ctrl-C from now on.
#[cfg(unix)]
fn presses() -> io::Result<signal::unix::Signal> {
    signal::unix::signal(signal::unix::SignalKind::interrupt())
}

/// Every Ctrl-C from now on.
#[cfg(windows)]
fn presses() -> io::Result<signal::windows::CtrlC> {
    signal::windows::ctrl_c()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_stopped_once_and_nothing_else_is() {
        let interrupt = Interrupt { state: watch::Sender::new(State::Idle) };
        assert!(!interrupt.stop());
        interrupt.during(|| {
            assert!(!interrupt.is_stopped());
            assert!(interrupt.stop() && interrupt.is_stopped());
            assert!(!interrupt.stop());
        });
        assert!(!interrupt.is_stopped() && !interrupt.stop());
    }
}
