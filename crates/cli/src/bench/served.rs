//! Measures a server over HTTP. Times are those of the client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dsde_bench::observed::{self, Observed, Piece};
use dsde_bench::{Failures, LatencyClasses, Message, Profile, Prompt, Run, Seen};
use dsde_engine::RequestTimeline;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::digest::Digest;
use super::loads::{Asked, share_of};
use super::measure::parts;
use super::measure::{Subject, Turn, no_time};
use super::traffic::Traffic;
use super::{BenchArgs, classes};
use crate::failure::{Outcome, usage};
use crate::prompts::Ask;
use crate::remote::{Client, Counters, Error, Fields, Remote, Route, ServerUrl, base_fields, messages};
use crate::sampling::shortest;

/// Further attempts after a refusal.
const RETRIES_MAX: u32 = 5;
/// Wait before the first of them, where the server names no time; doubles with each.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// Longest wait, whatever the server says.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Failures in a row after which a run is given up: the server is gone, or refuses everything.
const FAILURES_IN_A_ROW_MAX: usize = 64;

/// A server, and how it is asked.
pub(super) struct Served {
    remote: Remote,
    route: Route,
    /// Of every request.
    fields: Fields,
    classes: LatencyClasses,
    /// Whether requests name policies.
    has_policies: bool,
}

impl Asked for Fields {
    fn shorten(&mut self, part: u32, whole: u32) {
        if let Some(tokens) = self.get("max_tokens").and_then(Value::as_u64) {
            let tokens = share_of(u32::try_from(tokens).unwrap_or(u32::MAX), part, whole);
            self.insert("max_tokens".to_owned(), tokens.into());
        }
    }
}

impl Served {
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub(super) fn new(args: &BenchArgs, url: &ServerUrl, has_policies: bool) -> Outcome<Self> {
        let remote = Remote::open(url, &args.remote, args.model.model.as_deref())?;
        let mut fields = base_fields(&remote.model);
        fields.insert("max_tokens".to_owned(), args.max_tokens.get().into());
        if !args.stop_at_eos {
            fields.insert("ignore_eos".to_owned(), true.into());
        }
        let route = if args.raw { Route::Text } else { Route::Chat };
        Ok(Self { remote, route, fields, classes: classes::classes(args), has_policies })
    }

    /// The model's name at the server.
    pub(super) fn model(&self) -> &str {
        &self.remote.model.name
    }

    /// The same with the policy of a turn.
    fn under<'a>(
        &self,
        turn: &'a Turn<'_, Fields>,
        requests: impl Iterator<Item = Fields> + 'a,
    ) -> impl Iterator<Item = Fields> + 'a {
        let policy = self.has_policies.then_some(turn.policy);
        requests.map(move |mut fields| {
            if let Some(policy) = policy {
                fields.insert("policy".to_owned(), policy.into());
            }
            fields
        })
    }

    fn flight(&self) -> Flight<'_> {
        Flight {
            asking: Asking { client: self.remote.client.clone(), route: self.route, slo_ms: [None; 2] },
            classes: &self.classes,
            begun: Instant::now(),
            running: JoinSet::new(),
            requests: Vec::new(),
            failures: 0,
        }
    }

    fn closed<'a>(
        &self,
        turn: &'a Turn<'_, Fields>,
        requests: impl Iterator<Item = Fields> + 'a,
    ) -> Vec<Progress> {
        let concurrency = turn.cell.traffic.concurrency_max().get() as usize;
        let requests = self.under(turn, requests);
        self.remote.runtime.block_on(async {
            let mut flight = self.flight();
            flight.run(requests, concurrency).await;
            flight.finish().await
        })
    }

    fn changing(&self, turn: &Turn<'_, Fields>, profile: &Profile) -> Vec<Progress> {
        self.remote.runtime.block_on(async {
            let mut flight = self.flight();
            flight.run_profile(self.under(turn, turn.cell.load.requests()), profile).await;
            flight.finish().await
        })
    }

    fn counters(&self) -> Option<Counters> {
        self.remote.runtime.block_on(self.remote.client.counters())
    }
}

impl Subject for Served {
    type Request = Fields;

    fn request(&self, ask: &Ask, temperature: f32) -> Outcome<Fields> {
        if !(0.0..).contains(&temperature) || !temperature.is_finite() {
            return Err(usage(format!("--temperature must be a number of at least 0, got {temperature}")));
        }
        let mut fields = self.fields.clone();
        fields.insert("temperature".to_owned(), shortest(temperature).into());
        let (name, value): (_, Value) = match (self.route, &ask.prompt) {
            (Route::Chat, Prompt::Text(text)) => ("messages", messages(&[Message::user(text)])),
            (Route::Chat, Prompt::Messages(all)) => ("messages", messages(all)),
            (Route::Text, Prompt::Text(text)) => ("prompt", text.as_str().into()),
            (Route::Text, Prompt::Messages(_)) => {
                let error = anyhow::anyhow!("messages need the server's chat template; leave out --raw");
                return Err(ask.blame(error));
            }
        };
        fields.insert(name.to_owned(), value);
        Ok(fields)
    }

    fn warm_up(&mut self, turn: &Turn<'_, Fields>, n_requests: u32) -> Outcome {
        let progress = self.closed(turn, turn.cell.load.requests().take(n_requests as usize));
        any_answered(&progress)
    }

    fn run(&mut self, turn: &Turn<'_, Fields>) -> Outcome<Vec<(Run, Seen)>> {
        let conditions = turn.cell.conditions(turn.policy);
        let before = self.counters();
        let mut progress = match turn.cell.traffic {
            Traffic::Closed(_) => self.closed(turn, turn.cell.requests()),
            Traffic::Changing(profile) => self.changing(turn, profile),
        };
        let counted = before.and_then(|before| self.counters()?.since(&before));
        any_answered(&progress)?;
        let is_told = tell_of_plain_answers(&mut progress);
        let seen = seen(&progress, &self.classes);
        let (mut runs, run) = match turn.cell.traffic {
            Traffic::Closed(_) => (Vec::new(), Run::closed(conditions, turn.round, &seen)),
            Traffic::Changing(profile) => {
                let observed: Vec<&Observed> = progress.iter().map(|request| &request.observed).collect();
                let bound = |i: usize| profile.every() * u32::try_from(i).unwrap_or(u32::MAX);
                let n_parts = profile.concurrencies().len();
                let of = |i: usize| observed::served(&observed, bound(i), bound(i + 1));
                let served: Vec<_> = (0..n_parts).map(of).collect();
                let whole = served.iter().fold(dsde_bench::Served::default(), |whole, part| whole.and(part));
                (parts(turn, profile, &served), Run::profiled(conditions, turn.round, &whole, &seen))
            }
        };
        let mut run = run.ok_or_else(no_time)?;
        let is_closed = matches!(turn.cell.traffic, Traffic::Closed(_));
        // Answers that were given up do not say what speculation did.
        if let (true, Some([verified, accepted])) = (!is_told || !is_closed, counted) {
            (run.drafted, run.verified, run.accepted) = (verified, verified, accepted);
            run.steps = if is_closed { observed::steps(run.output_tokens, accepted) } else { 0 };
        }
        let is_greedy = is_closed && run.conditions.temperature == 0.0;
        run.digest = is_greedy.then(|| digest(&progress)).flatten();
        run.failures = failures(&progress);
        warn(&run, &progress);
        runs.push((run, seen));
        Ok(runs)
    }
}

/// One request on its way.
#[derive(Default)]
struct Progress {
    observed: Observed,
    /// Of the text.
    digest: Digest,
    n_retries: u32,
    /// Why it has no answer.
    error: Option<Error>,
}

impl Progress {
    fn is_answered(&self) -> bool {
        self.observed.finished.is_some()
    }
}

/// How to ask.
#[derive(Clone)]
struct Asking {
    client: Client,
    route: Route,
    slo_ms: [Option<f64>; 2],
}

/// Requests in flight, and what became of all so far.
struct Flight<'a> {
    /// Without targets.
    asking: Asking,
    classes: &'a LatencyClasses,
    begun: Instant,
    /// Says whether the request was answered.
    running: JoinSet<bool>,
    requests: Vec<Arc<Mutex<Progress>>>,
    /// In a row.
    failures: usize,
}

impl Flight<'_> {
    async fn run(&mut self, mut waiting: impl Iterator<Item = Fields>, concurrency: usize) {
        self.top_up(&mut waiting, concurrency);
        while let Some(ended) = self.running.join_next().await {
            if self.is_hopeless(ended.is_ok_and(|is_answered| is_answered)) {
                return;
            }
            self.top_up(&mut waiting, concurrency);
        }
    }

    /// What is in flight at the end is given up.
    async fn run_profile(&mut self, mut waiting: impl Iterator<Item = Fields>, profile: &Profile) {
        let mut end = self.begun;
        for concurrency in profile.concurrencies() {
            end += profile.every();
            self.top_up(&mut waiting, concurrency.get() as usize);
            while let Ok(Some(ended)) = tokio::time::timeout_at(end, self.running.join_next()).await {
                if self.is_hopeless(ended.is_ok_and(|is_answered| is_answered)) {
                    return;
                }
                self.top_up(&mut waiting, concurrency.get() as usize);
            }
        }
    }

    /// Whether so many have failed that the others will.
    fn is_hopeless(&mut self, is_answered: bool) -> bool {
        self.failures = if is_answered { 0 } else { self.failures + 1 };
        self.failures >= FAILURES_IN_A_ROW_MAX
    }

    fn top_up(&mut self, waiting: &mut impl Iterator<Item = Fields>, wanted: usize) {
        let room = wanted.saturating_sub(self.running.len());
        for fields in waiting.take(room) {
            let slo = self.classes.slo(self.requests.len());
            let asking = Asking { slo_ms: [slo.ttft_ms_max, slo.tpot_ms_max], ..self.asking.clone() };
            let progress = Arc::<Mutex<Progress>>::default();
            self.requests.push(progress.clone());
            self.running.spawn(answer(asking, fields, progress, self.begun));
        }
    }

    /// Everything so far, in the order of the requests. The server learns that nobody waits for the others any more.
    async fn finish(mut self) -> Vec<Progress> {
        self.running.shutdown().await;
        let take = |progress: &Arc<Mutex<Progress>>| std::mem::take(&mut *lock(progress));
        self.requests.iter().map(take).collect()
    }
}

/// Nobody waits here: all tasks share one thread.
fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until there is an answer or no hope for one; says which.
async fn answer(asking: Asking, fields: Fields, progress: Arc<Mutex<Progress>>, begun: Instant) -> bool {
    lock(&progress).observed.arrival = begun.elapsed();
    let mut wait = RETRY_WAIT;
    for n_retries in 0.. {
        let Err(error) = attempt(&asking, &fields, &progress, begun).await else {
            return true;
        };
        let named = error.retry_after().filter(|_| n_retries < RETRIES_MAX);
        let Some(named) = named else {
            lock(&progress).error = Some(error);
            return false;
        };
        lock(&progress).n_retries += 1;
        tokio::time::sleep(named.max(wait).min(RETRY_WAIT_MAX)).await;
        wait *= 2;
    }
    unreachable!("attempts end with an answer or an error")
}

async fn attempt(
    asking: &Asking,
    fields: &Fields,
    progress: &Mutex<Progress>,
    begun: Instant,
) -> Result<(), Error> {
    let mut answer = asking.client.ask(asking.route, fields, asking.slo_ms).await?;
    while let Some(text) = answer.next().await? {
        let n_chars = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        let mut progress = lock(progress);
        progress.observed.pieces.push(Piece { at: begun.elapsed(), n_chars });
        progress.digest.add(text.as_bytes());
    }
    let mut progress = lock(progress);
    progress.observed.finished = Some(begun.elapsed());
    answer.summary.complete(&mut progress.observed);
    Ok(())
}

/// # Errors
/// If every request failed: the first reason.
fn any_answered(progress: &[Progress]) -> Outcome {
    let error = progress.iter().find_map(|request| request.error.as_ref());
    match error {
        Some(error) if !progress.iter().any(Progress::is_answered) => {
            Err(anyhow::anyhow!("{error}").context("no request of a run was answered").into())
        }
        _ => Ok(()),
    }
}

fn seen(progress: &[Progress], classes: &LatencyClasses) -> Seen {
    let answered = || progress.iter().enumerate().filter(|(_, request)| request.is_answered());
    let timeline = |(i, request): (usize, &Progress)| Some((i, request.observed.timeline()?));
    let ended: Vec<(usize, RequestTimeline)> = answered().filter_map(timeline).collect();
    Seen {
        attained: classes.attained(ended.iter().map(|(i, timeline)| (*i, timeline))),
        gaps: answered().flat_map(|(_, request)| request.observed.gaps()).collect(),
        timelines: ended.into_iter().map(|(_, timeline)| timeline).collect(),
    }
}

/// Where some answers say what speculation did, those that do not were decoded without it. Returns whether any does.
fn tell_of_plain_answers(progress: &mut [Progress]) -> bool {
    let is_told = progress.iter().any(|request| request.observed.speculation.is_some());
    if is_told {
        for request in progress.iter_mut().filter(|request| request.is_answered()) {
            request.observed.speculation.get_or_insert_default();
        }
    }
    is_told
}

/// Of all texts, if there are all.
fn digest(progress: &[Progress]) -> Option<String> {
    let mut all = Digest::default();
    for request in progress {
        request.is_answered().then(|| all.add(request.digest.to_string().as_bytes()))?;
    }
    Some(all.to_string())
}

fn failures(progress: &[Progress]) -> Option<Failures> {
    let mut failures = Failures::default();
    for request in progress {
        failures.retries += u64::from(request.n_retries);
        match &request.error {
            None => {}
            Some(error) if error.retry_after().is_some() => failures.refused += 1,
            Some(Error::Unreachable { .. } | Error::Cut { .. } | Error::Silent { .. }) => failures.lost += 1,
            Some(_) => failures.failed += 1,
        }
    }
    (failures != Failures::default()).then_some(failures)
}

/// Tells of failures and their first reason, and of what only looks like a measurement.
fn warn(run: &Run, progress: &[Progress]) {
    let policy = &run.conditions.policy;
    if let Some(error) = progress.iter().find_map(|request| request.error.as_ref()) {
        let words = run.failures.and_then(|failures| failures.in_words()).unwrap_or_default();
        tracing::warn!("{words} of {} requests under {policy}; the first: {error}", progress.len());
    }
    if progress.iter().any(|request| request.is_answered() && request.observed.usage.is_none()) {
        tracing::warn!("the server does not say how many tokens an answer has; pieces of text were counted");
    }
}
