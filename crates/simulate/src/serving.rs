//! Serves a load on an engine whose clock is virtual: requests are submitted when they arrive, and where nobody is there time jumps to
//! the next arrival.

use std::collections::HashMap;
use std::time::Duration;

use dsde_bench::LatencyClasses;
use dsde_engine::{
    Clock as _, Engine, Event, FinishReason, Refused, Request, RequestId, RequestTimeline, StepReport,
};
use dsde_sampling::Params;

use crate::clock::VirtualClock;
use crate::error::Error;
use crate::executor::Texts;
use crate::load::{Demand, Traffic};

/// What happens to be asked of an engine.
#[derive(Debug)]
pub struct Asked<'a> {
    /// In the order of their arrival.
    pub demands: &'a [Demand],
    /// How they follow each other.
    pub traffic: &'a Traffic,
    /// Their latency targets.
    pub classes: &'a LatencyClasses,
    /// 0 is greedy.
    pub temperature: f32,
    /// Tokens that all prompts begin with.
    pub shared_prefix: u32,
    /// Whether the engine's invariants and every token are checked; a violation panics.
    pub checks: bool,
}

/// One request that ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// Its place in the load, from 0.
    pub request_idx: usize,
    /// Why.
    pub reason: FinishReason,
    /// Its times; `arrival` is when it arrived, which may be before the engine was told.
    pub timeline: RequestTimeline,
}

/// Told of every step.
pub trait Watch {
    /// A step ended at `now`; it failed if there is no report.
    fn stepped(&mut self, now: Duration, engine: &Engine, report: Option<&StepReport>);
}

impl Watch for () {
    fn stepped(&mut self, _now: Duration, _engine: &Engine, _report: Option<&StepReport>) {}
}

/// What became of a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// In the order of their ends.
    pub ended: Vec<Ended>,
    /// Between the emissions of each request.
    pub gaps: Vec<Duration>,
    /// Requests that found the queue full.
    pub refused: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Steps of the engine.
    pub steps: u64,
    /// Sequences that lost their blocks.
    pub preempted: u64,
}

/// Runs the load to its end; the engine is idle before and after.
///
/// # Errors
/// If the engine refuses a request for another reason than a full queue.
///
/// # Panics
/// With [`Asked::checks`], if an invariant of the engine does not hold, it stands still, a token is not that of its text, or a request
/// has no end or two.
pub fn serve(
    engine: &mut Engine,
    clock: &VirtualClock,
    texts: &Texts,
    asked: &Asked<'_>,
    watch: &mut dyn Watch,
) -> Result<Served, Error> {
    let mut serving = Serving {
        engine,
        clock,
        texts,
        asked,
        start: clock.now(),
        n_submitted: 0,
        in_flight: HashMap::new(),
        idle_steps: 0,
        served: Served::default(),
    };
    loop {
        serving.submit_due()?;
        serving.cancel_due();
        if serving.in_flight.is_empty() {
            match serving.next_arrival() {
                Some(arrival) => clock.advance_to(arrival),
                None => break,
            }
            continue;
        }
        serving.step(watch);
    }
    if asked.checks {
        let n_known = serving.served.ended.len() + serving.served.refused as usize;
        assert_eq!(n_known, asked.demands.len(), "every request ends once or is refused");
    }
    Ok(serving.served)
}

struct Serving<'a> {
    engine: &'a mut Engine,
    clock: &'a VirtualClock,
    texts: &'a Texts,
    asked: &'a Asked<'a>,
    start: Duration,
    n_submitted: usize,
    in_flight: HashMap<RequestId, InFlight>,
    /// Steps since one that read a row.
    idle_steps: u32,
    served: Served,
}

/// Steps without a row after which the engine stands still; some go by while memory is lent and taken back.
const IDLE_STEPS_MAX: u32 = 1000;

struct InFlight {
    request_idx: usize,
    arrival: Duration,
    n_emitted: u32,
    last_emission: Option<Duration>,
}

impl Serving<'_> {
    /// When the next request arrives, on the engine's clock; of a closed load at once.
    fn next_arrival(&self) -> Option<Duration> {
        let demand = self.asked.demands.get(self.n_submitted)?;
        Some(demand.arrival.map_or(self.clock.now(), |arrival| self.start + arrival))
    }

    fn submit_due(&mut self) -> Result<(), Error> {
        while let Some(arrival) = self.next_arrival() {
            let is_due = match *self.asked.traffic {
                Traffic::Closed(n) => self.in_flight.len() < n as usize,
                Traffic::Open(_) => arrival <= self.clock.now(),
            };
            if !is_due {
                break;
            }
            self.submit(arrival)?;
        }
        Ok(())
    }

    fn submit(&mut self, arrival: Duration) -> Result<(), Error> {
        let request_idx = self.n_submitted;
        self.n_submitted += 1;
        let demand = &self.asked.demands[request_idx];
        let text = request_idx as u64;
        let params = Params { temperature: self.asked.temperature, seed: Some(text), ..Params::greedy() };
        let prompt = prompt(self.texts, text, demand.prompt_len, self.asked.shared_prefix);
        let slo = self.asked.classes.slo(request_idx);
        let request = Request { slo, ..Request::new(prompt, params, demand.output_len) };
        match self.engine.submit(request) {
            Ok(id) => {
                let in_flight = InFlight { request_idx, arrival, n_emitted: 0, last_emission: None };
                self.in_flight.insert(id, in_flight);
            }
            Err(Refused::QueueFull { .. }) => self.served.refused += 1,
            Err(source) => return Err(Error::Refused { request_idx, source }),
        }
        Ok(())
    }

    /// Users that have lost their patience go away.
    fn cancel_due(&mut self) {
        let now = self.clock.now();
        let is_due = |request: &InFlight| {
            let patience = self.asked.demands[request.request_idx].patience;
            patience.is_some_and(|patience| request.arrival + patience <= now)
        };
        let mut due: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, request)| is_due(request)).map(|(&id, _)| id).collect();
        due.sort_unstable();
        let any = !due.is_empty();
        for id in due {
            assert!(self.engine.cancel(id), "a request in flight can be cancelled");
        }
        if any {
            self.drain();
        }
    }

    fn step(&mut self, watch: &mut dyn Watch) {
        let report = self.engine.step().ok();
        self.served.steps += 1;
        match &report {
            Some(report) => self.served.preempted += u64::from(report.preempted),
            None => self.served.failed_steps += 1,
        }
        if self.asked.checks {
            self.engine.check_invariants();
            let is_idle = report.as_ref().is_some_and(|report| report.target_rows == 0);
            self.idle_steps = if is_idle { self.idle_steps + 1 } else { 0 };
            assert!(self.idle_steps < IDLE_STEPS_MAX, "requests are in flight and no row is read");
        }
        self.drain();
        watch.stepped(self.clock.now(), self.engine, report.as_ref());
    }

    fn drain(&mut self) {
        let now = self.clock.now();
        for event in self.engine.drain_events() {
            match event {
                Event::Scored(_) => {}
                Event::Emitted(emission) => {
                    let request = self.in_flight.get_mut(&emission.request).expect("it is in flight");
                    if self.asked.checks {
                        let places = request.n_emitted..;
                        for (place, emitted) in places.zip(&emission.tokens) {
                            let expected = self.texts.token(request.request_idx as u64, place);
                            assert_eq!(emitted.token, expected, "no policy changes the output");
                        }
                    }
                    request.n_emitted += emission.tokens.len() as u32;
                    if let Some(last) = request.last_emission.replace(now) {
                        self.served.gaps.push(now - last);
                    }
                }
                Event::Finished(finished) => {
                    let request = self.in_flight.remove(&finished.request).expect("it ends once");
                    self.texts.forget(request.request_idx as u64);
                    self.served.ended.push(Ended {
                        request_idx: request.request_idx,
                        reason: finished.reason,
                        timeline: RequestTimeline { arrival: request.arrival, ..finished.timeline },
                    });
                }
            }
        }
    }
}

fn prompt(texts: &Texts, text: u64, len: u32, shared_prefix: u32) -> Vec<u32> {
    let token = |i: u32| match i.checked_sub(shared_prefix) {
        None => texts.shared_token(i),
        Some(place) => texts.prompt_token(text, place),
    };
    (0..len).map(token).collect()
}
