//! Many clients at once, some of whom leave: nobody is hurt and nothing remains. `examples/soak` is the long version.

#[path = "../examples/soak/clients.rs"]
#[allow(dead_code, reason = "the long version uses more of it")]
mod clients;
mod common;

use std::sync::atomic::Ordering;

use clients::{Load, metrics, settles, value};
use common::{Setup, chat, start};

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let server = start(Setup { policy: "auto", ..Setup::default() }).await;
    let url = format!("http://{}", server.address);
    let load = Load {
        url: url.clone(),
        n_clients: 32,
        n_requests: 4,
        until: None,
        tokens_max: 24,
        chooses_policies: true,
    };
    // Blocks are told from the first step on.
    server.post("/v1/chat/completions", chat("Hello.")).await;
    assert!(settles(&url).await);
    let before = metrics(&url).await;
    let outcome = clients::run(load).await;
    assert_eq!(outcome.n_faults.load(Ordering::Relaxed), 0, "{:?}", outcome.faults.lock().unwrap());
    let counts = [&outcome.answered, &outcome.left, &outcome.refused].map(|n| n.load(Ordering::Relaxed));
    assert_eq!(counts.iter().sum::<u64>(), 128);
    assert!(counts[0] > 64 && counts[1] > 10, "{counts:?}");
    assert!(settles(&url).await, "the server is idle again");
    let after = metrics(&url).await;
    let free = "dsde:kv_blocks_free";
    assert!(value(&before, free) > 0.0);
    assert_eq!(value(&after, free), value(&before, free));
    assert_eq!(value(&after, "dsde:step_failures_total"), 0.0);
    assert!(value(&after, "dsde:delivery_seconds_count") > 0.0, "deliveries are timed");
}
