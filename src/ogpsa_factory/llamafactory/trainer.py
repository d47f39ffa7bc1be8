"""The trainer mixin: where in a training loop the controller is called."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from llamafactory.data.collator import MultiModalDataCollatorForSeq2Seq, SFTDataCollatorWith4DAttentionMask
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .. import report
from ..arguments import OGPSAArguments
from ..controller import Controller
from ..engines.select import select_engine
from ..reference import IGNORE_INDEX, BatchSize, ReferenceSet, answers
from .batches import reference_batch_size


class _StepCallback(TrainerCallback):
    """Calls the controller where the Trainer has nothing to override: outside ``no_sync``, before the forward."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set up once the model is wrapped and a checkpoint's weights are loaded."""
        self.trainer.start_ogpsa()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refresh the subspace if it is due."""
        self.trainer.ogpsa.on_step_begin(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the training engine as it was."""
        self.trainer.ogpsa.engine.release()


class OGPSATrainerMixin:
    """Adds OGPSA to a Trainer; the subclass that :func:`make_trainer_class` makes sets the two attributes."""

    ogpsa_arguments: OGPSAArguments
    ogpsa_references: Sequence[ReferenceSet]
    ogpsa: Controller
    _loop_projects: bool
    _resume_folder: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_StepCallback(self))  # type: ignore[attr-defined]

    def start_ogpsa(self: Any) -> None:
        """Make the controller for the wrapped model, and restore its subspace when resuming."""
        # auto_find_batch_size lowers this one, and starts training anew, when memory does not suffice.
        batch_size = self._train_batch_size // max(1, self.args.n_gpu)
        self._reference_collator = _make_answer_collator(self.data_collator, self.processing_class)
        if hasattr(self, "ogpsa"):  # auto_find_batch_size has started anew
            self.ogpsa.engine.release()
        engine = select_engine(self.model, self.model_wrapped, self.accelerator.scaler)
        self._loop_projects = not engine.before_step(self._project)
        self.ogpsa = Controller(
            self.ogpsa_arguments,
            engine,
            self.ogpsa_references,
            mean_loss=self.reference_loss,
            batch_size=self._reference_batch_size(batch_size),
            log=functools.partial(Trainer.log, self),  # past the stages' own, which average stored training metrics
            progress=self.reference_progress,
            optimizer=getattr(self.optimizer, "optimizer", self.optimizer),  # out of Accelerate's wrapper
        )
        if self._resume_folder is not None:
            self.ogpsa.resume(Path(self._resume_folder))

    def _reference_batch_size(self: Any, batch_size: int) -> BatchSize:
        found = reference_batch_size(
            self.ogpsa_arguments,
            self.ogpsa_references,
            self.train_dataset,
            batch_size,
            lowered=self.args.auto_find_batch_size,
            on_cpu=self.args.device.type == "cpu",
        )
        # Every pass is a collective operation, and other machines may have tokenised other rows.
        return dataclasses.replace(found, tokens=min(gather_object([found.tokens])))

    def reference_loss(self: Any, features: list[dict[str, Any]]) -> Tensor:
        """Mean loss of some reference rows, computed as the training loop computes its forward pass.

        Args:
            features: tokenised rows; pairs for the losses ``preference`` and ``lm_both``.

        Returns:
            Cross-entropy per label token, or for ``preference`` the DPO stage's own loss per pair, with a graph.
        """
        self.model_wrapped.train()  # gradient checkpointing is off in evaluation mode
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers keep two sets of weights
            self.optimizer.train()
        if self.ogpsa_arguments.ogpsa_reference_loss == "preference":
            inputs = self._prepare_inputs(self.data_collator(features))
            with self.compute_loss_context_manager(), self._baseline_kept():
                return self.get_batch_loss_metrics(self.model_wrapped, inputs)[0]
        # All chosen answers, then all rejected ones, as the DPO stage's own batches are laid out.
        sequences = [sequence for kind in zip(*map(answers, features), strict=True) for sequence in kind]
        inputs = self._prepare_inputs(self._reference_collator(sequences))
        with self.compute_loss_context_manager():
            return self.model_wrapped(**inputs)["loss"]

    @contextmanager
    def _baseline_kept(self: Any) -> Iterator[None]:
        """Give back the running mean of rewards, which pref_bco_weight subtracts: references must not move it."""
        kept = copy.copy(getattr(self, "running", None))
        try:
            yield
        finally:
            if kept is not None:
                self.running = kept

    @contextmanager
    def reference_progress(self: Any, rows: int) -> Iterator[Callable[[int], Any]]:
        """A bar on the main process that vanishes when the refresh is done."""
        hidden = self.args.disable_tqdm or not self.is_local_process_zero()
        with tqdm(total=rows, desc="Reference gradients", unit="row", leave=False, disable=hidden) as bar:
            yield bar.update

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Project after the last backward pass of an accumulation: before clipping, which comes next."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self._loop_projects and self.accelerator.sync_gradients:
            self._project()
        return loss

    def _project(self: Any) -> None:
        step, every = self.state.global_step, self.state.logging_steps
        self.ogpsa.before_clipping(step, measure=every > 0 and (step + 1) % every == 0)

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the projection's figures to every training log entry."""
        if "loss" in logs:
            logs.update(self.ogpsa.metrics())
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        self._resume_folder = checkpoint
        if self.args.device.type == "cpu":
            _let_torch_load_to_cpu_ranks()
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        # Before the Trainer's own files, the last of which marks a checkpoint as complete.
        if not self.args.save_only_model:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.ogpsa.save(folder, writes_shared=self.args.should_save)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _save_rng_state(self: Any, output_dir: str) -> None:
        """Wait until all ranks have written theirs: rank 0 writes trainer_state.json next, and that means "whole"."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()

    def create_model_card(self: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model card with a section on OGPSA (the way to a hub; see ``workflow`` for the local one)."""
        super().create_model_card(*args, **kwargs)  # type: ignore[misc]
        if self.is_world_process_zero():
            report.extend_model_card(Path(self.args.output_dir), self.ogpsa_arguments, self.ogpsa_references)


def _make_answer_collator(training_collator: Any, tokenizer: Any) -> Any:
    """Make a collator of rows with one answer each from the one that the stage trains with."""
    if isinstance(training_collator, SFTDataCollatorWith4DAttentionMask):
        collator = copy.copy(training_collator)
    elif isinstance(training_collator, MultiModalDataCollatorForSeq2Seq):  # of pairs (DPO) or of triples (KTO)
        own = [each.name for each in dataclasses.fields(MultiModalDataCollatorForSeq2Seq) if each.init]
        collator = MultiModalDataCollatorForSeq2Seq(**{name: getattr(training_collator, name) for name in own})
    else:  # pre-training's makes labels of its own, and knows text only
        pad = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8, label_pad_token_id=IGNORE_INDEX)
        return lambda rows: pad([{key: row[key] for key in ("input_ids", "attention_mask", "labels")} for row in rows])
    collator.label_pad_token_id = IGNORE_INDEX  # whatever ignore_pad_token_for_loss says
    return collator


@functools.cache
def _let_torch_load_to_cpu_ranks() -> None:
    """Teach ``torch.load`` places like "cpu:0": transformers 5.6 names them when DDP on CPUs resumes, and fails."""
    torch.serialization.register_package(
        5, lambda storage: None, lambda storage, place: storage if place.startswith("cpu:") else None
    )


def make_trainer_class(
    base: type, arguments: OGPSAArguments, references: Sequence[ReferenceSet], created: Callable[[Any], None]
) -> type:
    """Make the subclass of one of LLaMA-Factory's trainers that runs OGPSA.

    Args:
        base: LLaMA-Factory's trainer class.
        arguments: validated arguments.
        references: loaded reference sets.
        created: called with the trainer when it is made.

    Returns:
        A class that takes the arguments of ``base``.
    """

    class OGPSATrainer(OGPSATrainerMixin, base):  # type: ignore[misc,valid-type]
        ogpsa_arguments = arguments
        ogpsa_references = references

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            created(self)

    OGPSATrainer.__name__ = OGPSATrainer.__qualname__ = f"OGPSA{base.__name__.removeprefix('Custom')}"
    return OGPSATrainer
