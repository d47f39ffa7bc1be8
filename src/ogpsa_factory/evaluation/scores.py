"""The result of an evaluation on disk: `scores.json` of a model, and one line an item beside it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_json
from ..results.features import make_items
from .harness import SAMPLES, Sample, items_of, write_lines
from .judging.judge import Judge, Judgement, OnBenchmark, Question
from .suite import Benchmark
from .tasks import Loaded


SCORES = "scores.json"
ITEMS = "items.jsonl"
VERDICTS = "verdicts.jsonl"
FORMAT = 1
NO_SCORE = "no sample has a score"


def gap(benchmark: Benchmark, reason: str) -> dict[str, Any]:
    """The entry of a benchmark without a score.

    Args:
        benchmark: which one.
        reason: why, and what to do.

    Returns:
        What `scores.json` has of it.
    """
    return {**_head(benchmark), "gap": reason}


def score(
    folder: Path,
    samples: Sequence[Sample],
    judge: Judge | None,
    on_judged: OnBenchmark,
    loaded: Loaded,
    settings: str,
) -> dict[str, Any]:
    """Score the samples of a benchmark, and write one line for each item that counts.

    Args:
        folder: of the model; the benchmark's samples are in a folder of its name there.
        samples: those of `harness.run`.
        judge: for benchmarks with a rubric; None where there is none.
        on_judged: told how far the judge is.
        loaded: which benchmark, and where its rows come from.
        settings: names all that the suite says of it.

    Returns:
        What `scores.json` has of it.

    Raises:
        OGPSAError: the judge's endpoint cannot be used.
    """
    benchmark = loaded.benchmark
    origin = {
        "origins": loaded.origins,
        "rows": _hash([sample["id"] for sample in samples]),
        "answers": _hash([sample.get("answer") or sample.get("likelihoods") for sample in samples]),
        "settings": settings,
    }
    answered = [sample for sample in samples if "failure" not in sample]
    cut = sum("cut" in sample for sample in samples)
    notes = [loaded.note, f"{cut} prompts were too long for the model and were cut" if cut else ""]
    details: dict[str, float] = {}
    unparsed = unjudged = 0
    reasons = [sample["failure"] for sample in samples if "failure" in sample]
    if benchmark.judge:
        if judge is None:
            reason = "not judged yet: run the same command with --judge; no answer is generated again"
            return {**gap(benchmark, reason), **origin}
        judgements = _judge(folder, benchmark, answered, judge, on_judged)
        values = [judgement.value(benchmark.judge) for judgement in judgements]
        items = [
            {"id": sample["id"], "task": sample["task"], "value": value}
            for sample, value in zip(answered, values, strict=True)
            if value is not None
        ]
        details = _shares(judgements)
        failures = [judgement.failure for judgement in judgements if judgement.failure is not None]
        reasons, unjudged = [*reasons, *failures], len(failures)
        unparsed = len(judgements) - len(items) - unjudged
    else:
        items = items_of(benchmark, answered)
    failed = len(samples) - len(answered) + unjudged
    if not items:
        why = f" The first reason: {reasons[0]}" if reasons else ""
        counts = f"{NO_SCORE}: {failed} failed, {unparsed} verdicts could not be read."
        return {**gap(benchmark, counts + why), **origin}
    write_lines(folder / benchmark.name / ITEMS, items)
    return {
        **_head(benchmark),
        "score": make_items(benchmark.aggregation, items).score(),
        "aggregation": benchmark.aggregation,
        "samples": len(items),
        "failed": failed,
        "failure": reasons[0] if reasons else None,
        "unparsed": unparsed,
        "judge": judge.name if judge and benchmark.judge else None,
        "note": "; ".join(filter(None, notes)) or None,
        **origin,
        "details": details,
        "items": f"{benchmark.name}/{ITEMS}",
    }


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _head(benchmark: Benchmark) -> dict[str, Any]:
    return {"axis": benchmark.axis, "title": benchmark.title, "higher_is_better": benchmark.higher_is_better}


def _judge(
    folder: Path, benchmark: Benchmark, samples: Sequence[Sample], judge: Judge, on_judged: OnBenchmark
) -> list[Judgement]:
    questions = [Question(benchmark.judge, sample["doc"], sample["answer"]) for sample in samples]
    judgements = judge.grade(questions, on_judged(benchmark.name))
    write_lines(
        folder / benchmark.name / VERDICTS,
        [
            {
                "id": sample["id"],
                "judge": judge.name,
                "verdict": judgement.verdict,
                "value": judgement.value(benchmark.judge),
                "reply": judgement.reply,
                "failure": judgement.failure,
            }
            for sample, judgement in zip(samples, judgements, strict=True)
        ],
    )
    return judgements


def _shares(judgements: Sequence[Judgement]) -> dict[str, float]:
    """How often each value of each field was given, in percent of the verdicts; SimpleQA's two figures besides."""
    verdicts = [judgement.verdict for judgement in judgements if judgement.verdict is not None]
    counts = Counter((name, value) for verdict in verdicts for name, value in verdict.items())
    shares = {f"{name}: {value}": 100 * count / len(verdicts) for (name, value), count in sorted(counts.items())}
    correct, wrong = counts["Grade", "correct"], counts["Grade", "incorrect"]
    if correct or wrong:
        attempted = correct / (correct + wrong)
        overall = correct / len(verdicts)
        shares["correct of those attempted"] = 100 * attempted
        shares["F1"] = 100 * 2 * attempted * overall / (attempted + overall) if correct else 0.0
    return shares


def write_scores(folder: Path, record: dict[str, Any], benchmarks: dict[str, Any]) -> Path:
    """Write the scores of a model.

    Args:
        folder: of the model.
        record: what was evaluated, how, and by which versions.
        benchmarks: entries by name, in the order of the suite.

    Returns:
        The file.
    """
    path = folder / SCORES
    write_json(path, {**record, "benchmarks": benchmarks})
    return path


def samples_file(folder: Path, benchmark: Benchmark) -> Path:
    """Where the samples of a benchmark are."""
    return folder / benchmark.name / SAMPLES
