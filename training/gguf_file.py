"""GGUF: tensor names, the order of rotary pairs, and the tokenizer as llama.cpp reads them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import quants

from model import Llama, Shape
from tokenizer import CHAT_TEMPLATE, END_OF_TEXT, SPECIALS, TURN_END

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


@dataclass(frozen=True)
class TextKind:
    """What a tokenizer.json does not tell: the name of its split pattern in llama.cpp, and the chat template."""

    split_name: str
    chat_template: str


# Of our own tokenizer.
OWN_TEXT = TextKind("qwen2", CHAT_TEMPLATE)


def tensor_name(name: str) -> str:
    """The GGUF name of a Hugging Face weight."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[inner.removesuffix('.weight')]}.weight"


def interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of each head from (first halves, second halves) to neighbouring pairs, which is how GGUF Llama rotates."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def halved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """What `interleaved` made, as it was."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context_len)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.ff_size)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)


def add_tokenizer(writer: gguf.GGUFWriter, path: Path, text: TextKind) -> None:
    """Tokens by id, their kinds, merges, end of turn, template. The first special token stands in for an unused BOS."""
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    vocabulary: dict[str, int] = model["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL for token in tokens]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(text.split_name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocabulary[END_OF_TEXT])
    writer.add_eos_token_id(vocabulary[TURN_END])
    writer.add_eot_token_id(vocabulary[TURN_END])
    writer.add_pad_token_id(vocabulary[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(text.chat_template)


def write(model: Llama, tokenizer_dir: Path, path: Path, kind: str, name: str, text: TextKind = OWN_TEXT) -> None:
    """A whole model as one file; norms stay f32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_shape(writer, model.shape)
    add_tokenizer(writer, tokenizer_dir / "tokenizer.json", text)
    for hf_name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if ".q_proj." in hf_name:
            values = interleaved(values, model.shape.n_heads)
        if ".k_proj." in hf_name:
            values = interleaved(values, model.shape.n_kv_heads)
        stored = TYPES[kind] if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor_name(hf_name), quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> tuple[Llama, list[str]]:
    """What `write` wrote: the model in f32, ready for inference, and its tokens by id."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama":
        raise SystemExit(f"{path}: expected a file of architecture llama, got {fields['general.architecture']}")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    model = Llama(shape_of(fields))
    heads = {".q_proj.": model.shape.n_heads, ".k_proj.": model.shape.n_kv_heads}
    weights = {}
    for hf_name, weight in model.state_dict().items():
        if tensor_name(hf_name) not in stored:
            raise SystemExit(f"{path}: expected a tensor {tensor_name(hf_name)}, got none")
        tensor = stored.pop(tensor_name(hf_name))
        values = quants.dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
        n_heads = next((n for part, n in heads.items() if part in hf_name), None)
        weights[hf_name] = torch.from_numpy(np.array(values if n_heads is None else halved(values, n_heads)))
    if stored:
        raise SystemExit(f"{path}: expected a Llama model with tied embeddings alone, got {sorted(stored)} besides")
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), fields["tokenizer.ggml.tokens"]


def shape_of(fields: dict[str, Any]) -> Shape:
    """The shape that `add_shape` wrote."""
    return Shape(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        n_layers=fields["llama.block_count"],
        n_heads=fields["llama.attention.head_count"],
        n_kv_heads=fields["llama.attention.head_count_kv"],
        head_dim=fields["llama.attention.key_length"],
        ff_size=fields["llama.feed_forward_length"],
        context_len=fields["llama.context_length"],
        rope_theta=fields["llama.rope.freq_base"],
        norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
    )
