"""Writes a mixture of experts with random weights as a GGUF file in BF16: shape and cost of a real model, no sense.

No mixture with trained weights can be had without a model hub. How fast experts are served depends on shapes and on
which experts rows choose, not on what is said. The architecture is `qwen3moe`; by default a few layers like those of
OLMoE-1B-7B with the heads of Qwen3-30B-A3B. The tokenizer is copied from another GGUF file. Needs `pip install gguf`;
`llama-quantize` or `dsde quantize` makes smaller types of the file.

    python tools/random_mixture.py "$(scripts/real-model)" mixture-bf16.gguf
    dsde quantize --model mixture-bf16.gguf --type Q4_K_M mixture-q4_k_m.gguf
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURE = "qwen3moe"
CONTEXT_LEN = 8192
# Head width of Qwen3, whatever the width of the stream.
HEAD_SIZE = 128
BF16 = gguf.GGMLQuantizationType.BF16
F32 = gguf.GGMLQuantizationType.F32


def shapes(args: argparse.Namespace, vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor by name, inputs last. Were output and embedding one, the model would repeat its last token."""
    yield "token_embd.weight", (vocab_size, args.hidden)
    yield "output.weight", (vocab_size, args.hidden)
    yield "output_norm.weight", (args.hidden,)
    for layer in range(args.layers):
        for name, shape in {
            "attn_norm": (args.hidden,),
            "attn_q": (args.heads * HEAD_SIZE, args.hidden),
            "attn_k": (args.kv_heads * HEAD_SIZE, args.hidden),
            "attn_v": (args.kv_heads * HEAD_SIZE, args.hidden),
            "attn_q_norm": (HEAD_SIZE,),
            "attn_k_norm": (HEAD_SIZE,),
            "attn_output": (args.hidden, args.heads * HEAD_SIZE),
            "ffn_norm": (args.hidden,),
            "ffn_gate_inp": (args.experts, args.hidden),
            "ffn_gate_exps": (args.experts, args.ff, args.hidden),
            "ffn_up_exps": (args.experts, args.ff, args.hidden),
            "ffn_down_exps": (args.experts, args.hidden, args.ff),
        }.items():
            yield f"blk.{layer}.{name}.weight", shape


def type_of(name: str, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """Norms and the choice of experts stay in single precision, as converters leave them."""
    return F32 if len(shape) == 1 or "ffn_gate_inp" in name else BF16


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Ones for norms, else normal draws that keep the size of what passes through; BF16 as its 16 bits."""
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    if name != "token_embd.weight":
        drawn *= np.float32(shape[-1] ** -0.5)
    if type_of(name, shape) == F32:
        return drawn
    bits = drawn.view(np.uint32)
    bits += 0x8000
    return (bits >> 16).astype(np.uint16)


def copy_tokenizer(source: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Copies all keys of the tokenizer; returns how many tokens there are."""
    for name, field in source.fields.items():
        if name.startswith("tokenizer."):
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    return len(source.fields["tokenizer.ggml.tokens"].data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="GGUF file whose tokenizer is copied")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=32, help=f"heads of queries, {HEAD_SIZE} wide")
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--chosen", type=int, default=8, help="experts per token")
    parser.add_argument("--ff", type=int, default=1024, help="width of an expert; K types need multiples of 256")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    writer = gguf.GGUFWriter(args.out, ARCHITECTURE)
    vocab_size = copy_tokenizer(gguf.GGUFReader(args.tokenizer), writer)
    writer.add_name("Random mixture")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(CONTEXT_LEN)
    writer.add_embedding_length(args.hidden)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(args.ff * args.chosen)
    writer.add_expert_feed_forward_length(args.ff)
    writer.add_expert_count(args.experts)
    writer.add_expert_used_count(args.chosen)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(vocab_size)

    tensors = list(shapes(args, vocab_size))
    for name, shape in tensors:
        kind = type_of(name, shape)
        bytes_each = 4 if kind == F32 else 2
        writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * bytes_each, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(args.seed)
    for name, shape in tensors:
        writer.write_tensor_data(values(name, shape, rng))
    writer.close()
    print(f"{args.out}: {sum(int(np.prod(shape)) for _, shape in tensors) / 1e9:.2f} billion parameters")


if __name__ == "__main__":
    main()
