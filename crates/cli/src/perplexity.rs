//! `dsde inspect perplexity`: how well a model predicts a text, to compare number formats of one model and programs that run it.
//!
//! The definition is that of `llama-perplexity` of llama.cpp. The text is tokenised once and cut into windows of equal length; what
//! is left at the end is not read. Where the tokenizer begins texts with a token of its own, that takes the place of every
//! window's first one. In every window the second half is scored: each position there predicts the next token, so a window
//! of `n` tokens scores `n - n / 2 - 1`. The perplexity is `exp` of the mean negative log-likelihood.

mod score;
mod scorer;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use dsde_kernels::Cpu;
use dsde_text::{TEXT_BYTES_MAX, Tokenizer};
use serde::Serialize;

use crate::args::{KvTypeArg, THREADS_MAX, positive_up_to, whole_number_in};
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::models::{found, n_threads};
use crate::opened::{Dtypes, Opened, Role};
use crate::progress;
use crate::speculation::Source;
use score::Score;
use scorer::Scorer;

/// Shortest window: it scores three tokens, enough for a standard error.
const WINDOW_MIN: u32 = 8;
/// Rows of a pass. More are not faster.
const ROWS_MAX: usize = 512;

const EXAMPLES: &str = "\
Examples:
  dsde inspect perplexity --model ./Qwen3-1.7B-Q4_K_M.gguf text.txt
  dsde inspect perplexity --model ./Qwen3-1.7B text.txt --chunks 20 --json

Figures compare with those of `llama-perplexity -f text.txt -c 512` of llama.cpp, except where the text spells special tokens: \
they are read as such here.";

/// Tell how well a model predicts a text
///
/// The text is cut into windows; the second half of each is predicted from what precedes in the window. The perplexity is
/// exp(mean negative log-likelihood): as uncertain as between so many equally probable tokens.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PerplexityArgs {
    /// The text, at most 4 MiB of UTF-8.
    #[arg(value_name = "TEXTFILE")]
    text: PathBuf,

    /// Model: a GGUF file, a folder, `ORG/NAME[:FILE]` of the Hugging Face Hub, or `demo`, the embedded target.
    #[arg(long, value_name = "PATH|ORG/NAME", default_value = "demo")]
    model: String,

    /// Tokens of a window.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = whole_number_in(WINDOW_MIN..=u32::MAX))]
    window: u32,

    /// Windows to read at most. Default: all.
    #[arg(long, value_name = "N", value_parser = positive_up_to(u32::MAX))]
    chunks: Option<NonZeroU32>,

    /// Threads that compute. Default: all logical cores.
    #[arg(long, value_name = "N", value_parser = positive_up_to(THREADS_MAX))]
    threads: Option<NonZeroU32>,

    /// Type in which keys and values are kept.
    #[arg(long, value_name = "TYPE", default_value_t)]
    kv_type: KvTypeArg,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    source: String,
    architecture: &'static str,
    /// Tensors of every element type, as stored.
    dtypes: Dtypes,
    /// Tokens of a window.
    window: u32,
    windows: usize,
    /// Tokens that were predicted.
    scored: usize,
    /// Mean, nats per token.
    nll: f64,
    perplexity: f64,
    /// Of the perplexity.
    standard_error: f64,
    /// Of reading, without loading.
    seconds: f64,
    /// Read, scored or not.
    tokens_per_s: f64,
    /// Kernels and threads.
    backend: String,
}

/// Runs the command.
pub(crate) fn run(args: &PerplexityArgs) -> Outcome {
    let source = found("model", Source::parse(&args.model))?;
    let text = read_text(&args.text)?;
    let opened = Opened::new(&source, Role::Target)?;
    let windows = windows(&opened, &text, args)?;
    let backend = Cpu::new(n_threads(args.threads) as usize).with_kv_type(args.kv_type.into());
    let mut scorer = Scorer::load(backend, &opened.checkpoint, args.window, ROWS_MAX)?;
    let started = Instant::now();
    let score = score(&mut scorer, &windows);
    let seconds = started.elapsed().as_secs_f64();
    if !score.nll().is_finite() {
        return Err(anyhow::anyhow!("{source} computes logits that are no numbers").into());
    }
    let report = Report {
        source: source.to_string(),
        architecture: opened.config().family.architecture(),
        dtypes: opened.dtypes(),
        window: args.window,
        windows: windows.len() / args.window as usize,
        scored: score.n_tokens(),
        nll: score.nll(),
        perplexity: score.perplexity(),
        standard_error: score.standard_error(),
        seconds,
        tokens_per_s: windows.len() as f64 / seconds,
        backend: scorer.describe(),
    };
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => print(&mut out, &report)?,
    }
    Ok(())
}

fn read_text(path: &Path) -> Outcome<String> {
    let path_text = path.display();
    let mut text = String::new();
    let file = File::open(path).or_usage_of(format!("cannot read {path_text}"))?;
    file.take(TEXT_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .or_usage_of(format!("cannot read {path_text}"))?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(usage(format!("{path_text} is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// The windows of a text, one after the other.
fn windows(opened: &Opened, text: &str, args: &PerplexityArgs) -> Outcome<Vec<u32>> {
    let PerplexityArgs { window, chunks, .. } = *args;
    let context_len_max = opened.config().context_len_max;
    if window > context_len_max {
        return Err(usage(format!(
            "--window must be at most {context_len_max} for this model, got {window}"
        )));
    }
    let name = args.text.display();
    let mut tokens =
        opened.tokenizer.encode_plain(text).or_usage_of(format!("{name} cannot be tokenised"))?;
    let n_windows = (tokens.len() / window as usize).min(chunks.map_or(usize::MAX, |n| n.get() as usize));
    if n_windows == 0 {
        return Err(usage(format!(
            "{name} has {} tokens, a window takes {window}; give a longer text or a smaller --window",
            tokens.len()
        )));
    }
    tokens.truncate(n_windows * window as usize);
    if let Some(token) = first_token(&opened.tokenizer)? {
        tokens.iter_mut().step_by(window as usize).for_each(|first| *first = token);
    }
    let vocab_len = opened.config().vocab_len;
    match tokens.iter().find(|&&token| token as usize >= vocab_len) {
        None => Ok(tokens),
        Some(token) => Err(usage(format!(
            "{name} has token {token}, the model has embeddings for tokens below {vocab_len} only"
        ))),
    }
}

/// The token with which the tokenizer begins every text.
fn first_token(tokenizer: &Tokenizer) -> Result<Option<u32>, dsde_text::Error> {
    const TEXT: &str = "a";
    let (plain, bare) = (tokenizer.encode_plain(TEXT)?, tokenizer.encode(TEXT)?);
    Ok(plain.split_first().filter(|(_, rest)| rest.starts_with(&bare)).map(|(&first, _)| first))
}

/// Reads all windows; shows how far it is and what the perplexity is so far.
fn score(scorer: &mut Scorer<Cpu>, windows: &[u32]) -> Score {
    let bar = progress::bar(windows.len() as u64, "{pos}/{len} tokens, {eta} left, {msg}");
    let mut score = Score::default();
    for windows in windows.chunks(scorer.n_tokens()) {
        scorer.read(windows, &mut score);
        bar.set_message(format!("perplexity {:.4}", score.perplexity()));
        bar.inc(windows.len() as u64);
    }
    bar.finish_and_clear();
    score
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report { source, architecture, dtypes, window, windows, scored, .. } = report;
    writeln!(out, "perplexity {:.4} ± {:.4}", report.perplexity, report.standard_error)?;
    writeln!(out, "  {scored} tokens scored in {windows} windows of {window}")?;
    writeln!(out, "  {:.0} tokens/s read, {}", report.tokens_per_s, report.backend)?;
    writeln!(out, "  model {source}: {architecture}, {dtypes}")
}
