//! Drives a running server with many streaming clients for a while, a quarter of whom leave early, and tells what it cost.
//!
//! `cargo run --release -p dsde-server --example soak -- URL [CLIENTS [SECONDS [TOKENS]]]`
//!
//! Ends with code 1 if anything but 429 went wrong or anything remained. Two rounds run: what the second adds to memory, blocks
//! or tasks is a leak. Loopback only: it is meant to be hard on the server.

mod clients;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clients::{Load, metrics, quantile, settles, value};

/// Growth of the resident memory between two rounds that is no leak: caches of the allocator, bytes.
const GROWTH_MAX: f64 = 16.0 * 1024.0 * 1024.0;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let (Some(url), Ok(n_clients), Ok(seconds), Ok(tokens_max)) =
        (arguments.first(), number(1, 256), number(2, 60), number(3, 64))
    else {
        eprintln!("usage: soak URL [CLIENTS [SECONDS [TOKENS]]]");
        return ExitCode::from(2);
    };
    if !url.starts_with("http://127.0.0.1:") && !url.starts_with("http://localhost:") {
        eprintln!("error: the server must be on this machine, got {url}");
        return ExitCode::from(2);
    }
    let url = url.trim_end_matches('/').to_owned();
    let mut is_clean = true;
    let mut resident = Vec::new();
    let before = metrics(&url).await;
    for round in 1..=2 {
        let began = Instant::now();
        let until = Some(began + Duration::from_secs(seconds) / 2);
        let load = Load {
            url: url.clone(),
            n_clients,
            n_requests: 1 << 20,
            until,
            tokens_max,
            chooses_policies: true,
        };
        let outcome = clients::run(load).await;
        let took = began.elapsed().as_secs_f64();
        let is_idle = settles(&url).await;
        let after = metrics(&url).await;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "round {round}: {took:.1} s, {n_clients} clients: {} answered, {} left, {} times 429, {} faults, {} events",
            count(&outcome.answered),
            count(&outcome.left),
            count(&outcome.refused),
            count(&outcome.n_faults),
            count(&outcome.events),
        );
        for fault in outcome.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            println!("  fault: {fault}");
        }
        let flat = value(&after, "dsde:kv_blocks_free") == value(&before, "dsde:kv_blocks_free");
        resident.push(value(&after, "process_resident_memory_bytes"));
        println!(
            "  idle {is_idle}; free blocks {} of before {}; tasks {}; resident {:.1} MiB",
            value(&after, "dsde:kv_blocks_free"),
            value(&before, "dsde:kv_blocks_free"),
            value(&after, "dsde:tasks"),
            resident[round - 1] / 1_048_576.0,
        );
        is_clean &= is_idle && flat && count(&outcome.n_faults) == 0;
    }
    let after = metrics(&url).await;
    for q in [0.5, 0.9, 0.99, 0.999] {
        println!(
            "delivery p{}: at most {:.3} ms",
            100.0 * q,
            1e3 * quantile(&after, "dsde:delivery_seconds", q)
        );
    }
    println!("tokens {}", value(&after, "vllm:generation_tokens_total"));
    is_clean &= resident[1] - resident[0] <= GROWTH_MAX;
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
