//! What `auto` promises: never slower than plain decoding, and close to the best fixed length, which nobody had to find.

use crate::simulation::{Achieved, Demand, Machine, Mixture, Simulation, Variety};
use dsde_policy::{Config, Policy};

/// Tokens per sequence that are not counted.
const WARM_UP: u32 = 200;
/// Lengths that `auto` is compared with.
const FIXED: [u32; 9] = [0, 1, 2, 3, 4, 6, 8, 12, 16];

fn build(text: &str) -> Box<dyn Policy> {
    text.parse::<Config>().expect("a valid configuration").build()
}

/// Phases of a workload, each with its tokens per sequence.
type Phases<'a> = &'a [(u32, Demand)];

/// Achieved after the warm-up in the first phase's demand.
fn achieve(policy: &str, machine: Machine, variety: Variety, phases: Phases<'_>) -> Achieved {
    let mut policy = build(policy);
    let mut simulation = Simulation::new(machine, variety, 7);
    simulation.run(policy.as_mut(), WARM_UP, phases[0].1);
    let mut achieved = Achieved::default();
    for &(n_tokens, demand) in phases {
        achieved.add(simulation.run(policy.as_mut(), n_tokens, demand));
    }
    achieved
}

struct Cell {
    label: String,
    auto: f64,
    off: f64,
    /// Best fixed length and its rate.
    best: (u32, f64),
    /// Verified tokens per emitted token.
    verified: f64,
}

impl Cell {
    fn measure(label: String, machine: Machine, variety: Variety, phases: Phases<'_>) -> Self {
        let rate = |k: u32| match k {
            0 => achieve("off", machine, variety, phases).rate(),
            k => achieve(&format!("fixed:k={k}"), machine, variety, phases).rate(),
        };
        let rates: Vec<(u32, f64)> = FIXED.iter().map(|&k| (k, rate(k))).collect();
        let best = rates.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).expect("lengths");
        let auto = achieve("auto", machine, variety, phases);
        let verified = auto.n_verified as f64 / auto.tokens;
        Self { label, auto: auto.rate(), off: rates[0].1, best, verified }
    }

    fn regret(&self) -> f64 {
        1.0 - self.auto / self.best.1
    }

    fn row(&self) -> String {
        format!(
            "{:<52} auto {:7.1}/s  {:.3} of off  best k={} {:.3} of off  regret {:+.3}  verified/token {:.2}",
            self.label,
            self.auto,
            self.auto / self.off,
            self.best.0,
            self.best.1 / self.off,
            self.regret(),
            self.verified,
        )
    }
}

fn check(cells: &[Cell]) {
    check_within(cells, 0.05);
}

/// * `worst_max`: largest regret of a single cell.
fn check_within(cells: &[Cell], worst_max: f64) {
    let mean = cells.iter().map(Cell::regret).sum::<f64>() / cells.len() as f64;
    let worst = cells.iter().map(Cell::regret).fold(f64::MIN, f64::max);
    let slowest = cells.iter().map(|cell| cell.auto / cell.off).fold(f64::MAX, f64::min);
    let table: Vec<String> = cells.iter().map(Cell::row).collect();
    let summary = format!("mean regret {mean:.4}, worst {worst:.4}, slowest {slowest:.4} of off");
    assert!(mean <= 0.02 && worst <= worst_max && slowest >= 0.98, "{}\n{summary}", table.join("\n"));
}

/// Machines by name: cost of a draft round, bend, cost of a row.
fn machines(noise: f64, spikes: f64) -> Vec<(&'static str, Machine)> {
    let machine = |round, knee, row| Machine {
        round,
        knee,
        row,
        mixture: None,
        verdict: 0.004,
        stored: [0.0; 2],
        noise,
        spikes,
    };
    vec![
        ("accelerator, light draft", machine(0.02, 64.0, 0.004)),
        ("accelerator, heavy draft", machine(0.25, 64.0, 0.004)),
        ("processor, light draft", machine(0.05, 4.0, 0.06)),
        ("processor, heavy draft", machine(0.2, 1.0, 0.25)),
    ]
}

fn grid(variety: Variety, noise: f64, spikes: f64, prompts: f64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (name, machine) in machines(noise, spikes) {
        for (n_sequences, n_tokens) in [(1, 3000), (4, 2000), (16, 1000), (32, 1000)] {
            for acceptance in [0.2, 0.5, 0.7, 0.9] {
                let label = format!("{name}, {n_sequences} in flight, {acceptance}");
                let demand = Demand { n_sequences, acceptance, prompts, ..Demand::default() };
                cells.push(Cell::measure(label, machine, variety, &[(n_tokens, demand)]));
            }
        }
    }
    cells
}

#[test]
fn settled_load_without_shape() {
    check(&grid(Variety { requests: 0.5, positions: 0.8, has_shape: false }, 0.08, 0.01, 0.0));
}

#[test]
fn settled_load_with_shape() {
    check(&grid(Variety { requests: 0.5, positions: 1.5, has_shape: true }, 0.08, 0.01, 0.0));
}

#[test]
fn settled_load_with_prompts() {
    check(&grid(Variety { requests: 0.5, positions: 0.8, has_shape: false }, 0.08, 0.01, 0.4));
}

/// Phases of 1500 tokens per sequence; for the second one the best fixed length is another.
#[test]
fn acceptance_that_changes() {
    let variety = Variety { requests: 0.3, positions: 0.8, has_shape: false };
    let mut cells = Vec::new();
    for (name, machine) in machines(0.08, 0.01) {
        for n_sequences in [1, 8] {
            for (first, second) in [(0.8, 0.2), (0.2, 0.8)] {
                let label = format!("{name}, {n_sequences} in flight, {first} then {second}");
                let demand = |acceptance| Demand { n_sequences, acceptance, ..Demand::default() };
                let phases = [(1500, demand(first)), (1500, demand(second))];
                cells.push(Cell::measure(label, machine, variety, &phases));
            }
        }
    }
    check(&cells);
}

/// Between one sequence, where speculation pays, and 32, where it mostly does not.
#[test]
fn bursts() {
    let variety = Variety { requests: 0.5, positions: 0.8, has_shape: false };
    let mut cells = Vec::new();
    for (name, machine) in machines(0.08, 0.01) {
        for acceptance in [0.3, 0.7] {
            let label = format!("{name}, bursts, {acceptance}");
            let demand = |n_sequences| Demand { n_sequences, acceptance, prompts: 0.2, ..Demand::default() };
            let burst = [(150, demand(1)), (60, demand(32)), (100, demand(3)), (60, demand(12))];
            cells.push(Cell::measure(label, machine, variety, &burst.repeat(6)));
        }
    }
    check(&cells);
}

/// Drafting that takes next to nothing: lengths may go beyond 8.
#[test]
fn drafts_that_are_nearly_free() {
    let variety = Variety { requests: 0.5, positions: 0.5, has_shape: false };
    let machine = Machine {
        round: 0.005,
        knee: 8.0,
        row: 0.01,
        mixture: None,
        verdict: 0.002,
        stored: [0.0; 2],
        noise: 0.08,
        spikes: 0.01,
    };
    let mut cells = Vec::new();
    for (n_sequences, n_tokens) in [(1, 4000), (4, 2000)] {
        for acceptance in [0.7, 0.9, 0.97] {
            let label = format!("{n_sequences} in flight, {acceptance}");
            let demand = Demand { n_sequences, acceptance, ..Demand::default() };
            cells.push(Cell::measure(label, machine, variety, &[(n_tokens, demand)]));
        }
    }
    check(&cells);
    assert!(cells.iter().any(|cell| cell.best.0 > 8), "a case that needs them");
}

/// Contexts of which every further row costs a good part of a pass: short and long ones in turns, and beside each other.
#[test]
fn long_contexts() {
    let variety = Variety { requests: 0.5, positions: 0.8, has_shape: false };
    let (short, long) = ((100, 1000), (6000, 8000));
    let mut cells = Vec::new();
    for (name, mut machine) in machines(0.08, 0.01) {
        machine.stored = [0.15, 0.1];
        for n_sequences in [1, 4, 16] {
            for acceptance in [0.3, 0.6, 0.8] {
                let demand =
                    |prompt_lens| Demand { n_sequences, acceptance, prompt_lens, ..Demand::default() };
                let label = |which| format!("{name}, {n_sequences} in flight, {acceptance}, {which}");
                let in_turns = [
                    (2000, demand(short)),
                    (2000, demand(long)),
                    (2000, demand(short)),
                    (2000, demand(long)),
                ];
                cells.push(Cell::measure(label("in turns"), machine, variety, &in_turns));
                let beside = [(2000, demand((short.0, long.1)))];
                cells.push(Cell::measure(label("beside each other"), machine, variety, &beside));
            }
        }
    }
    check(&cells);
}

/// Answers that are over before a decision to decode plainly is.
#[test]
fn short_answers() {
    let variety = Variety { requests: 0.5, positions: 0.8, has_shape: false };
    let mut cells = Vec::new();
    for (name, machine) in machines(0.08, 0.01) {
        for n_sequences in [1, 4] {
            for acceptance in [0.3, 0.6, 0.8] {
                let label = format!("{name}, {n_sequences} in flight, {acceptance}");
                let demand = Demand { n_sequences, acceptance, answer_lens: (8, 40), ..Demand::default() };
                cells.push(Cell::measure(label, machine, variety, &[(3000, demand)]));
            }
        }
    }
    check(&cells);
}

/// A processor whose target has 64 experts, 8 per row, which take 85 % of a pass over one row.
fn mixture(topic: f64) -> Machine {
    let mixture = Mixture { n_experts: 64, n_chosen: 8, share: 0.85, topic };
    let (round, knee, row, verdict) = (0.02, 8.0, 0.06, 0.004);
    Machine { round, knee, row, mixture: Some(mixture), verdict, stored: [0.0; 2], noise: 0.08, spikes: 0.01 }
}

/// Drafts that would pay on a dense model, where they wake other experts than the rows before them and where they wake the same.
#[test]
fn drafts_that_wake_experts() {
    let variety = Variety { requests: 0.3, positions: 0.8, has_shape: false };
    let mut cells = Vec::new();
    for topic in [0.0, 0.5, 0.95] {
        for (n_sequences, n_tokens) in [(1, 3000), (4, 2000), (8, 1500)] {
            for acceptance in [0.4, 0.7, 0.9] {
                let label = format!("topic {topic}, {n_sequences} in flight, {acceptance}");
                let demand = Demand { n_sequences, acceptance, ..Demand::default() };
                cells.push(Cell::measure(label, mixture(topic), variety, &[(n_tokens, demand)]));
            }
        }
    }
    // Where one draft wakes as much as eight, only long ones pay, which takes long to find out.
    check_within(&cells, 0.08);
}

/// Where every drafted row wakes its own experts `auto` draws back, and fixed lengths lose; where rows of a text ask the same
/// ones, speculation pays as on a dense model.
#[test]
fn auto_draws_back_where_drafts_wake_experts() {
    let variety = Variety { requests: 0.3, positions: 0.8, has_shape: false };
    let demand = Demand { n_sequences: 2, acceptance: 0.6, ..Demand::default() };
    let rate = |policy, topic| achieve(policy, mixture(topic), variety, &[(2000, demand)]);
    let [off, fixed, auto] = ["off", "fixed:k=4", "auto"].map(|policy| rate(policy, 0.0));
    assert!(fixed.rate() < 0.9 * off.rate(), "{} {}", fixed.rate(), off.rate());
    assert!(auto.rate() > 0.98 * off.rate(), "{} {}", auto.rate(), off.rate());
    assert!((auto.n_verified as f64) < 0.1 * auto.tokens, "{auto:?}");
    let [off, fixed, auto] = ["off", "fixed:k=4", "auto"].map(|policy| rate(policy, 0.95));
    assert!(fixed.rate() > 1.1 * off.rate(), "{} {}", fixed.rate(), off.rate());
    assert!(auto.rate() > 0.98 * fixed.rate(), "{} {}", auto.rate(), fixed.rate());
}

/// What was learnt of passes over few texts prices those over many, whose rows ask other experts: the load changes between one
/// sequence, where drafts pay, and eight, where they wake too much.
#[test]
fn bursts_on_a_mixture() {
    let variety = Variety { requests: 0.3, positions: 0.8, has_shape: false };
    let demand = |n_sequences| Demand { n_sequences, acceptance: 0.7, ..Demand::default() };
    let phases: Vec<(u32, Demand)> = (0..10).map(|i| (300, demand(if i % 2 == 0 { 1 } else { 8 }))).collect();
    let cells = [0.3, 0.7]
        .map(|topic| Cell::measure(format!("bursts, topic {topic}"), mixture(topic), variety, &phases));
    check(&cells);
}
