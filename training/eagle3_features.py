"""EAGLE-3, stage 2: what the target thought of its own answers, kept on disk as bf16.

Each part of prompts with its answers becomes `NAME.npz`, the token ids, and `NAME.hidden`, per token the three
streams a head reads and the last hidden state after the final norm, from which the target's distribution follows.
Finished parts are skipped, so that answering, reading and training may overlap.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment
from tokenizers import Tokenizer
from torch import Tensor, nn

import checkpoint
from data import Documents
from eagle3_head import tap_layers
from model import Llama

ASKED = ("chat", "code", "math", "summarization")

# Streams of a token: low, middle, high, last.
N_STREAMS = 4


class Chat:
    """The chat template of a model folder, as a server applies it to one question."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._template = Environment().from_string(config["chat_template"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tokens(self, prompt: str) -> list[int]:
        messages = [{"role": "user", "content": prompt}]
        text = self._template.render(messages=messages, add_generation_prompt=True)
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def answered(prompts: Path, answers: Path, chat: Chat, prompt_len_max: int) -> Documents:
    """Prompts with their answers as `dsde generate --json` wrote them; their domains index ASKED.

    Left out are prompts that are too long, and those the engine read as other tokens, such as spelled control tokens.
    """
    # Not splitlines: a text may hold separators that JSON leaves as they are.
    asked = [json.loads(line) for line in prompts.open(encoding="utf-8")]
    said = [json.loads(line) for line in answers.open(encoding="utf-8")]
    encoded, prompt_lens, domains = [], [], []
    for answer in said:
        ask = asked[answer["index"]]
        prompt = chat.tokens(ask["prompt"])
        if len(prompt) <= prompt_len_max and len(prompt) == answer["prompt_tokens"] and len(answer["tokens"]) > 1:
            encoded.append(np.array(prompt + answer["tokens"], dtype=np.uint16))
            prompt_lens.append(len(prompt))
            domains.append(ASKED.index(ask["domain"]))
    if len(encoded) < len(said) / 2:
        raise SystemExit(f"{prompts} fits {len(encoded)} of {len(said)} answers: same prompts and chat template?")
    return Documents.collect(encoded, prompt_lens, domains)


@torch.inference_mode()
def hidden_streams(target: Llama, tokens: Tensor) -> Tensor:
    """Tokens [rows, n], padded at their ends, to streams [rows, n, N_STREAMS, hidden_size]."""
    backbone = target.model
    taps = tap_layers(target.shape.n_layers)
    cos, sin = backbone.cos[: tokens.shape[1]], backbone.sin[: tokens.shape[1]]
    x = backbone.embed_tokens(tokens)
    kept = []
    for n_done, layer in enumerate(backbone.layers):
        if n_done in taps:
            kept.append(x)
        x = layer(x, cos, sin, None, None)
    return torch.stack([*kept, backbone.norm(x)], dim=2)


def in_bf16(target: Llama) -> Llama:
    """The same model with bf16 matrices in its layers, to be run under autocast: its stream stays f32."""
    for module in target.model.layers.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return target


def write_streams(target: Llama, documents: Documents, path: Path, rows: int) -> None:
    """Streams of all tokens, bf16 [n_tokens, N_STREAMS, hidden_size], documents of like length read together."""
    shape = (len(documents.tokens), N_STREAMS, target.shape.hidden_size)
    stored = np.memmap(path, dtype=np.uint16, mode="w+", shape=shape)
    by_length = np.argsort(np.diff(documents.offsets), kind="stable")
    for start in range(0, len(by_length), rows):
        chosen = by_length[start : start + rows]
        lengths = [len(documents[i]) for i in chosen]
        tokens = torch.zeros((len(chosen), max(lengths)), dtype=torch.long)
        for row, i in enumerate(chosen):
            tokens[row, : lengths[row]] = torch.from_numpy(documents[i].astype(np.int64))
        streams = hidden_streams(target, tokens.to(target.device)).to(torch.bfloat16).cpu().view(torch.uint16).numpy()
        for row, i in enumerate(chosen):
            stored[documents.offsets[i] : documents.offsets[i + 1]] = streams[row, : lengths[row]]
    stored.flush()


@dataclass(frozen=True)
class Features:
    """A part on disk: documents and bf16 streams [n_tokens, N_STREAMS, hidden_size]."""

    documents: Documents
    streams: Tensor

    def of(self, i: int) -> Tensor:
        """Streams of a document, bf16 [n, N_STREAMS, hidden_size]."""
        return self.streams[self.documents.offsets[i] : self.documents.offsets[i + 1]]


def load_features(path: Path, hidden_size: int) -> Features:
    """The part `path`; its streams stay on disk until they are read."""
    documents = Documents.load(path)
    shape = (len(documents.tokens), N_STREAMS, hidden_size)
    file = path.with_suffix(".hidden")
    if file.stat().st_size != 2 * int(np.prod(shape)):
        raise SystemExit(f"expected bf16 {list(shape)} in {file}, got {file.stat().st_size} bytes")
    # Mode c: torch wants to be allowed to write, and nothing reaches the file.
    return Features(documents, torch.from_numpy(np.memmap(file, np.uint16, "c", shape=shape)).view(torch.bfloat16))


def load_all_features(folder: Path, hidden_size: int) -> list[Features]:
    """All parts in `folder`, at least one."""
    parts = [load_features(path, hidden_size) for path in sorted(folder.glob("*.npz"))]
    if not parts:
        raise SystemExit(f"expected features in {folder}: run eagle3_features.py first")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of NAME.jsonl")
    parser.add_argument("--answers", type=Path, required=True, help="folder of NAME.jsonl, from dsde generate --json")
    parser.add_argument("--prompt-len-max", type=int, default=640)
    parser.add_argument("--rows", type=int, default=8, help="documents read at once")
    parser.add_argument("--bf16", action="store_true", help="multiply in bf16: faster where the processor has it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    target = checkpoint.load_model(args.target, torch.device(args.device))
    if args.bf16:
        target = in_bf16(target)
    chat = Chat(args.target)
    args.out.mkdir(parents=True, exist_ok=True)
    for answers in sorted(args.answers.glob("*.jsonl")):
        out = args.out / f"{answers.stem}.npz"
        if out.exists():
            continue
        documents = answered(args.prompts / answers.name, answers, chat, args.prompt_len_max)
        began = time.monotonic()
        partial = out.with_suffix(".partial")
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            write_streams(target, documents, partial, args.rows)
        os.replace(partial, out.with_suffix(".hidden"))
        documents.save(out)
        n_tokens, seconds = len(documents.tokens), time.monotonic() - began
        n_answers = n_tokens - int(documents.prompt_lens.sum())
        print(
            f"{answers.stem}: {len(documents)} documents, {n_tokens} tokens, {n_answers} of answers, "
            f"{n_tokens / seconds:.0f} tokens/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
