"""A small draft with all tokens of its target, as a Hugging Face folder for engines that want one vocabulary for both.

The draft reads as it was trained to: a token that it lacks has the input row of the longest end that it has. It must
never guess such a token, whatever its hidden state is, and no output row over the draft's own channels promises that:
even the mean of its last hidden states points away from some of them. So one channel is added whose square is part of
what the norms add to every mean, their epsilon. No layer reads or writes it, and behind the last norm it is positive
for every text. Output rows of tokens that the draft lacks read that channel alone, with a large negative weight; all
others are as they were, and so are their logits.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import gguf_file
from draft_vocabulary import reads_of
from export import hf_config
from model import Llama
from tokenizer import END_OF_TEXT, TURN_END

# Hidden sizes that are multiples of this suit the kernels of most engines, and multiples of the heads the checks of
# transformers; what is not needed is zero.
CHANNELS_MULTIPLE = 8

# Weight of the added channel in the last norm, and its negative in an output row. With streams of size s behind the
# layers such a logit is about -SINK^2 sqrt(epsilon n_channels / 2) / s, which is -1000 for s = 40.
SINK = 1024.0

COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROWS = ("o_proj", "down_proj")


def full(draft: Llama, kept: list[int], reads: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What config.json says otherwise, and the weights, f32; lm_head.weight is [len(reads), hidden_size].

    * `kept`: the target's id for each token of the draft.
    * `reads`: i64 [vocab_size of the target], the draft's token that each is read as.
    """
    size, eps = draft.shape.hidden_size, draft.shape.norm_eps
    multiple = math.lcm(CHANNELS_MULTIPLE, draft.shape.n_heads)
    width = (size // multiple + 1) * multiple
    constant = float(torch.tensor(math.sqrt(size * eps / 2)).bfloat16())
    # width * (mean square + rest) over all channels is size * (mean square + eps) over the draft's own.
    rest = (size * eps - constant**2) / width

    def widened(name: str, weight: Tensor) -> Tensor:
        kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if kind in ROWS:
            return F.pad(weight, (0, 0, 0, width - size))
        wide = F.pad(weight, (0, width - size))
        return wide if kind in COLUMNS else wide * math.sqrt(size / width)

    inner = {name: weight for name, weight in draft.state_dict().items() if name != "model.embed_tokens.weight"}
    weights = {name: widened(name, weight) for name, weight in inner.items()}
    weights["model.norm.weight"][size] = SINK
    embeddings = F.pad(draft.model.embed_tokens.weight, (0, width - size))
    output = torch.zeros(len(reads), width)
    output[:, size] = -SINK
    output[kept] = embeddings
    embeddings = embeddings.clone()
    embeddings[:, size] = constant
    weights |= {"model.embed_tokens.weight": embeddings[reads], "lm_head.weight": output}
    changes = {
        "vocab_size": len(reads),
        "hidden_size": width,
        "rms_norm_eps": rest,
        "tie_word_embeddings": False,
    }
    return changes, weights


def ids_in(tokenizer: dict[str, Any], tokens: list[str]) -> list[int]:
    """The target's ids of the draft's tokens; `tokenizer` is the target's tokenizer.json."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    vocabulary = vocabulary | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    if lacking := [token for token in tokens if token not in vocabulary]:
        raise SystemExit(f"expected tokens of the target alone, got {len(lacking)} others, the first {lacking[0]!r}")
    return [vocabulary[token] for token in tokens]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, required=True, metavar="FILE.gguf", help="of draft_export.py")
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument("--out", type=Path, required=True, help="the Hugging Face folder")
    args = parser.parse_args()

    draft, tokens = gguf_file.read(args.draft)
    tokenizer = json.loads((args.target / "tokenizer.json").read_text(encoding="utf-8"))
    vocab_size = json.loads((args.target / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    kept = ids_in(tokenizer, tokens)
    changes, weights = full(draft, kept, reads_of(tokenizer, kept, vocab_size))
    args.out.mkdir(parents=True, exist_ok=True)
    config = hf_config(draft, kept[tokens.index(TURN_END)], kept[tokens.index(END_OF_TEXT)]) | changes
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    stored = {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}
    save_file(stored, args.out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(args.target / name, args.out / name)
    print(f"{len(kept)} of {vocab_size} tokens are guessed, {changes['hidden_size']} channels: {args.out}")


if __name__ == "__main__":
    main()
