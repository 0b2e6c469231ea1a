//! `dsde generate`: continues prompts and prints the results.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use dsde_bench::load::{self, Choice, Observer, closed_loop};
use dsde_engine::{Emission, FinishReason, Request, StepReport};
use dsde_text::Utf8Stream;

use crate::answer::{self, answers};
use crate::args::{CONCURRENCY_MAX, DefaultsArgs, ModelArgs, PolicyArgs, SamplingArgs, positive_up_to};
use crate::failure::{OrUsage as _, Outcome};
use crate::models::Models;
use crate::prompts::{self, Ask};
use crate::sampling::{Sampling, Wanted};
use crate::session::{Form, Session, Wish, fresh_draws};
use crate::speculation::policy_for;
use crate::trace::TraceFile;

const EXAMPLES: &str = "\
Examples:
  dsde generate --prompt 'Tell me about the sea.'
  echo 'def fib(n):' | dsde generate --model ./Qwen3-0.6B --raw --max-tokens 64
  dsde generate --model ./Qwen3-0.6B --prompt 'Why is the sky blue?' --temperature 0.7 --top-p 0.9
  dsde generate --file prompts.jsonl --policy fixed:k=4 --json > answers.jsonl

Lines of --file are JSON objects with `prompt` (text) or `messages` (a list of {role, content}), and optionally \
`max_tokens`, which counts where --max-tokens is not given.

With --json, stdout holds one object per prompt in input order: index, text, tokens, finish_reason, prompt_tokens, \
completion_tokens, steps, drafted, verified, accepted, ttft_ms, tpot_ms; also choice with --n, logprobs with --logprobs and \
prompt_token_ids with --prompt-token-ids.";

/// Continue one prompt or a file of them
///
/// Prompts go through the model's chat template unless --raw is given. Greedy unless --temperature is given or the model's
/// own generation_config.json recommends another one; greedy output is the same under every policy. The text goes to stdout and everything else to stderr.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct GenerateArgs {
    /// The prompt. Without --prompt and --file it is read from stdin, less its last line break.
    #[arg(long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// Prompts in JSON lines; `-` is stdin.
    #[arg(long, value_name = "PROMPTS.jsonl")]
    file: Option<PathBuf>,

    /// Continue the text as it is, without chat template.
    #[arg(long)]
    raw: bool,

    /// Independent continuations per prompt, at most 128.
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive_up_to(Request::CHOICES_MAX))]
    n: NonZeroU32,

    /// Report the log-probability of every token and of the K most probable ones, at most 20; needs --json.
    #[arg(long, value_name = "K", requires = "json")]
    logprobs: Option<u32>,

    /// Most prompts in flight at once.
    #[arg(long, value_name = "C", default_value = "16", value_parser = positive_up_to(CONCURRENCY_MAX))]
    concurrency: NonZeroU32,

    /// Print JSON lines.
    #[arg(long)]
    json: bool,

    /// Report the tokens of the prompts; needs --json. `dsde simulate` continues what repeats in such texts.
    #[arg(long, requires = "json")]
    prompt_token_ids: bool,

    /// Write every step to this file, one JSON object per line; an existing file is replaced.
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    defaults: DefaultsArgs,
}

/// Runs the command.
pub(crate) fn run(args: GenerateArgs) -> Outcome {
    let models = Models::new(&args.model)?;
    let policy = policy_for(args.policy.policy, &models.draft)?;
    let asks = prompts::gather(args.prompt, args.file.as_deref())?;
    let wish = Wish {
        policy,
        rule: args.policy.verification.into(),
        form: if args.raw { Form::Raw } else { Form::Chat },
        n_sequences: in_flight(args.concurrency, asks.len()).saturating_mul(args.n),
        prefix_cache: true,
        draws: fresh_draws(),
    };
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let mut session = Session::open(&models.under(&wish.policy), &wish)?;
    session.engine.set_trace(trace.as_ref().map(TraceFile::sink));
    let wanted = Wanted { n_choices: args.n.get(), logprobs: args.logprobs };
    let sampling =
        Sampling::new(&args.sampling, wanted, session.eos_tokens(), &session.sampling(args.defaults));
    sampling.check(&session.engine.shape()).or_usage()?;
    let request = |(index, ask): (usize, &Ask)| request(&session, &sampling, index, ask);
    let requests: Vec<Request> = asks.iter().enumerate().map(request).collect::<Outcome<_>>()?;

    let tokens_max: Vec<u32> = requests.iter().map(|request| request.tokens_max).collect();
    let is_alone = requests.len() == 1 && args.n.get() == 1;
    let out = io::stdout().lock();
    let choices = match (args.json, is_alone) {
        (true, _) => {
            let prompts = args.prompt_token_ids.then(|| prompts_of(&requests));
            let render = |index, choices: &[Choice]| json_lines(prompts.as_deref(), index, choices);
            serve(&mut session, requests, args.concurrency, &mut InOrder::new(out, render))?
        }
        (false, true) => serve(&mut session, requests, args.concurrency, &mut Streaming::new(out))?,
        (false, false) => {
            serve(&mut session, requests, args.concurrency, &mut InOrder::new(out, headed_texts))?
        }
    };
    if !args.json {
        let timelines: Vec<_> = choices.iter().flatten().map(|choice| choice.timeline).collect();
        let _ = writeln!(io::stderr(), "{}", answer::speed(&timelines));
    }
    tell_of_cut_answers(&session, n_cut(&choices, &tokens_max));
    trace.map_or(Ok(()), |trace| trace.finish())
}

fn prompts_of(requests: &[Request]) -> Vec<Vec<u32>> {
    requests.iter().map(|request| request.prompt.clone()).collect()
}

/// Prompts in flight: no more than there are.
fn in_flight(asked: NonZeroU32, n_prompts: usize) -> NonZeroU32 {
    let n_prompts = u32::try_from(n_prompts).unwrap_or(u32::MAX);
    NonZeroU32::new(n_prompts).map_or(asked, |n_prompts| asked.min(n_prompts))
}

/// Answers that ended before their own bound because the context was full.
///
/// * `tokens_max`: bound of each prompt.
fn n_cut(choices: &[Vec<Choice>], tokens_max: &[u32]) -> usize {
    let is_cut = |choice: &Choice, tokens_max| {
        choice.reason == FinishReason::Length && choice.timeline.emitted < tokens_max
    };
    let per_prompt = |(choices, &tokens_max): (&Vec<Choice>, &u32)| {
        choices.iter().filter(|choice| is_cut(choice, tokens_max)).count()
    };
    choices.iter().zip(tokens_max).map(per_prompt).sum()
}

fn tell_of_cut_answers(session: &Session, n_cut: usize) {
    if n_cut > 0 {
        let context_len_max = session.engine.shape().context_len_max;
        let advice = session.bound().advice();
        let answers = if n_cut == 1 { "1 answer" } else { &format!("{n_cut} answers") };
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(
            io::stderr(),
            "{answers} ended where the context of {context_len_max} tokens was full, before --max-tokens; {advice}"
        );
    }
}

fn request(session: &Session, sampling: &Sampling, index: usize, ask: &Ask) -> Outcome<Request> {
    let prompt = session.encode(&ask.prompt).map_err(|error| ask.blame(error))?;
    let mut request = sampling.request(index, prompt, ask.max_tokens);
    request.drops_leading_space = session.drops_leading_space();
    request.check(&session.engine.shape()).map_err(|error| ask.blame(error))?;
    Ok(request)
}

/// An observer that writes and may fail at it.
pub(crate) trait Printer: Observer {
    /// The first failed write, and whatever is left to be written.
    fn finish(&mut self) -> io::Result<()>;
}

fn serve(
    session: &mut Session,
    requests: Vec<Request>,
    concurrency: NonZeroU32,
    printer: &mut impl Printer,
) -> Outcome<Vec<Vec<Choice>>> {
    let concurrency = concurrency.try_into()?;
    let result = closed_loop(&mut session.engine, requests, concurrency, printer);
    printer.finish()?;
    match result {
        Err(load::Error::Interrupted) => {
            unreachable!("only a failed write interrupts, and it was returned above")
        }
        result => Ok(result?),
    }
}

/// Writes text as it comes.
pub(crate) struct Streaming<W> {
    out: W,
    utf8: Utf8Stream,
    written: io::Result<()>,
}

impl<W: Write> Streaming<W> {
    /// * `out`: where text goes, flushed after every piece.
    pub(crate) fn new(out: W) -> Self {
        Self { out, utf8: Utf8Stream::default(), written: Ok(()) }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write> Observer for Streaming<W> {
    fn emitted(&mut self, _request_idx: usize, emission: &Emission) {
        let text = self.utf8.push(&emission.text);
        if self.written.is_ok() {
            self.written = self.write(&text);
        }
    }

    fn stepped(&mut self, _report: &StepReport) -> ControlFlow<()> {
        go_on(&self.written)
    }
}

impl<W: Write> Printer for Streaming<W> {
    fn finish(&mut self) -> io::Result<()> {
        std::mem::replace(&mut self.written, Ok(()))?;
        let rest = self.utf8.finish();
        self.write(&format!("{rest}\n"))
    }
}

fn go_on(written: &io::Result<()>) -> ControlFlow<()> {
    match written {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Writes finished answers in the order of their prompts, each as soon as those before it are written.
struct InOrder<W, R> {
    out: W,
    render: R,
    /// Answers that wait for earlier ones.
    waiting: BTreeMap<usize, String>,
    next: usize,
    written: io::Result<()>,
}

impl<W: Write, R: Fn(usize, &[Choice]) -> io::Result<String>> InOrder<W, R> {
    fn new(out: W, render: R) -> Self {
        Self { out, render, waiting: BTreeMap::new(), next: 0, written: Ok(()) }
    }

    fn write(&mut self, request_idx: usize, choices: &[Choice]) -> io::Result<()> {
        self.waiting.insert(request_idx, (self.render)(request_idx, choices)?);
        while let Some(text) = self.waiting.remove(&self.next) {
            self.out.write_all(text.as_bytes())?;
            self.next += 1;
        }
        self.out.flush()
    }
}

impl<W: Write, R: Fn(usize, &[Choice]) -> io::Result<String>> Observer for InOrder<W, R> {
    fn answered(&mut self, request_idx: usize, choices: &[Choice]) {
        if self.written.is_ok() {
            self.written = self.write(request_idx, choices);
        }
    }

    fn stepped(&mut self, _report: &StepReport) -> ControlFlow<()> {
        go_on(&self.written)
    }
}

impl<W: Write, R: Fn(usize, &[Choice]) -> io::Result<String>> Printer for InOrder<W, R> {
    fn finish(&mut self) -> io::Result<()> {
        std::mem::replace(&mut self.written, Ok(()))
    }
}

/// * `prompts`: the tokens of all prompts, if they are to be told.
fn json_lines(prompts: Option<&[Vec<u32>]>, index: usize, choices: &[Choice]) -> io::Result<String> {
    let prompt = prompts.map(|prompts| &prompts[index][..]);
    let mut lines = String::new();
    for answer in answers(index, prompt, choices) {
        lines += &serde_json::to_string(&answer)?;
        lines.push('\n');
    }
    Ok(lines)
}

fn headed_texts(index: usize, choices: &[Choice]) -> io::Result<String> {
    let heading = |i| match choices.len() {
        1 => format!("=== prompt {index} ==="),
        _ => format!("=== prompt {index}, choice {i} ==="),
    };
    let block = |(i, choice)| format!("{}\n{}\n\n", heading(i), answer::text(choice));
    Ok(choices.iter().enumerate().map(block).collect())
}
