//! Vectors of 8 or 16 columns.

use std::arch::x86_64::*;

use super::super::tile::LANES;

/// What tiles ask of a vector. A lane is a column: four bytes, or one number of 32 bits.
///
/// All functions demand that the instructions of the vector are enabled, and those with a pointer that a vector is readable or
/// writable there.
pub(super) trait Vector {
    /// Whole numbers.
    type Whole: Copy;
    /// Single precision.
    type Floats: Copy;

    /// A tile cut into pairs of vectors: their first columns.
    const PAIRS: &'static [[usize; 2]];

    unsafe fn load(start: *const u8) -> Self::Whole;
    unsafe fn store(start: *mut u8, a: Self::Whole);
    unsafe fn splat(x: i32) -> Self::Whole;
    unsafe fn splat_byte(x: u8) -> Self::Whole;
    unsafe fn and(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn or(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn xor(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn add_bytes(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    unsafe fn subtract(a: Self::Whole, b: Self::Whole) -> Self::Whole;
    /// By a power of two.
    unsafe fn divide(a: Self::Whole, bits: u32) -> Self::Whole;
    /// Pairs of bytes, towards the lower bits.
    unsafe fn shift_down(a: Self::Whole, bits: usize) -> Self::Whole;
    /// Pairs of bytes, towards the higher bits.
    unsafe fn shift_up(a: Self::Whole, bits: usize) -> Self::Whole;
    /// `table[place]` for every byte; places are below 16.
    unsafe fn look_up(table: &[u8; 16], places: Self::Whole) -> Self::Whole;
    unsafe fn floats(a: Self::Whole) -> Self::Floats;
    unsafe fn splat_float(x: f32) -> Self::Floats;
    unsafe fn load_floats(start: *const u8) -> Self::Floats;
    /// Numbers of half precision, widened.
    unsafe fn load_halves(start: *const u8) -> Self::Floats;
    /// Bytes with a sign, widened.
    unsafe fn load_bytes(start: *const u8) -> Self::Floats;
    unsafe fn store_floats(start: *mut f32, a: Self::Floats);
    unsafe fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

/// 8 columns, AVX2.
pub(super) struct Ymm;

/// 16 columns, AVX-512.
pub(super) struct Zmm;

/// Functions that are one expression of intrinsics.
macro_rules! vector {
    (
        $vector:ident, $whole:ident, $floats:ident, $pairs:expr;
        $(fn $name:ident ($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr;)*
    ) => {
        impl Vector for $vector {
            type Whole = $whole;
            type Floats = $floats;

            const PAIRS: &'static [[usize; 2]] = $pairs;

            $(
                #[inline(always)]
                unsafe fn $name ($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: by the caller's promise, see the trait.
                    unsafe { $body }
                }
            )*
        }
    };
}

vector! { Ymm, __m256i, __m256, &[[0, 8], [LANES, LANES + 8]];
    fn load(start: *const u8) -> __m256i = _mm256_loadu_si256(start.cast());
    fn store(start: *mut u8, a: __m256i) = _mm256_storeu_si256(start.cast(), a);
    fn add_bytes(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi8(a, b);
    fn splat(x: i32) -> __m256i = _mm256_set1_epi32(x);
    fn splat_byte(x: u8) -> __m256i = _mm256_set1_epi8(x.cast_signed());
    fn and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
    fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
    fn xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
    fn subtract(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
    fn divide(a: __m256i, bits: u32) -> __m256i = _mm256_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
    fn shift_down(a: __m256i, bits: usize) -> __m256i = _mm256_srl_epi16(a, _mm_cvtsi32_si128(bits as i32));
    fn shift_up(a: __m256i, bits: usize) -> __m256i = _mm256_sll_epi16(a, _mm_cvtsi32_si128(bits as i32));
    fn look_up(table: &[u8; 16], places: __m256i) -> __m256i =
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), places);
    fn floats(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
    fn splat_float(x: f32) -> __m256 = _mm256_set1_ps(x);
    fn load_floats(start: *const u8) -> __m256 = _mm256_loadu_ps(start.cast());
    fn load_halves(start: *const u8) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(start.cast()));
    fn load_bytes(start: *const u8) -> __m256 =
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(start.cast())));
    fn store_floats(start: *mut f32, a: __m256) = _mm256_storeu_ps(start, a);
    fn multiply(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
    fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
}

vector! { Zmm, __m512i, __m512, &[[0, LANES]];
    fn load(start: *const u8) -> __m512i = _mm512_loadu_si512(start.cast());
    fn store(start: *mut u8, a: __m512i) = _mm512_storeu_si512(start.cast(), a);
    fn add_bytes(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi8(a, b);
    fn splat(x: i32) -> __m512i = _mm512_set1_epi32(x);
    fn splat_byte(x: u8) -> __m512i = _mm512_set1_epi8(x.cast_signed());
    fn and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
    fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
    fn xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
    fn subtract(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
    fn divide(a: __m512i, bits: u32) -> __m512i = _mm512_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
    fn shift_down(a: __m512i, bits: usize) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(bits as i32));
    fn shift_up(a: __m512i, bits: usize) -> __m512i = _mm512_sll_epi16(a, _mm_cvtsi32_si128(bits as i32));
    fn look_up(table: &[u8; 16], places: __m512i) -> __m512i =
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), places);
    fn floats(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
    fn splat_float(x: f32) -> __m512 = _mm512_set1_ps(x);
    fn load_floats(start: *const u8) -> __m512 = _mm512_loadu_ps(start.cast());
    fn load_halves(start: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(start.cast()));
    fn load_bytes(start: *const u8) -> __m512 =
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(start.cast())));
    fn store_floats(start: *mut f32, a: __m512) = _mm512_storeu_ps(start, a);
    fn multiply(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
    fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
}
