//! One verdict: from the target's logits around a proposal to the tokens that are emitted.

use dsde_engine::{TargetDraw, Verification};
use dsde_policy::PositionSignals;
use dsde_sampling::{
    Adjustment, Divergence, Evidence, Rows, Rule, Scratch, TokenLogprobs, Verdict, adjust, mask, softmax,
    verify,
};

use dsde_kernels::cpu::Kernel;

use super::drafted::{Basis, DraftedRows};
use super::path::Path;
use super::row_pool::RowPool;

/// Judges one proposal.
pub(super) struct Judge<'a> {
    /// What is asked for.
    pub(super) draw: &'a TargetDraw<'a>,
    /// For sampled chains.
    pub(super) rule: Rule,
    /// `[1 + proposal.len(), vocab_len]`, raw logits of the target; changed.
    pub(super) rows: &'a mut [f32],
    /// What the proposal was drawn from, if the draft model made it.
    pub(super) kept: Option<&'a DraftedRows>,
    /// Memory of rows.
    pub(super) pool: &'a RowPool,
    /// Memory.
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Judge<'_> {
    type Output = Verification;

    #[inline(always)]
    fn run(self) -> Verification {
        let Self { draw, rule, rows, kept, pool, scratch } = self;
        let TargetDraw { params, proposal, .. } = *draw;
        let vocab_len = rows.len() / (1 + proposal.len() as usize);
        let copies = |_| rows.chunks_exact(vocab_len).map(|row| pool.copy_of(row)).collect::<Vec<_>>();
        let raw = params.logprobs.map(copies);
        adjust_rows(draw, rows, vocab_len, scratch);
        let mut signals = Vec::new();
        let basis = Basis::of(params);
        let compared = kept.filter(|_| draw.signals.divergence);
        if let (Basis::Logits { .. }, Some(kept)) = (basis, compared) {
            signals = compare(draw, basis, Rows::new(rows, vocab_len), kept.logits(vocab_len));
        }
        if !params.is_greedy() {
            for row in rows.chunks_exact_mut(vocab_len) {
                softmax(row, params, scratch);
            }
        }
        let target = Rows::new(rows, vocab_len);
        let draft = kept.and_then(|kept| kept.probabilities(vocab_len));
        if compared.is_some() && !params.is_greedy() {
            let processed = compare(draw, Basis::Probabilities, target, draft);
            signals = match basis {
                Basis::Probabilities => processed,
                Basis::Logits { .. } => with_rejection_of(signals, &processed),
            };
        }
        // The nodes of a tree were chosen, not drawn.
        let draft = draft.filter(|_| draw.drafted_as.is_none());
        let verdict = verify(params, rule, &Evidence { proposal, target, draft }, &mut draw.draws());
        let logprobs = match raw {
            Some(raw) => {
                let logprobs = logprobs(draw, &verdict, Rows::apart(&raw, vocab_len));
                pool.give_back(raw.into_iter());
                logprobs
            }
            None => Vec::new(),
        };
        Verification { verdict, pruned: 0, signals, logprobs }
    }
}

/// Applies penalties, biases, bans and the form of the answer to every row, as after the path that leads to it.
#[inline(always)]
fn adjust_rows(draw: &TargetDraw<'_>, rows: &mut [f32], vocab_len: usize, scratch: &mut Scratch) {
    let TargetDraw { params, history, prompt_len, proposal, banned, .. } = *draw;
    for (row_idx, row) in rows.chunks_exact_mut(vocab_len).enumerate() {
        let path = Path::to_row(proposal, row_idx);
        adjust(row, &Adjustment { params, history, prompt_len, drafted: &path, banned }, scratch);
        if let Some(allowed) = proposal.mask(row_idx) {
            mask(row, allowed);
        }
    }
}

/// Compares what target and draft said where each node was drawn, `[proposal.len()]`.
#[inline(always)]
fn compare(
    draw: &TargetDraw<'_>,
    basis: Basis,
    target: Rows<'_>,
    draft: Option<Rows<'_>>,
) -> Vec<PositionSignals> {
    let draft = draft.expect("the draft pass was asked for the same signals and kept its rows");
    let mut signals = Vec::with_capacity(draw.proposal.len() as usize);
    for &parent in draw.proposal.parents() {
        let (p, q) = (target.row(draw.target_row(parent)), draft.row(draw.draft_row(parent)));
        let Divergence { kld, tv, draft_entropy, target_entropy } = match basis {
            Basis::Logits { temperature } => Divergence::of_logits(p, q, temperature),
            Basis::Probabilities => Divergence::of_probabilities(p, q),
        };
        let rejection = draw.params.rejection(tv);
        signals.push(PositionSignals { kld, rejection, draft_entropy, target_entropy });
    }
    signals
}

/// Replaces the probability of a rejection by that of the processed distributions, which is the true one.
fn with_rejection_of(
    mut signals: Vec<PositionSignals>,
    processed: &[PositionSignals],
) -> Vec<PositionSignals> {
    for (signal, processed) in signals.iter_mut().zip(processed) {
        signal.rejection = processed.rejection;
    }
    signals
}

/// Log-probabilities of the emitted tokens from the target's raw logits.
#[inline(always)]
fn logprobs(draw: &TargetDraw<'_>, verdict: &Verdict, raw: Rows<'_>) -> Vec<TokenLogprobs> {
    let top_len = draw.params.logprobs.unwrap_or(0);
    let mut logprobs = Vec::with_capacity(verdict.path.len() + 1);
    let mut row_idx = 0;
    for &node in &verdict.path {
        let token = draw.proposal.tokens()[node as usize];
        logprobs.push(TokenLogprobs::of_logits(raw.row(row_idx), token, top_len));
        row_idx = 1 + node as usize;
    }
    logprobs.push(TokenLogprobs::of_logits(raw.row(row_idx), verdict.next, top_len));
    logprobs
}
