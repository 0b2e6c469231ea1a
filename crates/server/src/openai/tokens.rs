//! `/tokenize` and `/detokenize`, and how single tokens are shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dsde_text::{ChatTemplate, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::messages::{TypedConversation, TypedMessage, typed_messages, variables};
use super::tools::TypedTools;
use crate::app::{App, PromptEnd};
use crate::body::JsonBody;

/// What is to be tokenised: exactly one of `prompt` and `messages`.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizeBody {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<TypedMessage>>,
    tools: Option<Vec<Value>>,
    chat_template_kwargs: Option<Map<String, Value>>,
    add_special_tokens: Option<bool>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    return_token_strs: Option<bool>,
}

/// Tokens of a text.
#[derive(Debug, Deserialize)]
pub(crate) struct DetokenizeBody {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// Text to tokens.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Json<Value>, ApiError> {
    app.check_model(body.model.as_deref())?;
    let tokens = match (body.prompt, body.messages) {
        (Some(prompt), None) => app.encode_text(prompt, body.add_special_tokens.unwrap_or(true)).await?,
        (None, Some(messages)) => {
            let end = PromptEnd::of(body.add_generation_prompt, body.continue_final_message)?;
            let template = app.text.template.as_ref();
            let tools = TypedTools { tools: body.tools, ..TypedTools::default() }.checked(template)?;
            let conversation = TypedConversation {
                messages: typed_messages(messages, template.is_some_and(ChatTemplate::knows_tools))?,
                tools: tools.map(|tools| tools.typed).unwrap_or_default(),
                variables: variables(body.chat_template_kwargs, [])?,
            };
            app.encode_chat(conversation, end).await?.tokens
        }
        _ => return Err(ApiError::bad_request("exactly one of `prompt` and `messages` is needed")),
    };
    let text = |&token: &u32| token_text(&app.text.tokenizer, token).0;
    let texts = body.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(text).collect::<Vec<_>>());
    Ok(Json(json!({
        "count": tokens.len(),
        "max_model_len": app.engine.shape.context_len_max,
        "tokens": tokens,
        "token_strs": texts,
    })))
}

/// Tokens to text.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    JsonBody(body): JsonBody<DetokenizeBody>,
) -> Result<Json<Value>, ApiError> {
    app.check_model(body.model.as_deref())?;
    let vocab_len = app.engine.shape.vocab_len;
    if let Some(token) = body.tokens.iter().find(|&&token| token >= vocab_len) {
        let message = format!("token {token} is outside the vocabulary of {vocab_len} tokens");
        return Err(ApiError::bad_field("tokens", message));
    }
    Ok(Json(json!({"prompt": app.text.tokenizer.decode_with_special(&body.tokens)})))
}

/// Text and bytes of a token, special ones included; bytes that are no UTF-8 become U+FFFD in the text.
pub(crate) fn token_text(tokenizer: &Tokenizer, token: u32) -> (String, &[u8]) {
    let bytes = tokenizer.spelled(token);
    (String::from_utf8_lossy(bytes).into_owned(), bytes)
}
