//! `[plan]`: what comes to a fleet, and the machines that it may be made of.

use std::path::Path;

use toml::{Table, Value};

use super::section::{Section, shown};
use super::{Scenario, traffic};
use crate::error::Error;

/// A scenario per kind of machine, and the load of all replicas together.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For people.
    pub name: String,
    /// Requests per second that come to the whole fleet.
    pub rate: f64,
    /// Share of the requests that must meet the targets of their class.
    pub attained: f64,
    /// Spread of the gaps between arrivals over their mean; 1 is Poisson.
    pub cv: f64,
    /// How long requests come to a replica at least, seconds: long enough for a queue to show that it grows.
    pub seconds: f64,
    /// Each with its own hardware, all with the same load.
    pub machines: Vec<Scenario>,
}

/// Most requests per second of a fleet.
const RATE_MAX: f64 = 1e9;
/// Longest that is simulated of a replica: an hour.
const SECONDS_MAX: f64 = 3600.0;

impl Plan {
    /// Reads a file.
    ///
    /// # Errors
    /// If it, or one that it names, cannot be read or used.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (text, stem) = Scenario::text(path)?;
        Self::parse(&text, &stem, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads a scenario with a section `plan`.
    ///
    /// * `name`: if the text gives none.
    /// * `folder`: where files are looked for.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, Error> {
        let table: Table = toml::from_str(text)?;
        let root = Section::root(&table);
        root.known(super::KEYS)?;
        let plan = root.section("plan")?.ok_or_else(|| root.missing("plan", "a table"))?;
        plan.known(&["rate", "attained", "cv", "seconds", "machine"])?;
        let rate = plan.number("rate", 1e-3..=RATE_MAX)?;
        let rate = rate.ok_or_else(|| plan.missing("rate", "requests per second of the whole fleet"))?;
        let attained = plan.number("attained", 0.0..=1.0)?.unwrap_or(0.95);
        let cv = plan.number("cv", 0.0..=100.0)?.unwrap_or(1.0);
        let seconds = plan.number("seconds", 0.0..=SECONDS_MAX)?.unwrap_or(60.0);
        let n_machines = plan.sections("machine")?.len();
        check(&root)?;
        let machines = (0..n_machines.max(1)).map(|i| {
            let scenario = Scenario::of_table(&with_machine(&table, i), name, folder);
            scenario.map_err(|error| if n_machines > 0 { of_machine(error, i) } else { error })
        });
        let machines: Vec<Scenario> = machines.collect::<Result<_, Error>>()?;
        Ok(Self { name: machines[0].name.clone(), rate, attained, cv, seconds, machines })
    }
}

/// What a plan needs of the rest of its scenario.
fn check(root: &Section<'_>) -> Result<(), Error> {
    let Some(load) = root.section("load")? else { return Ok(()) };
    for key in ["arrivals", "rate", "cv", "concurrency"] {
        if let Some(value) = load.get(key) {
            return Err(load.wrong(key, "left out: a plan says what comes", shown(value)));
        }
    }
    load.known(traffic::KEYS)?;
    if load.sections("class")?.is_empty() {
        return Err(load.missing("class", "a list of { name, ttft_ms, tpot_ms }, the targets to be met"));
    }
    match root.get("temperature") {
        Some(value) if value.as_array().is_some_and(|list| list.len() != 1) => {
            Err(root.wrong("temperature", "one number", shown(value)))
        }
        _ => Ok(()),
    }
}

/// The scenario with machine `i` of the plan, whose keys come before those of `[machine]`.
fn with_machine(table: &Table, i: usize) -> Table {
    let mut scenario = table.clone();
    let plan = scenario.remove("plan");
    let own = plan.as_ref().and_then(|plan| plan.get("machine")?.get(i)?.as_table());
    let machine = scenario.entry("machine").or_insert_with(|| Table::new().into());
    if let (Some(machine), Some(own)) = (machine.as_table_mut(), own) {
        machine.extend(own.clone());
    }
    if let Some(load) = scenario.get_mut("load").and_then(Value::as_table_mut) {
        load.insert("arrivals".to_owned(), "poisson".into());
        load.insert("rate".to_owned(), Value::Float(1.0));
    }
    scenario
}

/// Says which of the machines an error is about.
fn of_machine(error: Error, i: usize) -> Error {
    let with = |key: String| format!("{key} with plan.machine[{i}]");
    match error {
        Error::Value { key, expected, got } => Error::Value { key: with(key), expected, got },
        Error::Missing { key, expected } => Error::Missing { key: with(key), expected },
        Error::Unknown { key, expected } => Error::Unknown { key: with(key), expected },
        other => other,
    }
}
