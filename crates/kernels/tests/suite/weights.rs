//! Numbers of 16 bits against those of the half crate.

use dsde_kernels::cpu::internals::{bf16_bits, bf16_value, f16_value};

#[test]
fn every_f16_widens_exactly() {
    for bits in 0..=u16::MAX {
        let (got, expected) = (f16_value(bits), half::f16::from_bits(bits).to_f32());
        assert!(got == expected || got.is_nan() && expected.is_nan(), "{bits:#06x}: {got} {expected}");
    }
}

#[test]
fn bf16_rounding_agrees_with_the_half_crate() {
    let mut bits = 0_u32;
    loop {
        let x = f32::from_bits(bits);
        let (got, expected) = (bf16_bits(x) as u16, half::bf16::from_f32(x));
        assert!(
            got == expected.to_bits() || x.is_nan() && bf16_value(u32::from(got)).is_nan(),
            "{bits:#010x}"
        );
        // An odd stride visits all exponents, both signs and all low bits.
        let Some(next) = bits.checked_add(0x1_2345) else {
            break;
        };
        bits = next;
    }
}
