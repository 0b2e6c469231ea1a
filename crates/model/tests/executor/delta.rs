//! Targets with delta layers: what is rejected leaves no trace, and what is accepted is read, wherever a proposal ends.

mod serving;

use dsde_engine::{BlockCopy, BlockId, Executor, RowBatch, Slot, SlotMove, StateSlot, StateUse, TargetDraw};
use dsde_kernels::{Backend, Cpu, Reference};
use dsde_model::Error;
use dsde_model::executor::{Checkpoints, Config, DraftCheckpoint, KvSize, ModelExecutor};
use dsde_sampling::{Params, Proposal};

use crate::pair::{Decoder, blocks, open};

const TARGETS: [&str; 3] = ["qwen3_5", "qwen3_5_moe", "qwen3_next"];
const N_TOKENS: usize = 20;
const BLOCK_LEN: u32 = 16;

/// In place of the name of a draft: the head in the target's files.
pub(crate) const OWN_HEAD: &str = "mtp";

pub(crate) fn executor<B: Backend>(
    backend: B,
    target: &str,
    draft: Option<&str>,
    n_blocks: u32,
) -> ModelExecutor<B> {
    let target = open(target);
    let head = target.mtp().unwrap().unwrap();
    let model = draft.filter(|&draft| draft != OWN_HEAD).map(open);
    let draft = match (draft, &model) {
        (None, _) => None,
        (Some(_), Some(model)) => Some(DraftCheckpoint::Model(model)),
        (Some(_), None) => Some(DraftCheckpoint::Mtp(&head)),
    };
    let config = Config { kv: KvSize::Blocks(n_blocks), sequences_max: 4, ..Config::default() };
    ModelExecutor::new(backend, Checkpoints { target: &target, draft }, config).unwrap()
}

fn prompt() -> Vec<u32> {
    (0..37).map(|i| (i * i + 5) % 48).collect()
}

/// A sequence with a state.
struct Sequence<'a> {
    decoder: Decoder<'a>,
    slot: StateSlot,
    /// Where its next pass starts from, if not from its own state.
    from: Option<StateSlot>,
}

impl<'a> Sequence<'a> {
    fn new(params: &'a Params, table: Vec<BlockId>) -> Self {
        Self { decoder: Decoder::new(params, &prompt(), table), slot: StateSlot(1), from: None }
    }

    /// Reads known tokens up to `end` without asking for anything.
    fn read(&mut self, executor: &mut impl Executor, end: u32, to: Option<StateSlot>) {
        let Decoder { target_len, tokens, table, .. } = &self.decoder;
        let mut rows = RowBatch::default();
        rows.push(*target_len, &tokens[*target_len as usize..end as usize], &Proposal::new(), table);
        rows.states.push(StateUse { slot: self.slot, n_known: end - target_len, from: self.from.take(), to });
        executor.verify(&rows, &[], &mut Vec::new()).unwrap();
        self.decoder.target_len = end;
    }

    /// Reads all known tokens, the last `chunk` or fewer together with a proposal, and moves what is accepted of that to where it
    /// belongs.
    fn verify(&mut self, executor: &mut impl Executor, proposal: &Proposal, chunk: u32) {
        let n_known = self.decoder.tokens.len() as u32;
        while n_known - self.decoder.target_len > chunk {
            self.read(executor, self.decoder.target_len + chunk, None);
        }
        let decoder = &mut self.decoder;
        let (mut rows, mut verifications) = (RowBatch::default(), Vec::new());
        let known = &decoder.tokens[decoder.target_len as usize..];
        rows.push(decoder.target_len, known, proposal, &decoder.table);
        let n_rows = known.len() as u32;
        rows.states.push(StateUse { slot: self.slot, n_known: n_rows, from: self.from.take(), to: None });
        let draw = TargetDraw { is_model_drafted: false, ..decoder.target_draw(proposal, false) };
        executor.verify(&rows, &[draw], &mut verifications).unwrap();
        let verdict = verifications.remove(0).verdict;
        let slot =
            |slot: u32| Slot { block: decoder.table[(slot / BLOCK_LEN) as usize], offset: slot % BLOCK_LEN };
        let moves = (n_known..).zip(&verdict.path).filter(|(to, node)| *to != n_known + *node);
        let moves: Vec<SlotMove> =
            moves.map(|(to, node)| SlotMove { from: slot(n_known + node), to: slot(to) }).collect();
        executor.move_slots(&moves, &[]).unwrap();
        decoder.commit(proposal, &verdict);
    }
}

fn plain<B: Backend>(executor: &mut ModelExecutor<B>) -> Vec<u32> {
    let params = Params::greedy();
    let mut sequence = Sequence::new(&params, blocks(0, 5));
    while sequence.decoder.output().len() < N_TOKENS + 8 {
        sequence.verify(executor, &Proposal::new(), 64);
    }
    sequence.decoder.output().to_vec()
}

/// A chain of which the first `n_right` tokens are those of the target.
fn chain(right: &[u32], n_right: usize, len: usize) -> Proposal {
    let mut proposal = Proposal::new();
    for (i, &token) in right.iter().take(len).enumerate() {
        proposal.push_chain(if i < n_right { token } else { (token + 1) % 48 });
    }
    proposal
}

fn check_chains<B: Backend>(backend: impl Fn() -> B) {
    for target in TARGETS {
        let mut executor = executor(backend(), target, None, 8);
        let expected = plain(&mut executor);
        for chunk in [1, 3, 16, 64] {
            for len in 1..=4 {
                for n_right in 0..=len {
                    let params = Params::greedy();
                    let mut sequence = Sequence::new(&params, blocks(1, 5));
                    while sequence.decoder.output().len() < N_TOKENS {
                        let next = &expected[sequence.decoder.output().len()..];
                        sequence.verify(&mut executor, &chain(next, n_right, len), chunk);
                    }
                    let got = &sequence.decoder.output()[..N_TOKENS];
                    assert_eq!(got, &expected[..N_TOKENS], "{target}: {n_right} of {len}, chunks of {chunk}");
                }
            }
        }
    }
}

#[test]
fn rejections_at_every_place_change_nothing() {
    check_chains(|| Reference);
    check_chains(|| Cpu::new(2));
}

/// Two wrong roots around the right one, below which the path goes on right on the second branch, `depth` levels deep.
fn tree(right: &[u32], depth: usize) -> Proposal {
    let wrong = |token: u32, by: u32| (token + by) % 48;
    let mut tree = Proposal::new();
    tree.push(wrong(right[0], 1), None);
    let mut parent = tree.push(right[0], None);
    tree.push(wrong(right[0], 2), None);
    for &token in &right[1..depth] {
        tree.push(wrong(token, 1), Some(parent));
        let next = tree.push(token, Some(parent));
        tree.push(wrong(token, 3), Some(0));
        parent = next;
    }
    tree.push(wrong(right[depth], 1), Some(parent));
    tree
}

fn check_trees<B: Backend>(backend: impl Fn() -> B) {
    for target in TARGETS {
        let mut executor = executor(backend(), target, None, 8);
        let expected = plain(&mut executor);
        for depth in 1..=4 {
            let params = Params::greedy();
            let mut sequence = Sequence::new(&params, blocks(1, 6));
            while sequence.decoder.output().len() < N_TOKENS {
                let before = sequence.decoder.output().len();
                sequence.verify(&mut executor, &tree(&expected[before..], depth), 64);
                assert_eq!(sequence.decoder.output().len() - before, depth + 1, "{target}: all levels");
            }
            let got = &sequence.decoder.output()[..N_TOKENS];
            assert_eq!(got, &expected[..N_TOKENS], "{target}: trees of {depth} levels");
        }
    }
}

#[test]
fn accepted_paths_of_trees_are_read() {
    check_trees(|| Reference);
    check_trees(|| Cpu::new(2));
}

fn check_snapshots<B: Backend>(backend: impl Fn() -> B) {
    for target in TARGETS {
        let mut executor = executor(backend(), target, None, 12);
        let expected = plain(&mut executor);
        let params = Params::greedy();
        let mut first = Sequence::new(&params, blocks(0, 5));
        first.read(&mut executor, BLOCK_LEN, Some(StateSlot(3)));
        first.read(&mut executor, 2 * BLOCK_LEN, Some(StateSlot(0)));
        for (n_blocks, from) in [(1, 3), (2, 0)] {
            let table = [blocks(0, n_blocks), blocks(6, 5)].concat();
            let mut second = Sequence::new(&params, table);
            (second.slot, second.from) = (StateSlot(2), Some(StateSlot(from)));
            second.decoder.target_len = n_blocks * BLOCK_LEN;
            while second.decoder.output().len() < N_TOKENS {
                let next = &expected[second.decoder.output().len()..];
                second.verify(&mut executor, &chain(next, 1, 2), 64);
            }
            let got = &second.decoder.output()[..N_TOKENS];
            assert_eq!(got, &expected[..N_TOKENS], "{target}: after {n_blocks} blocks");
        }
    }
}

#[test]
fn a_snapshot_of_a_prefix_goes_on_as_the_prefix_does() {
    check_snapshots(|| Reference);
    check_snapshots(|| Cpu::new(2));
}

#[test]
fn kept_inputs_follow_copied_blocks() {
    let mut executor = executor(Cpu::new(2), TARGETS[0], None, 16);
    let expected = plain(&mut executor);
    let params = Params::greedy();
    let mut sequence = Sequence::new(&params, blocks(0, 5));
    let mut n_passes = 0;
    while sequence.decoder.output().len() < N_TOKENS {
        let next = &expected[sequence.decoder.output().len()..];
        sequence.verify(&mut executor, &chain(next, 2, 3), 64);
        n_passes += 1;
        let table = blocks(5 * (n_passes % 3), 5);
        let copies = sequence.decoder.table.iter().zip(&table);
        let copies: Vec<BlockCopy> = copies.map(|(&from, &to)| BlockCopy { from, to }).collect();
        executor.copy_blocks(&copies).unwrap();
        sequence.decoder.table = table;
    }
    assert_eq!(sequence.decoder.output()[..N_TOKENS], expected[..N_TOKENS]);
}

#[test]
fn states_are_counted() {
    // 3 layers, each with 4 heads of 16 x 16 and 3 inputs of 2 x 2 x 16 + 4 x 16.
    const STATE_BYTES: usize = 3 * (4 * 16 * 16 + 3 * 128) * 4;
    let target = open("qwen3_5");
    let build = |sequences_max| {
        let config = Config { kv: KvSize::Blocks(4), sequences_max, ..Config::default() };
        ModelExecutor::new(Reference, Checkpoints { target: &target, draft: None }, config).unwrap()
    };
    // As many snapshots as sequences, at least 4.
    for (sequences_max, n_states) in [(1, 5), (5, 10), (64, 128)] {
        let executor = build(sequences_max);
        assert_eq!(executor.shape().n_states, n_states);
        assert_eq!(executor.memory().state_bytes, STATE_BYTES * n_states as usize);
        // One layer of attention: keys and values of 16 slots, one head of 16 elements.
        assert_eq!(executor.memory().block_bytes, 2 * 16 * 16 * 4);
    }
}

#[test]
fn a_draft_with_states_is_refused() {
    let (target, draft) = (open("gemma2"), open("qwen3_5"));
    let checkpoints = Checkpoints { target: &target, draft: Some(DraftCheckpoint::Model(&draft)) };
    let error = ModelExecutor::new(Reference, checkpoints, Config::default()).err().unwrap();
    assert!(matches!(error, Error::RecurrentDraft { got: "Qwen3_5ForCausalLM" }));
    assert_eq!(
        error.to_string(),
        "a draft must have attention in every layer, and Qwen3_5ForCausalLM has layers with states; use another draft"
    );
}
