//! The engine behind another way in than HTTP, as `integrations/dynamo` has it, but without the 900 crates of that workspace, which
//! is not built with this one. What changes an interface that the worker is built on changes this, too; then `integrations/dynamo/test.sh`
//! says whether the worker still builds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use dsde_cli::{EngineArgs, EnginePlan, Failure, Served};
use dsde_engine::{CacheEvent, FinishReason, Grammar, Refused, Request, RequestTimeline};
use dsde_sampling::Params;
use dsde_server::{
    Answer, Delta, Detail, Done, Form, FormFault, Forms, Load, Loss, Rejected, Serving, Trial, statistics,
};
use dsde_text::Thoughts;

/// Options of a program of another name.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    engine: EngineArgs,
    #[arg(long)]
    own: bool,
}

/// What a worker has.
struct Worker {
    plan: EnginePlan,
    serving: Serving,
    forms: Forms,
    eos_tokens: Vec<u32>,
    /// What was told of the prefix cache, in words.
    told: Arc<Mutex<Vec<&'static str>>>,
}

fn worker(options: &[&str]) -> Worker {
    let fixed = ["worker", "--own", "--threads=1", "--kv-blocks=64", "--context=512"];
    let options = Options::parse_from(fixed.iter().chain(options));
    assert!(options.own);
    let plan = options.engine.plan().unwrap_or_else(|failure| panic!("{}", failure.line()));
    let served = plan.open().unwrap_or_else(|failure| panic!("{}", failure.line()));
    let Served { mut engine, tokenizer, eos_tokens, sampling, draft, kernels } = served;
    assert!(sampling.temperature.is_none_or(|temperature| temperature >= 0.0));
    assert!(!draft.is_empty() && !kernels.is_empty());
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = told.clone();
    engine.set_cache_observer(Some(Box::new(move |event| {
        hears.lock().unwrap().push(match event {
            CacheEvent::Stored { block: _, parent: None, tokens: _, salt: _ } => "a beginning",
            CacheEvent::Stored { block: _, parent: Some(_), tokens: _, salt: _ } => "more of it",
            CacheEvent::Removed { block: _ } => "less of it",
            CacheEvent::Cleared => "nothing",
        });
    })));
    let serving = Serving::start(engine, "worker", plan.waiting_max()).unwrap();
    let forms = Forms::new(tokenizer, eos_tokens.clone(), Some(trial(768)));
    Worker { plan, serving, forms, eos_tokens, told }
}

fn request(tokens_max: u32) -> Request {
    Request::new(vec![7; 40], Params::greedy(), tokens_max)
}

/// Tokens of an answer, and how it ended.
async fn read(mut answer: Answer) -> (Vec<u32>, Done) {
    let (mut tokens, mut steps) = (Vec::new(), Vec::new());
    while let Some(updates) = answer.next().await {
        for update in updates {
            let Delta { scored, tokens: more, text: _, speculative_steps, emitted: _ } = update.delta;
            assert!(scored.is_empty(), "nobody asked for scores");
            tokens.extend(more.iter().map(|token| token.token));
            steps.extend(speculative_steps);
            if let Some(end) = update.end {
                let done = end.unwrap_or_else(|loss| panic!("{}", why(loss)));
                let told = statistics(Detail::Summary, &done.timeline, &steps);
                assert_eq!(
                    told["speculative_decoding"]["num_spec_steps"].as_u64().unwrap_or(0),
                    steps.len() as u64
                );
                return (tokens, done);
            }
        }
    }
    panic!("an answer has an end");
}

/// All reasons there are: a router has to sort them.
fn why(loss: Loss) -> &'static str {
    match loss {
        Loss::Failed => "failed",
        Loss::Form => "form",
        Loss::Deadline => "too late",
        Loss::Shutdown => "gone",
    }
}

fn whose(rejected: &Rejected) -> &'static str {
    match rejected {
        Rejected::Refused(Refused::QueueFull { .. } | Refused::Policies(_)) | Rejected::Busy => {
            "the worker's, for now"
        }
        Rejected::Refused(_) => "the request's",
        Rejected::Stopped => "the worker's",
    }
}

/// Of forms, by the program.
fn trial(memory_mib: u64) -> Trial {
    Trial { program: env!("CARGO_BIN_EXE_dsde").into(), memory_mib, processor_s: 10 }
}

impl Worker {
    async fn submit(&self, request: Request) -> Result<Answer, Rejected> {
        self.serving.submit(request, Instant::now() + Duration::from_secs(3600)).await
    }

    async fn form(&self, form: Form) -> Result<Arc<dyn Grammar>, FormFault> {
        self.forms.grammar(form, Thoughts::None, "").await
    }
}

#[tokio::test]
async fn a_worker_says_what_it_holds_and_answers_as_plain_decoding_does() {
    let plain = worker(&["--policy=off"]);
    let worker = worker(&["--policy=fixed:k=3", "--max-concurrency=5", "--max-waiting=1"]);
    assert_eq!((worker.plan.model_name(), worker.plan.policy()), ("demo".into(), "fixed:k=3".into()));
    assert_eq!((worker.plan.model_path(), worker.plan.template_fault()), (None, None));
    assert_eq!((worker.plan.sequences_max(), worker.plan.waiting_max()), (5, 1));
    let shape = worker.serving.shape();
    assert_eq!((shape.context_len_max, shape.block_len, shape.n_blocks), (512, 16, 64));
    assert!(worker.plan.rows_max() > 0 && worker.serving.can_draft() && worker.serving.is_alive());

    let (expected, _) = read(plain.submit(request(24)).await.unwrap()).await;
    let (tokens, Done { reason, timeline }) = read(worker.submit(request(24)).await.unwrap()).await;
    assert_eq!((&tokens, reason), (&expected, FinishReason::Length));
    let RequestTimeline { prompt_tokens, cached_tokens, emitted, verified, accepted, .. } = timeline;
    assert_eq!((prompt_tokens, cached_tokens, emitted), (40, 0, 24));
    assert!(0 < verified && accepted <= verified);
    assert_eq!(worker.told.lock().unwrap()[..2], ["a beginning", "more of it"]);
    let Load { tokens_asked, tokens_cached, blocks_owned: _, .. } = worker.serving.load();
    assert!(0 < tokens_asked && tokens_asked <= 40 && tokens_cached == 0);
    assert!(worker.serving.metrics().contains("vllm:prompt_tokens_total"));

    let mut asked = request(100);
    asked.stop.tokens.clone_from(&worker.eos_tokens);
    asked.grammar = Some(worker.form(Form::Choice(vec!["pears".into(), "plums".into()])).await.unwrap());
    let (_, Done { reason, .. }) = read(worker.submit(asked).await.unwrap()).await;
    assert_eq!(reason, FinishReason::Stop);
    let fault = worker.form(Form::Regex("(".into())).await.unwrap_err();
    assert!(matches!(fault, FormFault::Unfit(_)), "{fault}");
}

#[tokio::test]
async fn what_a_worker_cannot_do_has_a_reason_that_can_be_sorted() {
    let worker = worker(&["--policy=auto"]);
    let mut empty = request(1);
    empty.prompt.clear();
    let refused = worker.submit(empty).await.unwrap_err();
    assert_eq!(whose(&refused), "the request's", "{refused}");
    let mut running = worker.submit(request(400)).await.unwrap();
    assert!(running.next().await.is_some());
    running.cancellation().cancel();
    worker.serving.stop();
    let gone = worker.submit(request(1)).await.unwrap_err();
    assert_eq!(whose(&gone), "the worker's", "{gone}");
    let options = Options::parse_from(["worker", "--model=/no/such/model"]);
    let Err(absent) = options.engine.plan() else { panic!("there is no such model") };
    assert!(absent.line().contains("no such folder or file"), "{}", absent.line());
    assert_eq!(Failure::Usage(anyhow::Error::msg("an option of its own")).line(), "an option of its own");
}

/// One mebibyte is less than any program takes, so no form lives through that.
#[tokio::test]
async fn a_form_that_ends_the_process_that_tries_it_is_refused_and_nothing_else_happens() {
    let tokenizer = Arc::new(dsde_text::embedded::tokenizer());
    let tried = async |trial| {
        let forms = Forms::new(tokenizer.clone(), vec![0], Some(trial));
        forms.grammar(Form::Regex("pears".into()), Thoughts::None, "").await
    };
    let fault = tried(trial(1)).await.unwrap_err();
    assert!(matches!(fault, FormFault::Dear { memory_mib: 1, processor_s: 10 }), "{fault}");
    let gone = Trial { program: "/no/such/program".into(), ..trial(768) };
    let fault = tried(gone).await.unwrap_err();
    assert!(matches!(fault, FormFault::Untried(_)), "{fault}");
    tried(trial(768)).await.unwrap();

    let forms = Forms::new(tokenizer.clone(), vec![0], Some(trial(768)));
    let schema = (0..126).fold(serde_json::json!({}), |inner, _| serde_json::json!({ "not": inner }));
    let fault = forms.grammar(Form::JsonSchema(schema), Thoughts::None, "").await.unwrap_err();
    assert!(matches!(fault, FormFault::Deep), "{fault}");
}

/// A text of two to the 28th letters, which the library writes out until it refuses.
#[tokio::test]
async fn a_form_is_refused_where_its_bound_is_and_no_sooner() {
    let tokenizer = Arc::new(dsde_text::embedded::tokenizer());
    let doubled = (1..=28).fold("start: T28\nT0: \"a\"\n".to_owned(), |lark, i| {
        lark + &format!("T{i}: T{before} T{before}\n", before = i - 1)
    });
    for (memory_mib, is_dear) in [(400, true), (2048, false)] {
        let forms = Forms::new(tokenizer.clone(), vec![0], Some(trial(memory_mib)));
        let fault = forms.grammar(Form::Grammar(doubled.clone()), Thoughts::None, "").await.unwrap_err();
        assert_eq!(matches!(fault, FormFault::Dear { .. }), is_dear, "{memory_mib} MiB: {fault}");
    }
}
