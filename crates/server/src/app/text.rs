//! Work on text that handlers share, where it holds up no connection: prompts as tokens, and the forms of answers.

use std::fmt::Write as _;
use std::sync::Arc;

use dsde_engine::Grammar;
use dsde_text::Error as TextError;
use dsde_text::{Conversation, Thoughts};
use tokio::task::spawn_blocking;

use super::App;
use crate::config::Text;
use crate::openai::error::ApiError;
use crate::openai::fields::form::AskedForm;
use crate::openai::messages::TypedConversation;
use crate::openai::tools::CallForm;

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

    /// What an answer of a form may say.
    ///
    /// * `thoughts`: what may come before the form.
    /// * `salt`: see [`App::salt`].
    ///
    /// # Errors
    /// 400 if the form cannot be followed, or takes too long.
    pub(crate) async fn grammar(
        &self,
        asked: Option<&AskedForm>,
        thoughts: Thoughts,
        salt: &str,
    ) -> Result<Option<Arc<dyn Grammar>>, ApiError> {
        let Some(AskedForm { form, field }) = asked.cloned() else {
            return Ok(None);
        };
        let grammar = self.forms.grammar(form, thoughts, salt).await;
        grammar.map(Some).map_err(|fault| ApiError::of_form(&fault, field))
    }

    /// What an answer may say that must call a function.
    ///
    /// # Errors
    /// As [`App::grammar`].
    pub(crate) async fn call_grammar(
        &self,
        form: CallForm,
        thoughts: Thoughts,
        salt: &str,
    ) -> Result<Arc<dyn Grammar>, ApiError> {
        let grammar = self.forms.calls(form, thoughts, salt).await;
        grammar.map_err(|fault| ApiError::of_form(&fault, "tools"))
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

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
