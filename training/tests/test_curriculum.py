"""Records made by rules: right sums, functions that work, no repetition."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

import curriculum
import curriculum_code
from curriculum_facts import KINDS, OPPOSITES
from extract import COMPLETE
from records import Exclusion, Sieve, normalised

RECORDS = list(curriculum.records(3000, seed=1))
DEMO = Path(__file__).parents[2] / "crates" / "cli" / "src" / "samples.rs"


def of(domain: str) -> list[tuple[str, str]]:
    return [(record.prompt, record.text) for record in RECORDS if record.domain == domain]


def test_domains_have_their_shares_and_no_prompt_comes_twice() -> None:
    assert Counter(record.domain for record in RECORDS) == {"math": 1200, "code": 1050, "chat": 750}
    assert len({record.prompt for record in RECORDS}) == len(RECORDS)
    assert max(len(record.text) for record in RECORDS) <= 400


def test_a_seed_settles_every_record() -> None:
    assert list(curriculum.records(300, seed=5)) == list(curriculum.records(300, seed=5))
    assert list(curriculum.records(300, seed=5)) != list(curriculum.records(300, seed=6))


def test_the_filters_keep_every_record() -> None:
    sieve = Sieve(Exclusion(), chars_max=2000)
    assert list(sieve(RECORDS)) == RECORDS


def test_enough_records_are_there_for_a_run_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(curriculum.domain_pairs("chat", 3750, random.Random(2)))) == 3750
    assert len(list(curriculum.domain_pairs("code", 5250, random.Random(2)))) == 5250
    monkeypatch.setitem(curriculum.MAKERS, "chat", lambda random_: (str(random_.randrange(3)), "yes"))
    with pytest.raises(ValueError, match="expected 4 different chat records, the rules gave 3"):
        list(curriculum.domain_pairs("chat", 4, random.Random(2)))


def test_every_equation_holds_and_the_last_one_is_the_answer() -> None:
    for prompt, response in of("math"):
        *steps, last = response.split("\n")
        results = []
        for step in steps:
            a, sign, b, result = re.search(r"(\d+) ([-+*/]) (\d+) = (\d+)", step).groups()
            exact = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[sign]
            assert exact == int(result), (prompt, response)
            results.append(result)
        assert last == f"#### {results[-1]}", (prompt, response)


def test_steps_use_numbers_of_the_problem_or_earlier_results() -> None:
    words = {"twice": "2", "three times": "3", "four times": "4", "equally": "2"}
    for prompt, response in of("math"):
        known = set(re.findall(r"\d+", prompt)) | {number for word, number in words.items() if word in prompt}
        for a, b, result in re.findall(r"(\d+) [-+*/] (\d+) = (\d+)", response):
            assert {a, b} <= known, (prompt, response)
            known.add(result)


def test_every_idea_gives_the_values_it_claims_under_any_names() -> None:
    random_ = random.Random(3)
    for idea in curriculum_code.IDEAS:
        for _ in range(20):
            function = curriculum_code.settled(idea, random_)
            scope: dict = {}
            exec(function.source, scope)
            for call, value in function.examples:
                assert repr(eval(call, scope)) == value, function.source


def test_completions_are_bodies_of_their_prompts() -> None:
    completions = [(prompt, body) for prompt, body in of("code") if prompt.startswith(COMPLETE)]
    assert len(completions) > 500
    for prompt, body in completions:
        compile(prompt.removeprefix(COMPLETE).rstrip("\n") + "\n" + body, "completion", "exec")
    for prompt, answer in of("code"):
        if not prompt.startswith(COMPLETE):
            compile(answer.split("\n\nFor example")[0], "answer", "exec")


def test_every_idea_is_used() -> None:
    assert len(curriculum_code.IDEAS) >= 80
    assert all(examples for *_, examples in curriculum_code.IDEAS)


def test_no_word_has_two_kinds_or_two_opposites() -> None:
    for groups in (KINDS.values(), OPPOSITES):
        assert set(Counter(word for group in groups for word in group).values()) == {1}


def test_chat_is_whole_sentences_without_loose_ends() -> None:
    for prompt, answer in of("chat"):
        assert prompt[0].isupper() and answer[0].isalnum(), (prompt, answer)
        assert not re.search(r"[{}$]|  |\ba [aeio]|\bA [AEIOaeio]|\.\.", prompt + " " + answer), (prompt, answer)


@pytest.mark.skipif(not DEMO.exists(), reason="the folder stands alone")
def test_the_prompts_of_the_demo_stay_out() -> None:
    literals = re.findall(r'"((?:[^"\\]|\\.)*)"', DEMO.read_text(encoding="utf-8"))
    demo = {normalised(json.loads(f'"{text}"')) for text in literals if len(text) > 20}
    assert len(demo) >= 16
    assert not demo & {normalised(record.prompt) for record in RECORDS}
