//! Runs a scenario, cell by cell, on as many threads as are wanted. No cell knows of another, so their order changes nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dsde_engine::{Clock as _, Config, Engine, StepReport, Vocabulary};
use dsde_policy::registry;

use crate::clock::VirtualClock;
use crate::error::Error;
use crate::executor::{SimExecutor, Texts};
use crate::pass::Pass;
use crate::random::mix;
use crate::results::{Cell, CellRun, CostCurve, Results};
use crate::scenario::{Point, Scenario};
use crate::series::Series;
use crate::serving::{Asked, Watch, serve};
use crate::signals::SignalStatistics;

/// Virtual time for measuring what steps cost before the first request: that of `dsde serve`.
const PROFILE_TIME: Duration = Duration::from_secs(1);

/// Told when a cell is done: how many are, and how many there are.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Runs all cells.
///
/// # Errors
/// If the load or the engine's limits cannot be used with each other.
pub fn run(scenario: &Scenario, n_threads: usize, progress: Progress<'_>) -> Result<Results, Error> {
    let cells = on_threads(n_threads, &tasks(scenario), progress, |task| task.run(scenario))?;
    Ok(Results {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pair: scenario.hardware.pair.clone(),
        machine: scenario.hardware.machine.clone(),
        dollars_per_hour: scenario.hardware.dollars_per_hour,
        seed: scenario.seed,
        load_axis: load_axis(scenario).to_owned(),
        cells,
        costs: cost_curves(scenario),
    })
}

/// What `work` makes of every task, in their order.
///
/// # Errors
/// The first error in that order, once all are done.
pub(crate) fn on_threads<T: Sync, R: Send>(
    n_threads: usize,
    tasks: &[T],
    progress: Progress<'_>,
    work: impl Fn(&T) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let (next, n_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done: Mutex<Vec<Option<Result<R, Error>>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..n_threads.min(tasks.len()).max(1) {
            scope.spawn(|| {
                loop {
                    let idx = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(idx) else { break };
                    let result = work(task);
                    done.lock().unwrap_or_else(PoisonError::into_inner)[idx] = Some(result);
                    progress(1 + n_done.fetch_add(1, Ordering::Relaxed), tasks.len());
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_iter().map(|result| result.expect("every task was run")).collect()
}

struct Task<'a> {
    policy: &'a registry::Config,
    temperature: f32,
    point: &'a Point,
}

fn tasks(scenario: &Scenario) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for policy in &scenario.policies {
        for &temperature in &scenario.temperatures {
            for point in &scenario.points {
                tasks.push(Task { policy, temperature, point });
            }
        }
    }
    tasks
}

impl Task<'_> {
    fn run(&self, scenario: &Scenario) -> Result<Cell, Error> {
        let runs = (0..scenario.repeats).map(|repeat| {
            let seed = mix(scenario.seed ^ mix(u64::from(repeat)));
            run_cell(scenario, self.policy, self.temperature, self.point, seed)
        });
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        Ok(Cell::of(scenario, &self.policy.to_string(), self.temperature, self.point, runs))
    }
}

/// A simulated engine and what moves it.
pub struct Simulation {
    /// The real one, over a pretended pair.
    pub engine: Engine,
    /// Its clock.
    pub clock: VirtualClock,
    /// What its requests say.
    pub texts: Arc<Texts>,
}

impl Simulation {
    /// An idle engine of a scenario under a policy, which has been taught what steps cost if the scenario wants that.
    ///
    /// # Errors
    /// If the engine's limits contradict each other.
    pub fn new(
        scenario: &Scenario,
        policy: &registry::Config,
        temperature: f32,
        seed: u64,
    ) -> Result<Self, Error> {
        let clock = VirtualClock::default();
        let shape = scenario.pair.shape;
        let process = scenario.processes[usize::from(temperature > 0.0)].clone();
        let texts = Arc::new(Texts::new(process, seed, shape.vocab_len));
        let executor = SimExecutor::new(
            scenario.pair,
            scenario.costs.clone(),
            clock.clone(),
            texts.clone(),
            scenario.faults,
            scenario.noise,
        );
        let config = Config { seed, ..scenario.engine };
        let mut engine =
            Engine::new(config, policy.build(), Arc::new(Silent), Box::new(executor), clock.clone())?;
        // A pass that fails meanwhile costs the profile and nothing else.
        if scenario.profiles
            && let Ok(profile) = engine.profile_costs(PROFILE_TIME)
        {
            let mut policy = policy.build();
            profile.teach(&mut *policy);
            engine.set_policy(policy);
        }
        Ok(Self { engine, clock, texts })
    }
}

/// Tokens without text.
struct Silent;

impl Vocabulary for Silent {
    fn token_bytes(&self, _token: u32) -> &[u8] {
        &[]
    }
}

fn run_cell(
    scenario: &Scenario,
    policy: &registry::Config,
    temperature: f32,
    point: &Point,
    seed: u64,
) -> Result<CellRun, Error> {
    let Simulation { mut engine, clock, texts } = Simulation::new(scenario, policy, temperature, seed)?;
    let signals = Arc::new(Mutex::new(SignalStatistics::default()));
    if engine.policy().signals().divergence {
        let sink = signals.clone();
        engine.set_trace(Some(Box::new(move |step| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).add(step);
        })));
    }
    let demands = scenario.load.demands(&point.traffic, &scenario.faults, seed);
    let asked = Asked {
        demands: &demands,
        traffic: &point.traffic,
        classes: &scenario.load.classes,
        temperature,
        shared_prefix: scenario.load.shared_prefix,
        checks: false,
    };
    let mut over_time = OverTime(Series::new(clock.now()));
    let served = serve(&mut engine, &clock, &texts, &asked, &mut over_time)?;
    let signals = signals.lock().unwrap_or_else(PoisonError::into_inner).report();
    Ok(CellRun { served, series: over_time.0.into_parts(), signals })
}

struct OverTime(Series);

impl Watch for OverTime {
    fn stepped(&mut self, now: Duration, engine: &Engine, report: Option<&StepReport>) {
        if let Some(report) = report {
            self.0.push(now, engine.n_waiting(), report);
        }
    }
}

fn load_axis(scenario: &Scenario) -> &'static str {
    use crate::load::{Arrivals, Traffic};
    match scenario.points.first().map(|point| &point.traffic) {
        Some(Traffic::Open(Arrivals::Recorded { .. })) => "times as fast as recorded",
        Some(Traffic::Open(_)) => "requests per second",
        _ => "requests in flight",
    }
}

/// Contexts at which costs are drawn, tokens.
const CONTEXTS: [f64; 2] = [512.0, 8192.0];

fn cost_curves(scenario: &Scenario) -> Vec<CostCurve> {
    let rows: Vec<f64> = (0..=20).map(|i| 2f64.powf(f64::from(i) / 2.0).round()).collect();
    let contexts = CONTEXTS.iter().filter(|&&len| len <= f64::from(scenario.pair.shape.context_len_max));
    let mut curves = Vec::new();
    for &context in contexts {
        let pass = |rows: f64| Pass {
            seqs: rows,
            rows,
            logit_rows: rows,
            positions: [rows * context; 2],
            seen: [rows * context; 2],
            ..Pass::default()
        };
        let mut curve = |name: &str, seconds: &dyn Fn(&Pass) -> f64| {
            let points = rows.iter().map(|&n| [n, 1e3 * seconds(&pass(n))]).collect();
            curves.push(CostCurve { name: format!("{name}, context {context}"), points });
        };
        curve("target", &|pass| scenario.costs.target(pass, false));
        if scenario.engine.drafter.has_model() {
            curve("draft", &|pass| scenario.costs.draft(pass));
        }
    }
    curves
}
