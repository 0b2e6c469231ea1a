//! What is typed.

use std::time::Duration;

use clap::Parser;
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use dsde_cli::{EngineArgs, EnginePlan, Failure, Outcome};
use dsde_server::Trial;
use dynamo_backend_common::{CommonArgs, DisaggregationMode, WorkerConfig};

use crate::worker::Worker;

/// Longest time that can be asked for: a day.
const SECONDS_MAX: u64 = 86_400;

const EXAMPLES: &str = "\
Examples:
  dsde-dynamo --discovery-backend file --model ./Qwen3-4B --draft ./Qwen3-0.6B
  dsde-dynamo --discovery-backend etcd --model Qwen/Qwen3-4B --policy auto
  dsde-dynamo --model ./Qwen3-4B-Q4_K_M.gguf --tokenizer Qwen/Qwen3-4B

Signals: SIGTERM and SIGINT take the worker out of discovery, wait as Dynamo's DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS says (5 s), \
let requests in flight end for --drain-timeout, and end the process.";

/// Serve a model as a worker of NVIDIA Dynamo
///
/// Options under Model and Speculation are those of `dsde serve`; docs/dynamo.md describes the rest.
#[derive(Clone, Debug, Parser)]
#[command(name = "dsde-dynamo", version, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,

    /// Name of the model in requests. Default: ORG/NAME, the name of its folder, or that of its file without .gguf.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    served_model_name: Option<String>,

    /// Folder or ORG/NAME whose tokenizer and chat template the frontend uses. Default: the model's folder; a GGUF file and
    /// the model `demo` have none that it could read.
    #[arg(long, value_name = "FOLDER|ORG/NAME")]
    tokenizer: Option<String>,

    /// Longest time for an answer, seconds; then it ends with what it has, as one that its token bound ends, and one that has not begun
    /// with an error.
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds(1))]
    request_timeout: u64,

    /// Longest time for requests in flight when the worker is told to end, seconds; then they end with an error that has the
    /// frontend go on with them elsewhere. Dynamo ends the process DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT seconds after its grace
    /// period, so two seconds less than that are the most.
    #[arg(long, value_name = "S", default_value = "25", value_parser = seconds(0))]
    drain_timeout: u64,

    #[command(flatten)]
    common: CommonArgs,
}

/// Bounds of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) request_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

impl Args {
    /// A worker that has loaded nothing yet, and how it is to be registered.
    ///
    /// * `trial`: who compiles each form first; without one, forms that take all memory take this process's.
    ///
    /// # Errors
    /// If there is no such model or tokenizer, or options contradict each other.
    pub fn worker(&self, trial: Option<Trial>) -> Outcome<(Worker, WorkerConfig)> {
        let plan = self.engine.plan()?;
        let config = self.worker_config(&plan)?;
        let name = self.served_model_name.clone().unwrap_or_else(|| plan.model_name());
        let limits = Limits {
            request_timeout: Duration::from_secs(self.request_timeout),
            drain_timeout: Duration::from_secs(self.drain_timeout),
        };
        Ok((Worker::new(plan, name, limits, trial), config))
    }

    fn worker_config(&self, plan: &EnginePlan) -> Outcome<WorkerConfig> {
        let CommonArgs {
            runtime,
            namespace,
            component,
            endpoint,
            endpoint_types,
            custom_jinja_template,
            dyn_tool_call_parser,
            dyn_reasoning_parser,
            exclude_tools_when_tool_choice_none,
            disaggregation_mode,
            route_to_encoder: _,
            enable_rl: _,
        } = self.common.clone();
        if disaggregation_mode != DisaggregationMode::Aggregated {
            let got = disaggregation_mode.as_str();
            return Err(usage(format!(
                "--disaggregation-mode must be agg, got {got}: this engine does both prefill and decode"
            )));
        }
        Ok(WorkerConfig {
            runtime,
            namespace,
            component,
            endpoint,
            endpoint_types: served_types(plan, endpoint_types, custom_jinja_template.is_some())?,
            model_name: self.tokenizer_source(plan)?,
            custom_jinja_template,
            tool_call_parser: dyn_tool_call_parser,
            reasoning_parser: dyn_reasoning_parser,
            exclude_tools_when_tool_choice_none,
            ..WorkerConfig::default()
        })
    }

    /// Where the frontend finds how to tokenise.
    fn tokenizer_source(&self, plan: &EnginePlan) -> Outcome<String> {
        if let Some(source) = &self.tokenizer {
            return Ok(source.clone());
        }
        match plan.model_path().filter(|path| path.is_dir() && path.join("tokenizer.json").is_file()) {
            Some(folder) => Ok(folder.display().to_string()),
            None => Err(usage(format!(
                "the frontend cannot read the tokenizer of {}; name a folder or ORG/NAME that has it by --tokenizer",
                plan.model_name()
            ))),
        }
    }
}

/// The endpoint types that were asked for; without a chat template there are no chats.
fn served_types(plan: &EnginePlan, asked: String, has_own_template: bool) -> Outcome<String> {
    let Some(fault) = plan.template_fault().filter(|_| !has_own_template) else {
        return Ok(asked);
    };
    let types: Vec<&str> = asked.split(',').filter(|kind| kind.trim() != "chat").collect();
    if types.is_empty() {
        return Err(usage(format!("no chats can be served: {fault}; give a --custom-jinja-template")));
    }
    tracing::warn!("no chats are served: {fault}");
    Ok(types.join(","))
}

fn usage(message: String) -> Failure {
    Failure::Usage(anyhow::Error::msg(message))
}

fn seconds(least: u64) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(least..=SECONDS_MAX)
}
