"""Whether OGPSA's arguments are possible and fit together; refusals name the argument and what to write instead."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from .errors import OGPSAError
from .subspace import MAX_DIRECTIONS


if TYPE_CHECKING:
    from .arguments import OGPSAArguments


# Refresh periods of the paper (section "Implementation details") for SFT and DPO; the other stages follow the one that
# they are like: as many steps, or as few, between two looks at the references.
DEFAULT_REFRESH_STEPS = {"sft": 30, "dpo": 5, "pt": 30, "kto": 5}
DEFAULT_REFRESH_THRESHOLD = 0.1

_INTEGERS = (
    "ogpsa_reference_samples",
    "ogpsa_refresh_steps",
    "ogpsa_rank",
    "ogpsa_reference_batch_size",
    "ogpsa_seed",
)
_NUMBERS = (
    "ogpsa_energy",
    "ogpsa_tolerance",
    "ogpsa_aligned_scale",
    "ogpsa_metric_damping",
    "ogpsa_refresh_threshold",
)


def validate(arguments: OGPSAArguments, stage: str) -> None:
    """Check the values, make numbers of texts, and fill in the defaults that depend on the stage.

    Args:
        arguments: changed in place.
        stage: LLaMA-Factory's training stage, e.g. ``sft``.

    Raises:
        OGPSAError: naming the argument, its value and what to write instead.
    """
    if stage not in DEFAULT_REFRESH_STEPS:
        raise OGPSAError(
            f"use_ogpsa does not work with stage: {stage}; it works with {', '.join(DEFAULT_REFRESH_STEPS)}. "
            "Remove use_ogpsa or change the stage."
        )
    if not arguments.reference_names:
        raise OGPSAError(
            "use_ogpsa is on but ogpsa_reference_dataset is empty: name one or more general-capability sets of "
            "dataset_info.json, e.g. ogpsa_reference_dataset: ultrafeedback_ref_sft,halueval_ref_sft."
        )
    duplicates = sorted({name for name in arguments.reference_names if arguments.reference_names.count(name) > 1})
    if duplicates:
        raise OGPSAError(f"ogpsa_reference_dataset names {', '.join(duplicates)} more than once: remove one.")

    for name in _INTEGERS:
        _convert(arguments, name, int)
    for name in _NUMBERS:
        _convert(arguments, name, float)
    if arguments.ogpsa_refresh_steps is None:
        arguments.ogpsa_refresh_steps = DEFAULT_REFRESH_STEPS[stage]
    if arguments.ogpsa_reference_batch_size is not None:
        _require(arguments, "ogpsa_reference_batch_size", arguments.ogpsa_reference_batch_size >= 1, "1 or more")
    _require(arguments, "ogpsa_refresh_steps", arguments.ogpsa_refresh_steps >= 1, "1 or more (K optimizer steps)")
    _require(arguments, "ogpsa_reference_samples", arguments.ogpsa_reference_samples >= 1, "1 or more")
    _require(arguments, "ogpsa_rank", arguments.ogpsa_rank >= 1, "1 or more")
    _require(arguments, "ogpsa_energy", 0.0 < arguments.ogpsa_energy <= 1.0, "above 0 and at most 1")
    _require(arguments, "ogpsa_tolerance", 0.0 <= arguments.ogpsa_tolerance < 1.0, "at least 0 and below 1")
    _require(arguments, "ogpsa_aligned_scale", arguments.ogpsa_aligned_scale >= 0.0, "at least 0")
    _require(arguments, "ogpsa_metric_damping", arguments.ogpsa_metric_damping >= 0.0, "at least 0")
    _require(arguments, "ogpsa_refresh_threshold", 0.0 < arguments.ogpsa_refresh_threshold < 1.0, "between 0 and 1")
    for argument in fields(arguments):
        if argument.name.startswith("ogpsa_") and get_origin(argument.type) is Literal:
            choices, value = get_args(argument.type), getattr(arguments, argument.name)
            _require(arguments, argument.name, value in choices, f"one of {', '.join(choices)}")

    if arguments.ogpsa_reference_loss == "preference" and stage != "dpo":
        raise OGPSAError(
            f"ogpsa_reference_loss: preference is the loss of stage dpo; stage {stage} has none for pairs. "
            "Use ogpsa_reference_loss: sft (cross-entropy on the chosen answer) or lm_both."
        )
    if arguments.ogpsa_rank > arguments.ogpsa_reference_samples:
        raise OGPSAError(
            f"ogpsa_rank: {arguments.ogpsa_rank} asks for more directions than ogpsa_reference_samples: "
            f"{arguments.ogpsa_reference_samples} has rows. Lower the one or raise the other."
        )
    directions = arguments.ogpsa_rank * len(arguments.reference_names)
    if directions > MAX_DIRECTIONS:
        raise OGPSAError(
            f"ogpsa_rank: {arguments.ogpsa_rank} times {len(arguments.reference_names)} reference sets is "
            f"{directions} directions; at most {MAX_DIRECTIONS} are possible. Lower ogpsa_rank."
        )
    if arguments.ogpsa_refresh == "fixed" and arguments.ogpsa_refresh_threshold != DEFAULT_REFRESH_THRESHOLD:
        raise OGPSAError(
            f"ogpsa_refresh_threshold: {arguments.ogpsa_refresh_threshold} acts in ogpsa_refresh: adaptive only. "
            "Remove it or set ogpsa_refresh: adaptive."
        )
    if arguments.ogpsa_aligned_scale != 1.0 and arguments.ogpsa_mode != "conflict":
        raise OGPSAError(
            f"ogpsa_aligned_scale: {arguments.ogpsa_aligned_scale} acts in ogpsa_mode: conflict only, and it is "
            f"{arguments.ogpsa_mode}. Remove it or change the mode."
        )
    if arguments.ogpsa_project != "gradient":
        _validate_step(arguments)
    elif arguments.ogpsa_project_momentum != "never":
        raise OGPSAError(
            f"ogpsa_project_momentum: {arguments.ogpsa_project_momentum} belongs to ogpsa_project: update or "
            "preconditioned, and it is gradient. Remove it or change ogpsa_project."
        )
    if arguments.ogpsa_mode == "conflict" and arguments.ogpsa_energy < 1.0:
        raise OGPSAError(
            "ogpsa_mode: conflict promises that no reference loss rises, ogpsa_energy below 1 drops directions: "
            "the two contradict each other. Set ogpsa_energy: 1.0 or ogpsa_mode: orthogonal."
        )


def _validate_step(arguments: OGPSAArguments) -> None:
    """Refuse what has no meaning for a step, which can be moved along the subspace but not be scaled."""
    if arguments.ogpsa_mode == "plane":
        raise OGPSAError(
            f"ogpsa_mode: plane is an ablation of gradients, and ogpsa_project is {arguments.ogpsa_project}. Use "
            "ogpsa_project: gradient, or ogpsa_mode: orthogonal or conflict."
        )
    if arguments.ogpsa_aligned_scale != 1.0:
        raise OGPSAError(
            f"ogpsa_aligned_scale: {arguments.ogpsa_aligned_scale} scales gradients, and ogpsa_project is "
            f"{arguments.ogpsa_project}. Remove it, or use ogpsa_project: gradient."
        )


def _convert(arguments: OGPSAArguments, name: str, kind: type[int] | type[float]) -> None:
    """Turn what YAML and JSON make of a number ("1e-4" is a text there) into one."""
    value = getattr(arguments, name)
    if value is None and type(arguments).__dataclass_fields__[name].default is None:
        return
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    fits = math.isfinite(number) and (kind is float or number.is_integer())
    _require(arguments, name, fits, "a whole number" if kind is int else "a number")
    setattr(arguments, name, kind(number))


def _require(arguments: OGPSAArguments, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise OGPSAError(f"{name}: {getattr(arguments, name)} is not possible; it must be {expected}.")
