//! `dsde serve`: the model behind an HTTP server.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Command, FromArgMatches as _};
use dsde_server::{Config, Text};

use crate::args::{CONCURRENCY_MAX, ModelArgs, PolicyArgs, positive_up_to};
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::opened::chat_template;
use crate::session::{Form, Models, Session, Wish};
use crate::speculation::{Source, policy_for};
use crate::stores::bytes;
use crate::today::today;

/// Keys may stand here instead of on the command line, which other users of the machine can read.
const API_KEY_VARIABLE: &str = "DSDE_API_KEY";
/// Longest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest time limit that can be asked for: a day.
const SECONDS_MAX: u32 = 86_400;

const EXAMPLES: &str = "\
Examples:
  dsde serve
  dsde serve --model ./Qwen3-8B --draft ./Qwen3-0.6B --port 8000
  curl localhost:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello.\"}]}'

A file given to --config holds the same options, for example `port = 8000` or `model = \"./Qwen3-8B\"`; what is typed takes \
precedence. SIGINT or SIGTERM ends the server after the requests in flight; a second one at once.";

/// Serve a model over HTTP in the OpenAI API
///
/// Chat and text completions with streaming, Prometheus metrics, and everything else that docs/serving.md lists.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// Address to listen on; others than this machine reach only what is not a loopback address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,

    /// Port to listen on; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,

    /// Key that clients must send, as a bearer token or in x-api-key; may be given several times. Default: the variable
    /// DSDE_API_KEY, else everybody may ask.
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,

    /// Name of the model in requests and answers; may be given several times. Default: the name of its folder, or `demo`.
    #[arg(long, value_name = "NAME")]
    served_model_name: Vec<String>,

    /// Sequences that run at once; more wait.
    #[arg(long, value_name = "C", default_value = "32", value_parser = positive_up_to(CONCURRENCY_MAX))]
    max_concurrency: NonZeroU32,

    /// Sequences that may wait; more requests are answered with status 429.
    #[arg(long, value_name = "N", default_value = "256", value_parser = positive_up_to(CONCURRENCY_MAX))]
    max_waiting: NonZeroU32,

    /// Memory of the key/value stores, for example 512MiB or 4GiB, instead of --kv-blocks.
    #[arg(long, value_name = "SIZE", conflicts_with = "kv_blocks", value_parser = memory, help_heading = "Model")]
    kv_memory: Option<u64>,

    /// Longest time for an answer, seconds.
    #[arg(long, value_name = "S", default_value = "600", value_parser = positive_up_to(SECONDS_MAX))]
    request_timeout: NonZeroU32,

    /// Longest time for requests in flight when the server ends, seconds.
    #[arg(long, value_name = "S", default_value = "30", value_parser = positive_up_to(SECONDS_MAX))]
    drain_timeout: NonZeroU32,

    /// TOML file with more options.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub(crate) fn run(args: ServeArgs) -> Outcome {
    // Program name and command stand before the options.
    let args = match &args.config {
        Some(path) => under_file(path, std::env::args_os().skip(2))?,
        None => args,
    };
    let models = Models::new(&args.model)?.with_kv_bytes(args.kv_memory);
    let policy = policy_for(args.policy.policy.clone(), &models.draft)?;
    let models = models.under(&policy);
    let form = match chat_template(&models.target) {
        Ok(_) => Form::Chat,
        Err(error) => {
            tracing::warn!("there is no chat template, so only completions are served: {error}");
            Form::Raw
        }
    };
    let rule = args.policy.verification.into();
    let wish = Wish { policy, rule, form, n_sequences: args.max_concurrency, prefix_cache: true };
    let session = Session::open(&models, &wish)?;
    let config = server_config(&args, &models.target, wish.policy.to_string());
    warn_if_open(&args.host, &config);
    let banner = banner(&session, &models, &config, args.max_concurrency);
    let Session { engine, tokenizer, template, eos_tokens, .. } = session;
    let text = Text { tokenizer, template, eos_tokens, today };
    let listening = |address: SocketAddr| {
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(io::stderr(), "{banner}\nready: http://{address}");
    };
    Ok(dsde_server::run(engine, text, config, (&args.host, args.port), listening)?)
}

fn server_config(args: &ServeArgs, target: &Source, policy: String) -> Config {
    let seconds = |n: NonZeroU32| Duration::from_secs(n.get().into());
    let mut api_keys = args.api_key.clone();
    if api_keys.is_empty() {
        api_keys.extend(std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.is_empty()));
    }
    let mut config = Config::new(model_name(target), policy);
    if !args.served_model_name.is_empty() {
        config.model_names = args.served_model_name.clone();
    }
    config.api_keys = api_keys;
    config.waiting_max = args.max_waiting.get();
    config.request_timeout = seconds(args.request_timeout);
    config.drain_timeout = seconds(args.drain_timeout);
    config
}

/// The last part of the folder's path.
fn model_name(target: &Source) -> String {
    let Source::Folder(path) = target else {
        return target.to_string();
    };
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    path.file_name().map_or_else(|| target.to_string(), |name| name.to_string_lossy().into_owned())
}

fn warn_if_open(host: &str, config: &Config) {
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_loopback && config.api_keys.is_empty() {
        tracing::warn!("--host {host} lets other machines in, and no --api-key keeps anybody out");
    }
}

fn banner(session: &Session, models: &Models, config: &Config, max_concurrency: NonZeroU32) -> String {
    let (shape, memory) = (session.engine.shape(), session.engine.executor().memory());
    let weights = match memory.draft_weight_bytes {
        0 => bytes(memory.target_weight_bytes),
        draft => format!("{} and {} of the draft", bytes(memory.target_weight_bytes), bytes(draft)),
    };
    format!(
        "dsde {version} serves {names}\n  \
         model {target}, draft {draft}, policy {policy}\n  \
         kernels {kernels}\n  \
         weights {weights}; key/value stores {stores}\n  \
         {max_concurrency} sequences at once, {waiting} waiting, context {context} tokens, {keys}",
        version = env!("CARGO_PKG_VERSION"),
        names = config.model_names.join(", "),
        target = models.target,
        draft = models.draft,
        policy = config.policy,
        kernels = session.machine().backend,
        stores = bytes(memory.kv_bytes),
        waiting = config.waiting_max,
        context = shape.context_len_max,
        keys = if config.api_keys.is_empty() { "no key needed" } else { "a key is needed" },
    )
}

/// Options of a file, overridden by those typed.
fn under_file(path: &Path, typed: impl Iterator<Item = OsString>) -> Outcome<ServeArgs> {
    let name = path.display();
    let len = fs::metadata(path).or_usage_of(format!("cannot read {name}"))?.len();
    if len > FILE_BYTES_MAX {
        return Err(usage(format!("{name} must have at most {FILE_BYTES_MAX} bytes, got {len}")));
    }
    let text = fs::read_to_string(path).or_usage_of(format!("cannot read {name}"))?;
    let options = options_of(&text).or_usage_of(name)?;
    let arguments =
        std::iter::once(OsString::from("serve")).chain(options.into_iter().map(OsString::from)).chain(typed);
    let command = ServeArgs::augment_args(Command::new("serve")).args_override_self(true);
    let parsed =
        command.try_get_matches_from(arguments).and_then(|mut m| ServeArgs::from_arg_matches_mut(&mut m));
    parsed.map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        usage(format!("{}: {}", path.display(), line.trim_start_matches("error: ")))
    })
}

/// A TOML table as command-line options; a list repeats its option.
fn options_of(text: &str) -> anyhow::Result<Vec<String>> {
    let table: toml::Table = toml::from_str(text)?;
    let mut options = Vec::new();
    for (key, value) in table {
        anyhow::ensure!(key != "config", "a configuration file cannot name another one");
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                other => {
                    anyhow::bail!(
                        "`{key}` must be a text, a whole number or a list of them, got a {}",
                        other.type_str()
                    )
                }
            };
            options.push(format!("--{}={value}", key.replace('_', "-")));
        }
    }
    Ok(options)
}

/// Parses a number of bytes with a binary unit.
fn memory(text: &str) -> Result<u64, String> {
    let expected = || "expected a size of at least 1 byte such as 512MiB or 4GiB".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| expected())?;
    let unit = match text[digits.len()..].trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" | "B" => 1,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).filter(|&n_bytes| n_bytes > 0).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(memory("512MiB"), Ok(512 << 20));
        assert_eq!(memory("4 GiB"), Ok(4 << 30));
        assert_eq!(memory("4096"), Ok(4096));
        for text in ["", "GiB", "4GB", "1.5GiB", "0", "-1", "99999999999GiB"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_gives_options_and_what_is_typed_takes_precedence() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "port = 9000\nmax_concurrency = 4\napi-key = ['a', 'b']\npolicy = 'fixed:k=3'\nkv-memory = '1MiB'\n";
        fs::write(file.path(), text).unwrap();
        let typed = ["--port", "7", "--threads=1"].map(OsString::from);
        let args = under_file(file.path(), typed.into_iter()).ok().unwrap();
        assert_eq!((args.port, args.max_concurrency.get(), args.kv_memory), (7, 4, Some(1 << 20)));
        assert_eq!(args.api_key, ["a", "b"]);
        assert_eq!(args.policy.policy.unwrap().to_string(), "fixed:k=3");
        assert_eq!(args.model.threads.unwrap().get(), 1);
    }

    #[test]
    fn files_with_mistakes_are_refused() {
        for text in ["port = ", "port = 1.5", "prot = 1", "port = 'x'", "config = 'y'", "[model]\na = 1"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            assert!(under_file(file.path(), std::iter::empty()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_model_is_called_like_its_folder() {
        assert_eq!(model_name(&Source::Demo), "demo");
        assert_eq!(model_name(&Source::parse("/no/such/Qwen3-0.6B/")), "Qwen3-0.6B");
    }
}
