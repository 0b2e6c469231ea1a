//! What every running sequence did in its last step, for the live feed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dsde_engine::{RequestId, SequenceTrace, StepTrace};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

/// Feeds that may be open at once.
pub(crate) const FEEDS_MAX: usize = 16;
/// Sequences shown at once; those that came first.
const ROWS_MAX: usize = 64;

/// The rows, written by the engine while somebody looks.
#[derive(Debug)]
pub(crate) struct Board {
    content: Mutex<Content>,
    /// Feeds that may still be opened.
    pub(crate) feeds: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Content {
    rows: BTreeMap<(RequestId, u32), Row>,
    /// Of requests in the engine that chose one; kept unseen, too, because it is told only once.
    policies: HashMap<RequestId, String>,
}

/// One sequence, after its last step.
#[derive(Clone, Debug, Default)]
struct Row {
    prompt_tokens: u32,
    context_len: u32,
    emitted: u32,
    planned: u32,
    verified: u32,
    accepted: u32,
    /// Sums over its life.
    verified_sum: u32,
    accepted_sum: u32,
    reason: &'static str,
    /// Mean over the positions verified last, nats; `None` where nobody computes it.
    kld: Option<f64>,
    /// The policy's own.
    numbers: Vec<(&'static str, f64)>,
}

impl Board {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self { content: Mutex::default(), feeds: Arc::new(Semaphore::new(FEEDS_MAX)) }
    }

    /// Notes that a request chose its policy.
    pub(crate) fn chose(&self, request: RequestId, policy: String) {
        self.content().policies.insert(request, policy);
    }

    /// Notes a step, if anybody looks.
    pub(crate) fn step(&self, trace: &StepTrace<'_>) {
        if self.feeds.available_permits() == FEEDS_MAX {
            return;
        }
        let mut content = self.content();
        let rows = &mut content.rows;
        for sequence in trace.sequences {
            let key = (sequence.request, sequence.choice);
            if rows.len() < ROWS_MAX || rows.contains_key(&key) {
                rows.entry(key).or_default().update(sequence);
            }
        }
    }

    /// Forgets a sequence that has ended.
    pub(crate) fn remove(&self, request: RequestId, choice: u32) {
        self.content().rows.remove(&(request, choice));
    }

    /// Forgets a request all of whose sequences have ended.
    pub(crate) fn forget(&self, request: RequestId) {
        self.content().policies.remove(&request);
    }

    /// All rows, in order of arrival.
    ///
    /// * `policy`: of requests that chose none.
    pub(crate) fn values(&self, policy: &str) -> Vec<Value> {
        let content = self.content();
        let value = |(&(request, choice), row): (&(RequestId, u32), &Row)| {
            let policy = content.policies.get(&request).map_or(policy, String::as_str);
            row.value(request, choice, policy)
        };
        content.rows.iter().map(value).collect()
    }

    /// A panic in between leaves rows that are a step old.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn update(&mut self, sequence: &SequenceTrace<'_>) {
        let timeline = sequence.timeline;
        self.prompt_tokens = timeline.prompt_tokens;
        // The last token is not stored yet.
        self.context_len = timeline.prompt_tokens + timeline.emitted - 1;
        self.emitted = timeline.emitted;
        self.planned = sequence.planned;
        self.verified = sequence.verified;
        self.accepted = sequence.accepted;
        self.verified_sum = timeline.verified;
        self.accepted_sum = timeline.accepted;
        self.reason = sequence.asked.reason;
        // A step without verified positions says nothing new.
        if !sequence.signals.is_empty() {
            let sum: f64 = sequence.signals.iter().map(|signals| f64::from(signals.kld)).sum();
            self.kld = Some(sum / sequence.signals.len() as f64);
        }
        self.numbers.clear();
        self.numbers.extend_from_slice(sequence.numbers);
    }

    fn value(&self, RequestId(request): RequestId, choice: u32, policy: &str) -> Value {
        let rate = f64::from(self.accepted_sum) / f64::from(self.verified_sum);
        let numbers: Map<String, Value> =
            self.numbers.iter().map(|&(name, number)| (name.to_owned(), json!(number))).collect();
        json!({
            "request": request,
            "choice": choice,
            "policy": policy,
            "prompt_tokens": self.prompt_tokens,
            "context": self.context_len,
            "emitted": self.emitted,
            "planned": self.planned,
            "verified": self.verified,
            "accepted": self.accepted,
            "acceptance_rate": (self.verified_sum > 0).then_some(rate),
            "reason": self.reason,
            "kld": self.kld,
            "numbers": numbers,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dsde_engine::{RequestTimeline, SeqId, StepReport};
    use dsde_policy::{Planned, PositionSignals};

    use super::*;

    /// A step in which request `request` has 3 of 4 drafts accepted.
    fn step(board: &Board, request: u64, klds: &[f32]) {
        let timeline = RequestTimeline {
            prompt_tokens: 7,
            emitted: 5,
            verified: 4,
            accepted: 3,
            ..RequestTimeline::default()
        };
        let signals: Vec<PositionSignals> =
            klds.iter().map(|&kld| PositionSignals { kld, ..PositionSignals::default() }).collect();
        let sequence = SequenceTrace {
            seq: SeqId(request),
            request: RequestId(request),
            choice: 0,
            context_len: 7,
            temperature: 0.0,
            limit: 9,
            asked: Planned { len: 4, width: 1, is_settled: true, reason: "divergence" },
            planned: 4,
            drafted: 4,
            verified: 4,
            accepted: 3,
            emitted: 4,
            ahead: 0,
            carried: 0,
            positions: &[],
            parents: &[],
            signals: &signals,
            numbers: &[("wvir", 1.5), ("cap", f64::NAN)],
            timeline: &timeline,
            finish: None,
        };
        let report = StepReport::default();
        board.step(&StepTrace { started: Duration::ZERO, report: &report, sequences: &[sequence] });
    }

    #[test]
    fn a_row_tells_the_last_step_and_the_life_of_a_sequence() {
        let board = Board::new();
        let _feed = board.feeds.clone().try_acquire_owned().unwrap();
        step(&board, 3, &[0.5, 0.25]);
        // 7 + 5 - 1 positions are stored; 3 of 4; (0.5 + 0.25) / 2.
        let expected = json!([{
            "request": 3, "choice": 0, "policy": "auto", "prompt_tokens": 7, "context": 11, "emitted": 5,
            "planned": 4, "verified": 4, "accepted": 3, "acceptance_rate": 0.75, "reason": "divergence",
            "kld": 0.375, "numbers": {"wvir": 1.5, "cap": null},
        }]);
        assert_eq!(json!(board.values("auto")), expected);
        step(&board, 3, &[]);
        assert_eq!(board.values("auto")[0]["kld"], 0.375, "the last known one");
        board.remove(RequestId(3), 0);
        assert_eq!(board.values("auto"), [] as [Value; 0]);
    }

    #[test]
    fn the_policy_is_the_one_that_the_request_chose() {
        let board = Board::new();
        board.chose(RequestId(3), "fixed:k=4".to_owned());
        let _feed = board.feeds.clone().try_acquire_owned().unwrap();
        step(&board, 2, &[]);
        step(&board, 3, &[]);
        let policies = || board.values("auto").iter().map(|row| row["policy"].clone()).collect::<Vec<_>>();
        assert_eq!(policies(), ["auto", "fixed:k=4"]);
        board.forget(RequestId(3));
        assert!(board.content().policies.is_empty());
    }

    #[test]
    fn nothing_is_kept_while_nobody_looks_and_never_more_than_the_bound() {
        let board = Board::new();
        step(&board, 0, &[]);
        assert_eq!(board.values("auto").len(), 0);
        let _feed = board.feeds.clone().try_acquire_owned().unwrap();
        for request in 0..100 {
            step(&board, request, &[]);
        }
        let values = board.values("auto");
        assert_eq!((values.len(), &values[63]["request"]), (ROWS_MAX, &json!(63)));
    }
}
