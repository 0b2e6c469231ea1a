"""Filters of the corpus."""

import json

import pytest

from corpus import capped
from records import Exclusion, Record, Sieve, is_heldout, normalised

LONG_ANSWER = (
    "    total = 0\n    for value in values:\n        total += value * weight\n"
    "    return total / len(values) * percent if values else 0.0"
)
PASSAGE = "the quick brown fox jumps over the lazy dog while seven grey geese watch from afar"


def record(prompt: str | None, text: str, domain: str = "chat") -> Record:
    return Record(domain, "test", "MIT", text, prompt)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (record("Name a river.", "The Rhine."), "held-out prompt"),
        (record("  name a RIVER", "The Rhine."), "held-out prompt"),
        (record("Name a lake.", "The Rhine."), None),
        # A long answer betrays the held-out function under another docstring; a short one recurs by chance.
        (record("Other words.", LONG_ANSWER.replace("    ", "  "), "code"), "held-out answer"),
        (record("Name a bridge.", "Yes."), None),
        (record(None, f"As they say: {PASSAGE.upper()}!", "docs"), "held-out passage"),
        (record(None, "the quick brown fox jumps over the lazy dog", "docs"), None),
    ],
)
def test_held_out_text_stays_out_in_any_spelling(candidate: Record, reason: str | None) -> None:
    exclusion = Exclusion()
    exclusion.add("Name a river.", "Yes.")
    exclusion.add("Compute the mean.", LONG_ANSWER)
    exclusion.add(PASSAGE)
    assert exclusion.reason(candidate) == reason


def test_an_exclusion_file_names_prompts_and_references(tmp_path) -> None:
    path = tmp_path / "heldout.jsonl"
    path.write_text(json.dumps({"prompt": "P?", "reference": LONG_ANSWER}) + "\n\n", encoding="utf-8")
    exclusion = Exclusion()
    exclusion.add_file(path)
    assert exclusion.reason(record("p", "x")) == "held-out prompt"
    assert exclusion.reason(record("q", LONG_ANSWER)) == "held-out answer"


def test_the_sieve_counts_what_it_drops() -> None:
    sieve = Sieve(Exclusion(), chars_max=200)
    kept = sieve(
        [
            record("a", "one"),
            record("a ", " one\n"),
            record("a + 1", "one"),
            record("a - 1", "one"),
            record("a", "two"),
            record("b", " \n"),
            record("c", "x" * 201),
            record("d", "bad \ufffd"),
            record("first docstring", LONG_ANSWER, "code"),
            record("second docstring", LONG_ANSWER, "code"),
        ]
    )
    assert [(item.prompt, item.text[:3]) for item in kept] == [
        ("a", "one"),
        ("a + 1", "one"),
        ("a - 1", "one"),
        ("a", "two"),
        ("first docstring", "   "),
    ]
    assert sieve.dropped == {"duplicate": 2, "size or encoding": 3}


def test_normalisation_forgets_case_width_and_punctuation() -> None:
    assert normalised("  Straße,\tＡ-1!") == "strasse a 1"


def test_the_split_follows_the_prompt_and_its_share() -> None:
    assert is_heldout(record("same", "one"), 0.5) == is_heldout(record("Same!", "two"), 0.5)
    # 4000 hashes at a share of 0.1: 400 expected, standard deviation 19; 5 of them leave an error below 1e-6.
    assert abs(sum(is_heldout(record(str(i), "x"), 0.1) for i in range(4000)) - 400) < 95


def test_records_survive_json() -> None:
    for item in (record("p", "ä\n\u2028"), record(None, "text", "docs")):
        assert "\n" not in item.to_json()
        assert Record.from_json(item.to_json()) == item


def test_a_cap_bounds_one_domain_and_leaves_the_others() -> None:
    some = [record("p", "x" * 9), record("p", "y" * 9), record("p", "z" * 9), record("p", "x" * 9, "math")]
    assert capped(some, {"chat": "15"}) == [some[0], some[1], some[3]]
