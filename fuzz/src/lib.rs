//! Runs the targets of `dsde-fuzz-targets` under libFuzzer, one program each.

use std::backtrace::Backtrace;
use std::panic;
use std::process;
use std::sync::{Mutex, PoisonError};

/// What the last panic said, and where it was if `RUST_BACKTRACE` asks.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps panics for [`run`]. Libraries panic on some inputs, which the project catches; libfuzzer-sys would end at each of them.
pub fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        let text = format!("{info}\n{}", Backtrace::capture());
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }));
}

/// Runs a target; a panic that nobody catches is a finding.
pub fn run(check: fn(&[u8]), bytes: &[u8]) {
    if panic::catch_unwind(|| check(bytes)).is_err() {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        process::abort();
    }
}

/// The program of a target.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(init: $crate::keep_panics(), |bytes: &[u8]| $crate::run(
            dsde_fuzz_targets::$name,
            bytes
        ));
    };
}
