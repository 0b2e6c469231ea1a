//! How many machines of which kind a load needs, and under which policy they are cheapest.
//!
//! A fleet is replicas of one machine, and every request goes to one of them at random. So each sees arrivals of the same kind at
//! its share of the rate, and one replica is simulated for all: exact for Poisson arrivals, which stay Poisson when they are divided;
//! a little pessimistic for bursts, which division smooths. Prefixes that some replica remembers bring nothing, no replica fails, and
//! the router takes no time.
//!
//! What one replica can serve is searched for: the greatest rate at which the wanted share of its requests meet their targets. The same
//! requests come at every rate, only closer together, and more of them where they would be over too soon.

use std::fmt::Write as _;

use dsde_bench::Quantiles;
use dsde_bench::report::Table;
use dsde_policy::registry;
use serde::Serialize;

use crate::error::Error;
use crate::load::{Arrivals, Load, Traffic};
use crate::results::Cell;
use crate::run::{Progress, on_threads, run};
pub use crate::scenario::Plan;
use crate::scenario::{Point, Scenario};

/// Where the search begins, requests per second.
const RATE_FIRST: f64 = 1.0;
/// Least and greatest rate that is tried.
const RATES: [f64; 2] = [1e-3, 1e5];
/// The greatest rate is known this closely, as a ratio.
const RATE_STEP: f64 = 1.03;

/// What it takes.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// For people.
    pub name: String,
    /// Requests per second that come to the whole fleet.
    pub rate: f64,
    /// Share of the requests that must meet the targets of their class.
    pub attained: f64,
    /// The cheapest first; those of unknown price after them, those that cannot serve it last.
    pub fleets: Vec<Fleet>,
}

/// Replicas of one machine under one policy.
#[derive(Clone, Debug, Serialize)]
pub struct Fleet {
    /// What a replica is.
    pub machine: String,
    /// Target and draft.
    pub pair: String,
    /// Policy with its parameters.
    pub policy: String,
    /// Absent where a replica cannot meet the targets however little it is asked.
    pub sized: Option<Sizing>,
}

/// How large a fleet is, and how a replica of it does at its share of the load.
#[derive(Clone, Debug, Serialize)]
pub struct Sizing {
    /// Requests per second that one replica can serve at most.
    pub rate_max: f64,
    /// How many are needed.
    pub replicas: u64,
    /// US dollars per hour of all of them.
    pub dollars_per_hour: Option<f64>,
    /// US dollars per million emitted tokens.
    pub dollars_per_million: Option<f64>,
    /// Share of the requests that meet their targets.
    pub attained: f64,
    /// Tokens per second of a replica.
    pub tokens_per_s: f64,
    /// Arrival to first token, ms.
    pub ttft_ms: Option<Quantiles>,
    /// Time per token after the first, ms.
    pub tpot_ms: Option<Quantiles>,
}

impl Plan {
    /// Sizes a fleet for every machine and policy.
    ///
    /// # Errors
    /// If a simulation cannot be run.
    pub fn run(&self, n_threads: usize, progress: Progress<'_>) -> Result<Planned, Error> {
        let tasks: Vec<(&Scenario, &registry::Config)> = self
            .machines
            .iter()
            .flat_map(|machine| machine.policies.iter().map(move |policy| (machine, policy)))
            .collect();
        let mut fleets =
            on_threads(n_threads, &tasks, progress, |&(machine, policy)| self.fleet(machine, policy))?;
        fleets.sort_by(|a, b| a.key().partial_cmp(&b.key()).expect("no price is NaN"));
        Ok(Planned { name: self.name.clone(), rate: self.rate, attained: self.attained, fleets })
    }

    fn fleet(&self, machine: &Scenario, policy: &registry::Config) -> Result<Fleet, Error> {
        let replica = Replica { machine, policy, plan: self };
        let sized = match replica.rate_max()? {
            Some(rate_max) => Some(replica.sized(rate_max)?),
            None => None,
        };
        let hardware = &machine.hardware;
        Ok(Fleet {
            machine: hardware.machine.clone(),
            pair: hardware.pair.clone(),
            policy: policy.to_string(),
            sized,
        })
    }
}

impl Fleet {
    /// By which fleets are ordered.
    fn key(&self) -> (bool, f64, u64, &str, &str) {
        let sized = self.sized.as_ref();
        let dollars = sized.and_then(|sized| sized.dollars_per_hour).unwrap_or(f64::INFINITY);
        (sized.is_none(), dollars, sized.map_or(0, |sized| sized.replicas), &self.machine, &self.policy)
    }
}

struct Replica<'a> {
    machine: &'a Scenario,
    policy: &'a registry::Config,
    plan: &'a Plan,
}

impl Replica<'_> {
    /// The greatest rate at which enough of the requests meet their targets; `None` if at none they do.
    fn rate_max(&self) -> Result<Option<f64>, Error> {
        let is_enough = |rate: f64| Ok::<bool, Error>(attained(&self.serve(rate)?) >= self.plan.attained);
        let [mut good, mut bad] = [None, None];
        let mut rate = RATE_FIRST;
        while (RATES[0]..=RATES[1]).contains(&rate) && (good.is_none() || bad.is_none()) {
            match is_enough(rate)? {
                true => (good, rate) = (Some(rate), rate * 2.0),
                false => (bad, rate) = (Some(rate), rate / 2.0),
            }
        }
        let (Some(mut good), Some(mut bad)) = (good, bad) else { return Ok(good) };
        while bad / good > RATE_STEP {
            let middle = (good * bad).sqrt();
            if is_enough(middle)? { good = middle } else { bad = middle }
        }
        Ok(Some(good))
    }

    /// The fleet for the whole rate, by what its replicas do at their share of it.
    fn sized(&self, rate_max: f64) -> Result<Sizing, Error> {
        let replicas = (self.plan.rate / rate_max).ceil().max(1.0);
        let cell = self.serve(self.plan.rate / replicas)?;
        let dollars_per_hour = self.machine.hardware.dollars_per_hour.map(|dollars| dollars * replicas);
        let tokens_per_hour = cell.tokens_per_s.mean * replicas * 3600.0;
        Ok(Sizing {
            rate_max,
            replicas: replicas as u64,
            dollars_per_hour,
            dollars_per_million: dollars_per_hour.map(|dollars| dollars / tokens_per_hour * 1e6),
            attained: attained(&cell),
            tokens_per_s: cell.tokens_per_s.mean,
            ttft_ms: cell.ttft_ms,
            tpot_ms: cell.tpot_ms,
        })
    }

    fn serve(&self, rate: f64) -> Result<Cell, Error> {
        let traffic = Traffic::Open(Arrivals::Random { rate, cv: self.plan.cv });
        let load = &self.machine.load;
        let n_requests = load.n_requests.max((rate * self.plan.seconds).ceil() as usize);
        let scenario = Scenario {
            load: Load { n_requests, ..load.clone() },
            policies: vec![self.policy.clone()],
            points: vec![Point { label: format!("{rate} requests/s"), value: rate, traffic }],
            ..self.machine.clone()
        };
        let cell = run(&scenario, 1, &|_, _| {})?.cells.pop();
        Ok(cell.expect("a policy at a temperature under a load is a cell"))
    }
}

/// Share of all requests that met their targets; who found the queue full has not.
fn attained(cell: &Cell) -> f64 {
    let n_attained: u64 = cell.attained.iter().map(|class| class.attained).sum();
    let n_ended: u64 = cell.attained.iter().map(|class| class.requests).sum();
    n_attained as f64 / (n_ended + cell.lost.refused).max(1) as f64
}

/// The plan as a table.
pub fn markdown(planned: &Planned) -> String {
    let mut out = format!("# {}\n\n", planned.name);
    let _ = writeln!(
        out,
        "Simulated: {} requests/s, of which {:.1} % must meet their targets; every request goes to a replica at random.\n",
        planned.rate,
        100.0 * planned.attained
    );
    let mut table = Table::new(&[
        "machine",
        "policy",
        "one serves, requests/s",
        "replicas",
        "$/h",
        "$/M tokens",
        "met",
        "TTFT p50, p99 ms",
        "TPOT p50, p99 ms",
    ]);
    for fleet in &planned.fleets {
        let mut line = vec![fleet.machine.clone(), fleet.policy.clone()];
        match &fleet.sized {
            None => line.extend(["cannot meet the targets", "-", "-", "-", "-", "-", "-"].map(str::to_owned)),
            Some(sized) => {
                let dollars =
                    |dollars: Option<f64>| dollars.map_or_else(|| "-".to_owned(), |d| format!("{d:.2}"));
                let ms = |ms: Option<Quantiles>| {
                    ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.0}, {:.0}", ms.p50, ms.p99))
                };
                line.extend([
                    format!("{:.3}", sized.rate_max),
                    sized.replicas.to_string(),
                    dollars(sized.dollars_per_hour),
                    dollars(sized.dollars_per_million),
                    format!("{:.1} %", 100.0 * sized.attained),
                    ms(sized.ttft_ms),
                    ms(sized.tpot_ms),
                ]);
            }
        }
        table.push(line);
    }
    out + &table.markdown()
}
