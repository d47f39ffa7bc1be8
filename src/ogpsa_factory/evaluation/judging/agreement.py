"""Agreement of two raters who sort the same things."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Agreement:
    """How far verdicts agree with labels.

    Attributes:
        pairs: label and verdict of everything that has a verdict; their kinds and counts are the confusion matrix.
        unjudged: how many have no verdict; they are in no figure.
    """

    pairs: tuple[tuple[str, str], ...]
    unjudged: int

    @property
    def judged(self) -> int:
        """How many have a verdict."""
        return len(self.pairs)

    @property
    def agreed(self) -> int:
        """How many verdicts equal their labels."""
        return sum(label == verdict for label, verdict in self.pairs)

    @property
    def share(self) -> float:
        """The same as a share in [0, 1]; nan where nothing is judged."""
        return self.agreed / self.judged if self.pairs else math.nan

    @property
    def kappa(self) -> float:
        """Cohen's kappa: 1 for full agreement, 0 for that of chance; nan where chance agrees always."""
        if not self.pairs:
            return math.nan
        labels = Counter(label for label, _ in self.pairs)
        verdicts = Counter(verdict for _, verdict in self.pairs)
        chance = sum(labels[name] * verdicts[name] for name in labels) / self.judged**2
        return (self.share - chance) / (1 - chance) if chance < 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share."""
        if not self.pairs:
            return math.nan, math.nan
        z, n, p = 1.959964, self.judged, self.share
        centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        ends = ((centre + side) / (1 + z * z / n) for side in (-width, width))
        low, high = (min(max(end, 0.0), 1.0) for end in ends)  # rounding leads out of it
        return min(low, p), max(high, p)

    def record(self) -> dict[str, Any]:
        """All figures, for a file; what is not defined is null."""
        confusion = Counter(self.pairs)
        return {
            "judged": self.judged,
            "unjudged": self.unjudged,
            "agreed": self.agreed,
            "share": _defined(self.share),
            "interval": [_defined(end) for end in self.interval],
            "kappa": _defined(self.kappa),
            "confusion": [
                {"label": pair[0], "verdict": pair[1], "count": confusion[pair]} for pair in sorted(confusion)
            ],
        }


def _defined(number: float) -> float | None:
    return None if math.isnan(number) else number


def agreement(labels: Sequence[str], verdicts: Sequence[str | None]) -> Agreement:
    """Compare verdicts with labels.

    Args:
        labels: of people.
        verdicts: of the judge, in the same order; None where there is none.

    Returns:
        The agreement.
    """
    pairs = [(label, verdict) for label, verdict in zip(labels, verdicts, strict=True) if verdict is not None]
    return Agreement(tuple(pairs), len(labels) - len(pairs))


def grades_agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Compare grades.

    Args:
        pairs: label and verdict of each answer; at least one.

    Returns:
        Means of both, the mean absolute difference, and Spearman's rank correlation (None where one side is constant).
    """
    from scipy.stats import spearmanr

    labels, verdicts = ([pair[side] for pair in pairs] for side in (0, 1))
    constant = len(set(labels)) < 2 or len(set(verdicts)) < 2
    return {
        "mean_label": sum(labels) / len(pairs),
        "mean_verdict": sum(verdicts) / len(pairs),
        "mean_absolute_difference": sum(abs(one - other) for one, other in pairs) / len(pairs),
        "spearman": None if constant else float(spearmanr(labels, verdicts).statistic),
    }
