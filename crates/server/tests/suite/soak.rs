//! Many clients at once, some of whom leave: nobody is hurt and nothing remains. `examples/soak` is the long version.

#[path = "../../examples/soak/clients.rs"]
mod clients;
#[path = "../../examples/soak/forms.rs"]
mod forms;
#[path = "../../examples/soak/reference.rs"]
#[allow(dead_code, reason = "the long version runs `dsde generate`")]
mod reference;
#[path = "../../examples/soak/scrape.rs"]
#[allow(dead_code, reason = "the long version uses more of it")]
mod scrape;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::common::{Setup, chat, plain, start};
use clients::Load;
use dsde_model::embedded;
use dsde_text::Message;
use forms::Forms;
use reference::{QUESTIONS, References};
use scrape::{Scrape, settles};

/// Most tokens of an answer.
const TOKENS_MAX: u64 = 24;

/// What plain decoding without a server says.
fn generated(question: &str) -> String {
    let messages = [Message::new("user", question)];
    let prompt = embedded::chat_template().prompt(&messages, None).unwrap();
    plain(embedded::tokenizer().encode_prompt(&prompt).unwrap(), TOKENS_MAX as u32)
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let server = start(Setup { policy: "auto", ..Setup::default() }).await;
    let url = format!("http://{}", server.address);
    // Blocks are told from the first step on.
    server.post("/v1/chat/completions", chat("Hello.")).await;
    let new = Scrape::now(&url).await;
    let references = Arc::new(References::ask(&server.client, &url, TOKENS_MAX).await);
    for (i, question) in QUESTIONS.into_iter().enumerate() {
        assert_eq!(references.text(i, TOKENS_MAX, false), generated(question), "{question}");
    }
    let forms = Forms::ask(&server.client, &url).await;
    assert_eq!(forms.refused, [""; 0]);
    assert!(settles(&url, &new).await);
    let before = Scrape::now(&url).await;
    let load = Load {
        url: url.clone(),
        n_clients: 32,
        n_requests: 4,
        until: None,
        tokens_max: TOKENS_MAX,
        references,
        forms: Arc::new(forms),
    };
    let outcome = clients::run(load).await;
    assert_eq!(outcome.n_faults.load(Ordering::Relaxed), 0, "{:?}", outcome.faults.lock().unwrap());
    let counts = [&outcome.answered, &outcome.left, &outcome.refused].map(|n| n.load(Ordering::Relaxed));
    assert_eq!(counts.iter().sum::<u64>(), 128);
    assert!(counts[0] > 64 && counts[1] > 10, "{counts:?}");
    assert!(outcome.as_alone.load(Ordering::Relaxed) > 50, "answers were compared");
    assert!(settles(&url, &before).await, "the server is as idle as before");
    let after = Scrape::now(&url).await;
    assert!(before.value("dsde:kv_blocks_free") > 0.0);
    assert_eq!(after.since(&before, "dsde:kv_blocks_free"), 0.0);
    assert_eq!(after.value("dsde:step_failures_total"), 0.0);
    assert_eq!(after.value("dsde:policy_failures_total"), 0.0);
    assert!(after.value("dsde:delivery_seconds_count") > 0.0, "deliveries are timed");
}
