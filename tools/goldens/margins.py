"""Whether another choice of experts was close: then rounding would make it, and the output would be another."""

import math

import torch

# Least distance of the scores of the last expert that a row asks and of the first that it does not; scores have a deviation of 2.
# Rounding keys to bf16 moves them by a hundredth, and another choice of experts would be another output.
MARGIN_MIN = 0.03


def margin(model, tokens: torch.Tensor) -> float:
    """How far the choice of experts is from another one."""
    is_gemma4 = model.config.model_type == "gemma4_text"
    n_chosen = getattr(model.config, "top_k_experts" if is_gemma4 else "num_experts_per_tok", None)
    if n_chosen is None:
        return math.inf
    scores = torch.cat(model(tokens[None], output_router_logits=True).router_logits)
    # Those of Gemma 4 are probabilities already.
    scores = scores.log() if is_gemma4 else scores
    ranked = scores.sort(descending=True).values
    return (ranked[:, n_chosen - 1] - ranked[:, n_chosen]).min().item()


def is_doubtful(config, output) -> bool:
    """Whether some row's choice of experts is close to another one."""
    n_chosen = getattr(config, "num_experts_per_tok", None)
    if n_chosen is None:
        return False
    ranked = torch.cat(output.router_logits).sort(descending=True).values
    return (ranked[:, n_chosen - 1] - ranked[:, n_chosen]).min().item() < MARGIN_MIN
