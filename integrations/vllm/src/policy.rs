//! The Python class `Policy`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dsde_policy::registry::ENTRIES;
use dsde_policy::{Config, DraftPosition, Planned, SeqId};
use numpy::PyArray1;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::batch::{self, Batch, chains};
use crate::columns::{Given, counts, value_error};
use crate::feedback::{self, Feedback};
use crate::guard::guarded;

/// Chooses speculation lengths; `_dsde.pyi` documents it for Python.
#[pyclass(frozen, module = "dsde")]
pub struct Policy {
    name: String,
    state: Mutex<State>,
}

struct State {
    inner: Box<dyn dsde_policy::Policy>,
    /// Steps that were planned.
    step: u64,
    /// What a panic said; nothing is asked of the policy any more.
    failure: Option<String>,
}

/// One length per sequence of a batch.
#[pyclass(frozen, get_all, module = "dsde")]
pub struct Plan {
    lens: Py<PyArray1<u32>>,
    widths: Py<PyArray1<u32>>,
    is_settled: Py<PyArray1<bool>>,
    reasons: Vec<&'static str>,
}

/// Name, summary and source of every policy.
#[pyfunction]
pub fn policies() -> Vec<(&'static str, &'static str, &'static str)> {
    ENTRIES.iter().map(|entry| (entry.name, entry.summary, entry.source)).collect()
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (specification = "dsde"))]
    fn new(specification: &str) -> PyResult<Self> {
        let config: Config = specification
            .parse()
            .map_err(|error: dsde_policy::Error| PyValueError::new_err(error.to_string()))?;
        let state = State { inner: config.build(), step: 0, failure: None };
        Ok(Self { name: config.to_string(), state: Mutex::new(state) })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    fn __repr__(&self) -> String {
        format!("Policy('{}')", self.name)
    }

    #[getter]
    fn reads_divergence(&self) -> PyResult<bool> {
        self.ask(|state| state.inner.signals().divergence)
    }

    #[getter]
    fn reads_draft_shape(&self) -> PyResult<bool> {
        self.ask(|state| state.inner.signals().draft_shape)
    }

    fn plan(&self, py: Python<'_>, batch: batch::Columns<'_>) -> PyResult<Plan> {
        let batch = Batch::new(&batch)?;
        let mut plan = vec![Planned::none(); batch.sequences.len()];
        self.ask(|state| {
            state.step += 1;
            state.inner.plan(&batch.view(state.step), &mut plan);
        })?;
        let lens = plan.iter().zip(&batch.sequences).map(|(planned, view)| planned.len.min(view.limit));
        Ok(Plan {
            lens: PyArray1::from_iter(py, lens).unbind(),
            widths: PyArray1::from_iter(py, plan.iter().map(|planned| planned.width)).unbind(),
            is_settled: PyArray1::from_iter(py, plan.iter().map(|planned| planned.is_settled)).unbind(),
            reasons: plan.iter().map(|planned| planned.reason).collect(),
        })
    }

    fn keep_drafting(
        &self,
        seq: u64,
        index: u32,
        entropy: f32,
        top_prob: f32,
        path_log_prob: f32,
    ) -> PyResult<bool> {
        let is_probability = (0.0..=1.0).contains(&top_prob);
        if !(is_probability && entropy >= 0.0 && entropy.is_finite())
            || path_log_prob > 0.0
            || path_log_prob.is_nan()
        {
            let got = format!("{entropy}, {top_prob} and {path_log_prob}");
            let expected = "an entropy >= 0, a probability in 0..=1 and a log probability <= 0";
            return Err(value_error("position", expected, got));
        }
        let position = DraftPosition { index, entropy, top_prob, path_log_prob };
        self.ask(|state| state.inner.keep_drafting(SeqId(seq), &position))
    }

    fn takes_foreseen(&self, seq: u64) -> PyResult<bool> {
        self.ask(|state| state.inner.takes_foreseen(SeqId(seq)))
    }

    #[pyo3(signature = (batch, drafted, entropies = None, top_probs = None))]
    fn trim<'py>(
        &self,
        py: Python<'py>,
        batch: batch::Columns<'_>,
        drafted: Bound<'py, PyAny>,
        entropies: Given<'py>,
        top_probs: Given<'py>,
    ) -> PyResult<Py<PyArray1<u32>>> {
        let batch = Batch::new(&batch)?;
        let lens = counts("drafted", &Some(drafted), batch.sequences.len(), |_| 0)?;
        let positions = chains(&lens, ("entropies", &entropies), ("top_probs", &top_probs))?;
        let mut rest = &positions[..];
        let split = |&len: &u32| {
            let (own, others) = rest.split_at(len as usize);
            rest = others;
            own
        };
        let drafted: Vec<&[DraftPosition]> = lens.iter().map(split).collect();
        let mut verify_lens = lens.clone();
        self.ask(|state| state.inner.trim(&batch.view(state.step), &drafted, &mut verify_lens))?;
        let shorter = verify_lens.iter().zip(&lens).map(|(&verified, &drafted)| verified.min(drafted));
        Ok(PyArray1::from_iter(py, shorter).unbind())
    }

    fn observe(&self, feedback: feedback::Columns<'_>) -> PyResult<()> {
        let feedback = Feedback::new(&feedback)?;
        self.ask(|state| feedback.show(state.step, |feedback| state.inner.observe(feedback)))
    }

    fn learn_costs(&self, feedback: feedback::Columns<'_>) -> PyResult<()> {
        let feedback = Feedback::new(&feedback)?;
        self.ask(|state| feedback.show(state.step, |feedback| state.inner.learn_costs(feedback)))
    }

    fn explain(&self, seq: u64) -> PyResult<BTreeMap<&'static str, f64>> {
        let mut numbers = Vec::new();
        self.ask(|state| state.inner.explain(SeqId(seq), &mut numbers))?;
        Ok(numbers.into_iter().collect())
    }

    fn forget(&self, seq: u64) -> PyResult<()> {
        self.ask(|state| state.inner.forget(SeqId(seq)))
    }
}

impl Policy {
    /// Asks the policy, unless it has failed before.
    ///
    /// # Errors
    /// `RuntimeError` if it has, or does so now.
    fn ask<T>(&self, question: impl FnOnce(&mut State) -> T) -> PyResult<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_none() {
            match guarded(|| question(&mut state)) {
                Ok(answer) => return Ok(answer),
                Err(message) => state.failure = Some(message),
            }
        }
        let message = state.failure.as_deref().unwrap_or_default();
        Err(PyRuntimeError::new_err(format!(
            "policy {} has failed and answers no more: {message}",
            self.name
        )))
    }
}
