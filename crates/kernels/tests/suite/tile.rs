//! How rows are cut into tiles.

use dsde_kernels::cpu::internals::{ROWS_MAX, row_blocks};

#[test]
fn row_blocks_are_even_and_cover_all_rows() {
    for n_rows in 0..200 {
        let blocks: Vec<_> = row_blocks(n_rows).collect();
        assert_eq!(blocks.len(), n_rows.div_ceil(ROWS_MAX));
        let mut next = 0;
        for block in &blocks {
            assert_eq!(block.start, next);
            assert!(block.len() >= n_rows / blocks.len() && block.len() <= ROWS_MAX);
            next = block.end;
        }
        assert_eq!(next, n_rows);
    }
}
