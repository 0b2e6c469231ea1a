"""Heads that models bring (MTP): their weights, and what they guess."""

import torch
from transformers import AutoModelForCausalLM

from cases import Case
from margins import is_doubtful
from weights import published, random_weights

# How the names of the tensors of a head begin, and of those of its layer.
HEAD, HEAD_LAYER = "mtp.", "mtp.layers.0."
# Tokens that the target has emitted when the head guesses, and how many it guesses.
KNOWN_LENS, GUESSED_LEN = (2, 9, 20, 33), 3


def head_config(config):
    """A model of one layer of attention: that of the head."""
    config = type(config).from_dict(config.to_dict())
    config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
    return config


def random_head(config, target: dict[str, torch.Tensor], case: Case, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Tensors of a head for `target` as published."""
    model = AutoModelForCausalLM.from_config(head_config(config))
    size, prefix = config.hidden_size, "model.layers.0."
    shapes = {
        HEAD_LAYER + name.removeprefix(prefix): tensor.shape
        for name, tensor in model.state_dict().items()
        if name.startswith(prefix)
    }
    norms = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
    shapes |= {f"{HEAD}{name}.weight": torch.Size([size]) for name in norms[:2]}
    shapes |= {f"{HEAD}fc.weight": torch.Size([size, 2 * size]), f"{HEAD}norm.weight": torch.Size([size])}
    weights = random_weights(shapes, generator, case.norm_offset)
    for name in norms[:2]:
        weights[f"{HEAD}{name}.weight"] = 1.0 - case.norm_offset + 0.3 * torch.randn(size, generator=generator)
    return {n: w.to(case.dtype).contiguous() for n, w in published(config.model_type, weights).items()}


@torch.no_grad()
def head_guesses(model, stored: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor | None:
    """Log-probabilities [known lengths, guesses, vocabulary] of what the head guesses behind the first tokens, if the words of
    the text follow; `None` where a choice of experts would be in doubt.

    The state of the target is that behind its final norm; from the second guess on it is the head's, behind its own.
    """
    config = head_config(model.config)
    head = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    own = {name: tensor.float() for name, tensor in stored.items() if name.startswith(HEAD)}
    layer = {"model.layers.0." + n.removeprefix(HEAD_LAYER): t for n, t in fused(own).items() if n.startswith(HEAD_LAYER)}
    shared = {"model.norm.weight": own[f"{HEAD}norm.weight"]}
    shared |= {n: stored[n].float() for n in ("model.embed_tokens.weight", "lm_head.weight")}
    head.load_state_dict(layer | shared)
    join = own[f"{HEAD}fc.weight"]
    norms = []
    for name in ("embedding", "hidden"):
        norm = type(head.model.norm)(config.hidden_size, eps=config.rms_norm_eps)
        norm.weight.copy_(own[f"{HEAD}pre_fc_norm_{name}.weight"])
        norms.append(norm)
    embeddings = head.model.embed_tokens(tokens)
    states = model.model(tokens[None]).last_hidden_state[0]
    guesses = []
    for n_known in KNOWN_LENS:
        features = states[: n_known - 1]
        for n_tokens in range(n_known, n_known + GUESSED_LEN):
            inputs = torch.cat((norms[0](embeddings[1:n_tokens]), norms[1](features)), dim=-1) @ join.T
            output = head.model(inputs_embeds=inputs[None], output_router_logits=True)
            if is_doubtful(config, output):
                return None
            output = output.last_hidden_state[0, -1:]
            guesses.append(head.lm_head(output)[0].log_softmax(-1))
            features = torch.cat((features, output))
    return torch.stack(guesses).view(len(KNOWN_LENS), GUESSED_LEN, -1)


def fused(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reverse of `published` for one layer."""
    marker = ".mlp.experts."
    kept = {name: tensor for name, tensor in weights.items() if marker not in name}
    if len(kept) == len(weights):
        return kept
    prefix = HEAD_LAYER.removesuffix(".") + marker
    n_experts = len({name.removeprefix(prefix).split(".")[0] for name in weights if marker in name})
    part = lambda i, name: weights[f"{prefix}{i}.{name}_proj.weight"]
    gate_up = [torch.cat((part(i, "gate"), part(i, "up"))) for i in range(n_experts)]
    kept[f"{prefix}gate_up_proj"] = torch.stack(gate_up)
    kept[f"{prefix}down_proj"] = torch.stack([part(i, "down") for i in range(n_experts)])
    return kept
