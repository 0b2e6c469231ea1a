"""Short Python functions with varied names and docstrings; every idea carries calls with their values."""

import random
import textwrap
from dataclasses import dataclass
from string import Template

from curriculum_ideas import IDEAS
from curriculum_tasks import TASKS, WORDINGS
from extract import COMPLETE

# Share of the wishes of newcomers among the code.
TASK_SHARE = 0.4

# Names that may stand for each placeholder of an idea.
NAMES = {
    "text": ("text", "string", "s", "line", "sentence", "phrase", "message"),
    "items": ("items", "values", "elements", "entries", "sequence", "data", "lst"),
    "nums": ("numbers", "nums", "values", "scores", "amounts", "data", "prices"),
    "x": ("x", "item", "value", "element", "entry"),
    "n": ("n", "number", "num", "value", "x"),
    "m": ("m", "limit", "other", "k", "size"),
    "a": ("a", "first", "left", "one", "x"),
    "b": ("b", "second", "right", "two", "y"),
    "low": ("low", "lower", "minimum", "smallest", "start"),
    "high": ("high", "upper", "maximum", "largest", "stop"),
    "out": ("result", "output", "out", "found", "collected"),
    "total": ("total", "result", "acc", "running"),
    "count": ("count", "total", "counter", "n_found"),
    "c": ("c", "char", "letter", "ch", "symbol"),
    "w": ("w", "word", "part", "token"),
    "words": ("words", "parts", "tokens", "names"),
    "d": ("mapping", "table", "d", "dictionary", "record"),
    "k": ("key", "k", "name"),
    "v": ("v", "val", "value"),
    "i": ("i", "index", "position", "j"),
    "best": ("best", "winner", "current", "chosen"),
    "seen": ("seen", "known", "visited", "used"),
}


@dataclass(frozen=True)
class Function:
    """An idea with its names settled."""

    name: str
    parameters: str
    summary: str
    body: str
    examples: tuple[tuple[str, str], ...]

    @property
    def head(self) -> str:
        return f"def {self.name}({self.parameters}):"

    @property
    def source(self) -> str:
        return f"{self.head}\n{self.body}"


def settled(idea: tuple, random_: random.Random) -> Function:
    """One of the variants of an idea; `#` in it stands for a small number."""
    names, parameters, summaries, body, examples = idea
    number = random_.randrange(2, 13)
    chosen: dict[str, str] = {}
    for match in Template.pattern.finditer(f"{parameters}\n{body}"):
        key = match["named"]
        if key and key not in chosen:
            partner = {"b": "a", "high": "low"}.get(key)
            if partner in chosen and NAMES[key][at := NAMES[partner].index(chosen[partner])] not in chosen.values():
                chosen[key] = NAMES[key][at]
                continue
            chosen[key] = random_.choice([name for name in NAMES[key] if name not in chosen.values()])

    def filled(text: str) -> str:
        return Template(text.replace("#", str(number))).substitute(chosen)

    name = filled(random_.choice(names.split("|")))
    form = "list({}({}))" if "yield" in body else "{}({})"
    calls = tuple(
        (form.format(name, call), repr(value(number) if callable(value) else value)) for call, value in examples
    )
    summary = filled(random_.choice(summaries.split("|")))
    return Function(
        name, filled(parameters), summary, textwrap.indent(filled(body).replace("@NAME", name), "    "), calls
    )


def docstring(function: Function, random_: random.Random) -> str:
    """The summary, at times with an example."""
    if random_.random() < 0.25:
        call, value = random_.choice(function.examples)
        return f'    """{function.summary}\n\n    >>> {call}\n    {value}\n    """'
    return f'    """{function.summary}"""'


def third_person(summary: str) -> str:
    """From "Return the sum." to "returns the sum."; summaries open with a verb that takes an s."""
    verb, _, rest = summary.partition(" ")
    return f"{verb.lower()}s {rest}"


def in_third_person(wish: str) -> str:
    """From "reverse a list" to "reverses a list"."""
    verb, _, rest = wish.partition(" ")
    ending = "es" if verb.endswith(("s", "x", "ch", "sh", "do")) else "s"
    return (f"{verb[:-1]}ies" if verb.endswith("ply") else verb + ending) + (f" {rest}" if rest else "")


def task(random_: random.Random) -> tuple[str, str]:
    """What a newcomer asks for, and the function."""
    wishes, source, _ = random_.choice(TASKS)
    wish = random_.choice(wishes.split("|"))
    prompt = Template(random_.choice(WORDINGS)).substitute(do=wish, does=in_third_person(wish))
    # Some are typed in haste.
    return prompt[0].lower() + prompt[1:].rstrip(".?") if random_.random() < 0.1 else prompt, source


def pair(random_: random.Random) -> tuple[str, str]:
    """A wish with its function, a head to complete with its body, or a description with the whole function."""
    if random_.random() < TASK_SHARE:
        return task(random_)
    function = settled(random_.choice(IDEAS), random_)
    if random_.random() < 0.7:
        end = "\n" if random_.random() < 0.5 else ""
        return f"{COMPLETE}{function.head}\n{docstring(function, random_)}{end}", function.body
    does = third_person(function.summary)
    prompt = random_.choice((
        f"Write a Python function {function.name}({function.parameters}) that {does}",
        f"Write the function {function.name}({function.parameters}) in Python. It {does}",
        f"Write a short Python function named {function.name} that {does}",
        f"Please write a Python function that {does} Call it {function.name}.",
    ))  # fmt: skip
    call, value = random_.choice(function.examples)
    use = random_.choice(("", "", f"\n\nFor example, {call} returns {value}."))
    return prompt, function.source + use
