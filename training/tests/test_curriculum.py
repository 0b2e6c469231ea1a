"""Records made by rules: right sums, functions that work, no repetition."""

import json
import operator
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

import curriculum
import curriculum_code
import curriculum_math
from curriculum_facts import FACTS, KINDS, OPPOSITES
from curriculum_talk import MORE_FACTS, TALK
from curriculum_tasks import TASKS
from extract import COMPLETE
from records import Exclusion, Sieve, normalised

RECORDS = list(curriculum.records(3000, seed=1))
DEMO = Path(__file__).parents[2] / "crates" / "cli" / "src" / "samples.rs"


def of(domain: str) -> list[tuple[str, str]]:
    return [(record.prompt, record.text) for record in RECORDS if record.domain == domain]


def test_domains_have_their_shares_and_no_prompt_comes_twice() -> None:
    assert Counter(record.domain for record in RECORDS) == {"math": 1320, "code": 720, "chat": 960}
    assert len({record.prompt for record in RECORDS}) == len(RECORDS)
    assert max(len(record.text) for record in RECORDS) <= 400


def test_a_seed_settles_every_record() -> None:
    assert list(curriculum.records(300, seed=5)) == list(curriculum.records(300, seed=5))
    assert list(curriculum.records(300, seed=5)) != list(curriculum.records(300, seed=6))


def test_the_filters_keep_every_record() -> None:
    sieve = Sieve(Exclusion(), chars_max=2000)
    assert list(sieve(RECORDS)) == RECORDS


def test_enough_records_are_there_for_a_run_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(curriculum.domain_pairs("chat", 5280, random.Random(2)))) == 5280
    assert len(list(curriculum.domain_pairs("code", 7480, random.Random(2)))) == 7480
    monkeypatch.setitem(curriculum.MAKERS, "chat", lambda random_: (str(random_.randrange(3)), "yes"))
    with pytest.raises(ValueError, match="expected 4 different chat records, the rules gave 3"):
        list(curriculum.domain_pairs("chat", 4, random.Random(2)))


# Both sides of an equation, and again, as in 6 * 14 = 60 + 24 = 84.
CHAIN = re.compile(r"\d+(?: [-+*/] \d+)?(?: = \d+(?: [-+*/] \d+)?)+")


def value(text: str) -> Fraction:
    """Of a number or of one operation on two."""
    a, sign, b = re.fullmatch(r"(\d+)(?: ([-+*/]) (\d+))?", text).groups()
    operation = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, None: lambda a, _: a}
    return operation[sign](Fraction(a), Fraction(b or 0))


def test_every_equation_holds_and_the_last_one_is_the_answer() -> None:
    kinds = Counter()
    for prompt, response in of("math"):
        *steps, last = response.split("\n")
        is_answer = last.startswith("#### ")
        for step in steps if is_answer else [*steps, last]:
            (chain,) = CHAIN.findall(step)
            assert len({value(side) for side in chain.split(" = ")}) == 1, (prompt, response)
            result = chain.split(" = ")[-1]
        assert not is_answer or last == f"#### {result}", (prompt, response)
        kinds[is_answer] += 1
    assert kinds[True] > 4 * kinds[False] > 200


def test_steps_use_numbers_of_the_problem_or_earlier_results() -> None:
    words = {"twice": "2", "three times": "3", "four times": "4", "equally": "2"}
    for prompt, response in of("math"):
        known = set(re.findall(r"\d+", prompt)) | {number for word, number in words.items() if word in prompt}
        if "times table" in prompt or "multipl" in prompt.lower():
            known |= {str(n) for n in range(1, 13)}
        for chain in CHAIN.findall(response):
            task, *_, result = chain.split(" = ")
            assert set(re.findall(r"\d+", task)) <= known, (prompt, response)
            known.add(result)


def test_products_go_through_tens_and_ones_beyond_the_table() -> None:
    assert curriculum_math.product(6, 14) == "6 * 14 = 60 + 24 = 84"
    assert curriculum_math.product(14, 6) == "14 * 6 = 60 + 24 = 84"
    assert curriculum_math.product(12, 11) == "12 * 11 = 132"
    assert curriculum_math.product(3, 40) == "3 * 40 = 120"


def test_every_idea_gives_the_values_it_claims_under_any_names() -> None:
    random_ = random.Random(3)
    for idea in curriculum_code.IDEAS:
        for _ in range(20):
            function = curriculum_code.settled(idea, random_)
            scope: dict = {}
            exec(function.source, scope)
            for call, value in function.examples:
                assert repr(eval(call, scope)) == value, function.source


def test_every_task_gives_the_values_it_claims() -> None:
    for wishes, source, calls in TASKS:
        scope: dict = {}
        exec(source, scope)
        for call, expected in calls:
            assert eval(call, scope) == expected, call
        for wish in wishes.split("|"):
            assert re.fullmatch(r"[a-z]+ [\w ,]+", wish), wish
    wishes = [wish for wishes, _, _ in TASKS for wish in wishes.split("|")]
    assert len(set(wishes)) == len(wishes) > 160


def test_wishes_read_well_in_the_third_person() -> None:
    wishes = {
        "reverse a list": "reverses a list",
        "multiply all": "multiplies all",
        "do it": "does it",
        "say hello": "says hello",
    }
    assert {wish: curriculum_code.in_third_person(wish) for wish in wishes} == wishes


def test_completions_are_bodies_of_their_prompts() -> None:
    completions = [(prompt, body) for prompt, body in of("code") if prompt.startswith(COMPLETE)]
    assert len(completions) > 250
    for prompt, body in completions:
        compile(prompt.removeprefix(COMPLETE).rstrip("\n") + "\n" + body, "completion", "exec")
    for prompt, answer in of("code"):
        if not prompt.startswith(COMPLETE):
            compile(answer.split("\n\nFor example")[0], "answer", "exec")


def test_every_idea_is_used() -> None:
    assert len(curriculum_code.IDEAS) >= 80
    assert all(examples for *_, examples in curriculum_code.IDEAS)


def test_no_question_has_two_answers() -> None:
    wordings = Counter(normalised(wording) for wordings, _ in TALK for wording in wordings.split("|"))
    assert set(wordings.values()) == {1} and len(wordings) > 500
    assert not FACTS.keys() & MORE_FACTS.keys()


def test_no_word_has_two_kinds_or_two_opposites() -> None:
    for groups in (KINDS.values(), OPPOSITES):
        assert set(Counter(word for group in groups for word in group).values()) == {1}


def test_chat_is_whole_sentences_without_loose_ends() -> None:
    for prompt, answer in of("chat"):
        assert prompt[0].isupper() or not prompt.endswith((".", "?", "!")), (prompt, answer)
        assert answer[0].isalnum(), (prompt, answer)
        assert not re.search(r"[{}$]|  |\ba [aeio]|\bA [AEIOaeio]|\.\.", prompt + " " + answer), (prompt, answer)


@pytest.mark.skipif(not DEMO.exists(), reason="the folder stands alone")
def test_the_prompts_of_the_demo_stay_out() -> None:
    literals = re.findall(r'"((?:[^"\\]|\\.)*)"', DEMO.read_text(encoding="utf-8"))
    demo = {normalised(json.loads(f'"{text}"')) for text in literals if len(text) > 20}
    assert len(demo) >= 16
    assert not demo & {normalised(record.prompt) for record in RECORDS}
