//! One draft pass: keys and values of its rows, and a token or a level of a tree for everyone who draws.

use dsde_engine::{DraftDraw, Drafted, RowBatch};
use dsde_policy::DraftPosition;

use dsde_kernels::Backend;

use super::draft::Reader;
use super::drafted::Keeper;
use super::draw::Draw;
use super::outputs::OutputPlan;
use super::parallel::Workers;
use crate::head::Drawing;

/// What draft passes work with.
pub(super) struct Drafting<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) draft: Reader<'a, B>,
    pub(super) workers: &'a Workers,
    /// Memory.
    pub(super) plan: &'a mut OutputPlan,
}

impl<B: Backend> Drafting<'_, B> {
    /// Runs the draft over `rows` and drafts what `draws` ask for.
    ///
    /// * `kept`: one per draw.
    pub(super) fn pass(
        &mut self,
        rows: &RowBatch,
        draws: &[DraftDraw<'_>],
        kept: &mut [Keeper<'_>],
        drafted: &mut Vec<Drafted>,
    ) {
        let Self { backend, draft, workers, plan } = self;
        let groups = plan.of(rows, draws.iter().map(|draw| (draw.seq_idx, draw.n_rows())));
        draft.forward(backend, Drawing { rows, outputs: &plan.outputs, draws });
        let n_drafted = draws.iter().map(DraftDraw::n_drafted).sum();
        drafted.clear();
        drafted.resize(n_drafted, Drafted { token: 0, position: DraftPosition::default() });
        let mut results = &mut drafted[..];
        let (isa, vocab_len) = (backend.isa(), draft.vocab_len());
        for group in groups {
            let mut logits = draft.logits(backend, group.rows);
            let n_logits = logits.len();
            let kept = kept[group.draws.clone()].iter_mut();
            let jobs = draws[group.draws].iter().zip(kept).map(|(draw, kept)| {
                let len = draw.n_rows() as usize * vocab_len;
                let rows = logits.split_off_mut(..len).expect("a group has the rows of its draws");
                let drafted = results.split_off_mut(..draw.n_drafted()).expect("as many were made above");
                (draw, rows, kept, drafted)
            });
            workers.run(*backend, n_logits, jobs, |(draw, rows, kept, drafted), scratch| {
                isa.run(Draw { draw, rows, kept, drafted, scratch });
            });
        }
    }
}
