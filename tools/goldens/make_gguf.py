"""Blocks of every format of GGUF files, and what the gguf package makes of them, in one GGUF file."""

import gguf
import numpy
from gguf import GGMLQuantizationType as Type

from paths import FIXTURES

SEED = 20251101
N_ROWS = 2
ROW_LEN = 512

# Where in a block the scales in half precision stand, in bytes.
SCALES = {
    Type.Q8_0: [0],
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
    Type.IQ4_XS: [0],
}

# Zeros, the smallest, the largest and some usual ones; none is infinite.
EXTREME = numpy.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0, 1.0, 0.1, -0.037], dtype=numpy.float16)
# Exponents of MXFP4, of which the largest would make infinities: 2^123 * 12 is below 2^127.
EXPONENTS = numpy.array([0, 1, 2, 3, 100, 126, 127, 128, 140, 250], dtype=numpy.uint8)


def blocks(kind: Type, random: numpy.random.Generator) -> numpy.ndarray:
    """Random rows of `kind`, as bytes."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_blocks = N_ROWS * ROW_LEN // block_len
    data = random.integers(0, 256, (n_blocks, block_bytes), dtype=numpy.uint8)
    for place in SCALES.get(kind, []):
        scales = random.choice(EXTREME, n_blocks).view(numpy.uint8).reshape(n_blocks, 2)
        data[:, place : place + 2] = scales
    if kind == Type.MXFP4:
        data[:, 0] = random.choice(EXPONENTS, n_blocks)
    return data.reshape(N_ROWS, -1)


def plain(kind: Type, random: numpy.random.Generator) -> numpy.ndarray:
    """Random numbers of any magnitude that `kind` has, as bytes."""
    bits = random.integers(0, 1 << 16, (N_ROWS, ROW_LEN), dtype=numpy.uint16)
    exponent = 0x7C00 if kind == Type.F16 else 0x7F80
    bits[(bits & exponent) == exponent] = 0
    return bits.view(numpy.uint8)


def main() -> None:
    random = numpy.random.default_rng(SEED)
    folder = FIXTURES / "gguf"
    folder.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(folder / "blocks.gguf", "llama")
    writer.add_description("blocks, and their elements by the reference implementation")
    for kind in [Type.F16, Type.BF16, *SCALES, Type.MXFP4]:
        data = plain(kind, random) if kind in (Type.F16, Type.BF16) else blocks(kind, random)
        expected = gguf.quants.dequantize(data, kind)
        assert expected.shape == (N_ROWS, ROW_LEN) and numpy.isfinite(expected).all(), kind
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.expected", expected.astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
