//! `/v1/live`: the engine's state as a stream of events, four times per second.

mod board;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use crate::app::App;
use crate::metrics::{Metrics, N_LENGTHS};
use crate::openai::error::ApiError;
use crate::service::Phase;

pub(crate) use board::Board;
use board::FEEDS_MAX;

/// Time between two events.
const PERIOD: Duration = Duration::from_millis(250);
/// Rates are means over so many periods: one second, long enough to be read.
const WINDOW: usize = 4;

/// The counters at one time.
struct Sample {
    at: Instant,
    generation_tokens: u64,
    emissions: u64,
    steps: u64,
    verified: u64,
    accepted: u64,
    lengths: [u64; N_LENGTHS],
}

impl Sample {
    fn now(metrics: &Metrics) -> Self {
        Self {
            at: Instant::now(),
            generation_tokens: metrics.generation_tokens.get(),
            emissions: metrics.emissions.load(Ordering::Relaxed),
            steps: metrics.steps.get(),
            verified: metrics.verified.get(),
            accepted: metrics.accepted.get(),
            lengths: metrics.lengths(),
        }
    }
}

struct Feed {
    app: Arc<App>,
    samples: VecDeque<Sample>,
    _permit: OwnedSemaphorePermit,
}

/// Streams the state until the client leaves or the server stops.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let permit = app.board.feeds.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::busy(format!("{FEEDS_MAX} live feeds are open already")))?;
    let samples = VecDeque::from([Sample::now(&app.metrics)]);
    let feed = Feed { app, samples, _permit: permit };
    let events = stream::unfold(feed, |mut feed| async move {
        let value = feed.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(value.to_string())), feed))
    });
    Ok(Sse::new(events).into_response())
}

impl Feed {
    async fn next(&mut self) -> Option<Value> {
        let mut phase = self.app.phase.clone();
        tokio::select! {
            () = sleep(PERIOD) => {}
            _ = phase.wait_for(|&phase| phase == Phase::Draining) => return None,
        }
        self.samples.push_back(Sample::now(&self.app.metrics));
        if self.samples.len() > WINDOW + 1 {
            self.samples.pop_front();
        }
        Some(self.state())
    }

    fn state(&self) -> Value {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return Value::Null;
        };
        let (metrics, config) = (&self.app.metrics, &self.app.config);
        let mut state = rates(first, last);
        state["model"] = json!(config.model_name());
        state["policy"] = json!(config.policy);
        state["running"] = json!(metrics.running.get());
        state["waiting"] = json!(metrics.waiting.get());
        state["kv_usage"] = json!(metrics.kv_usage.get());
        state["generation_tokens"] = json!(last.generation_tokens);
        state["sequences"] = json!(self.app.board.values(&config.policy));
        state
    }
}

/// What happened between two samples.
fn rates(first: &Sample, last: &Sample) -> Value {
    let seconds = (last.at - first.at).as_secs_f64();
    let (verified, accepted) = (last.verified - first.verified, last.accepted - first.accepted);
    let (emitted, emissions) =
        (last.generation_tokens - first.generation_tokens, last.emissions - first.emissions);
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let mut lengths: Vec<u64> =
        last.lengths.iter().zip(&first.lengths).map(|(last, first)| last - first).collect();
    while lengths.last() == Some(&0) {
        lengths.pop();
    }
    json!({
        "window_s": seconds,
        "tokens_per_second": rate(emitted),
        "emitted_per_step": (emissions > 0).then(|| emitted as f64 / emissions as f64),
        "steps_per_second": rate(last.steps - first.steps),
        "acceptance_rate": (verified > 0).then(|| accepted as f64 / verified as f64),
        "lengths": lengths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_the_window() {
        let start = Instant::now();
        let sample = |ms: u64, n: u64| {
            let mut lengths = [0; N_LENGTHS];
            (lengths[0], lengths[3]) = (5, 2 * n);
            let at = start + Duration::from_millis(ms);
            Sample {
                at,
                generation_tokens: 10 * n,
                emissions: 4 * n,
                steps: n,
                verified: 4 * n,
                accepted: n,
                lengths,
            }
        };
        // 30 tokens and 3 steps in half a second; 3 of 12 accepted.
        let got = rates(&sample(0, 1), &sample(500, 4));
        assert_eq!((&got["tokens_per_second"], &got["steps_per_second"]), (&json!(60.0), &json!(6.0)));
        assert_eq!((&got["acceptance_rate"], &got["lengths"]), (&json!(0.25), &json!([0, 0, 0, 6])));
        assert_eq!(got["emitted_per_step"], 2.5);
        let idle = rates(&sample(0, 1), &sample(500, 1));
        assert_eq!(idle["emitted_per_step"], Value::Null);
        assert_eq!((&idle["acceptance_rate"], &idle["lengths"]), (&Value::Null, &json!([])));
    }
}
