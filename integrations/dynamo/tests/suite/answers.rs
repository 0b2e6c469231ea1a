//! What comes back is what was asked for.

use crate::common::*;
use dynamo_backend_common::{
    FinishReason, GuidedDecodingOptions, OutputOptions, SamplingOptions, StopConditions,
};
use serde_json::json;

#[tokio::test]
async fn speculation_changes_no_token_and_is_counted() {
    let plain = answer(&started(&["--policy=off"]).await, request(24)).await.unwrap();
    assert_eq!((plain.tokens.len(), plain.reason), (24, FinishReason::Length));
    assert_eq!(plain.engine_data["metrics"]["speculative_decoding"], json!(null));

    let worker = started(&["--policy=fixed:k=3"]).await;
    let first = answer(&worker, request(24)).await.unwrap();
    assert_eq!(first.tokens, plain.tokens);
    let told = &first.engine_data["metrics"]["speculative_decoding"];
    let [steps, accepted, drafted] = ["num_spec_steps", "num_accepted_draft_tokens", "num_draft_tokens"]
        .map(|key| told[key].as_u64().unwrap());
    assert!(0 < steps && accepted <= drafted && drafted <= 3 * steps, "{told}");
    let details = first.usage.completion_tokens_details.unwrap();
    assert!(u64::from(details.accepted_prediction_tokens.unwrap()) <= accepted);
    assert_eq!(u64::from(details.rejected_prediction_tokens.unwrap()), drafted - accepted);
    assert_eq!(first.usage.total_tokens, 64);

    let again = answer(&worker, request(24)).await.unwrap();
    assert_eq!(again.tokens, plain.tokens);
    assert_eq!(again.engine_data["kv_cache_hit"], json!({"prompt_tokens": 40, "reused_tokens": 32}));
    assert_eq!(again.usage.prompt_tokens_details.unwrap().cached_tokens, Some(32));
}

#[tokio::test]
async fn a_request_may_choose_its_policy() {
    let worker = started(&["--policy=fixed:k=3"]).await;
    for (policy, longest) in [("fixed:k=2", json!(2)), ("off", json!(null))] {
        let mut asked = request(24);
        asked.annotations = vec![format!("dsde_policy:{policy}")];
        let told = &answer(&worker, asked).await.unwrap().engine_data["metrics"]["speculative_decoding"];
        assert_eq!(told["num_spec_tokens"], longest, "{policy}");
    }
}

#[tokio::test]
async fn answers_end_at_stop_tokens_stop_strings_and_the_end_of_the_text() {
    let worker = started(&[]).await;
    let prompt = dsde_text::Tokenizer::open(TOKENIZER.as_ref()).unwrap().encode("Once upon a time").unwrap();
    let request = |max_tokens| {
        let mut asked = request(max_tokens);
        asked.token_ids = prompt.clone().into();
        asked
    };
    let whole = answer(&worker, request(40)).await.unwrap();
    let stop = whole.tokens[9];
    let n = 1 + whole.tokens.iter().position(|&token| token == stop).unwrap();
    let conditions = |change: &dyn Fn(&mut StopConditions)| {
        let mut asked = request(40);
        change(&mut asked.stop_conditions);
        asked
    };
    for asked in [
        conditions(&|stops| stops.stop_token_ids = Some(vec![stop])),
        conditions(&|stops| stops.stop_token_ids_hidden = Some(vec![stop])),
        conditions(&|stops| stops.stop_token_ids_visible = Some(vec![stop])),
    ] {
        let stopped = answer(&worker, asked).await.unwrap();
        assert_eq!((&stopped.tokens[..], stopped.reason), (&whole.tokens[..n], FinishReason::Stop));
        assert_eq!(stopped.usage.completion_tokens as usize, n);
    }
    let mut asked = request(40);
    asked.eos_token_ids = vec![stop];
    asked.stop_conditions.ignore_eos = None;
    let ended = answer(&worker, asked.clone()).await.unwrap();
    assert_eq!((ended.tokens.len(), ended.reason), (n, FinishReason::EoS));
    asked.stop_conditions.min_tokens = Some(n as u32 + 3);
    assert!(answer(&worker, asked).await.unwrap().tokens.len() >= n + 3);
    let stopped =
        answer(&worker, conditions(&|stops| stops.stop = Some(vec!["e".to_owned(), String::new()]))).await;
    assert_eq!(stopped.unwrap().reason, FinishReason::Stop);
}

#[tokio::test]
async fn logprobs_are_told_for_every_token() {
    let worker = started(&["--policy=fixed:k=3"]).await;
    let mut asked = request(16);
    asked.output_options =
        OutputOptions { logprobs: Some(2), prompt_logprobs: Some(1), ..OutputOptions::default() };
    let whole = answer(&worker, asked).await.unwrap();
    assert!(whole.log_probs.len() == 16 && whole.log_probs.iter().all(|&p| p <= 0.0 && p.is_finite()));
    let tops: Vec<_> =
        whole.chunks.iter().flat_map(|chunk| chunk.top_logprobs.clone().unwrap_or_default()).collect();
    assert_eq!(tops.len(), 16);
    for ((top, token), log_prob) in tops.iter().zip(&whole.tokens).zip(&whole.log_probs) {
        // Greedy: the emitted token is the most probable one.
        assert_eq!((top.len(), top[0].rank, top[0].token_id, top[0].logprob), (2, 1, *token, *log_prob));
        assert!(top[1].logprob <= top[0].logprob && top[1].rank == 2);
    }
    let prompt = whole.engine_data["prompt_logprobs"].as_array().unwrap();
    assert_eq!((prompt.len(), &prompt[0]), (40, &json!(null)));
    for position in &prompt[1..] {
        assert!(position["7"]["logprob"].as_f64().unwrap() <= 0.0, "{position}");
        assert!(
            (1..=2).contains(&position.as_object().unwrap().len()),
            "the token itself and the most probable one"
        );
    }
    let without = answer(&worker, request(4)).await.unwrap();
    assert!(without.chunks.iter().all(|chunk| chunk.log_probs.is_none() && chunk.top_logprobs.is_none()));
}

#[tokio::test]
async fn equal_seeds_give_equal_texts() {
    let worker = started(&[]).await;
    let drawn = |seed| {
        let mut asked = request(24);
        asked.sampling_options = SamplingOptions { seed: Some(seed), ..SamplingOptions::default() };
        asked
    };
    let [first, again, other] = [-5, -5, 6].map(drawn);
    let first = answer(&worker, first).await.unwrap().tokens;
    assert_eq!(answer(&worker, again).await.unwrap().tokens, first);
    assert_ne!(answer(&worker, other).await.unwrap().tokens, first);
}

#[tokio::test]
async fn answers_have_the_form_that_is_asked_for() {
    let worker = started(&[]).await;
    let tokenizer = dsde_text::Tokenizer::open(TOKENIZER.as_ref()).unwrap();
    let guided = |options| {
        let mut asked = request(200);
        asked.stop_conditions.ignore_eos = None;
        asked.sampling_options.guided_decoding = Some(options);
        asked
    };
    let forms = [
        GuidedDecodingOptions { choice: Some(vec!["apples".into(), "pears".into()]), ..Default::default() },
        GuidedDecodingOptions { regex: Some("(apples|pears)".into()), ..Default::default() },
        GuidedDecodingOptions {
            json: Some(json!("{\"enum\": [\"apples\", \"pears\"]}")),
            ..Default::default()
        },
        GuidedDecodingOptions { json: Some(json!({"enum": ["apples", "pears"]})), ..Default::default() },
    ];
    for form in forms {
        let shown = format!("{form:?}");
        let whole = answer(&worker, guided(form)).await.unwrap();
        let text = text(&tokenizer, &whole.tokens);
        assert!(["apples", "pears"].contains(&text.trim_matches('"')), "{shown}: {text}");
    }
}

fn text(tokenizer: &dsde_text::Tokenizer, tokens: &[u32]) -> String {
    let bytes = tokens.iter().flat_map(|&token| dsde_engine::Vocabulary::token_bytes(tokenizer, token));
    String::from_utf8(bytes.copied().collect()).unwrap()
}
