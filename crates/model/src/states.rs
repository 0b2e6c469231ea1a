//! States of the delta layers of a model: one per running sequence, and snapshots.
//!
//! A state reads known tokens alone. What it would read of a proposal, its *input*, is kept when it is verified, beside the slot in
//! which the keys and values of that token are; the next pass of the sequence reads those whose tokens were accepted. So a
//! rejection costs nothing, and no state is ever copied to roll back: that would be 2 MiB per layer of a model of 4 billion
//! weights, where an input has 32 KiB.

use std::collections::HashMap;

use dsde_engine::{BlockCopy, BlockId, RowBatch, Slot, SlotMove, StateSlot, StateUse};
use dsde_kernels::{DeltaRows, DeltaRun};

/// States of all delta layers, and kept inputs.
pub(crate) struct States {
    shape: StatesShape,
    /// `[n_states, state_len]` per layer.
    layers: Vec<Vec<f32>>,
    /// Tokens that each state has read, `[n_states]`.
    n_read: Vec<u32>,
    kept: Kept,
    pass: Pass,
}

/// How large states are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatesShape {
    pub(crate) n_states: usize,
    pub(crate) n_layers: usize,
    /// Numbers of a state in one layer.
    pub(crate) state_len: usize,
    /// Numbers of an input in one layer.
    pub(crate) input_len: usize,
    /// Slots per block.
    pub(crate) block_len: usize,
}

/// What the pass under way does with states.
#[derive(Default)]
struct Pass {
    runs: Vec<DeltaRun>,
    parents: Vec<u32>,
    /// Kept inputs that are read, by their index.
    replayed: Vec<usize>,
    /// Rows whose inputs are kept, and where.
    claimed: Vec<(usize, usize)>,
    /// Snapshots that are made at the end.
    snapshots: Vec<[StateSlot; 2]>,
}

impl States {
    pub(crate) fn new(shape: StatesShape) -> Self {
        Self {
            shape,
            layers: (0..shape.n_layers).map(|_| vec![0.0; shape.n_states * shape.state_len]).collect(),
            n_read: vec![0; shape.n_states],
            kept: Kept::new(shape),
            pass: Pass::default(),
        }
    }

    /// Brings states to where their sequences stand, but for the inputs to be replayed, and finds room for those to be kept.
    ///
    /// # Panics
    /// If a sequence stands where its state cannot come: neither at the beginning, nor at a snapshot, nor behind kept inputs.
    pub(crate) fn begin(&mut self, rows: &RowBatch) {
        assert_eq!(rows.states.len(), rows.n_seqs(), "every sequence has a state");
        self.pass = Pass { parents: vec![0; rows.n_rows()], ..Pass::default() };
        for (seq_idx, &state) in rows.states.iter().enumerate() {
            self.begin_sequence(rows, seq_idx, state);
        }
    }

    fn begin_sequence(&mut self, rows: &RowBatch, seq_idx: usize, state: StateUse) {
        let StateUse { slot, n_known, from, to } = state;
        let (range, table) = (rows.rows_of(seq_idx), rows.table_of(seq_idx));
        let first_slot = rows.slots[range.start];
        let block_len = self.shape.block_len as u32;
        let key_of = |position: u32| slot_of(table, position, block_len);
        let start = self.pass.replayed.len();
        match from {
            Some(from) => {
                let n_read = self.n_read[from.0 as usize];
                debug_assert_eq!(n_read, first_slot, "a snapshot ends before the first row");
                self.copy(from, slot);
            }
            None if first_slot == 0 => self.clear(slot),
            None => {
                let read = self.n_read[slot.0 as usize];
                assert!(
                    read <= first_slot,
                    "a state does not forget: {read} tokens read, {first_slot} there"
                );
                let kept = (read..first_slot).map(|position| self.kept.find(key_of(position)));
                self.pass.replayed.extend(kept);
            }
        }
        self.kept.release(slot, &self.pass.replayed[start..]);
        let proposed = range.start + n_known as usize..range.end;
        for row in proposed {
            self.pass.claimed.push((row, self.kept.claim(key_of(rows.slots[row]), slot)));
            let parent = rows.parent_slot(row).expect("a proposal follows a known token");
            self.pass.parents[row] = range.start as u32 + parent - first_slot;
        }
        self.n_read[slot.0 as usize] = first_slot + n_known;
        self.pass.snapshots.extend(to.map(|to| [slot, to]));
        let replayed = rows.n_rows() + start..rows.n_rows() + self.pass.replayed.len();
        self.pass.runs.push(DeltaRun {
            state: slot.0 as usize,
            replayed,
            rows: range,
            n_known: n_known as usize,
        });
    }

    /// Makes snapshots, once all layers have run.
    pub(crate) fn end(&mut self) {
        for [slot, to] in std::mem::take(&mut self.pass.snapshots) {
            self.copy(slot, to);
            self.kept.release(to, &[]);
        }
        self.kept.reuse();
    }

    /// Inputs that are replayed in the pass under way.
    pub(crate) fn n_replayed(&self) -> usize {
        self.pass.replayed.len()
    }

    /// Keeps inputs of proposals.
    ///
    /// * `inputs`: of all rows, `[n_rows, input_len]`.
    pub(crate) fn keep(&mut self, layer: usize, inputs: &[f32]) {
        let len = self.shape.input_len;
        for &(row, idx) in &self.pass.claimed {
            self.kept.inputs[idx][layer * len..][..len].copy_from_slice(&inputs[row * len..][..len]);
        }
    }

    /// Fetches inputs that were kept.
    ///
    /// * `inputs`: `[n_replayed, input_len]`.
    pub(crate) fn replay(&self, layer: usize, inputs: &mut [f32]) {
        let len = self.shape.input_len;
        for (input, &idx) in inputs.chunks_exact_mut(len).zip(&self.pass.replayed) {
            input.copy_from_slice(&self.kept.inputs[idx][layer * len..][..len]);
        }
    }

    /// How rows go through the states of a layer, and these, `[n_states, state_len]`.
    pub(crate) fn of_layer(&mut self, layer: usize) -> (DeltaRows<'_>, &mut [f32]) {
        let Pass { runs, parents, .. } = &self.pass;
        (DeltaRows { runs, parents }, &mut self.layers[layer])
    }

    /// See [`Executor::copy_blocks`](dsde_engine::Executor::copy_blocks).
    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        for &BlockCopy { from, to } in copies {
            for offset in 0..self.shape.block_len as u32 {
                self.kept.copy((from, offset), (to, offset));
            }
        }
    }

    /// See [`Executor::move_slots`](dsde_engine::Executor::move_slots).
    pub(crate) fn move_slots(&mut self, moves: &[SlotMove]) {
        let key = |slot: Slot| (slot.block, slot.offset);
        moves.iter().for_each(|&SlotMove { from, to }| self.kept.copy(key(from), key(to)));
    }

    fn copy(&mut self, from: StateSlot, to: StateSlot) {
        let ([from, to], len) = ([from, to].map(|slot| slot.0 as usize), self.shape.state_len);
        self.layers.iter_mut().for_each(|states| states.copy_within(from * len..(from + 1) * len, to * len));
        self.n_read[to] = self.n_read[from];
    }

    fn clear(&mut self, slot: StateSlot) {
        let (slot, len) = (slot.0 as usize, self.shape.state_len);
        self.layers.iter_mut().for_each(|states| states[slot * len..(slot + 1) * len].fill(0.0));
        self.n_read[slot] = 0;
    }
}

/// A slot of the stores.
type Key = (BlockId, u32);

fn slot_of(table: &[BlockId], slot: u32, block_len: u32) -> Key {
    (table[(slot / block_len) as usize], slot % block_len)
}

/// Inputs of proposals, by the slots of these: of all sequences that run, what they proposed in their last passes, and of those that ended,
/// until somebody else has their state.
struct Kept {
    by_slot: HashMap<Key, Entry>,
    /// `[n_layers, input_len]` each; memory that was needed once is used again.
    inputs: Vec<Vec<f32>>,
    free: Vec<usize>,
    /// Of no slot any more, but the pass under way may still read them.
    retired: Vec<usize>,
    /// Slots of each state's inputs, `[n_states]`; some may belong to another by now.
    of_state: Vec<Vec<Key>>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Which of the inputs.
    idx: usize,
    /// The state that may read it.
    state: StateSlot,
}

impl Kept {
    fn new(shape: StatesShape) -> Self {
        Self {
            by_slot: HashMap::new(),
            inputs: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            of_state: vec![Vec::new(); shape.n_states],
            len: shape.n_layers * shape.input_len,
        }
    }

    fn find(&self, key: Key) -> usize {
        self.by_slot.get(&key).expect("inputs of accepted tokens were kept").idx
    }

    /// Makes room for the input of a slot that `state` may read.
    fn claim(&mut self, key: Key, state: StateSlot) -> usize {
        let idx = self.free.pop().unwrap_or_else(|| {
            self.inputs.push(vec![0.0; self.len]);
            self.inputs.len() - 1
        });
        if let Some(before) = self.by_slot.insert(key, Entry { idx, state }) {
            self.retired.push(before.idx);
        }
        self.of_state[state.0 as usize].push(key);
        idx
    }

    /// Forgets the inputs of a state.
    ///
    /// * `still_read`: those that the pass under way replays.
    fn release(&mut self, state: StateSlot, still_read: &[usize]) {
        for key in std::mem::take(&mut self.of_state[state.0 as usize]) {
            if self.by_slot.get(&key).is_some_and(|entry| entry.state == state)
                && let Some(entry) = self.by_slot.remove(&key)
            {
                match still_read.contains(&entry.idx) {
                    true => self.retired.push(entry.idx),
                    false => self.free.push(entry.idx),
                }
            }
        }
    }

    /// Memory of forgotten inputs is free once nobody reads them.
    fn reuse(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// The input of a slot, if it has one, becomes that of another, too.
    fn copy(&mut self, from: Key, to: Key) {
        let Some(&Entry { idx: source, state }) = self.by_slot.get(&from).filter(|_| from != to) else {
            return;
        };
        let idx = self.claim(to, state);
        let [source, target] =
            self.inputs.get_disjoint_mut([source, idx]).expect("a claimed input is another one");
        target.copy_from_slice(source);
    }
}
