//! Models in several files, and folders with GGUF files.

use std::path::Path;

use dsde_checkpoint::gguf::Gguf;
use dsde_checkpoint::{Checkpoint, Error};
use tempfile::TempDir;

use super::models::model;
use super::writer::Writer;

fn name(idx: u32, n_parts: u32) -> String {
    format!("m-{:05}-of-{n_parts:05}.gguf", idx + 1)
}

/// The model's files: metadata in the first, which has no tensors, and half of the tensors in each of two others.
fn parts() -> [Writer; 3] {
    let whole = model();
    let n_tensors = whole.tensors.len();
    let (front, back) = whole.tensors.split_at(n_tensors / 2);
    let mut parts = [whole.clone(), Writer::default(), Writer::default()];
    for (i, tensors) in [&[], front, back].into_iter().enumerate() {
        parts[i].tensors = tensors.to_vec();
        parts[i].u32("split.no", i as u32).u32("split.count", 3);
        parts[i].u32("split.tensors.count", n_tensors as u32);
    }
    parts
}

fn folder(parts: &[Writer; 3]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, part) in parts.iter().enumerate() {
        write(&folder, &name(i as u32, 3), part);
    }
    folder
}

fn write(folder: &TempDir, name: &str, writer: &Writer) {
    std::fs::write(folder.path().join(name), writer.bytes()).unwrap();
}

fn message(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

#[test]
fn any_part_stands_for_all() {
    let folder = folder(&parts());
    for i in 0..3 {
        let file = Gguf::open(&folder.path().join(name(i, 3))).unwrap();
        assert_eq!(file.metadata().text("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.tensor_names().count(), model().tensors.len());
    }
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.vector("model.norm.weight", 4).unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn missing_and_renamed_parts_are_named() {
    let folder = folder(&parts());
    let (first, second) = (folder.path().join(name(0, 3)), folder.path().join(name(1, 3)));
    let renamed = folder.path().join("renamed.gguf");
    std::fs::rename(&second, &renamed).unwrap();
    assert!(message(&first).starts_with(&format!("cannot read {}: ", second.display())));
    let expected = format!(
        "{0}: the name must be NAME-00002-of-00003.gguf, as it is a part, got renamed.gguf",
        renamed.display()
    );
    assert_eq!(message(&renamed), expected);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let check = |change: fn(&mut [Writer; 3]), expected: &str| {
        let mut parts = parts();
        change(&mut parts);
        let folder = folder(&parts);
        let message = message(&folder.path().join(name(0, 3)));
        assert!(message.ends_with(expected), "expected {expected:?}, got {message:?}");
    };
    let belongs = "the file must be part 2 of 3, with as many tensors in all, got part";
    check(
        |parts| {
            parts[1].u32("split.no", 2);
        },
        &format!("{belongs} 3 of 3"),
    );
    check(
        |parts| {
            parts[1].u32("split.count", 4);
        },
        &format!("{belongs} 2 of 4"),
    );
    check(
        |parts| {
            parts[1].without("split.count").without("split.no");
        },
        &format!("{belongs} 1 of 1"),
    );
    check(
        |parts| {
            parts[1].u32("split.tensors.count", 1);
        },
        &format!("{belongs} 2 of 3"),
    );
    check(
        |parts| {
            parts[2].tensors.pop();
        },
        "tensors of all parts must be 12, got 11",
    );
    check(
        |parts| parts[2].tensors[0] = parts[1].tensors[0].clone(),
        "tensor token_embd.weight must be in one part, got in two",
    );
    check(
        |parts| {
            parts[0].u32("split.no", 3);
        },
        "split.no must be below 3, got 3",
    );
    check(
        |parts| {
            parts[0].u32("split.count", 5000);
        },
        "split.count must be at most 4096, got 5000",
    );
    check(
        |parts| {
            parts[0].text("split.count", "../3");
        },
        "split.count must be a whole number that is not negative, got \"../3\"",
    );
}

#[test]
fn merged_files_and_single_parts_are_whole() {
    for count in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "merged.gguf", model().u32("split.count", count).u32("split.no", 0));
        assert!(Checkpoint::open(folder.path()).is_ok());
    }
}

#[test]
fn folders_hold_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().display();
    assert_eq!(message(folder.path()), format!("{shown} has no config.json"));
    write(&folder, "b.GGUF", &model());
    assert!(Checkpoint::open(folder.path()).is_ok());
    write(&folder, "config.json", &Writer::default());
    assert!(Checkpoint::open(folder.path()).is_ok(), "folders of GGUF files may have a configuration");
    write(&folder, "a.gguf", &model());
    assert_eq!(message(folder.path()), format!("{shown} holds several models; give one of a.gguf, b.GGUF"));
    assert!(Checkpoint::open(&folder.path().join("a.gguf")).is_ok());
    write(&folder, "model.safetensors", &model());
    assert!(message(folder.path()).starts_with("config.json cannot be parsed"));
}

#[test]
fn files_are_known_by_their_beginning_or_name() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "model", &model());
    assert!(Checkpoint::open(&folder.path().join("model")).is_ok());
    let named = folder.path().join("model.gguf");
    std::fs::write(&named, "<html>").unwrap();
    assert!(message(&named).ends_with("the beginning must be GGUF, got <htm"));
    std::fs::write(&named, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(matches!(Checkpoint::open(&named), Err(Error::LfsPointer { .. })));
    std::fs::write(folder.path().join("text"), "<html>").unwrap();
    assert!(matches!(Checkpoint::open(&folder.path().join("text")), Err(Error::NotAFolder { .. })));
}
