//! Limits of queueing theory.

use std::time::Duration;

use dsde_engine::{Engine, StepReport};
use dsde_simulate::run::Simulation;
use dsde_simulate::serving::{Asked, Watch, serve};

use crate::common::{cell, scenario};

/// One request at a time whose answer is its first token: a step is its whole service.
fn single_server(rate: f64, requests: u32) -> String {
    format!(
        "policies = [\"off\"]\n[acceptance]\nprocess = \"independent\"\nrate = 0.5\n[engine]\nsequences_max = 1\n\
         waiting_max = 1000000\n[load]\narrivals = \"poisson\"\nrate = {rate:?}\nrequests = {requests}\nprompt = 100\noutput = 1\n"
    )
}

#[test]
fn a_single_server_queues_as_m_d_1_does() {
    // Alone a request takes the service time; the mean wait of M/D/1 is rho D / (2 (1 - rho)).
    let service = cell(&single_server(0.01, 50)).ttft_ms.unwrap().p50 / 1e3;
    for load in [0.3, 0.6, 0.8] {
        let got = cell(&single_server(load / service, 20_000)).e2e_ms_mean.unwrap() / 1e3 - service;
        let expected = load * service / (2.0 * (1.0 - load));
        // Waits are correlated over some 1 / (1 - rho)^2 requests, so 20,000 of them know the mean to some 3 percent.
        assert!((got / expected - 1.0).abs() < 0.1, "rho = {load}: {got} for {expected}");
    }
}

/// Integrates the number of requests over time.
#[derive(Default)]
struct Occupancy {
    request_seconds: f64,
    last: Duration,
}

impl Watch for Occupancy {
    fn stepped(&mut self, now: Duration, engine: &Engine, _report: Option<&StepReport>) {
        let n = f64::from(engine.n_running() + engine.n_waiting());
        self.request_seconds += n * (now - self.last).as_secs_f64();
        self.last = now;
    }
}

#[test]
fn littles_law_holds() {
    let scenario = scenario(
        "policies = [\"fixed:k=3\"]\n[acceptance]\nprocess = \"regimes\"\nrate = 0.7\n\
         [load]\narrivals = \"poisson\"\nrate = 30.0\nrequests = 4000\nprompt = { mean = 200, cv = 0.8, max = 2000 }\n\
         output = { mean = 100, cv = 0.8, max = 1000 }\n",
    );
    let Simulation { mut engine, clock, texts } =
        Simulation::new(&scenario, &scenario.policies[0], 0.0, 1).unwrap();
    let demands = scenario.load.demands(&scenario.points[0].traffic, &scenario.faults, 1);
    let asked = Asked {
        demands: &demands,
        traffic: &scenario.points[0].traffic,
        classes: &scenario.load.classes,
        temperature: 0.0,
        shared_prefix: 0,
        checks: true,
    };
    let mut occupancy = Occupancy::default();
    let served = serve(&mut engine, &clock, &texts, &asked, &mut occupancy).unwrap();
    let time = occupancy.last.as_secs_f64();
    let stays =
        served.ended.iter().map(|ended| (ended.timeline.finished - ended.timeline.arrival).as_secs_f64());
    let mean_stay = stays.sum::<f64>() / served.ended.len() as f64;
    let arrivals_per_s = served.ended.len() as f64 / time;
    let (in_system, by_law) = (occupancy.request_seconds / time, arrivals_per_s * mean_stay);
    // The engine is told of an arrival at the next step, so it counts about half a step less per request: here some 18 ms of
    // half a second, 3.5 %.
    assert!(in_system > 5.0 && (0.95..1.0).contains(&(in_system / by_law)), "{in_system} and {by_law}");
}
