//! What fails inside: a pass, a policy, the engine itself. Whoever was part of it is told, and the server goes on while it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Setup, chat, events, serve_engine, start, with};
use dsde_engine::{Clock, Drafter, Engine, MonotonicClock, Script, ScriptedExecutor, Shape};
use dsde_model::embedded;
use dsde_policy::{DraftPosition, PlanView, Planned, Policy, SeqId, Signals, StepFeedback};
use dsde_sampling::Rule;
use serde_json::json;

const PATH: &str = "/v1/completions";

/// An engine that makes texts up, whose pass of this number fails or panics.
fn scripted(pass: u64, panics: bool) -> Engine {
    let tokenizer = embedded::tokenizer();
    let script = Script { vocab_len: embedded::target().config().vocab_len as u32, ..Script::default() };
    let shape = Shape {
        vocab_len: script.vocab_len,
        context_len_max: 512,
        block_len: 16,
        n_blocks: 128,
        draft_context_len: Some(512),
        draft_reads_target: false,
        window: None,
        n_states: 0,
    };
    let executor = ScriptedExecutor::new(script, shape, Rule::Block);
    let executor = if panics { executor.panic_at(pass) } else { executor.fail_at(pass) };
    let config = dsde_engine::Config { drafter: Drafter::Model, ..Default::default() };
    let policy: dsde_policy::Config = "fixed:k=2".parse().unwrap();
    Engine::new(config, policy.build(), Arc::new(tokenizer), Box::new(executor), MonotonicClock::start())
        .unwrap()
}

#[tokio::test]
async fn a_pass_that_fails_or_panics_costs_the_requests_of_its_batch() {
    for panics in [false, true] {
        let server = serve_engine(scripted(9, panics), Setup::default()).await;
        let body = json!({"prompt": "a", "max_tokens": 40, "temperature": 0, "ignore_eos": true});
        let stream = server.send(PATH, &with(body.clone(), json!({"stream": true}))).await;
        let last = events(&stream.text().await.unwrap()).pop().unwrap();
        assert_eq!(last["error"]["type"], "server_error", "{last}");
        let answer = server.post(PATH, body.clone()).await;
        assert_eq!(answer["usage"]["completion_tokens"], 40);
        assert_eq!(
            answer,
            with(server.post(PATH, body).await, json!({"id": answer["id"], "created": answer["created"]}))
        );
        assert_eq!(server.metric("dsde:step_failures_total").await, 1.0);
        server.until_metric("vllm:kv_cache_usage_perc", 0.0).await;
        assert_eq!(server.get("/health").await.status(), 200);
    }
}

/// Drafts two tokens a few times, then panics where it is told to.
struct Panicking {
    moment: &'static str,
    n_plans: u32,
}

impl Panicking {
    fn at(&self, moment: &str) {
        assert!(self.n_plans < 3 || self.moment != moment, "a policy with a bug");
    }
}

impl Policy for Panicking {
    fn name(&self) -> String {
        "panicking".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        self.n_plans += 1;
        plan.fill(Planned { len: 2, ..Planned::none() });
        self.at("plan");
    }

    fn trim(&mut self, _view: &PlanView<'_>, _drafted: &[&[DraftPosition]], _verify_lens: &mut [u32]) {
        self.at("trim");
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {
        self.at("observe");
    }

    fn forget(&mut self, _seq: SeqId) {}
}

#[tokio::test]
async fn a_policy_that_panics_is_replaced_by_plain_decoding() {
    let plain = start(Setup { policy: "off", ..Setup::default() }).await;
    let expected = plain.post("/v1/chat/completions", chat("Hello.")).await;
    for moment in ["plan", "trim", "observe"] {
        let mut engine = crate::common::engine("off", 8);
        engine.set_policy(Box::new(Panicking { moment, n_plans: 0 }));
        let server = serve_engine(engine, Setup::default()).await;
        for _ in 0..2 {
            let answer = server.post("/v1/chat/completions", chat("Hello.")).await;
            assert_eq!(answer["choices"], expected["choices"], "{moment}");
        }
        assert_eq!(server.metric("dsde:policy_failures_total").await, 1.0, "{moment}");
        assert_eq!(server.metric("dsde:step_failures_total").await, 0.0, "{moment}");
    }
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Decodes plainly, and lets the time of every request run out in its third step.
struct Stalling {
    n_steps: u32,
}

impl Policy for Stalling {
    fn name(&self) -> String {
        "stalling".to_owned()
    }

    fn signals(&self) -> Signals {
        Signals::default()
    }

    fn plan(&mut self, _view: &PlanView<'_>, plan: &mut [Planned]) {
        plan.fill(Planned::none());
    }

    fn observe(&mut self, _feedback: &StepFeedback<'_>) {
        self.n_steps += 1;
        if self.n_steps == 3 {
            std::thread::sleep(REQUEST_TIMEOUT);
        }
    }

    fn forget(&mut self, _seq: SeqId) {
        self.n_steps = 0;
    }
}

#[tokio::test]
async fn an_answer_whose_time_is_over_ends_with_what_it_has() {
    let mut engine = crate::common::engine("off", 8);
    engine.set_policy(Box::new(Stalling { n_steps: 0 }));
    let config = |config: &mut dsde_server::Config| config.request_timeout = REQUEST_TIMEOUT;
    let server = serve_engine(engine, Setup { config, ..Setup::default() }).await;
    let body = json!({"prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": true, "temperature": 0});
    // Eight run, the others have not begun.
    let answer = server.post(PATH, with(body.clone(), json!({"n": 10}))).await;
    let choices = answer["choices"].as_array().unwrap();
    assert!(choices.iter().all(|choice| choice["finish_reason"] == "length"), "{choices:?}");
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    let is_part = |text: &&str| !text.is_empty() && texts[0].starts_with(*text);
    assert!(texts[..8].iter().all(is_part) && texts[8..] == [""; 2], "{texts:?}");
    let n_tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert!((8..80).contains(&n_tokens), "{n_tokens}");

    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let stream = server.send(PATH, &with(body, stream)).await;
    let events = events(&stream.text().await.unwrap());
    let [pieces @ .., ending, usage] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(ending["choices"][0]["finish_reason"], "length", "{events:?}");
    let text: String = pieces.iter().map(|piece| piece["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, texts[0]);
    assert!((1..40).contains(&usage["usage"]["completion_tokens"].as_u64().unwrap()), "{usage}");

    let response = server.post("/v1/responses", json!({"input": "Hello.", "temperature": 0})).await;
    assert_eq!(response["status"], "incomplete", "{response}");
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens", "{response}");
    server.until_metric("vllm:kv_cache_usage_perc", 0.0).await;
}

/// Panics from some time on, also while the engine tries to go on.
struct Broken {
    clock: MonotonicClock,
    is_broken: Arc<AtomicBool>,
}

impl Clock for Broken {
    fn now(&self) -> Duration {
        assert!(!self.is_broken.load(Ordering::Relaxed), "a clock with a bug");
        self.clock.now()
    }
}

#[tokio::test]
async fn a_server_whose_engine_cannot_go_on_tells_its_clients_and_ends() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let clock = Broken { clock: MonotonicClock::start(), is_broken: is_broken.clone() };
    let server = serve_engine(crate::common::engine_with_clock("off", 8, clock), Setup::default()).await;
    let body = json!({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let stream = server.send(PATH, &body).await;
    server.until_metric("vllm:num_requests_running", 1.0).await;
    is_broken.store(true, Ordering::Relaxed);
    let last = events(&stream.text().await.unwrap()).pop().unwrap();
    assert_eq!(last["error"]["type"], "server_error", "{last}");
    assert_eq!(server.get("/health").await.status(), 503);
    assert_eq!(server.send(PATH, &body).await.status(), 503);
    let ended = tokio::time::timeout(Duration::from_secs(10), server.ended).await.unwrap().unwrap();
    assert!(matches!(ended, Err(dsde_server::Error::EngineEnded)), "{ended:?}");
}
