"""From items to scores: the features of an item, and what their sums are a score of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .statistics import Floats, Tally, sums, tally


# Features by aggregation: the first counts the items.
_MEAN = ("items", "value")
_ADVGLUE = ("items", "right", "true_positive", "false_positive", "false_negative")
FEATURES = {"mean": _MEAN, "task_mean": _MEAN, "advglue": _ADVGLUE}
ADVGLUE_GROUPS = (("sst2",), ("qqp",), ("mnli", "mnli_mm"), ("qnli",), ("rte",))
ADVGLUE_TASKS = frozenset(task for group in ADVGLUE_GROUPS for task in group)


@dataclass(frozen=True)
class Items:
    """The outcomes of one model on one benchmark; item i is row i of `rows`, of shape `[items, features]`."""

    aggregation: str
    keys: tuple[tuple[str, str], ...]  # task and id
    rows: Floats

    def score(self) -> float:
        """The score in percent; nan without items."""
        if not self.keys:
            return math.nan
        names, tallies = self._tallies(self.keys, self.rows)
        return float(percent(self.aggregation, names, sums(tallies)))

    def tallies(self) -> tuple[tuple[str, ...], list[Tally]]:
        """The names of the tasks, and one tally for each."""
        return self._tallies(self.keys, self.rows)

    def paired(self, other: Items, common: bool) -> tuple[tuple[str, ...], list[Tally], int]:
        """Put two models' outcomes on the same items side by side.

        Args:
            other: the other model's, of the same aggregation.
            common: keep only what both have. If False, what one lacks has zeros there, so it counts for the other one.

        Returns:
            The names of the tasks, one tally for each, of twice the features, and the number of items.
        """
        ours = dict(zip(self.keys, self.rows, strict=True))
        theirs = dict(zip(other.keys, other.rows, strict=True))
        keys = [key for key in ours if key in theirs] if common else list({**ours, **theirs})
        if not keys:
            return (), [], 0
        nothing = np.zeros(self.rows.shape[1])
        rows = np.stack([np.concatenate([ours.get(key, nothing), theirs.get(key, nothing)]) for key in keys])
        return *self._tallies(keys, rows), len(keys)

    @staticmethod
    def _tallies(keys: Sequence[tuple[str, str]], rows: Floats) -> tuple[tuple[str, ...], list[Tally]]:
        names = tuple(dict.fromkeys(task for task, _ in keys))
        numbers = {name: number for number, name in enumerate(names)}
        return names, tally(np.array([numbers[task] for task, _ in keys], dtype=np.int64), rows)


def make_items(aggregation: str, lines: Iterable[Mapping[str, Any]]) -> Items:
    """Turn lines of an items file into features.

    Args:
        aggregation: one of `FEATURES`.
        lines: each with `id` and `task`, and `value`, or for AdvGLUE `label` and `prediction`.

    Returns:
        The items.
    """
    keys: list[tuple[str, str]] = []
    rows: list[tuple[float, ...]] = []
    for line in lines:
        keys.append((str(line["task"]), str(line["id"])))
        if aggregation == "advglue":
            label, prediction = line["label"], line["prediction"]
            yes, said_yes = label == 1, prediction == 1
            rows.append((1, label == prediction, yes and said_yes, said_yes and not yes, yes and not said_yes))
        else:
            rows.append((1, line["value"]))
    width = len(FEATURES[aggregation])
    return Items(aggregation, tuple(keys), np.array(rows, dtype=np.float64).reshape(len(rows), width))


def percent(aggregation: str, tasks: Sequence[str], totals: Floats) -> Floats:
    """Scores from sums over items.

    Args:
        aggregation: `mean` over items, `task_mean` (over tasks, of the mean over items) or `advglue`.
        tasks: names of the tasks.
        totals: of shape `[..., tasks, features]`. A task without items is left out.

    Returns:
        Scores in percent, of shape `[...]`.
    """
    if aggregation == "mean":
        whole = totals.sum(axis=-2)
        return 100 * _ratio(whole[..., 1], whole[..., 0])
    shares = _ratio(totals[..., 1], totals[..., 0])
    if aggregation == "task_mean":
        return 100 * _mean(shares)
    return 100 * _advglue(tasks, totals, shares)


def _advglue(tasks: Sequence[str], totals: Floats, accuracies: Floats) -> Floats:
    """Mean over five tasks: mnli and mnli_mm are averaged first, qqp is the mean of accuracy and F1."""
    found = []
    for group in ADVGLUE_GROUPS:
        places = [tasks.index(task) for task in group if task in tasks]
        if not places:
            continue
        value = _mean(accuracies[..., places])
        if group == ("qqp",):
            _, _, right_yes, wrong_yes, wrong_no = np.moveaxis(totals[..., places[0], :], -1, 0)
            f1 = np.nan_to_num(_ratio(2 * right_yes, 2 * right_yes + wrong_yes + wrong_no))
            value = (value + f1) / 2
        found.append(value)
    return _mean(np.stack(found, axis=-1))


def _ratio(parts: Floats, wholes: Floats) -> Floats:
    """Element-wise; nan where there is nothing to divide by."""
    return np.divide(parts, wholes, out=np.full(np.shape(parts), np.nan), where=wholes > 0)


def _mean(values: Floats) -> Floats:
    """Over the last axis, of what is there."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))
