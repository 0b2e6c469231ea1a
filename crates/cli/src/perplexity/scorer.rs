//! A model that reads windows of text and tells how well it predicted them.

use std::ops::Range;
use std::sync::OnceLock;

use dsde_checkpoint::Checkpoint;
use dsde_engine::{BlockId, RowBatch, StateSlot, StateUse};
use dsde_kernels::Backend;
use dsde_model::Llama;
use dsde_model::llama::kv_shape;
use dsde_sampling::Proposal;

use super::score::{Score, nll};

/// Rows whose logits exist at once.
const LOGIT_ROWS_MAX: usize = 128;

/// A loaded model and what it keeps of the windows that it reads at once.
pub(super) struct Scorer<B: Backend> {
    backend: B,
    model: Llama<B>,
    kv: B::KvStore,
    rows: RowBatch,
    tables: Vec<Vec<BlockId>>,
    window_len: usize,
    rows_max: usize,
}

impl<B: Backend> Scorer<B> {
    /// * `rows_max`: of a pass; short windows share one, long ones are read in parts.
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub(super) fn load(
        backend: B,
        checkpoint: &Checkpoint,
        window_len: u32,
        rows_max: usize,
    ) -> Result<Self, dsde_model::Error> {
        let n_windows = (rows_max / window_len as usize).max(1) as u32;
        let model = Llama::load(&backend, checkpoint, window_len)?.with_states(&backend, n_windows as usize);
        let n_blocks = window_len.div_ceil(backend.block_len() as u32);
        let table = |i| (i * n_blocks..(i + 1) * n_blocks).map(BlockId).collect();
        let kv = backend.kv_store(&kv_shape(model.config(), (n_windows * n_blocks) as usize));
        Ok(Self {
            backend,
            model,
            kv,
            rows: RowBatch::default(),
            tables: (0..n_windows).map(table).collect(),
            window_len: window_len as usize,
            rows_max,
        })
    }

    /// Tokens of the windows that are read at once.
    pub(super) fn n_tokens(&self) -> usize {
        self.tables.len() * self.window_len
    }

    /// Kernels and threads.
    pub(super) fn describe(&self) -> String {
        self.backend.describe()
    }

    /// Reads some windows and adds what they score.
    ///
    /// * `windows`: one after the other, at most [`Scorer::n_tokens`] tokens.
    pub(super) fn read(&mut self, windows: &[u32], score: &mut Score) {
        for start in (0..self.window_len).step_by(self.rows_max) {
            let part = start..self.window_len.min(start + self.rows_max);
            self.pass(windows, part, score);
        }
    }

    /// Reads a part of every window.
    fn pass(&mut self, windows: &[u32], part: Range<usize>, score: &mut Score) {
        let scored = scored(self.window_len);
        let scored = scored.start.max(part.start)..scored.end.min(part.end);
        let (mut outputs, mut targets) = (Vec::new(), Vec::new());
        self.rows.clear();
        let windows = windows.chunks_exact(self.window_len).zip(&self.tables);
        for (slot, (window, table)) in (0..).map(StateSlot).zip(windows) {
            let n_rows_before = self.rows.n_rows();
            self.rows.push(part.start as u32, &window[part.clone()], &Proposal::new(), table);
            let n_known = part.len() as u32;
            self.rows.states.push(StateUse { slot, n_known, from: None, to: None });
            for position in scored.clone() {
                outputs.push((n_rows_before + position - part.start) as u32);
                targets.push(window[position + 1]);
            }
        }
        self.model.forward(&self.backend, &self.rows, &outputs, &mut self.kv);
        let vocab_len = self.model.config().vocab_len;
        let mut start = 0;
        for targets in targets.chunks(LOGIT_ROWS_MAX) {
            let logits = &*self.model.logits(&self.backend, start..start + targets.len());
            let nlls: Vec<OnceLock<f64>> = targets.iter().map(|_| OnceLock::new()).collect();
            self.backend.for_each(targets.len(), &|i| {
                nlls[i].get_or_init(|| nll(&logits[i * vocab_len..][..vocab_len], targets[i]));
            });
            nlls.into_iter().filter_map(OnceLock::into_inner).for_each(|nll| score.add(nll));
            start += targets.len();
        }
    }
}

/// Positions of a window whose successors are scored: those of the second half that have one in the window.
fn scored(window_len: usize) -> Range<usize> {
    window_len / 2..window_len - 1
}

#[cfg(test)]
mod tests {
    use dsde_checkpoint::embedded;
    use dsde_kernels::{Cpu, Reference};

    use super::*;

    const WINDOW_LEN: u32 = 8;
    /// Three windows.
    const TOKENS: [u32; 24] =
        [5, 80, 300, 41, 7, 7, 950, 12, 1, 66, 67, 2000, 31, 5, 80, 300, 9, 9, 9, 9, 17, 410, 3, 8];

    fn score<B: Backend>(backend: B, rows_max: usize) -> Score {
        score_of(&embedded::draft(), &TOKENS, backend, rows_max)
    }

    fn score_of<B: Backend>(model: &Checkpoint, tokens: &[u32], backend: B, rows_max: usize) -> Score {
        let mut scorer = Scorer::load(backend, model, WINDOW_LEN, rows_max).unwrap();
        let mut score = Score::default();
        let n_tokens = scorer.n_tokens();
        tokens.chunks(n_tokens).for_each(|windows| scorer.read(windows, &mut score));
        score
    }

    /// Every prefix on its own, in plain arithmetic.
    #[test]
    fn the_second_half_of_every_window_is_scored() {
        let mut model = Llama::load(&Reference, &embedded::draft(), WINDOW_LEN).unwrap();
        let table = [BlockId(0)];
        let mut nlls = Vec::new();
        for window in TOKENS.chunks_exact(8) {
            for predicted in 5..8 {
                let mut kv = Reference.kv_store(&kv_shape(model.config(), 1));
                let mut rows = RowBatch::default();
                rows.push(0, &window[..predicted], &Proposal::new(), &table);
                model.forward(&Reference, &rows, &[predicted as u32 - 1], &mut kv);
                let logits: Vec<f64> =
                    model.logits(&Reference, 0..1).iter().copied().map(f64::from).collect();
                let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
                nlls.push(sum.ln() - logits[window[predicted] as usize]);
            }
        }
        let got = score(Reference, 64);
        let mean = nlls.iter().sum::<f64>() / 9.0;
        assert_eq!((got.n_tokens(), nlls.len()), (9, 9));
        assert!((got.nll() - mean).abs() < 1e-5, "{} {mean}", got.nll());
    }

    #[test]
    fn a_score_does_not_depend_on_how_windows_are_read() {
        for rows_max in [1, 3, 8, 16] {
            assert_eq!(score(Reference, rows_max), score(Reference, 64), "{rows_max} rows");
            assert_eq!(score(Cpu::new(2), rows_max), score(Cpu::new(1), 64), "{rows_max} rows");
        }
    }

    #[test]
    fn states_go_through_windows_whatever_their_parts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen3_5");
        let (model, tokens) = (Checkpoint::open(folder.as_ref()).unwrap(), TOKENS.map(|token| token % 48));
        let whole = score_of(&model, &tokens, Reference, 64);
        for rows_max in [1, 3, 8] {
            assert_eq!(score_of(&model, &tokens, Reference, rows_max), whole, "{rows_max} rows");
        }
    }
}
