//! Blocks that run out, are remembered, shared and watched, and books that balance whatever is done.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::cache_events::CacheEvent;

#[test]
fn blocks_run_out_and_come_back() {
    let mut pool = BlockPool::new(2);
    let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    assert_eq!((pool.allocate(), pool.n_free()), (None, 0));
    pool.release(a);
    assert_eq!(pool.allocate(), Some(a));
    pool.release_all(&mut vec![a, b]);
    assert_eq!(pool.n_free(), 2);
}

#[test]
fn remembered_contents_are_found_until_evicted() {
    let mut pool = BlockPool::new(2);
    let a = pool.allocate().unwrap();
    let after_a = pool.remember(a, Prefix::EMPTY, &[1, 2]).prefix;
    assert_eq!(pool.lookup(Prefix::EMPTY, &[1, 2]).unwrap().id, a);
    assert_eq!(
        pool.lookup(after_a, &[1, 2]),
        None,
        "the same tokens behind another prefix are other contents"
    );
    pool.release(a);
    assert_eq!(pool.n_free(), 2);
    let blank = pool.allocate().unwrap();
    assert_ne!(blank, a, "blank blocks go first");
    assert!(pool.lookup(Prefix::EMPTY, &[1, 2]).is_some());
    assert_eq!(pool.allocate(), Some(a));
    assert_eq!(pool.lookup(Prefix::EMPTY, &[1, 2]), None);
}

#[test]
fn the_end_of_a_sequence_is_evicted_before_its_start() {
    let mut pool = BlockPool::new(2);
    let mut table = vec![pool.allocate().unwrap(), pool.allocate().unwrap()];
    let [start, end] = [table[0], table[1]];
    let prefix = pool.remember(start, Prefix::EMPTY, &[1]).prefix;
    pool.remember(end, prefix, &[2]);
    pool.release_all(&mut table);
    assert_eq!((pool.allocate(), pool.allocate()), (Some(end), Some(start)));
}

#[test]
fn a_shared_block_is_copied_by_the_first_writer_only() {
    let mut pool = BlockPool::new(3);
    let a = pool.allocate().unwrap();
    pool.share(a);
    let (mut first, mut second) = (vec![a], vec![a]);
    let copy = pool.make_writable(&mut first, 0).unwrap().unwrap();
    assert_eq!(copy, BlockCopy { from: a, to: first[0] });
    assert_eq!(pool.make_writable(&mut second, 0), Ok(None));
    pool.check([&first[..], &second[..]].into_iter());
}

#[test]
fn of_equal_blocks_the_first_is_remembered() {
    let mut pool = BlockPool::new(2);
    let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    let first = pool.remember(a, Prefix::EMPTY, &[1]);
    assert_eq!(first.id, a);
    assert_eq!(pool.remember(b, Prefix::EMPTY, &[1]), first);
    pool.release(b);
    pool.check([&[a][..]].into_iter());
}

/// Books kept by an observer: the remembered blocks with their parents and tokens.
type Books = Arc<Mutex<BTreeMap<CachedBlockId, (Option<CachedBlockId>, Vec<u32>)>>>;

fn watch(pool: &mut BlockPool, block_len: u32) -> Books {
    let books = Books::default();
    let written = books.clone();
    let observer = move |event: CacheEvent<'_>| {
        let mut books = written.lock().unwrap();
        match event {
            CacheEvent::Stored { block, parent, tokens, .. } => {
                let known = books.insert(block, (parent, tokens.to_vec()));
                assert_eq!(known, None, "{block:?} is stored once");
            }
            CacheEvent::Removed { block } => {
                assert!(books.remove(&block).is_some(), "{block:?} was stored");
            }
            CacheEvent::Cleared => books.clear(),
        }
    };
    pool.watch = Watch::new(block_len, Box::new(observer));
    books
}

fn check_books(pool: &BlockPool, books: &Books) {
    let remembered = pool.blocks.iter().filter_map(|block| {
        let Contents { prefix, tokens, .. } = block.contents.as_ref()?;
        let parent = (*prefix != Prefix::EMPTY).then(|| (*prefix).into());
        Some((block.prefix.into(), (parent, tokens.to_vec())))
    });
    assert_eq!(*books.lock().unwrap(), remembered.collect::<BTreeMap<_, _>>());
}

#[test]
fn an_observer_hears_whose_a_block_is_and_that_all_is_forgotten() {
    let mut pool = BlockPool::new(2);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    let tell = move |event: CacheEvent<'_>| told.lock().unwrap().push(format!("{event:?}"));
    pool.watch = Watch::new(2, Box::new(tell));
    let mut table = vec![pool.allocate().unwrap(), pool.allocate().unwrap()];
    let first = pool.remember(table[0], Prefix::EMPTY, &[7, 8, u32::from(b'm'), u32::from(b'e')]).prefix;
    pool.remember(table[1], first, &[9, 10]);
    pool.release(table.pop().unwrap());
    pool.forget_cached();
    pool.release_all(&mut table);
    pool.forget_cached();
    pool.forget_cached();
    pool = pool.renewed();
    pool.check(std::iter::empty());
    let expected = [
        "Stored { block: CachedBlockId(1), parent: None, tokens: [7, 8], salt: \"me\" }",
        "Stored { block: CachedBlockId(2), parent: Some(CachedBlockId(1)), tokens: [9, 10], salt: \"\" }",
        // The first block is owned still.
        "Removed { block: CachedBlockId(2) }",
        "Cleared",
        // Not of the cache that was empty, but of the pool.
        "Cleared",
    ];
    assert_eq!(*heard.lock().unwrap(), expected);
}

proptest! {
    #[test]
    fn the_books_balance_under_any_order_of_operations(operations in prop::collection::vec((0..7u8, 0..8usize, 0..3u32), 1..200)) {
        let mut pool = BlockPool::new(5);
        let books = watch(&mut pool, 1);
        // Each table with the prefix that names its contents and how many of its blocks are remembered.
        let mut tables: Vec<(Vec<BlockId>, Prefix, usize)> = vec![];
        for (operation, i, token) in operations {
            let n = tables.len().max(1);
            match (operation, tables.get_mut(i % n)) {
                (0, _) => tables.push((vec![], Prefix::EMPTY, 0)),
                (1, Some((table, ..))) => table.extend(pool.allocate()),
                (2, Some((table, prefix, n_known))) if *n_known < table.len() => {
                    let id = table[*n_known];
                    if pool.block(id).contents.is_none() {
                        *prefix = pool.remember(id, *prefix, &[token]).prefix;
                        *n_known += 1;
                    }
                }
                (3, Some((table, prefix, n_known))) => {
                    pool.release_all(table);
                    (*prefix, *n_known) = (Prefix::EMPTY, 0);
                }
                (4, Some(_)) => {
                    if let Some(found) = pool.lookup(Prefix::EMPTY, &[token]) {
                        pool.share(found.id);
                        tables.push((vec![found.id], found.prefix, 1));
                    }
                }
                (5, Some((table, _, n_known))) if *n_known < table.len() => {
                    let last = table.len() - 1;
                    let _ = pool.make_writable(table, last);
                }
                (6, _) if token == 0 => pool.forget_cached(),
                _ => {}
            }
            pool.check(tables.iter().map(|(table, ..)| &table[..]));
            check_books(&pool, &books);
        }
        for (table, ..) in &mut tables {
            pool.release_all(table);
        }
        prop_assert_eq!(pool.n_free(), pool.n_total());
    }
}
