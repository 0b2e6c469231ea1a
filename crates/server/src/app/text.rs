//! Work on text that handlers share, where it holds up no connection: prompts as tokens, and forms of answers compiled.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::time::Duration;

use dsde_engine::Grammar;
use dsde_text::Error as TextError;
use dsde_text::{Conversation, Grammars, Thoughts};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::App;
use crate::config::Text;
use crate::openai::error::ApiError;
use crate::openai::fields::form::{AskedForm, Form};
use crate::openai::messages::TypedConversation;
use crate::openai::tools::CallForm;

/// Longest time to compile a form. A tenth of a second is usual, and more than that where others use the processors.
const COMPILE_MAX: Duration = Duration::from_secs(30);

/// Where a conversation ends for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptEnd {
    /// Behind the beginning of the assistant's next message.
    NextMessage,
    /// Behind the last message, ended as the template ends it.
    Conversation,
    /// Inside the last message, behind its text.
    LastMessage,
}

impl PromptEnd {
    /// What a request asks for.
    ///
    /// # Errors
    /// 400 if it asks for two ends.
    pub(crate) fn of(
        add_generation_prompt: Option<bool>,
        continue_final_message: Option<bool>,
    ) -> Result<Self, ApiError> {
        match (add_generation_prompt, continue_final_message.unwrap_or(false)) {
            (Some(true), true) => {
                let message = "`continue_final_message` and `add_generation_prompt` cannot both be true";
                Err(ApiError::bad_field("continue_final_message", message))
            }
            (_, true) => Ok(Self::LastMessage),
            (Some(false), false) => Ok(Self::Conversation),
            (_, false) => Ok(Self::NextMessage),
        }
    }
}

/// A conversation as the model reads it.
pub(crate) struct ChatPrompt {
    pub(crate) tokens: Vec<u32>,
    /// Whether the answer begins with thoughts.
    pub(crate) thoughts: Thoughts,
}

impl App {
    /// Tokens of a conversation.
    pub(crate) async fn encode_chat(
        self: &Arc<Self>,
        conversation: TypedConversation,
        end: PromptEnd,
    ) -> Result<ChatPrompt, ApiError> {
        if let Some(reason) = &self.text.template_fault {
            return Err(ApiError::bad_request(reason));
        }
        self.on_text(move |text| {
            let template = text.template.as_ref().ok_or(TextError::NoChatTemplate)?;
            let TypedConversation { messages, tools, variables } = &conversation;
            let conversation = Conversation { messages, tools, variables: Some(variables) };
            let today = (text.today)();
            let prompt = match end {
                PromptEnd::NextMessage => template.prompt(conversation, today)?,
                PromptEnd::Conversation => template.transcript(conversation, today)?,
                PromptEnd::LastMessage => template.continued(conversation, today)?,
            };
            let thoughts = Thoughts::after(prompt.text(), template.reasoning_format());
            Ok(ChatPrompt { tokens: text.tokenizer.encode_prompt(&prompt)?, thoughts })
        })
        .await
    }

    /// Tokens of plain texts, as prompts.
    pub(crate) async fn encode_texts(
        self: &Arc<Self>,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<u32>>, ApiError> {
        self.on_text(move |text| texts.iter().map(|prompt| text.tokenizer.encode_plain(prompt)).collect())
            .await
    }

    /// Tokens of one plain text.
    pub(crate) async fn encode_text(
        self: &Arc<Self>,
        prompt: String,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ApiError> {
        self.on_text(move |text| match add_special_tokens {
            true => text.tokenizer.encode_plain(&prompt),
            false => text.tokenizer.encode(&prompt),
        })
        .await
    }

    /// What an answer of a form may say, compiled for this model; few at a time, so that nobody else's text waits for them.
    ///
    /// * `thoughts`: what may come before the form.
    /// * `salt`: see [`App::salt`]; requests of another find no form that was compiled for this one.
    ///
    /// # Errors
    /// 400 if the form cannot be followed, or takes too long.
    pub(crate) async fn grammar(
        self: &Arc<Self>,
        asked: Option<&AskedForm>,
        thoughts: Thoughts,
        salt: &str,
    ) -> Result<Option<Arc<dyn Grammar>>, ApiError> {
        let Some(AskedForm { form, field }) = asked.cloned() else {
            return Ok(None);
        };
        let key = key(salt, thoughts, &form);
        let compile = move |grammars: &Grammars| match form {
            Form::JsonObject => grammars.json_object(thoughts),
            Form::JsonSchema(schema) => grammars.json_schema(schema, thoughts),
            Form::Regex(regex) => grammars.regex(&regex, thoughts),
            Form::Choice(texts) => grammars.choice(&texts, thoughts),
            Form::Grammar(text) => grammars.grammar(&text, thoughts),
        };
        self.compiled(key, field, compile).await.map(Some)
    }

    /// What an answer may say that must call a function, compiled as any other form.
    ///
    /// # Errors
    /// As [`App::grammar`].
    pub(crate) async fn call_grammar(
        self: &Arc<Self>,
        form: CallForm,
        thoughts: Thoughts,
        salt: &str,
    ) -> Result<Arc<dyn Grammar>, ApiError> {
        let key = key(salt, thoughts, &form);
        let compile = move |grammars: &Grammars| {
            grammars.calls(form.format, &form.functions, form.are_parallel, thoughts)
        };
        self.compiled(key, "tools", compile).await
    }

    /// * `key`: of the form among the recent ones.
    async fn compiled(
        self: &Arc<Self>,
        key: String,
        field: &'static str,
        compile: impl FnOnce(&Grammars) -> Result<Arc<dyn Grammar>, TextError> + Send + 'static,
    ) -> Result<Arc<dyn Grammar>, ApiError> {
        if let Some(form) = self.recent_forms.get(&key) {
            return Ok(form);
        }
        let place = self.compiling.clone().acquire_owned().await;
        let place = place.map_err(|_| ApiError::internal("no grammar can be compiled"))?;
        let grammars = self.grammars.clone();
        let compiled = self.on_text(move |text| {
            let _place = place;
            let grammars = match grammars.get() {
                Some(grammars) => grammars,
                None => {
                    let new = Grammars::new(&text.tokenizer, &text.eos_tokens)?;
                    grammars.get_or_init(|| new)
                }
            };
            compile(grammars)
        });
        let compiled = timeout(COMPILE_MAX, compiled).await;
        let compiled = compiled.map_err(|_| {
            let limit = COMPILE_MAX.as_secs();
            ApiError::bad_field(
                field,
                format!("the form must be compiled within {limit} s, and was not: simplify it"),
            )
        })?;
        let form = compiled.map_err(|error| error.of_field(field))?;
        self.recent_forms.keep(key, form.clone());
        Ok(form)
    }

    /// Runs work on text where it holds up no connection.
    async fn on_text<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Text) -> Result<T, TextError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = self.clone();
        let result = spawn_blocking(move || work(&app.text)).await;
        let done = result.map_err(|_| ApiError::internal("the text could not be processed"))?;
        done.map_err(|error| ApiError::bad_request(with_causes(&error)))
    }
}

/// What a form that was compiled once is found by: who asks, and all that it says.
fn key(salt: &str, thoughts: Thoughts, form: &impl Debug) -> String {
    format!("{salt:?} {thoughts:?} {form:?}")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use dsde_text::ReasoningFormat;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_tell_apart_who_asks_and_what_for() {
        let schema = |schema| Form::JsonSchema(schema);
        let (salts, thoughts) =
            (["0 ", "0 a", "1 "], [Thoughts::None, Thoughts::Begun(ReasoningFormat::Harmony)]);
        let forms = [
            Form::JsonObject,
            schema(json!({})),
            schema(json!({"type": "object"})),
            schema(json!("a")),
            Form::Regex("a".into()),
            Form::Choice(vec!["a".into(), "b".into()]),
            Form::Choice(vec!["a\", \"b".into()]),
            Form::Grammar("a".into()),
        ];
        let of_salt = |salt| thoughts.into_iter().flat_map(move |thoughts| [(salt, thoughts)]);
        let all = salts.into_iter().flat_map(of_salt);
        let keys: Vec<String> =
            all.flat_map(|(salt, thoughts)| forms.each_ref().map(|form| key(salt, thoughts, form))).collect();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), salts.len() * thoughts.len() * forms.len());
        assert_eq!(key("0 ", Thoughts::None, &forms[2]), keys[2]);
    }
}
