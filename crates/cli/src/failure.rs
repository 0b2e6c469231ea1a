//! How commands fail: exit codes and one line on stderr.

use std::io::{self, Write as _};
use std::process::ExitCode;

/// Why a command did not do what was asked.
pub enum Failure {
    /// An option, prompt or policy cannot be used; nothing was computed. Exit code 2.
    Usage(anyhow::Error),
    /// Something failed on the way, loading a model included. Exit code 1.
    Run(anyhow::Error),
}

/// Result of a command or of a part of it.
pub type Outcome<T = ()> = Result<T, Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

/// A usage failure from a message.
pub(crate) fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::Usage(anyhow::anyhow!("{message}"))
}

/// Declares the error of a result to be a mistake in what was asked.
pub(crate) trait OrUsage<T> {
    /// The error as it is.
    fn or_usage(self) -> Outcome<T>;

    /// The error below `context`.
    fn or_usage_of(self, context: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> Outcome<T> {
        self.map_err(|error| Failure::Usage(error.into()))
    }

    fn or_usage_of(self, context: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::Usage(error.into().context(context.to_string())))
    }
}

impl Failure {
    /// Writes the failure on stderr and returns its exit code. A reader that closed our stdout is no failure.
    pub fn report(&self) -> ExitCode {
        let code = match self {
            Self::Usage(_) => 2,
            Self::Run(_) => 1,
        };
        if is_broken_pipe(self.error()) {
            return ExitCode::SUCCESS;
        }
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(io::stderr(), "error: {}", self.line());
        ExitCode::from(code)
    }

    /// What failed and why, in one line.
    pub fn line(&self) -> String {
        one_line(self.error())
    }

    fn error(&self) -> &anyhow::Error {
        let (Self::Usage(error) | Self::Run(error)) = self;
        error
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is_broken)
}

/// The error and its causes, each said once, without line breaks.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        // Some libraries repeat their cause in their own message.
        if !line.contains(&cause) {
            let separator = if line.is_empty() { "" } else { ": " };
            line = format!("{line}{separator}{cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_in_one_line_and_only_once() {
        let error =
            anyhow::anyhow!("no such\nfile").context("cannot read x: no such file").context("loading");
        assert_eq!(one_line(&error), "loading: cannot read x: no such file");
    }

    #[test]
    fn a_closed_stdout_is_found_below_other_causes() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::new(pipe).context("writing")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("broken pipe")));
    }
}
