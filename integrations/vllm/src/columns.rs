//! Columns of numbers as Python gives them: NumPy arrays of any numeric type, or lists. Everything is checked on the way in.

use std::time::Duration;

use numpy::{Element, PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// Longest time that can be given, seconds; about thirty years, and far below where `Duration` ends.
const SECONDS_MAX: f64 = 1e9;

/// A value of a field that is missing or given: `None` in Python.
pub type Given<'py> = Option<Bound<'py, PyAny>>;

/// A whole column of counts, one per sequence, or the default for all of them.
///
/// # Errors
/// `ValueError` if there are not `len` of them or one is not within `0..=u32::MAX`.
pub fn counts(
    name: &str,
    given: &Given<'_>,
    len: usize,
    default: impl Fn(usize) -> u32,
) -> PyResult<Vec<u32>> {
    let Some(value) = given else { return Ok((0..len).map(default).collect()) };
    let column = integers(name, value)?;
    check_len(name, column.len(), len)?;
    column.into_iter().map(|count| within(name, count, "0..=4294967295")).collect()
}

/// Numbers of sequences, all different.
///
/// # Errors
/// `ValueError` if one is negative or given twice.
pub fn seqs(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    let seqs: Vec<u64> = integers(name, value)?
        .into_iter()
        .map(|seq| within(name, seq, "0..=9223372036854775807"))
        .collect::<PyResult<_>>()?;
    let mut sorted = seqs.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(seqs),
        Some(pair) => Err(value_error(name, "different numbers", format_args!("{} twice", pair[0]))),
    }
}

/// A column of signed whole numbers, or zeros.
///
/// # Errors
/// `ValueError` if there are not `len` of them or one does not fit into 32 bits.
pub fn signed(name: &str, given: &Given<'_>, len: usize) -> PyResult<Vec<i32>> {
    let Some(value) = given else { return Ok(vec![0; len]) };
    let column = integers(name, value)?;
    check_len(name, column.len(), len)?;
    column.into_iter().map(|number| within(name, number, "-2147483648..=2147483647")).collect()
}

/// Indices below `bound`.
///
/// # Errors
/// `ValueError` if one is not.
pub fn indices(name: &str, value: &Bound<'_, PyAny>, bound: usize) -> PyResult<Vec<usize>> {
    let column = integers(name, value)?;
    match column.iter().find(|&&index| index < 0 || index as u64 >= bound as u64) {
        None => Ok(column.into_iter().map(|index| index as usize).collect()),
        Some(index) => Err(value_error(name, &format!("indices below {bound}"), index)),
    }
}

/// A column of numbers that a test accepts, or the default for all.
///
/// # Errors
/// `ValueError` if there are not `len` of them or one is refused; `expected` says in words what is accepted.
pub fn numbers(
    name: &str,
    given: &Given<'_>,
    len: usize,
    default: f64,
    (expected, accepts): (&str, fn(f64) -> bool),
) -> PyResult<Vec<f64>> {
    let Some(value) = given else { return Ok(vec![default; len]) };
    let column = floats(name, value)?;
    check_len(name, column.len(), len)?;
    match column.iter().find(|&&number| !accepts(number)) {
        None => Ok(column),
        Some(number) => Err(value_error(name, expected, number)),
    }
}

/// What [`numbers`] accepts as a temperature or any other amount.
pub const AMOUNT: (&str, fn(f64) -> bool) = ("a finite number >= 0", |x| x.is_finite() && x >= 0.0);
/// What it accepts as a temperature by which logits are divided.
pub const POSITIVE: (&str, fn(f64) -> bool) = ("a finite number > 0", |x| x.is_finite() && x > 0.0);
/// What it accepts as a probability.
pub const PROBABILITY: (&str, fn(f64) -> bool) = ("a number in 0..=1", |x| (0.0..=1.0).contains(&x));
/// What it accepts as a probability that may be unknown.
pub const PROBABILITY_OR_NAN: (&str, fn(f64) -> bool) =
    ("a number in 0..=1, or nan where it is unknown", |x| x.is_nan() || (0.0..=1.0).contains(&x));
/// What it accepts as seconds.
pub const SECONDS: (&str, fn(f64) -> bool) = ("seconds in 0..=1e9", |x| (0.0..=SECONDS_MAX).contains(&x));
/// What it accepts as seconds that may be missing.
pub const SECONDS_OR_NAN: (&str, fn(f64) -> bool) =
    ("seconds in 0..=1e9, or nan for none", |x| x.is_nan() || (0.0..=SECONDS_MAX).contains(&x));

/// One time, in seconds.
///
/// # Errors
/// `ValueError` outside `0..=1e9`.
pub fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    match (SECONDS.1)(seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(value_error(name, SECONDS.0, seconds)),
    }
}

/// A list, or an array of any numeric type and one dimension, of whole numbers.
fn integers(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    if let Some(column) = typed::<i64>(value) {
        return Ok(column);
    }
    if value.is_instance_of::<PyList>() {
        return value.extract().map_err(|_| wrong_type(name, "whole numbers", value));
    }
    let array = as_array(name, value)?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    if kind != "i" && kind != "u" {
        return Err(wrong_type(name, "whole numbers", value));
    }
    let wide = array.call_method1("astype", ("int64",))?;
    typed(&wide).ok_or_else(|| wrong_type(name, "one dimension of whole numbers", value))
}

/// A list, or an array of any numeric type and one dimension.
fn floats(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    if let Some(column) = typed::<f64>(value) {
        return Ok(column);
    }
    if value.is_instance_of::<PyList>() {
        return value.extract().map_err(|_| wrong_type(name, "numbers", value));
    }
    let array = as_array(name, value)?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    if !["i", "u", "f"].contains(&kind.as_str()) {
        return Err(wrong_type(name, "numbers", value));
    }
    let wide = array.call_method1("astype", ("float64",))?;
    typed(&wide).ok_or_else(|| wrong_type(name, "one dimension of numbers", value))
}

fn typed<T: Element + Copy>(value: &Bound<'_, PyAny>) -> Option<Vec<T>> {
    let array = value.cast::<PyArray1<T>>().ok()?;
    Some(array.readonly().as_array().to_vec())
}

fn as_array<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match value.cast::<numpy::PyUntypedArray>() {
        Ok(array) if array.ndim() == 1 => Ok(array.clone().into_any()),
        Ok(array) => Err(value_error(name, "one dimension", format_args!("{}", array.ndim()))),
        Err(_) => Err(wrong_type(name, "numbers", value)),
    }
}

/// The number as the narrower type.
fn within<T: TryFrom<i64>>(name: &str, number: i64, expected: &str) -> PyResult<T> {
    T::try_from(number).map_err(|_| value_error(name, expected, number))
}

/// # Errors
/// `ValueError` if a column is not as long as there are sequences or positions.
pub fn check_len(name: &str, got: usize, expected: usize) -> PyResult<()> {
    match got == expected {
        true => Ok(()),
        false => Err(value_error(name, &format!("{expected} entries"), got)),
    }
}

/// `ValueError`: a field, what would have been right, and what came.
pub fn value_error(name: &str, expected: &str, got: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{name}: expected {expected}, got {got}"))
}

fn wrong_type(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let got = value.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string());
    let dtype = value.getattr("dtype").map_or_else(|_| String::new(), |dtype| format!(" of {dtype}"));
    PyTypeError::new_err(format!("{name}: expected an array or list of {expected}, got {got}{dtype}"))
}

/// Positions of several chains together, few enough to be meant.
///
/// # Errors
/// `ValueError` above 2^24; a step has some thousands.
pub fn total_len(lens: &[u32]) -> PyResult<usize> {
    const POSITIONS_MAX: u64 = 1 << 24;
    let total: u64 = lens.iter().map(|&len| u64::from(len)).sum();
    match total <= POSITIONS_MAX {
        true => Ok(total as usize),
        false => Err(value_error("positions of all sequences", "at most 16777216", total)),
    }
}
