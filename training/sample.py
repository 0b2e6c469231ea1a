"""Stage 5: draws the target's own text, at temperature 1 and greedily, as token files for the draft's training.

Token ids are kept as drawn: text that is decoded and encoded again need not give the same tokens.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

import checkpoint
from data import Documents
from model import Cache, Llama, padded_mask
from settings import Settings
from tokenizer import stop_ids

# Plain text has no prompt: this many of its tokens are given.
TEXT_PREFIX_TOKENS = 24


def token_of(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token per row: the likeliest at temperature 0, else drawn."""
    if temperature == 0.0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


@torch.inference_mode()
def generate(
    model: Llama,
    prompts: list[list[int]],
    new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    stops: set[int],
) -> list[list[int]]:
    """Continues left-padded prompts together, with a key/value cache; each row ends at its first stop token."""
    device = model.device
    longest = max(len(prompt) for prompt in prompts)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    cache = Cache(model.shape, len(prompts), longest + new_tokens, device, dtype)
    first = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    stop_ids = torch.tensor(sorted(stops), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    drawn: list[Tensor] = []
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        while len(drawn) < new_tokens:
            mask = padded_mask(first, cache.context_len, tokens.shape[1])
            hidden = model.model(tokens, mask, cache)[:, -1]
            tokens = token_of(model.logits(hidden), temperature, generator).unsqueeze(1)
            drawn.append(tokens)
            ended |= torch.isin(tokens.squeeze(1), stop_ids)
            if bool(ended.all()):
                break
    return [until_stop(row, stops) for row in torch.cat(drawn, dim=1).tolist()]


def until_stop(tokens: list[int], stops: set[int]) -> list[int]:
    """Tokens up to and including the first stop."""
    for i, token in enumerate(tokens):
        if token in stops:
            return tokens[: i + 1]
    return tokens


def prompt_of(documents: Documents, i: int) -> list[int]:
    """What is given of a document: its prompt, or the beginning of a text."""
    prompt_len = int(documents.prompt_lens[i])
    return documents[i][: prompt_len or TEXT_PREFIX_TOKENS].tolist()


def batches(documents: Documents, chosen: list[int], size: int) -> list[list[int]]:
    """Indices in batches of similar prompt length, because padding is computed too."""
    by_length = sorted(chosen, key=lambda i: (len(prompt_of(documents, i)), i))
    return [by_length[i : i + size] for i in range(0, len(by_length), size)]


def temperature_of(batch: int, greedy_share: float) -> float:
    """0 for `greedy_share` of the batches, evenly spread, so that a run cut short keeps the share."""
    return 0.0 if int((batch + 1) * greedy_share) > int(batch * greedy_share) else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="run or model folder of the target")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz, whose prompts are answered")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--minutes", type=float, help="stop drawing after so long; what is drawn is written")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings.read(args.config)
    model = checkpoint.load_model(args.model, torch.device(args.device))
    stops = stop_ids(Tokenizer.from_file(str(args.tokenizer / "tokenizer.json")))
    generator = torch.Generator(args.device).manual_seed(settings.seed)
    documents = Documents.load(args.data / "train.npz")
    room = settings.target.training.context_len - settings.sampling.new_tokens
    usable = [i for i in range(len(documents)) if 0 < len(prompt_of(documents, i)) <= room]
    shuffle = random.Random(settings.seed)
    shuffle.shuffle(usable)
    # More samples than prompts: go through them again, the answers differ.
    wanted = settings.sampling.n_prompts
    chosen = (usable * (wanted // len(usable) + 1))[:wanted]
    pending = batches(documents, chosen, settings.sampling.batch)
    shuffle.shuffle(pending)

    encoded, prompt_lens, domains = [], [], []
    began = time.monotonic()
    for n_done, batch in enumerate(pending, start=1):
        prompts = [prompt_of(documents, i) for i in batch]
        temperature = temperature_of(n_done - 1, settings.sampling.greedy_share)
        answers = generate(model, prompts, settings.sampling.new_tokens, temperature, generator, stops)
        for i, prompt, answer in zip(batch, prompts, answers, strict=True):
            encoded.append(np.array(prompt + answer, dtype=np.uint16))
            prompt_lens.append(len(prompt))
            domains.append(int(documents.domains[i]))
        print(f"batch {n_done}/{len(pending)}, {time.monotonic() - began:.1f} s", flush=True)
        if args.minutes is not None and time.monotonic() - began > args.minutes * 60.0:
            break
    samples = Documents.collect(encoded, prompt_lens, domains)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    samples.save(args.out)
    print(f"{len(samples)} samples, tokens {samples.summary()}")


if __name__ == "__main__":
    main()
