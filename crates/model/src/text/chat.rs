//! Chat templates: the Jinja program that a model's authors publish to turn messages into a prompt.

use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Value};
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;

use super::{Date, TEXT_BYTES_MAX, python_json, template_config};
use crate::checkpoint::{check_folder, read_optional};
use crate::error::Error;

const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
/// Longest template, in bytes; published ones stay under 50 kB.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;
/// Work of one rendering: an instruction costs one, data one per 64 bytes. Published templates need under 200 per message, and
/// the longest text, passed through five filters, 330 000; memory stays under 32 MB.
const FUEL: u64 = 500_000;
/// Stack of one rendering. The interpreter follows nested lists by recursion, in at most 400 bytes per level as measured, and
/// a unit of fuel nests at most one level: no template can overflow it. Untouched pages cost nothing.
const STACK_BYTES: usize = 512 * FUEL as usize;
/// Nested calls of macros; published templates nest two.
const RECURSION_MAX: usize = 64;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who wrote it, in the template's words: `system`, `user`, `assistant`, ...
    pub role: String,
    /// What was written.
    pub content: String,
}

/// A compiled chat template with the texts of the tokens it may mention.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Value,
    eos_token: Value,
}

impl ChatTemplate {
    /// Reads the template of a model folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, else
    /// `chat_template.json`. What `special_tokens_map.json` says about tokens completes the configuration.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is neither; otherwise as [`ChatTemplate::parse`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        check_folder(folder)?;
        let config = template_config::read(folder)?;
        let template = read_optional(&folder.join(TEMPLATE), TEMPLATE_BYTES_MAX)?;
        let template = template.map(|text| String::from_utf8_lossy(&text).into_owned());
        Self::parse(&config, template.as_deref())
    }

    /// Compiles a template.
    ///
    /// * `config`: text of `tokenizer_config.json`. Its `chat_template` is a text, or a list of named ones of which `default`
    ///   is taken.
    /// * `template`: text of `chat_template.jinja`; takes precedence.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is none; otherwise if `config` is not JSON or the template is not a program.
    pub fn parse(config: &[u8], template: Option<&str>) -> Result<Self, Error> {
        let config: Json = serde_json::from_slice(config)
            .map_err(|source| Error::Json { file: CONFIG.to_string(), source })?;
        let source = match template {
            Some(template) => template,
            None => default_template(&config["chat_template"])?,
        };
        let mut environment = environment();
        environment
            .add_template_owned("chat", source.to_string())
            .map_err(|source| Error::ChatTemplate { source })?;
        let (bos_token, eos_token) = (token_text(&config["bos_token"]), token_text(&config["eos_token"]));
        Ok(Self { environment, bos_token, eos_token })
    }

    /// The prompt after which the model writes the assistant's next message.
    ///
    /// * `today`: for templates that mention the date; without it they use a date of their own or fail.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the template refuses the messages (many insist on alternating roles), fails, or exceeds its
    /// limits; [`Error::TextTooLong`] if it writes more than [`TEXT_BYTES_MAX`].
    pub fn prompt(&self, messages: &[Message], today: Option<Date>) -> Result<String, Error> {
        self.render(messages, true, today)
    }

    /// The conversation as the model saw it in training, without a beginning of the next message.
    ///
    /// # Errors
    /// As [`ChatTemplate::prompt`].
    pub fn transcript(&self, messages: &[Message], today: Option<Date>) -> Result<String, Error> {
        self.render(messages, false, today)
    }

    fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        today: Option<Date>,
    ) -> Result<String, Error> {
        let messages: Vec<Value> = messages.iter().cloned().map(Value::from_object).collect();
        // Absent things are undefined, except those that the reference implementation always passes as none.
        let context = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos_token.clone(),
            eos_token => self.eos_token.clone(),
            strftime_now => today.map_or(Value::UNDEFINED, strftime_now),
            tools => (),
            documents => (),
        };
        let render = || self.environment.get_template("chat")?.render(context);
        let text = on_own_stack(render).map_err(|source| Error::ChatTemplate { source })?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TextTooLong { expected: TEXT_BYTES_MAX, got: text.len() });
        }
        Ok(text)
    }
}

/// A message as templates see it: a mapping whose keys keep their order.
impl Object for Message {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(self.role.as_str())),
            "content" => Some(Value::from(self.content.as_str())),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

/// An interpreter that behaves as the one templates are written for, within limits.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    // Errors would otherwise carry, and print, the conversation.
    environment.set_debug(false);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", python_json::tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}

/// Runs on a thread with [`STACK_BYTES`] of stack.
fn on_own_stack(
    render: impl FnOnce() -> Result<String, minijinja::Error> + Send,
) -> Result<String, minijinja::Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".to_string()).stack_size(STACK_BYTES);
        let rendering = thread.spawn_scoped(scope, render).map_err(|source| {
            minijinja::Error::new(ErrorKind::InvalidOperation, "no thread to render on").with_source(source)
        })?;
        rendering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn strftime_now(today: Date) -> Value {
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
        Json::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            default.and_then(|entry| entry["template"].as_str()).ok_or_else(|| unusable(field))
        }
        _ => Err(unusable(field)),
    }
}

fn unusable(field: &Json) -> Error {
    Error::Field {
        field: "chat_template",
        expected: "a text or a list with a template named default".to_string(),
        got: crate::config::shown(field),
    }
}

/// The text of a special token, written as such or as `{"content": text}`; undefined if absent.
fn token_text(field: &Json) -> Value {
    let text = field.as_str().or_else(|| field["content"].as_str());
    text.map_or(Value::UNDEFINED, Value::from)
}
