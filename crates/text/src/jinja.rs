//! Jinja as chat templates are written for: Jinja2 in Python, set up as transformers sets it up, and within limits.
//!
//! Templates are programs of strangers. They are compiled and rendered on a thread of their own, with a bounded stack, and within
//! bounds on source, work and output; should the interpreter panic all the same, that is an error of the template.

mod filters;
mod json;
mod methods;
mod numbers;
mod source;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

/// Work of one rendering: an instruction costs one, data one per 64 bytes. Published templates need under 200 per message, and
/// the longest text, passed through five filters, 330 000; memory stays under 32 MB.
const FUEL: u64 = 500_000;
/// Stack of one rendering. The interpreter follows nested lists by recursion, in at most 400 bytes per level as measured, and
/// a unit of fuel nests at most one level: no template can overflow it. Untouched pages cost nothing.
const STACK_BYTES: usize = 512 * FUEL as usize;
/// Nested calls of macros; published templates nest two.
const RECURSION_MAX: usize = 64;

/// An interpreter that behaves as the one templates are written for, within limits.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    // Errors would otherwise carry, and print, the conversation.
    environment.set_debug(false);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(source::MODULO, numbers::modulo);
    environment.add_filter(source::LISTED, filters::listed);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    filters::add(&mut environment);
    environment
}

/// Adds a template.
///
/// # Errors
/// If it is not a program, or too long or nested.
pub(super) fn add(
    environment: &mut Environment<'static>,
    name: &'static str,
    source: &str,
) -> Result<(), Error> {
    let source = source::prepared(source)?;
    on_own_stack(|| environment.add_template_owned(name, source))
}

/// What the template writes.
///
/// # Errors
/// If it fails or exceeds its limits.
pub(super) fn render(environment: &Environment<'_>, name: &str, context: Value) -> Result<String, Error> {
    on_own_stack(|| environment.get_template(name)?.render(context))
}

/// Runs on a thread with [`STACK_BYTES`] of stack.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".to_string()).stack_size(STACK_BYTES);
        let working = thread.spawn_scoped(scope, work).map_err(|source| {
            Error::new(ErrorKind::InvalidOperation, "no thread to render on").with_source(source)
        })?;
        working.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::InvalidOperation, "the interpreter cannot handle this template"))
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::date::Date;

    /// Snippets that still differ, and why: nobody has needed them.
    const DIFFERENT: [&str; 12] = [
        // The interpreter has no such object.
        "{{ dict([('a', 1)]) }}",
        "{{ range(3) }}",
        "{{ namespace(a=1) }}",
        "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, x=2) }}",
        "{{ lipsum is defined }} {{ cycler is defined }} {{ joiner is defined }} {{ namespace is defined }} {{ dict is defined }} {{ range is defined }} {{ self is defined }}",
        "{{ ({'items': [1]}).items is callable }} {{ ({'items': [1]})['items'] }}",
        // Filters for web pages.
        "{{ '<p>a  b</p>' | striptags }} {{ 'a b' | urlencode }} {{ 'a/b?c=d' | urlencode }}",
        "{{ 'x' | center(5) }}| {{ 1000 | filesizeformat }} {{ [1, [2]] | tojson }}",
        "{{ {'a': 1} | xmlattr }} {{ 'ab cd ef' | wordwrap(5) }}",
        "{{ {'a': {'b': 1}} | attr('a') is defined }} {{ numbers | random in numbers }}",
        "{{ 'abc' | list }} {{ 'a b c' | wordcount }} {{ 'abcdefgh' | truncate(5) }} {{ 'abcdefgh' | truncate(6, true, '..', 0) }}",
        "{{ 'a-b'.translate({45: '_'}) }}",
    ];

    fn rendered(source: &str, context: &Value) -> Result<String, Error> {
        let mut environment = environment();
        let now = Date::new(2025, 3, 5).unwrap().at(14, 7, 9).unwrap();
        environment.add_global("strftime_now", super::super::chat::strftime_now(now));
        add(&mut environment, "snippet", source)?;
        render(&environment, "snippet", context.clone())
    }

    #[test]
    fn snippets_agree_with_jinja2() {
        let file: Json = serde_json::from_str(include_str!("../../../tests/fixtures/jinja.json")).unwrap();
        let mut context = file["context"].clone();
        context["tools"] = Json::Null;
        context["documents"] = Json::Null;
        let context = Value::from(minijinja::value::Serde(&context));
        let mut wrong = Vec::new();
        for case in file["cases"].as_array().unwrap() {
            let source = case["template"].as_str().unwrap();
            let got = rendered(source, &context).map_err(|error| error.to_string());
            let expected = case["output"].as_str();
            if (got.as_deref().ok() == expected) == DIFFERENT.contains(&source) {
                wrong.push(format!("{source}\nexpected {expected:?}\n     got {got:?}\n"));
            }
        }
        assert!(wrong.is_empty(), "{} snippets:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn a_panic_of_the_interpreter_is_an_error_of_the_template() {
        let error = rendered("{% for i in [1] %}{{ loop.cycle() }}{% endfor %}", &Value::default());
        assert!(error.unwrap_err().to_string().contains("the interpreter cannot handle this template"));
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        let chains = ["+1", " ~ 1", ".a", "[0]", "|string", " and 1", " if 1 else 1", " == 1", " is string"];
        for link in chains {
            for n in [500, 5_000, 100_000] {
                let source = format!("{{{{ x{} }}}}", link.repeat(n));
                let _ = rendered(&source, &Value::default());
            }
        }
        for (open, close) in [("not ", ""), ("-", ""), ("(", ")"), ("[", "]"), ("{1:", "}"), ("f(", ")")] {
            let source = format!("{{{{ {}1{} }}}}", open.repeat(100_000), close.repeat(100_000));
            assert!(rendered(&source, &Value::default()).is_err(), "{open}");
        }
        for block in ["{% if a %}", "{% for a in b %}", "{% set a %}", "{% filter upper %}", "{% with %}"] {
            assert!(rendered(&block.repeat(100_000), &Value::default()).is_err(), "{block}");
        }
    }
}
