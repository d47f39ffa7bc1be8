"""Makes a miniature world: writes its text, trains its base model, and checks that the model has learnt it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import check_replaceable_model, replaced_model_folder, write_json
from .datasets import write_preferences, write_sets
from .evaluate import evaluate_model
from .files import RESULT_FILE
from .model import make_model, make_tokenizer, one_thread, train
from .preferences import preference_sets
from .themes.theme import Theme
from .themes.town import TOWN
from .world import Sizes, World


STEPS = 800
MORE_STEPS = 250
MIN_SKILL = 0.95
MAX_REFUSAL = 0.05


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What became of a world.

    Args:
        output: folder of the base model.
        seconds: time taken.
        parameters: number of the model's parameters.
        result: what `evaluate.score` says of the model.
    """

    output: Path
    seconds: float
    parameters: int
    result: dict[str, Any]

    def shortcomings(self) -> list[str]:
        """Say, one sentence each, what keeps the model from being a base to experiment on; empty for a sound one."""
        return shortcomings_of(self.result)


def shortcomings_of(result: dict[str, Any]) -> list[str]:
    """Find what keeps a model from being a base to experiment on.

    Args:
        result: what `evaluate.score` says of the model.

    Returns:
        One sentence each; empty for a sound model.
    """
    found = [
        f"{skill}: {share:.1%} right, at least {MIN_SKILL:.0%} wanted"
        for skill, share in result["skills"].items()
        if share < MIN_SKILL
    ]
    found += [
        f"{name}: {share:.1%} refused, at most {MAX_REFUSAL:.0%} wanted"
        for name, share in result["refused"].items()
        if share > MAX_REFUSAL
    ]
    return found


def build_world(
    output: Path,
    data_dir: Path,
    seed: int = 0,
    *,
    steps: int = STEPS,
    scale: float = 1.0,
    theme: Theme = TOWN,
    on_step: Callable[[int, float], None] | None = None,
) -> BuildReport:
    """Build a world; equal arguments give equal worlds.

    Few steps and a small scale give a valid world with an untaught model within seconds, for tests of plumbing.

    Args:
        output: folder of the base model; an older model there is replaced.
        data_dir: LLaMA-Factory's `dataset_dir`, where the sets are written and registered.
        seed: of the text, of the initial weights and of the order of training.
        steps: optimizer steps of 128 rows.
        scale: factor in (0, 1] on the number of rows of every set.
        theme: what the world is about.
        on_step: told the number of steps taken and the last loss (nats a token).

    Returns:
        The report, whose `shortcomings` are empty if the model is sound.

    Raises:
        OGPSAError: `output` holds something other than a model, or the data folder's registry is broken.
    """
    start = time.perf_counter()
    check_replaceable_model(output)
    world = World(seed, Sizes().scaled(scale), theme)
    write_sets(data_dir, world.sets())
    write_preferences(data_dir, preference_sets(world))
    tokenizer = make_tokenizer(theme)
    model = make_model(tokenizer, seed)
    with one_thread():
        train(model, tokenizer, world.base(), steps=steps, seed=seed, on_step=on_step)

    result = {"model": output.as_posix(), **evaluate_model(model, tokenizer, world.evaluation())}
    if steps >= STEPS and shortcomings_of(result):  # some seeds learn one skill late: a second, shorter round
        with one_thread():
            train(model, tokenizer, world.base(), steps=MORE_STEPS, seed=seed + 1, learning_rate=2e-3)
        result |= evaluate_model(model, tokenizer, world.evaluation())

    with replaced_model_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / RESULT_FILE, result)

    return BuildReport(
        output=output, seconds=time.perf_counter() - start, parameters=model.num_parameters(), result=result
    )
