//! `/v1/completions`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use dsde_engine::{EmittedToken, Vocabulary as _};
use dsde_text::{AnswerReader, Thoughts, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::CHOICES_MAX;
use super::generation::{Order, Piece, Wire, respond};
use super::tokens::token_text;
use crate::app::{App, RequestId};
use crate::body::FieldsBody;
use crate::stamp::Stamp;

/// Tokens of an answer where nobody asks for a number; the API's own default.
const TOKENS_MAX_DEFAULT: u32 = 16;

/// The body as typed.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionBody {
    prompt: TypedPrompt,
    logprobs: Option<u32>,
    echo: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids, or a list of such lists"
)]
enum TypedPrompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// Continues prompts.
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(request_id): Extension<RequestId>,
    Extension(stamp): Extension<Arc<Stamp>>,
    headers: HeaderMap,
    FieldsBody(body, fields): FieldsBody<CompletionBody>,
) -> Result<Response, ApiError> {
    let CompletionBody { prompt, logprobs, echo } = body;
    app.check_model(fields.model.as_deref())?;
    fields.check()?;
    let is_echoed = echo.unwrap_or(false);
    if is_echoed && logprobs.is_some() {
        let message =
            "`echo` together with `logprobs` is not supported: prompts have no log-probabilities here";
        return Err(ApiError::bad_field("echo", message));
    }
    let echoed = is_echoed.then(|| prompt.texts(&app.text.tokenizer));
    let prompts = tokens(&app, prompt).await?;
    let wire = CompletionWire {
        tokenizer: app.text.tokenizer.clone(),
        echoed: echoed.unwrap_or_default(),
        n: fields.n() as usize,
        shows_special_tokens: fields.shows_special_tokens(),
    };
    let sampling = &app.config.sampling;
    let tokens_max = |_| TOKENS_MAX_DEFAULT;
    let mut requests =
        fields.requests(prompts, logprobs, &headers, &app.text.eos_tokens, sampling, tokens_max)?;
    let grammar = app.grammar(fields.form(), Thoughts::None).await?;
    requests.iter_mut().for_each(|request| request.grammar = grammar.clone());
    let order = Order {
        requests,
        is_streamed: fields.is_streamed(),
        includes_usage: fields.includes_usage(),
        detail: fields.detail(),
        request_id,
        stamp,
        reader: AnswerReader::default(),
    };
    respond(&app, wire, order).await
}

impl TypedPrompt {
    /// What was typed, as text.
    fn texts(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let text = |tokens: &Vec<u32>| tokenizer.decode_with_special(tokens);
        match self {
            Self::Text(text) => vec![text.clone()],
            Self::Texts(texts) => texts.clone(),
            Self::Tokens(tokens) => vec![text(tokens)],
            Self::TokenLists(lists) => lists.iter().map(text).collect(),
        }
    }
}

async fn tokens(app: &Arc<App>, prompt: TypedPrompt) -> Result<Vec<Vec<u32>>, ApiError> {
    let n_prompts = match &prompt {
        TypedPrompt::Text(_) | TypedPrompt::Tokens(_) => 1,
        TypedPrompt::Texts(texts) => texts.len(),
        TypedPrompt::TokenLists(lists) => lists.len(),
    };
    if n_prompts == 0 || n_prompts > CHOICES_MAX {
        let message = format!("`prompt` must hold 1 to {CHOICES_MAX} prompts, got {n_prompts}");
        return Err(ApiError::bad_field("prompt", message));
    }
    match prompt {
        TypedPrompt::Text(text) => app.encode_texts(vec![text]).await,
        TypedPrompt::Texts(texts) => app.encode_texts(texts).await,
        TypedPrompt::Tokens(tokens) => Ok(vec![tokens]),
        TypedPrompt::TokenLists(lists) => Ok(lists),
    }
}

/// Writes choices as text.
struct CompletionWire {
    tokenizer: Arc<Tokenizer>,
    /// Texts of the prompts if they are to be repeated, else empty.
    echoed: Vec<String>,
    /// Choices per prompt.
    n: usize,
    shows_special_tokens: bool,
}

impl CompletionWire {
    fn echoed(&self, choice: usize) -> Option<&str> {
        self.echoed.get(choice / self.n.max(1)).map(String::as_str)
    }

    /// `null` unless asked for. Offsets count characters of the choice's text.
    fn logprobs(&self, piece: &Piece<'_>) -> Value {
        let mut offset = piece.offset;
        let (mut texts, mut logprobs, mut top, mut offsets) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for emitted in piece.tokens {
            let EmittedToken { token, logprobs: Some(of_token), .. } = emitted else {
                continue;
            };
            let (text, _) = token_text(&self.tokenizer, *token);
            offsets.push(offset);
            if self.shows_special_tokens || self.tokenizer.special_bytes(*token).is_empty() {
                offset += text.chars().count();
            }
            texts.push(text);
            logprobs.push(of_token.logprob);
            let entry =
                |&(token, logprob): &(u32, f32)| (token_text(&self.tokenizer, token).0, json!(logprob));
            // The emitted token is always there, so that nobody has to look for it twice.
            let emitted = [(*token, of_token.logprob)];
            top.push(of_token.top.iter().chain(&emitted).map(entry).collect::<Map<String, Value>>());
        }
        match texts.is_empty() {
            true => Value::Null,
            false => json!({
                "tokens": texts, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets,
            }),
        }
    }
}

impl Wire for CompletionWire {
    const OPERATION: &'static str = "text_completion";
    const PROMPT: &'static str = "prompt";
    const ID: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";

    fn opening(&mut self, choice: usize) -> Vec<Value> {
        let echo = |text| json!({"index": choice, "text": text, "logprobs": null, "finish_reason": null});
        self.echoed(choice).map(echo).into_iter().collect()
    }

    fn piece(&mut self, choice: usize, piece: &Piece<'_>) -> Vec<Value> {
        let (text, logprobs) = (piece.text(), self.logprobs(piece));
        vec![json!({"index": choice, "text": text, "logprobs": logprobs, "finish_reason": null})]
    }

    fn ending(&mut self, choice: usize, reason: &'static str) -> Vec<Value> {
        vec![json!({"index": choice, "text": "", "logprobs": null, "finish_reason": reason})]
    }

    fn whole(&self, choice: usize, piece: &Piece<'_>, reason: &'static str) -> Value {
        let text = format!("{}{}", self.echoed(choice).unwrap_or_default(), piece.text());
        json!({"index": choice, "text": text, "logprobs": self.logprobs(piece), "finish_reason": reason})
    }
}
