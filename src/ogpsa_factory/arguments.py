"""OGPSA's arguments: names, defaults and help texts. Knows nothing of LLaMA-Factory."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from .errors import OGPSAError
from .validation import DEFAULT_REFRESH_THRESHOLD, validate


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
    ogpsa_refresh: Literal["fixed", "adaptive"] = field(
        default="fixed",
        metadata={
            "help": (
                "fixed: the subspace is computed anew every ogpsa_refresh_steps. adaptive: a few reference rows are "
                "looked at as often, and it is computed anew only if it has drifted by ogpsa_refresh_threshold."
            )
        },
    )
    ogpsa_refresh_threshold: float = field(
        default=DEFAULT_REFRESH_THRESHOLD,
        metadata={
            "help": (
                "With ogpsa_refresh: adaptive, what share of its overlap with the subspace the gradient of the rows "
                "looked at may lose, or their loss may rise by, before the subspace is computed anew."
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
    ogpsa_project: Literal["gradient", "update", "preconditioned"] = field(
        default="gradient",
        metadata={
            "help": (
                "What is projected. gradient: the safety gradient, before clipping (the paper). update: the step that "
                "the optimizer has really taken, with any optimizer. preconditioned: the same, nearest in AdamW's own "
                "metric."
            )
        },
    )
    ogpsa_metric_damping: float = field(
        default=1.0,
        metadata={
            "help": (
                "With ogpsa_project: preconditioned, share of a tensor's root mean square of AdamW's denominator that "
                "is added to its epsilon: 0 is AdamW's own metric, a large number makes it constant in each tensor."
            )
        },
    )
    ogpsa_project_momentum: Literal["never", "refresh", "step"] = field(
        default="never",
        metadata={
            "help": (
                "With ogpsa_project: update or preconditioned, when the first moment of AdamW or SGD is projected "
                "too: never, when the subspace is refreshed, or in each step."
            )
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
        metadata={
            "help": "Data type in which the subspace is kept. auto: bfloat16 on a GPU or for 16 bits, else float32."
        },
    )
    ogpsa_offload: bool = field(
        default=False,
        metadata={"help": "Keep the subspace in host memory instead of on the accelerator."},
    )
    ogpsa_kernels: Literal["auto", "plain", "fused"] = field(
        default="auto",
        metadata={
            "help": (
                "What computes the projection: plain PyTorch, or kernels that torch.compile makes (fused). auto: "
                "fused where a rank holds 16 million gradient elements or more and there is a compiler."
            )
        },
    )
    ogpsa_reference_batch_size: int | None = field(
        default=None,
        metadata={
            "help": (
                "Rows per device in one reference pass. Default: what takes the least time without taking more tokens "
                "than a training batch of the longest rows, or as many rows as a training batch where tokens do not "
                "tell (images, streaming). Set it to 1 if a refresh runs out of memory."
            )
        },
    )
    ogpsa_seed: int = field(
        default=42,
        metadata={"help": "Seed of the choice of reference rows and of the reference passes' own random numbers."},
    )
    ogpsa_monitor_only: bool = field(
        default=False,
        metadata={"help": "Collect reference gradients, log overlap and leak, but leave every update as it is."},
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
        """Storage dtype of the subspace, None to let :func:`~ogpsa_factory.storage.storage_dtype` choose."""
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
        validate(self, stage)
