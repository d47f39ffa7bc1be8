"""The selected answers match what a person would select by the paper's rules."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from public_rows import completion, halueval_row, saferlhf_row, ultrafeedback_row

from ogpsa_factory.data.recipes import halueval, saferlhf, ultrafeedback
from ogpsa_factory.data.recipes.values import as_flag, as_number, as_text
from ogpsa_factory.data.records import Row, read_rows


def rows_of(values):
    return [Row(f"row {i}", value) for i, value in enumerate(values, start=1)]


# PKU-SafeRLHF: what is wanted of each prompt, by hand. None: the prompt is left out.
SAFERLHF = {
    "one of two is unsafe": (
        [saferlhf_row("a", ("bad", "good"), (False, True), (1, 0), 1)],
        "bad",
    ),
    "the more severe one": (
        [saferlhf_row("a", ("bad", "worse"), (False, False), (1, 3), 1)],
        "worse",
    ),
    "a tie: not the safer one": (
        [saferlhf_row("a", ("safer", "less safe"), (False, False), (2, 2), 0)],
        "less safe",
    ),
    "severity goes before the safer one": (
        [saferlhf_row("a", ("severe but called safer", "mild"), (False, False), (3, 1), 0)],
        "severe but called safer",
    ),
    "over all rows of a prompt": (
        [
            saferlhf_row("a", ("mild", "good"), (False, True), (1, 0), 1),
            saferlhf_row("a", ("fine", "severe"), (True, False), (0, 3), 0),
            saferlhf_row("a", ("medium", "good"), (False, True), (2, 0), 1),
        ],
        "severe",
    ),
    "a tie over rows: the first": (
        [
            saferlhf_row("a", ("first", "good"), (False, True), (2, 0), 1),
            saferlhf_row("a", ("second", "good"), (False, True), (2, 0), 1),
        ],
        "first",
    ),
    "a tie over rows: one that was not the safer of its pair": (
        [
            saferlhf_row("a", ("safer of two bad ones", "milder"), (False, False), (2, 1), 0),
            saferlhf_row("a", ("good", "the only bad one"), (True, False), (0, 2), 0),
        ],
        "the only bad one",
    ),
    "both are safe": ([saferlhf_row("a", ("x", "y"), (True, True), (0, 0), 0)], None),
    "a severity is missing": (
        [saferlhf_row("a", ("x", "y"), (False, True), (1, 0), 1, response_0_severity_level=None)],
        None,
    ),
    "severity out of range": ([saferlhf_row("a", ("x", "y"), (False, True), (7, 0), 1)], None),
    "the only unsafe answer has no label": (
        [saferlhf_row("a", ("x", "y"), (False, True), (1, 0), 1, is_response_0_safe=None)],
        None,
    ),
    "the other answer has no label": (
        [saferlhf_row("a", ("x", "y"), (False, True), (1, 0), 1, is_response_1_safe=None)],
        "x",
    ),
    "the other answer is empty": ([saferlhf_row("a", ("x", " "), (False, False), (1, 3), 0)], "x"),
    "the other answer has no severity": (
        [saferlhf_row("a", ("x", "y"), (False, False), (1, 3), 0, response_1_severity_level="?")],
        "x",
    ),
    "a safe answer needs no text": ([saferlhf_row("a", ("", "y"), (True, False), (9, 2), 0)], "y"),
    "no prompt": ([saferlhf_row("  ", ("x", "y"), (False, True), (1, 0), 1)], None),
    "an answer is empty": ([saferlhf_row("a", ("", "y"), (False, True), (1, 0), 1)], None),
    "safer_response_id is wrong": ([saferlhf_row("a", ("x", "y"), (False, True), (1, 0), 2)], "x"),
    "safer_response_id is missing: it breaks no tie": (
        [
            saferlhf_row("a", ("nobody knows", "mild"), (False, False), (2, 1), 0, safer_response_id=None),
            saferlhf_row("a", ("good", "the less safe one"), (True, False), (0, 2), 0),
        ],
        "the less safe one",
    ),
    "words of a CSV": (
        [
            saferlhf_row("a", ("bad", "good"), (False, True), (1, 0), 1)
            | {"is_response_0_safe": "False", "is_response_1_safe": "True", "response_0_severity_level": "3"}
            | {"safer_response_id": "1", "response_0_harm_category": json.dumps({"Drugs": True, "Violence": False})}
        ],
        "bad",
    ),
}


@pytest.mark.parametrize("case", SAFERLHF)
def test_most_unsafe_answer(case):
    rows, wanted = SAFERLHF[case]
    found = saferlhf.sample_prompts(rows_of(rows), 10, 0, counts := Counter())
    assert [each.rejected for each in found] == ([] if wanted is None else [wanted])
    assert counts["rows read"] == len(rows)
    assert sum(n for what, n in counts.items() if what != "rows read") == len(rows)


def test_rows_that_are_left_out_are_counted_by_their_reason():
    rows = [
        saferlhf_row("a", ("x", "y"), (True, True), (0, 0), 0),
        saferlhf_row("b", ("x", "y"), (True, True), (0, 0), 0, is_response_1_safe=None),
        saferlhf_row("c", ("x", ""), (True, False), (0, 1), 0),
        saferlhf_row("d", ("x", ""), (False, False), (1, 1), 0),
    ]
    saferlhf.sample_prompts(rows_of(rows), 10, 0, counts := Counter())
    assert counts == {
        "rows read": 4,
        "left out: both answers are safe": 1,
        "left out: a field is missing or of the wrong type": 2,
        "rows with an unsafe answer": 1,
    }


def test_harm_categories_are_those_of_the_answer():
    rows = [saferlhf_row("a", ("bad", "worse"), (False, False), (1, 2), 0, category="Drugs")]
    (found,) = saferlhf.sample_prompts(rows_of(rows), 1, 0, Counter())
    assert found.categories == ("Drugs",)


def test_prompts_sampled_do_not_depend_on_the_order_of_rows_and_grow():
    rows = [
        saferlhf_row(f"p{i % 30}", (f"bad {i}", "good"), (i % 7 == 0, True), (0 if i % 7 == 0 else 1 + i % 3, 0), 1)
        for i in range(90)
    ]
    few = saferlhf.sample_prompts(rows_of(rows), 8, 3, Counter())
    many = saferlhf.sample_prompts(rows_of(rows), 20, 3, Counter())
    assert [each.prompt for each in many[:8]] == [each.prompt for each in few]
    shuffled = list(rows)
    random.Random(1).shuffle(shuffled)
    again = saferlhf.sample_prompts(rows_of(shuffled), 8, 3, Counter())
    assert [(each.prompt, each.unsafety) for each in again] == [(each.prompt, each.unsafety) for each in few]
    assert few != saferlhf.sample_prompts(rows_of(rows), 8, 4, Counter())


# UltraFeedback: (overall, fine-grained) of completions a, b, c, d -> chosen and rejected, or why there are none.
ULTRAFEEDBACK = {
    "best and worst": ([(8, 4), (6, 3), (9, 5), (2, 1)], ("c", "d")),
    "a tie at the top: the finer score": ([(9, 4), (9, 4.5), (3, 2), (2, 1)], ("b", "d")),
    "a tie at the top in both: the first": ([(9, 4), (9, 4), (3, 2), (2, 1)], ("a", "d")),
    "a tie at the bottom: the finer score": ([(9, 4), (2, 1.5), (2, 1), (5, 3)], ("a", "c")),
    "a 10 that should be a 1": ([(10, 1.25), (6, 3), (8, 4), (2, 1)], ("c", "d")),
    "a 10 in doubt": ([(10, 4), (6, 3), (8, 4), (2, 1)], ("c", "d")),
    "a 10 that is one": ([(10, 4.25), (6, 3), (8, 4), (2, 1)], ("a", "d")),
    "all equal": ([(7, 4), (7, 3), (7, 4), (7, 4)], "all overall scores are equal"),
    "contradiction": ([(9, 2), (5, 4), (5, 4), (4, 3)], "contradict"),
    "words for numbers": ([("8.5", "4.5"), ("6", "3"), ("7", "4"), ("2", "1")], ("a", "d")),
    "a score is missing": ([(None, 4), (6, 3), (8, None), (2, 1)], ("b", "d")),
    "a score is no number": ([("N/A", 4), (6, 3), (float("nan"), 4), (2, 1)], ("b", "d")),
    "a score is true": ([(True, 1), (6, 3), (8, 4), (2, 1)], ("c", "d")),
    "a score is out of range": ([(11, 4), (6, 3), (8, 40), (0, 1)], "fewer than two"),
    "only one is usable": ([(8, 4), (None, 3), (None, 4), (None, 1)], "fewer than two"),
}


@pytest.mark.parametrize("case", ULTRAFEEDBACK)
def test_best_and_worst_completion(case):
    scores, wanted = ULTRAFEEDBACK[case]
    row = ultrafeedback_row("i", [completion(name, *score) for name, score in zip("abcd", scores, strict=True)])
    found = ultrafeedback.sample_pairs(rows_of([row]), 10, 0, counts := Counter())
    if isinstance(wanted, str):
        assert not found and any(wanted in what for what in counts)
    else:
        assert [(pair.chosen, pair.rejected) for pair in found] == [wanted]


def test_ultrafeedback_fields_that_are_missing_or_wrong():
    good = [completion("a", 8, 4), completion("b", 2, 1)]
    rows = [
        ultrafeedback_row("", good),
        ultrafeedback_row("x", good) | {"completions": None},
        ultrafeedback_row("x", good) | {"completions": "[{]"},
        ultrafeedback_row("x", good) | {"completions": [good[0], "no object"]},
        ultrafeedback_row("x", [completion("", 8, 4), completion("b", 2, 1)]),
        ultrafeedback_row("x", [completion("same", 8, 4), completion("same", 2, 1)]),
        {"instruction": "x"},
    ]
    assert ultrafeedback.sample_pairs(rows_of(rows), 10, 0, counts := Counter()) == []
    assert counts["left out: a field is missing or of the wrong type"] == 4
    text = ultrafeedback_row("in a CSV", [])
    text["completions"] = json.dumps(good)
    (pair,) = ultrafeedback.sample_pairs(rows_of([text]), 10, 0, Counter())
    assert tuple(pair) == ("in a CSV", "a", "b")


def test_the_first_row_of_an_instruction_counts():
    rows = [ultrafeedback_row("i", [completion(f"good {n}", 8, 4), completion(f"bad {n}", 2, 1)]) for n in (1, 2)]
    assert [pair.chosen for pair in ultrafeedback.sample_pairs(rows_of(rows), 10, 0, Counter())] == ["good 1"]


# (hallucinated, right) -> the hallucinated answer in the right one's form.
FORMS = {
    ("Mumbai, the financial capital of India.", "Delhi"): "Mumbai, the financial capital of India",
    ("  two   spaces. ", "One"): "Two spaces",
    ("The answer is no.", "yes"): "the answer is no",
    ("Scottish", "American"): "Scottish",
    ("Paris is it", "It is London."): "Paris is it.",
    ("Lives in the U.S.", "Canada"): "Lives in the U.S.",
    ("He was called John Smith Jr.", "Bob"): "He was called John Smith Jr.",
    ("London.", "alcohol"): "London",
    ("Really?", "Yes"): "Really?",
    ("the city", "Rome"): "The city",
    ("iPhone", "Nokia"): "iPhone",
    ("eBay is older", "Amazon"): "eBay is older",
    ("THE WHO", "queen"): "THE WHO",
    ("A, or B", "neither"): "a, or B",
    ("It, too", "none"): "it, too",
    ("IT", "law"): "IT",
}


@pytest.mark.parametrize(("answer", "model"), FORMS)
def test_form_of_the_right_answer(answer, model):
    assert halueval.in_the_form_of(answer, model) == FORMS[answer, model]


def test_halueval_pairs():
    rows = [
        halueval_row(" Who  wrote it? ", "Ann", "It was written by Bob."),
        halueval_row("Which?", "this", "This."),
        halueval_row("Where?", "", "x"),
        halueval_row("When?", "1990", None),
        halueval_row("How?", "so", " . "),
    ]
    found = halueval.sample_pairs(rows_of(rows), 10, 0, counts := Counter())
    assert [tuple(pair) for pair in found] == [("Who wrote it?", "Ann", "It was written by Bob")]
    assert counts["left out: the two answers are the same"] == 1
    assert counts["left out: a field is missing, empty or of the wrong type"] == 3
    (with_passage,) = halueval.sample_pairs(rows_of(rows[:1]), 10, 0, Counter(), knowledge=True)
    assert with_passage.prompt == "A passage about  Who  wrote it?\n\nWho wrote it?"


@pytest.mark.skipif("OGPSA_REAL_DATA" not in os.environ, reason="OGPSA_REAL_DATA names no folder with real rows")
def test_real_halueval_rows():
    """The first rows of the file, read by a person, in the order of the file."""
    path = Path(os.environ["OGPSA_REAL_DATA"]) / "halueval" / "qa_one-turn_data.json"
    rows = list(read_rows(path))
    pairs = halueval.sample_pairs(rows, 500, 0, counts := Counter())
    found = {pair.prompt: pair for pair in pairs}
    assert counts == {"rows read": 500, "rows with a usable pair": 500} and len(found) == 500
    by_hand = [
        ("Arthur's Magazine", "First for Women was started first"),
        ("Delhi", "Mumbai, the financial capital of India"),
        ("President Richard Nixon", "Milhouse was named after a famous musician"),
        ("American", "Scottish"),
        ("alcohol", "hydrogen peroxide"),
        (
            "Jonathan Stark",
            "Henri Leconte was a rival of Jonathan Stark in the French Open, "
            "but Jonathan Stark won more titles overall",
        ),
        ("Crambidae", "Lepidoptera"),
        ("Badr Hari", "Mike's Gym in Oostzaan"),
    ]
    for row, (chosen, rejected) in zip(rows, by_hand, strict=False):
        pair = found[" ".join(row.value["question"].split())]
        assert (pair.chosen, pair.rejected) == (chosen, rejected)
    sample = halueval.sample_pairs(rows, 200, 0, Counter())
    assert len({pair.prompt for pair in sample}) == 200 and set(sample) <= set(found.values())


def test_values():
    assert [as_flag(value) for value in (True, 0, "TRUE", "0", "yes", 2, None)] == [True, False, True, False] + [
        None
    ] * 3
    assert [as_number(value, 0, 3) for value in (1, "2.5", True, "x", float("inf"), 4, None)] == [1, 2.5] + [None] * 5
    assert as_number("9" * 400, 0, 3) is None
    assert [as_text(value) for value in (" a ", "  ", 3, None, "\ud800ü")] == ["a", None, None, None, "?ü"]
