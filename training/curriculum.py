"""Simple text made by rules, for models too small for public text: word problems, short functions, plain talk.

Nothing here comes from elsewhere. Every equation is computed, and the tests execute every function.
"""

import random
from collections.abc import Callable, Iterator

import curriculum_chat
import curriculum_code
import curriculum_math
from records import CURRICULUM, Record, normalised, spaced

LICENCE = "Apache-2.0"

# Share of the records by domain.
SHARES = {"math": 0.44, "code": 0.24, "chat": 0.32}

MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "math": curriculum_math.pair,
    "code": curriculum_code.pair,
    "chat": curriculum_chat.pair,
}

# Repetitions in a row after which a domain counts as exhausted.
MISSES_MAX = 5000


def domain_pairs(domain: str, count: int, random_: random.Random) -> Iterator[tuple[str, str]]:
    """`count` pairs of prompt and response; no prompt comes twice."""
    seen: set[str] = set()
    n_misses = 0
    while len(seen) < count:
        prompt, response = MAKERS[domain](random_)
        key = normalised(prompt) if domain == "chat" else spaced(prompt)
        if key in seen:
            n_misses += 1
            if n_misses > MISSES_MAX:
                raise ValueError(f"expected {count} different {domain} records, the rules gave {len(seen)}")
            continue
        seen.add(key)
        n_misses = 0
        yield prompt, response


def records(count: int, seed: int) -> Iterator[Record]:
    """About `count` records, each domain by its share and from a seed of its own."""
    for domain, share in SHARES.items():
        for prompt, response in domain_pairs(domain, round(count * share), random.Random(f"{seed} {domain}")):
            yield Record(domain, CURRICULUM, LICENCE, response, prompt)
