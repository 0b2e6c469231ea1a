//! Who owns which block, and which blocks are remembered for their contents.
//!
//! A block is *owned* (by one or more sequences), *cached* (by nobody, contents kept for later requests) or *blank*. Owned
//! plus free (cached and blank) is the total, always. Full blocks are remembered for their contents: their tokens, and the
//! serial number of the block before. Serials are never used twice and contents are compared, so a lookup is exact; hashes
//! only find the candidate. Cached blocks are evicted in the order in which they were released, the end of a sequence
//! before its start. While the draft's memory is lent out there are more blocks ([`BlockPool::grow`],
//! [`BlockPool::contract`]).

mod resize;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use crate::cache_events::{CachedBlockId, Watch};
use crate::rows::{BlockCopy, BlockId};
use crate::state_pool::StatePool;

/// Names the contents of a chain of full blocks; equal values mean equal tokens from the first one on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Prefix(u64);

impl Prefix {
    /// The empty prefix.
    pub(crate) const EMPTY: Self = Self(0);
}

impl From<Prefix> for CachedBlockId {
    fn from(prefix: Prefix) -> Self {
        Self(prefix.0)
    }
}

#[derive(Debug, Default)]
struct Block {
    n_owners: u32,
    /// For what the block is remembered.
    contents: Option<Contents>,
    /// Its own serial, if remembered.
    prefix: Prefix,
    /// When it was released, if cached.
    released: u64,
    /// Whether the draft's store of this block is filled as well.
    has_draft: bool,
}

impl Block {
    fn is_blank(&self) -> bool {
        self.n_owners == 0 && self.contents.is_none()
    }
}

/// What a remembered block holds.
#[derive(Debug)]
struct Contents {
    /// Everything before the block.
    prefix: Prefix,
    /// Of the first block also [whose they are](crate::sequence::Sequence::contents).
    tokens: Box<[u32]>,
    fingerprint: u64,
}

impl Contents {
    fn are(&self, prefix: Prefix, tokens: &[u32]) -> bool {
        self.prefix == prefix && *self.tokens == *tokens
    }
}

/// Where contents are looked for. Different contents may share a fingerprint; then only the first are remembered.
fn fingerprint(prefix: Prefix, tokens: &[u32]) -> u64 {
    /// Odd, with bits spread evenly: 2^64 divided by the golden ratio.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let stir = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    tokens.iter().fold(stir(FACTOR, prefix.0), |hash, &token| stir(hash, u64::from(token)))
}

/// A remembered block that a new sequence can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedBlock {
    pub(crate) id: BlockId,
    pub(crate) prefix: Prefix,
    pub(crate) has_draft: bool,
}

/// All blocks of the key/value stores.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    blank: Vec<BlockId>,
    cached: BTreeMap<u64, BlockId>,
    /// Remembered blocks by fingerprint.
    index: HashMap<u64, BlockId>,
    next_serial: u64,
    next_release: u64,
    /// Of a target with recurrent layers; a snapshot goes with its block.
    pub(crate) states: StatePool,
    /// Is told what is remembered and what is not any more.
    pub(crate) watch: Watch,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: u32) -> Self {
        Self {
            blocks: (0..n_blocks).map(|_| Block::default()).collect(),
            blank: (0..n_blocks).rev().map(BlockId).collect(),
            cached: BTreeMap::new(),
            index: HashMap::new(),
            next_serial: 1,
            next_release: 0,
            states: StatePool::new(0),
            watch: Watch::default(),
        }
    }

    /// With so many states beside the blocks.
    pub(crate) fn with_states(self, n_states: u32) -> Self {
        Self { states: StatePool::new(n_states), ..self }
    }

    pub(crate) fn n_total(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks nobody owns, remembered ones included.
    pub(crate) fn n_free(&self) -> u32 {
        (self.blank.len() + self.cached.len()) as u32
    }

    /// Takes a block, evicting the longest released cached one if no blank one is left; `None` if all are owned.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        let id = match self.blank.pop() {
            Some(id) => id,
            None => self.evict()?,
        };
        let block = self.block_mut(id);
        debug_assert!(block.is_blank(), "an allocated block is blank");
        block.n_owners = 1;
        block.has_draft = false;
        Some(id)
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.cached.pop_first()?;
        let block = self.block_mut(id);
        let (prefix, contents) = (block.prefix, block.contents.take());
        self.index.remove(&contents.expect("a cached block is remembered").fingerprint);
        self.states.forget(id);
        self.watch.removed(prefix);
        Some(id)
    }

    /// Adds an owner.
    pub(crate) fn share(&mut self, id: BlockId) {
        let block = self.block_mut(id);
        if block.n_owners == 0 {
            let released = block.released;
            block.n_owners = 1;
            let was_cached = self.cached.remove(&released);
            assert_eq!(was_cached, Some(id), "a block without owners that is shared was cached");
        } else {
            block.n_owners += 1;
        }
    }

    /// Removes an owner.
    pub(crate) fn release(&mut self, id: BlockId) {
        let release = self.next_release;
        let block = self.block_mut(id);
        assert!(block.n_owners > 0, "a released block has an owner");
        block.n_owners -= 1;
        if block.n_owners > 0 {
            return;
        }
        if block.contents.is_some() {
            block.released = release;
            self.next_release += 1;
            self.cached.insert(release, id);
        } else {
            self.states.forget(id);
            self.blank.push(id);
        }
    }

    /// Releases `table` from its end, so that a prefix outlives what follows it, and empties it.
    pub(crate) fn release_all(&mut self, table: &mut Vec<BlockId>) {
        while let Some(id) = table.pop() {
            self.release(id);
        }
    }

    /// Makes `table[idx]` safe to write: a block with other owners is replaced by a fresh one, to be filled by the returned
    /// copy. `Err` if none is free.
    pub(crate) fn make_writable(
        &mut self,
        table: &mut [BlockId],
        idx: usize,
    ) -> Result<Option<BlockCopy>, OutOfBlocks> {
        let from = table[idx];
        if self.block(from).n_owners == 1 {
            return Ok(None);
        }
        let to = self.allocate().ok_or(OutOfBlocks)?;
        self.release(from);
        table[idx] = to;
        Ok(Some(BlockCopy { from, to }))
    }

    /// The remembered block with these `tokens` behind `prefix`.
    pub(crate) fn lookup(&self, prefix: Prefix, tokens: &[u32]) -> Option<CachedBlock> {
        self.find(fingerprint(prefix, tokens), prefix, tokens)
    }

    fn find(&self, fingerprint: u64, prefix: Prefix, tokens: &[u32]) -> Option<CachedBlock> {
        let id = *self.index.get(&fingerprint)?;
        let block = self.block(id);
        let is_same = block.contents.as_ref().is_some_and(|contents| contents.are(prefix, tokens));
        is_same.then_some(CachedBlock { id, prefix: block.prefix, has_draft: block.has_draft })
    }

    /// Remembers the full block `id` for its contents and names the prefix that ends with it. Where the same contents are
    /// remembered already, that block is returned instead.
    pub(crate) fn remember(&mut self, id: BlockId, prefix: Prefix, tokens: &[u32]) -> CachedBlock {
        let fingerprint = fingerprint(prefix, tokens);
        if let Some(existing) = self.find(fingerprint, prefix, tokens) {
            return existing;
        }
        let Block { has_draft, ref contents, prefix: known_as, .. } = *self.block(id);
        if contents.is_some() {
            // Remembered behind a prefix that has been evicted since; the chain goes on from there.
            return CachedBlock { id, prefix: known_as, has_draft };
        }
        let own = CachedBlock { id, prefix: Prefix(self.next_serial), has_draft };
        self.next_serial += 1;
        if self.index.contains_key(&fingerprint) {
            return own;
        }
        let block = self.block_mut(id);
        debug_assert!(block.n_owners > 0, "only owned blocks are remembered");
        block.contents = Some(Contents { prefix, tokens: tokens.into(), fingerprint });
        block.prefix = own.prefix;
        self.index.insert(fingerprint, id);
        self.watch.stored(own.prefix, prefix, tokens);
        own
    }

    /// Notes that the draft's store of an owned block is filled.
    pub(crate) fn mark_draft(&mut self, id: BlockId) {
        self.block_mut(id).has_draft = true;
    }

    /// Forgets every remembered block that nobody owns.
    pub(crate) fn forget_cached(&mut self) {
        let is_everything = !self.cached.is_empty() && self.cached.len() == self.index.len();
        // One event says it all.
        let told_at_once = if is_everything { std::mem::take(&mut self.watch) } else { Watch::default() };
        while let Some(id) = self.evict() {
            self.blank.push(id);
        }
        if is_everything {
            self.watch = told_at_once;
            self.watch.cleared();
        }
    }

    /// A pool of the same size that knows nothing, and says so to who watches.
    pub(crate) fn renewed(&mut self) -> Self {
        let mut renewed = Self::new(self.n_total()).with_states(self.states.n_total());
        renewed.watch = std::mem::take(&mut self.watch);
        renewed.watch.cleared();
        renewed
    }

    /// Panics unless the books balance with `tables`, the block tables of all sequences.
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a [BlockId]>) {
        let mut n_owners = vec![0; self.blocks.len()];
        for id in tables.flatten() {
            n_owners[id.0 as usize] += 1;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.n_owners, n_owners[i], "owners of block {i}");
        }
        let n_owned = n_owners.iter().filter(|&&n| n > 0).count();
        assert_eq!(self.n_free() as usize + n_owned, self.blocks.len(), "free plus owned equals total");
        for id in &self.blank {
            let block = self.block(*id);
            assert!(block.is_blank(), "blank block {} has neither owner nor contents", id.0);
        }
        for (released, id) in &self.cached {
            let block = self.block(*id);
            assert!(block.n_owners == 0 && block.released == *released, "cached block {} has no owner", id.0);
        }
        for (fingerprint, id) in &self.index {
            let found = self.block(*id).contents.as_ref().map(|contents| contents.fingerprint);
            assert_eq!(found, Some(*fingerprint), "block {} knows its contents", id.0);
        }
        let n_remembered = self.blocks.iter().filter(|block| block.contents.is_some()).count();
        assert_eq!(n_remembered, self.index.len(), "remembered blocks can be found");
    }

    fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.0 as usize]
    }

    fn block_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }
}

/// All blocks are owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBlocks;
