//! What an answer says about its own speculation, in vLLM's shape.

use dsde_bench::metrics::{milliseconds, tpot, ttft};
use dsde_engine::RequestTimeline;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inbox::SpeculativeStep;

/// How much is said; asked for by the field `spec_decode_metrics`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// Sums.
    Summary,
    /// Sums and every step.
    Detailed,
}

/// The value of `metrics` for one choice.
///
/// * `steps`: its verifications in order. Steps without a proposal are plain decoding and no part of the statistics.
pub fn metrics(detail: Detail, timeline: &RequestTimeline, steps: &[SpeculativeStep]) -> Value {
    let queued = timeline.admitted.map(|admitted| milliseconds(admitted.saturating_sub(timeline.arrival)));
    let generation = timeline.first_token.map(|first| timeline.finished.saturating_sub(first));
    let seconds = timeline.admitted.map(|admitted| timeline.finished.saturating_sub(admitted).as_secs_f64());
    let rate = seconds.filter(|&seconds| seconds > 0.0).map(|seconds| f64::from(timeline.emitted) / seconds);
    json!({
        "time_to_first_token_ms": ttft(timeline).map(milliseconds),
        "generation_time_ms": generation.map(milliseconds),
        "queue_time_ms": queued,
        "mean_itl_ms": tpot(timeline).map(milliseconds),
        "tokens_per_second": rate,
        "speculative_decoding": speculative_decoding(detail, steps),
    })
}

/// `null` without speculation.
fn speculative_decoding(detail: Detail, steps: &[SpeculativeStep]) -> Value {
    let longest = steps.iter().map(|step| step.verified).max();
    let Some(longest) = longest else {
        return Value::Null;
    };
    let mut histogram = vec![0u32; longest as usize + 1];
    for step in steps {
        histogram[step.accepted as usize] += 1;
    }
    let drafted: u64 = steps.iter().map(|step| u64::from(step.verified)).sum();
    let accepted: u64 = steps.iter().map(|step| u64::from(step.accepted)).sum();
    let mut value = json!({
        "mean_acceptance_length": 1.0 + accepted as f64 / steps.len() as f64,
        "draft_acceptance_rate": accepted as f64 / drafted as f64,
        "acceptance_histogram": histogram,
        "num_spec_steps": steps.len(),
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_spec_tokens": longest,
    });
    if detail == Detail::Detailed {
        let per_step = |of: fn(&SpeculativeStep) -> u32| steps.iter().map(of).collect::<Vec<_>>();
        value["per_step_accepted"] = json!(per_step(|step| step.accepted));
        value["per_step_drafted"] = json!(per_step(|step| step.verified));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_histogram_and_steps_agree() {
        let steps = [(3, 1), (4, 4), (1, 0), (2, 1)]
            .map(|(verified, accepted)| SpeculativeStep { verified, accepted });
        // 10 verified, 6 accepted in 4 steps.
        let expected = json!({
            "mean_acceptance_length": 2.5,
            "draft_acceptance_rate": 0.6,
            "acceptance_histogram": [1, 2, 0, 0, 1],
            "num_spec_steps": 4,
            "num_accepted_draft_tokens": 6,
            "num_draft_tokens": 10,
            "num_spec_tokens": 4,
            "per_step_accepted": [1, 4, 0, 1],
            "per_step_drafted": [3, 4, 1, 2],
        });
        assert_eq!(speculative_decoding(Detail::Detailed, &steps), expected);
        assert!(speculative_decoding(Detail::Summary, &steps).get("per_step_drafted").is_none());
        assert_eq!(speculative_decoding(Detail::Detailed, &[]), Value::Null);
    }
}
