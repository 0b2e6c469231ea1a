//! Outputs that are gated, element by element.

use super::super::Gate;
use super::Cpu;
use super::isa::dispatch;
use super::math::{gelu, sigmoid, silu};
use super::share::SharedMut;

/// Elements that a thread gates at a time.
const GATED_PER_TASK: usize = 1 << 13;

/// See [`Backend::gate`](super::super::Backend::gate).
pub(super) fn gate(cpu: &Cpu, kind: Gate, gates: &[f32], x: &mut [f32]) {
    assert_eq!(gates.len(), x.len(), "one gate per element");
    let len = x.len();
    let shared = SharedMut::new(x);
    cpu.pool.run(len.div_ceil(GATED_PER_TASK), &|task| {
        let first = task * GATED_PER_TASK;
        let n = GATED_PER_TASK.min(len - first);
        // SAFETY: each task has elements of its own.
        let x = unsafe { shared.slice(first, n) };
        gate_some(cpu.isa, kind, &gates[first..first + n], x);
    });
}

dispatch! {
    fn gate_some(kind: Gate, gates: &[f32], x: &mut [f32]) {
        match kind {
            Gate::Sigmoid => {
                for (x, gate) in x.iter_mut().zip(gates) {
                    *x *= sigmoid(*gate);
                }
            }
            Gate::Silu => {
                for (x, gate) in x.iter_mut().zip(gates) {
                    *x *= silu(*gate);
                }
            }
            Gate::Gelu => {
                for (x, gate) in x.iter_mut().zip(gates) {
                    *x *= gelu(*gate);
                }
            }
        }
    }
}
