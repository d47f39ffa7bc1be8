"""One training run with OGPSA: check, load the reference sets, run LLaMA-Factory's own workflow, report."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from llamafactory.train.sft import workflow as sft_workflow

from .. import report
from .data import load_reference_sets
from .preflight import check_supported, skip_broken_checkpoint
from .trainer import make_trainer_class


logger = logging.getLogger(__name__)


def with_ogpsa(run_sft: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's ``run_sft``; runs without ``use_ogpsa`` go straight through.

    Args:
        run_sft: the function to wrap.

    Returns:
        A function with the same signature.
    """

    @functools.wraps(run_sft)
    def run_with_ogpsa(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *args: Any, **kwargs: Any
    ) -> Any:
        _log_like_llamafactory(training_args.process_index)
        if not (getattr(finetuning_args, "use_ogpsa", False) and training_args.do_train):
            if getattr(finetuning_args, "ogpsa_reference_dataset", None) and training_args.do_train:
                logger.warning("use_ogpsa is off, so ogpsa_reference_dataset is ignored: this is a plain run.")
            return run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)

        check_supported(model_args, data_args, training_args, finetuning_args)
        skip_broken_checkpoint(training_args)
        references = load_reference_sets(finetuning_args, model_args, data_args, training_args)
        trainers: list[Any] = []
        trainer_class = make_trainer_class(
            sft_workflow.CustomSeq2SeqTrainer, finetuning_args, references, trainers.append
        )
        with _rebound(sft_workflow, "CustomSeq2SeqTrainer", trainer_class):
            result = run_sft(model_args, data_args, training_args, finetuning_args, *args, **kwargs)
        if trainers[0].is_world_process_zero():
            folder = Path(training_args.output_dir)
            run_arguments = {"model": model_args, "data": data_args, "training": training_args}
            report.write_report(
                folder,
                finetuning_args,
                references,
                trainers[0].state.log_history,
                {name: group.to_dict() for name, group in {**run_arguments, "finetuning": finetuning_args}.items()},
            )
            report.extend_model_card(folder, finetuning_args, references)
            if finetuning_args.plot_loss:
                report.plot_curves(folder, trainers[0].state.log_history)
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
def _rebound(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Let a module's name mean something else inside the block only: the next run in this process may be plain."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
