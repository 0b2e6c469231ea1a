//! Inputs that are kept, seeds and past findings alike, pass their targets; and every target has all that belongs to it.

use std::fs;
use std::path::{Path, PathBuf};

use dsde_fuzz_targets::TARGETS;

fn fuzz_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in fuzz/")
}

fn listed(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}

#[test]
fn kept_inputs_pass() {
    for target in TARGETS {
        for path in listed(fuzz_dir().join("corpus").join(target.name)) {
            println!("{}", path.display());
            (target.check)(&fs::read(&path).expect("a readable file"));
        }
    }
}

#[test]
fn every_target_has_a_program_and_inputs() {
    let names = |folder: &str| -> Vec<String> {
        let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
        listed(fuzz_dir().join(folder)).iter().map(stem).collect()
    };
    let expected: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert!(expected.is_sorted());
    assert_eq!(names("src/bin"), expected);
    assert_eq!(names("corpus"), expected);
}
