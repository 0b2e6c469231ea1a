//! Where prompts come from, and their way to tokens.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use dsde_bench::{Item, Prompt, SuspectKey, Workload};

use crate::failure::{Failure, OrUsage as _, Outcome, usage};

/// Largest prompt read from a pipe, bytes.
const STDIN_BYTES_MAX: u64 = 4 << 20;

/// One prompt and who asked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Where it came from, for errors: `--prompt`, `stdin` or `FILE:LINE`.
    pub(crate) origin: String,
    /// What is asked.
    pub(crate) prompt: Prompt,
    /// Its own bound on emitted tokens.
    pub(crate) max_tokens: Option<u32>,
}

/// Prompts of a command: the text given, the lines of a file (`-` is stdin), or what is piped in.
///
/// # Errors
/// If there is none, or a file or stdin cannot be used.
pub(crate) fn gather(text: Option<String>, file: Option<&Path>) -> Outcome<Vec<Ask>> {
    match (text, file) {
        (Some(text), _) => Ok(vec![ask("--prompt", text)?]),
        (None, Some(file)) if file == Path::new("-") => {
            let workload = Workload::parse("stdin", "stdin", io::stdin().lock()).or_usage()?;
            warn_of_suspect(&workload, "stdin");
            Ok(asks_of(workload, "stdin"))
        }
        (None, Some(file)) => {
            let (workload, file) = (Workload::read(file).or_usage()?, file.display().to_string());
            warn_of_suspect(&workload, &file);
            Ok(asks_of(workload, &file))
        }
        (None, None) if io::stdin().is_terminal() => {
            Err(usage("nothing to do: give --prompt TEXT, --file PROMPTS.jsonl, or pipe a prompt in"))
        }
        (None, None) => Ok(vec![ask("stdin", read_stdin()?)?]),
    }
}

fn ask(origin: &str, text: String) -> Outcome<Ask> {
    if text.is_empty() {
        return Err(usage(format!("the prompt from {origin} is empty")));
    }
    Ok(Ask { origin: origin.to_owned(), prompt: Prompt::Text(text), max_tokens: None })
}

/// Tells of a key that was probably expected to have an effect.
pub(crate) fn warn_of_suspect(workload: &Workload, file: &str) {
    if let Some(SuspectKey { key, line }) = &workload.suspect {
        tracing::warn!(
            "{file}:{line}: `{key}` has no effect here; lines have `prompt` or `messages`, and optionally `max_tokens`; \
             options of the command hold for all of them"
        );
    }
}

/// The lines of a workload; `file` is what errors call it.
pub(crate) fn asks_of(workload: Workload, file: &str) -> Vec<Ask> {
    let ask = |item: Item| Ask {
        origin: format!("{file}:{}", item.line),
        prompt: item.prompt,
        max_tokens: item.max_tokens,
    };
    workload.items.into_iter().map(ask).collect()
}

/// All of stdin without its last line break.
fn read_stdin() -> Outcome<String> {
    let mut text = String::new();
    let n_bytes = io::stdin()
        .lock()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .or_usage_of("cannot read the prompt from stdin")?;
    if n_bytes as u64 > STDIN_BYTES_MAX {
        return Err(usage(format!("the prompt from stdin is longer than {STDIN_BYTES_MAX} bytes")));
    }
    let end = text.strip_suffix('\n').map_or(text.len(), |text| text.trim_end_matches('\r').len());
    text.truncate(end);
    Ok(text)
}

impl Ask {
    /// Turns a failure to use this prompt into one that names it.
    pub(crate) fn blame(&self, error: impl Into<anyhow::Error>) -> Failure {
        Failure::Usage(error.into().context(format!("the prompt from {} cannot be used", self.origin)))
    }
}
