//! From a request of Dynamo to one of the engine.
//!
//! What the engine cannot do is refused by name, never passed over: an answer that looks right and is not costs more than an error.

use dsde_checkpoint::config::SamplingDefaults;
use dsde_engine::{Request, Stop};
use dsde_sampling::Params;
use dsde_server::Form;
use dynamo_backend_common::{
    OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions, engine::RoutingHints,
};

use crate::form::form;

/// What the served model says about requests.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    /// Tokens that end a text.
    pub(crate) eos_tokens: Vec<u32>,
    /// Values for what a request leaves out of how to sample.
    pub(crate) sampling: SamplingDefaults,
    /// Whether anybody drafts.
    pub(crate) can_draft: bool,
}

/// What is to be generated.
#[derive(Debug)]
pub(crate) struct Order {
    /// For the engine, but for the form.
    pub(crate) request: Request,
    /// The form of the answer, if it must have one.
    pub(crate) form: Option<Form>,
    /// What is told beside tokens.
    pub(crate) told: Told,
}

/// Log-probabilities that are told: how many of the most probable tokens beside the one that stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Of every emitted token.
    pub(crate) output: Option<u32>,
    /// Of every token of the prompt but the first.
    pub(crate) prompt: Option<u32>,
}

/// The annotation by which a request chooses its policy: `dsde_policy:NAME[:KEY=VALUE,...]`.
const POLICY: &str = "dsde_policy";

/// Reads a request.
///
/// # Errors
/// What the engine cannot do or makes no sense, and what could be asked instead.
pub(crate) fn order(request: &PreprocessedRequest, defaults: &Defaults) -> Result<Order, String> {
    check_supported(request)?;
    let PreprocessedRequest { sampling_options, stop_conditions, output_options, .. } = request;
    let told = told(output_options);
    let mut params = params(sampling_options, &defaults.sampling)?;
    params.logprobs = told.output.max(told.prompt);
    let tokens_max = stop_conditions.max_tokens.unwrap_or(u32::MAX);
    let mut asked = Request::new(request.token_ids.to_vec(), params, tokens_max);
    asked.tokens_min = stop_conditions.min_tokens.unwrap_or(0);
    asked.stop = stop(stop_conditions, request.eos_token_ids.iter().chain(&defaults.eos_tokens));
    asked.scores_prompt = told.prompt.is_some();
    asked.policy = policy(request, defaults)?;
    if let Some(RoutingHints { priority, cache_namespace, .. }) = &request.routing {
        // Higher is more important there, and lower runs first here.
        asked.priority = priority.unwrap_or(0).saturating_neg();
        asked.salt = cache_namespace.clone().unwrap_or_default();
    }
    let form = sampling_options.guided_decoding.clone().map(form).transpose()?.flatten();
    Ok(Order { request: asked, form, told })
}

/// Refuses what would change the answer and cannot be had.
fn check_supported(request: &PreprocessedRequest) -> Result<(), String> {
    let sampling = &request.sampling_options;
    for (name, got) in [("n", sampling.n), ("best_of", sampling.best_of)] {
        if let Some(got) = got.filter(|&n| n != 1) {
            return Err(format!("`{name}` must be 1, got {got}: a worker of Dynamo answers with one choice"));
        }
    }
    let routing = request.routing.as_ref();
    let asked = [
        ("beam search (`use_beam_search`)", sampling.use_beam_search == Some(true)),
        ("`length_penalty`", sampling.length_penalty.is_some_and(|penalty| penalty != 1.0)),
        (
            "a bound on thinking (`max_thinking_tokens`)",
            request.stop_conditions.max_thinking_tokens.is_some(),
        ),
        ("an adapter (`lora_name`)", routing.is_some_and(|routing| routing.lora_name.is_some())),
        ("embeddings as a prompt (`prompt_embeds`)", request.prompt_embeds.is_some()),
        ("pictures, sound or video", request.multi_modal_data.as_ref().is_some_and(|data| !data.is_empty())),
        ("an encoder on another worker", request.encoder_result.is_some()),
        ("prefill on another worker", request.prefill_result.is_some() || request.bootstrap_info.is_some()),
    ];
    match asked.into_iter().find(|(_, is_asked)| *is_asked) {
        Some((name, _)) => Err(format!("{name} is not supported by this engine")),
        None => Ok(()),
    }
}

fn told(options: &OutputOptions) -> Told {
    Told { output: options.logprobs, prompt: options.prompt_logprobs }
}

fn params(options: &SamplingOptions, defaults: &SamplingDefaults) -> Result<Params, String> {
    let off = Params::greedy();
    let top_k = match options.top_k {
        None => defaults.top_k.unwrap_or(off.top_k),
        Some(-1) => 0,
        Some(top_k) => {
            u32::try_from(top_k).map_err(|_| format!("`top_k` must be -1 (off) or more, got {top_k}"))?
        }
    };
    // 0 keeps the most probable token, as the smallest number does.
    let top_p = options.top_p.or(defaults.top_p).unwrap_or(off.top_p);
    let top_p = if top_p == 0.0 { f32::MIN_POSITIVE } else { top_p };
    let repetition_penalty = options.repetition_penalty.or(defaults.repetition_penalty);
    Ok(Params {
        temperature: options.temperature.or(defaults.temperature).unwrap_or(1.0),
        top_k,
        top_p,
        min_p: options.min_p.or(defaults.min_p).unwrap_or(off.min_p),
        repetition_penalty: repetition_penalty.unwrap_or(off.repetition_penalty),
        presence_penalty: options.presence_penalty.unwrap_or(off.presence_penalty),
        frequency_penalty: options.frequency_penalty.unwrap_or(off.frequency_penalty),
        seed: options.seed.map(i64::cast_unsigned),
        ..off
    })
}

/// When to end. Whether tokens that end a text are shown is up to the frontend, so all kinds of them are one here.
///
/// * `eos_tokens`: tokens that end a text unless that is not wanted.
fn stop<'a>(conditions: &StopConditions, eos_tokens: impl Iterator<Item = &'a u32>) -> Stop {
    let StopConditions { stop, stop_token_ids, stop_token_ids_visible, stop_token_ids_hidden, .. } =
        conditions;
    let listed = [stop_token_ids, stop_token_ids_visible, stop_token_ids_hidden];
    let mut tokens: Vec<u32> = listed.into_iter().flatten().flatten().copied().collect();
    if !conditions.ignore_eos.unwrap_or(false) {
        tokens.extend(eos_tokens);
    }
    tokens.sort_unstable();
    tokens.dedup();
    let strings = stop.iter().flatten().filter(|string| !string.is_empty()).cloned().collect();
    Stop { tokens, strings }
}

fn policy(
    request: &PreprocessedRequest,
    defaults: &Defaults,
) -> Result<Option<dsde_policy::registry::Config>, String> {
    let Some(text) = request.get_annotation_value(POLICY) else {
        return Ok(None);
    };
    let policy: dsde_policy::registry::Config =
        text.parse().map_err(|error| format!("annotation `{POLICY}`: {error}"))?;
    if !defaults.can_draft && policy.entry().name != "off" {
        return Err(format!("policy {policy} needs a drafter and this worker has none; `off` can be chosen"));
    }
    Ok(Some(policy))
}
