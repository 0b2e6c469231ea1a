//! How much work a form can make, estimated before it is compiled.
//!
//! The library counts the work of an automaton's states and stops at a limit, but only between two of them. Of expressions that must
//! hold at once, each of which can go on in several ways, one state alone has as many as the product of all: a few hundred bytes of
//! patterns under `allOf`, or of terminals between `&`, take all memory there is. So such products are bounded here, and likewise
//! long runs of parts that may all be left out, whose first state alone takes the square of their number.

use std::collections::BTreeMap;

use llguidance::derivre::ExprRef;
use llguidance::derivre::raw::ExprSet;
use serde_json::Value;

/// Most ways on of one state, summed over the parts of all expressions.
const WAYS_MAX: u64 = 1 << 24;
/// What one of the ways of expressions that hold at once counts for: it becomes an expression of its own.
const CROSSED: u64 = 16;
/// Most ways on of patterns of a schema that hold at once: the product of their lengths.
const PATTERNS_MAX: f64 = 1e6;
/// What a `format` counts for; the expressions of all are known, and few.
const FORMAT_LEN: f64 = 8.0;
/// Most places of a schema that are looked at, every reference followed.
const N_PLACES_MAX: usize = 100_000;

/// Whether the first states of these expressions are few enough to be made.
///
/// * `may_cross`: whether expressions that hold at once count with their product. Those of schemas are not to: [`fits_schema`] knows
///   what the patterns were before they were written as JSON.
pub(super) fn fits_expressions(exprs: &ExprSet, may_cross: bool) -> bool {
    let mut parts: Vec<Ways> = Vec::with_capacity(exprs.len());
    let mut total = 0_u64;
    for id in 0..u32::try_from(exprs.len()).unwrap_or(u32::MAX) {
        let expr = ExprRef::new(id);
        let ways = if exprs.is_valid(expr) { Ways::of(exprs, expr, &parts) } else { Ways::default() };
        let is_and = exprs.is_valid(expr) && tag(exprs, expr) == "And";
        total = total.saturating_add(match (is_and, may_cross) {
            (true, true) => ways.anywhere.saturating_mul(CROSSED),
            (true, false) => 1,
            (false, _) => ways.first,
        });
        parts.push(if is_and && !may_cross { Ways { first: 1, anywhere: 1 } } else { ways });
    }
    total <= WAYS_MAX
}

/// In how many ways an expression can go on.
#[derive(Clone, Copy, Default)]
struct Ways {
    /// From its beginning.
    first: u64,
    /// From any one place inside, at most.
    anywhere: u64,
}

impl Ways {
    /// * `parts`: those of all expressions before it, which have what it is made of.
    fn of(exprs: &ExprSet, expr: ExprRef, parts: &[Self]) -> Self {
        let mut args =
            exprs.get_args(expr).iter().map(|arg| parts.get(arg.as_usize()).copied().unwrap_or_default());
        let sum = |of: fn(Self) -> u64, args: &mut dyn Iterator<Item = Self>| {
            args.map(of).fold(0, u64::saturating_add)
        };
        let product = |of: fn(Self) -> u64, args: &mut dyn Iterator<Item = Self>| {
            args.map(of).fold(1, u64::saturating_mul)
        };
        match tag(exprs, expr).as_str() {
            "EmptyString" | "NoMatch" => Self::default(),
            "And" => Self {
                first: product(|arg| arg.first, &mut args.clone()),
                anywhere: product(|arg| arg.anywhere, &mut args),
            },
            "Or" => Self {
                first: sum(|arg| arg.first, &mut args.clone()),
                anywhere: sum(|arg| arg.anywhere, &mut args),
            },
            "Concat" => {
                let [head, tail] = [args.next().unwrap_or_default(), args.next().unwrap_or_default()];
                let passes = exprs.get_args(expr).first().is_some_and(|&head| exprs.is_nullable(head));
                Self {
                    first: head.first.saturating_add(if passes { tail.first } else { 0 }),
                    anywhere: head.anywhere.saturating_add(tail.anywhere),
                }
            }
            "ByteConcat" => Self { first: 1, anywhere: sum(|arg| arg.anywhere, &mut args).saturating_add(1) },
            // The bytes that differ in what may follow.
            "Not" => Self { first: 256, anywhere: 256 },
            "RemainderIs" => Self { first: 10, anywhere: 10 },
            "Lookahead" => args.next().unwrap_or_default(),
            // A repetition that has begun may go on or begin anew.
            "Repeat" => {
                let body = args.next().unwrap_or_default();
                Self { first: body.first, anywhere: body.anywhere.saturating_mul(2) }
            }
            _ => Self { first: 1, anywhere: 1 },
        }
    }
}

/// The library does not name the type of its tags.
fn tag(exprs: &ExprSet, expr: ExprRef) -> String {
    format!("{:?}", exprs.get_tag(expr))
}

/// Whether the patterns of a schema that must hold for one and the same text are few and short enough.
pub(super) fn fits_schema(schema: &Value) -> bool {
    let mut places =
        Places { root: schema, open: Vec::new(), n_left: N_PLACES_MAX, meet: false, is_cut: false };
    let place = places.of(schema);
    if !place.worst().fits() {
        return false;
    }
    // What comes together where a schema refers to itself was not followed.
    !(places.is_cut && places.meet) || all_patterns(schema).fits()
}

/// Patterns that hold at once.
#[derive(Clone, Copy, Default)]
struct Patterns {
    n: usize,
    /// Logarithm of the product of their lengths.
    ways: f64,
}

impl Patterns {
    fn one(len: f64) -> Self {
        Self { n: 1, ways: len.max(1.0).ln() }
    }

    fn and(self, other: Self) -> Self {
        Self { n: self.n + other.n, ways: self.ways + other.ways }
    }

    fn or(self, other: Self) -> Self {
        if other.ways > self.ways { other } else { self }
    }

    fn fits(self) -> bool {
        self.n < 2 || self.ways <= PATTERNS_MAX.ln()
    }
}

/// Patterns for a value, and for the values inside it.
#[derive(Default)]
struct Place {
    here: Patterns,
    /// Whether something that refers to itself was not followed here.
    is_cut: bool,
    /// By name of a property, and by keyword for values that have none.
    inside: BTreeMap<String, Place>,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.here.n == 0 && !self.is_cut && self.inside.is_empty()
    }

    fn join(&mut self, other: Self, join: fn(Patterns, Patterns) -> Patterns) {
        self.here = join(self.here, other.here);
        self.is_cut |= other.is_cut;
        for (name, place) in other.inside {
            self.inside.entry(name).or_default().join(place, join);
        }
    }

    /// Patterns of the place that has most; those for any property hold for named ones, too.
    fn worst(&self) -> Patterns {
        let any = |name: &&String| name.starts_with(ANY);
        let worst = |places: &mut dyn Iterator<Item = &Self>| {
            places.map(Self::worst).fold(Patterns::default(), Patterns::or)
        };
        let named = worst(&mut self.inside.iter().filter(|(name, _)| !any(name)).map(|(_, place)| place));
        let others = self.inside.iter().filter(|(name, _)| any(name)).map(|(_, place)| place.worst());
        self.here.or(others.fold(named, Patterns::and))
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
        let (mut has_others, mut is_alone) = (false, true);
        for (keyword, value) in fields {
            let part = self.of_keyword(keyword, value);
            if !part.is_empty() {
                is_alone &= place.is_empty();
                has_others |= !is_own(keyword);
            }
            place.join(part, Patterns::and);
        }
        self.meet |= has_others && !is_alone;
        place
    }

    fn of_keyword(&mut self, keyword: &str, value: &'a Value) -> Place {
        let here = |here| Place { here, ..Place::default() };
        match (keyword, value) {
            ("pattern", Value::String(pattern)) => here(Patterns::one(pattern.len() as f64)),
            ("format", Value::String(_)) => here(Patterns::one(FORMAT_LEN)),
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
            all.join(part, Patterns::and);
        }
        all
    }

    fn any(&mut self, schemas: impl IntoIterator<Item = &'a Value>) -> Place {
        let mut any = Place::default();
        for schema in schemas {
            any.join(self.of(schema), Patterns::or);
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
fn all_patterns(schema: &Value) -> Patterns {
    match schema {
        Value::Object(fields) => fields
            .iter()
            .map(|(keyword, value)| match (keyword.as_str(), value) {
                ("pattern", Value::String(pattern)) => Patterns::one(pattern.len() as f64),
                _ => all_patterns(value),
            })
            .fold(Patterns::default(), Patterns::and),
        Value::Array(list) => list.iter().map(all_patterns).fold(Patterns::default(), Patterns::and),
        _ => Patterns::default(),
    }
}
