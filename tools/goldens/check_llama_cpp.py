"""Compares llama.cpp with transformers on the tiny checkpoints, each rewritten as a GGUF file.

What llama.cpp makes of a file says what the keys and tensors of its architecture mean, so a small distance here and equal logits in
`crates/model/tests/gguf/`, which writes the same files, say that they are read as llama.cpp reads them. Writes nothing.

usage: check_llama_cpp.py LLAMA_SERVER [NAME ...]
"""

import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config

from paths import FIXTURES

PORT = 18177
# Prompts end here; the last one is the whole.
LENGTHS = (1, 2, 9, 17, 25, 33, 40)
# Everything is in f32: log-probabilities differ by less.
TOLERANCE = 0.015
# The same where activations are rounded to 8 bits beside quantised weights.
TOLERANCE_QUANTISED = 0.2

# Fields that llama.cpp cannot be told: how Gemma 2 scales attention follows from its size, Phi-3 gets no windows, and it rounds
# the pairs between which YaRN mixes.
CHANGED = {
    "gemma2": {"query_pre_attn_scalar": 8},
    "phi3": {"sliding_window": None},
    "gpt_oss": {"rope_parameters": {"truncate": True}},
    "gpt_oss_mxfp4": {"rope_parameters": {"truncate": True}},
}
NAMES = ["llama3", "llama_yarn", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "smollm3", "granite", "glm4",
         "qwen3_moe", "mixtral", "olmoe", "gpt_oss", "gpt_oss_mxfp4", "qwen3_5", "qwen3_5_moe",
         "qwen3_next", "gemma4", "gemma4_shared", "gemma4_moe"]

# Architectures whose queries and keys turn neighbours in files of llama.cpp and halves elsewhere.
TURNED = ("llama", "smollm3", "granite")
NORMS = {
    "gemma2": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "glm4": {
        "post_self_attn_layernorm": "post_attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "post_mlp_layernorm": "post_ffw_norm",
    },
    "gpt-oss": {"post_attention_layernorm": "post_attention_norm"},
    "qwen35": {"post_attention_layernorm": "post_attention_norm"},
}
# What files call the architectures whose folders have another name.
ARCHITECTURES = {"qwen3_moe": "qwen3moe", "mixtral": "llama", "gpt_oss": "gpt-oss", "gpt_oss_mxfp4": "gpt-oss",
                 "qwen3_5": "qwen35", "qwen3_5_moe": "qwen35moe", "qwen3_next": "qwen3next",
                 "gemma4_shared": "gemma4", "gemma4_moe": "gemma4"}
NORMS["gemma3"] = NORMS["gemma2"]
# In this order: some names begin as others do.
NORMS["gemma4"] = {
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    "post_per_layer_input_norm": "post_norm",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "layer_scalar": "layer_output_scale.weight",
    "router.proj": "ffn_gate_inp",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
} | NORMS["gemma2"]
NORMS["qwen35moe"] = NORMS["qwen3next"] = NORMS["qwen35"]
# Architectures with delta layers.
HYBRIDS = ("qwen35", "qwen3next")
MODULES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.sinks": "attn_sinks.weight",
    "mlp.router": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(architecture: str, name: str) -> str:
    own_names = NORMS.get(architecture, {})
    for published, own in (own_names | {name: own for name, own in MODULES.items() if name not in own_names}).items():
        name = name.replace(published, own)
    return name


def neighbours(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows `i` and `i + head_dim / 2` of each head as neighbours."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def llama3_divisors(rope: dict, head_dim: int) -> list[float]:
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for i in range(head_dim // 2):
        turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-2 * i / head_dim) / math.tau
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / rope["factor"] + kept))
    return divisors


def add_rope(writer: gguf.GGUFWriter, config, head_dim: int) -> None:
    local = config.rope_parameters.get("sliding_attention")
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if local:
        writer.add_float32(f"{writer.arch}.rope.freq_base_swa", local["rope_theta"])
    original = rope.get("original_max_position_embeddings")
    match rope["rope_type"]:
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(original)
        case "longrope":
            factor = config.max_position_embeddings / original
            writer.add_rope_scaling_orig_ctx_len(original)
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
            for kind in ("long", "short"):
                divisors = np.array(rope[f"{kind}_factor"], dtype=np.float32)
                writer.add_tensor(f"rope_factors_{kind}.weight", divisors)
        case "llama3":
            divisors = np.array(llama3_divisors(rope, head_dim), dtype=np.float32)
            writer.add_tensor("rope_freqs.weight", divisors)


def add_own_keys(writer: gguf.GGUFWriter, config) -> None:
    if writer.arch in ("gemma2", "gemma3", "gpt-oss"):
        writer.add_sliding_window(config.sliding_window)
    if experts := getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    own_width = config.intermediate_size if writer.arch == "gpt-oss" else None
    if width := getattr(config, "moe_intermediate_size", own_width):
        writer.add_expert_feed_forward_length(width)
    if writer.arch.startswith("qwen35"):
        writer.add_rope_dimension_sections([*config.rope_parameters["mrope_section"], 0])
    if writer.arch.startswith(HYBRIDS):
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_ssm_state_size(config.linear_key_head_dim)
        writer.add_ssm_group_count(config.linear_num_key_heads)
        writer.add_ssm_time_step_rank(config.linear_num_value_heads)
        writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
        is_delta = [kind == "linear_attention" for kind in config.layer_types]
        writer.add_array(f"{writer.arch}.attention.recurrent_layers", is_delta)
    if width := getattr(config, "shared_expert_intermediate_size", None):
        writer.add_expert_shared_feed_forward_length(width)
    match writer.arch:
        case "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
        case "gemma3":
            pattern = 1 + config.layer_types.index("full_attention")
            writer.add_uint32("gemma3.attention.sliding_window_pattern", pattern)
        case "granite":
            writer.add_attention_scale(config.attention_multiplier)
            writer.add_embedding_scale(config.embedding_multiplier)
            writer.add_residual_scale(config.residual_multiplier)
            writer.add_logit_scale(config.logits_scaling)


def add_gemma4_keys(writer: gguf.GGUFWriter, config) -> None:
    """Sizes of layers, which differ, and divisors with which some pairs do not turn."""
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    heads = [config.per_layer_config[layer] for layer in range(config.num_hidden_layers)]
    local, last = heads[0].head_dim, heads[-1].head_dim
    n_sharing, width = config.num_kv_shared_layers, config.intermediate_size
    is_wide = [config.use_double_wide_mlp and i + n_sharing >= len(heads) for i in range(len(heads))]
    writer.add_feed_forward_length([2 * width if wide else width for wide in is_wide])
    writer.add_head_count_kv([layer.num_key_value_heads for layer in heads])
    writer.add_key_length(last)
    writer.add_value_length(last)
    writer.add_key_length_swa(local)
    writer.add_value_length_swa(local)
    writer.add_rope_dimension_count(last)
    writer.add_rope_dimension_count_swa(local)
    writer.add_shared_kv_layers(n_sharing)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern(slides)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.enable_moe_block:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.top_k_experts)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    full, sliding = (config.rope_parameters[kind] for kind in ("full_attention", "sliding_attention"))
    writer.add_rope_freq_base(full["rope_theta"])
    writer.add_float32("gemma4.rope.freq_base_swa", sliding["rope_theta"])
    n_turning = int(full["partial_rotary_factor"] * last // 2)
    divisors = [1.0] * n_turning + [1e30] * (last // 2 - n_turning)
    writer.add_tensor("rope_freqs.weight", np.array(divisors, dtype=np.float32))


def add_shape(writer: gguf.GGUFWriter, config) -> None:
    """Sizes that all layers share, and the rotary embedding."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width := getattr(config, "intermediate_size", None):
        writer.add_feed_forward_length(width)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    add_rope(writer, config, head_dim)
    add_own_keys(writer, config)


def write(path: Path, folder: Path, config) -> None:
    is_llama = folder.name.startswith("llama")
    architecture = "llama" if is_llama else ARCHITECTURES.get(folder.name, folder.name)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_sizes = add_gemma4_keys if architecture == "gemma4" else add_shape
    add_sizes(writer, config)
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"t{i}".encode() for i in range(3, config.vocab_size)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_add_bos_token(False)
    weights = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    weights = {name: weight for name, weight in weights.items() if not name.startswith("mtp.")}
    for name, weight in with_experts_together(with_projections_apart(weights, config)).items():
        if weight.dtype == torch.uint8:
            blocks = np.ascontiguousarray(weight.numpy())
            name = gguf_name(architecture, name)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
            continue
        if name.endswith("embed_tokens_per_layer.weight"):
            # No file has more embeddings than tokens.
            weight = weight[: config.vocab_size]
        if architecture == "qwen3next" and name.endswith("A_log"):
            weight = -weight.float().exp()
        elif "linear_attn" in name and architecture != "qwen3next":
            weight = delta_tensor(name, weight.float(), config)
        values = weight.float().squeeze().numpy()
        if architecture in TURNED and "q_proj" in name:
            values = neighbours(values, config.num_attention_heads)
        if architecture in TURNED and "k_proj" in name:
            values = neighbours(values, config.num_key_value_heads)
        is_offset = architecture.startswith(("gemma2", "gemma3", *HYBRIDS)) and "linear_attn" not in name
        if is_offset and name.endswith("norm.weight"):
            values = values + 1
        writer.add_tensor(gguf_name(architecture, name), np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def delta_tensor(name: str, weight: torch.Tensor, config) -> torch.Tensor:
    """A tensor of a delta layer: rates as they are, heads of values that share one of keys as far apart as there are of these."""
    n_keys, n_values = config.linear_num_key_heads, config.linear_num_value_heads
    before = 2 * n_keys * config.linear_key_head_dim

    def tiled(rows: torch.Tensor) -> torch.Tensor:
        heads = rows.reshape(n_keys, n_values // n_keys, rows.shape[0] // n_values, *rows.shape[1:])
        return heads.transpose(0, 1).reshape(rows.shape)

    match name.rpartition("linear_attn.")[2]:
        case "A_log":
            return tiled(-weight.exp())
        case "in_proj_qkv.weight" | "conv1d.weight":
            return torch.cat([weight[:before], tiled(weight[before:])])
        case "out_proj.weight":
            return tiled(weight.T).T
        case "norm.weight":
            return weight
    return tiled(weight)


def with_projections_apart(weights: dict, config) -> dict:
    """Queries, keys and values of delta layers in one tensor and gates in another, where a folder has them in turns by head of keys."""
    apart = {}
    for name, weight in weights.items():
        if not name.endswith("in_proj_qkvz.weight"):
            apart[name] = weight
            continue
        n_keys, key_dim = config.linear_num_key_heads, config.linear_key_head_dim
        n_values = config.linear_num_value_heads // n_keys * config.linear_value_head_dim
        turns = weight.view(n_keys, -1, weight.shape[1]).split([key_dim, key_dim, n_values, n_values], dim=1)
        *qkv, z = (part.reshape(-1, weight.shape[1]) for part in turns)
        apart[name.replace("qkvz", "qkv")] = torch.cat(qkv)
        apart[name.replace("qkvz", "z")] = z.contiguous()
    return apart


def with_experts_together(weights: dict) -> dict:
    """One tensor per part of all experts of a layer, under the names that they have in GGUF files."""
    parts = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
    together, stacks = {}, {}
    for name, weight in weights.items():
        layer, is_expert, rest = name.partition(".experts.")
        layer = layer.removesuffix(".mlp").removesuffix(".block_sparse_moe")
        if is_expert and rest.startswith(("gate_up_proj", "down_proj")):
            if not rest.endswith("_scales"):
                scales = weights.get(name.replace("_blocks", "_scales"))
                parts_of = in_halves if name.count(".mlp.") == 0 else apart
                together |= {f"{layer}.{part}": tensor for part, tensor in parts_of(rest, weight, scales)}
        elif is_expert:
            expert, part, _ = rest.split(".")
            stacks.setdefault(f"{layer}.ffn_{parts[part]}_exps.weight", {})[int(expert)] = weight
        elif name.endswith(".gate.weight"):
            router = name.removesuffix(".gate.weight").removesuffix(".mlp").removesuffix(".block_sparse_moe")
            together[f"{router}.ffn_gate_inp.weight"] = weight
        else:
            together[name] = weight
    return together | {name: torch.stack([stack[i] for i in sorted(stack)]) for name, stack in stacks.items()}


def apart(name: str, weight: torch.Tensor, scales: torch.Tensor | None) -> list[tuple[str, torch.Tensor]]:
    """Parts of a tensor of all experts of gpt-oss, which has outputs of gate and up in turns."""
    kind = "weight"
    if name.endswith("_bias"):
        kind = "bias"
    elif name.endswith("_blocks"):
        weight = torch.cat([scales[..., None], by_halves(weight)], -1).flatten(-2)
    else:
        weight = weight.transpose(-1, -2)
    if name.startswith("down"):
        return [(f"ffn_down_exps.{kind}", weight)]
    return [(f"ffn_gate_exps.{kind}", weight[:, ::2]), (f"ffn_up_exps.{kind}", weight[:, 1::2])]


def in_halves(name: str, weight: torch.Tensor, _: None) -> list[tuple[str, torch.Tensor]]:
    """The same of Gemma 4, whose tensors lie as those of files."""
    return [("ffn_down_exps.weight" if name.startswith("down") else "ffn_gate_up_exps.weight", weight)]


def by_halves(codes: torch.Tensor) -> torch.Tensor:
    """Blocks of which byte `i` holds elements `i` and `i + 16`, from those of which it holds `2 i` and `2 i + 1`."""
    elements = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    low, high = elements.chunk(2, -1)
    return low | high << 4


def get(path: str, body: dict | None = None) -> dict:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def wait_for(server: subprocess.Popen) -> None:
    while True:
        if server.poll() is not None:
            sys.exit("llama-server ended; does it know the architecture?")
        try:
            get("/health")
            return
        except OSError:
            time.sleep(0.2)


class RoundedGelu(torch.nn.Module):
    """As llama.cpp has it: by a table of f16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def round_gelu(model: torch.nn.Module) -> None:
    for module in model.modules():
        if "gelu" in type(getattr(module, "act_fn", None)).__name__.lower():
            module.act_fn = RoundedGelu()


def distance(server: str, name: str) -> float:
    """Largest difference of a log-probability."""
    folder = FIXTURES / name
    config = AutoConfig.from_pretrained(folder)
    for field, value in CHANGED.get(name, {}).items():
        setattr(config, field, getattr(config, field) | value if isinstance(value, dict) else value)
    is_quantised = getattr(config, "quantization_config", None) is not None
    quantised = {"quantization_config": Mxfp4Config(dequantize=True)} if is_quantised else {}
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", **quantised
    )
    round_gelu(model)
    tokens = load_file(folder / "logits.safetensors")["tokens"].tolist()
    with torch.no_grad():
        expected = torch.log_softmax(model.eval()(torch.tensor([tokens])).logits[0], -1)
    worst = 0.0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        write(path, folder, config)
        options = ["-c", "64", "-np", "1", "-ctk", "f32", "-ctv", "f32", "--no-warmup", "--port", str(PORT)]
        # Flash attention rounds to f16, and scores that are not scaled are large enough to show it.
        options += ["-fa", "off"]
        log = subprocess.DEVNULL
        running = subprocess.Popen([server, "-m", str(path), *options], stdout=log, stderr=log)
        try:
            wait_for(running)
            for length in LENGTHS:
                prompt = {"prompt": tokens[:length], "n_predict": 1, "n_probs": config.vocab_size}
                answer = get("/completion", prompt | {"temperature": 0, "cache_prompt": False})
                for token in answer["completion_probabilities"][0]["top_logprobs"]:
                    worst = max(worst, abs(token["logprob"] - expected[length - 1][token["id"]].item()))
        finally:
            running.terminate()
            running.wait()
    return worst


def main() -> None:
    server, *names = sys.argv[1:] or sys.exit(__doc__)
    for name in names or NAMES:
        worst = distance(server, name)
        print(f"{name}: log-probabilities differ by at most {worst:.4f}")
        assert worst < (TOLERANCE_QUANTISED if name.endswith("mxfp4") else TOLERANCE), name


if __name__ == "__main__":
    main()
