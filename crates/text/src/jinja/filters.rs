//! Filters, tests and functions that differ from the interpreter's own or are missing there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Object, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use super::numbers::python_float;

/// Adds them all.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("escape", escaped);
    environment.add_filter("e", escaped);
    // Texts and mappings have a length and items, which is all that Jinja2 asks.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_function("cycler", |items: Rest<Value>| match items.is_empty() {
        true => Err(Error::new(ErrorKind::MissingArgument, "at least one item is needed")),
        false => Ok(Value::from_object(Cycler { items: items.to_vec(), next: AtomicUsize::new(0) })),
    });
    environment.add_function("joiner", |separator: Option<String>| {
        let separator = separator.unwrap_or_else(|| ", ".to_string());
        Value::from_object(Joiner { separator, is_used: AtomicBool::new(false) })
    });
    // Jinja2 has neither.
    environment.remove_filter("chain");
    environment.remove_filter("zip");
    environment.set_formatter(|out, state, value| match written(value) {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    });
}

/// Floats as Python writes them.
fn written(value: &Value) -> Option<String> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok().filter(|float| float.is_finite()).map(python_float))?
}

fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named: Option<Value> = kwargs.get("default_value")?;
    let counts_false = boolean.or(kwargs.get("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let is_replaced = value.is_undefined() || (counts_false && !value.is_true());
    Ok(if is_replaced { other.or(named).unwrap_or_else(|| Value::from("")) } else { value })
}

/// A list of what promises to be one: a sum or product, which the interpreter would compute whenever it is looked at, in a time
/// that doubles with every sum of sums.
pub(super) fn listed(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    /// As the interpreter charges for the place of an item.
    const ITEMS_PER_FUEL: u64 = 2;
    let Some(len) = value.len().filter(|_| value.kind() == ValueKind::Iterable) else {
        return Ok(value);
    };
    state.consume_fuel(len as u64 / ITEMS_PER_FUEL)?;
    Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()))
}

fn escaped(text: &Value) -> Value {
    if text.is_safe() {
        return text.clone();
    }
    let mut escaped = String::new();
    for c in text.to_string().chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Value::from_safe_string(escaped)
}

/// Hands out its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    next: AtomicUsize,
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.items[self.next.load(Ordering::Relaxed)].clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        let at = self.next.load(Ordering::Relaxed);
        match method {
            "next" => self.next.store((at + 1) % self.items.len(), Ordering::Relaxed),
            "reset" => self.next.store(0, Ordering::Relaxed),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        Ok(self.items[at].clone())
    }
}

/// Nothing when first called, then its separator.
#[derive(Debug)]
struct Joiner {
    separator: String,
    is_used: AtomicBool,
}

impl Object for Joiner {
    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(if self.is_used.swap(true, Ordering::Relaxed) { self.separator.as_str() } else { "" }.into())
    }
}
