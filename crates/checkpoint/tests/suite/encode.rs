//! Values rounded to the types of files: how much is lost, and what is refused.

use dsde_checkpoint::{Dtype, Misfit};

/// Elements of the longest block.
const LEN: usize = 256;

/// Relative root mean square error that each type may have on normal values.
const NORMAL: [(Dtype, f64); 9] = [
    (Dtype::F32, 0.0),
    (Dtype::F16, 3e-4),
    (Dtype::Bf16, 2e-3),
    (Dtype::Q8_0, 6e-3),
    (Dtype::Q4_0, 0.095),
    (Dtype::Q5_0, 0.048),
    (Dtype::Q4K, 0.080),
    (Dtype::Q5K, 0.041),
    (Dtype::Q6K, 0.021),
];

fn encoded(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    dtype.narrow(values, &mut bytes).unwrap();
    bytes
}

fn decoded(dtype: Dtype, values: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    dtype.widen(&encoded(dtype, values), &mut out);
    out
}

/// Root mean square of the error over that of the values.
fn error(dtype: Dtype, values: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let decoded = decoded(dtype, values);
    let lost: f64 = values.iter().zip(&decoded).map(|(a, b)| square(a - b)).sum();
    (lost / values.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// Sums of 12 uniform numbers less their mean, close to normal with deviation `size`.
fn normal(n: usize, size: f32) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| size * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
}

#[test]
fn normal_values_lose_what_the_bits_allow() {
    assert_eq!(NORMAL.map(|(dtype, _)| dtype), Dtype::WRITTEN);
    for size in [1.0, 0.02] {
        let values = normal(64 * LEN, size);
        for (dtype, most) in NORMAL {
            let error = error(dtype, &values);
            assert!(error <= most, "{} loses {error} of values around {size}", dtype.name());
            assert!(dtype == Dtype::F32 || error > most / 4.0, "{} loses only {error}", dtype.name());
        }
    }
}

#[test]
fn zeros_stay_zeros_and_sizes_are_those_of_the_type() {
    for dtype in Dtype::WRITTEN {
        let zeros = [0.0; 2 * LEN];
        assert_eq!(encoded(dtype, &zeros).len(), dtype.row_bytes(2 * LEN));
        assert!(decoded(dtype, &zeros).iter().all(|&x| x == 0.0), "{}", dtype.name());
    }
}

#[test]
fn an_outlier_costs_its_own_block_alone_and_survives() {
    for dtype in Dtype::WRITTEN {
        for at in [0, 17, LEN - 1] {
            for outlier in [100.0_f32, -100.0] {
                let mut values = normal(2 * LEN, 0.02);
                let expected = decoded(dtype, &values);
                values[at] = outlier;
                let got = decoded(dtype, &values);
                let name = dtype.name();
                assert!((got[at] / outlier - 1.0).abs() < 0.04, "{name}: {} at {at}", got[at]);
                assert_eq!(got[LEN..], expected[LEN..], "{name}");
                assert!(got.iter().enumerate().all(|(i, x)| i == at || x.abs() < 4.0), "{name}");
            }
        }
    }
}

#[test]
fn constants_are_kept() {
    for dtype in Dtype::WRITTEN {
        for constant in [1.0_f32, -1.0, 0.37, -0.02, 60_000.0, -60_000.0] {
            let got = decoded(dtype, &[constant; LEN]);
            // Half precision, and codes of scales.
            assert!(got.iter().all(|x| (x / constant - 1.0).abs() < 0.02), "{}: {:?}", dtype.name(), got[0]);
        }
    }
}

#[test]
fn values_of_two_sizes_lose_no_more_than_the_larger_size_allows() {
    // Every second value is tiny; signs alternate slowly.
    let values: Vec<f32> = (0..4 * LEN)
        .map(|i| if i % 2 == 0 { 1.0 } else { 1e-4 } * if i % 5 < 2 { -1.0 } else { 1.0 })
        .collect();
    for (dtype, most) in NORMAL {
        let error = error(dtype, &values);
        assert!(error <= most, "{} loses {error}", dtype.name());
    }
}

#[test]
fn tiny_values_become_zero_or_stay_tiny() {
    for dtype in Dtype::WRITTEN {
        for size in [1e-7, 1e-12, 1e-30, f32::MIN_POSITIVE / 1024.0] {
            let got = decoded(dtype, &normal(LEN, size));
            // The least scale in half precision is 6e-8.
            assert!(got.iter().all(|x| x.abs() < 1e-5), "{} of {size}", dtype.name());
        }
    }
}

#[test]
fn the_same_values_give_the_same_bytes() {
    let values = normal(8 * LEN, 0.1);
    for dtype in Dtype::WRITTEN {
        let whole = encoded(dtype, &values);
        let parts: Vec<u8> = values.chunks(LEN).flat_map(|part| encoded(dtype, part)).collect();
        assert_eq!(whole, parts, "{}", dtype.name());
    }
}

#[test]
fn what_was_rounded_once_is_kept_where_scales_are_not_searched_for() {
    let values = normal(8 * LEN, 0.1);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0] {
        let once = decoded(dtype, &values);
        let lost = error(dtype, &once);
        assert!(lost < 1e-3, "{} loses {lost} again", dtype.name());
    }
}

#[test]
fn what_is_no_number_or_too_large_is_refused() {
    for dtype in Dtype::WRITTEN {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            check_refused(dtype, value);
        }
        match dtype {
            Dtype::F32 => {}
            Dtype::Bf16 => check_refused(dtype, f32::MAX),
            _ => check_refused(dtype, 1e5),
        }
    }
}

#[track_caller]
fn check_refused(dtype: Dtype, value: f32) {
    let mut values = vec![1.0; LEN];
    values[3] = value;
    let mut bytes = vec![7];
    let Misfit { idx, value: got } = dtype.narrow(&values, &mut bytes).expect_err(dtype.name());
    assert_eq!((idx, got.to_bits()), (3, value.to_bits()), "{}", dtype.name());
    assert_eq!(bytes, [7], "nothing is appended");
}
