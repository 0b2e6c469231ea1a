//! What the prefix cache holds, in the words of Dynamo's router.
//!
//! The engine names a block by a number; the router finds it by what it holds. A block has two hashes there: that of its own
//! tokens, by which the router looks, and that of everything up to its end, by which it is removed again. Both are computed as
//! Dynamo computes them of a request, so equal prefixes have equal hashes on all workers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use dsde_engine::{CacheEvent, CacheObserver, CachedBlockId};
use dynamo_backend_common::KvEventPublisher;
use dynamo_kv_router::protocols::{
    BlockHashOptions, ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData,
    KvCacheStoreData, KvCacheStoredBlockData, compute_block_hash_for_seq, compute_next_seq_hash,
};

/// Where events go, once Dynamo has said where that is.
pub(crate) type Publisher = Arc<OnceLock<Arc<KvEventPublisher>>>;

/// What is known of the blocks that the router has heard of.
#[derive(Debug)]
pub struct Books {
    block_len: u32,
    blocks: HashMap<CachedBlockId, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Of everything up to the end of the block.
    sequence_hash: u64,
    /// Whose blocks these are; empty is everybody's.
    namespace: Arc<str>,
}

impl Books {
    /// Empty books.
    ///
    /// * `block_len`: tokens of a block.
    pub fn new(block_len: u32) -> Self {
        Self { block_len, blocks: HashMap::new() }
    }

    /// The event for the router; `None` if there is nothing that it could use: a block whose beginning is gone is found by nobody.
    pub fn translate(&mut self, event: CacheEvent<'_>) -> Option<KvCacheEventData> {
        match event {
            CacheEvent::Stored { block, parent, tokens, salt } => self.stored(block, parent, tokens, salt),
            CacheEvent::Removed { block } => {
                let Entry { sequence_hash, .. } = self.blocks.remove(&block)?;
                let block_hashes = vec![ExternalSequenceBlockHash(sequence_hash)];
                Some(KvCacheEventData::Removed(KvCacheRemoveData { block_hashes }))
            }
            CacheEvent::Cleared => {
                self.blocks.clear();
                Some(KvCacheEventData::Cleared)
            }
        }
    }

    fn stored(
        &mut self,
        block: CachedBlockId,
        parent: Option<CachedBlockId>,
        tokens: &[u32],
        salt: String,
    ) -> Option<KvCacheEventData> {
        let before = match parent {
            Some(parent) => Some(self.blocks.get(&parent)?.clone()),
            None => None,
        };
        let namespace = before.as_ref().map_or_else(|| salt.into(), |before| before.namespace.clone());
        let options = BlockHashOptions {
            cache_namespace: Some(&*namespace).filter(|namespace| !namespace.is_empty()),
            ..BlockHashOptions::default()
        };
        let tokens_hash = *compute_block_hash_for_seq(tokens, self.block_len, options).first()?;
        let parent_hash = before.map(|before| before.sequence_hash);
        let sequence_hash =
            parent_hash.map_or(tokens_hash.0, |parent| compute_next_seq_hash(parent, tokens_hash));
        self.blocks.insert(block, Entry { sequence_hash, namespace });
        let block_hash = ExternalSequenceBlockHash(sequence_hash);
        Some(KvCacheEventData::Stored(KvCacheStoreData {
            parent_hash: parent_hash.map(ExternalSequenceBlockHash),
            start_position: None,
            blocks: vec![KvCacheStoredBlockData { block_hash, tokens_hash, mm_extra_info: None }],
        }))
    }
}

/// Publishes what happens to the cache, in order. Equal contents that are stored twice count twice; Dynamo's publisher tells the
/// router of the last removal only.
///
/// * `block_len`: tokens of a block.
pub(crate) fn observer(block_len: u32, publisher: Publisher) -> CacheObserver {
    let mut books = Books::new(block_len);
    Box::new(move |event| {
        let data = books.translate(event);
        let (Some(data), Some(publisher)) = (data, publisher.get()) else {
            return;
        };
        let event = KvCacheEvent { event_id: publisher.next_event_id(), data, dp_rank: 0 };
        if let Err(error) = publisher.publish(event) {
            tracing::debug!("an event of the prefix cache went nowhere: {error}");
        }
    })
}
