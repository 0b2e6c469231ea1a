//! Files that are written, read back.

use dsde_checkpoint::Dtype;
use dsde_checkpoint::gguf::{Declared, Gguf, Keys, Value, Writer};

use super::models::model;
use super::writer;
use super::written;

fn declared(name: &str, dtype: Dtype, shape: &[usize]) -> Declared {
    Declared { name: name.to_string(), dtype, shape: shape.to_vec() }
}

/// Three tensors, one of them in pieces.
fn file(keys: &Keys) -> Vec<u8> {
    let tensors = [
        declared("a", Dtype::F32, &[3]),
        declared("b", Dtype::Q8_0, &[2, 32]),
        declared("c", Dtype::F16, &[1, 2, 3]),
    ];
    let mut writer = Writer::new(Vec::new(), keys, &tensors).unwrap();
    writer.append(&writer::f32s([1.0, 2.0, 3.0])).unwrap();
    for byte in 0..68 {
        writer.append(&[byte]).unwrap();
    }
    writer.append(&[1; 12]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn values_of_all_kinds_are_read_back() {
    let mut keys = Keys::default();
    keys.u32("whole", u32::MAX)
        .f32("float", 0.1)
        .flag("flag", true)
        .text("text", "ä\0")
        .texts("texts", ["a", "", "b c"].into_iter())
        .i32s("numbers", &[-1, 7]);
    keys.u32("whole", 3);
    assert_eq!(keys.len(), 6);
    let (_folder, path) = written(&file(&keys));
    let gguf = Gguf::open(&path).unwrap();
    let expected = [
        ("flag", Value::Flag(true)),
        ("float", Value::Float(0.1_f32.into())),
        ("numbers", Value::Signeds(vec![-1, 7])),
        ("text", Value::Text("ä\0".into())),
        ("texts", Value::Texts(vec!["a".into(), String::new(), "b c".into()])),
        ("whole", Value::Unsigned(3)),
    ];
    assert_eq!(gguf.metadata().keys().count(), expected.len());
    for (key, value) in expected {
        assert_eq!(gguf.metadata().get(key), Some(&value), "{key}");
    }
}

#[test]
fn tensors_are_read_back() {
    let (_folder, path) = written(&file(&Keys::default()));
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.stored_names(), ["a", "b", "c"]);
    let a = gguf.tensor("a").unwrap();
    assert_eq!((a.dtype, a.shape, a.to_f32()), (Dtype::F32, &[3][..], vec![1.0, 2.0, 3.0]));
    let b = gguf.tensor("b").unwrap();
    assert_eq!((b.dtype, b.shape), (Dtype::Q8_0, &[2, 32][..]));
    assert!(b.bytes.iter().copied().eq(0..68));
    assert_eq!(gguf.tensor("c").unwrap().shape, [1, 2, 3]);
}

#[test]
fn keys_of_a_file_are_written_again_with_their_types() {
    let mut source = model();
    source
        .value("a.byte", writer::U8, [7])
        .value("a.wide", writer::U64, 7u64.to_le_bytes())
        .value("a.exact", writer::F64, 0.1f64.to_le_bytes())
        .array("a.short", writer::I16, 2, [1, 0, 2, 0]);
    let (_folder, path) = written(&source.bytes());
    let gguf = Gguf::open(&path).unwrap();
    let mut keys = gguf.keys();
    assert_eq!(keys.len(), source.keys.len());
    let (_folder, path) = written(&file(&keys));
    let copy = Gguf::open(&path).unwrap();
    assert_eq!(copy.metadata(), gguf.metadata());
    assert_eq!(copy.keys(), keys, "types included");
    keys.retain(|key| key.starts_with("a."));
    assert_eq!(keys.len(), 4);
}

#[test]
#[should_panic(expected = "written and those that were declared")]
fn a_file_without_its_last_tensor_is_not_finished() {
    let tensors = [declared("a", Dtype::F32, &[1])];
    let _ = Writer::new(Vec::new(), &Keys::default(), &tensors).unwrap().finish();
}
