"""One training run with OGPSA: check, load the reference sets, run LLaMA-Factory's own workflow, report."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import report
from .compat import STAGES
from .data import load_reference_sets
from .preflight import check_supported, skip_broken_checkpoint, warn_of_ignored_loss, warn_of_nvme
from .trainer import make_trainer_class


logger = logging.getLogger(__name__)


def with_ogpsa(stage: str, run_stage: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function that runs one of LLaMA-Factory's stages; runs without ``use_ogpsa`` go straight through.

    Args:
        stage: name of the stage, e.g. ``sft``.
        run_stage: the function to wrap.

    Returns:
        A function with the same signature.
    """

    @functools.wraps(run_stage)
    def run_with_ogpsa(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        _log_like_llamafactory(training_args.process_index)
        for sentence in getattr(finetuning_args, "released_notes", []):
            logger.warning(sentence)
        if not (getattr(finetuning_args, "use_ogpsa", False) and training_args.do_train):
            if getattr(finetuning_args, "ogpsa_reference_dataset", None) and training_args.do_train:
                logger.warning("use_ogpsa is off, so ogpsa_reference_dataset is ignored: this is a plain run.")
            return run_stage(model_args, data_args, training_args, finetuning_args, *args, **kwargs)

        check_supported(model_args, data_args, training_args, finetuning_args)
        warn_of_ignored_loss(finetuning_args)
        skip_broken_checkpoint(training_args)
        warn_of_nvme(training_args)
        references = load_reference_sets(finetuning_args, model_args, data_args, training_args)
        trainers: list[Any] = []
        with _trainer_of(stage, finetuning_args, references, trainers.append):
            result = run_stage(model_args, data_args, training_args, finetuning_args, *args, **kwargs)
        if trainers[0].is_world_process_zero():
            folder = Path(training_args.output_dir)
            run_arguments = {"model": model_args, "data": data_args, "training": training_args}
            history = trainers[0].state.log_history
            path = report.write_report(
                folder,
                finetuning_args,
                references,
                history,
                {name: group.to_dict() for name, group in {**run_arguments, "finetuning": finetuning_args}.items()},
            )
            report.extend_model_card(folder, finetuning_args, references)
            if finetuning_args.plot_loss:
                report.plot_curves(folder, history)
            summary = report.summarise(history)
            ratio = summary["mean_removed_ratio"] or 0.0
            logger.info("OGPSA: %d refreshes, mean removed ratio %.3f; see %s.", summary["refreshes"], ratio, path)
        return result

    return run_with_ogpsa


def _log_like_llamafactory(rank: int) -> None:
    """Send our messages where LLaMA-Factory's go (terminal, LlamaBoard), once and not once per rank."""
    ours = logging.getLogger("ogpsa_factory")
    ours.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    ours.propagate = False
    for handler in logging.getLogger("llamafactory").handlers:
        ours.addHandler(handler)


@contextmanager
def _trainer_of(stage: str, *how: Any) -> Iterator[None]:
    """Let the name of a stage's trainer mean our subclass inside the block only: the next run may be plain.

    Some workflows import the class at the top, some in the function: so it is replaced in both modules.
    """
    name = STAGES[stage]
    modules = [import_module(f"llamafactory.train.{stage}.{part}") for part in ("trainer", "workflow")]
    original = getattr(modules[0], name)
    holders = [module for module in modules if getattr(module, name, None) is original]
    ours = make_trainer_class(original, *how)
    try:
        for module in holders:
            setattr(module, name, ours)
        yield
    finally:
        for module in holders:
            setattr(module, name, original)
