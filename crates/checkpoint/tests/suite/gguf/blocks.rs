//! Every block format against the reference implementation, see `tools/goldens/make_gguf.py`.

use std::path::Path;

use dsde_checkpoint::Dtype;
use dsde_checkpoint::gguf::Gguf;

#[test]
fn blocks_are_widened_as_by_the_reference_bit_for_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/blocks.gguf");
    let file = Gguf::open(&path).unwrap();
    for dtype in Dtype::ALL.into_iter().filter(|&dtype| dtype != Dtype::F32) {
        let name = dtype.name();
        let stored = file.tensor(name).unwrap();
        assert_eq!((stored.dtype, stored.shape), (dtype, &[2, 512][..]), "{name}");
        let expected = file.tensor(&format!("{name}.expected")).unwrap();
        assert_eq!((expected.dtype, expected.shape), (Dtype::F32, &[2, 512][..]), "{name}");
        let (got, expected) = (stored.to_f32(), expected.to_f32());
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(got.to_bits(), expected.to_bits(), "{name}, element {i}: {got}, expected {expected}");
        }
    }
    assert_eq!(file.tensor_names().count(), 2 * (Dtype::ALL.len() - 1));
}
