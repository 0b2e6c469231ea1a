//! Files that are damaged, contradictory or malicious: each gets its error, none a crash or an allocation of its size.

use dsde_checkpoint::gguf::Gguf;
use dsde_checkpoint::{Checkpoint, Error};
use proptest::prelude::*;

use super::models::model;
use super::writer::{self, Writer, array, text};
use super::written;

fn opened(bytes: &[u8]) -> Result<Gguf, Error> {
    let (_folder, path) = written(bytes);
    Gguf::open(&path)
}

/// The file is refused with a message that ends like this (it begins with the file's path).
fn check(bytes: &[u8], expected: &str) {
    let message = opened(bytes).expect_err(expected).to_string();
    assert!(message.contains(expected), "expected {expected:?}, got {message:?}");
}

/// A model whose metadata have a value of every kind.
fn rich_model() -> Writer {
    let mut writer = model();
    let texts = [text("ab"), text("c")].concat();
    writer
        .array("tokenizer.ggml.tokens", writer::TEXT, 2, texts)
        .array("tokenizer.ggml.token_type", writer::I32, 2, [3, 0, 0, 0, 1, 0, 0, 0])
        .array("tokenizer.ggml.scores", writer::F32, 1, [0; 4])
        .array("flags", writer::FLAG, 1, [1])
        .array("nested", writer::ARRAY, 1, array(writer::U8, 2, [1, 2]))
        .value("flag", writer::FLAG, [1])
        .value("small", writer::I16, [1, 0])
        .value("wide", writer::F64, [0; 8]);
    writer
}

#[test]
fn files_cut_anywhere_are_refused() {
    let whole = rich_model().bytes();
    let (_folder, path) = written(&whole);
    assert!(Gguf::open(&path).is_ok());
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = Gguf::open(&path).expect_err("a part");
        assert!(matches!(error, Error::FileLen { got, .. } if got == len as u64), "{len}: {error}");
    }
    // What lies behind the last tensor is padding.
    assert!(opened(&[&whole[..], &[0; 100]].concat()).is_ok());
}

#[test]
fn impossible_counts_are_refused() {
    for n in [1 << 40, u64::MAX] {
        check(
            &Writer { n_tensors: Some(n), ..model() }.bytes(),
            &format!("the number of tensors must be at most 65536, got {n}"),
        );
        check(
            &Writer { n_keys: Some(n), ..model() }.bytes(),
            &format!("the number of keys must be at most 65536, got {n}"),
        );
    }
    for type_id in [writer::U8, writer::TEXT, writer::F64, writer::FLAG, writer::ARRAY] {
        for n in [1 << 40, u64::MAX] {
            let expected = format!("key must be at most 8388608 elements with the arrays before, got {n}");
            check(&model().array("key", type_id, n, []).bytes(), &expected);
        }
        // Allowed, and more than the file has.
        let error = opened(&model().array("key", type_id, 1 << 23, []).bytes()).unwrap_err();
        assert!(matches!(error, Error::FileLen { .. } | Error::Gguf { .. }), "{error}");
    }
    let ones = vec![1; 5 << 20];
    let n = ones.len() as u64;
    let mut both = model();
    both.array("first", writer::FLAG, n, &ones).array("second", writer::FLAG, n, &ones);
    check(&both.bytes(), "second must be at most 8388608 elements with the arrays before, got 5242880");
}

#[test]
fn impossible_lengths_are_refused() {
    for len in [1 << 40, u64::MAX - 7, u64::MAX] {
        let error = opened(&model().value("key", writer::TEXT, len.to_le_bytes()).bytes()).unwrap_err();
        assert!(matches!(error, Error::FileLen { expected, .. } if expected >= 1 << 40), "{error}");
    }
}

#[test]
fn arrays_lie_four_deep_at_most() {
    let nested = |depth: usize| {
        let innermost = array(writer::U8, 1, [7]);
        let bytes = (1..depth).fold(innermost, |inner, _| array(writer::ARRAY, 1, inner));
        model().value("key", writer::ARRAY, bytes).bytes()
    };
    assert!(opened(&nested(4)).is_ok());
    check(&nested(5), "key must be at most 4 arrays deep, got one more");
    check(&nested(10_000), "key must be at most 4 arrays deep");
}

#[test]
fn values_that_are_none_are_refused() {
    let value = |type_id, bytes: &[u8]| model().value("key", type_id, bytes).bytes();
    check(&value(13, &[]), "key must be of a type from 0 to 12, got type 13");
    check(&value(u32::MAX, &[]), "got type 4294967295");
    check(
        &value(writer::ARRAY, &array(13, 0, [])),
        "key must be an array of a type from 0 to 12, got type 13",
    );
    check(&value(writer::FLAG, &[2]), "key must be 0 or 1, got 2");
    check(&value(writer::ARRAY, &array(writer::FLAG, 2, [1, 255])), "key must be 0 or 1, got 255");
    let not_utf8 = [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat();
    check(&value(writer::TEXT, &not_utf8), "key must be UTF-8, got invalid utf-8 sequence");
    check(&value(writer::ARRAY, &array(writer::TEXT, 1, &not_utf8)), "key must be UTF-8");
}

#[test]
fn things_that_are_there_twice_are_refused() {
    check(
        &model().second_value("llama.block_count", writer::U8, [1]).bytes(),
        "llama.block_count must be there once",
    );
    let mut writer = model();
    writer.tensor("output_norm.weight", &[4], 0, vec![0; 16]);
    check(&writer.bytes(), "tensor output_norm.weight must be there once, got a second one");
}

#[test]
fn alignments_are_powers_of_two() {
    for alignment in [0, 3, 48, u32::MAX] {
        let expected = format!("general.alignment must be a power of two below 2^32, got {alignment}");
        check(&model().u32("general.alignment", alignment).bytes(), &expected);
    }
    check(&model().text("general.alignment", "32").bytes(), "general.alignment must be a whole number");
    let huge = model().value("general.alignment", writer::U64, (1u64 << 63).to_le_bytes()).bytes();
    check(&huge, "general.alignment must be a power of two below 2^32");
    assert!(matches!(opened(&model().u32("general.alignment", 1 << 31).bytes()), Err(Error::Gguf { .. })));
}

#[test]
fn tables_that_contradict_themselves_are_refused() {
    let changed = |change: fn(&mut writer::Tensor)| {
        let mut writer = model();
        change(&mut writer.tensors[4]);
        writer.bytes()
    };
    let q = "blk.0.attn_q.weight";
    for (change, expected) in [
        (
            (|tensor| tensor.offset = Some(1)) as fn(&mut writer::Tensor),
            format!("the place of {q} must be a multiple of 32, got 1"),
        ),
        // The first two tensors have 80 and 16 bytes.
        (|tensor| tensor.offset = Some(96), "must be behind".to_string()),
        (
            |tensor| tensor.offset = Some(64),
            "must be behind token_embd.weight, which ends at 80, got 64".to_string(),
        ),
        (|tensor| tensor.offset = Some(1 << 40), "download it again".to_string()),
        (|tensor| tensor.offset = Some(u64::MAX - 31), format!("the size of {q} must be below 2^63 bytes")),
        (|tensor| tensor.dims = vec![], format!("the number of dimensions of {q} must be 1 to 4, got 0")),
        (|tensor| tensor.dims = vec![1; 5], "must be 1 to 4, got 5".to_string()),
        (
            |tensor| tensor.dims[1] = 0,
            format!("a dimension of {q} must be from 1 to the largest address, got 0"),
        ),
        (|tensor| tensor.dims = vec![1 << 62, 1 << 62], format!("the size of {q} must be below 2^63 bytes")),
        // 2^64 elements would wrap to none.
        (|tensor| tensor.dims = vec![1 << 32, 1 << 32], format!("the size of {q} must be below 2^63 bytes")),
        (|tensor| tensor.dims[1] = 1 << 40, "must be behind".to_string()),
        (
            |tensor| tensor.type_id = 8,
            format!("the rows of {q} must be multiples of 32, the block of Q8_0, got 4"),
        ),
        (|tensor| tensor.type_id = 12, "must be multiples of 256, the block of Q4_K, got 4".to_string()),
    ] {
        check(&changed(change), &expected);
    }
    let mut long = model();
    long.tensors[11].dims[1] = 1 << 40;
    assert!(matches!(opened(&long.bytes()), Err(Error::FileLen { .. })));
}

#[test]
fn headers_have_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let len = 300u64 << 20;
    std::fs::write(&path, model().value("key", writer::TEXT, len.to_le_bytes()).bytes()).unwrap();
    // A sparse file: it has a length but no contents.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    assert!(matches!(Gguf::open(&path), Err(Error::HeaderLen { expected: 0x1000_0000, .. })));
}

proptest! {
    #[test]
    fn mutated_files_open_or_fail_but_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        at in any::<proptest::sample::Index>(),
        cut in 0..12usize,
    ) {
        let mut bytes = rich_model().bytes();
        let n_bytes = bytes.len();
        for (i, byte) in changes {
            bytes[i.index(n_bytes)] = byte;
        }
        let at = at.index(n_bytes);
        match cut {
            0..4 => drop(bytes.drain(at..(at + cut).min(n_bytes))),
            4..8 => drop(bytes.splice(at..at, vec![0; cut])),
            _ => {}
        }
        let (_folder, path) = written(&bytes);
        if let Ok(file) = Gguf::open(&path) {
            for name in file.tensor_names() {
                prop_assert!(file.tensor(name).unwrap().to_f32().len() <= n_bytes);
            }
        }
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            for name in checkpoint.tensor_names() {
                prop_assert!(checkpoint.stored(name).unwrap().to_f32().len() <= n_bytes);
            }
            let vocab_len = checkpoint.config().vocab_len;
            prop_assert!(checkpoint.config().eos_tokens.iter().all(|&token| (token as usize) < vocab_len));
        }
    }
}
