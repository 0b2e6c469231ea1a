//! What the prefix cache holds, told to whoever keeps books of it elsewhere: a router that sends a request where its prefix is.
//!
//! Nothing is told unless an observer is set ([`Engine::set_cache_observer`](crate::Engine::set_cache_observer)). Observers see
//! tokens, so they belong to who runs the engine, never to a policy.

use std::fmt;

use crate::block_pool::Prefix;

/// Names a remembered block and with it everything before it. Two blocks have different names until the cache is
/// [cleared](CacheEvent::Cleared), whatever they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CachedBlockId(pub u64);

/// A change of what the prefix cache holds. Blocks of running sequences are part of it as soon as they are full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheEvent<'a> {
    /// A full block is remembered.
    Stored {
        /// Its name.
        block: CachedBlockId,
        /// The block before it; `None` begins a sequence. Now and then it was removed already, or never stored because
        /// another one has its place; then nobody finds this block from the first token on.
        parent: Option<CachedBlockId>,
        /// `[block_len]`, what it holds.
        tokens: &'a [u32],
        /// Of a block without parent, [whose it is](crate::Request::salt); empty for all others.
        salt: String,
    },
    /// A block is remembered no more.
    Removed {
        /// Its name.
        block: CachedBlockId,
    },
    /// Nothing is remembered any more.
    Cleared,
}

/// Receives every change as it happens, within [`Engine::step`](crate::Engine::step) and whatever else changes the cache.
pub type CacheObserver = Box<dyn FnMut(CacheEvent<'_>) + Send>;

/// The observer, if there is one.
#[derive(Default)]
pub(crate) struct Watch(Option<(usize, CacheObserver)>);

impl Watch {
    /// * `block_len`: tokens of a block; what follows them in the contents of a first block is the salt.
    pub(crate) fn new(block_len: u32, observer: CacheObserver) -> Self {
        Self(Some((block_len as usize, observer)))
    }

    /// * `contents`: as of [`Sequence::contents`](crate::sequence::Sequence::contents).
    pub(crate) fn stored(&mut self, block: Prefix, parent: Prefix, contents: &[u32]) {
        if let Some((block_len, observer)) = &mut self.0 {
            let (tokens, salt) = contents.split_at((*block_len).min(contents.len()));
            let salt: Vec<u8> = salt.iter().map(|&byte| byte as u8).collect();
            observer(CacheEvent::Stored {
                block: block.into(),
                parent: (parent != Prefix::EMPTY).then(|| parent.into()),
                tokens,
                salt: String::from_utf8(salt).expect("a salt is UTF-8"),
            });
        }
    }

    pub(crate) fn removed(&mut self, block: Prefix) {
        if let Some((_, observer)) = &mut self.0 {
            observer(CacheEvent::Removed { block: block.into() });
        }
    }

    pub(crate) fn cleared(&mut self) {
        if let Some((_, observer)) = &mut self.0 {
            observer(CacheEvent::Cleared);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.is_some()).finish()
    }
}
