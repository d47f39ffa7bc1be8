"""An evaluation: every model through every benchmark, then the judge, then the scores."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..endpoint import OnReply
from ..errors import OGPSAError
from ..files import locked
from .backends import EndpointLM, Running, open_model
from .harness import Sample, run, write_lines
from .judging.judge import EndpointJudge, Judge, Question
from .models import Model, fingerprint
from .record import record_of, still_valid
from .recorded import RecordedLM
from .scores import NO_SCORE, gap, samples_file, score, write_scores
from .suite import Benchmark, Suite
from .tasks import Loaded, TaskLoader


Report = Callable[[str, str], OnReply]  # what is done and with what -> how far it is
Say = Callable[[str], None]
ANSWERS = "answers"  # the folder with what models have answered, for all of them


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be evaluated.

    Attributes:
        suite: which benchmarks.
        models: which models.
        running: how they are run.
        judge: who grades; None to leave it for later.
        output: folder of the results.
        system: the system message; None for that of the models' templates.
        skip_missing: whether benchmarks whose rows cannot be had are left out, and shown as gaps.
    """

    suite: Suite
    models: list[Model]
    running: Running
    judge: Judge | None
    output: Path
    system: str | None = None
    skip_missing: bool = False


class Evaluation:
    """Does what an order says; the same order goes on where it was interrupted.

    Args:
        order: what and how.
        report: makes a progress report for one benchmark of one model.
        say: prints a line.
    """

    def __init__(self, order: Order, report: Report, say: Say) -> None:
        self.problems: list[str] = []
        self._order, self._report, self._say = order, report, say
        self._prints: dict[str, dict[str, Any]] = {}
        self._failed: dict[tuple[str, str], str] = {}  # by model and benchmark: why there are no answers

    def run(self) -> dict[str, dict[str, Any]]:
        """Generate, judge and score.

        Returns:
            The entries of every model's `scores.json`, by name. What could not be done is in `problems`, and a gap in
            the entries.

        Raises:
            OGPSAError: before anything is generated: rows are missing (without `skip_missing`), or a model has no chat
                template.
        """
        order = self._order
        busy = f"Another evaluation writes to {order.output}. Wait until it ends, or use another --output."
        with locked(order.output / ".lock", busy):
            benchmarks = load(order, self._say)
            self._prints = {model.name: _fingerprint(model, order) for model in order.models}
            for model in order.models:
                self._open(model).close()  # a template that is missing is found before anything takes long
            for model in order.models:
                self._generate(model, benchmarks)
            self._announce_judge(benchmarks)
            return {model.name: self._score(model, benchmarks) for model in order.models}

    def _open(self, model: Model) -> RecordedLM | EndpointLM:
        order = self._order
        return open_model(model, order.running, self._prints[model.name]["fingerprint"], order.output / ANSWERS)

    def _generate(self, model: Model, benchmarks: list[Loaded]) -> None:
        """Have a model answer, and write its samples; a benchmark on which it fails does not stop the others."""
        order = self._order
        lm = self._open(model)
        try:
            for loaded in benchmarks:
                name = loaded.benchmark.name
                if loaded.gap:
                    continue
                lm.on_progress = self._report(model.name, name)
                try:
                    samples = run(lm, loaded, order.suite.seed, order.system, order.running.template)
                except OGPSAError as error:
                    self._note(model, name, "not generated", error)
                    self._failed[model.name, name] = str(error)
                else:
                    write_lines(samples_file(order.output / model.name, loaded.benchmark), samples)
        finally:
            lm.close()
            gc.collect()  # the next model needs the memory
            _empty_cache()

    def _note(self, model: Model, benchmark: str, what: str, error: OGPSAError) -> None:
        self.problems.append(f"- {model.name}, {benchmark}: {what}: {error}")

    def _announce_judge(self, benchmarks: list[Loaded]) -> None:
        judge = self._order.judge
        if not isinstance(judge, EndpointJudge):
            return
        questions = [
            Question(loaded.benchmark.judge, sample["doc"], sample["answer"])
            for model in self._order.models
            for loaded in benchmarks
            if loaded.benchmark.judge and not loaded.gap and (model.name, loaded.benchmark.name) not in self._failed
            for sample in self._samples(model, loaded.benchmark)
            if "failure" not in sample
        ]
        self._say(f"Judge {judge.name}: {judge.estimate(questions)}.")

    def _samples(self, model: Model, benchmark: Benchmark) -> list[Sample]:
        with samples_file(self._order.output / model.name, benchmark).open(encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]

    def _score(self, model: Model, benchmarks: list[Loaded]) -> dict[str, Any]:
        order = self._order
        folder = order.output / model.name
        record = record_of(model, order.suite, order.running, order.system, self._prints[model.name])
        before = still_valid(folder, record)
        entries: dict[str, Any] = {}
        for loaded in benchmarks:
            benchmark = loaded.benchmark
            reason = loaded.gap or self._failed.get((model.name, benchmark.name))
            if reason:
                entries[benchmark.name] = gap(benchmark, reason)
                continue
            try:
                entry = score(
                    folder,
                    self._samples(model, benchmark),
                    order.judge,
                    lambda name: self._report(f"{model.name}, judge", name),
                    loaded,
                    order.suite.settings(benchmark),
                )
            except OGPSAError as error:
                self._note(model, benchmark.name, "not scored", error)
                entry = gap(benchmark, f"not scored: {error}")
            if entry.get("gap", "").startswith(NO_SCORE):
                self._note(model, benchmark.name, "not scored", OGPSAError(entry["gap"]))
            old = before.get(benchmark.name, {})
            if order.judge is None and "gap" in entry and "score" in old:
                if all(old.get(key) == value for key, value in _identity(entry).items()):
                    entry = old  # judged before, and nothing has changed since
            entries[benchmark.name] = entry
        everything = {**before, **entries}
        names = [name for name in dict.fromkeys([*order.suite.everything, *before]) if name in everything]
        write_scores(folder, record, {name: everything[name] for name in names})
        return entries


def _identity(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("rows", "answers", "settings") if key in entry}


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check(order: Order, say: Say) -> None:
    """Load the rows of every benchmark, and say what would be measured; nothing is written and no model is loaded.

    Args:
        order: what and how.
        say: prints a line.

    Raises:
        OGPSAError: rows are missing (without `skip_missing`).
    """
    for loaded in load(order, say):
        if loaded.gap:
            continue
        benchmark = loaded.benchmark
        rows = sum(min(len(task.task_docs), benchmark.limit or len(task.task_docs)) for task in loaded.tasks)
        what = f"answers of up to {benchmark.max_new_tokens} tokens" if loaded.generates else "likelihoods of choices"
        judged = f", judged ({benchmark.judge})" if benchmark.judge else ""
        say(f"{benchmark.name}: {rows:,} rows, {what}{judged}. {benchmark.title}.")


def load(order: Order, say: Say) -> list[Loaded]:
    """Load every benchmark's tasks and rows.

    Args:
        order: what and how.
        say: prints a line on whatever is missing.

    Returns:
        One entry a benchmark.

    Raises:
        OGPSAError: naming all benchmarks whose rows cannot be had, where `skip_missing` is not set.
    """
    loader = TaskLoader(order.suite, order.running.temperature, chat_only=order.running.backend == "openai")
    loaded = [loader.load(benchmark) for benchmark in order.suite.benchmarks]
    missing = [f"- {each.benchmark.name}: {each.gap}" for each in loaded if each.gap and not each.impossible]
    if missing and not order.skip_missing:
        raise OGPSAError(
            "rows of these benchmarks cannot be had:\n" + "\n".join(missing) + "\n"
            "--skip-missing leaves them out and shows the gaps; --benchmarks chooses others."
        )
    for each in loaded:
        if each.gap or each.note:
            say(f"{each.benchmark.name}: {each.gap or each.note}")
    return loaded


def _fingerprint(model: Model, order: Order) -> dict[str, Any]:
    endpoint = order.running.endpoint
    if endpoint is not None:  # nobody outside knows its weights
        return {"fingerprint": f"{model.base} at {endpoint.url.rstrip('/')}"}
    return fingerprint(model, order.output)
