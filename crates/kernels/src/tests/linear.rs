//! Products: close to the reference, and the same bits in any company.

use super::support::{Numbers, bits, cpus, dense, relative_error, stored};
use crate::cpu::{Cpu, Isa};
use crate::{Backend, Epilogue, Input, Reference, RmsNorm, Stacking};
use dsde_checkpoint::Dtype;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// A product with everything around it.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: Dtype,
    n_rows: usize,
    n_in: usize,
    /// Rows of each part.
    n_out: usize,
    n_parts: usize,
    stacking: Stacking,
    epilogue: Epilogue,
    has_norm: bool,
    has_bias: bool,
}

impl Case {
    fn plain(dtype: Dtype, n_rows: usize, n_in: usize, n_out: usize) -> Case {
        Case {
            dtype,
            n_rows,
            n_in,
            n_out,
            n_parts: 1,
            stacking: Stacking::Concat,
            epilogue: Epilogue::Store,
            has_norm: false,
            has_bias: false,
        }
    }

    /// Packs the matrix and multiplies with it.
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        self.multiply(backend, &self.pack(backend))
    }

    fn pack<B: Backend>(&self, backend: &B) -> B::Matrix {
        let mut numbers = Numbers::new(7);
        let part_len = self.n_out * self.n_in;
        let parts: Vec<Vec<u8>> =
            (0..self.n_parts).map(|_| stored(self.dtype, &numbers.units(part_len))).collect();
        let parts: Vec<_> = parts.iter().map(|part| dense(self.dtype, self.n_out, self.n_in, part)).collect();
        let bias = numbers.units(self.n_out * self.n_parts);
        backend.pack(&parts, self.stacking, self.has_bias.then_some(&bias))
    }

    /// The product of the first `n_rows` of as many rows as the seed yields.
    fn multiply<B: Backend>(&self, backend: &B, matrix: &B::Matrix) -> Vec<f32> {
        let weight: Vec<f32> = Numbers::new(6).units(self.n_in).iter().map(|x| 1.0 + 0.5 * x).collect();
        let norm = self.has_norm.then_some(RmsNorm { weight: &weight, eps: 1e-5 });
        let width = self.n_out * if self.stacking == Stacking::GateUp { 1 } else { self.n_parts };
        let x = Numbers::new(8).units(self.n_rows * self.n_in);
        let mut out = Numbers::new(9).units(self.n_rows * width);
        backend.linear(Input { x: &x, norm }, self.n_rows, matrix, self.epilogue, &mut out);
        out
    }

    /// Rounding of activations to bf16 costs 2^-9 per product, random over a sum; other formats only reorder `f32` sums.
    /// SwiGLU multiplies two such sums.
    fn tolerance(&self, isa: Isa) -> f32 {
        if self.dtype == Dtype::Bf16 && isa == Isa::Avx512Bf16 { 8e-3 } else { 1e-5 }
    }
}

fn check(case: Case) {
    let expected = case.run(&Reference);
    for cpu in cpus() {
        let error = relative_error(&case.run(&cpu), &expected);
        assert!(error < case.tolerance(cpu.isa()), "{case:?} on {}: {error}", cpu.describe());
    }
}

#[test]
fn products_of_any_shape_agree_with_the_reference() {
    for dtype in DTYPES {
        for (n_rows, n_in, n_out) in [
            (0, 8, 8),
            (1, 1, 1),
            (1, 2, 31),
            (2, 3, 32),
            (3, 64, 33),
            (5, 65, 100),
            (12, 127, 64),
            (13, 130, 65),
            (25, 48, 7),
            (40, 200, 300),
        ] {
            check(Case::plain(dtype, n_rows, n_in, n_out));
        }
    }
}

#[test]
fn products_large_enough_for_all_threads_agree_with_the_reference() {
    for dtype in DTYPES {
        check(Case::plain(dtype, 29, 300, 700));
        check(Case { has_norm: true, ..Case::plain(dtype, 60, 600, 400) });
    }
}

#[test]
fn epilogues_norms_and_biases_agree_with_the_reference() {
    for dtype in DTYPES {
        for (has_norm, has_bias) in [(false, true), (true, false), (true, true)] {
            for n_rows in [1, 7, 14] {
                let plain = Case { has_norm, has_bias, ..Case::plain(dtype, n_rows, 96, 50) };
                check(Case { n_parts: 3, ..plain });
                check(Case { epilogue: Epilogue::Add, ..plain });
                check(Case { n_parts: 2, stacking: Stacking::GateUp, epilogue: Epilogue::SwiGlu, ..plain });
            }
        }
    }
}

#[test]
fn parts_of_different_types_become_one_matrix() {
    let numbers = Numbers::new(3).units(2 * 5 * 4);
    let bytes = [stored(Dtype::F16, &numbers[..20]), stored(Dtype::Bf16, &numbers[20..])];
    let parts = [dense(Dtype::F16, 5, 4, &bytes[0]), dense(Dtype::Bf16, 5, 4, &bytes[1])];
    let input = Input { x: &[1.0, -2.0, 3.0, 0.5], norm: None };
    let mut expected = [0.0; 10];
    let matrix = Reference.pack(&parts, Stacking::Concat, None);
    Reference.linear(input, 1, &matrix, Epilogue::Store, &mut expected);
    for cpu in cpus() {
        let mut out = [0.0; 10];
        let matrix = cpu.pack(&parts, Stacking::Concat, None);
        cpu.linear(input, 1, &matrix, Epilogue::Store, &mut out);
        assert!(relative_error(&out, &expected) < 1e-6);
    }
}

/// Rows of a product must have the same bits for every row count and thread count.
fn check_invariance(case: Case) {
    const N_ROWS_MAX: usize = 33;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let cpus = [1, 2].map(|n_threads| Cpu::with_isa(n_threads, isa).unwrap());
        let matrix = case.pack(&cpus[0]);
        let all = Case { n_rows: N_ROWS_MAX, ..case }.multiply(&cpus[0], &matrix);
        for n_rows in 1..=N_ROWS_MAX {
            for cpu in &cpus {
                let some = Case { n_rows, ..case }.multiply(cpu, &matrix);
                let same = bits(&some) == bits(&all[..some.len()]);
                assert!(same, "{n_rows} rows of {case:?} on {}", cpu.describe());
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_beside_any_number_of_rows_and_on_any_number_of_threads() {
    for dtype in DTYPES {
        let plain = Case { has_norm: true, ..Case::plain(dtype, 0, 131, 70) };
        check_invariance(plain);
        check_invariance(Case {
            n_parts: 2,
            stacking: Stacking::GateUp,
            epilogue: Epilogue::SwiGlu,
            ..plain
        });
    }
    check_invariance(Case::plain(Dtype::Bf16, 0, 512, 1100));
}

#[test]
fn rms_norm_agrees_with_the_reference() {
    for (n_rows, width) in [(0, 8), (1, 1), (1, 100), (3, 33), (5, 256)] {
        let x = Numbers::new(5).units(n_rows * width);
        let weight = Numbers::new(6).units(width);
        let norm = RmsNorm { weight: &weight, eps: 1e-6 };
        let (mut out, mut expected) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        Reference.rms_norm(&x, norm, &mut expected);
        for cpu in cpus() {
            cpu.rms_norm(&x, norm, &mut out);
            assert!(relative_error(&out, &expected) < 1e-6, "{n_rows} x {width} on {}", cpu.describe());
        }
    }
}

#[test]
fn an_instruction_set_that_the_machine_lacks_is_refused() {
    for isa in Isa::ALL {
        assert_eq!(Cpu::with_isa(1, isa).is_ok(), isa.is_supported(), "{isa:?}");
    }
    assert!(Isa::Portable.is_supported());
    assert!(Isa::detect().is_supported());
}

#[test]
fn gathered_rows_are_what_was_packed() {
    for dtype in DTYPES {
        // Less than a panel, a whole one, and several with padding in both directions.
        for (n_out, n_in) in [(1, 1), (5, 3), (32, 64), (70, 33), (96, 17)] {
            let bytes = stored(dtype, &Numbers::new(11).units(n_out * n_in));
            let matrix = dense(dtype, n_out, n_in, &bytes);
            let outputs: Vec<u32> = (0..n_out as u32).rev().chain([0, 0]).collect();
            let mut expected = vec![0.0; outputs.len() * n_in];
            for (&output, row) in outputs.iter().zip(expected.chunks_exact_mut(n_in)) {
                matrix.widen_row(output as usize, row);
            }
            let check = |name: String, out: Vec<f32>| {
                assert_eq!(bits(&out), bits(&expected), "{dtype:?} {n_out} x {n_in} {name}");
            };
            let mut out = vec![f32::NAN; expected.len()];
            Reference.gather(&Reference.pack(&[matrix], Stacking::Concat, None), &outputs, &mut out);
            check(Reference.describe(), out);
            for cpu in cpus() {
                let mut out = vec![f32::NAN; expected.len()];
                cpu.gather(&cpu.pack(&[matrix], Stacking::Concat, None), &outputs, &mut out);
                check(cpu.describe(), out);
            }
        }
    }
}
