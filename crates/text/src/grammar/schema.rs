//! What a schema says that nothing can be made of: it is left out, and the rest is followed. Numbers that the library would take for
//! others are replaced by the nearest that keep every answer right, or refused.

use std::collections::HashSet;

use serde_json::{Map, Value};

mod numbers;
mod patterns;

pub(super) use numbers::keep_numbers;
pub(super) use patterns::patterns_fit;

/// Formats of texts that are followed; any other is an annotation, as the standard has it.
pub(super) const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

/// Keywords that say something about a document which cannot be told while it is written.
const DROPPED: [&str; 1] = ["uniqueItems"];

/// Most patterns of properties of one object; each is held against each.
const PROPERTY_PATTERNS_MAX: usize = 64;
/// Most values of `enum` times bytes of a `pattern` beside it, which is read once for every value.
const MATCHED_MAX: usize = 1 << 20;
/// Keywords with a list of schemas for one value.
const OPTIONS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// So many options may have anything beside them.
const N_OPTIONS_FEW: usize = 16;
/// Most options times bytes of what stands beside them.
const COPIED_MAX: usize = 4 << 20;

/// Leaves out what cannot be followed, in the schema and all that are part of it.
pub(super) fn drop_annotations(schema: &mut Value) {
    each_schema(schema, &mut |fields| {
        fields.retain(|name, value| !is_annotation(name, value));
        for name in ["anyOf", "oneOf"] {
            fields.get_mut(name).into_iter().for_each(keep_followed);
        }
    });
}

/// Calls `change` with the fields of a schema, and then of all that are part of it.
fn each_schema(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    change(fields);
    for (name, value) in fields.iter_mut() {
        match name.as_str() {
            "additionalItems"
            | "additionalProperties"
            | "contains"
            | "else"
            | "if"
            | "not"
            | "propertyNames"
            | "then"
            | "unevaluatedItems"
            | "unevaluatedProperties" => each_schema(value, change),
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                each_of(value.as_array_mut().into_iter().flatten(), change)
            }
            "items" if value.is_array() => each_of(value.as_array_mut().into_iter().flatten(), change),
            "items" => each_schema(value, change),
            "$defs" | "definitions" | "dependentSchemas" | "patternProperties" | "properties" => {
                each_of(value.as_object_mut().into_iter().flat_map(Map::values_mut), change);
            }
            _ => {}
        }
    }
}

/// The same, where `change` may refuse a schema: the first reason counts.
fn try_each_schema(
    schema: &mut Value,
    mut change: impl FnMut(&mut Map<String, Value>) -> Result<(), String>,
) -> Result<(), String> {
    let mut outcome = Ok(());
    each_schema(schema, &mut |fields| {
        let changed = change(fields);
        if outcome.is_ok() {
            outcome = changed;
        }
    });
    outcome
}

fn each_of<'a>(
    schemas: impl Iterator<Item = &'a mut Value>,
    change: &mut impl FnMut(&mut Map<String, Value>),
) {
    schemas.for_each(|schema| each_schema(schema, change));
}

/// Refuses what the library copies, or holds against each other, more often than it counts.
///
/// # Errors
/// Says what there is too much of.
pub(super) fn keep_small(schema: &mut Value) -> Result<(), String> {
    try_each_schema(schema, |fields| is_small(fields))
}

fn is_small(fields: &Map<String, Value>) -> Result<(), String> {
    let n_patterns = fields.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
    if n_patterns > PROPERTY_PATTERNS_MAX {
        return Err(format!(
            "patternProperties may have at most {PROPERTY_PATTERNS_MAX} patterns, got {n_patterns}"
        ));
    }
    let list_len = |name: &str| fields.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let pattern_len = fields.get("pattern").and_then(Value::as_str).map_or(0, str::len);
    let matched = list_len("enum") * pattern_len;
    if matched > MATCHED_MAX {
        return Err(format!("enum times bytes of pattern may be at most {MATCHED_MAX}, got {matched}"));
    }
    let n_options = OPTIONS.map(list_len).into_iter().sum::<usize>();
    let others = fields.iter().filter(|(name, _)| !OPTIONS.contains(&name.as_str()));
    // Each option gets all that stands beside it.
    if n_options > N_OPTIONS_FEW {
        let copied = n_options * others.map(|(_, value)| value.to_string().len()).sum::<usize>();
        if copied > COPIED_MAX {
            return Err(format!(
                "options times bytes of what stands beside them may be at most {COPIED_MAX}, got {copied}"
            ));
        }
    }
    Ok(())
}

/// Refuses references to places that are no schemas, which nothing here would have looked at, and those that the library follows
/// elsewhere than the standard does.
///
/// # Errors
/// Names the reference.
pub(super) fn keep_references(schema: &mut Value) -> Result<(), String> {
    let mut places = HashSet::new();
    let mut references = Vec::new();
    each_schema(schema, &mut |fields| {
        // A schema is known by where its fields lie: nothing moves while they are looked at.
        places.insert(std::ptr::from_ref(fields));
        references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
    });
    let schema = &*schema;
    let is_schema = |reference: &str| {
        let pointer = reference.strip_prefix('#').filter(|pointer| !pointer.contains(['~', '%']));
        let is_index = |step: &str| step.starts_with(['0', '+']) && step.len() > 1;
        let target = pointer
            .filter(|pointer| !pointer.split('/').any(is_index))
            .and_then(|pointer| schema.pointer(pointer));
        target.is_some_and(|target| {
            target
                .as_object()
                .map_or(target.is_boolean(), |fields| places.contains(&std::ptr::from_ref(fields)))
        })
    };
    match references.iter().find(|reference| !is_schema(reference)) {
        Some(reference) => Err(format!("the reference {reference} leads to no schema within this one")),
        None => Ok(()),
    }
}

fn is_annotation(name: &str, value: &Value) -> bool {
    match name {
        "format" => value.as_str().is_some_and(|format| !FORMATS.contains(&format)),
        _ => DROPPED.contains(&name) && value.is_boolean(),
    }
}

/// Leaves out alternatives that no automaton can follow while there are others; an answer that takes one of those is right, too.
fn keep_followed(alternatives: &mut Value) {
    let Some(list) = alternatives.as_array_mut() else {
        return;
    };
    let looks_around = |schema: &Value| {
        let pattern = schema["pattern"].as_str().unwrap_or_default();
        ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|sign| pattern.contains(sign))
    };
    if !list.iter().all(looks_around) {
        list.retain(|schema| !looks_around(schema));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(mut schema: Value, expected: Value) {
        drop_annotations(&mut schema);
        assert_eq!(schema, expected);
    }

    #[test]
    fn annotations_are_left_out_wherever_a_schema_stands() {
        let set =
            json!({"type": "array", "items": {"type": "string", "format": "path"}, "uniqueItems": true});
        let list = json!({"type": "array", "items": {"type": "string"}});
        check(set.clone(), list.clone());
        check(json!({"properties": {"a": set.clone()}}), json!({"properties": {"a": list.clone()}}));
        check(json!({"$defs": {"a": {"anyOf": [set]}}}), json!({"$defs": {"a": {"anyOf": [list]}}}));
        check(json!({"type": "string", "format": "date"}), json!({"type": "string", "format": "date"}));
    }

    #[test]
    fn names_and_values_that_look_like_annotations_stay() {
        let schema = json!({
            "properties": {"format": {"enum": [{"format": "x", "uniqueItems": true}]}, "uniqueItems": {}},
            "required": ["format"], "default": {"format": "x"},
        });
        check(schema.clone(), schema);
    }

    #[test]
    fn alternatives_that_look_around_give_way_to_others() {
        let decimal = json!({"type": "string", "pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"});
        check(json!({"anyOf": [{"type": "number"}, decimal]}), json!({"anyOf": [{"type": "number"}]}));
        check(json!({"anyOf": [decimal]}), json!({"anyOf": [decimal]}));
    }
}
