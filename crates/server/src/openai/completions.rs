//! `/v1/completions`.

mod columns;

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use dsde_engine::{EmittedToken, Vocabulary as _};
use dsde_sampling::TokenLogprobs;
use dsde_text::{AnswerReader, Thoughts, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use columns::Columns;

use super::error::ApiError;
use super::fields::CHOICES_MAX;
use super::generation::{Order, respond};
use super::wire::{Piece, Wire};
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
    let scores_prompts = is_echoed && logprobs.is_some();
    let echoed = if is_echoed { prompt.texts(&app.text.tokenizer) } else { Vec::new() };
    let prompts = tokens(&app, prompt).await?;
    let echo = |(text, tokens): (String, &Vec<u32>)| Echo {
        text,
        tokens: if scores_prompts { tokens.clone() } else { Vec::new() },
    };
    let wire = CompletionWire {
        tokenizer: app.text.tokenizer.clone(),
        echoes: echoed.into_iter().zip(&prompts).map(echo).collect(),
        n: fields.n() as usize,
        shows_special_tokens: fields.shows_special_tokens(),
    };
    let sampling = &app.config.sampling;
    let tokens_max = |_| TOKENS_MAX_DEFAULT;
    let mut requests =
        fields.requests(prompts, logprobs, &headers, &app.text.eos_tokens, sampling, tokens_max)?;
    let salt = app.salt(&headers, &fields)?;
    let grammar = app.grammar(fields.form(), Thoughts::None, &salt).await?;
    for request in &mut requests {
        request.grammar = grammar.clone();
        request.salt = salt.clone();
        request.scores_prompt = scores_prompts;
    }
    let order = Order {
        requests,
        is_streamed: fields.is_streamed(),
        includes_usage: fields.includes_usage(),
        is_padded: fields.is_padded(),
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

/// A prompt that is repeated before its answer.
struct Echo {
    text: String,
    /// Where its log-probabilities are told, too, else empty.
    tokens: Vec<u32>,
}

/// Writes choices as text.
struct CompletionWire {
    tokenizer: Arc<Tokenizer>,
    /// One per prompt, if they are to be repeated.
    echoes: Vec<Echo>,
    /// Choices per prompt.
    n: usize,
    shows_special_tokens: bool,
}

impl CompletionWire {
    fn echo(&self, choice: usize) -> Option<&Echo> {
        self.echoes.get(choice / self.n.max(1))
    }

    /// Log-probabilities of the prompt of a choice, as far as they are told.
    fn columns_of_prompt(&self, choice: usize, scored: &[TokenLogprobs]) -> Columns<'_> {
        let mut columns = Columns::new(&self.tokenizer, 0);
        if let Some(Echo { text, tokens }) = self.echo(choice) {
            columns.push_prompt(tokens, text, scored);
        }
        columns
    }

    fn push_emitted(&self, columns: &mut Columns<'_>, tokens: &[EmittedToken]) {
        for emitted in tokens {
            if let EmittedToken { token, logprobs: Some(score), .. } = emitted {
                let is_shown = self.shows_special_tokens || self.tokenizer.special_bytes(*token).is_empty();
                columns.push(*token, Some(score), is_shown);
            }
        }
    }
}

impl Wire for CompletionWire {
    const OPERATION: &'static str = "text_completion";
    const PROMPT: &'static str = "prompt";
    const ID: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";

    fn opening(&mut self, choice: usize, scored: &[TokenLogprobs]) -> Vec<Value> {
        let Some(Echo { text, .. }) = self.echo(choice) else {
            return Vec::new();
        };
        let logprobs = self.columns_of_prompt(choice, scored).finish();
        vec![json!({"index": choice, "text": text, "logprobs": logprobs, "finish_reason": null})]
    }

    fn piece(&mut self, choice: usize, piece: &Piece<'_>) -> Vec<Value> {
        let prompt_len = self.echo(choice).map_or(0, |echo| echo.text.chars().count());
        let mut columns = Columns::new(&self.tokenizer, prompt_len + piece.offset);
        self.push_emitted(&mut columns, piece.tokens);
        let logprobs = columns.finish();
        vec![json!({"index": choice, "text": piece.text(), "logprobs": logprobs, "finish_reason": null})]
    }

    fn ending(&mut self, choice: usize, reason: &'static str) -> Vec<Value> {
        vec![json!({"index": choice, "text": "", "logprobs": null, "finish_reason": reason})]
    }

    fn whole(&self, choice: usize, piece: &Piece<'_>, reason: &'static str) -> Value {
        let echoed = self.echo(choice).map_or("", |echo| &echo.text);
        let mut columns = self.columns_of_prompt(choice, piece.scored);
        self.push_emitted(&mut columns, piece.tokens);
        let (text, logprobs) = (format!("{echoed}{}", piece.text()), columns.finish());
        json!({"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason})
    }
}
