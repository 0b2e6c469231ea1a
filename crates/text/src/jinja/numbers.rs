//! Numbers as Python computes and writes them.

use minijinja::value::{Tuple, Value};
use minijinja::{Error, ErrorKind, State};

/// Python's `left % right`: the remainder of numbers, and a format where `left` is a text.
pub(super) fn modulo(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if left.as_str().is_some() {
        // The filter, and not the function behind it, has bounds.
        let args = match right.downcast_object_ref::<Tuple>() {
            Some(values) => std::iter::once(left).chain(values.iter().cloned()).collect(),
            None => vec![left, right],
        };
        return state.apply_filter("format", &args);
    }
    let failed = |message| Error::new(ErrorKind::InvalidOperation, message);
    if let (Ok(left), Ok(right)) = (i64::try_from(left.clone()), i64::try_from(right.clone())) {
        let rest = left.checked_rem(right).ok_or_else(|| failed("division by zero"))?;
        let has_other_sign = rest != 0 && (rest < 0) != (right < 0);
        return Ok(if has_other_sign { rest + right } else { rest }.into());
    }
    let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if right == 0.0 {
        return Err(failed("division by zero"));
    }
    Ok((left - right * (left / right).floor()).into())
}

/// Python's `repr` of a float: shortest digits, an exponent where there are more than 16 before the point or 4 zeros behind it.
pub(super) fn python_float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_string();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    match exponent {
        -4..=15 => format!("{value:?}"),
        _ => format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }
}
