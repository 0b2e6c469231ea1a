"""Continues prompts greedily in llama.cpp from the GGUF export and compares with the tokens another engine wrote.

llama.cpp comes as `pip install xllamacpp`; nothing else needs it. ANSWERS are what `dsde generate --json --file
PROMPTS` prints. Two engines round differently, so a text may part where two tokens are nearly equally likely: for each
parting the margin between both tokens in llama.cpp is printed, in nats.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizer import rendered_prompt

# More candidates than a parting is likely to need.
N_PROBS = 20


class Server(Protocol):
    """The part of llama.cpp's server that is used here."""

    def handle_completions(self, request: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Step:
    """One greedy step of llama.cpp: its token and the log probabilities of the likeliest."""

    token: int
    log_probs: dict[int, float]


def opened(gguf: Path, context_len: int) -> Server:
    """llama.cpp with the model loaded, one slot, no cache between prompts."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = context_len
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.warmup = False
    return xllamacpp.Server(params)


def continued(server: Server, prompt: str, new_tokens: int) -> list[Step]:
    """Greedy tokens after a rendered prompt, end of turn included."""
    reply = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": new_tokens,
            "temperature": 0.0,
            "n_probs": N_PROBS,
            "cache_prompt": False,
            "return_tokens": True,
        }
    )
    return [
        Step(entry["id"], {top["id"]: top["logprob"] for top in entry["top_logprobs"]})
        for entry in reply["choices"][0]["logprobs"]["content"]
    ]


def parting(steps: list[Step], tokens: list[int]) -> tuple[int, float] | None:
    """Where both first differ and by how much llama.cpp preferred its own token; None if they never do.

    An end of turn that only one of them lists does not count: engines differ in whether they report it.
    """
    for i, (step, token) in enumerate(zip(steps, tokens, strict=False)):
        if step.token != token:
            return i, step.log_probs[step.token] - step.log_probs.get(token, -math.inf)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="JSON lines with a prompt each")
    parser.add_argument("--answers", type=Path, required=True, help="JSON lines with index and tokens")
    parser.add_argument("--raw", action="store_true", help="continue the prompts as they stand, without chat template")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--context-len", type=int, default=2048)
    args = parser.parse_args()

    prompts = [json.loads(line)["prompt"] for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    answers = [json.loads(line) for line in args.answers.read_text(encoding="utf-8").splitlines()]
    server = opened(args.gguf, args.context_len)
    n_same, n_tokens = 0, 0
    for answer in answers:
        prompt = prompts[answer["index"]]
        steps = continued(server, prompt if args.raw else rendered_prompt(prompt), args.new_tokens)
        n_tokens += min(len(steps), len(answer["tokens"]))
        apart = parting(steps, answer["tokens"])
        if apart is None:
            n_same += 1
        else:
            print(f"prompt {answer['index']}: parts at token {apart[0]}, margin {apart[1]:.4f} nats")
    print(f"{n_same} of {len(answers)} texts are the same, {n_tokens} tokens compared")


if __name__ == "__main__":
    main()
