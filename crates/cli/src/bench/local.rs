//! Measures an engine in this program.
//!
//! A policy keeps what it learned in a cell from round to round, as it would in a server that has run for hours.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use dsde_bench::gaps::Gaps;
use dsde_bench::load::{Choice, Observer, closed_loop, profiled_loop};
use dsde_bench::{LatencyClasses, Machine, Profile, Run, Seen, Served};
use dsde_engine::{Emission, Request, RequestTimeline, StepReport};
use dsde_policy::{Policy, registry};
use dsde_sampling::Params;

use super::digest::Digest;
use super::measure::parts;
use super::measure::{Subject, Turn, no_time};
use super::traffic::Traffic;
use super::{BenchArgs, classes};
use crate::failure::{OrUsage as _, Outcome};
use crate::models::Models;
use crate::prompts::Ask;
use crate::session::{Form, Session, Wish};
use crate::trace::TraceFile;

/// An engine and the policies that take turns in it.
pub(super) struct Local<'a> {
    args: &'a BenchArgs,
    session: Session,
    classes: LatencyClasses,
    policies: &'a [registry::Config],
    trace: Option<&'a TraceFile>,
    /// Where the engine's policy has learned, by cell and policy.
    current: Option<(usize, usize)>,
    /// The others that have learned.
    kept: HashMap<(usize, usize), Box<dyn Policy>>,
}

impl<'a> Local<'a> {
    /// * `policies`: at least one.
    ///
    /// # Errors
    /// If the models cannot be used.
    pub(super) fn new(
        args: &'a BenchArgs,
        models: &Models,
        policies: &'a [registry::Config],
        traffics: &[Traffic],
        trace: Option<&'a TraceFile>,
    ) -> Outcome<Self> {
        let n_sequences = traffics.iter().map(Traffic::concurrency_max).max();
        let wish = Wish {
            policy: policies[0].clone(),
            rule: args.verification.into(),
            form: if args.raw { Form::Raw } else { Form::Chat },
            n_sequences: n_sequences.expect("every command has a traffic"),
            prefix_cache: false,
            draws: args.seed,
        };
        let session = Session::open(models, &wish)?;
        Ok(Self {
            args,
            session,
            classes: classes::classes(args),
            policies,
            trace,
            current: None,
            kept: HashMap::new(),
        })
    }

    pub(super) fn draft(&self) -> String {
        self.session.draft.to_string()
    }

    pub(super) fn machine(&self) -> Machine {
        self.session.machine()
    }

    /// Makes the engine's policy that of the turn, with what it learned there.
    fn set_policy(&mut self, turn: &Turn<'_, Request>) {
        let key = (turn.cell_idx, turn.policy_idx);
        if self.current != Some(key) {
            let kept = self.kept.remove(&key);
            let policy = kept.unwrap_or_else(|| self.session.policy(&self.policies[turn.policy_idx]));
            let earlier = self.session.engine.set_policy(policy);
            if let Some(earlier_key) = self.current.replace(key) {
                self.kept.insert(earlier_key, earlier);
            }
        }
    }

    fn closed(&mut self, turn: &Turn<'_, Request>) -> Outcome<(Run, Seen)> {
        let concurrency: NonZeroUsize = turn.cell.traffic.concurrency_max().try_into()?;
        let mut watch = Watch::default();
        let requests = targeted(&self.classes, turn.cell.requests());
        let answers = closed_loop(&mut self.session.engine, requests, concurrency, &mut watch)?;
        let seen = watch.seen(&self.classes);
        let conditions = turn.cell.conditions(turn.policy);
        let digest = (conditions.temperature == 0.0).then(|| digest(&answers));
        let run = Run::closed(conditions, turn.round, &seen).ok_or_else(no_time)?;
        Ok((Run { digest, ..run }, seen))
    }

    fn changing(&mut self, turn: &Turn<'_, Request>, profile: &Profile) -> Outcome<Vec<(Run, Seen)>> {
        let mut watch = Watch::default();
        let requests = targeted(&self.classes, turn.cell.load.requests());
        let served = profiled_loop(&mut self.session.engine, requests, profile, &mut watch)?;
        let whole = served.iter().fold(Served::default(), |whole, part| whole.and(part));
        let mut runs = parts(turn, profile, &served);
        let seen = watch.seen(&self.classes);
        let conditions = turn.cell.conditions(turn.policy);
        let run = Run::profiled(conditions, turn.round, &whole, &seen).ok_or_else(no_time)?;
        runs.push((run, seen));
        Ok(runs)
    }
}

impl Subject for Local<'_> {
    type Request = Request;

    fn request(&self, ask: &Ask, temperature: f32) -> Outcome<Request> {
        let shape = self.session.engine.shape();
        let params = Params { temperature, ..Params::greedy() };
        params.check(shape.vocab_len).or_usage()?;
        let prompt = self.session.encode(&ask.prompt).map_err(|error| ask.blame(error))?;
        let mut request = Request::new(prompt, params, self.args.max_tokens.get());
        if self.args.stop_at_eos {
            request.stop.tokens = self.session.eos_tokens().to_vec();
        }
        request.check(&shape).map_err(|error| ask.blame(error))?;
        Ok(request)
    }

    fn warm_up(&mut self, turn: &Turn<'_, Request>, n_requests: u32) -> Outcome {
        self.set_policy(turn);
        let concurrency = turn.cell.traffic.concurrency_max().try_into()?;
        let requests = targeted(&self.classes, turn.cell.load.requests()).take(n_requests as usize);
        closed_loop(&mut self.session.engine, requests, concurrency, &mut ())?;
        Ok(())
    }

    fn run(&mut self, turn: &Turn<'_, Request>) -> Outcome<Vec<(Run, Seen)>> {
        self.set_policy(turn);
        if let Some(trace) = self.trace {
            trace.begin_run(&turn.cell.conditions(turn.policy), turn.round);
            self.session.engine.set_trace(Some(trace.sink()));
        }
        let result = match turn.cell.traffic {
            Traffic::Closed(_) => self.closed(turn).map(|run| vec![run]),
            Traffic::Changing(profile) => self.changing(turn, profile),
        };
        self.session.engine.set_trace(None);
        result
    }
}

/// The requests with the latency targets of their classes.
fn targeted(
    classes: &LatencyClasses,
    requests: impl Iterator<Item = Request>,
) -> impl Iterator<Item = Request> {
    requests.enumerate().map(|(i, request)| Request { slo: classes.slo(i), ..request })
}

/// Timelines of the requests that ended, and all gaps.
#[derive(Default)]
struct Watch {
    /// Of the timelines.
    request_idxs: Vec<usize>,
    timelines: Vec<RequestTimeline>,
    gaps: Gaps,
}

impl Watch {
    fn seen(self, classes: &LatencyClasses) -> Seen {
        let attained = classes.attained(self.request_idxs.into_iter().zip(&self.timelines));
        Seen { timelines: self.timelines, gaps: self.gaps.gaps, attained }
    }
}

impl Observer for Watch {
    fn emitted(&mut self, request_idx: usize, emission: &Emission) {
        self.gaps.emitted(request_idx, emission);
    }

    fn answered(&mut self, request_idx: usize, choices: &[Choice]) {
        self.request_idxs.extend(choices.iter().map(|_| request_idx));
        self.timelines.extend(choices.iter().map(|choice| choice.timeline));
    }

    fn stepped(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.gaps.stepped(report)
    }
}

/// Of all tokens in the order of the requests.
fn digest(answers: &[Vec<Choice>]) -> String {
    let mut digest = Digest::default();
    for emitted in answers.iter().flatten().flat_map(|choice| &choice.tokens) {
        digest.add(&emitted.token.to_le_bytes());
    }
    digest.to_string()
}
