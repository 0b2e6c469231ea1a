//! Numbers of a schema as the library reads them: as f64, and as i64 where it writes their digits.

use serde_json::{Map, Number, Value, json};

use super::try_each_schema;

/// Largest number that is the same as f64 and as i64. The library's way to the digits of the least i64 never ends.
const EDGE: f64 = 9_223_372_036_854_774_784.0;
/// What is small beside a number: a share of this power of ten.
const SMALL: i32 = -6;

/// Makes bounds of numbers such that every answer within what the library makes of them is within the schema's own.
///
/// # Errors
/// If a number cannot be written, or a bound leaves none that can.
pub(in crate::grammar) fn keep_numbers(schema: &mut Value) -> Result<(), String> {
    try_each_schema(schema, |fields| {
        bound(fields)?;
        [fields.get("const"), fields.get("enum")].into_iter().flatten().try_for_each(is_exact)
    })
}

fn bound(fields: &mut Map<String, Value>) -> Result<(), String> {
    for (name, is_lower) in
        [("minimum", true), ("exclusiveMinimum", true), ("maximum", false), ("exclusiveMaximum", false)]
    {
        if let Some(Value::Number(bound)) = fields.get_mut(name) {
            *bound = inner(bound, is_lower)
                .ok_or_else(|| format!("no number can be written within {name} {bound}"))?;
        }
    }
    if fields.get("type").is_none_or(|kind| kind != "integer") {
        keep_zero_out(fields, ["exclusiveMinimum", "minimum"], ["maximum", "exclusiveMaximum"], 1.0);
        keep_zero_out(fields, ["exclusiveMaximum", "maximum"], ["minimum", "exclusiveMinimum"], -1.0);
    }
    Ok(())
}

/// The library lets zero through beside an exclusive bound of zero if the other bound is less than one away. So the bound becomes an
/// inclusive one that is small beside the other.
///
/// * `near`: names of the bound at zero, exclusive and inclusive; `far`: of the other one.
/// * `sign`: of what is between them.
fn keep_zero_out(fields: &mut Map<String, Value>, near: [&str; 2], far: [&str; 2], sign: f64) {
    let number = |name: &str| fields.get(name).and_then(Value::as_f64);
    let nearest = far.into_iter().filter_map(number).map(|bound| sign * bound).reduce(f64::min);
    let is_tight = nearest.is_some_and(|bound| bound > f64::MIN_POSITIVE && bound < 1.0);
    if let (Some(0.0), Some(bound), true) = (number(near[0]), nearest, is_tight) {
        let inclusive = number(near[1]).map_or(0.0, |bound| sign * bound);
        fields.remove(near[0]);
        fields.insert(near[1].to_owned(), json!(sign * inclusive.max(small(bound))));
    }
}

/// The nearest bound that the library reads as it is, on the side of what is allowed.
fn inner(bound: &Number, is_lower: bool) -> Option<Number> {
    let mut nearest = bound.as_f64()?;
    if let Some(exact) = bound.as_i128() {
        if is_lower && (nearest as i128) < exact {
            nearest = nearest.next_up();
        } else if !is_lower && nearest as i128 > exact {
            nearest = nearest.next_down();
        }
    }
    let leaves_none = if is_lower { nearest > EDGE } else { nearest < -EDGE };
    if leaves_none {
        return None;
    }
    let kept = nearest.clamp(-EDGE, EDGE);
    let is_same = match bound.as_i128() {
        Some(exact) => exact == kept as i128,
        None => Some(kept) == bound.as_f64(),
    };
    // A bound that is moved is a whole number.
    Some(if is_same { bound.clone() } else { Number::from(kept as i64) })
}

/// A power of ten that is small beside a positive number, and not zero.
fn small(beside: f64) -> f64 {
    10_f64.powi(beside.log10().floor() as i32 + SMALL).max(f64::MIN_POSITIVE)
}

/// Whether the numbers of a value, or within it, are written as they are.
fn is_exact(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) => {
            let nearest = number.as_f64().unwrap_or(f64::INFINITY);
            let is_same = number.as_i128().is_none_or(|exact| exact == nearest as i128);
            match nearest.abs() <= EDGE && is_same {
                true => Ok(()),
                false => Err(format!("the number {number} of const or enum has too many digits")),
            }
        }
        Value::Array(list) => list.iter().try_for_each(is_exact),
        Value::Object(fields) => fields.values().try_for_each(is_exact),
        _ => Ok(()),
    }
}
