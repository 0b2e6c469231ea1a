//! What is asked in a benchmark: workloads as requests.

use std::path::Path;

use dsde_bench::Workload;
use dsde_engine::Request;

use super::traffic::Traffic;
use super::{BenchArgs, classes};
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::prompts::{Ask, asks_of, warn_of_suspect};
use crate::samples;
use crate::speculation::first_repeated;

/// Workload of the lines of all others.
const MIX: &str = "mix";

/// Reads the workloads that were named.
///
/// # Errors
/// If one cannot be read or two have the same name.
fn read_workloads(names: &[String]) -> Outcome<Vec<Workload>> {
    if let Some(name) = first_repeated(names) {
        return Err(usage(format!("--workload: {name} is listed twice")));
    }
    let files = names.iter().filter(|name| *name != MIX);
    let read = |name: &String| match name.as_str() {
        "" => Err(usage("--workload: a name is empty; give files, `demo` or `mix`")),
        samples::NAME => Ok(samples::workload()),
        path => {
            let workload = Workload::read(Path::new(path)).or_usage()?;
            warn_of_suspect(&workload, path);
            Ok(workload)
        }
    };
    let mut workloads: Vec<Workload> = files.map(read).collect::<Outcome<_>>()?;
    if workloads.is_empty() {
        return Err(usage("--workload mix needs files to mix"));
    }
    if workloads.len() < names.len() {
        workloads.push(Workload::mix(MIX, &workloads));
    }
    let shown: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
    match first_repeated(&shown) {
        Some(name) => Err(usage(format!("--workload: two of them are called {name}; rename a file"))),
        None => Ok(workloads),
    }
}

/// What is sent for a prompt.
pub(super) trait Asked: Clone {
    /// Leaves it `part` of `whole` of its tokens, at least one.
    fn shorten(&mut self, part: u32, whole: u32);
}

/// `part` of `whole` of so many tokens, at least one.
pub(super) fn share_of(tokens: u32, part: u32, whole: u32) -> u32 {
    let share = (u64::from(tokens) * u64::from(part)).div_ceil(u64::from(whole));
    u32::try_from(share).unwrap_or(u32::MAX).max(1)
}

impl Asked for Request {
    fn shorten(&mut self, part: u32, whole: u32) {
        self.tokens_max = share_of(self.tokens_max, part, whole);
    }
}

/// The requests of a workload at a temperature, without end.
pub(super) struct Load<R> {
    /// Name of the workload.
    pub(super) name: String,
    /// 0 is greedy.
    pub(super) temperature: f32,
    /// One per line that is used; the others repeat them.
    distinct: Vec<R>,
}

impl<R: Asked> Load<R> {
    /// The requests in order, each made when it is asked for.
    pub(super) fn requests(&self) -> impl Iterator<Item = R> {
        self.distinct.iter().cycle().cloned()
    }
}

/// What a command names, before anything is loaded.
pub(super) struct Wanted {
    workloads: Vec<Workload>,
    pub(super) traffics: Vec<Traffic>,
}

impl Wanted {
    /// # Errors
    /// If something is listed twice or a workload cannot be read.
    pub(super) fn of(args: &BenchArgs) -> Outcome<Self> {
        if let Some(temperature) = first_repeated(&args.temperature) {
            return Err(usage(format!("--temperature: {temperature} is listed twice")));
        }
        classes::check_names(args)?;
        let traffics = Traffic::asked(args)?;
        Ok(Self { workloads: read_workloads(&args.workload)?, traffics })
    }
}

/// The loads and traffics of a command, from which its cells are made.
pub(super) struct Loads<R> {
    pub(super) loads: Vec<Load<R>>,
    pub(super) traffics: Vec<Traffic>,
    /// Of a run, where somebody says how many.
    pub(super) n_requests: Option<u32>,
}

impl<R: Asked> Loads<R> {
    /// * `request`: of a prompt at a temperature.
    ///
    /// # Errors
    /// If a prompt cannot be used.
    pub(super) fn new(
        args: &BenchArgs,
        wanted: Wanted,
        request: impl Fn(&Ask, f32) -> Outcome<R>,
    ) -> Outcome<Self> {
        let Wanted { workloads, traffics } = wanted;
        let n_requests = traffics.iter().map(|traffic| traffic.n_requests(args.requests)).max().unwrap_or(0);
        for traffic in traffics.iter().filter(|traffic| traffic.is_short(args.requests)) {
            tracing::warn!(
                "{traffic}: with fewer than three requests for each in flight, tokens/s are those of beginnings and ends; take more --requests"
            );
        }
        let mut loads = Vec::new();
        for workload in workloads {
            let name = workload.name.clone();
            let asks = asks_of(workload, &name);
            let used = &asks[..asks.len().min(n_requests as usize)];
            for &temperature in &args.temperature {
                let distinct = used.iter().map(|ask| request(ask, temperature)).collect::<Outcome<_>>()?;
                loads.push(Load { name: name.clone(), temperature, distinct });
            }
        }
        Ok(Self { loads, traffics, n_requests: args.requests })
    }
}

#[cfg(test)]
impl<R> Load<R> {
    /// A greedy load that repeats a request.
    pub(super) fn of_one(request: R) -> Self {
        Self { name: "one".to_owned(), temperature: 0.0, distinct: vec![request] }
    }
}

#[cfg(test)]
mod tests {
    use dsde_sampling::Params;

    use super::*;

    #[test]
    fn a_mix_needs_files() {
        assert!(read_workloads(&["mix".to_owned()]).is_err());
        let workloads = read_workloads(&["demo".to_owned(), "mix".to_owned()]).ok().unwrap();
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(names, ["demo", "mix"]);
    }

    #[test]
    fn a_load_repeats_its_lines() {
        let distinct = [7, 8].map(|token| Request::new(vec![token], Params::greedy(), 1)).to_vec();
        let load = Load { name: "two".to_owned(), temperature: 0.0, distinct };
        let requests = load.requests().take(3).map(|request| request.prompt[0]);
        assert_eq!(requests.collect::<Vec<_>>(), [7, 8, 7]);
    }
}
