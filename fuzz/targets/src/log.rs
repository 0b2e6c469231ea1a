//! Logs of benchmarks, and what is made of them.

use dsde_bench::log::LogFile;
use dsde_bench::{Log, comparison, page, plot};

use crate::input::files;

/// A log that can be read can be compared, drawn and gone on with.
pub fn log(bytes: &[u8]) {
    let folder = files(&[("log.jsonl", bytes)]);
    let path = folder.path().join("log.jsonl");
    let Ok(log) = Log::read(&path) else { return };
    assert!(!comparison::page(&log).is_empty());
    plot::figures(&log, &|_| true).expect("figures of any log can be drawn");
    let _ = page::of_log(&log).html();
    if bytes.ends_with(b"\n") {
        let copy = files(&[]);
        let copy = copy.path().join("log.jsonl");
        let mut file = LogFile::open(&copy, log.heading.clone()).expect("a new file");
        log.runs.iter().for_each(|run| file.push(run.clone()).expect("there is room"));
        drop(file);
        assert_eq!(Log::read(&copy).expect("a log that was written"), log);
    }
}
