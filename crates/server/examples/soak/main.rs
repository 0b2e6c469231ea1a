//! Drives a running server with many streaming clients, a quarter of whom leave early, and tells what it cost.
//!
//! `cargo run --release -p dsde-server --example soak -- URL [CLIENTS [SECONDS [TOKENS [DSDE]]]]`
//!
//! After prompts that use every block, and a warm-up as long as itself, or of five minutes, one round is measured. It ends with
//! code 1 if a check fails; `docs/serving.md` lists them. The program DSDE, if named, is asked to `generate` what greedy answers
//! must be. Loopback only: it is meant to be hard on the server.

mod clients;
mod fill;
mod forms;
mod reference;
mod scrape;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clients::{Load, Outcome};
use fill::fill;
use forms::Forms;
use reference::References;
use scrape::{Scrape, client, settles};

/// Growth of the resident memory that is no leak: caches of the allocator, bytes.
const GROWTH_MAX: f64 = 16.0 * MIB;
const MIB: f64 = 1024.0 * 1024.0;
/// Most that the server may add to a streamed token, at p99, seconds.
const DELIVERY_MAX: f64 = 0.001;
/// Longest warm-up.
const WARM_UP_MAX: u64 = 300;
/// Values of a series that are printed.
const SHOWN_MAX: usize = 60;
/// Between two looks at the server.
const PERIOD: Duration = Duration::from_secs(2);

const BLOCKS: &str = "dsde:kv_blocks_free";
const DELIVERY: &str = "dsde:delivery_seconds";
const FILES: &str = "process_open_fds";
const RESIDENT: &str = "process_resident_memory_bytes";
const TOKENS: &str = "vllm:generation_tokens_total";

struct Arguments {
    url: String,
    n_clients: u64,
    seconds: u64,
    tokens_max: u64,
    dsde: Option<String>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let number = |i: usize, default: u64| arguments.get(i).map_or(Ok(default), |text| text.parse());
        let (Some(url), Ok(n_clients), Ok(seconds), Ok(tokens_max)) =
            (arguments.first(), number(1, 256), number(2, 60), number(3, 64))
        else {
            return Err("usage: soak URL [CLIENTS [SECONDS [TOKENS [DSDE]]]]".to_owned());
        };
        if !url.starts_with("http://127.0.0.1:") && !url.starts_with("http://localhost:") {
            return Err(format!("error: the server must be on this machine, got {url}"));
        }
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, n_clients, seconds, tokens_max, dsde: arguments.get(4).cloned() })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse() {
        Ok(arguments) if soak(&arguments).await => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Whether all checks hold.
async fn soak(arguments: &Arguments) -> bool {
    let Arguments { url, n_clients, seconds, tokens_max, dsde } = arguments;
    let mut checks = Checks(true);
    let new = Scrape::now(url).await;
    fill(&client(), url).await;
    let references = References::ask(&client(), url, *tokens_max).await;
    if let Some(dsde) = dsde {
        let difference = references.compare(dsde, *tokens_max).map_err(|error| error.to_string());
        checks.check(
            "greedy tokens are those of generate",
            difference == Ok(None),
            &format!("{difference:?}"),
        );
    }
    let forms = Forms::ask(&client(), url).await;
    println!(
        "{} forms of requests, and {} that the server refuses: {:?}",
        forms.known.len(),
        forms.refused.len(),
        forms.refused
    );
    let mut load = Load {
        url: url.clone(),
        n_clients: *n_clients,
        n_requests: u64::MAX,
        until: Some(Instant::now() + Duration::from_secs(WARM_UP_MAX.min(*seconds))),
        tokens_max: *tokens_max,
        references: Arc::new(references),
        forms: Arc::new(forms),
    };
    let outcome = clients::run(load.clone()).await;
    report("warm-up", &outcome, &mut checks);
    checks.check("idle after the warm-up", settles(url, &new).await, "");

    let before = Scrape::now(url).await;
    load.until = Some(Instant::now() + Duration::from_secs(*seconds));
    let watched = tokio::spawn(watch(url.clone(), load.until));
    let outcome = clients::run(load).await;
    report("measured", &outcome, &mut checks);
    checks.check("idle with no more connections and tasks than before", settles(url, &before).await, "");
    let after = Scrape::now(url).await;
    compare(&before, &after, &mut checks);
    under_load(&watched.await.unwrap_or_default(), &mut checks);
    checks.0
}

/// Looks at the server while the load lasts.
async fn watch(url: String, until: Option<Instant>) -> Vec<Scrape> {
    let mut scrapes = Vec::new();
    while until.is_some_and(|until| Instant::now() + PERIOD < until) {
        tokio::time::sleep(PERIOD).await;
        scrapes.push(Scrape::now(&url).await);
    }
    scrapes
}

/// Prints every check; holds while all of them do.
struct Checks(bool);

impl Checks {
    fn check(&mut self, what: &str, holds: bool, figures: &str) {
        println!("  {} {what} {figures}", if holds { "ok    " } else { "FAILED" });
        self.0 &= holds;
    }
}

fn report(round: &str, outcome: &Outcome, checks: &mut Checks) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{round}: {} answered with {} events, {} left, {} times 429",
        count(&outcome.answered),
        count(&outcome.events),
        count(&outcome.left),
        count(&outcome.refused),
    );
    for fault in outcome.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        println!("  fault: {fault}");
    }
    let n_faults = count(&outcome.n_faults);
    checks.check("no fault", n_faults == 0, &format!("({n_faults})"));
    let as_alone = count(&outcome.as_alone);
    checks.check("known answers are those of an idle server", as_alone > 0, &format!("({as_alone})"));
}

/// What the round left behind and what it took.
fn compare(before: &Scrape, after: &Scrape, checks: &mut Checks) {
    let now = |name: &str| format!("({} before, {} after)", before.value(name), after.value(name));
    checks.check("free blocks as before", after.since(before, BLOCKS) == 0.0, &now(BLOCKS));
    for (what, name) in
        [("no failed step", "dsde:step_failures_total"), ("no failed policy", "dsde:policy_failures_total")]
    {
        let n_failed = after.since(before, name);
        checks.check(what, n_failed == 0.0, &format!("({n_failed})"));
    }
    checks.check("open files as before", after.since(before, FILES) <= 0.0, &now(FILES));
    println!("  connections {}, tasks {}", now("dsde:connections"), now("dsde:tasks"));
    let grown = after.since(before, RESIDENT);
    let figures = format!("({:.1} MiB, {:+.1} MiB)", after.value(RESIDENT) / MIB, grown / MIB);
    checks.check("memory as before", grown <= GROWTH_MAX, &figures);
    let at = |quantile: f64| after.quantile_since(before, DELIVERY, quantile);
    let n_deliveries = after.since(before, &format!("{DELIVERY}_count"));
    let figures = format!(
        "(p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3} ms at most; {n_deliveries} deliveries)",
        1e3 * at(0.5),
        1e3 * at(0.9),
        1e3 * at(0.99),
        1e3 * at(0.999),
    );
    checks.check("delivery of a token takes at most 1 ms at p99", at(0.99) <= DELIVERY_MAX, &figures);
}

/// How memory and the engine's thread did while the load lasted.
fn under_load(scrapes: &[Scrape], checks: &mut Checks) {
    let [first, .., last] = scrapes else {
        return println!("  the round was too short to look at the server within it");
    };
    let series: Vec<String> =
        scrapes.iter().map(|scrape| format!("{:.1}", scrape.value(RESIDENT) / MIB)).collect();
    let every = series.len().div_ceil(SHOWN_MAX);
    let shown: Vec<&str> = series.iter().step_by(every).map(String::as_str).collect();
    println!("  resident MiB every {} s: {}", every as u64 * PERIOD.as_secs(), shown.join(" "));
    let settled = &scrapes[scrapes.len() / 4];
    let grown = last.since(settled, RESIDENT);
    let figures = format!("({:+.1} MiB; {})", grown / MIB, slope(&scrapes[scrapes.len() / 4..]));
    checks.check("memory is flat under load", grown <= GROWTH_MAX, &figures);
    let (seconds, tokens) = (last.seconds_since(first), last.since(first, TOKENS));
    // Under load the thread of the engine never waits for work.
    let outside = seconds - last.since(first, "dsde:step_seconds_sum");
    println!(
        "  {:.0} tokens/s; the engine's thread spends {:.1} us per token outside of steps",
        tokens / seconds,
        1e6 * outside / tokens
    );
}

/// Line through the resident memory over time: MiB per hour and half of the 95 % interval, residuals taken as independent.
fn slope(scrapes: &[Scrape]) -> String {
    let Some(first) = scrapes.first() else { return String::new() };
    let points: Vec<(f64, f64)> = scrapes
        .iter()
        .map(|scrape| (scrape.seconds_since(first) / 3600.0, scrape.value(RESIDENT) / MIB))
        .collect();
    let n = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    let residuals: f64 = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let half = 1.96 * (residuals / (n - 2.0) / spread).sqrt();
    format!("{slope:+.2} +- {half:.2} MiB per hour")
}
