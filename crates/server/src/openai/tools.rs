//! Functions that a model may call: what clients type, and what answers may then contain.

use std::collections::BTreeSet;

use dsde_text::{CallFormat, ChatTemplate, ExpectedCalls, Function};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;

/// Most tools of a request.
const TOOLS_MAX: usize = 128;
/// Longest name of a function, bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest list of tools, bytes of compact JSON.
const TOOLS_BYTES_MAX: usize = 256 << 10;

/// Tools as typed, in the fields of these names.
#[derive(Debug, Default)]
pub(crate) struct TypedTools {
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) tool_choice: Option<Value>,
    pub(crate) parallel_tool_calls: Option<bool>,
}

/// Which functions an answer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    None,
    Auto,
    Required,
    Named(String),
}

/// The functions that a request offers, and how the model calls them.
#[derive(Debug)]
pub(crate) struct Tools {
    /// As the template gets them.
    pub(crate) typed: Vec<Value>,
    functions: Vec<Function>,
    choice: Choice,
    are_parallel: bool,
    format: CallFormat,
}

/// The form of an answer that must call a function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CallForm {
    pub(crate) format: CallFormat,
    /// One of them.
    pub(crate) functions: Vec<Function>,
    /// Whether there may be more calls than one.
    pub(crate) are_parallel: bool,
}

impl TypedTools {
    /// The tools, if the answer may call any; those that must not be called are not told to the model.
    ///
    /// # Errors
    /// 400 with the field that cannot be honoured, also if the template knows no tools.
    pub(crate) fn checked(self, template: Option<&ChatTemplate>) -> Result<Option<Tools>, ApiError> {
        let typed = self.tools.unwrap_or_default();
        let functions = functions(&typed)?;
        let choice = choice(self.tool_choice.as_ref(), &functions)?;
        if functions.is_empty() || choice == Choice::None {
            return Ok(None);
        }
        let knows_tools = template.is_some_and(ChatTemplate::knows_tools);
        let format = template.and_then(ChatTemplate::call_format).ok_or_else(|| {
            let why = match knows_tools {
                false => "the model's chat template knows no tools",
                true => "the model writes calls in a form that this server does not know",
            };
            ApiError::bad_field("tools", format!("`tools` cannot be honoured: {why}"))
        })?;
        let are_parallel = self.parallel_tool_calls.unwrap_or(true);
        Ok(Some(Tools { typed, functions, choice, are_parallel, format }))
    }
}

impl Tools {
    /// The calls that an answer may contain.
    pub(crate) fn expected_calls(&self) -> ExpectedCalls {
        let names = self.functions.iter().map(|function| function.name.clone()).collect();
        let are_parallel = self.are_parallel && !matches!(self.choice, Choice::Named(_));
        let are_required = matches!(self.choice, Choice::Required | Choice::Named(_));
        ExpectedCalls { format: self.format, names, are_parallel, are_required }
    }

    /// The form of an answer that must call a function; `None` leaves the model free.
    pub(crate) fn required(&self) -> Option<CallForm> {
        let functions = match &self.choice {
            Choice::None | Choice::Auto => return None,
            Choice::Required => self.functions.clone(),
            Choice::Named(name) => {
                self.functions.iter().filter(|function| function.name == *name).cloned().collect()
            }
        };
        let ExpectedCalls { format, are_parallel, .. } = self.expected_calls();
        Some(CallForm { format, functions, are_parallel })
    }

    /// Length of the ids of calls, if the model's template insists on one.
    pub(crate) fn id_len(&self) -> Option<usize> {
        self.format.id_len()
    }
}

fn functions(typed: &[Value]) -> Result<Vec<Function>, ApiError> {
    if typed.len() > TOOLS_MAX {
        let message = format!("at most {TOOLS_MAX} `tools`, got {}", typed.len());
        return Err(ApiError::bad_field("tools", message));
    }
    let n_bytes: usize = typed.iter().map(|tool| tool.to_string().len()).sum();
    if n_bytes > TOOLS_BYTES_MAX {
        let message = format!("`tools` must have at most {TOOLS_BYTES_MAX} bytes, got {n_bytes}");
        return Err(ApiError::bad_field("tools", message));
    }
    let mut names = BTreeSet::new();
    let mut functions = Vec::new();
    for (i, tool) in typed.iter().enumerate() {
        let field = format!("tools[{i}]");
        let function =
            function(tool).map_err(|what| ApiError::bad_field(field.clone(), format!("{field} {what}")))?;
        if !names.insert(function.name.clone()) {
            let message = format!("{field}: there is a function `{}` already", function.name);
            return Err(ApiError::bad_field(field, message));
        }
        functions.push(function);
    }
    Ok(functions)
}

fn function(tool: &Value) -> Result<Function, String> {
    if tool["type"] != "function" {
        return Err(format!("must have the type function, got {}", tool["type"]));
    }
    let function = &tool["function"];
    let name = function["name"].as_str().unwrap_or_default();
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_letter) {
        let expected = format!("1 to {NAME_BYTES_MAX} letters, digits, `_`, `-` or `.`");
        return Err(format!("must have a function whose name is {expected}, got {}", function["name"]));
    }
    let parameters = match &function["parameters"] {
        Value::Null => None,
        schema @ Value::Object(_) => Some(schema.clone()),
        other => return Err(format!("must have `parameters` that are a JSON schema, got {other}")),
    };
    Ok(Function { name: name.to_owned(), parameters })
}

fn choice(typed: Option<&Value>, functions: &[Function]) -> Result<Choice, ApiError> {
    let refuse = |message: String| Err(ApiError::bad_field("tool_choice", message));
    let choice = match typed {
        None | Some(Value::Null) => return Ok(Choice::Auto),
        Some(Value::String(text)) => match text.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" => Choice::Required,
            other => {
                return refuse(format!(
                    "`tool_choice` must be none, auto, required or a function, got `{other}`"
                ));
            }
        },
        Some(typed) => match typed["function"]["name"].as_str() {
            Some(name) if typed["type"] == "function" => Choice::Named(name.to_owned()),
            _ => {
                let example = json!({"type": "function", "function": {"name": "NAME"}});
                return refuse(format!(
                    "`tool_choice` must be none, auto, required or {example}, got {typed}"
                ));
            }
        },
    };
    match &choice {
        Choice::Named(name) if !functions.iter().any(|function| function.name == *name) => {
            refuse(format!("`tool_choice` names the function `{name}`, which is not among the `tools`"))
        }
        Choice::Required if functions.is_empty() => {
            refuse("`tool_choice` is required, but there are no `tools`".to_owned())
        }
        _ => Ok(choice),
    }
}
