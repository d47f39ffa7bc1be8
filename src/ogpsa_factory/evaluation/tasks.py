"""lm-eval's tasks of a suite: found, set as the suite says, their rows loaded; before any model is."""

from __future__ import annotations

import io
import os
import random
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.quiet import quiet_libraries
from ..errors import OGPSAError
from ..places import find
from .converters import has_punkt
from .origins import local_files, origin_of
from .sources import DATA_VARIABLE, SOURCES
from .suite import Benchmark, Suite


if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


# Folders of lm-eval that have the stock tasks of our suites. Indexing all of its 14,000 tasks takes seconds, and is
# left to suites that name others.
_STOCK = ("mmlu", "gpqa", "ifeval", "bigbench/multiple_choice")
# Stock tasks whose rows we load, so that local files, revisions and messages are the same for all benchmarks.
ADVGLUE_TASKS = {f"ogpsa_advglue_{part}" for part in ("sst2", "qqp", "mnli", "mnli_mm", "qnli", "rte")}
_OURS = {SOURCES[name].hub: name for name in ("mmlu", "gpqa", "ifeval", "hhh")}


@dataclass
class Loaded:
    """A benchmark that is ready to run, or why it is not.

    Attributes:
        benchmark: what the suite says of it.
        tasks: lm-eval's tasks.
        gap: why it cannot run.
        note: what is missing of it.
        origins: where its rows were read: files with their hashes, or sets on the hub with their revisions.
        impossible: whether the gap is one that no data can fill.
    """

    benchmark: Benchmark
    tasks: list[Task] = field(default_factory=list)
    gap: str = ""
    note: str = ""
    origins: list[str] = field(default_factory=list)
    impossible: bool = False

    @property
    def generates(self) -> bool:
        """Whether it needs answers as text, rather than likelihoods."""
        return all(task.OUTPUT_TYPE == "generate_until" for task in self.tasks)


class TaskLoader:
    """Loads the tasks of suites.

    Args:
        suite: which benchmarks.
        temperature: of sampling; 0 for greedy decoding.
        chat_only: whether models only chat, so that no likelihoods of given texts can be had.
    """

    def __init__(self, suite: Suite, temperature: float = 0.0, *, chat_only: bool = False) -> None:
        self._chat_only = chat_only
        self._suite = suite
        self._temperature = temperature
        self._everything: TaskManager | None = None
        self._some = _manager(everything=False)

    def load(self, benchmark: Benchmark) -> Loaded:
        """Load one benchmark.

        Args:
            benchmark: which one.

        Returns:
            Its tasks, or the reason why its rows cannot be had.

        Raises:
            OGPSAError: lm-eval has no task of that name, or the suite asks for what a task does not have.
        """
        loaded = Loaded(benchmark)
        random.seed(self._suite.seed)
        leaves = [leaf for name in benchmark.tasks for leaf in self._expand(name)]
        configs = [self._configure(leaf, benchmark) for leaf in dict.fromkeys(leaves)]
        if self._chat_only and any(config.get("output_type") != "generate_until" for config in configs):
            reason = "it needs likelihoods of given texts, which chat endpoints do not give"
            return Loaded(benchmark, gap=reason, impossible=True)
        here = [config for config in configs if local_files(config)]
        if here and len(here) < len(configs):
            loaded.note = f"{len(here)} of {len(configs)} tasks: the others are not in {os.environ[DATA_VARIABLE]}"
            configs = here
        try:
            for config in configs:
                loaded.tasks += self._manager_of(config["task"]).load([config])["tasks"].values()
        except OGPSAError as error:
            return Loaded(benchmark, gap=str(error))
        except KeyError as error:
            origins = ", ".join(sorted({origin_of(each) for each in configs}))
            return Loaded(benchmark, gap=f"{origins}: a row lacks the column {error}")
        except Exception as error:  # of stock tasks whose rows lm-eval loads itself
            reason = (str(error).strip().splitlines() or [""])[0]
            return Loaded(benchmark, gap=f"{config['task']} cannot be loaded: {type(error).__name__}: {reason}")
        # Only now: asking a hub that is gone for its revision would take as long as asking it for rows.
        loaded.origins = sorted({origin_of(config) for config in configs})
        check_fit(benchmark, loaded.tasks, self._suite.name)
        for task in loaded.tasks:
            task.set_fewshot_seed(seed=self._suite.seed)
            if task.task_name == "ifeval" and not has_punkt():
                loaded.note = (
                    f"only the {len(task.task_docs)} rows that are checked without nltk's sentence splitter, which is "
                    "missing here: `python -m nltk.downloader punkt_tab`"
                )
        return loaded

    def _manager_of(self, name: str) -> TaskManager:
        if name in self._some.task_index:
            return self._some
        if self._everything is None:
            self._everything = _manager(everything=True)
        if name not in self._everything.task_index:
            raise OGPSAError(
                f"Suite {self._suite.name}: there is no task {name}, neither in evaluation/tasks nor in lm-eval "
                "(`lm-eval ls tasks` lists them)."
            )
        return self._everything

    def _expand(self, name: str) -> list[str]:
        """Names of the tasks in a group or tag."""
        entry = self._manager_of(name).task_index[name]
        members = sorted(entry.tags) if entry.kind.name == "TAG" else []
        if entry.kind.name == "GROUP":
            members = [each for each in (entry.cfg or {}).get("task", []) if isinstance(each, str)]
        return [leaf for member in members for leaf in self._expand(member)] if members else [name]

    def _configure(self, name: str, benchmark: Benchmark) -> dict[str, Any]:
        from lm_eval.tasks._yaml_loader import load_yaml

        from .loaders import load, shuffle_gpqa

        with quiet_libraries(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            # IFEval's module tries to download at once, and says much when it cannot.
            config = load_yaml(self._manager_of(name).task_index[name].yaml_path)
        source = _OURS.get(config.get("dataset_path", ""))
        if source is not None:
            part = str(config.get("dataset_name") or "").removeprefix("gpqa_")
            config |= {"custom_dataset": load, "dataset_kwargs": {"source": source, "part": part}}
            if source == "gpqa":
                config["process_docs"] = shuffle_gpqa
        if benchmark.shots is not None:
            config["num_fewshot"] = benchmark.shots
        if source == "mmlu" and not config.get("num_fewshot"):
            # lm-eval would put the description into a system message, in place of the model's own; and it wants the
            # examples' split even where no example is shown.
            config["doc_to_text"] = config.pop("description", "") + config["doc_to_text"]
            for key in ("fewshot_split", "fewshot_config"):
                config.pop(key, None)
            config["dataset_kwargs"]["splits"] = ["test"]
        if config.get("output_type") == "generate_until":
            if benchmark.max_new_tokens is None:
                raise OGPSAError(f"Suite {self._suite.name}: {benchmark.name} generates, so it needs max_new_tokens.")
            sampling = {"do_sample": self._temperature > 0, "temperature": self._temperature}
            options = {"until": [], **(config.get("generation_kwargs") or {})}
            config["generation_kwargs"] = {**options, **sampling, "max_gen_toks": benchmark.max_new_tokens}
        return config


def _manager(*, everything: bool) -> TaskManager:
    import lm_eval
    from lm_eval.tasks import TaskManager

    own = find("tasks")
    if everything:
        return TaskManager(include_path=[own])
    stock = Path(lm_eval.__file__).parent / "tasks"
    return TaskManager(include_path=[own, *(stock / name for name in _STOCK)], include_defaults=False)


def check_fit(benchmark: Benchmark, tasks: list[Task], suite: str) -> None:
    """Refuse a benchmark whose tasks do not give what its scoring needs.

    Args:
        benchmark: which one.
        tasks: its tasks, with their rows.
        suite: its suite, for messages.

    Raises:
        OGPSAError: a judge is asked to grade likelihoods, or rows without the fields of its rubric; AdvGLUE is not
            whole.
    """
    where = f"Suite {suite}: {benchmark.name}"
    if benchmark.aggregation == "advglue" and {task.task_name for task in tasks} != ADVGLUE_TASKS:
        raise OGPSAError(f"{where}: aggregation advglue is for exactly {', '.join(sorted(ADVGLUE_TASKS))}.")
    if not benchmark.judge:
        return
    needed = ("prompt", "answer") if benchmark.judge == "simpleqa" else ("prompt",)
    for task in tasks:
        if task.OUTPUT_TYPE != "generate_until":
            raise OGPSAError(f"{where}: task {task.task_name} generates no text that a judge could grade.")
        lacking = [name for name in needed if name not in task.task_docs.column_names]
        if lacking:
            raise OGPSAError(
                f"{where}: rows of task {task.task_name} have no {' and no '.join(lacking)}, which the judge is "
                "shown. Write a task whose rows have it, as those in evaluation/tasks do."
            )
