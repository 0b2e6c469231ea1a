//! Answers as people and programs read them.

use std::time::Duration;

use dsde_bench::Choice;
use dsde_bench::metrics::{self, Totals};
use dsde_engine::{EmittedToken, FinishReason, RequestTimeline};
use serde::Serialize;

/// One continuation of one prompt, as a line of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// Number of the prompt, from 0.
    index: usize,
    /// Number of the continuation, from 0; only if several were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: Option<usize>,
    text: String,
    tokens: Vec<u32>,
    finish_reason: &'static str,
    prompt_tokens: u32,
    /// The prompt itself; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    completion_tokens: u32,
    steps: u32,
    drafted: u32,
    verified: u32,
    accepted: u32,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    /// One entry per token; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenLogprob>>,
}

#[derive(Debug, Serialize)]
struct TokenLogprob {
    token: u32,
    /// Nats.
    logprob: f32,
    /// Most probable first.
    top: Vec<TopLogprob>,
}

#[derive(Debug, Serialize)]
struct TopLogprob {
    token: u32,
    /// Nats.
    logprob: f32,
}

/// The lines of all `choices` of prompt number `index`.
///
/// * `prompt`: its tokens, if they are to be told.
pub(crate) fn answers(index: usize, prompt: Option<&[u32]>, choices: &[Choice]) -> Vec<Answer> {
    let is_several = choices.len() > 1;
    let answer = |(i, choice)| Answer {
        index,
        choice: is_several.then_some(i),
        prompt_token_ids: prompt.map(<[u32]>::to_vec),
        ..Answer::new(choice)
    };
    choices.iter().enumerate().map(answer).collect()
}

impl Answer {
    /// The only choice of the first prompt.
    fn new(choice: &Choice) -> Self {
        let timeline = &choice.timeline;
        Self {
            index: 0,
            choice: None,
            text: text(choice),
            tokens: choice.tokens.iter().map(|emitted| emitted.token).collect(),
            finish_reason: finish_reason(choice.reason),
            prompt_tokens: timeline.prompt_tokens,
            prompt_token_ids: None,
            completion_tokens: timeline.emitted,
            steps: timeline.steps,
            drafted: timeline.drafted,
            verified: timeline.verified,
            accepted: timeline.accepted,
            ttft_ms: metrics::ttft(timeline).map(metrics::milliseconds),
            tpot_ms: metrics::tpot(timeline).map(metrics::milliseconds),
            logprobs: choice.tokens.iter().map(logprob).collect(),
        }
    }
}

fn logprob(emitted: &EmittedToken) -> Option<TokenLogprob> {
    let logprobs = emitted.logprobs.as_ref()?;
    let top = logprobs.top.iter().map(|&(token, logprob)| TopLogprob { token, logprob });
    Some(TokenLogprob { token: emitted.token, logprob: logprobs.logprob, top: top.collect() })
}

/// The text of a choice; bytes that are not UTF-8 become replacement characters.
pub(crate) fn text(choice: &Choice) -> String {
    String::from_utf8_lossy(&choice.text).into_owned()
}

/// The word for an end.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Failed => "failed",
        FinishReason::FormLost => "form_lost",
    }
}

/// A time in a unit that shows digits of it, down to 10 µs.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.1.. => format!("{seconds:.2} s"),
        0.01.. => format!("{:.0} ms", 1e3 * seconds),
        _ => format!("{:.2} ms", 1e3 * seconds),
    }
}

/// One line about speed: tokens, seconds, tokens per second, and what speculation achieved.
pub(crate) fn speed(timelines: &[RequestTimeline]) -> String {
    let totals = Totals::of(timelines);
    let rate = metrics::throughput(timelines).unwrap_or(0.0);
    let time = time(metrics::span(timelines));
    let mut line = format!("{} tokens in {time}, {rate:.1} tokens/s", totals.output_tokens);
    if let Some(mean) = totals.emitted_per_step() {
        line += &format!(", {mean:.2} per step");
    }
    if let Some(share) = totals.acceptance_rate() {
        line += &format!(", {:.0} % of drafts accepted", 100.0 * share);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_shown_as_nothing() {
        for (micros, expected) in [
            (12_345_678, "12.35 s"),
            (100_000, "0.10 s"),
            (99_400, "99 ms"),
            (10_000, "10 ms"),
            (4_213, "4.21 ms"),
            (10, "0.01 ms"),
        ] {
            assert_eq!(time(Duration::from_micros(micros)), expected);
        }
    }
}
