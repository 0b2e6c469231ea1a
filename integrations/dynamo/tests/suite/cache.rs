//! Dynamo's router, fed with the events of an engine, knows what the next request will find there.

use std::sync::{Arc, Mutex};

use clap::Parser;
use dsde_cli::EngineArgs;
use dsde_dynamo::Books;
use dsde_engine::{Engine, Event, Request};
use dsde_sampling::Params;
use dynamo_kv_router::RadixTree;
use dynamo_kv_router::protocols::{
    BlockHashOptions, KvCacheEvent, KvCacheEventData, RouterEvent, WorkerWithDpRank,
    compute_block_hash_for_seq,
};

const WORKER: u64 = 7;
const BLOCK_LEN: u32 = 16;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    engine: EngineArgs,
}

/// The router's side: events as they come, and its tree.
struct Router {
    events: Arc<Mutex<Vec<KvCacheEventData>>>,
    n_applied: usize,
    tree: RadixTree,
}

impl Router {
    /// Blocks of a request that the router expects at the worker.
    fn overlap(&mut self, request: &Request) -> u32 {
        for data in &self.events.lock().unwrap()[self.n_applied..] {
            self.n_applied += 1;
            let event = KvCacheEvent { event_id: self.n_applied as u64, data: data.clone(), dp_rank: 0 };
            self.tree
                .apply_event(RouterEvent::new(WORKER, event))
                .expect("the router understands every event");
        }
        let namespace = Some(request.salt.as_str()).filter(|salt| !salt.is_empty());
        let options = BlockHashOptions { cache_namespace: namespace, ..BlockHashOptions::default() };
        let hashes = compute_block_hash_for_seq(&request.prompt, BLOCK_LEN, options);
        let scores = self.tree.find_matches(hashes, false).scores;
        scores.get(&WorkerWithDpRank::new(WORKER, 0)).copied().unwrap_or(0)
    }
}

fn engine_and_router() -> (Engine, Router) {
    let options = ["test", "--threads=1", "--kv-blocks=24", "--policy=fixed:k=3", "--context=256"];
    let plan =
        Options::parse_from(options).engine.plan().unwrap_or_else(|failure| panic!("{}", failure.line()));
    let mut engine = plan.open().unwrap_or_else(|failure| panic!("{}", failure.line())).engine;
    let events = Arc::new(Mutex::new(Vec::new()));
    let (told, mut books) = (events.clone(), Books::new(BLOCK_LEN));
    engine.set_cache_observer(Some(Box::new(move |event| {
        told.lock().unwrap().extend(books.translate(event));
    })));
    (engine, Router { events, n_applied: 0, tree: RadixTree::new() })
}

/// Runs a request alone; tokens of its prompt that were found.
fn run(engine: &mut Engine, request: Request) -> u32 {
    engine.submit(request).unwrap();
    let mut cached = None;
    while !engine.is_idle() {
        engine.step().unwrap();
        for event in engine.drain_events() {
            if let Event::Finished(finished) = event {
                cached = Some(finished.timeline.cached_tokens);
            }
        }
    }
    cached.expect("the request has ended")
}

/// Conversations that go on, begin alike, or belong to others, more than the blocks hold.
fn requests() -> impl Iterator<Item = Request> {
    (0..40u32).map(|i| {
        let len = 20 + i % 5 * 31;
        let tokens = (0..len).map(|j| 3 + (i % 3 * 7 + j * j) % 200).collect();
        let mut request = Request::new(tokens, Params::greedy(), 3 + i % 20);
        if i % 4 == 3 {
            request.salt = format!("tenant {}", i % 2);
        }
        request
    })
}

#[test]
fn the_router_expects_what_is_found() {
    let (mut engine, mut router) = engine_and_router();
    let (mut n_found, mut n_missed) = (0, 0);
    for request in requests() {
        // The last token has to be read in any case.
        let sharable = (request.prompt.len() as u32 - 1) / BLOCK_LEN;
        let expected = router.overlap(&request).min(sharable);
        let found = run(&mut engine, request) / BLOCK_LEN;
        assert_eq!(found, expected);
        n_found += usize::from(found > 0);
        n_missed += usize::from(found < sharable);
    }
    assert!(n_found > 8 && n_missed > 8, "{n_found} of 40 found something, {n_missed} missed something");
    let events = router.events.lock().unwrap().clone();
    let n_removed = events.iter().filter(|data| matches!(data, KvCacheEventData::Removed(_))).count();
    assert!(n_removed > 8, "blocks were evicted: {n_removed}");
}

#[test]
fn parents_are_named_and_a_cleared_cache_is_told() {
    let (mut engine, mut router) = engine_and_router();
    run(&mut engine, Request::new((0..40).collect(), Params::greedy(), 1));
    engine.clear_prefix_cache();
    let events = router.events.lock().unwrap().clone();
    let [KvCacheEventData::Stored(first), KvCacheEventData::Stored(second), KvCacheEventData::Cleared] =
        &events[..]
    else {
        panic!("two full blocks, then nothing: {events:?}");
    };
    assert_eq!((first.parent_hash, second.parent_hash), (None, Some(first.blocks[0].block_hash)));
    let hashes =
        compute_block_hash_for_seq(&(0..32).collect::<Vec<_>>(), BLOCK_LEN, BlockHashOptions::default());
    assert_eq!([first.blocks[0].tokens_hash, second.blocks[0].tokens_hash], hashes[..]);
    assert_eq!(router.overlap(&Request::new((0..40).collect(), Params::greedy(), 1)), 0);
}
