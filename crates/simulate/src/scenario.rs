//! What is simulated: a TOML file, read into checked values.
//!
//! `docs/simulation.md` describes every key. Files that a scenario names are looked for beside it.

mod acceptance;
mod machine;
mod plan;
mod section;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dsde_engine::{Config, Drafter, Suffix};
use dsde_policy::registry;

use crate::cost::Costs;
use crate::error::Error;
use crate::executor::Pair;
use crate::faults::Faults;
use crate::load::Load;
use crate::process::Process;
use section::Section;

pub use machine::Hardware;
pub use plan::Plan;
pub use traffic::Point;

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For people.
    pub name: String,
    /// What it is about, if it says so.
    pub about: Option<String>,
    /// Of all random numbers.
    pub seed: u64,
    /// Runs of each cell, with seeds of their own.
    pub repeats: u32,
    /// Who plans.
    pub policies: Vec<registry::Config>,
    /// 0 is greedy.
    pub temperatures: Vec<f32>,
    /// Prices.
    pub costs: Arc<Costs>,
    /// What the pair runs on, in words and dollars.
    pub hardware: Hardware,
    /// Sizes of the pair.
    pub pair: Pair,
    /// Standard deviation of the logarithm of a pass's time.
    pub noise: f64,
    /// Whether policies are taught by a cost profile before the first request, as `dsde serve` does.
    pub profiles: bool,
    /// Where drafts of greedy requests are accepted, and where those of sampled ones.
    pub processes: [Process; 2],
    /// Limits of the engine.
    pub engine: Config,
    /// Who asks for what.
    pub load: Load,
    /// How often, from little to much.
    pub points: Vec<Point>,
    /// What goes wrong.
    pub faults: Faults,
}

/// What a file may hold.
const KEYS: &[&str] = &[
    "name",
    "about",
    "seed",
    "repeats",
    "policies",
    "temperature",
    "machine",
    "pair",
    "engine",
    "acceptance",
    "load",
    "faults",
    "plan",
];

/// Largest scenario file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// If it, or one that it names, cannot be read or used.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (text, stem) = Self::text(path)?;
        Self::parse(&text, &stem, path.parent().unwrap_or(Path::new("")))
    }

    /// The text of a file, and its name for want of another one.
    pub(crate) fn text(path: &Path) -> Result<(String, String), Error> {
        let unreadable = |source| Error::Unreadable { path: path.to_path_buf(), source };
        let len = fs::metadata(path).map_err(unreadable)?.len();
        if len > FILE_BYTES_MAX {
            return Err(Error::Value {
                key: path.display().to_string(),
                expected: format!("a file of at most {FILE_BYTES_MAX} bytes"),
                got: format!("{len} bytes"),
            });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok((text, stem))
    }

    /// Reads a text.
    ///
    /// * `name`: if the text gives none.
    /// * `folder`: where files are looked for.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, Error> {
        Self::of_table(&toml::from_str(text)?, name, folder)
    }

    fn of_table(table: &toml::Table, name: &str, folder: &Path) -> Result<Self, Error> {
        let root = Section::root(table);
        root.known(KEYS)?;
        // What it says is for planning; the rest is a scenario like others.
        root.section("plan")?;
        let section = |key: &'static str| root.section(key)?.ok_or_else(|| root.missing(key, "a table"));
        let policies = policies(&root)?;
        let acceptance = acceptance::read(&section("acceptance")?, folder)?;
        let machine =
            machine::read(&section("machine")?, root.section("engine")?, &section("pair")?, folder)?;
        let (load, points) = traffic::read(section("load")?, &acceptance, &machine, folder)?;
        machine.check_room(&load)?;
        acceptance.check_tokens(machine.pair.shape.vocab_len)?;
        let scenario = Self {
            name: root.text("name")?.unwrap_or(name).to_owned(),
            about: root.text("about")?.map(str::to_owned),
            seed: root.count("seed", 0..=u32::MAX)?.unwrap_or(0).into(),
            repeats: root.count("repeats", 1..=1000)?.unwrap_or(1),
            temperatures: temperatures(&root)?,
            faults: faults(root.section("faults")?)?,
            policies,
            engine: Config {
                drafter: drafter(machine.has_draft, acceptance.has_answers()),
                ..machine.engine
            },
            costs: Arc::new(machine.costs),
            hardware: machine.hardware,
            pair: machine.pair,
            noise: machine.noise,
            profiles: machine.profiles,
            processes: acceptance.processes,
            load,
            points,
        };
        scenario.engine.check(&scenario.pair.shape)?;
        Ok(scenario)
    }
}

/// Who drafts: as in `dsde serve`, where texts are known.
fn drafter(has_draft: bool, has_texts: bool) -> Drafter {
    let suffix = Suffix::default();
    match (has_draft, has_texts) {
        (false, false) => Drafter::None,
        (true, false) => Drafter::Model,
        (false, true) => Drafter::Suffix(suffix),
        (true, true) => Drafter::Either(suffix),
    }
}

fn policies(root: &Section<'_>) -> Result<Vec<registry::Config>, Error> {
    let expected = "a list of policies, such as [\"off\", \"fixed:k=4\", \"auto\"]";
    let names = root.texts("policies")?.ok_or_else(|| root.missing("policies", expected))?;
    let mut policies: Vec<registry::Config> = Vec::new();
    for (i, name) in names.into_iter().enumerate() {
        let policy: registry::Config = name.parse().map_err(|error: dsde_policy::Error| {
            root.wrong(&format!("policies[{i}]"), format!("a policy ({error})"), format!("'{name}'"))
        })?;
        if policies.contains(&policy) {
            return Err(root.wrong(&format!("policies[{i}]"), "another policy than those before it", name));
        }
        policies.push(policy);
    }
    Ok(policies)
}

fn temperatures(root: &Section<'_>) -> Result<Vec<f32>, Error> {
    let temperatures = root.numbers("temperature", 0.0..=2.0)?.unwrap_or(vec![0.0]);
    Ok(temperatures.into_iter().map(|temperature| temperature as f32).collect())
}

/// Longest time of a scenario, seconds: a month.
pub(crate) const SECONDS_MAX: f64 = 31.0 * 86_400.0;

fn faults(section: Option<Section<'_>>) -> Result<Faults, Error> {
    let Some(section) = section else { return Ok(Faults::default()) };
    let share = |key| section.number(key, 0.0..=1.0).map(Option::unwrap_or_default);
    let time = |key, default| {
        let seconds = section.number(key, 0.0..=SECONDS_MAX)?;
        Ok::<_, Error>(Duration::from_secs_f64(seconds.unwrap_or(default)))
    };
    let faults = Faults {
        failures: share("failures")?,
        stragglers: share("stragglers")?,
        straggler_factor: section.number("straggler_factor", 1.0..=1e4)?.unwrap_or(5.0),
        jumps: share("jumps")?,
        jump: time("jump_s", 10.0)?,
        cancels: share("cancels")?,
        patience: time("patience_s", 5.0)?,
    };
    section.end()?;
    Ok(faults)
}

/// A file that a scenario names.
fn beside(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}
