//! What a step brought, on its way to the inboxes: tokens, ends, and what was speculated.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dsde_engine::{Engine, Event, FinishReason, RequestId, StepTrace};

use super::Owner;
use crate::inbox::{Done, Loss, SpeculativeStep};
use crate::live::Board;
use crate::metrics::Metrics;

/// What one sequence speculated in the last step.
pub(super) struct Speculated {
    request: RequestId,
    choice: u32,
    step: SpeculativeStep,
}

pub(super) type SpeculatedList = Arc<Mutex<Vec<Speculated>>>;

/// Has every step counted, and its verifications noted for their requests, beside what its owner had it do.
pub(super) fn watch_steps(engine: &mut Engine, metrics: Arc<Metrics>, board: Arc<Board>) -> SpeculatedList {
    let speculated = SpeculatedList::default();
    let list = speculated.clone();
    let mut earlier = engine.take_trace();
    engine.set_trace(Some(Box::new(move |trace: &StepTrace<'_>| {
        if let Some(sink) = &mut earlier {
            sink(trace);
        }
        board.step(trace);
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        for sequence in trace.sequences {
            metrics.sequence_step(sequence);
            if sequence.verified > 0 {
                let step = SpeculativeStep { verified: sequence.verified, accepted: sequence.accepted };
                list.push(Speculated { request: sequence.request, choice: sequence.choice, step });
            }
        }
    })));
    speculated
}

impl Owner {
    /// Hands what the last step brought to the inboxes of those who wait for it.
    pub(super) fn deliver(&mut self) {
        let speculated = std::mem::take(&mut *self.speculated.lock().unwrap_or_else(PoisonError::into_inner));
        for Speculated { request, choice, step } in speculated {
            if let Some(flight) = self.in_flight.get(&request) {
                flight.inbox.speculated(flight.first + choice as usize, step);
            }
        }
        let events = self.engine.drain_events();
        let ends = events.iter().filter_map(|event| match event {
            Event::Finished(finished) => Some((finished.request, finished.choice)),
            Event::Scored(_) | Event::Emitted(_) => None,
        });
        let ends: HashSet<(RequestId, u32)> = ends.collect();
        for event in events {
            self.deliver_event(event, &ends);
        }
    }

    /// * `ends`: choices whose end is delivered behind their last tokens.
    fn deliver_event(&mut self, event: Event, ends: &HashSet<(RequestId, u32)>) {
        match event {
            Event::Scored(scored) => {
                let Some(flight) = self.in_flight.get(&scored.request) else {
                    return;
                };
                for choice in 0..flight.emitted.len() {
                    flight.inbox.scored(flight.first + choice, scored.logprobs.clone());
                }
            }
            Event::Emitted(emission) => {
                let Some(flight) = self.in_flight.get_mut(&emission.request) else {
                    return;
                };
                let now = Instant::now();
                let choice = emission.choice as usize;
                if !emission.tokens.is_empty()
                    && let Some(last) = flight.emitted[choice].replace(now)
                {
                    self.metrics.gap((now - last).as_secs_f64());
                }
                let slot = flight.first + choice;
                match ends.contains(&(emission.request, emission.choice)) {
                    true => flight.inbox.emit_last(slot, emission, now),
                    false => flight.inbox.emit(slot, emission, now),
                }
            }
            Event::Finished(finished) => {
                self.board.remove(finished.request, finished.choice);
                let Some(flight) = self.in_flight.get_mut(&finished.request) else {
                    return;
                };
                self.metrics.ended(finished.reason, &finished.timeline, &flight.slo, flight.policy);
                let end = match finished.reason {
                    FinishReason::Cancelled => Err(flight.loss),
                    FinishReason::Failed => Err(Loss::Failed),
                    FinishReason::FormLost => Err(Loss::Form),
                    reason => Ok(Done { reason, timeline: finished.timeline }),
                };
                flight.inbox.end(flight.first + finished.choice as usize, end);
                flight.n_open -= 1;
                if flight.n_open == 0 {
                    self.in_flight.remove(&finished.request);
                    self.board.forget(finished.request);
                }
            }
        }
    }
}
