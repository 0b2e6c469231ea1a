//! What a pass has to do, in the numbers that a cost model asks about.

use dsde_engine::RowBatch;

/// Sizes of one pass of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pass {
    /// Sequences.
    pub seqs: f64,
    /// Rows.
    pub rows: f64,
    /// Rows after which a token is drawn or judged.
    pub logit_rows: f64,
    /// Rows of prompts among [`Pass::rows`], the last one of each excepted.
    pub prompt_rows: f64,
    /// Drafted tokens that are judged.
    pub verified: f64,
    /// Those of which the policy asks how far draft and target are apart.
    pub compared: f64,
    /// Positions whose keys and values are read, once per sequence: in layers that see everything, and in those with a window.
    pub positions: [f64; 2],
    /// Positions that each row sees, summed over rows; likewise.
    pub seen: [f64; 2],
}

impl Pass {
    /// Of a batch.
    ///
    /// * `drawn_rows`: rows that draws ask about, together.
    /// * `verified`: drafted tokens among them.
    /// * `window`: positions that a layer with a window sees.
    pub fn of(batch: &RowBatch, drawn_rows: u32, verified: u32, window: Option<u64>) -> Self {
        let window = window.map_or(f64::INFINITY, |window| window as f64);
        let mut pass = Self {
            seqs: batch.n_seqs() as f64,
            rows: batch.n_rows() as f64,
            logit_rows: f64::from(drawn_rows),
            prompt_rows: (batch.n_rows() as f64 - f64::from(drawn_rows)).max(0.0),
            verified: f64::from(verified),
            ..Self::default()
        };
        for seq_idx in 0..batch.n_seqs() {
            let rows = batch.rows_of(seq_idx);
            let n_rows = rows.len() as f64;
            let Some(last) = rows.last() else { continue };
            let extent = f64::from(batch.extent(last));
            pass.positions[0] += extent;
            pass.positions[1] += extent.min(window + n_rows);
            // A chunk's rows see one position more each.
            let mean = extent - (n_rows - 1.0) / 2.0;
            pass.seen[0] += n_rows * mean;
            pass.seen[1] += n_rows * mean.min(window);
        }
        pass
    }
}
