"""OGPSA's arguments: names, help texts and validation. Knows nothing of LLaMA-Factory."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin

import torch

from .errors import OGPSAError
from .subspace import MAX_DIRECTIONS


# Refresh periods of the paper (section "Implementation details") for SFT and DPO; the other stages follow the one that
# they are like: as many steps, or as few, between two looks at the references.
DEFAULT_REFRESH_STEPS = {"sft": 30, "dpo": 5, "pt": 30, "kto": 5}


_INTEGERS = (
    "ogpsa_reference_samples",
    "ogpsa_refresh_steps",
    "ogpsa_rank",
    "ogpsa_reference_batch_size",
    "ogpsa_seed",
)


@dataclass
class OGPSAArguments:
    """Arguments of orthogonal gradient projection for safety alignment (arXiv 2602.07892)."""

    use_ogpsa: bool | None = field(
        default=None,
        metadata={
            "help": "Project the update away from the general-capability subspace (OGPSA). `stage: ogpsa_…` sets it."
        },
    )
    ogpsa_reference_dataset: str | None = field(
        default=None,
        metadata={
            "help": (
                "Names in dataset_info.json of general-capability reference sets, separated by commas. "
                "Each is one reference set and gives the subspace its own direction(s)."
            )
        },
    )
    ogpsa_reference_samples: int = field(
        default=200,
        metadata={"help": "Rows taken from each reference set, drawn with `ogpsa_seed` if it has more."},
    )
    ogpsa_reference_selection: Literal["random", "first"] = field(
        default="random",
        metadata={"help": "Which rows are taken of a set that has more: drawn with `ogpsa_seed`, or the first ones."},
    )
    ogpsa_reference_loss: Literal["sft", "preference", "lm_both"] = field(
        default="sft",
        metadata={
            "help": (
                "sft: cross-entropy on the answer (of preference data: the chosen one). preference: the DPO stage's "
                "own loss on reference pairs. lm_both: cross-entropy on the chosen and the rejected answer."
            )
        },
    )
    ogpsa_reference_average: Literal["token", "batch"] = field(
        default="token",
        metadata={
            "help": (
                "token: mean over all label tokens of the set (preference: over its pairs). batch: mean of the "
                "batches' means, as in the released code; it depends on the batch size and the number of ranks."
            )
        },
    )
    ogpsa_refresh_steps: int | None = field(
        default=None,
        metadata={
            "help": (
                "K: the subspace is computed anew every K optimizer steps, step 0 included. Default: 30 in SFT and "
                "pre-training, 5 in DPO and KTO. A number beyond the last step computes it once."
            )
        },
    )
    ogpsa_rank: int = field(
        default=1,
        metadata={
            "help": "Directions per reference set: the set is split into so many chunks of about equal label tokens."
        },
    )
    ogpsa_energy: float = field(
        default=1.0,
        metadata={
            "help": "Keep the fewest leading directions that explain this share of the reference gradients (0..1]."
        },
    )
    ogpsa_granularity: Literal["parameter", "layer", "global"] = field(
        default="parameter",
        metadata={
            "help": (
                "What is projected as one vector: each parameter tensor (as the released code does), each layer, "
                "or all parameters together (as the paper writes it)."
            )
        },
    )
    ogpsa_mode: Literal["orthogonal", "conflict", "plane"] = field(
        default="orthogonal",
        metadata={
            "help": (
                "Remove the whole component in the subspace, or only what would raise a reference loss (conflict), or "
                "all but that component (plane: an ablation)."
            )
        },
    )
    ogpsa_aligned_scale: float = field(
        default=1.0,
        metadata={"help": "In ogpsa_mode: conflict, factor for gradients that no reference loss is in conflict with."},
    )
    ogpsa_tolerance: float = field(
        default=1e-4,
        metadata={"help": "Relative size below which a direction counts as collinear with the others and is dropped."},
    )
    ogpsa_subspace_dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={"help": "Data type in which the subspace is kept. auto: the gradients' own."},
    )
    ogpsa_offload: bool = field(
        default=False,
        metadata={"help": "Keep the subspace in host memory instead of on the accelerator."},
    )
    ogpsa_reference_batch_size: int | None = field(
        default=None,
        metadata={"help": "Rows per device in one reference pass. Default: `per_device_train_batch_size`."},
    )
    ogpsa_seed: int = field(
        default=42,
        metadata={"help": "Seed of the choice of reference rows and of the reference passes' own random numbers."},
    )
    ogpsa_monitor_only: bool = field(
        default=False,
        metadata={"help": "Collect reference gradients and log the overlap, but leave every update as it is."},
    )

    @property
    def reference_names(self) -> list[str]:
        """Names of the reference sets, in the order given."""
        given: Any = self.ogpsa_reference_dataset or ""  # a YAML list is as good as commas
        names = given.split(",") if isinstance(given, str) else given
        return [str(name).strip() for name in names if str(name).strip()]

    @property
    def refresh_steps(self) -> int:
        """K, after :meth:`validate_ogpsa` has filled in the stage's default."""
        if self.ogpsa_refresh_steps is None:
            raise OGPSAError("ogpsa_refresh_steps is not set: call validate_ogpsa first.")
        return self.ogpsa_refresh_steps

    @property
    def subspace_dtype(self) -> torch.dtype | None:
        """Storage dtype of the subspace, None for the gradients' own."""
        return None if self.ogpsa_subspace_dtype == "auto" else getattr(torch, self.ogpsa_subspace_dtype)

    def ogpsa_settings(self) -> dict[str, Any]:
        """Return every OGPSA argument as it is used, for reports and model cards."""
        own = OGPSAArguments.__dataclass_fields__
        return {name: value for name, value in asdict(self).items() if name in own}

    def validate_ogpsa(self, stage: str) -> None:
        """Check the values and fill in the defaults that depend on the stage.

        Args:
            stage: LLaMA-Factory's training stage, e.g. ``sft``.

        Raises:
            OGPSAError: naming the argument, its value and what to write instead.
        """
        if stage not in DEFAULT_REFRESH_STEPS:
            raise OGPSAError(
                f"use_ogpsa does not work with stage: {stage}; it works with {', '.join(DEFAULT_REFRESH_STEPS)}. "
                "Remove use_ogpsa or change the stage."
            )
        if not self.reference_names:
            raise OGPSAError(
                "use_ogpsa is on but ogpsa_reference_dataset is empty: name one or more general-capability sets of "
                "dataset_info.json, e.g. ogpsa_reference_dataset: ultrafeedback_ref_sft,halueval_ref_sft."
            )
        duplicates = sorted({name for name in self.reference_names if self.reference_names.count(name) > 1})
        if duplicates:
            raise OGPSAError(f"ogpsa_reference_dataset names {', '.join(duplicates)} more than once: remove one.")

        for name in _INTEGERS:
            self._convert(name, int)
        for name in ("ogpsa_energy", "ogpsa_tolerance", "ogpsa_aligned_scale"):
            self._convert(name, float)
        if self.ogpsa_refresh_steps is None:
            self.ogpsa_refresh_steps = DEFAULT_REFRESH_STEPS[stage]
        if self.ogpsa_reference_batch_size is not None:
            self._require("ogpsa_reference_batch_size", self.ogpsa_reference_batch_size >= 1, "1 or more")
        self._require("ogpsa_refresh_steps", self.ogpsa_refresh_steps >= 1, "1 or more (K optimizer steps)")
        self._require("ogpsa_reference_samples", self.ogpsa_reference_samples >= 1, "1 or more")
        self._require("ogpsa_rank", self.ogpsa_rank >= 1, "1 or more")
        self._require("ogpsa_energy", 0.0 < self.ogpsa_energy <= 1.0, "above 0 and at most 1")
        self._require("ogpsa_tolerance", 0.0 <= self.ogpsa_tolerance < 1.0, "at least 0 and below 1")
        self._require("ogpsa_aligned_scale", self.ogpsa_aligned_scale >= 0.0, "at least 0")
        for name, argument in OGPSAArguments.__dataclass_fields__.items():
            if get_origin(argument.type) is Literal:
                choices = get_args(argument.type)
                self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

        if self.ogpsa_reference_loss == "preference" and stage != "dpo":
            raise OGPSAError(
                f"ogpsa_reference_loss: preference is the loss of stage dpo; stage {stage} has none for pairs. "
                "Use ogpsa_reference_loss: sft (cross-entropy on the chosen answer) or lm_both."
            )
        if self.ogpsa_rank > self.ogpsa_reference_samples:
            raise OGPSAError(
                f"ogpsa_rank: {self.ogpsa_rank} asks for more directions than ogpsa_reference_samples: "
                f"{self.ogpsa_reference_samples} has rows. Lower the one or raise the other."
            )
        directions = self.ogpsa_rank * len(self.reference_names)
        if directions > MAX_DIRECTIONS:
            raise OGPSAError(
                f"ogpsa_rank: {self.ogpsa_rank} times {len(self.reference_names)} reference sets is {directions} "
                f"directions; at most {MAX_DIRECTIONS} are possible. Lower ogpsa_rank."
            )
        if self.ogpsa_aligned_scale != 1.0 and self.ogpsa_mode != "conflict":
            raise OGPSAError(
                f"ogpsa_aligned_scale: {self.ogpsa_aligned_scale} acts in ogpsa_mode: conflict only, and it is "
                f"{self.ogpsa_mode}. Remove it or change the mode."
            )
        if self.ogpsa_mode == "conflict" and self.ogpsa_energy < 1.0:
            raise OGPSAError(
                "ogpsa_mode: conflict promises that no reference loss rises, ogpsa_energy below 1 drops directions: "
                "the two contradict each other. Set ogpsa_energy: 1.0 or ogpsa_mode: orthogonal."
            )

    def _convert(self, name: str, kind: type[int] | type[float]) -> None:
        """Turn what YAML and JSON make of a number ("1e-4" is a text there) into one."""
        value = getattr(self, name)
        if value is None and OGPSAArguments.__dataclass_fields__[name].default is None:
            return
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        fits = math.isfinite(number) and (kind is float or number.is_integer())
        self._require(name, fits, "a whole number" if kind is int else "a number")
        setattr(self, name, kind(number))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise OGPSAError(f"{name}: {getattr(self, name)} is not possible; it must be {expected}.")
