//! The house stands: every arrow between crates points down, and `unsafe` stays where it belongs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Floor of each crate; a crate may use crates of lower floors only. A new crate or arrow needs a decision record.
const FLOORS: [(&str, u32); 11] = [
    ("policy", 0),
    ("sampling", 0),
    ("checkpoint", 0),
    ("engine", 1),
    ("text", 2),
    ("kernels", 2),
    ("model", 3),
    ("bench", 3),
    ("server", 4),
    ("simulate", 4),
    ("cli", 5),
];

/// The only places that may contain `unsafe`: kernels, and the memory map of the checkpoint reader.
const UNSAFE_ALLOWED: [&str; 3] = ["kernels/src/cpu", "kernels/loom/tests", "checkpoint/src/checkpoint/"];

fn crates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/cli lies in crates/").to_path_buf()
}

#[test]
fn every_crate_has_a_floor() {
    let entries = fs::read_dir(crates_dir()).unwrap();
    let mut found: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: Vec<String> = FLOORS.iter().map(|(name, _)| name.to_string()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn arrows_point_down() {
    let floors: BTreeMap<&str, u32> = FLOORS.into_iter().collect();
    let mut n_arrows = 0;
    for (name, floor) in &floors {
        let manifest = fs::read_to_string(crates_dir().join(name).join("Cargo.toml")).unwrap();
        for used in manifest.lines().filter_map(used_crate) {
            let below =
                floors.get(used).unwrap_or_else(|| panic!("{name} uses dsde-{used}, which has no floor"));
            assert!(below < floor, "{name} (floor {floor}) must not use {used} (floor {below})");
            n_arrows += 1;
        }
    }
    assert!(n_arrows >= FLOORS.len(), "the manifests were read");
}

#[test]
fn the_lowest_floors_depend_on_thiserror_alone() {
    for name in ["policy", "sampling", "engine"] {
        let manifest = fs::read_to_string(crates_dir().join(name).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        let dependencies = dependencies.split("\n[").next().unwrap();
        let foreign = dependencies
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("dsde-") && !line.starts_with("thiserror"));
        assert_eq!(foreign.collect::<Vec<_>>(), [""; 0], "{name}");
    }
}

#[test]
fn unsafe_stays_in_kernels_and_the_memory_map() {
    let mut sources = Vec::new();
    collect_sources(&crates_dir(), &mut sources);
    assert!(sources.len() > 20, "the sources were found");
    for path in sources {
        let relative = path.strip_prefix(crates_dir()).unwrap().to_string_lossy().into_owned();
        let is_allowed = UNSAFE_ALLOWED.iter().any(|place| relative.starts_with(place));
        let text = fs::read_to_string(&path).unwrap();
        let is_used = text.lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        // This file names what it looks for.
        assert!(is_allowed || !is_used || relative.ends_with("architecture.rs"), "unsafe in {relative}");
    }
}

/// `policy` of a line like `dsde-policy.workspace = true`.
fn used_crate(line: &str) -> Option<&str> {
    line.strip_prefix("dsde-")?.split(['.', ' ', '=']).next()
}

fn collect_sources(dir: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source folder is readable") {
        let path = entry.expect("a source folder is readable").path();
        if path.is_dir() {
            collect_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
