"""Tiny checkpoints of every family, and their logits as transformers computes them in f32 from the stored weights."""

import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config

from cases import BASE, CASES, Case
from margins import MARGIN_MIN, margin
from mtp_heads import HEAD, head_guesses, random_head
from paths import FIXTURES
from weights import beside_shared, in_mxfp4, published, random_weights, save_weights, write_json

SEED = 20250901
PROMPT_LEN = 40


def make(case: Case, seed: int) -> None:
    """Of a model with experts, with the first of some seeds that leaves no doubt about which are chosen."""
    while not try_make(case, seed):
        seed += 1000


def try_make(case: Case, seed: int) -> bool:
    folder = FIXTURES / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    absent_if_none = ("num_key_value_heads", "rope_theta", "head_dim", "hidden_act", "tie_word_embeddings", "intermediate_size", "global_head_dim")
    config = {k: v for k, v in (BASE | case.config).items() if v is not None or k not in absent_if_none}
    write_json(folder / "config.json", config)
    if case.generation:
        write_json(folder / "generation_config.json", case.generation)

    generator = torch.Generator().manual_seed(seed)
    loaded = AutoConfig.from_pretrained(folder)
    empty = AutoModelForCausalLM.from_config(loaded)
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    if loaded.tie_word_embeddings:
        del shapes["lm_head.weight"]
    weights = random_weights(shapes, generator, case.norm_offset)
    stored = {n: w.to(case.dtype).contiguous() for n, w in published(config["model_type"], weights).items()}
    if case.is_mxfp4:
        stored = in_mxfp4(stored, generator)
    stored |= beside_shared(loaded, case.dtype)
    head_generator = torch.Generator().manual_seed(seed)
    if case.has_mtp:
        stored |= random_head(loaded, stored, case, head_generator)
    save_weights(folder, stored, case.n_shards)

    quantised = {"quantization_config": Mxfp4Config(dequantize=True)} if case.is_mxfp4 else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **quantised
    )
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(HEAD)]
    assert not info["missing_keys"] and not unexpected, info
    tokens = torch.randint(0, config["vocab_size"], (PROMPT_LEN,), generator=generator)
    with torch.no_grad():
        logits = model.eval()(tokens[None]).logits[0]
        if margin(model, tokens) < MARGIN_MIN:
            return False
    assert logits.dtype == torch.float32 and logits.std() > 0.3, logits.std()
    reference = {"tokens": tokens.to(torch.int32), "logits": logits.contiguous()}
    save_file(reference, folder / "logits.safetensors")
    if case.has_mtp:
        guesses = head_guesses(model, stored, tokens)
        if guesses is None:
            return False
        save_file({"log_probs": guesses}, folder / "mtp.safetensors")
    n_params = sum(w.numel() for w in weights.values())
    print(f"{case.name}: {n_params} parameters, logits {tuple(logits.shape)}, deviation {logits.std():.3f}")
    return True


def main() -> None:
    torch.manual_seed(SEED)
    for i, case in enumerate(CASES):
        make(case, SEED + i)
