//! Code of other crates, compiled once per instruction set.
//!
//! Passes over a vocabulary (softmax, divergence, residuals) are plain inlined Rust in `dsde-sampling`. Called from here they are
//! compiled for the vector units of the machine and give the same bits, several times sooner.

use super::Isa;

/// Work without intrinsics that profits from wide vectors.
///
/// Mark `run` and what it calls `#[inline(always)]`, closures excepted, which cannot be: a function that is not inlined is
/// compiled for the least processor.
pub trait Kernel {
    /// What it computes.
    type Output;

    /// Does the work.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// Runs a kernel compiled for this instruction set.
    ///
    /// # Panics
    /// If the machine does not support it.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.is_supported(), "this processor lacks {}", self.name());
        match self.vectors() {
            // SAFETY: support was just checked.
            #[cfg(target_arch = "x86_64")]
            super::isa::Vectors::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            super::isa::Vectors::Avx512 => unsafe { run_avx512(kernel) },
            _ => kernel.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
