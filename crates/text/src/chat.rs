//! Chat templates: the Jinja program that a model's authors publish to turn messages into a prompt.

use std::borrow::Cow;
use std::path::Path;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde_json::{Value as Json, json};

use dsde_checkpoint::Error as FileError;
use dsde_checkpoint::config::shown;
use dsde_checkpoint::files::{check_folder, json, read_optional};
use dsde_checkpoint::gguf::{Gguf, Metadata};
use dsde_checkpoint::gguf_file;

use super::answer::{CallFormat, ReasoningFormat, harmony};
use super::conversation::{Conversation, Message, RESERVED_VARIABLES};
use super::veil::{ControlTokens, Prompt, Veil};
use super::{Date, TEXT_BYTES_MAX, Tokenizer, jinja, template_config};
use crate::error::Error;

const CONFIG: &str = "tokenizer_config.json";
pub(crate) const TEMPLATE: &str = "chat_template.jinja";
/// Name of the template.
const CHAT: &str = "chat";
/// Name of the one for conversations with tools, where a model has two.
const TOOL_USE: &str = "tool_use";
/// Stands behind the message that is continued while the template runs, which would leave out spaces at its end.
const END_OF_TEXT: &str = "(9d1c)";
/// Longest template, in bytes; published ones stay under 50 kB.
pub(crate) const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// A compiled chat template with the texts of the tokens it may mention.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// What messages must not become; `None`: they may.
    controls: Option<ControlTokens>,
    /// Takes conversations with tools, if they have a template of their own.
    has_tool_template: bool,
    /// Whether a tool that it is given is part of the prompt.
    knows_tools: bool,
    call_format: Option<CallFormat>,
    reasoning_format: Option<ReasoningFormat>,
    bos_token: Value,
    eos_token: Value,
}

impl ChatTemplate {
    /// Reads the template of a model folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, else
    /// `chat_template.json`. What `special_tokens_map.json` says about tokens completes the configuration. Or reads
    /// that of a GGUF file, or of a folder with one and without safetensors files.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is none; otherwise as [`ChatTemplate::parse`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(file) = gguf_file(path)? {
            return Self::from_gguf(Gguf::open(&file)?.metadata());
        }
        check_folder(path)?;
        let config = template_config::read(path)?;
        let template = read_optional(&path.join(TEMPLATE), TEMPLATE_BYTES_MAX)?;
        let template = template.map(|text| String::from_utf8_lossy(&text).into_owned());
        Self::parse(&config, template.as_deref())
    }

    /// Compiles the template of a GGUF file, `tokenizer.chat_template`, and that for tools, `tokenizer.chat_template.tool_use`.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if it has none; otherwise as [`ChatTemplate::parse`].
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, Error> {
        Self::parse(&template_config::of_gguf(metadata)?, None)
    }

    /// Compiles a template.
    ///
    /// * `config`: text of `tokenizer_config.json`. Its `chat_template` is a text, or a list of named ones of which `default`
    ///   is taken, and `tool_use` where there are tools.
    /// * `template`: text of `chat_template.jinja`; takes precedence.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is none; otherwise if `config` is not JSON or the template is not a program.
    pub fn parse(config: &[u8], template: Option<&str>) -> Result<Self, Error> {
        let config: Json = json(CONFIG, config)?;
        let (source, of_tools) = match template {
            Some(template) => (template, None),
            None => (default_template(&config["chat_template"])?, named(&config["chat_template"], TOOL_USE)),
        };
        let mut environment = jinja::environment();
        let mut add = |name: &'static str, source: &str| {
            let added = jinja::add(&mut environment, name, source);
            added.map_err(|error| Error::of_template(&error))
        };
        add(CHAT, source)?;
        of_tools.map(|source| add(TOOL_USE, source)).transpose()?;
        let (bos_token, eos_token) = (token_text(&config["bos_token"]), token_text(&config["eos_token"]));
        let mut template = Self {
            environment,
            source: format!("{source}{}", of_tools.unwrap_or_default()),
            controls: None,
            has_tool_template: of_tools.is_some(),
            knows_tools: false,
            call_format: CallFormat::of_template(of_tools.unwrap_or(source)),
            reasoning_format: ReasoningFormat::of_template(source),
            bos_token,
            eos_token,
        };
        template.knows_tools = template.writes_tools();
        Ok(template)
    }

    /// Whether the prompt of a conversation with a tool names it.
    fn writes_tools(&self) -> bool {
        const NAME: &str = "probe_of_tools";
        let messages = [Message::new("user", "Hello.")];
        let parameters = json!({"type": "object", "properties": {}});
        let function = json!({"name": NAME, "description": "Nothing.", "parameters": parameters});
        let tools = [json!({"type": "function", "function": function})];
        let conversation = Conversation { messages: &messages, tools: &tools, variables: None };
        self.prompt(conversation, Date::new(2025, 1, 1)).is_ok_and(|prompt| prompt.text().contains(NAME))
    }

    /// The template such that nothing in a conversation becomes a control token of `tokenizer`; see [`Prompt`].
    ///
    /// # Errors
    /// If the tokenizer cannot normalise its own tokens.
    pub fn for_tokenizer(mut self, tokenizer: &Tokenizer) -> Result<Self, Error> {
        self.controls = Some(tokenizer.control_tokens(&self.source)?);
        Ok(self)
    }

    /// Renders a first question, to see that the template works at all.
    ///
    /// # Errors
    /// As [`ChatTemplate::prompt`].
    pub fn try_out(&self) -> Result<(), Error> {
        let question = Message::new("user", "Hello.");
        self.prompt(&[question][..], Date::new(2025, 1, 1)).map(|_| ())
    }

    /// The prompt after which the model writes the assistant's next message.
    ///
    /// * `today`: for templates that mention the date; without it they use a date of their own or fail.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages (many insist on alternating roles), fails, or exceeds its
    /// limits; [`Error::TextTooLong`] if it writes more than [`TEXT_BYTES_MAX`].
    pub fn prompt<'a>(
        &self,
        conversation: impl Into<Conversation<'a>>,
        today: Option<Date>,
    ) -> Result<Prompt, Error> {
        self.render(conversation.into(), true, today)
    }

    /// The conversation as the model saw it in training, without a beginning of the next message.
    ///
    /// # Errors
    /// As [`ChatTemplate::prompt`].
    pub fn transcript<'a>(
        &self,
        conversation: impl Into<Conversation<'a>>,
        today: Option<Date>,
    ) -> Result<Prompt, Error> {
        self.render(conversation.into(), false, today)
    }

    /// The conversation up to the end of its last message, which the model writes on.
    ///
    /// # Errors
    /// [`Error::NothingToContinue`] unless the last message is text of the assistant that the template repeats; otherwise as
    /// [`ChatTemplate::prompt`].
    pub fn continued<'a>(
        &self,
        conversation: impl Into<Conversation<'a>>,
        today: Option<Date>,
    ) -> Result<Prompt, Error> {
        let conversation = conversation.into();
        let mut messages = conversation.messages.to_vec();
        let is_open = |message: &Message| {
            message.role == "assistant" && message.calls.is_empty() && !message.content.is_empty()
        };
        let last = messages.last_mut().filter(|message| is_open(message)).ok_or(Error::NothingToContinue)?;
        last.content.push_str(END_OF_TEXT);
        let transcript = self.transcript(Conversation { messages: &messages, ..conversation }, today)?;
        transcript.before_last(END_OF_TEXT).ok_or(Error::NothingToContinue)
    }

    /// Whether the template knows that functions can be called.
    pub fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    /// How the model writes calls of functions; `None` if it calls none, or in another way.
    pub fn call_format(&self) -> Option<CallFormat> {
        self.call_format.filter(|_| self.knows_tools)
    }

    /// How the model marks thoughts before its answers; `None` if it has none, or marks them in another way.
    pub fn reasoning_format(&self) -> Option<ReasoningFormat> {
        self.reasoning_format
    }

    /// The special token that the template writes behind an answer.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        /// In no template.
        const ANSWER: &str = "An answer (7f3a).";
        let messages = [Message::new("user", "A question."), Message::new("assistant", ANSWER)];
        let transcript = self.transcript(&messages[..], Date::new(2025, 1, 1)).ok()?;
        let (_, after) = transcript.text().rsplit_once(ANSWER)?;
        let ends_message = after.starts_with(harmony::END) && self.writes_messages();
        tokenizer.special_token_at(after.trim_start()).filter(|_| !ends_message)
    }

    /// The token that ends a call and an answer with it, where the model has one that ends nothing else.
    pub fn end_of_call(&self, tokenizer: &Tokenizer) -> Option<u32> {
        tokenizer.token(harmony::CALL).filter(|_| self.writes_messages())
    }

    /// Whether an answer is several messages.
    fn writes_messages(&self) -> bool {
        self.reasoning_format == Some(ReasoningFormat::Harmony)
    }

    /// The message as the template takes it: those of gpt-oss refuse text beside thoughts and calls, which their models write, and
    /// take the thoughts rather than the text.
    fn fitting<'m>(&self, message: &'m Message) -> Cow<'m, Message> {
        let is_crowded =
            !message.content.is_empty() && message.reasoning.is_some() && !message.calls.is_empty();
        match self.call_format {
            Some(CallFormat::Harmony) if is_crowded => {
                Cow::Owned(Message { content: String::new(), ..message.clone() })
            }
            _ => Cow::Borrowed(message),
        }
    }

    fn render(
        &self,
        conversation: Conversation<'_>,
        add_generation_prompt: bool,
        today: Option<Date>,
    ) -> Result<Prompt, Error> {
        let Conversation { messages, tools, variables } = conversation;
        let messages: Vec<Value> = messages.iter().map(|message| self.fitting(message).to_value()).collect();
        let variables = variables.into_iter().flatten();
        let variables = variables
            .filter(|(name, _)| !RESERVED_VARIABLES.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let is_of_tools = self.has_tool_template && !tools.is_empty();
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let rest = Value::from_pairs(std::iter::once(("documents", Value::from(()))).chain(variables));
        let mut veil = self
            .controls
            .as_ref()
            .map(|controls| Veil::new(controls, &messages, &[&tools, &rest], &self.source));
        let (messages, tools, rest) = match &mut veil {
            Some(veil) => {
                let messages = messages.iter().map(|message| veil.over_message(message));
                (messages.collect::<Result<_, _>>()?, veil.over(&tools)?, veil.over(&rest)?)
            }
            None => (messages, tools, rest),
        };
        // Absent things are undefined, except those that the reference implementation always passes as none.
        let context = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos_token.clone(),
            eos_token => self.eos_token.clone(),
            strftime_now => today.map_or(Value::UNDEFINED, strftime_now),
            tools,
            ..rest
        };
        let name = if is_of_tools { TOOL_USE } else { CHAT };
        let text =
            jinja::render(&self.environment, name, context).map_err(|error| Error::of_template(&error))?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { expected: TEXT_BYTES_MAX, got: text.len() });
        }
        Ok(match veil {
            Some(veil) => veil.lift(text),
            None => Prompt::from(text),
        })
    }
}

/// The function that tells templates the date.
pub(super) fn strftime_now(today: Date) -> Value {
    Value::from_function(move |format: &str| {
        today.format(format).map_err(|directive| {
            let message = format!("strftime_now does not know {directive}");
            minijinja::Error::new(ErrorKind::InvalidOperation, message)
        })
    })
}

fn default_template(field: &Json) -> Result<&str, Error> {
    match field {
        Json::Null => Err(Error::NoChatTemplate),
        Json::String(template) => Ok(template),
        _ => named(field, "default").ok_or_else(|| unusable(field)),
    }
}

/// One of several templates.
fn named<'a>(field: &'a Json, name: &str) -> Option<&'a str> {
    field.as_array()?.iter().find(|entry| entry["name"] == name)?["template"].as_str()
}

fn unusable(field: &Json) -> Error {
    let field = FileError::Field {
        field: "chat_template".to_string(),
        expected: "a text or a list with a template named default".to_string(),
        got: shown(field),
    };
    field.into()
}

/// The text of a special token, written as such or as `{"content": text}`; undefined if absent.
fn token_text(field: &Json) -> Value {
    let text = field.as_str().or_else(|| field["content"].as_str());
    text.map_or(Value::UNDEFINED, Value::from)
}
