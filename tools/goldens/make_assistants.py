"""Tiny assistants of Gemma 4, and what they guess behind a text as transformers computes it in f32 from the stored weights.

Each drafts for one of the tiny checkpoints of `make_logits.py`, which must be there.
"""

import shutil
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma4AssistantConfig, Gemma4AssistantForCausalLM

from cases import GEMMA4
from make_logits import SEED
from mtp_heads import GUESSED_LEN, KNOWN_LENS
from paths import FIXTURES
from weights import random_weights, write_json

CENTROIDS, ORDER = "masked_embedding.centroids.weight", "masked_embedding.token_ordering"
# Least distance of the scores of the last group that is chosen and of the first that is not; scores have a deviation of 2. Target and
# assistant round keys and activations to bf16, and another choice would be another output.
MARGIN_MIN = 0.3

# Fewer query heads than the targets have, and layers of both kinds.
TEXT = GEMMA4 | {
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "hidden_size": 24,
    "max_position_embeddings": 128,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 3,
    "vocab_size_per_layer_input": 0,
    "tie_word_embeddings": True,
    "use_double_wide_mlp": False,
    "enable_moe_block": False,
}


@dataclass(frozen=True)
class Case:
    """One folder of the fixtures."""

    name: str
    target: str
    config: dict
    text: dict


CASES = [
    # Keys and values of the target's layers that see everything are one projection, in one head.
    Case("gemma4_assistant", "gemma4", {}, {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    # Tokens are scored in 4 of 12 groups; the last layers of the target have no keys and values.
    Case(
        "gemma4_shared_assistant",
        "gemma4_shared",
        {"use_ordered_embeddings": True, "num_centroids": 12, "centroid_intermediate_top_k": 4},
        {},
    ),
]


def config_of(case: Case) -> dict:
    absent_if_none = ("hidden_act", "rope_theta")
    text = {k: v for k, v in (TEXT | case.text).items() if v is not None or k not in absent_if_none}
    text["architectures"] = None
    return {
        "architectures": ["Gemma4AssistantForCausalLM"],
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": 16,
        "tie_word_embeddings": True,
        "text_config": text,
    } | case.config


def weights_of(empty: Gemma4AssistantForCausalLM, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random ones in bf16, and an order of the tokens that is none of their numbers."""
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items() if name not in ("lm_head.weight", ORDER)}
    weights = random_weights(shapes, generator, 0.0)
    if CENTROIDS in weights:
        weights[CENTROIDS] *= 2.0
    stored = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    if CENTROIDS in weights:
        stored[ORDER] = torch.randperm(empty.vocab_size, generator=generator)
    return stored


@torch.no_grad()
def guesses(target, assistant: Gemma4AssistantForCausalLM, tokens: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Log-probabilities [known lengths, guesses, vocabulary] of what the assistant guesses behind the first tokens, if the words of
    the text follow, and how far its choices of groups are from other ones; tokens of other groups have probability 0."""
    log_probs, margin = [], float("inf")
    scores = []
    if assistant.masked_embedding is not None:
        assistant.masked_embedding.centroids.register_forward_hook(lambda *args: scores.append(args[2].flatten()))
    for n_known in KNOWN_LENS:
        # The target has read all known tokens but the last.
        read = target.model(tokens[None, : n_known - 1], return_shared_kv_states=True, use_cache=False)
        state = read.last_hidden_state[:, -1:]
        position = torch.tensor([[n_known - 1]])
        for i in range(GUESSED_LEN):
            embedding = target.model.embed_tokens(tokens[None, n_known - 1 + i, None])
            output = assistant(
                inputs_embeds=torch.cat((embedding, state), dim=-1),
                position_ids=position,
                attention_mask=torch.ones((1, n_known), dtype=torch.long),
                shared_kv_states=read.shared_kv_states,
                use_cache=False,
            )
            state, logits = output.last_hidden_state, output.logits[0, 0]
            if scores:
                n_chosen = assistant.config.centroid_intermediate_top_k
                ranked = scores.pop().sort(descending=True).values
                margin = min(margin, (ranked[n_chosen - 1] - ranked[n_chosen]).item())
                others = logits == logits.min()
                assert len(logits) - others.sum() == n_chosen * len(logits) // assistant.config.num_centroids
                logits = logits.masked_fill(others, -torch.inf)
            log_probs.append(logits.log_softmax(dim=-1))
    return torch.stack(log_probs).reshape(len(KNOWN_LENS), GUESSED_LEN, -1).contiguous(), margin


def try_make(case: Case, seed: int) -> bool:
    folder = FIXTURES / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config_of(case))
    generator = torch.Generator().manual_seed(seed)
    empty = Gemma4AssistantForCausalLM(Gemma4AssistantConfig.from_pretrained(folder))
    save_file(weights_of(empty, generator), folder / "model.safetensors", metadata={"format": "pt"})
    load = {"dtype": torch.float32, "attn_implementation": "eager"}
    assistant, info = Gemma4AssistantForCausalLM.from_pretrained(folder, output_loading_info=True, **load)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    target = AutoModelForCausalLM.from_pretrained(FIXTURES / case.target, **load)
    tokens = load_file(FIXTURES / case.target / "logits.safetensors")["tokens"].long()
    log_probs, margin = guesses(target.eval(), assistant.eval(), tokens)
    if margin < MARGIN_MIN:
        return False
    save_file({"log_probs": log_probs}, folder / "guesses.safetensors")
    print(f"{case.name}: {sum(p.numel() for p in assistant.parameters())} parameters, margin {margin:.3f}")
    return True


def main() -> None:
    for i, case in enumerate(CASES):
        seed = SEED + 500 + i
        while not try_make(case, seed):
            seed += 1000


if __name__ == "__main__":
    main()
