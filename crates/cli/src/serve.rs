//! `dsde serve`: the model behind an HTTP server.

mod options;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use dsde_server::{Config, Text, Trial};

use crate::args::{positive_up_to, whole_number_in};
use crate::engine_args::{EngineArgs, EnginePlan};
use crate::failure::Outcome;
use crate::session::Session;
use crate::stores::bytes;
use crate::today::today;
use crate::trace::TraceFile;

/// Most connections that can be asked for.
const CONNECTIONS_MAX: u32 = 65_536;
/// Longest time between two events that can be asked for: a second, so that the last one is sent before a server that ends is gone.
const PACE_MS_MAX: u32 = 1000;
/// Longest time limit that can be asked for: a day.
const SECONDS_MAX: u32 = 86_400;

const EXAMPLES: &str = "\
Examples:
  dsde serve
  dsde serve --model ./Qwen3-8B --draft ./Qwen3-0.6B --port 8000
  curl localhost:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello.\"}]}'

Every option may also come from the environment, as DSDE_ and its name (DSDE_MAX_WAITING=64), or from the TOML file that \
--config names (max-waiting = 64; a list repeats an option). What is typed beats the environment, and that beats the file.

Limits: a body has at most 4 MiB, 128 levels of nesting and 32 s to arrive; a request head 64 KiB and 75 s, which is also how \
long a connection may be idle, or its client read nothing. A request has at most 128 choices. What exceeds a limit is \
refused with a message, and hurts nobody else; docs/serving.md lists all of them.

SIGINT or SIGTERM ends the server after the requests in flight, SIGTERM --drain-delay later; a second one at once.";

/// Serve a model over HTTP in the OpenAI API
///
/// Chat and text completions with streaming, Prometheus metrics, and everything else that docs/serving.md lists.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Address to listen on: 127.0.0.1 is reached from this machine alone, 0.0.0.0 from others, too.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,

    /// Port to listen on; 0 takes a free one.
    #[arg(long, value_name = "N", default_value = "8080", value_parser = port())]
    port: u16,

    /// Key that clients must send, as a bearer token or in x-api-key; may be given several times. Other users of the machine can
    /// read a command line, so the variable DSDE_API_KEY is a better place. Default: everybody may ask.
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,

    /// Origin whose web pages may use the server, as `https://example.org`, or `*` for all; may be given several times. Default: none.
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    cors_origin: Vec<String>,

    /// Name of the model in requests and answers; may be given several times. Default: ORG/NAME,
    /// the name of its folder, that of its file without .gguf, or `demo`.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    served_model_name: Vec<String>,

    /// Connections at once; more are answered with status 503 or closed.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = positive_up_to(CONNECTIONS_MAX))]
    max_connections: NonZeroU32,

    /// Send streams at most every so many milliseconds, all that came meanwhile together, in events of few different sizes. Who
    /// watches an encrypted connection then learns less of how many tokens each step kept. At most 1000. Default: send tokens as
    /// they come.
    #[arg(long, value_name = "MS", value_parser = positive_up_to(PACE_MS_MAX))]
    pace: Option<NonZeroU32>,

    /// Longest time for an answer, seconds. One that has begun then ends with what it has, as if `max_tokens` had ended it; one that
    /// has not becomes status 504.
    #[arg(long, value_name = "S", default_value = "600", value_parser = positive_up_to(SECONDS_MAX))]
    request_timeout: NonZeroU32,

    /// How long requests are still taken after SIGTERM, seconds; `/ready` says 503 meanwhile, so that whoever sends them hears
    /// of it and turns elsewhere.
    #[arg(long, value_name = "S", default_value = "5", value_parser = whole_number_in(0..=SECONDS_MAX))]
    drain_delay: u32,

    /// Longest time for requests in flight when the server ends, seconds; --drain-delay is part of it.
    #[arg(long, value_name = "S", default_value = "30", value_parser = positive_up_to(SECONDS_MAX))]
    drain_timeout: NonZeroU32,

    /// Write every step as a line of JSON; docs/trace.md describes it. An existing file is replaced.
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,

    /// TOML file with more options.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub(crate) fn run() -> Outcome {
    // Program name and command stand before the options.
    let typed: Vec<OsString> = std::env::args_os().skip(2).collect();
    let args = options::layered(&typed, |name| std::env::var_os(name))?;
    check_address(&args.host, args.port)?;
    let plan = args.engine.plan()?;
    if let Some(reason) = &plan.template_fault {
        tracing::warn!("only completions are served: {reason}");
    }
    let session = Session::open(&plan.models, &plan.wish)?;
    let mut config = server_config(&args, &plan);
    config.trial = Some(Trial::by_this_program().context("cannot tell where this program is")?);
    config.sampling = session.sampling(args.engine.defaults);
    warn_if_open(&args.host, &config);
    let banner = banner(&session, &plan, &config);
    let Session { mut engine, tokenizer, template, eos_tokens, .. } = session;
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    engine.set_trace(trace.as_ref().map(TraceFile::sink));
    let text = Text { tokenizer, template, template_fault: plan.template_fault, eos_tokens, today };
    let listening = |address: SocketAddr| {
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(io::stderr(), "{banner}\nready: http://{address}");
    };
    dsde_server::run(engine, text, config, (&args.host, args.port), listening)?;
    trace.map_or(Ok(()), |trace| trace.finish())
}

/// Fetching and loading a large model takes a while, after which it is late to learn that another program listens there.
///
/// # Errors
/// If the address cannot be taken now.
fn check_address(host: &str, port: u16) -> Outcome {
    let taken = TcpListener::bind((host, port)).map(drop);
    Ok(taken.with_context(|| format!("cannot listen on {host}:{port}"))?)
}

fn server_config(args: &ServeArgs, plan: &EnginePlan) -> Config {
    let seconds = |n: NonZeroU32| Duration::from_secs(n.get().into());
    let mut config = Config::new(plan.model_name(), plan.policy());
    if !args.served_model_name.is_empty() {
        config.model_names = args.served_model_name.clone();
    }
    config.api_keys = args.api_key.clone();
    config.cors_origins = args.cors_origin.clone();
    config.waiting_max = plan.waiting_max();
    config.connections_max = args.max_connections.get();
    config.request_timeout = seconds(args.request_timeout);
    config.pace = args.pace.map(|pace| Duration::from_millis(pace.get().into()));
    config.drain_delay = Duration::from_secs(args.drain_delay.into());
    config.drain_timeout = seconds(args.drain_timeout);
    config
}

/// An origin as browsers write it.
fn origin(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map(|(_, host)| host);
    let is_host = |host: &str| !host.is_empty() && host.is_ascii() && !host.contains(['/', '*', ' ', '?']);
    match text == "*" || host.is_some_and(is_host) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("expected a scheme and a host without a path, as https://example.org, or *".to_owned()),
    }
}

/// Parses a port.
fn port() -> impl TypedValueParser<Value = u16> {
    whole_number_in(0..=u16::MAX.into()).try_map(u16::try_from)
}

fn warn_if_open(host: &str, config: &Config) {
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_loopback && config.api_keys.is_empty() {
        tracing::warn!("--host {host} lets other machines in, and no --api-key keeps anybody out");
    }
}

fn banner(session: &Session, plan: &EnginePlan, config: &Config) -> String {
    let (shape, memory) = (session.engine.shape(), session.memory);
    let weights = match memory.draft_weight_bytes {
        0 => bytes(memory.target_weight_bytes),
        draft => format!("{} and {} of the draft", bytes(memory.target_weight_bytes), bytes(draft)),
    };
    let states = match memory.state_bytes {
        0 => String::new(),
        states => format!("; at most {} of states", bytes(states)),
    };
    format!(
        "dsde {version} serves {names}\n  \
         model {target}, draft {draft}, policy {policy}\n  \
         kernels {kernels}\n  \
         weights {weights}; key/value stores {stores}{states}\n  \
         {max_concurrency} sequences at once, {waiting} waiting, context {context} tokens, {keys}{sampling}",
        version = env!("CARGO_PKG_VERSION"),
        names = config.model_names.join(", "),
        target = plan.models.target,
        max_concurrency = plan.sequences_max(),
        draft = session.draft,
        policy = config.policy,
        kernels = session.machine().backend,
        stores = bytes(memory.kv_bytes),
        waiting = config.waiting_max,
        context = shape.context_len_max,
        sampling = match config.sampling.to_string() {
            none if none.is_empty() => none,
            some => format!("\n  the model's own sampling unless a request has another: {some}"),
        },
        keys = if config.api_keys.is_empty() { "no key needed" } else { "a key is needed" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_tells_the_limits() {
        let Config { body_bytes_max, head_bytes_max, head_timeout, connections_max, .. } =
            Config::new("m", "off");
        for limit in [
            format!("body has at most {} MiB", body_bytes_max >> 20),
            format!("request head {} KiB and {} s", head_bytes_max >> 10, head_timeout.as_secs()),
        ] {
            assert!(EXAMPLES.contains(&limit), "{limit}");
        }
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let defaults = command.get_arguments().find(|arg| arg.get_long() == Some("max-connections")).unwrap();
        assert_eq!(defaults.get_default_values(), [connections_max.to_string().as_str()]);
    }
}
