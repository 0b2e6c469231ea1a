//! Scalar functions against those of the standard library.

use dsde_kernels::cpu::internals::{exp, gelu, silu, tanh};

#[test]
fn exp_is_accurate_over_its_range() {
    for i in -87_000..=88_000 {
        let x = i as f32 * 1e-3;
        let (got, expected) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((got / expected - 1.0).abs() < 2e-7, "exp({x}) = {got}, expected {expected}");
    }
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NEG_INFINITY) < 2e-38);
    assert!(exp(f32::INFINITY) > 1e38);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn gelu_vanishes_on_the_left_and_is_the_identity_on_the_right() {
    // At 1: 0.5 * (1 + tanh(0.7978846 * 1.044715)) = 0.5 * (1 + 0.682384) = 0.841192.
    for (x, expected) in [(0.0, 0.0), (-20.0, 0.0), (20.0, 20.0), (1.0, 0.841_192), (-1.0, -0.158_808)] {
        assert!((gelu(x) - expected).abs() < 1e-6, "gelu({x}) = {}", gelu(x));
    }
    assert!(gelu(f32::NAN).is_nan());
}

#[test]
fn tanh_is_accurate_over_its_range() {
    for i in -20_000..=20_000 {
        let x = i as f32 * 1e-3;
        let (got, expected) = (f64::from(tanh(x)), f64::from(x).tanh());
        assert!((got - expected).abs() < 3e-7, "tanh({x}) = {got}, expected {expected}");
    }
    assert_eq!((tanh(f32::NEG_INFINITY), tanh(f32::INFINITY)), (-1.0, 1.0));
    assert!(tanh(f32::NAN).is_nan());
}

#[test]
fn silu_vanishes_on_the_left_and_is_the_identity_on_the_right() {
    for (x, expected) in [(0.0, 0.0), (-200.0, 0.0), (200.0, 200.0), (1.0, 0.731_058_6)] {
        assert!((silu(x) - expected).abs() < 1e-6, "silu({x}) = {}", silu(x));
    }
}
