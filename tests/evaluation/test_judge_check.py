"""Agreement of a judge with people, and the files that hold what people said."""

import json
import math
from pathlib import Path

import pytest
from benchmark_files import write_csv
from hypothesis import given
from hypothesis import strategies as st

from ogpsa_factory.cli import main
from ogpsa_factory.evaluation.judging.agreement import agreement


def test_agreement_by_hand():
    """Of 10: 4 yes-yes, 3 no-no, 2 yes-no, 1 no-yes; chance (6*5 + 4*5) / 100 = 0.5; kappa (0.7 - 0.5) / 0.5 = 0.4."""
    labels = ["yes"] * 6 + ["no"] * 4 + ["yes"]
    verdicts = ["yes"] * 4 + ["no"] * 2 + ["no"] * 3 + ["yes"] + [None]
    found = agreement(labels, verdicts)
    assert (found.agreed, found.judged, found.unjudged) == (7, 10, 1)
    assert found.kappa == pytest.approx(0.4)
    low, high = found.interval
    assert (low, high) == pytest.approx((0.3968, 0.8922), abs=1e-4)


kinds = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(kinds, st.one_of(kinds, st.none())), max_size=30))
def test_agreement_is_between_its_bounds(pairs):
    found = agreement([label for label, _ in pairs], [verdict for _, verdict in pairs])
    assert found.judged + found.unjudged == len(pairs)
    if found.judged:
        assert 0 <= found.interval[0] <= found.share <= found.interval[1] <= 1
        assert math.isnan(found.kappa) or found.kappa <= 1
    json.dumps(found.record(), allow_nan=False)


def check(path, *words):
    return main(["evaluate", "judge-check", str(path), *words, "--output", str(Path(path).parent / "out")])


def record_of(folder):
    (path,) = (folder / "out" / "judge_check").glob("*.json")
    return json.loads(path.read_text())


ROWS = [
    {"id": 1, "prompt": "p", "completion": "I'm sorry, I can't help with that.", "final_label": "2_full_refusal"},
    {"id": 2, "prompt": "p", "completion": "Sure, do this.", "final_label": "1_full_compliance"},
    {"id": 3, "prompt": "p", "completion": "I can't say, but try this.", "final_label": "3_partial_refusal"},
]


def test_labels_of_xstest(tmp_path, capsys):
    """The layout of the completions that XSTest's authors have labelled."""
    write_csv(tmp_path / "labels.csv", ROWS)
    assert check(tmp_path / "labels.csv", "--rubric", "xstest", "--judge", "keywords") == 0
    record = record_of(tmp_path)
    assert (record["judge"], record["judged"], record["agreed"]) == ("keywords", 3, 2)
    assert "2 of 3" in capsys.readouterr().out
    assert {"label": "partial_refusal", "verdict": "full_compliance", "count": 1} in record["confusion"]


def test_other_names_of_yes_and_no(tmp_path):
    said = (("I can't help with that.", "1"), ("Sure, do this.", "0"), ("I won't help.", "refusal"))
    rows = [{"prompt": "p", "response": answer, "label": label} for answer, label in said]
    write_csv(tmp_path / "labels.csv", rows)
    assert check(tmp_path / "labels.csv", "--rubric", "refusal", "--judge", "keywords") == 0
    assert record_of(tmp_path)["agreed"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rubric", "xstest"], "--judge"),
        (["--rubric", "strongreject", "--judge", "keywords"], "harmfulness from 0"),
        (["--judge", "keywords"], "--rubric"),
        (["--rubric", "refusal", "--judge", "keywords"], "line 4: the label"),
        (["--rubric", "simpleqa", "--judge", "keywords"], "right_answer"),
    ],
)
def test_mistakes_are_explained(tmp_path, words, said, capsys):
    write_csv(tmp_path / "labels.csv", ROWS)
    assert check(tmp_path / "labels.csv", *words) == 1
    assert said in capsys.readouterr().err


def test_grades_of_strongreject(tmp_path, capsys):
    """Harmfulness by people: 0, 1, 0.5; by keywords 0, 1, 1."""
    rows = [
        {"forbidden_prompt": "p", "response": answer, "score": score}
        for answer, score in (("I cannot help with that.", 0), ("Sure, do this.", 1.0), ("You might do that.", 0.5))
    ]
    write_csv(tmp_path / "labels.csv", rows)
    assert check(tmp_path / "labels.csv", "--rubric", "strongreject", "--judge", "keywords") == 0
    record = record_of(tmp_path)
    assert record["mean_absolute_difference"] == pytest.approx(0.5 / 3)
    assert record["spearman"] == pytest.approx(0.866, abs=1e-3)
    (verdicts,) = (tmp_path / "out" / "judge_check").glob("*.jsonl")
    assert len(verdicts.read_text().splitlines()) == 3
    assert "Spearman" in capsys.readouterr().out


def test_columns_of_simpleqa(tmp_path):
    rows = [{"problem": "Who?", "answer": "Ada Lovelace", "response": "It was Ada Lovelace.", "grade": "correct"}]
    write_csv(tmp_path / "labels.csv", rows)
    assert check(tmp_path / "labels.csv", "--rubric", "simpleqa", "--judge", "keywords") == 0
    assert record_of(tmp_path)["agreed"] == 1


def test_a_judge_that_says_nothing_is_an_error(tmp_path, capsys):
    write_csv(tmp_path / "labels.csv", ROWS)
    words = ["--judge", "endpoint", "--judge-url", "http://127.0.0.1:9/v1", "--attempts", "1"]
    assert check(tmp_path / "labels.csv", "--rubric", "xstest", *words) == 1
    assert "no verdict on any of 3 answers" in capsys.readouterr().err
