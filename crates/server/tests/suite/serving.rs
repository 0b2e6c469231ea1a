//! The engine on its thread without HTTP: answers, forms, cancellations, load, the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{CONTEXT, engine};
use dsde_engine::{FinishReason, Request, Vocabulary as _};
use dsde_model::embedded;
use dsde_sampling::Params;
use dsde_server::{Answer, Detail, Form, FormFault, Forms, Loss, Rejected, Serving, statistics};
use dsde_text::{Thoughts, Tokenizer};

const PROMPT: [u32; 40] = [7; 40];

fn serving(policy: &str) -> Serving {
    Serving::start(engine(policy, 4), "demo", 8).unwrap()
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn request(tokens_max: u32) -> Request {
    Request::new(PROMPT.to_vec(), Params::greedy(), tokens_max)
}

/// Tokens of an answer, verifications that brought them, and its end.
async fn read(mut answer: Answer) -> (Vec<u32>, usize, dsde_server::End) {
    let (mut tokens, mut steps, mut end) = (Vec::new(), Vec::new(), None);
    while let Some(updates) = answer.next().await {
        for update in updates {
            let is_whole = matches!(&update.end, Some(Ok(_)));
            assert!(!is_whole || !update.delta.tokens.is_empty(), "the last tokens come with the end");
            tokens.extend(update.delta.tokens.iter().map(|token| token.token));
            steps.extend(update.delta.speculative_steps);
            end = update.end.or(end);
        }
    }
    if let Some(Ok(done)) = &end {
        let told = statistics(Detail::Summary, &done.timeline, &steps);
        assert_eq!(told["speculative_decoding"]["num_spec_steps"].as_u64().unwrap_or(0), steps.len() as u64);
    }
    (tokens, steps.len(), end.expect("an answer ends"))
}

/// Waits until so many run and nobody waits; what is stored then.
async fn blocks_when_running(serving: &Serving, n: u64) -> u64 {
    loop {
        let load = serving.load();
        if (load.running, load.waiting) == (n, 0) {
            return load.blocks_owned;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_answer_is_that_of_plain_decoding_and_its_prefix_is_found_again() {
    let (plain, speculating) = (serving("off"), serving("fixed:k=3"));
    let (expected, n_steps, _) = read(plain.submit(request(20), deadline()).await.unwrap()).await;
    assert_eq!((expected.len(), n_steps), (20, 0));
    for n_cached in [0, 32] {
        let answer = speculating.submit(request(20), deadline()).await.unwrap();
        let (tokens, n_steps, end) = read(answer).await;
        let done = end.unwrap();
        assert_eq!((tokens, done.reason), (expected.clone(), FinishReason::Length));
        assert!(n_steps > 0 && done.timeline.cached_tokens == n_cached, "{done:?}");
    }
    let load = speculating.load();
    assert_eq!((load.tokens_asked, load.tokens_cached), (80, 32));
    assert!(speculating.metrics().contains("vllm:spec_decode_num_drafts_total"));
}

#[tokio::test]
async fn whoever_leaves_or_cancels_leaves_nothing_behind() {
    let serving = serving("fixed:k=3");
    let mut left = serving.submit(request(CONTEXT), deadline()).await.unwrap();
    left.next().await.unwrap();
    assert!(blocks_when_running(&serving, 1).await >= 3);
    drop(left);
    assert_eq!(blocks_when_running(&serving, 0).await, 0);
    let cancelled = serving.submit(request(CONTEXT), deadline()).await.unwrap();
    cancelled.cancellation().cancel();
    let (tokens, _, end) = read(cancelled).await;
    assert!(end.is_err() && tokens.len() < CONTEXT as usize - PROMPT.len());
    assert_eq!(blocks_when_running(&serving, 0).await, 0);
}

#[tokio::test]
async fn an_engine_that_stops_tells_its_requests_and_takes_no_more() {
    let serving = serving("off");
    let mut empty = request(1);
    empty.prompt.clear();
    let refused = serving.submit(empty, deadline()).await.unwrap_err();
    assert_eq!(refused.to_string(), "the prompt is empty; at least one token is needed");
    let running = serving.submit(request(CONTEXT), deadline()).await.unwrap();
    assert!(serving.is_alive());
    serving.stop();
    serving.stop();
    assert!(!serving.is_alive());
    assert_eq!(read(running).await.2.unwrap_err(), Loss::Shutdown);
    assert!(matches!(serving.submit(request(1), deadline()).await, Err(Rejected::Stopped)));
}

#[tokio::test]
async fn answers_have_forms_that_are_compiled_once_for_all_of_a_salt() {
    let tokenizer = Arc::new(embedded::tokenizer());
    let eos_tokens = embedded::target().config().eos_tokens.clone();
    let forms = Forms::new(tokenizer.clone(), eos_tokens.clone(), None);
    let pears = || Form::Regex("pears|plums".to_owned());
    let first = forms.grammar(pears(), Thoughts::None, "").await.unwrap();
    let again = forms.grammar(pears(), Thoughts::None, "").await.unwrap();
    let of_others = forms.grammar(pears(), Thoughts::None, "mine").await.unwrap();
    assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &of_others));
    let serving = serving("fixed:k=3");
    for grammar in [first, of_others] {
        let mut asked = request(100);
        asked.stop.tokens.clone_from(&eos_tokens);
        asked.grammar = Some(grammar);
        let (tokens, _, end) = read(serving.submit(asked, deadline()).await.unwrap()).await;
        assert_eq!(end.unwrap().reason, FinishReason::Stop);
        let text = text(&tokenizer, &tokens);
        assert!(["pears", "plums"].contains(&text.as_str()), "{text}");
    }
    let fault = forms.grammar(Form::Regex("(".to_owned()), Thoughts::None, "").await.unwrap_err();
    assert!(
        matches!(&fault, FormFault::Unfit(_)) && fault.to_string().contains("cannot be followed"),
        "{fault}"
    );
    // What could not be compiled is not kept, and takes no place.
    for _ in 0..3 {
        forms.grammar(Form::Choice(Vec::new()), Thoughts::None, "").await.unwrap_err();
    }
    forms.grammar(Form::JsonObject, Thoughts::None, "").await.unwrap();
}

fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let bytes = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token));
    String::from_utf8(bytes.copied().collect()).unwrap()
}
