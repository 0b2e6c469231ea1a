//! Products by expert: the rows of each are those of its own matrix, bit for bit, in any company.

use crate::support::{Numbers, bits, blocks, cpus, dense, relative_error, rounded, stored};
use dsde_checkpoint::{Dense, Dtype};
use dsde_kernels::{Backend, Epilogue, Input, Reference, Routed, Stacking, Woken};

const N_EXPERTS: usize = 5;

/// Matrices of five experts, and rows for some of them.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: Dtype,
    n_in: usize,
    n_out: usize,
    epilogue: Epilogue,
    has_bias: bool,
    /// Rows of each expert.
    rows: [usize; N_EXPERTS],
}

/// Stored matrices of a case, `[expert][part]`.
struct Stored(Vec<Vec<Vec<u8>>>);

impl Case {
    fn stored(&self) -> Stored {
        let mut numbers = Numbers::new(7);
        let len = self.n_out * self.n_in;
        let mut matrix = |_| match self.dtype.is_quantised() {
            true => blocks(self.dtype, len, &mut numbers),
            false => stored(self.dtype, &numbers.units(len)),
        };
        Stored((0..N_EXPERTS).map(|_| (0..self.n_parts()).map(&mut matrix).collect()).collect())
    }

    fn n_parts(&self) -> usize {
        if self.epilogue.is_gated() { 2 } else { 1 }
    }

    fn stacking(&self) -> Stacking {
        if self.epilogue.is_gated() { Stacking::GateUp } else { Stacking::Concat }
    }

    fn experts<'a>(&self, stored: &'a Stored) -> Vec<Vec<Dense<'a>>> {
        let part = |bytes: &'a Vec<u8>| dense(self.dtype, self.n_out, self.n_in, bytes);
        stored.0.iter().map(|parts| parts.iter().map(part).collect()).collect()
    }

    /// Biases of all experts, as large as the products.
    fn bias(&self) -> Option<Vec<f32>> {
        self.has_bias.then(|| Numbers::new(9).units(N_EXPERTS * self.n_parts() * self.n_out))
    }

    fn n_rows(&self) -> usize {
        self.rows.iter().sum()
    }

    fn woken(&self) -> Vec<Woken> {
        let mut end = 0;
        let woken = (0..).zip(self.rows).filter(|&(_, n)| n > 0).map(|(expert, n)| {
            end += n as u32;
            Woken { expert, end }
        });
        woken.collect()
    }

    /// Products of rows taken from an input of seven, or of one row each.
    fn run<B: Backend>(&self, backend: &B, has_sources: bool, is_rounded: bool) -> Vec<f32> {
        let stored = self.stored();
        let experts = self.experts(&stored);
        let experts: Vec<&[Dense<'_>]> = experts.iter().map(Vec::as_slice).collect();
        let packed = backend.pack_experts(&experts, self.stacking(), self.bias().as_deref());
        let n_rows = self.n_rows();
        let sources: Vec<u32> = (0..n_rows as u32).map(|i| i * 5 % 7).collect();
        let mut x = Numbers::new(8).units(if has_sources { 7 } else { n_rows } * self.n_in);
        if is_rounded {
            x = rounded(&x);
        }
        let woken = self.woken();
        let routed = Routed { woken: &woken, sources: has_sources.then_some(&sources) };
        assert_eq!(routed.n_rows(), n_rows);
        let mut out = vec![f32::NAN; n_rows * self.n_out];
        backend.linear_by_expert(&x, routed, &packed, self.epilogue, &mut out);
        out
    }

    /// The same, row by row through matrices of their own.
    fn singly<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let stored = self.stored();
        let x = Numbers::new(8).units(self.n_rows() * self.n_in);
        let mut rows = x.chunks_exact(self.n_in);
        let mut all = Vec::new();
        let bias = self.bias();
        for (i, (parts, n_rows)) in self.experts(&stored).iter().zip(self.rows).enumerate() {
            let n_each = self.n_parts() * self.n_out;
            let bias = bias.as_ref().map(|bias| &bias[i * n_each..(i + 1) * n_each]);
            let matrix = backend.pack(parts, self.stacking(), bias);
            for x in rows.by_ref().take(n_rows) {
                let mut out = vec![0.0; self.n_out];
                backend.linear(Input { x, norm: None }, 1, &matrix, self.epilogue, &mut out);
                all.extend(out);
            }
        }
        all
    }
}

fn check(case: Case) {
    for has_sources in [false, true] {
        let expected = case.run(&Reference, has_sources, case.dtype.is_quantised());
        for cpu in cpus() {
            let is_bf16 = case.dtype == Dtype::Bf16;
            let tolerance = if is_bf16 { 8e-3 } else { 1e-5 };
            let got = case.run(&cpu, has_sources, false);
            let error = relative_error(&got, &expected);
            assert!(error < tolerance, "{case:?} on {}: {error}", cpu.describe());
        }
    }
    for cpu in cpus() {
        assert_eq!(bits(&case.run(&cpu, false, false)), bits(&case.singly(&cpu)), "{case:?}");
    }
}

#[test]
fn products_by_expert_agree_with_the_reference_and_with_matrices_of_their_own() {
    for dtype in Dtype::ALL {
        let n_in = if dtype.is_quantised() { dtype.block_len() } else { 37 };
        for epilogue in [Epilogue::Store, Epilogue::SwiGlu] {
            for rows in [[0; 5], [0, 1, 0, 0, 0], [1, 0, 3, 0, 1], [0, 14, 0, 2, 30]] {
                check(Case { dtype, n_in, n_out: 45, epilogue, has_bias: false, rows });
            }
        }
    }
}

#[test]
fn products_by_expert_that_are_shared_among_threads_agree_with_the_reference() {
    for epilogue in [Epilogue::Store, Epilogue::SwiGlu] {
        check(Case {
            dtype: Dtype::Q4_0,
            n_in: 512,
            n_out: 320,
            epilogue,
            has_bias: false,
            rows: [9, 0, 1, 25, 3],
        });
    }
}

#[test]
fn products_with_biases_agree_with_the_reference_and_with_matrices_of_their_own() {
    for dtype in [Dtype::Bf16, Dtype::F32, Dtype::Mxfp4] {
        for epilogue in [Epilogue::Store, Epilogue::SwiGlu, Epilogue::ClampedSwiGlu] {
            for rows in [[1, 0, 3, 0, 1], [0, 14, 0, 2, 30]] {
                check(Case { dtype, n_in: 64, n_out: 45, epilogue, has_bias: true, rows });
            }
        }
    }
}

/// Weights of 1 and inputs far beyond the limits: gate and up are clamped, and up by 1 more.
#[test]
fn a_clamped_gate_stays_within_its_limits() {
    let weights = stored(Dtype::F32, &[1.0]);
    let parts = [dense(Dtype::F32, 1, 1, &weights), dense(Dtype::F32, 1, 1, &weights)];
    fn check<B: Backend>(backend: &B, parts: &[Dense<'_>]) {
        let matrix = backend.pack(parts, Stacking::GateUp, None);
        // 7 * sigmoid(11.914) * 8 = 55.99962; -100 * sigmoid(-170.2) * (-7 + 1) = 0; sigmoid(1.702) * 2 = 1.691592.
        for (x, expected) in [(100.0, 55.999_62), (-100.0, 0.0), (1.0, 1.691_592), (0.0, 0.0)] {
            let mut out = [0.0];
            let input = Input { x: &[x], norm: None };
            backend.linear(input, 1, &matrix, Epilogue::ClampedSwiGlu, &mut out);
            assert!((out[0] - expected).abs() < 1e-4, "{x}: {}, {}", out[0], backend.describe());
        }
    }
    check(&Reference, &parts);
    cpus().iter().for_each(|cpu| check(cpu, &parts));
}

#[test]
fn experts_of_different_types_are_widened() {
    let mut numbers = Numbers::new(3);
    let [quantised, plain] = [blocks(Dtype::Q8_0, 64, &mut numbers), stored(Dtype::F32, &numbers.units(64))];
    let experts = [[dense(Dtype::Q8_0, 2, 32, &quantised)], [dense(Dtype::F32, 2, 32, &plain)]];
    let experts: Vec<&[Dense<'_>]> = experts.iter().map(|parts| &parts[..]).collect();
    let x = numbers.units(64);
    let woken = [Woken { expert: 0, end: 1 }, Woken { expert: 1, end: 2 }];
    let routed = Routed { woken: &woken, sources: None };
    let mut expected = [0.0; 4];
    let packed = Reference.pack_experts(&experts, Stacking::Concat, None);
    Reference.linear_by_expert(&x, routed, &packed, Epilogue::Store, &mut expected);
    for cpu in cpus() {
        let packed = cpu.pack_experts(&experts, Stacking::Concat, None);
        assert!(cpu.experts_bytes(&packed) >= 2 * 2 * 32 * size_of::<f32>());
        let mut out = [0.0; 4];
        cpu.linear_by_expert(&x, routed, &packed, Epilogue::Store, &mut out);
        assert!(relative_error(&out, &expected) < 1e-6);
    }
}

#[test]
fn weighted_sums_agree_with_the_reference_and_do_not_depend_on_other_rows() {
    for (n_rows, n_each, width) in [(0, 2, 8), (1, 1, 1), (3, 2, 33), (2, 4, 100), (40, 8, 300)] {
        let n_places = n_rows * n_each;
        let x = Numbers::new(2).units(n_places * width);
        let weights = Numbers::new(3).units(n_places);
        let places: Vec<u32> = (0..n_places as u32).map(|i| (i * 7 + 3) % n_places as u32).collect();
        for epilogue in [Epilogue::Store, Epilogue::Add] {
            let before = Numbers::new(4).units(n_rows * width);
            let mut expected = before.clone();
            Reference.combine(&x, &places, &weights, epilogue, &mut expected);
            for cpu in cpus() {
                let mut out = before.clone();
                cpu.combine(&x, &places, &weights, epilogue, &mut out);
                assert!(relative_error(&out, &expected) < 1e-6, "{n_rows} x {width} on {}", cpu.describe());
                for row in 0..n_rows {
                    // Its answers alone, in another order in memory.
                    let range = row * n_each..(row + 1) * n_each;
                    let own: Vec<f32> = places[range.clone()]
                        .iter()
                        .rev()
                        .flat_map(|&place| &x[place as usize * width..][..width])
                        .copied()
                        .collect();
                    let own_places: Vec<u32> = (0..n_each as u32).rev().collect();
                    let mut alone = before[row * width..][..width].to_vec();
                    cpu.combine(&own, &own_places, &weights[range], epilogue, &mut alone);
                    assert_eq!(bits(&alone), bits(&out[row * width..][..width]), "row {row}");
                }
            }
        }
    }
}
