//! What a policy sees before anything is drafted.

use std::time::Duration;

use dsde_policy::{DraftPosition, PlanView, SeqId, SequenceView};
use pyo3::prelude::*;

use crate::columns::{self, AMOUNT, Given, PROBABILITY, SECONDS, SECONDS_OR_NAN, counts, numbers};

/// The attributes of the Python dataclass `Batch`, unchecked.
#[derive(FromPyObject)]
pub struct Columns<'py> {
    seqs: Bound<'py, PyAny>,
    limits: Given<'py>,
    remaining: Given<'py>,
    context_lens: Given<'py>,
    draft_lags: Given<'py>,
    temperatures: Given<'py>,
    emitted: Given<'py>,
    decode_times: Given<'py>,
    tpots_max: Given<'py>,
    priorities: Given<'py>,
    foreseen_lens: Given<'py>,
    foreseen_entropies: Given<'py>,
    foreseen_top_probs: Given<'py>,
    can_choose: Option<Vec<bool>>,
    prefill_rows: u32,
    n_waiting: u32,
    blocks_free: u32,
    blocks_total: u32,
    block_len: u32,
    now: f64,
}

/// A checked `Batch`.
pub struct Batch {
    pub sequences: Vec<SequenceView>,
    foreseen: Vec<DraftPosition>,
    prefill_rows: u32,
    n_waiting: u32,
    blocks_free: u32,
    blocks_total: u32,
    block_len: u32,
    now: Duration,
}

impl Batch {
    /// Checks every column.
    ///
    /// # Errors
    /// `ValueError` or `TypeError` with the name of the column, what was expected and what came.
    pub fn new(columns: &Columns<'_>) -> PyResult<Self> {
        let seqs = columns::seqs("seqs", &columns.seqs)?;
        let n = seqs.len();
        let limits = counts("limits", &columns.limits, n, |_| 0)?;
        let remaining = counts("remaining", &columns.remaining, n, |i| limits[i].saturating_add(1))?;
        if remaining.contains(&0) {
            return Err(columns::value_error("remaining", "at least 1", 0));
        }
        let context_lens = counts("context_lens", &columns.context_lens, n, |_| 0)?;
        let draft_lags = counts("draft_lags", &columns.draft_lags, n, |_| 1)?;
        if draft_lags.contains(&0) {
            return Err(columns::value_error("draft_lags", "at least 1", 0));
        }
        let temperatures = numbers("temperatures", &columns.temperatures, n, 0.0, AMOUNT)?;
        let emitted = counts("emitted", &columns.emitted, n, |_| 0)?;
        let decode_times = numbers("decode_times", &columns.decode_times, n, 0.0, SECONDS)?;
        let tpots_max = numbers("tpots_max", &columns.tpots_max, n, f64::NAN, SECONDS_OR_NAN)?;
        let priorities = columns::signed("priorities", &columns.priorities, n)?;
        let can_choose = columns.can_choose.clone().unwrap_or_else(|| vec![false; n]);
        columns::check_len("can_choose", can_choose.len(), n)?;
        let foreseen_lens = counts("foreseen_lens", &columns.foreseen_lens, n, |_| 0)?;
        let foreseen = foreseen(columns, &foreseen_lens)?;
        let mut start = 0;
        let sequences = (0..n).map(|i| {
            let range = (start, foreseen_lens[i]);
            start += foreseen_lens[i];
            SequenceView {
                seq: SeqId(seqs[i]),
                limit: limits[i],
                remaining: remaining[i],
                context_len: context_lens[i],
                draft_lag: draft_lags[i],
                temperature: temperatures[i] as f32,
                emitted: emitted[i],
                decode_time: Duration::from_secs_f64(decode_times[i]),
                tpot_max: (!tpots_max[i].is_nan()).then(|| Duration::from_secs_f64(tpots_max[i])),
                priority: priorities[i],
                foreseen: range,
                can_choose: can_choose[i],
            }
        });
        Ok(Self {
            sequences: sequences.collect(),
            foreseen,
            prefill_rows: columns.prefill_rows,
            n_waiting: columns.n_waiting,
            blocks_free: columns.blocks_free.min(columns.blocks_total),
            blocks_total: columns.blocks_total,
            block_len: columns.block_len.max(1),
            now: columns::duration("now", columns.now)?,
        })
    }

    /// The view of a step.
    pub fn view(&self, step: u64) -> PlanView<'_> {
        PlanView {
            step,
            sequences: &self.sequences,
            foreseen: &self.foreseen,
            prefill_rows: self.prefill_rows,
            n_waiting: self.n_waiting,
            blocks_free: self.blocks_free,
            blocks_total: self.blocks_total,
            block_len: self.block_len,
            now: self.now,
        }
    }
}

fn foreseen(columns: &Columns<'_>, lens: &[u32]) -> PyResult<Vec<DraftPosition>> {
    chains(
        lens,
        ("foreseen_entropies", &columns.foreseen_entropies),
        ("foreseen_top_probs", &columns.foreseen_top_probs),
    )
}

/// Drafted positions of several chains, one behind the other, out of columns that are as long as all chains together.
///
/// # Errors
/// `ValueError` if a column is not, or holds what is no entropy or probability.
pub fn chains(
    lens: &[u32],
    (entropies_name, entropies): (&str, &Given<'_>),
    (top_probs_name, top_probs): (&str, &Given<'_>),
) -> PyResult<Vec<DraftPosition>> {
    let n = columns::total_len(lens)?;
    let entropies = numbers(entropies_name, entropies, n, 0.0, AMOUNT)?;
    let top_probs = numbers(top_probs_name, top_probs, n, 1.0, PROBABILITY)?;
    let mut positions = Vec::with_capacity(n);
    for &len in lens {
        let mut path_log_prob = 0.0;
        for index in 0..len {
            let top_prob = top_probs[positions.len()] as f32;
            path_log_prob += top_prob.ln();
            let entropy = entropies[positions.len()] as f32;
            positions.push(DraftPosition { index, entropy, top_prob, path_log_prob });
        }
    }
    Ok(positions)
}
