//! What the engine cannot do is refused, and says whose fault it is.

use crate::common::*;
use clap::Parser as _;
use dsde_dynamo::Args;
use dynamo_backend_common::{
    BackendError, ErrorType, GuidedDecodingOptions, PreprocessedRequest, engine::RoutingHints,
};

type Change = fn(&mut PreprocessedRequest);

#[tokio::test]
async fn what_cannot_be_had_is_named() {
    let worker = started(&["--draft=none"]).await;
    let cases: [(Change, &str); 17] = [
        (|r| r.sampling_options.n = Some(2), "`n` must be 1, got 2"),
        (|r| r.sampling_options.best_of = Some(3), "`best_of` must be 1, got 3"),
        (|r| r.sampling_options.use_beam_search = Some(true), "beam search"),
        (|r| r.sampling_options.length_penalty = Some(2.0), "`length_penalty`"),
        (|r| r.sampling_options.top_k = Some(-2), "`top_k` must be -1 (off) or more, got -2"),
        (|r| r.sampling_options.top_p = Some(1.5), "top_p must be above 0 and at most 1, got 1.5"),
        (|r| r.sampling_options.temperature = Some(-1.0), "temperature must be in 0..=100, got -1"),
        (|r| r.output_options.logprobs = Some(21), "logprobs must be at most 20, got 21"),
        (|r| r.stop_conditions.max_thinking_tokens = Some(5), "max_thinking_tokens"),
        (|r| r.stop_conditions.stop_token_ids = Some(vec![1 << 30]), "outside the vocabulary"),
        (
            |r| r.stop_conditions.stop = Some(vec!["x".into(); 17]),
            "number of stop strings must be in 0..=16, got 17",
        ),
        (|r| r.token_ids = Vec::new().into(), "the prompt is empty"),
        (|r| r.token_ids = vec![1; 100_000].into(), "the prompt is too long"),
        (|r| r.prompt_embeds = Some("AA==".into()), "prompt_embeds"),
        (
            |r| r.routing = Some(RoutingHints { lora_name: Some("a".into()), ..RoutingHints::default() }),
            "an adapter (`lora_name`) is not supported",
        ),
        (|r| r.annotations = vec!["dsde_policy:fast".into()], "annotation `dsde_policy`"),
        (
            |r| r.annotations = vec!["dsde_policy:fixed:k=2".into()],
            "this worker has none; `off` can be chosen",
        ),
    ];
    for (change, expected) in cases {
        let mut asked = request(4);
        change(&mut asked);
        let error = answer(&worker, asked).await.expect_err(expected);
        assert!(error.message().contains(expected), "{expected}: {error}");
        assert_eq!(error.error_type(), ErrorType::Backend(BackendError::InvalidArgument), "{expected}");
    }
    let forms = [
        (GuidedDecodingOptions { regex: Some("(".into()), ..Default::default() }, ""),
        (
            GuidedDecodingOptions { structural_tag: Some("{}".into()), ..Default::default() },
            "`structural_tag`",
        ),
        (GuidedDecodingOptions { json: Some("{".into()), ..Default::default() }, "must be a schema"),
        (
            GuidedDecodingOptions {
                whitespace_pattern: Some(" ".into()),
                regex: Some("a".into()),
                ..Default::default()
            },
            "`whitespace_pattern`",
        ),
    ];
    for (form, expected) in forms {
        let mut asked = request(4);
        asked.sampling_options.guided_decoding = Some(form);
        let error = answer(&worker, asked).await.expect_err(expected);
        assert!(error.message().contains(expected), "{expected}: {error}");
        assert_eq!(error.error_type(), ErrorType::Backend(BackendError::InvalidArgument), "{expected}");
    }
}

#[tokio::test]
async fn a_worker_that_is_full_or_gone_leaves_the_request_to_others() {
    use dynamo_backend_common::LLMEngine as _;

    let worker = worker(&[]);
    let error = answer(&worker, request(1)).await.expect_err("it has not been started");
    assert_eq!(error.error_type(), ErrorType::Backend(BackendError::EngineShutdown));
    let full = started(&["--max-concurrency=1", "--max-waiting=1"]).await;
    let answers = futures::future::join_all((0..8).map(|_| answer(&full, request(200)))).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(!refused.is_empty(), "eight do not fit where one runs and one waits");
    for error in refused {
        assert_eq!(error.error_type(), ErrorType::WorkerOverloaded, "{error}");
    }
    full.cleanup().await.unwrap();
    let error = answer(&full, request(1)).await.expect_err("it has been cleaned up");
    assert_eq!(error.error_type(), ErrorType::Backend(BackendError::EngineShutdown));
}

#[test]
fn options_that_cannot_be_used_are_named() {
    let cases: [(&[&str], &str); 4] = [
        (
            &[],
            "the frontend cannot read the tokenizer of demo; name a folder or ORG/NAME that has it by --tokenizer",
        ),
        (&["--model=/no/such/model"], "no such folder or file"),
        (&["--tokenizer=x", "--draft=none", "--policy=fixed:k=2"], "needs a drafter"),
        (
            &["--tokenizer=x", "--disaggregation-mode=prefill"],
            "--disaggregation-mode must be agg, got prefill",
        ),
    ];
    for (options, expected) in cases {
        let args = Args::parse_from(["dsde-dynamo"].iter().chain(options));
        let Err(failure) = args.worker(None) else { panic!("{options:?} is refused") };
        assert!(failure.line().contains(expected), "{}", failure.line());
    }
}
