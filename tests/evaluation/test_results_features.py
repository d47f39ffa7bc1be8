"""Scores from items, against the definitions written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogpsa_factory.results.compare import jointly_replicated
from ogpsa_factory.results.features import ADVGLUE_TASKS, make_items


predictions = st.lists(
    st.tuples(st.sampled_from(sorted(ADVGLUE_TASKS)), st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=60
)


def advglue(lines):
    """Written out: accuracies by task, qqp with F1, mnli's two halves first."""
    by_task = {}
    for task, label, prediction in lines:
        by_task.setdefault(task, []).append((label, prediction))
    scores = {task: np.mean([label == said for label, said in rows]) for task, rows in by_task.items()}
    if "qqp" in by_task:
        hits = sum(label == 1 and said == 1 for label, said in by_task["qqp"])
        said_yes = sum(said == 1 for _, said in by_task["qqp"])
        yes = sum(label == 1 for label, _ in by_task["qqp"])
        f1 = 2 * hits / (said_yes + yes) if said_yes + yes else 0.0
        scores["qqp"] = (scores["qqp"] + f1) / 2
    mnli = [scores.pop(task) for task in ("mnli", "mnli_mm") if task in scores]
    return 100 * np.mean([*scores.values(), *([np.mean(mnli)] if mnli else [])])


@given(predictions)
def test_advglue(lines):
    items = make_items(
        "advglue",
        [{"id": str(i), "task": t, "label": label, "prediction": p} for i, (t, label, p) in enumerate(lines)],
    )
    assert items.score() == pytest.approx(advglue(lines))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=40))
def test_means(lines):
    rows = [{"id": str(i), "task": task, "value": value} for i, (task, value) in enumerate(lines)]
    assert make_items("mean", rows).score() == pytest.approx(100 * np.mean([value for _, value in lines]))
    tasks = {task for task, _ in lines}
    means = [np.mean([value for other, value in lines if other == task]) for task in tasks]
    assert make_items("task_mean", rows).score() == pytest.approx(100 * np.mean(means))


def test_no_items_have_no_score():
    assert math.isnan(make_items("mean", []).score())


def test_both_models_get_the_same_resamples():
    """So a model that is right wherever the other one is never falls behind it in any of them."""
    rows = [{"id": str(i), "task": "t", "value": float(i % 3 == 0)} for i in range(40)]
    better = [{**row, "value": max(row["value"], float(int(row["id"]) % 2))} for row in rows]
    ours, theirs = make_items("mean", better), make_items("mean", rows)
    first, second = jointly_replicated(ours, theirs, True, np.random.default_rng(0), 200)
    assert (first >= second).all() and first.std() > 0 and second.std() > 0


def test_what_one_model_lacks_counts_for_the_other():
    ours = make_items("mean", [{"id": "a", "task": "t", "value": 1.0}, {"id": "b", "task": "t", "value": 1.0}])
    theirs = make_items("mean", [{"id": "b", "task": "t", "value": 0.0}, {"id": "c", "task": "t", "value": 0.0}])
    assert ours.paired(theirs, common=True)[2] == 1
    assert ours.paired(theirs, common=False)[2] == 3
