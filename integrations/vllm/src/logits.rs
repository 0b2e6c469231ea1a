//! Arithmetic on logits, for hosts whose logits lie in main memory: one pass per row, compiled for the vector units of the machine.

use dsde_kernels::cpu::{Isa, Kernel};
use dsde_sampling::{Divergence, Shape};
use half::bf16;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use crate::columns::{self, POSITIVE, check_len, numbers, value_error};
use crate::guard::guarded;

/// Columns of numbers as NumPy has them.
type Column = Py<PyArray1<f32>>;

/// Rows of logits: f32, or bf16 as the 16-bit words that it consists of, which NumPy has no type for.
enum Rows<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    Bf16(PyReadonlyArray2<'py, u16>),
}

/// Target against draft at positions: row `target_rows[i]` of `target` at a temperature, and row `draft_rows[i]` of `draft` at another.
///
/// Returns KL(target || draft), total variation distance, entropy of the draft and of the target; nats.
#[pyfunction]
pub fn compare<'py>(
    py: Python<'py>,
    target: Bound<'py, PyAny>,
    target_rows: Bound<'py, PyAny>,
    target_temperatures: Bound<'py, PyAny>,
    draft: Bound<'py, PyAny>,
    draft_rows: Bound<'py, PyAny>,
    draft_temperatures: Bound<'py, PyAny>,
) -> PyResult<(Column, Column, Column, Column)> {
    let (target, draft) = (Rows::new("target", &target)?, Rows::new("draft", &draft)?);
    if target.width() != draft.width() {
        return Err(value_error("draft", &format!("rows of {} logits", target.width()), draft.width()));
    }
    let target_rows = columns::indices("target_rows", &target_rows, target.height())?;
    let draft_rows = columns::indices("draft_rows", &draft_rows, draft.height())?;
    let n = target_rows.len();
    check_len("draft_rows", draft_rows.len(), n)?;
    let at = |name, given| numbers(name, &Some(given), n, 1.0, POSITIVE);
    let target_temperatures = at("target_temperatures", target_temperatures)?;
    let draft_temperatures = at("draft_temperatures", draft_temperatures)?;
    let isa = Isa::detect();
    let (mut target_scratch, mut draft_scratch) = (Vec::new(), Vec::new());
    let mut found = Vec::with_capacity(n);
    for i in 0..n {
        let comparison = Compare {
            target: target.row(target_rows[i], target_temperatures[i] as f32, &mut target_scratch),
            draft: draft.row(draft_rows[i], draft_temperatures[i] as f32, &mut draft_scratch),
        };
        found.push(guarded(|| isa.run(comparison)).map_err(PyRuntimeError::new_err)?);
    }
    let column = |of: fn(&Divergence) -> f32| PyArray1::from_iter(py, found.iter().map(of)).unbind();
    Ok((column(|d| d.kld), column(|d| d.tv), column(|d| d.draft_entropy), column(|d| d.target_entropy)))
}

/// Entropy, nats, and largest probability of every row of logits at a temperature.
#[pyfunction]
pub fn shape<'py>(
    py: Python<'py>,
    logits: Bound<'py, PyAny>,
    temperatures: Bound<'py, PyAny>,
) -> PyResult<(Column, Column)> {
    let rows = Rows::new("logits", &logits)?;
    let n = rows.height();
    let temperatures = numbers("temperatures", &Some(temperatures), n, 1.0, POSITIVE)?;
    let isa = Isa::detect();
    let mut scratch = Vec::new();
    let mut found = Vec::with_capacity(n);
    for (i, &temperature) in temperatures.iter().enumerate() {
        let row = rows.row(i, temperature as f32, &mut scratch);
        found.push(guarded(|| isa.run(Measure(row))).map_err(PyRuntimeError::new_err)?);
    }
    let column = |of: fn(&Shape) -> f32| PyArray1::from_iter(py, found.iter().map(of)).unbind();
    Ok((column(|shape| shape.entropy), column(|shape| shape.top_prob)))
}

impl<'py> Rows<'py> {
    fn new(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let rows = if let Ok(array) = value.cast::<PyArray2<f32>>() {
            Self::F32(array.readonly())
        } else if let Ok(array) = value.cast::<PyArray2<u16>>() {
            Self::Bf16(array.readonly())
        } else {
            let got = value.get_type().name()?;
            let dtype = value.getattr("dtype").map_or_else(|_| String::new(), |dtype| format!(" of {dtype}"));
            return Err(PyTypeError::new_err(format!(
                "{name}: expected an array [n_rows, vocab] of float32, or of uint16 that are bf16, got {got}{dtype}"
            )));
        };
        match rows.width() {
            0 => Err(value_error(name, "at least one logit per row", 0)),
            _ => Ok(rows),
        }
    }

    fn height(&self) -> usize {
        self.dims()[0]
    }

    fn width(&self) -> usize {
        self.dims()[1]
    }

    fn dims(&self) -> [usize; 2] {
        match self {
            Self::F32(array) => array.as_array().dim().into(),
            Self::Bf16(array) => array.as_array().dim().into(),
        }
    }

    /// A row divided by a temperature: where it lies if that is 1, else in `scratch`.
    fn row<'a>(&'a self, row_idx: usize, temperature: f32, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if let Self::F32(array) = self
            && temperature == 1.0
            && let Ok(rows) = array.as_slice()
        {
            return &rows[row_idx * self.width()..][..self.width()];
        }
        let inverse = temperature.recip();
        scratch.clear();
        match self {
            Self::F32(array) => {
                scratch.extend(array.as_array().row(row_idx).iter().map(|&logit| logit * inverse))
            }
            Self::Bf16(array) => {
                let logit = |&bits: &u16| bf16::from_bits(bits).to_f32() * inverse;
                scratch.extend(array.as_array().row(row_idx).iter().map(logit));
            }
        }
        scratch
    }
}

struct Compare<'a> {
    target: &'a [f32],
    draft: &'a [f32],
}

impl Kernel for Compare<'_> {
    type Output = Divergence;

    #[inline(always)]
    fn run(self) -> Divergence {
        Divergence::of_logits(self.target, self.draft, 1.0)
    }
}

struct Measure<'a>(&'a [f32]);

impl Kernel for Measure<'_> {
    type Output = Shape;

    #[inline(always)]
    fn run(self) -> Shape {
        Shape::of_logits(self.0, 1.0)
    }
}
