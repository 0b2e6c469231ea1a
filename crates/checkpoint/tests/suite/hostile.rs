//! Weight files and folders that are damaged, contradictory or malicious: each gets its error, none a crash.

use std::path::Path;

use dsde_checkpoint::Checkpoint;
use dsde_checkpoint::Error;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "vocab_size": 4, "hidden_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 8
}"#;

/// A safetensors file with this header and `data_len` bytes of data.
fn file(header: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data_len).map(|i| i as u8));
    bytes
}

/// Two tensors: `a`, `[2, 3]` in bf16 at bytes 0..12, and `b`, `[2]` in f32 at bytes 12..20.
fn valid_header() -> Value {
    json!({
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]},
        "__metadata__": {"format": "pt"},
    })
}

fn valid_file() -> Vec<u8> {
    file(&valid_header().to_string(), 20)
}

fn folder(weights: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "config.json", CONFIG);
    write(&folder, "model.safetensors", weights);
    folder
}

fn write(folder: &TempDir, name: &str, contents: impl AsRef<[u8]>) {
    std::fs::write(folder.path().join(name), contents).unwrap();
}

fn opened(weights: &[u8]) -> Result<Checkpoint, Error> {
    Checkpoint::open(folder(weights).path())
}

/// The file is refused with a message that ends like this (it begins with the file's path).
fn check_refused(weights: &[u8], expected: &str) {
    let message = opened(weights).expect_err(expected).to_string();
    assert!(message.contains(expected), "expected {expected:?}, got {message:?}");
}

#[test]
fn tensors_are_found_by_name_and_shape() {
    let checkpoint = opened(&valid_file()).unwrap();
    let a = checkpoint.tensor("a", &[2, 3]).unwrap();
    assert_eq!(a.bytes, (0..12).collect::<Vec<u8>>());
    // Bytes 12..16 and 16..20 as little-endian f32.
    let expected = [f32::from_bits(0x0F0E_0D0C), f32::from_bits(0x1312_1110)];
    assert_eq!(checkpoint.vector("b", 2).unwrap(), expected);
    assert!(checkpoint.has_tensor("a") && !checkpoint.has_tensor("c"));
    assert_eq!(checkpoint.tensor_names().count(), 2);
}

#[test]
fn half_precision_converts_exactly() {
    // 1.5 is 0x3FC0 in bf16 and 0x3E00 in f16; -2 is 0xC000 in both.
    let header = json!({
        "bf16": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "f16": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]},
    });
    let mut bytes = file(&header.to_string(), 0);
    bytes.extend([0xC0, 0x3F, 0x00, 0xC0, 0x00, 0x3E, 0x00, 0xC0]);
    let checkpoint = opened(&bytes).unwrap();
    assert_eq!(checkpoint.vector("bf16", 2).unwrap(), [1.5, -2.0]);
    assert_eq!(checkpoint.vector("f16", 2).unwrap(), [1.5, -2.0]);
}

#[test]
fn wrong_requests_name_the_tensor() {
    let header = json!({"ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}});
    let checkpoint = opened(&file(&header.to_string(), 8)).unwrap();
    let message = |name: &str, shape: &[usize]| checkpoint.tensor(name, shape).unwrap_err().to_string();
    assert_eq!(message("lm_head.weight", &[1]), "the weights lack tensor lm_head.weight");
    assert_eq!(message("ids", &[2, 3]), "tensor ids must have shape [2, 3], got [1]");
    assert_eq!(
        message("ids", &[1]),
        "tensor ids must be one of [F32, F16, Bf16], got I64; convert the weights"
    );
}

#[test]
fn files_cut_anywhere_are_refused() {
    let whole = valid_file();
    for len in 0..whole.len() {
        let error = opened(&whole[..len]).expect_err("a part");
        assert!(matches!(error, Error::FileLen { got, .. } if got == len as u64), "{len}: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(opened(&longer), Err(Error::FileLen { .. })));
}

#[test]
fn impossible_header_lengths_are_refused() {
    for len in [u64::MAX, u64::MAX - 7, 1 << 63, 100_000_001] {
        let mut bytes = valid_file();
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        check_refused(&bytes, &format!("header must have at most 100000000 bytes, got {len}"));
    }
    let mut bytes = valid_file();
    bytes[..8].copy_from_slice(&100_000_000u64.to_le_bytes());
    assert!(matches!(opened(&bytes), Err(Error::FileLen { expected: 100_000_008, .. })));
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let tensor = |dtype: &str, shape: Value, start: Value, end: Value| json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
    let a = tensor("F32", json!([2]), json!(0), json!(8));
    let huge = 1u64 << 62;
    let cases = [
        ("overlap", json!({"a": a, "b": tensor("F32", json!([2]), json!(4), json!(12))})),
        ("same place", json!({"a": a, "b": a})),
        ("gap", json!({"a": a, "b": tensor("F32", json!([2]), json!(12), json!(20))})),
        ("backwards", json!({"a": tensor("F32", json!([2]), json!(8), json!(0))})),
        ("negative", json!({"a": tensor("F32", json!([2]), json!(-8), json!(0))})),
        ("too short for the shape", json!({"a": tensor("F32", json!([3]), json!(0), json!(8))})),
        ("unknown type", json!({"a": tensor("F33", json!([2]), json!(0), json!(8))})),
        ("product overflow", json!({"a": tensor("F32", json!([huge, huge]), json!(0), json!(8))})),
        ("product wraps to the size", json!({"a": tensor("U8", json!([huge, 4, 8]), json!(0), json!(0))})),
        ("negative shape", json!({"a": tensor("F32", json!([-2]), json!(0), json!(8))})),
        ("no offsets", json!({"a": {"dtype": "F32", "shape": [2]}})),
        ("no object", json!({"a": 7})),
        ("list", json!([])),
        ("metadata of numbers", json!({"__metadata__": {"a": 1}, "a": a})),
    ];
    for (name, header) in cases {
        let error = opened(&file(&header.to_string(), 8)).expect_err(name);
        assert!(matches!(error, Error::Header { .. }), "{name}: {error}");
    }
    assert!(matches!(opened(&file("{\"a\": \u{1}", 8)), Err(Error::Header { .. })));
    let not_utf8 = [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat();
    assert!(matches!(opened(&not_utf8), Err(Error::Header { .. })));
    let deep = "[".repeat(50_000);
    assert!(matches!(opened(&file(&deep, 0)), Err(Error::Header { .. })));
}

#[test]
fn lengths_that_overflow_only_in_sum_are_refused() {
    // Eight tensors of 2^61 - 1 bytes end 8 bytes before 2^64; header and length field push the sum over it.
    let len = (1u64 << 61) - 1;
    let tensors = (0..8u64).map(|i| {
        let tensor = json!({"dtype": "U8", "shape": [len], "data_offsets": [i * len, (i + 1) * len]});
        (format!("t{i}"), tensor)
    });
    let header = Value::Object(tensors.collect()).to_string();
    let bytes = file(&header, 0);
    assert!(matches!(opened(&bytes), Err(Error::FileLen { expected: u64::MAX, .. })));
}

#[test]
fn the_last_of_duplicate_names_counts_or_the_file_is_refused() {
    let twice_here = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                         "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(opened(&file(twice_here, 8)).unwrap().tensor("a", &[2]).unwrap().bytes.len(), 8);
    let twice_elsewhere = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                              "a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
    assert!(matches!(opened(&file(twice_elsewhere, 16)), Err(Error::Header { .. })));
}

#[test]
fn tensors_without_elements_are_empty() {
    let header = json!({"none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]}});
    let checkpoint = opened(&file(&header.to_string(), 0)).unwrap();
    assert!(checkpoint.tensor("none", &[0, 5]).unwrap().to_f32().is_empty());
}

fn indexed(weight_map: Value) -> Result<Checkpoint, Error> {
    let folder = folder(&valid_file());
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::copy(folder.path().join("config.json"), inner.join("config.json")).unwrap();
    std::fs::copy(folder.path().join("model.safetensors"), inner.join("a.safetensors")).unwrap();
    let index = json!({"weight_map": weight_map}).to_string();
    std::fs::write(inner.join("model.safetensors.index.json"), index).unwrap();
    Checkpoint::open(&inner)
}

#[test]
fn an_index_names_the_tensors() {
    let checkpoint = indexed(json!({"b": "a.safetensors"})).unwrap();
    assert!(checkpoint.has_tensor("b") && !checkpoint.has_tensor("a"));
}

#[test]
fn shard_names_cannot_leave_the_folder() {
    let names = [
        "../model.safetensors",
        "/etc/model.safetensors",
        "./a.safetensors",
        "a.safetensors/",
        "x/../a.safetensors",
        "x\\a.safetensors",
        "..",
        "",
        "config.json",
    ];
    for name in names {
        let error = indexed(json!({"b": name})).expect_err(name);
        assert!(matches!(&error, Error::ShardName { got } if got == name), "{name}: {error}");
    }
}

#[test]
fn an_index_that_promises_too_much_is_refused() {
    let error = indexed(json!({"c": "a.safetensors"})).unwrap_err();
    assert_eq!(error.to_string(), "a.safetensors lacks tensor c, which the index promises");
    assert!(matches!(indexed(json!({"a": "absent.safetensors"})), Err(Error::Io { .. })));
    assert!(matches!(indexed(json!({"a": 5})), Err(Error::Json { .. })));
    let many: serde_json::Map<_, _> =
        (0..5000).map(|i| (format!("t{i}"), json!(format!("{i}.safetensors")))).collect();
    assert!(matches!(indexed(Value::Object(many)), Err(Error::TooManyShards { expected: 4096, got: 5000 })));
}

#[test]
fn folders_that_are_no_models_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    let shown = folder.path().display();
    let absent = folder.path().join("absent");
    assert!(message(&absent).starts_with(&format!("cannot read {shown}/absent: ")));
    assert_eq!(message(folder.path()), format!("{shown} has no config.json"));
    write(&folder, "config.json", CONFIG);
    let expected =
        "model.safetensors or model.safetensors.index.json; weights in other formats must be converted";
    assert_eq!(message(folder.path()), format!("{shown} has no {expected}"));
    let config = folder.path().join("config.json");
    let expected = format!(
        "{shown}/config.json is not a folder; give the folder that holds config.json, or a *.gguf file"
    );
    assert_eq!(message(&config), expected);
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert_eq!(message(folder.path()), format!("{shown}/model.safetensors is not a regular file"));
}

#[test]
fn enormous_text_files_are_refused_unread() {
    let folder = folder(&valid_file());
    // A sparse file: it has a length but no contents.
    std::fs::File::create(folder.path().join("config.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(Error::FileTooLarge { got: 0x100_0000_0000, .. })));
}

/// Changes of a file: bytes overwritten, a part removed, a part repeated.
fn mutation() -> impl Strategy<Value = (Vec<(usize, u8)>, usize, usize)> {
    let len = valid_file().len();
    let byte = prop_oneof![any::<u8>(), Just(b'9'), Just(b'"'), Just(b'['), Just(b'{')];
    (proptest::collection::vec((0..len, byte), 0..6), 0..len, 0..8usize)
}

proptest! {
    #[test]
    fn mutated_files_open_or_fail_but_never_panic((bytes, at, cut) in mutation()) {
        let mut weights = valid_file();
        for (i, byte) in bytes {
            weights[i] = byte;
        }
        if cut < 4 {
            let end = (at + cut).min(weights.len());
            weights.drain(at..end);
        } else {
            weights.splice(at..at, vec![b' '; cut]);
        }
        if let Ok(checkpoint) = opened(&weights) {
            for name in checkpoint.tensor_names() {
                let tensor = checkpoint.tensor(name, &[2, 3]).or_else(|_| checkpoint.tensor(name, &[2]));
                prop_assert!(tensor.map_or(0, |tensor| tensor.to_f32().len()) <= 6);
            }
        }
    }
}
