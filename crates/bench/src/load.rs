//! Load: drives an engine with requests and gathers what it answers.
//!
//! A closed loop keeps a constant number of requests in flight: a new one is submitted when one ends, so the engine is
//! neither idle nor flooded, and throughput at that concurrency is what is measured.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Duration;

use dsde_engine::{
    Emission, EmittedToken, Engine, Event, ExecutorError, FinishReason, Refused, Request, RequestId,
    RequestTimeline, StepReport,
};

use crate::profile::Profile;

/// One finished continuation of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Emitted tokens.
    pub tokens: Vec<EmittedToken>,
    /// Their text; the end may be an unfinished UTF-8 character.
    pub text: Vec<u8>,
    /// Why it ended.
    pub reason: FinishReason,
    /// Times and counts.
    pub timeline: RequestTimeline,
}

/// Watches a load while it runs. `request_idx` counts in the order of the given requests.
pub trait Observer {
    /// Tokens were emitted.
    fn emitted(&mut self, _request_idx: usize, _emission: &Emission) {}

    /// A request ended; one entry per choice.
    fn answered(&mut self, _request_idx: usize, _choices: &[Choice]) {}

    /// A step ended, after everything that came of it. `Break` cancels everything and ends the load with [`Error::Interrupted`].
    fn stepped(&mut self, _report: &StepReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Watches nothing.
impl Observer for () {}

/// Why a load did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine did not take a request.
    #[error("request {request_idx} was refused")]
    Refused {
        /// Which request, counted from 0.
        request_idx: usize,
        /// Why.
        #[source]
        source: Refused,
    },
    /// The executor failed.
    #[error("a step failed")]
    Step(#[from] ExecutorError),
    /// The observer asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Runs `requests` to their ends, `concurrency` of them in flight at any time, started in order.
///
/// * `requests`: each is taken when there is room for it, so that a long load need not be held in memory.
/// * `engine`: idle; is idle again afterwards, whatever the result.
/// * Returns the choices of every request, in the order of the requests.
///
/// # Errors
/// The first request that is refused, a failed step, or an interruption. All requests in flight are cancelled then.
pub fn closed_loop(
    engine: &mut Engine,
    requests: impl IntoIterator<Item = Request>,
    concurrency: NonZeroUsize,
    observer: &mut dyn Observer,
) -> Result<Vec<Vec<Choice>>, Error> {
    let mut flight = Flight::default();
    let result = flight.run(engine, requests, concurrency, observer);
    if result.is_err() {
        flight.cancel(engine);
    }
    result.map(|()| flight.answers)
}

/// What the steps of a part of a load did together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Time of all steps.
    pub time: Duration,
    /// Tokens emitted.
    pub emitted: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were verified.
    pub verified: u64,
    /// Verified tokens that were kept.
    pub accepted: u64,
}

impl Served {
    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            time: self.time + other.time,
            emitted: self.emitted + other.emitted,
            drafted: self.drafted + other.drafted,
            verified: self.verified + other.verified,
            accepted: self.accepted + other.accepted,
        }
    }

    fn add(&mut self, report: &StepReport) {
        self.time += report.step_time;
        self.emitted += u64::from(report.emitted);
        self.drafted += u64::from(report.drafted);
        self.verified += u64::from(report.verified);
        self.accepted += u64::from(report.accepted);
    }
}

/// Runs `requests` with a number of them in flight that follows `profile`. Where it falls, nothing is cancelled: no new request
/// starts until enough have ended. Time is that of the engine's steps, so that the same load can be simulated.
///
/// * `requests`: enough for the whole profile, endless ones included; a segment without any is cut short.
/// * `engine`: idle; is idle again afterwards, whatever the result. What is in flight at the end is cancelled.
/// * Returns one entry per number of the profile.
///
/// # Errors
/// As [`closed_loop`].
pub fn profiled_loop(
    engine: &mut Engine,
    requests: impl IntoIterator<Item = Request>,
    profile: &Profile,
    observer: &mut dyn Observer,
) -> Result<Vec<Served>, Error> {
    let mut flight = Flight::default();
    let result = flight.run_profile(engine, requests, profile, observer);
    flight.cancel(engine);
    result
}

/// Requests in flight and what has come back so far.
#[derive(Default)]
struct Flight {
    in_flight: HashMap<RequestId, InFlight>,
    /// One entry per request taken so far; empty until the request has ended.
    answers: Vec<Vec<Choice>>,
}

struct InFlight {
    request_idx: usize,
    /// `[n_choices]`
    choices: Vec<Unfinished>,
}

#[derive(Default)]
struct Unfinished {
    tokens: Vec<EmittedToken>,
    text: Vec<u8>,
    end: Option<(FinishReason, RequestTimeline)>,
}

impl Unfinished {
    fn finish(self) -> Choice {
        let (reason, timeline) = self.end.expect("a request ends when every choice has ended");
        Choice { tokens: self.tokens, text: self.text, reason, timeline }
    }
}

impl Flight {
    fn run(
        &mut self,
        engine: &mut Engine,
        requests: impl IntoIterator<Item = Request>,
        concurrency: NonZeroUsize,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let mut waiting = requests.into_iter();
        loop {
            self.top_up(engine, &mut waiting, concurrency.get())?;
            if self.in_flight.is_empty() {
                return Ok(());
            }
            self.step(engine, observer)?;
        }
    }

    fn run_profile(
        &mut self,
        engine: &mut Engine,
        requests: impl IntoIterator<Item = Request>,
        profile: &Profile,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Served>, Error> {
        let mut waiting = requests.into_iter();
        let mut segments = Vec::with_capacity(profile.concurrencies().len());
        let mut time_over = Duration::ZERO;
        for concurrency in profile.concurrencies() {
            // What the last step of a segment takes too long is taken from the next one.
            let mut served = Served { time: time_over, ..Served::default() };
            let wanted = usize::try_from(concurrency.get()).unwrap_or(usize::MAX);
            while served.time < profile.every() {
                self.top_up(engine, &mut waiting, wanted)?;
                if self.in_flight.is_empty() {
                    break;
                }
                served.add(&self.step(engine, observer)?);
            }
            let time_end = served.time;
            served.time -= time_over;
            time_over = time_end.saturating_sub(profile.every());
            segments.push(served);
        }
        Ok(segments)
    }

    /// Submits requests until `wanted` are in flight or none is left.
    fn top_up(
        &mut self,
        engine: &mut Engine,
        waiting: &mut impl Iterator<Item = Request>,
        wanted: usize,
    ) -> Result<(), Error> {
        let room = wanted.saturating_sub(self.in_flight.len());
        for request in waiting.take(room) {
            let request_idx = self.answers.len();
            let choices = (0..request.n_choices).map(|_| Unfinished::default()).collect();
            let id = engine.submit(request).map_err(|source| Error::Refused { request_idx, source })?;
            self.in_flight.insert(id, InFlight { request_idx, choices });
            self.answers.push(Vec::new());
        }
        Ok(())
    }

    fn step(&mut self, engine: &mut Engine, observer: &mut dyn Observer) -> Result<StepReport, Error> {
        assert!(!engine.is_idle(), "an engine with requests in flight has something to do");
        let report = engine.step()?;
        for event in engine.drain_events() {
            self.record(event, observer);
        }
        match observer.stepped(&report) {
            ControlFlow::Continue(()) => Ok(report),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }

    fn record(&mut self, event: Event, observer: &mut dyn Observer) {
        match event {
            // No workload asks for scores.
            Event::Scored(_) => {}
            Event::Emitted(emission) => {
                if let Some(request) = self.in_flight.get_mut(&emission.request) {
                    observer.emitted(request.request_idx, &emission);
                    let choice = &mut request.choices[emission.choice as usize];
                    choice.tokens.extend(emission.tokens);
                    choice.text.extend(emission.text);
                }
            }
            Event::Finished(finished) => {
                let Entry::Occupied(mut request) = self.in_flight.entry(finished.request) else {
                    return;
                };
                let choices = &mut request.get_mut().choices;
                choices[finished.choice as usize].end = Some((finished.reason, finished.timeline));
                if choices.iter().all(|choice| choice.end.is_some()) {
                    let InFlight { request_idx, choices } = request.remove();
                    self.answers[request_idx] = choices.into_iter().map(Unfinished::finish).collect();
                    observer.answered(request_idx, &self.answers[request_idx]);
                }
            }
        }
    }

    fn cancel(&self, engine: &mut Engine) {
        for &id in self.in_flight.keys() {
            engine.cancel(id);
        }
        engine.drain_events();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dsde_engine::{
        Clock, Config, CountingClock, Drafter, MonotonicClock, Script, ScriptedExecutor, Shape, Vocabulary,
    };
    use dsde_sampling::{Params, Rule};

    use super::*;

    struct Letters;

    impl Vocabulary for Letters {
        fn token_bytes(&self, token: u32) -> &[u8] {
            let letters: &[u8; 31] = b"abcdefghijklmnopqrstuvwxyz01234";
            &letters[token as usize..=token as usize]
        }
    }

    fn engine() -> Engine {
        engine_on(MonotonicClock::start())
    }

    fn engine_on(clock: impl Clock + 'static) -> Engine {
        let shape = Shape {
            vocab_len: 31,
            context_len_max: 64,
            block_len: 4,
            n_blocks: 200,
            draft_context_len: Some(64),
            draft_reads_target: false,
            window: None,
            n_states: 0,
        };
        let config = Config { drafter: Drafter::Model, ..Config::default() };
        let policy = "fixed:k=3".parse::<dsde_policy::Config>().unwrap().build();
        let executor = ScriptedExecutor::new(Script::default(), shape, Rule::default());
        Engine::new(config, policy, Arc::new(Letters), Box::new(executor), clock).unwrap()
    }

    fn requests(n: u32) -> Vec<Request> {
        // Lengths differ so that requests do not end in the order in which they start.
        let request = |i: u32| Request::new(vec![i % 31, 7, i % 5], Params::greedy(), 1 + (i * 7) % 12);
        (0..n).map(request).collect()
    }

    fn concurrency(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    #[derive(Default)]
    struct Watch {
        answered: Vec<usize>,
        n_seqs_max: u32,
        n_emitted: usize,
        steps_left: Option<u32>,
    }

    impl Observer for Watch {
        fn emitted(&mut self, _request_idx: usize, emission: &Emission) {
            self.n_emitted += emission.tokens.len();
        }

        fn answered(&mut self, request_idx: usize, choices: &[Choice]) {
            assert!(!choices.is_empty());
            self.answered.push(request_idx);
        }

        fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
            self.n_seqs_max = self.n_seqs_max.max(report.n_seqs);
            match self.steps_left.as_mut() {
                Some(0) => ControlFlow::Break(()),
                Some(left) => {
                    *left -= 1;
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Continue(()),
            }
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_requests_at_every_concurrency() {
        for n in [1, 3, 100] {
            let mut watch = Watch::default();
            let answers = closed_loop(&mut engine(), requests(20), concurrency(n), &mut watch).unwrap();
            for (request, choices) in requests(20).iter().zip(&answers) {
                let expected =
                    Script::default().greedy_continuation(&request.prompt, request.tokens_max as usize);
                let got: Vec<u32> = choices[0].tokens.iter().map(|emitted| emitted.token).collect();
                assert_eq!(got, expected);
                let text: Vec<u8> =
                    got.iter().flat_map(|&token| Letters.token_bytes(token)).copied().collect();
                assert_eq!(choices[0].text, text);
                assert_eq!(choices[0].timeline.emitted, request.tokens_max);
            }
            let n_tokens: usize = answers.iter().flatten().map(|choice| choice.tokens.len()).sum();
            assert_eq!(watch.n_emitted, n_tokens);
            watch.answered.sort_unstable();
            assert_eq!(watch.answered, (0..20).collect::<Vec<_>>());
            assert_eq!(watch.n_seqs_max as usize, n.min(20));
        }
    }

    #[test]
    fn a_request_is_answered_when_all_its_choices_have_ended() {
        let mut request = requests(1).remove(0);
        request.n_choices = 3;
        let answers = closed_loop(&mut engine(), vec![request], concurrency(1), &mut ()).unwrap();
        let lens: Vec<usize> = answers.iter().map(Vec::len).collect();
        assert_eq!(lens, [3]);
    }

    #[test]
    fn an_interruption_leaves_an_idle_engine_that_can_be_used_again() {
        let mut engine = engine();
        let mut watch = Watch { steps_left: Some(2), ..Watch::default() };
        let result = closed_loop(&mut engine, requests(20), concurrency(4), &mut watch);
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(engine.is_idle());
        let (free, total) = engine.blocks_free_and_total();
        assert_eq!(free, total);
        assert_eq!(closed_loop(&mut engine, requests(3), concurrency(4), &mut ()).unwrap().len(), 3);
    }

    #[test]
    fn a_refused_request_is_named_and_the_others_are_cancelled() {
        let mut engine = engine();
        let mut requests = requests(3);
        requests[2].prompt.clear();
        let error = closed_loop(&mut engine, requests, concurrency(3), &mut ()).unwrap_err();
        assert!(matches!(error, Error::Refused { request_idx: 2, source: Refused::EmptyPrompt }));
        assert!(engine.is_idle());
    }

    /// Counts sequences per step.
    #[derive(Default)]
    struct Seqs(Vec<u32>);

    impl Observer for Seqs {
        fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
            self.0.push(report.n_seqs);
            ControlFlow::Continue(())
        }
    }

    #[test]
    fn the_number_in_flight_follows_the_profile_without_cancelling() {
        let mut engine = engine_on(CountingClock::new(Duration::from_micros(100)));
        let numbers: Vec<_> = [1, 8, 2].into_iter().filter_map(std::num::NonZeroU32::new).collect();
        let profile = Profile::new(numbers, Duration::from_millis(20)).unwrap();
        let mut seqs = Seqs::default();
        let endless = (0..).map(|i: u32| Request::new(vec![i % 31], Params::greedy(), 20));
        let segments = profiled_loop(&mut engine, endless, &profile, &mut seqs).unwrap();
        assert!(engine.is_idle());
        assert_eq!(segments.len(), 3);
        for served in &segments {
            assert!(served.emitted > 0 && served.drafted > 0, "{served:?}");
            assert!(served.accepted <= served.verified && served.verified <= served.drafted);
            // A segment is too short by what the one before it was too long: one step of some looks at the clock.
            assert!(served.time.abs_diff(profile.every()) < Duration::from_millis(2), "{served:?}");
        }
        let total: Duration = segments.iter().map(|served| served.time).sum();
        assert!(total >= 3 * profile.every(), "{total:?}");
        assert_eq!((seqs.0.first(), seqs.0.iter().max(), seqs.0.last()), (Some(&1), Some(&8), Some(&2)));
    }

    #[test]
    fn no_requests_are_answered_at_once() {
        assert_eq!(
            closed_loop(&mut engine(), Vec::new(), concurrency(2), &mut ()).unwrap(),
            [] as [Vec<Choice>; 0]
        );
    }
}
