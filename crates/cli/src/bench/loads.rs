//! What is asked in a benchmark: workloads as requests.

use std::path::Path;

use dsde_bench::Workload;
use dsde_engine::Request;
use dsde_sampling::Params;

use super::BenchArgs;
use crate::failure::{OrUsage as _, Outcome, usage};
use crate::prompts::{Ask, asks_of, warn_of_suspect};
use crate::samples;
use crate::session::Session;
use crate::speculation::first_repeated;

/// Workload of the lines of all others.
const MIX: &str = "mix";

/// Reads the workloads that were named.
///
/// # Errors
/// If one cannot be read or two have the same name.
pub(super) fn read_workloads(names: &[String]) -> Outcome<Vec<Workload>> {
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

/// The requests of a workload at a temperature, without end.
pub(super) struct Load {
    /// Name of the workload.
    pub(super) name: String,
    /// 0 is greedy.
    pub(super) temperature: f32,
    /// One per line that is used; the others repeat them.
    distinct: Vec<Request>,
    /// Of the first request.
    seed: u64,
}

impl Load {
    /// * `n_requests`: most that a run takes.
    ///
    /// # Errors
    /// If a prompt cannot be used.
    pub(super) fn new(
        args: &BenchArgs,
        session: &Session,
        workload: Workload,
        temperature: f32,
        n_requests: u32,
    ) -> Outcome<Self> {
        let params = Params { temperature, ..Params::greedy() };
        params.check(session.engine.shape().vocab_len).or_usage()?;
        let name = workload.name.clone();
        let asks = asks_of(workload, &name);
        let request = |ask: &Ask| {
            let prompt = session.encode(&ask.prompt).map_err(|error| ask.blame(error))?;
            let mut request = Request::new(prompt, params.clone(), args.max_tokens.get());
            if args.stop_at_eos {
                request.stop.tokens = session.eos_tokens().to_vec();
            }
            request.check(&session.engine.shape()).map_err(|error| ask.blame(error))?;
            Ok(request)
        };
        let distinct = asks.iter().take(n_requests as usize).map(request).collect::<Outcome<_>>()?;
        Ok(Self { name, temperature, distinct, seed: args.seed })
    }

    /// The requests in order, each made when it is asked for.
    pub(super) fn requests(&self) -> impl Iterator<Item = Request> {
        let seeds = (0_u64..).map(|i| self.seed.wrapping_add(i));
        self.distinct.iter().cycle().zip(seeds).map(|(request, seed)| {
            let mut request = request.clone();
            request.params.seed = seed;
            request
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_needs_files() {
        assert!(read_workloads(&["mix".to_owned()]).is_err());
        let workloads = read_workloads(&["demo".to_owned(), "mix".to_owned()]).ok().unwrap();
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(names, ["demo", "mix"]);
    }

    #[test]
    fn a_load_repeats_its_lines_with_further_seeds() {
        let distinct = [7, 8].map(|token| Request::new(vec![token], Params::greedy(), 1)).to_vec();
        let load = Load { name: "two".to_owned(), temperature: 0.0, distinct, seed: 5 };
        let requests = load.requests().take(3).map(|request| (request.prompt[0], request.params.seed));
        assert_eq!(requests.collect::<Vec<_>>(), [(7, 5), (8, 6), (7, 7)]);
    }
}
