//! Inputs that are kept pass their targets also when a few of their bytes are others.
//!
//! What `cargo test` can do without libFuzzer: the same damaged inputs in every run, so a change to a parser is tried with some
//! that it was not written for. `PROPTEST_CASES=20000` tries so many for every target instead of 256.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;

use dsde_fuzz_targets::{TARGETS, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestError, TestRng, TestRunner};

/// Changes of one input.
const N_CHANGES: Range<usize> = 1..5;
/// Longest run of bytes that is taken out, repeated or taken from another input.
const RUN_LEN: Range<usize> = 1..48;
/// No input gets longer.
const INPUT_LEN_MAX: usize = 1 << 16;
/// Written in place of numbers.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "18446744073709551616",
    "1e308",
    "1e-320",
    "0.3",
    "NaN",
];

/// What happens to an input. Places are shares of its length.
#[derive(Clone, Debug)]
enum Change {
    Flip { at: Index, bit: u32 },
    Put { at: Index, byte: u8 },
    Cut { at: Index, len: usize },
    Repeat { at: Index, len: usize, times: usize },
    Splice { at: Index, other: Index, from: Index, len: usize },
    Number { which: Index, number: &'static str },
    End { at: Index },
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0..u8::BITS).prop_map(|(at, bit)| Change::Flip { at, bit }),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Put { at, byte }),
        (at(), RUN_LEN).prop_map(|(at, len)| Change::Cut { at, len }),
        (at(), RUN_LEN, 1..40_usize).prop_map(|(at, len, times)| Change::Repeat { at, len, times }),
        (at(), at(), at(), RUN_LEN).prop_map(|(at, other, from, len)| Change::Splice {
            at,
            other,
            from,
            len
        }),
        (at(), select(NUMBERS)).prop_map(|(which, number)| Change::Number { which, number }),
        at().prop_map(|at| Change::End { at }),
    ]
}

/// Up to `len` bytes of `input` from a place on.
fn run(input: &[u8], from: &Index, len: usize) -> Range<usize> {
    let start = from.index(input.len() + 1);
    start..(start + len).min(input.len())
}

/// Where `input` has decimal digits, run by run.
fn numbers(input: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for i in (0..input.len()).filter(|&i| input[i].is_ascii_digit()) {
        match found.last_mut() {
            Some(number) if number.end == i => number.end += 1,
            _ => found.push(i..i + 1),
        }
    }
    found
}

fn apply(change: &Change, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    match change {
        Change::Flip { at, bit } if !input.is_empty() => {
            let i = at.index(input.len());
            input[i] ^= 1 << bit;
        }
        Change::Flip { .. } => {}
        Change::Put { at, byte } => input.insert(at.index(input.len() + 1), *byte),
        Change::Cut { at, len } => {
            let cut = run(input, at, *len);
            input.drain(cut);
        }
        Change::Repeat { at, len, times } => {
            let repeated = run(input, at, *len);
            let copies = input[repeated.clone()].repeat(*times);
            input.splice(repeated.end..repeated.end, copies);
        }
        Change::Splice { at, other, from, len } => {
            let other = &inputs[other.index(inputs.len())];
            let place = at.index(input.len() + 1);
            input.splice(place..place, other[run(other, from, *len)].iter().copied());
        }
        Change::Number { which, number } => {
            let numbers = numbers(input);
            if !numbers.is_empty() {
                input.splice(numbers[which.index(numbers.len())].clone(), number.bytes());
            }
        }
        Change::End { at } => input.truncate(at.index(input.len() + 1)),
    }
    input.truncate(INPUT_LEN_MAX);
}

fn kept(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable file")).collect()
}

fn try_damaged(target: &Target) {
    let inputs = kept(target);
    let damaged = |(seed, changes): &(Index, Vec<Change>)| {
        let mut input = seed.get(&inputs).clone();
        for change in changes {
            apply(change, &mut input, &inputs);
        }
        input
    };
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let cases = (any::<Index>(), vec(change(), N_CHANGES));
    let outcome = TestRunner::new_with_rng(config, rng).run(&cases, |case| {
        (target.check)(&damaged(&case));
        Ok(())
    });
    if let Err(TestError::Fail(reason, case)) = &outcome {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("damaged-{}", target.name));
        fs::write(&path, damaged(case)).expect("there is room for a file");
        panic!("{}: {reason}; the smallest such input is {}", target.name, path.display());
    }
    outcome.expect("every case counts");
}

#[test]
fn damaged_inputs_pass() {
    thread::scope(|scope| {
        for target in TARGETS {
            scope.spawn(|| try_damaged(target));
        }
    });
}
