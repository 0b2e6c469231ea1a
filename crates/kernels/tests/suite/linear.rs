//! Products: close to the reference, and the same bits in any company.

use crate::support::{Numbers, bits, blocks, cpus, dense, relative_error, rounded, stored};
use dsde_checkpoint::Dtype;
use dsde_kernels::cpu::{Cpu, Isa};
use dsde_kernels::{Backend, Epilogue, Input, Reference, RmsNorm, Stacking};

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
        self.multiply(backend, &self.pack(backend), false)
    }

    /// What the reference makes of the activations that kernels multiply with: rounded ones beside quantised weights.
    fn expected(&self) -> Vec<f32> {
        self.multiply(&Reference, &self.pack(&Reference), self.dtype.is_quantised())
    }

    fn pack<B: Backend>(&self, backend: &B) -> B::Matrix {
        let mut numbers = Numbers::new(7);
        let part_len = self.n_out * self.n_in;
        let bytes = |numbers: &mut Numbers| match self.dtype.is_quantised() {
            true => blocks(self.dtype, part_len, numbers),
            false => stored(self.dtype, &numbers.units(part_len)),
        };
        let parts: Vec<Vec<u8>> = (0..self.n_parts).map(|_| bytes(&mut numbers)).collect();
        let parts: Vec<_> = parts.iter().map(|part| dense(self.dtype, self.n_out, self.n_in, part)).collect();
        let bias = numbers.units(self.n_out * self.n_parts);
        backend.pack(&parts, self.stacking, self.has_bias.then_some(&bias))
    }

    /// The product of the first `n_rows` of as many rows as the seed yields.
    fn multiply<B: Backend>(&self, backend: &B, matrix: &B::Matrix, is_rounded: bool) -> Vec<f32> {
        let weight: Vec<f32> = Numbers::new(6).units(self.n_in).iter().map(|x| 1.0 + 0.5 * x).collect();
        let norm = self.has_norm.then_some(RmsNorm { weight: &weight, eps: 1e-5 });
        let width = self.n_out * if self.stacking == Stacking::GateUp { 1 } else { self.n_parts };
        let mut x = Numbers::new(8).units(self.n_rows * self.n_in);
        let mut norm = norm;
        if is_rounded {
            if let Some(norm) = norm.take() {
                let mut normalised = vec![0.0; x.len()];
                Reference.rms_norm(&x, norm, &mut normalised);
                x = normalised;
            }
            x = rounded(&x);
        }
        let input = Input { x: &x, norm };
        let mut out = Numbers::new(9).units(self.n_rows * width);
        backend.linear(input, self.n_rows, matrix, self.epilogue, &mut out);
        out
    }

    /// Rounding of activations to bf16 costs 2^-9 per product, random over a sum; other formats only reorder `f32` sums.
    /// SwiGLU multiplies two such sums.
    fn tolerance(&self, isa: Isa) -> f32 {
        if self.dtype == Dtype::Bf16 && isa == Isa::Avx512Bf16 { 8e-3 } else { 1e-5 }
    }
}

fn check(case: Case) {
    let expected = case.expected();
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
                for epilogue in [Epilogue::SwiGlu, Epilogue::GeGlu] {
                    check(Case { n_parts: 2, stacking: Stacking::GateUp, epilogue, ..plain });
                }
            }
        }
    }
}

/// Every type of the block formats.
fn quantised() -> impl Iterator<Item = Dtype> {
    Dtype::ALL.into_iter().filter(|dtype| dtype.is_quantised())
}

#[test]
fn products_with_quantised_weights_are_those_of_rounded_activations() {
    for dtype in quantised() {
        let n_in = dtype.block_len();
        for n_rows in 1..=12 {
            check(Case::plain(dtype, n_rows, n_in, 33));
        }
        check(Case::plain(dtype, 25, 3 * n_in, 70));
        check(Case { has_norm: true, has_bias: true, n_parts: 3, ..Case::plain(dtype, 40, 2 * n_in, 100) });
        let plain = Case { has_norm: true, ..Case::plain(dtype, 7, 2 * n_in, 50) };
        check(Case { epilogue: Epilogue::Add, ..plain });
        for epilogue in [Epilogue::SwiGlu, Epilogue::GeGlu] {
            check(Case { n_parts: 2, stacking: Stacking::GateUp, epilogue, ..plain });
        }
    }
}

#[test]
fn products_with_quantised_weights_have_the_same_bits_with_all_vectors() {
    for dtype in quantised() {
        for n_rows in [1, 6, 8, 11] {
            // More steps than a strip takes at a time, where there are chunks of them.
            let case = Case::plain(dtype, n_rows, 768, 70);
            let products: Vec<_> = Isa::ALL
                .into_iter()
                .filter(|isa| *isa >= Isa::Avx2 && isa.is_supported())
                .map(|isa| (isa, bits(&case.run(&Cpu::with_isa(1, isa).unwrap()))))
                .collect();
            for [(first, a), (second, b)] in products.array_windows() {
                assert!(a == b, "{case:?} on {} and {}", first.name(), second.name());
            }
        }
    }
}

#[test]
fn activations_too_small_to_be_scaled_are_zeros() {
    for dtype in quantised() {
        let n_in = dtype.block_len();
        let bytes = blocks(dtype, n_in, &mut Numbers::new(4));
        let matrix = dense(dtype, 1, n_in, &bytes);
        let x = vec![1e-38; n_in];
        for cpu in cpus() {
            let mut out = [1.0];
            let packed = cpu.pack(&[matrix], Stacking::Concat, None);
            cpu.linear(Input { x: &x, norm: None }, 1, &packed, Epilogue::Store, &mut out);
            assert_eq!(out, [0.0], "{dtype:?} on {}", cpu.describe());
        }
    }
}

#[test]
fn rounding_of_activations_costs_less_than_a_hundredth() {
    for dtype in quantised() {
        let case = Case::plain(dtype, 5, 512, 64);
        let exact = case.run(&Reference);
        for cpu in cpus() {
            let error = relative_error(&case.run(&cpu), &exact);
            assert!(error < 0.01, "{dtype:?} on {}: {error}", cpu.describe());
        }
    }
}

#[test]
fn extreme_codes_and_activations_stay_exact() {
    for dtype in quantised() {
        let n_in = dtype.block_len();
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let mut bytes = blocks(dtype, 32 * n_in, &mut Numbers::new(4));
            let scales = bytes.clone();
            bytes.fill(byte);
            // Scales are numbers all the same.
            for (block, from) in
                bytes.chunks_exact_mut(dtype.block_bytes()).zip(scales.chunks_exact(dtype.block_bytes()))
            {
                let kept: &[usize] = match dtype {
                    Dtype::Q2K => &[80, 81, 82, 83],
                    Dtype::Q3K => &[108, 109],
                    Dtype::Q6K => &[208, 209],
                    Dtype::Mxfp4 => &[0],
                    _ => &[0, 1, 2, 3],
                };
                kept.iter().for_each(|&at| block[at] = from[at]);
            }
            let matrix = dense(dtype, 32, n_in, &bytes);
            for x in [1.0, -1.0] {
                let x = vec![x; n_in];
                let input = Input { x: &x, norm: None };
                let mut expected = [0.0; 32];
                let packed = Reference.pack(&[matrix], Stacking::Concat, None);
                Reference.linear(input, 1, &packed, Epilogue::Store, &mut expected);
                for cpu in cpus() {
                    let mut out = [0.0; 32];
                    let packed = cpu.pack(&[matrix], Stacking::Concat, None);
                    cpu.linear(input, 1, &packed, Epilogue::Store, &mut out);
                    let error = relative_error(&out, &expected);
                    assert!(error < 1e-5, "{dtype:?} of {byte:#x} on {}: {error}", cpu.describe());
                }
            }
        }
    }
}

#[test]
fn parts_of_different_quantised_types_stay_what_they_are() {
    let dtypes = [Dtype::Q4K, Dtype::Q4_1, Dtype::Q6K, Dtype::F16, Dtype::Q8_0];
    let mut numbers = Numbers::new(3);
    let (n_in, n_out, n_rows) = (256, 40, 14);
    let bytes = dtypes.map(|dtype| match dtype.is_quantised() {
        true => blocks(dtype, n_out * n_in, &mut numbers),
        false => stored(dtype, &numbers.units(n_out * n_in)),
    });
    let parts: Vec<_> =
        dtypes.iter().zip(&bytes).map(|(&dtype, bytes)| dense(dtype, n_out, n_in, bytes)).collect();
    let x = numbers.units(n_rows * n_in);
    let bias = numbers.units(dtypes.len() * n_out);
    for cpu in cpus() {
        let together = cpu.pack(&parts, Stacking::Concat, Some(&bias));
        let width = dtypes.len() * n_out;
        let mut all = vec![0.0; n_rows * width];
        let input = Input { x: &x, norm: None };
        cpu.linear(input, n_rows, &together, Epilogue::Store, &mut all);
        for (i, part) in parts.iter().enumerate() {
            let alone = cpu.pack(&[*part], Stacking::Concat, Some(&bias[i * n_out..][..n_out]));
            let mut some = vec![0.0; n_rows * n_out];
            cpu.linear(input, n_rows, &alone, Epilogue::Store, &mut some);
            let same = all.chunks_exact(width).map(|row| &row[i * n_out..][..n_out]);
            assert!(same.zip(some.chunks_exact(n_out)).all(|(a, b)| bits(a) == bits(b)), "part {i}");
            let mut row = vec![0.0; n_in];
            let mut expected = vec![0.0; n_in];
            cpu.gather(&together, &[(i * n_out + 7) as u32], &mut row);
            part.widen_row(7, &mut expected);
            assert_eq!(bits(&row), bits(&expected), "row of part {i}");
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
        let cpus = [1, 2].map(|n_threads| Cpu::with_isa(n_threads, isa).expect("it is supported"));
        let matrix = case.pack(&cpus[0]);
        let all = Case { n_rows: N_ROWS_MAX, ..case }.multiply(&cpus[0], &matrix, false);
        for n_rows in 1..=N_ROWS_MAX {
            for cpu in &cpus {
                let some = Case { n_rows, ..case }.multiply(cpu, &matrix, false);
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
    for dtype in quantised() {
        check_invariance(Case { has_norm: true, ..Case::plain(dtype, 0, 512, 70) });
    }
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
    for dtype in Dtype::ALL {
        // Less than a panel, a whole one, and several with padding in both directions.
        for (n_out, n_in) in [(1, 1), (5, 3), (32, 64), (70, 33), (96, 17)] {
            let n_in = n_in * dtype.block_len();
            let bytes = match dtype.is_quantised() {
                true => blocks(dtype, n_out * n_in, &mut Numbers::new(11)),
                false => stored(dtype, &Numbers::new(11).units(n_out * n_in)),
            };
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
