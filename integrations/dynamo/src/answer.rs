//! From what the engine emits to what Dynamo streams.

use std::collections::HashMap;
use std::sync::Arc;

use dsde_engine::{EmittedToken, FinishReason as EngineReason};
use dsde_sampling::TokenLogprobs;
use dsde_server::{Answer, Delta, Detail, Done, SpeculativeStep, statistics};
use dynamo_backend_common::{
    AsyncEngineContext, CompletionUsage, DynamoError, FinishReason, LLMEngineOutput, PromptTokensDetails,
    TopLogprob, usage,
};
use serde_json::{Value, json};

use crate::error;
use crate::request::Told;
use crate::running::Ticket;

/// One answer on its way out. Its request ends with it: nothing of it is left in the engine when it is dropped.
pub(crate) struct Generation {
    /// `None` after the last item.
    open: Option<Answer>,
    /// Held until whoever sends the items is done with the last one.
    _ticket: Ticket,
    context: Arc<dyn AsyncEngineContext>,
    prompt: Arc<Vec<u32>>,
    eos_tokens: Vec<u32>,
    told: Told,
    scored: Vec<TokenLogprobs>,
    steps: Vec<SpeculativeStep>,
    last_token: Option<u32>,
}

/// What an answer was asked with.
pub(crate) struct Asked {
    pub(crate) context: Arc<dyn AsyncEngineContext>,
    pub(crate) prompt: Arc<Vec<u32>>,
    pub(crate) eos_tokens: Vec<u32>,
    pub(crate) told: Told,
}

impl Generation {
    pub(crate) fn new(answer: Answer, ticket: Ticket, asked: Asked) -> Self {
        let Asked { context, prompt, eos_tokens, told } = asked;
        Self {
            open: Some(answer),
            _ticket: ticket,
            context,
            prompt,
            eos_tokens,
            told,
            scored: Vec::new(),
            steps: Vec::new(),
            last_token: None,
        }
    }

    /// What comes next: all tokens since the last look. The last item says how it ended; `None` follows it.
    pub(crate) async fn next(&mut self) -> Option<Result<LLMEngineOutput, DynamoError>> {
        loop {
            let answer = self.open.as_mut()?;
            let updates = tokio::select! {
                biased;
                () = self.context.stopped() => None,
                () = self.context.killed() => None,
                updates = answer.next() => updates,
            };
            // One choice, so one update.
            let Some(update) = updates.and_then(|mut updates| updates.pop()) else {
                self.open = None;
                return Some(Ok(LLMEngineOutput::cancelled()));
            };
            let chunk = self.chunk(update.delta);
            match update.end {
                None if chunk.token_ids.is_empty() => {}
                None => return Some(Ok(chunk)),
                Some(end) => {
                    self.open = None;
                    return Some(end.map(|done| self.last(chunk, done)).map_err(error::lost));
                }
            }
        }
    }

    fn chunk(&mut self, delta: Delta) -> LLMEngineOutput {
        let Delta { scored, tokens, speculative_steps, .. } = delta;
        self.scored.extend(scored);
        self.steps.extend(speculative_steps);
        self.last_token = tokens.last().map(|token| token.token).or(self.last_token);
        let of_tokens = |list: &dyn Fn(&TokenLogprobs) -> Vec<TopLogprob>| {
            tokens.iter().map(|token| token.logprobs.as_ref().map_or_else(Vec::new, list)).collect()
        };
        LLMEngineOutput {
            token_ids: tokens.iter().map(|token| token.token).collect(),
            log_probs: self.told.output.map(|_| tokens.iter().map(logprob).collect()),
            top_logprobs: self.told.output.map(|n| of_tokens(&|logprobs| most_probable(logprobs, n))),
            index: Some(0),
            ..LLMEngineOutput::default()
        }
    }

    fn last(&self, chunk: LLMEngineOutput, Done { reason, timeline }: Done) -> LLMEngineOutput {
        let is_eos = self.last_token.is_some_and(|token| self.eos_tokens.contains(&token));
        let finish_reason = match reason {
            EngineReason::Stop if is_eos => FinishReason::EoS,
            EngineReason::Stop => FinishReason::Stop,
            EngineReason::Length => FinishReason::Length,
            EngineReason::Cancelled | EngineReason::Failed | EngineReason::FormLost => {
                FinishReason::Cancelled
            }
        };
        let mut engine_data = json!({
            "metrics": statistics(Detail::Summary, &timeline, &self.steps),
            "kv_cache_hit": {"prompt_tokens": self.prompt.len(), "reused_tokens": timeline.cached_tokens},
        });
        if let Some(n) = self.told.prompt {
            engine_data["prompt_logprobs"] = prompt_logprobs(&self.prompt, &self.scored, n);
        }
        LLMEngineOutput {
            finish_reason: Some(finish_reason),
            completion_usage: Some(usage_of(&timeline)),
            engine_data: Some(engine_data),
            ..chunk
        }
    }
}

/// Tokens that were counted, in `OpenAI`'s words.
fn usage_of(timeline: &dsde_engine::RequestTimeline) -> CompletionUsage {
    let mut counted = usage(timeline.prompt_tokens, timeline.emitted);
    counted.prompt_tokens_details = Some(PromptTokensDetails {
        cached_tokens: Some(timeline.cached_tokens),
        ..PromptTokensDetails::default()
    });
    let details = counted.completion_tokens_details.get_or_insert_default();
    // What was kept of the last proposal may be cut off by a stop condition.
    details.accepted_prediction_tokens = Some(timeline.accepted.min(timeline.emitted));
    details.rejected_prediction_tokens = Some(timeline.verified - timeline.accepted);
    counted
}

fn logprob(token: &EmittedToken) -> f64 {
    token.logprobs.as_ref().map_or(f64::NAN, |logprobs| logprobs.logprob.into())
}

/// The `n` most probable tokens; their text is up to the frontend.
fn most_probable(logprobs: &TokenLogprobs, n: u32) -> Vec<TopLogprob> {
    let ranked = logprobs.top.iter().zip(1..=n);
    ranked
        .map(|(&(token_id, logprob), rank)| TopLogprob {
            rank,
            token_id,
            token: None,
            logprob: logprob.into(),
            bytes: None,
        })
        .collect()
}

/// Per token of the prompt a map from token to `logprob` and `rank`, in vLLM's shape; `null` for the first one, before which is
/// nothing to tell it from. A token that is none of the `n` most probable ones has no rank.
fn prompt_logprobs(prompt: &[u32], scored: &[TokenLogprobs], n: u32) -> Value {
    let entry = |logprob: f32, rank: Option<u32>| match rank {
        Some(rank) => json!({"logprob": logprob, "rank": rank}),
        None => json!({"logprob": logprob}),
    };
    let position = |(token, logprobs): (&u32, &TokenLogprobs)| -> HashMap<String, Value> {
        let ranked = logprobs.top.iter().zip(1..=n);
        let mut map: HashMap<_, _> =
            ranked.map(|(&(token, logprob), rank)| (token.to_string(), entry(logprob, Some(rank)))).collect();
        map.entry(token.to_string()).or_insert_with(|| entry(logprobs.logprob, None));
        map
    };
    let known = prompt.iter().skip(1).zip(scored).map(|pair| json!(position(pair)));
    std::iter::once(Value::Null).chain(known).collect()
}
