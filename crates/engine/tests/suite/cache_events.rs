//! Whoever hears what the prefix cache holds knows what the next request will find there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::common::*;
use dsde_engine::{CacheEvent, CachedBlockId, Config, Engine, Request};

/// What is remembered: blocks by what is before them and what they hold.
#[derive(Default)]
struct Books {
    blocks: HashMap<Key, CachedBlockId>,
    keys: HashMap<CachedBlockId, Key>,
    n_cleared: usize,
}

type Key = (Option<CachedBlockId>, Vec<u32>, String);

impl Books {
    fn note(&mut self, event: CacheEvent<'_>) {
        match event {
            CacheEvent::Stored { block, parent, tokens, salt } => {
                let key = (parent, tokens.to_vec(), salt);
                assert_eq!(self.blocks.insert(key.clone(), block), None, "{key:?} is stored once");
                self.keys.insert(block, key);
            }
            CacheEvent::Removed { block } => {
                let key = self.keys.remove(&block).expect("what is removed was stored");
                self.blocks.remove(&key);
            }
            CacheEvent::Cleared => {
                self.blocks.clear();
                self.keys.clear();
                self.n_cleared += 1;
            }
        }
    }

    /// Tokens of a request that are stored already. The last one has to be read in any case.
    fn cached_tokens(&self, request: &Request) -> u32 {
        let mut parent = None;
        let sharable = &request.prompt[..request.prompt.len() - 1];
        let blocks = sharable.chunks_exact(BLOCK_LEN as usize).map_while(|tokens| {
            let salt = if parent.is_none() { request.salt.clone() } else { String::new() };
            parent = Some(*self.blocks.get(&(parent, tokens.to_vec(), salt))?);
            parent
        });
        blocks.count() as u32 * BLOCK_LEN
    }
}

fn watched(config: Config, policy: &str, n_blocks: u32) -> (Engine, Arc<Mutex<Books>>) {
    let mut engine = engine(config, policy, n_blocks);
    let books = Arc::new(Mutex::new(Books::default()));
    let observed = books.clone();
    engine.set_cache_observer(Some(Box::new(move |event| observed.lock().unwrap().note(event))));
    (engine, books)
}

/// Conversations that go on, begin alike, or belong to others; in an order that evicts what comes back.
fn requests() -> impl Iterator<Item = Request> {
    (0..60).map(|i| {
        let mut tokens = prompt(i % 3, 9 + i % 5 * 7);
        tokens.extend(prompt(i % 7, i % 4 * 3));
        let mut request = greedy(tokens, 5 + i % 11);
        if i % 4 == 3 {
            request.salt = format!("tenant {}", i % 2);
        }
        request
    })
}

#[test]
fn events_tell_what_a_request_will_find() {
    for policy in ["off", "fixed:k=4", "beams:6x3", "ahead:4:fixed:k=3"] {
        let (mut engine, books) = watched(model_config(), policy, 24);
        let (mut n_found, mut n_evicted) = (0, 0);
        for request in requests() {
            let expected = books.lock().unwrap().cached_tokens(&request);
            let n_before = books.lock().unwrap().keys.len();
            let id = engine.submit(request).unwrap();
            let finished = run(&mut engine)[&(id, 0)].finished.clone().unwrap();
            assert_eq!(finished.timeline.cached_tokens, expected, "{policy}");
            n_found += usize::from(expected > 0);
            n_evicted += usize::from(books.lock().unwrap().keys.len() <= n_before);
        }
        assert!(n_found > 10 && n_evicted > 10, "{n_found} of 60 found something, {n_evicted} evicted");
    }
}

#[test]
fn nothing_is_stored_once_the_cache_is_cleared_or_nobody_listens() {
    let (mut engine, books) = watched(model_config(), "fixed:k=4", 100);
    engine.submit(greedy(prompt(1, 21), 9)).unwrap();
    run(&mut engine);
    assert!(books.lock().unwrap().blocks.len() >= 5, "the prompt alone fills five blocks");
    engine.clear_prefix_cache();
    let Books { blocks, n_cleared, .. } = std::mem::take(&mut *books.lock().unwrap());
    assert_eq!((blocks.len(), n_cleared), (0, 1));
    engine.set_cache_observer(None);
    engine.submit(greedy(prompt(1, 21), 9)).unwrap();
    run(&mut engine);
    assert!(books.lock().unwrap().blocks.is_empty());
}

#[test]
fn blocks_of_running_sequences_are_told_and_survive_a_cancellation() {
    let (mut engine, books) = watched(model_config(), "off", 100);
    let request = greedy(prompt(1, 21), 9);
    let id = engine.submit(request.clone()).unwrap();
    engine.step().unwrap();
    assert_eq!(books.lock().unwrap().cached_tokens(&request), 20);
    assert!(engine.cancel(id));
    assert_eq!(books.lock().unwrap().cached_tokens(&request), 20);
    engine.recover();
    assert_eq!(books.lock().unwrap().cached_tokens(&request), 0, "nothing that was stored is trusted");
    assert_eq!(books.lock().unwrap().n_cleared, 1);
}
