//! Buffers of packed weights.

use dsde_kernels::cpu::internals::{Buffer, LARGE_PAGE_BYTES, LINE_BYTES};

#[test]
fn buffers_are_zero_aligned_and_as_long_as_asked() {
    for len in [0, 1, 64, 1000, LARGE_PAGE_BYTES - 1, LARGE_PAGE_BYTES, LARGE_PAGE_BYTES + 5] {
        let mut buffer = Buffer::zeroed(len);
        assert_eq!(buffer.as_mut_slice().len(), len);
        assert_eq!(buffer.as_ptr() as usize % LINE_BYTES, 0);
        assert!(buffer.as_mut_slice().iter().all(|&byte| byte == 0));
    }
}
