//! Models, block tables and a minimal decoding loop for the tests beside this file.

use std::path::PathBuf;

use dsde_checkpoint::Checkpoint;
use dsde_engine::{BlockId, DraftDraw, Drafted, Executor, RowBatch, SeqId, TargetDraw, Verification};
use dsde_kernels::Backend;
use dsde_model::embedded;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_policy::Signals;
use dsde_sampling::{Params, Proposal, Rule, Stream, Verdict};

/// A folder of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

pub(crate) fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

/// `n` blocks from `first` on.
pub(crate) fn blocks(first: u32, n: u32) -> Vec<BlockId> {
    (first..first + n).map(BlockId).collect()
}

/// The embedded pair.
pub(crate) fn embedded_pair<B: Backend>(backend: B, rule: Rule, n_blocks: u32) -> ModelExecutor<B> {
    let (target, draft) = (embedded::target(), embedded::draft());
    let config = Config { rule, kv: KvSize::Blocks(n_blocks), ..Config::default() };
    ModelExecutor::new(
        backend,
        Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) },
        config,
    )
    .unwrap()
}

/// Two random models over the same 128 tokens.
pub(crate) fn tiny_pair<B: Backend>(backend: B, rule: Rule, n_blocks: u32) -> ModelExecutor<B> {
    let (target, draft) = (open("llama3"), open("qwen2"));
    let config = Config { rule, kv: KvSize::Blocks(n_blocks), ..Config::default() };
    ModelExecutor::new(
        backend,
        Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) },
        config,
    )
    .unwrap()
}

/// One sequence that decodes by itself.
pub(crate) struct Decoder<'a> {
    pub(crate) seq: SeqId,
    pub(crate) params: &'a Params,
    pub(crate) table: Vec<BlockId>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: u32,
    pub(crate) target_len: u32,
    pub(crate) draft_len: u32,
    pub(crate) signals: Signals,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(params: &'a Params, prompt: &[u32], table: Vec<BlockId>) -> Self {
        Self {
            seq: SeqId(u64::from(table[0].0)),
            params,
            table,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len() as u32,
            target_len: 0,
            draft_len: 0,
            signals: Signals::default(),
        }
    }

    /// Drafts `len` tokens; the draft reads what it has not read.
    pub(crate) fn draft(&mut self, executor: &mut impl Executor, len: u32) -> (Proposal, Vec<Drafted>) {
        self.draft_with(executor, len, 0)
    }

    /// The same, keeping rivals of every token.
    pub(crate) fn draft_with(
        &mut self,
        executor: &mut impl Executor,
        len: u32,
        n_rivals: u32,
    ) -> (Proposal, Vec<Drafted>) {
        let (mut proposal, mut positions) = (Proposal::new(), Vec::new());
        let (mut rows, mut drafted) = (RowBatch::default(), Vec::new());
        for j in 0..len {
            rows.clear();
            let known = match proposal.tokens().last() {
                None => self.tokens[self.draft_len as usize..].to_vec(),
                Some(&token) => vec![token],
            };
            rows.push(self.draft_len, &known, &Proposal::new(), &self.table);
            let draw = DraftDraw { n_rivals, ..self.draft_draw(&proposal) };
            executor.draft(&rows, &[draw], &mut drafted).unwrap();
            self.draft_len = self.tokens.len() as u32 + j;
            proposal.push_chain(drafted[0].token);
            positions.push(drafted[0]);
        }
        (proposal, positions)
    }

    /// Verifies a proposal, appends what is emitted and returns the verification.
    pub(crate) fn verify(
        &mut self,
        executor: &mut impl Executor,
        proposal: &Proposal,
        is_model_drafted: bool,
    ) -> Verification {
        self.verify_with(executor, proposal, |draw| TargetDraw { is_model_drafted, ..draw })
    }

    /// The same, with a draw that asks for something else too.
    pub(crate) fn verify_with(
        &mut self,
        executor: &mut impl Executor,
        proposal: &Proposal,
        ask: impl FnOnce(TargetDraw<'_>) -> TargetDraw<'_>,
    ) -> Verification {
        let (mut rows, mut verifications) = (RowBatch::default(), Vec::new());
        rows.clear();
        rows.push(self.target_len, &self.tokens[self.target_len as usize..], proposal, &self.table);
        let draw = ask(self.target_draw(proposal, true));
        executor.verify(&rows, &[draw], &mut verifications).unwrap();
        let verification = verifications.remove(0);
        self.commit(proposal, &verification.verdict);
        verification
    }

    /// Appends what is emitted.
    pub(crate) fn commit(&mut self, proposal: &Proposal, verdict: &Verdict) {
        self.target_len = self.tokens.len() as u32 + verdict.accepted();
        self.draft_len = self.draft_len.min(self.target_len);
        self.tokens.extend(verdict.emitted(proposal));
    }

    pub(crate) fn draft_draw<'b>(&'b self, proposal: &'b Proposal) -> DraftDraw<'b> {
        DraftDraw {
            seq_idx: 0,
            seq: self.seq,
            params: self.params,
            stream: self.stream(),
            history: &self.tokens,
            prompt_len: self.prompt_len,
            proposal,
            beam: None,
            n_rivals: 0,
            banned: &[],
            signals: self.signals,
            is_ahead: false,
        }
    }

    pub(crate) fn target_draw<'b>(
        &'b self,
        proposal: &'b Proposal,
        is_model_drafted: bool,
    ) -> TargetDraw<'b> {
        TargetDraw {
            seq_idx: 0,
            seq: self.seq,
            params: self.params,
            stream: self.stream(),
            history: &self.tokens,
            prompt_len: self.prompt_len,
            proposal,
            is_model_drafted,
            drafted_as: None,
            prune: None,
            banned: &[],
            signals: self.signals,
        }
    }

    /// Numbers of its seed, or else its own.
    fn stream(&self) -> Stream {
        match self.params.seed {
            Some(seed) => Stream::Seeded { seed, choice: 0 },
            None => Stream::Own { key: 0, number: self.seq.0 },
        }
    }

    /// The emitted tokens.
    pub(crate) fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len as usize..]
    }
}
