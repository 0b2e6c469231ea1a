//! The span of a generation, in the words of OpenTelemetry's conventions for generative models.
//!
//! It begins when a request is complete and ends with its answer, however it ends; an exporter that listens to spans finds
//! request, model, tokens, policy and outcome on it.

use dsde_engine::{Request, RequestTimeline};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::inbox::Loss;

/// A generation under way.
#[derive(Debug)]
pub(crate) struct GenerationSpan {
    span: Span,
    is_ended: bool,
}

/// What is known when a generation begins.
pub(crate) struct Beginning<'a> {
    /// `chat` or `text_completion`.
    pub(crate) operation: &'static str,
    /// Name of the model.
    pub(crate) model: &'a str,
    /// Id of the answer.
    pub(crate) id: &'a str,
    /// One per prompt, at least one.
    pub(crate) requests: &'a [Request],
    /// Policy of requests that choose none.
    pub(crate) policy: &'a str,
}

impl GenerationSpan {
    pub(crate) fn begin(beginning: &Beginning<'_>) -> Self {
        let Beginning { operation, model, id, requests, policy } = *beginning;
        let span = info_span!(
            "generation",
            "gen_ai.operation.name" = operation,
            "gen_ai.request.model" = model,
            "gen_ai.response.id" = id,
            "gen_ai.request.max_tokens" = Empty,
            "gen_ai.request.temperature" = Empty,
            "gen_ai.request.choice.count" = Empty,
            "gen_ai.usage.input_tokens" = Empty,
            "gen_ai.usage.output_tokens" = Empty,
            "dsde.policy" = Empty,
            "dsde.steps" = Empty,
            "dsde.verified_tokens" = Empty,
            "dsde.accepted_tokens" = Empty,
            "dsde.outcome" = Empty,
            "error.type" = Empty,
        );
        let n_prompt_tokens: usize = requests.iter().map(|request| request.prompt.len()).sum();
        span.record("gen_ai.usage.input_tokens", n_prompt_tokens);
        if let Some(request) = requests.first() {
            span.record("gen_ai.request.max_tokens", request.tokens_max);
            span.record("gen_ai.request.temperature", request.params.temperature);
            span.record("gen_ai.request.choice.count", request.n_choices);
            match &request.policy {
                Some(policy) => span.record("dsde.policy", display(policy)),
                None => span.record("dsde.policy", policy),
            };
        }
        Self { span, is_ended: false }
    }

    /// Every choice has ended.
    pub(crate) fn answered<'a>(&mut self, timelines: impl Iterator<Item = &'a RequestTimeline>) {
        let [mut emitted, mut steps, mut verified, mut accepted] = [0; 4];
        for timeline in timelines {
            emitted += timeline.emitted;
            steps += timeline.steps;
            verified += timeline.verified;
            accepted += timeline.accepted;
        }
        self.span.record("gen_ai.usage.output_tokens", emitted);
        self.span.record("dsde.steps", steps);
        self.span.record("dsde.verified_tokens", verified);
        self.span.record("dsde.accepted_tokens", accepted);
        self.end("answered");
    }

    /// A choice was lost.
    pub(crate) fn lost(&mut self, loss: Loss) {
        let name = match loss {
            Loss::Failed => "failed",
            Loss::Form => "form_lost",
            Loss::Deadline => "deadline",
            Loss::Shutdown => "shutdown",
        };
        self.span.record("error.type", name);
        self.end(name);
    }

    /// The engine did not take it.
    pub(crate) fn refused(&mut self) {
        self.span.record("error.type", "refused");
        self.end("refused");
    }

    fn end(&mut self, outcome: &'static str) {
        if !std::mem::replace(&mut self.is_ended, true) {
            self.span.record("dsde.outcome", outcome);
            self.span.in_scope(|| tracing::info!("generation ended"));
        }
    }
}

/// Whoever leaves before the end has cancelled.
impl Drop for GenerationSpan {
    fn drop(&mut self) {
        self.end("cancelled");
    }
}
