//! Options of `serve` from three places: what is typed beats the environment, and that beats a file.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};

use super::ServeArgs;
use crate::failure::{OrUsage as _, Outcome, usage};

/// Longest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Begins the name of every variable.
const VARIABLE_PREFIX: &str = "DSDE_";

/// The options of a command line, completed by variables, completed by the file that either of them names.
///
/// * `typed`: what stands behind the name of the command.
/// * `variable`: the value of an environment variable; empty ones count as not set, and so do those that Kubernetes sets.
///
/// # Errors
/// If a variable or the file has what the command line would not accept.
pub(super) fn layered(typed: &[OsString], variable: impl Fn(&str) -> Option<OsString>) -> Outcome<ServeArgs> {
    let mut given = given(&parsed(typed, "the command line")?);
    let mut arguments = typed.to_vec();
    for option in names() {
        let name = variable_of(&option);
        let value = variable(&name).filter(|value| !value.is_empty() && !is_service_link(&name, value));
        if let Some(value) = value.filter(|_| !given.contains(&option)) {
            let mut argument = OsString::from(format!("--{option}="));
            argument.push(value);
            // By itself, so that the right one is blamed.
            parsed(std::slice::from_ref(&argument), &name)?;
            arguments.push(argument);
            given.insert(option);
        }
    }
    let args = args_of(&mut parsed(&arguments, "the environment")?)?;
    let Some(path) = args.config else {
        return Ok(args);
    };
    let name = path.display();
    let options = file_options(&read(&path)?).or_usage_of(&name)?;
    let missing = options.into_iter().filter(|(option, _)| !given.contains(option));
    arguments.extend(missing.map(|(option, value)| OsString::from(format!("--{option}={value}"))));
    args_of(&mut parsed(&arguments, &name.to_string())?)
}

/// `DSDE_MAX_WAITING` of `max-waiting`.
fn variable_of(option: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", option.replace('-', "_").to_uppercase())
}

/// Whether Kubernetes made up a variable: for a Service called `dsde` it sets `DSDE_PORT` in every pod, to an address.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let text = value.to_string_lossy();
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let is_link = name.ends_with("_PORT") && is_address;
    if is_link {
        tracing::warn!(
            "{name}={text} is what Kubernetes sets for a Service called dsde, and is ignored; \
             enableServiceLinks: false in the pod avoids it"
        );
    }
    is_link
}

fn command() -> Command {
    ServeArgs::augment_args(Command::new("serve").no_binary_name(true))
}

/// Long names of all options.
fn names() -> Vec<String> {
    command().get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

/// Long names of the options that were typed.
fn given(matches: &ArgMatches) -> HashSet<String> {
    let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let command = command();
    let typed = command.get_arguments().filter(|arg| is_typed(arg.get_id().as_str()));
    typed.filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

/// * `place`: what is to blame if options cannot be read.
fn parsed(arguments: &[OsString], place: &str) -> Outcome<ArgMatches> {
    command().try_get_matches_from(arguments).map_err(|error| {
        let text = error.to_string();
        // What could be said instead follows the first line, and general advice an empty one.
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let message = lines.collect::<Vec<_>>().join(" ");
        usage(format!("{place}: {}", message.trim_start_matches("error: ")))
    })
}

fn args_of(matches: &mut ArgMatches) -> Outcome<ServeArgs> {
    ServeArgs::from_arg_matches_mut(matches).or_usage()
}

fn read(path: &Path) -> Outcome<String> {
    let name = path.display();
    let len = fs::metadata(path).or_usage_of(format!("cannot read {name}"))?.len();
    if len > FILE_BYTES_MAX {
        return Err(usage(format!("{name} must have at most {FILE_BYTES_MAX} bytes, got {len}")));
    }
    fs::read_to_string(path).or_usage_of(format!("cannot read {name}"))
}

/// A TOML table as options and their values; a list repeats its option.
fn file_options(text: &str) -> anyhow::Result<Vec<(String, String)>> {
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
                toml::Value::Boolean(flag) => flag.to_string(),
                other => {
                    anyhow::bail!(
                        "`{key}` must be a text, a whole number, true or false, or a list of them, got a {}",
                        other.type_str()
                    )
                }
            };
            options.push((key.replace('_', "-"), value));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::engine_args::EngineArgs;
    use crate::failure::Failure;

    /// A value of every option that is none of its defaults.
    const SAMPLES: &[(&str, &str)] = &[
        ("host", "127.0.0.2"),
        ("port", "9000"),
        ("api-key", "secret"),
        ("cors-origin", "https://example.org"),
        ("served-model-name", "mine"),
        ("max-concurrency", "4"),
        ("max-waiting", "5"),
        ("max-connections", "6"),
        ("kv-memory", "1MiB"),
        ("pace", "100"),
        ("request-timeout", "7"),
        ("drain-delay", "0"),
        ("drain-timeout", "8"),
        ("trace", "steps.jsonl"),
        ("policy", "fixed:k=3"),
        ("verification", "token"),
        ("model", "some/folder"),
        ("draft", "ngram"),
        ("draft-weights", "stored"),
        ("threads", "9"),
        ("kv-blocks", "10"),
        ("kv-type", "int8"),
        ("context", "11"),
        ("generation-config", "none"),
        ("allow-control-tokens", "true"),
    ];

    fn from(typed: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Outcome<ServeArgs> {
        let mut typed: Vec<OsString> = typed.iter().map(OsString::from).collect();
        let place = tempfile::NamedTempFile::new().unwrap();
        if let Some(text) = file {
            fs::write(place.path(), text).unwrap();
            typed.extend(["--config".into(), place.path().into()]);
        }
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        layered(&typed, |name| variables.get(name).map(OsString::from))
    }

    /// Everything but where the file lies.
    fn shown(args: Outcome<ServeArgs>) -> String {
        format!("{:?}", ServeArgs { config: None, ..args.ok().unwrap() })
    }

    #[test]
    fn command_line_environment_and_file_say_the_same() {
        let mut sampled: Vec<&str> = SAMPLES.iter().map(|(option, _)| *option).collect();
        sampled.push("config");
        sampled.sort_unstable();
        let mut all = names();
        all.sort_unstable();
        assert_eq!(sampled, all, "every option has a sample");
        let defaults = shown(from(&[], &[], None));
        for (option, value) in SAMPLES {
            let typed = shown(from(&[&format!("--{option}={value}")], &[], None));
            assert_ne!(typed, defaults, "{option}");
            assert_eq!(shown(from(&[], &[(&variable_of(option), value)], None)), typed, "{option}");
            for key in [option.to_string(), option.replace('-', "_")] {
                let quoted = format!("{key} = '{value}'");
                assert_eq!(shown(from(&[], &[], Some(&quoted))), typed, "{quoted}");
            }
        }
        assert_eq!(shown(from(&[], &[], Some("port = 9000"))), shown(from(&["--port", "9000"], &[], None)));
    }

    #[test]
    fn what_is_typed_beats_the_environment_and_that_the_file() {
        let file = "port = 1\nmax_concurrency = 1\nmax-waiting = 1\napi-key = ['a', 'b']\n";
        let variables = [("DSDE_PORT", "2"), ("DSDE_MAX_CONCURRENCY", "2"), ("DSDE_HOST", "")];
        let args = from(&["--port", "3"], &variables, Some(file)).ok().unwrap();
        let EngineArgs { max_concurrency, max_waiting, .. } = args.engine;
        assert_eq!((args.port, max_concurrency.get(), max_waiting.get()), (3, 2, 1));
        assert_eq!(args.api_key, ["a", "b"]);
        assert_eq!(args.host, "127.0.0.1", "an empty variable is none");
        let typed = from(&["--api-key", "c"], &[("DSDE_API_KEY", "d")], Some(file)).ok().unwrap();
        assert_eq!(typed.api_key, ["c"], "keys of other places would let in whom nobody meant");
    }

    #[test]
    fn a_service_link_of_kubernetes_is_no_port() {
        for value in ["tcp://10.0.0.1:8080", "udp://10.0.0.1:53"] {
            let args = from(&[], &[("DSDE_PORT", value)], Some("port = 7")).ok().unwrap();
            assert_eq!(args.port, 7, "{value}");
        }
        assert!(from(&[], &[("DSDE_PORT", "http://10.0.0.1:8080")], None).is_err());
    }

    #[test]
    fn a_variable_that_cannot_be_read_is_named_with_what_it_should_hold() {
        let cases = [
            ("DSDE_PORT", "65536", "expected a whole number in 0..=65535"),
            ("DSDE_PORT", "x", "expected a whole number in 0..=65535"),
            ("DSDE_MAX_WAITING", "0", "expected a whole number in 1..=4096"),
            ("DSDE_THREADS", "two", "expected a whole number in 1..=1024"),
            ("DSDE_CONTEXT", "1", "expected a whole number in 2..=4294967295"),
            ("DSDE_DRAIN_DELAY", "-1", "expected a whole number in 0..=86400"),
            ("DSDE_KV_MEMORY", "4GB", "expected a size of at least 1 byte"),
            ("DSDE_VERIFICATION", "tree", "[possible values: block, token]"),
            ("DSDE_POLICY", "fast", "expected one of: auto, off"),
        ];
        for (name, value, expected) in cases {
            let Err(Failure::Usage(error)) = from(&["--host", "::1"], &[(name, value)], None) else {
                panic!("{name}={value} is refused");
            };
            let message = error.to_string();
            assert!(message.starts_with(&format!("{name}: invalid value '{value}'")), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_file_may_be_named_by_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "port = 7").unwrap();
        let path = file.path().as_os_str().to_owned();
        let args = layered(&[], |name| (name == "DSDE_CONFIG").then(|| path.clone())).ok().unwrap();
        assert_eq!(args.port, 7);
    }

    #[test]
    fn mistakes_are_refused_wherever_they_stand() {
        let nameless = "a value is required for '--served-model-name <NAME>' but none was supplied";
        for (typed, file) in
            [(&["--served-model-name", ""][..], None), (&[], Some("served-model-name = ['a', '']"))]
        {
            let refused = from(typed, &[], file).err().map(|failure| failure.line());
            assert!(refused.as_ref().is_some_and(|line| line.contains(nameless)), "{refused:?}");
        }
        for text in ["port = ", "port = 1.5", "prot = 1", "port = 'x'", "config = 'y'", "[model]\na = 1"] {
            assert!(from(&[], &[], Some(text)).is_err(), "{text}");
        }
        for variable in [("DSDE_PORT", "x"), ("DSDE_POLICY", "fast"), ("DSDE_CONFIG", "no/such/file")] {
            assert!(from(&[], &[variable], None).is_err(), "{variable:?}");
        }
    }
}
