"""A corpus made of nothing but rules, for smoke runs and tests: no third-party text, four domains, any size."""

import random
from collections.abc import Iterator

from records import Record

TITLE, LICENCE = "synthetic", "CC0-1.0"
NOUNS = ("box", "lamp", "river", "garden", "engine", "letter", "window", "stone", "kettle", "bridge")
COLOURS = ("red", "green", "blue", "grey", "white", "black")
VERBS = ("add", "multiply", "subtract")
OPERATORS = {"add": "+", "multiply": "*", "subtract": "-"}


def chat(random_: random.Random) -> Record:
    """A question about a place."""
    noun, colour, place = random_.choice(NOUNS), random_.choice(COLOURS), random_.choice(NOUNS)
    prompt = f"Where is the {colour} {noun}?"
    return Record(
        "chat", TITLE, LICENCE, f"The {colour} {noun} is behind the {place}. You will see it at once.", prompt
    )


def code(random_: random.Random) -> Record:
    """A function of two lines."""
    verb, noun, number = random_.choice(VERBS), random_.choice(NOUNS), random_.randrange(2, 100)
    head = f'def {verb}_{noun}(x):\n    """Returns x after we {verb} {number}."""'
    body = f"    result = x {OPERATORS[verb]} {number}\n    return result"
    return Record("code", TITLE, LICENCE, body, "Complete this Python function.\n" + head)


def math(random_: random.Random) -> Record:
    """A sum in words."""
    a, b, noun = random_.randrange(2, 50), random_.randrange(2, 50), random_.choice(NOUNS)
    prompt = f"Ann has {a} pictures of a {noun} and gets {b} more. How many has she?"
    return Record("math", TITLE, LICENCE, f"She has {a} + {b} = {a + b} pictures.\n#### {a + b}", prompt)


def docs(random_: random.Random) -> Record:
    """A list of options under a heading."""
    noun, other = random_.choice(NOUNS), random_.choice(NOUNS)
    lines = [f"{noun} and {other}", "=" * 16, ""]
    lines += [
        f"Option {i}: the {random_.choice(COLOURS)} {noun} takes {random_.randrange(99)} steps." for i in range(4)
    ]
    return Record("docs", TITLE, LICENCE, "\n".join(lines) + "\n")


def records(per_domain: int, seed: int) -> Iterator[Record]:
    """`per_domain` records of each domain; repetitions are left to the deduplication."""
    random_ = random.Random(seed)
    for _ in range(per_domain):
        for make in (chat, code, math, docs):
            yield make(random_)
