//! Patterns of a schema that must hold for one and the same text.
//!
//! The library looks for a text that all of them match while it reads the schema, and the work of that is exponential in their
//! number: a hundred patterns of two letters under `allOf` take all memory there is. So what comes together is counted first, place
//! by place, as `allOf`, `$ref` and the like bring it together. Where that is more than is true, a schema is refused that could have
//! been followed; where a schema refers to itself, all of its patterns count.

use std::collections::BTreeMap;
use std::ops::Add as _;

use serde_json::Value;

/// Most ways on of patterns that hold at once: the product of their lengths.
const PATTERNS_MAX: f64 = 1e6;
/// What a `format` counts for; the expressions of all are known, and few.
const FORMAT_LEN: f64 = 8.0;
/// Most places of a schema that are looked at, every reference followed.
const N_PLACES_MAX: usize = 100_000;

/// Whether patterns that must hold at once are few and short enough, wherever that is.
pub(in crate::grammar) fn patterns_fit(schema: &Value) -> bool {
    let mut places =
        Places { root: schema, open: Vec::new(), n_left: N_PLACES_MAX, meet: false, is_cut: false };
    let worst = places.of(schema).worst();
    // What comes together where a schema refers to itself was not followed.
    fit(worst) && (!(places.is_cut && places.meet) || fit(all_patterns(schema)))
}

/// What a pattern, or a format, of a length counts for: logarithms, so that products are sums.
fn ways(len: f64) -> f64 {
    (len + 1.0).ln()
}

fn fit(ways: f64) -> bool {
    ways <= PATTERNS_MAX.ln()
}

/// Ways of the patterns for a value, and for the values inside it.
#[derive(Default)]
struct Place {
    here: f64,
    /// Whether something that refers to itself was not followed here.
    is_cut: bool,
    /// By name of a property, and by keyword for values that have none.
    inside: BTreeMap<String, Place>,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.here == 0.0 && !self.is_cut && self.inside.is_empty()
    }

    fn join(&mut self, other: Self, join: fn(f64, f64) -> f64) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.here = join(self.here, other.here);
        self.is_cut |= other.is_cut;
        for (name, place) in other.inside {
            self.inside.entry(name).or_default().join(place, join);
        }
    }

    /// Ways at the place that has most; patterns for any property hold for named ones, too.
    fn worst(&self) -> f64 {
        let any = |name: &&String| name.starts_with(ANY);
        let worst = |places: &mut dyn Iterator<Item = &Self>| places.map(Self::worst).fold(0.0, f64::max);
        let named = worst(&mut self.inside.iter().filter(|(name, _)| !any(name)).map(|(_, place)| place));
        let others = self.inside.iter().filter(|(name, _)| any(name)).map(|(_, place)| place.worst());
        self.here.max(others.fold(named, f64::add))
    }
}

/// Before the keyword of values that have no name; names of properties have another.
const ANY: char = '*';
const NAMED: char = '.';

struct Places<'a> {
    root: &'a Value,
    /// References that are being followed.
    open: Vec<&'a str>,
    n_left: usize,
    /// Whether two schemas with patterns hold for one value anywhere.
    meet: bool,
    /// Whether something was not followed.
    is_cut: bool,
}

impl<'a> Places<'a> {
    fn of(&mut self, schema: &'a Value) -> Place {
        let mut place = Place::default();
        let Some(fields) = schema.as_object() else {
            return place;
        };
        if self.n_left == 0 {
            (self.is_cut, self.meet) = (true, true);
            return place;
        }
        self.n_left -= 1;
        let (mut n_parts, mut has_others) = (0, false);
        for (keyword, value) in fields {
            let part = self.of_keyword(keyword, value);
            if !part.is_empty() {
                n_parts += 1;
                has_others |= !is_own(keyword);
            }
            place.join(part, f64::add);
        }
        self.meet |= has_others && n_parts > 1;
        place
    }

    fn of_keyword(&mut self, keyword: &str, value: &'a Value) -> Place {
        let here = |here| Place { here, ..Place::default() };
        match (keyword, value) {
            ("pattern", Value::String(pattern)) => here(ways(pattern.len() as f64)),
            ("format", Value::String(_)) => here(ways(FORMAT_LEN)),
            ("$ref", Value::String(reference)) => self.of_reference(reference),
            ("allOf", Value::Array(list)) => self.all(list),
            ("dependentSchemas", Value::Object(schemas)) => self.all(schemas.values()),
            ("anyOf" | "oneOf", Value::Array(list)) => self.any(list),
            ("if" | "then" | "else" | "not", schema) => self.of(schema),
            ("properties", Value::Object(properties)) => {
                let mut place = Place::default();
                for (name, schema) in properties {
                    let inside = self.of(schema);
                    if !inside.is_empty() {
                        place.inside.insert(format!("{NAMED}{name}"), inside);
                    }
                }
                place
            }
            ("patternProperties", Value::Object(schemas)) => {
                inside("additionalProperties", self.all(schemas.values()))
            }
            ("prefixItems" | "items", Value::Array(list)) => inside("items", self.any(list)),
            (
                "additionalItems"
                | "additionalProperties"
                | "contains"
                | "items"
                | "propertyNames"
                | "unevaluatedItems"
                | "unevaluatedProperties",
                schema,
            ) => inside(keyword, self.of(schema)),
            _ => Place::default(),
        }
    }

    fn all(&mut self, schemas: impl IntoIterator<Item = &'a Value>) -> Place {
        let mut all = Place::default();
        for schema in schemas {
            let part = self.of(schema);
            self.meet |= !all.is_empty() && !part.is_empty();
            all.join(part, f64::add);
        }
        all
    }

    fn any(&mut self, schemas: impl IntoIterator<Item = &'a Value>) -> Place {
        let mut any = Place::default();
        for schema in schemas {
            any.join(self.of(schema), f64::max);
        }
        any
    }

    fn of_reference(&mut self, reference: &'a str) -> Place {
        let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target.filter(|_| !self.open.contains(&reference)) else {
            self.is_cut = true;
            return Place { is_cut: true, ..Place::default() };
        };
        self.open.push(reference);
        let place = self.of(target);
        self.open.pop();
        place
    }
}

/// Whether a keyword's patterns are the schema's own, not those of another schema for the same value.
fn is_own(keyword: &str) -> bool {
    !matches!(
        keyword,
        "$ref" | "allOf" | "anyOf" | "oneOf" | "if" | "then" | "else" | "not" | "dependentSchemas"
    )
}

fn inside(keyword: &str, place: Place) -> Place {
    let mut around = Place::default();
    if !place.is_empty() {
        around.inside.insert(format!("{ANY}{keyword}"), place);
    }
    around
}

/// All patterns that stand anywhere in a schema, as though they held at once.
fn all_patterns(schema: &Value) -> f64 {
    match schema {
        Value::Object(fields) => fields
            .iter()
            .map(|(keyword, value)| match (keyword.as_str(), value) {
                ("pattern", Value::String(pattern)) => ways(pattern.len() as f64),
                _ => all_patterns(value),
            })
            .fold(0.0, f64::add),
        Value::Array(list) => list.iter().map(all_patterns).fold(0.0, f64::add),
        _ => 0.0,
    }
}
