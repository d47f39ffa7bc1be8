"""The flags of the authors' released code, in terms of ours: ``stage: sft_pg | dpo_pg`` and ``base_*``.

That code computes each reference gradient as a mean of per-batch means over the first rows of a set, normalises it
tensor by tensor, and projects every parameter tensor by itself. Every flag of it has an equivalent here, so its
command lines run unchanged, and ``ogpsa translate`` prints the equivalent new file. Knows nothing of LLaMA-Factory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import OGPSAError


STAGES = {"sft_pg": "sft", "dpo_pg": "dpo"}
METHODS = ("orthogonal_projection", "threshold", "plane_projection", "both")
ONCE = 1_000_000_000  # a refresh period beyond the last step

# That code drops the second of two unit-normalised references where less than 1e-6 of it is perpendicular to the
# first; the ratio of the singular values of such a pair is half of that.
COLLINEAR = 5e-7


@dataclass
class ReleasedArguments:
    """Arguments of the authors' released code; None where a flag was not given."""

    base_dataset: str | None = field(
        default=None,
        metadata={"help": "Released code's name of `ogpsa_reference_dataset` (with stage sft_pg, dpo_pg)."},
    )
    base_num_samples: int | None = field(
        default=None, metadata={"help": "Released code's name of `ogpsa_reference_samples`; takes the first rows."}
    )
    base_num_steps: int | None = field(
        default=None, metadata={"help": "Released code's name of `ogpsa_refresh_steps`; without it, one refresh."}
    )
    base_method: str | None = field(
        default=None,
        metadata={"help": "Released code: orthogonal_projection (its default), threshold, plane_projection or both."},
    )
    base_threshold: float | None = field(
        default=None, metadata={"help": "Released code: has no effect there or here."}
    )
    base_scale: float | None = field(
        default=None, metadata={"help": "Released code's name of `ogpsa_aligned_scale`, for base_method: threshold."}
    )


FLAGS = tuple(ReleasedArguments.__dataclass_fields__)


def translate(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Replace the released code's flags by ours.

    Args:
        config: arguments of a run, by name.

    Returns:
        The arguments with the flags replaced, in the same order, and sentences about flags without effect and about
        what differs from that code. A configuration without such flags comes back as it is.

    Raises:
        OGPSAError: for a value that the released code does not have either, or for flags of both kinds at once; the
            latter shows the translation.
    """
    old = {name: config[name] for name in FLAGS if config.get(name) is not None}
    stage = config.get("stage")
    if stage not in STAGES:
        notes = [f"{name} is ignored: it acts with stage: sft_pg or dpo_pg only." for name in old]
        if old and _new_names(config):
            raise _mixed(old, _translate_flags(str(stage).removeprefix("ogpsa_"), old)[0], stage)
        return {name: value for name, value in config.items() if name not in old}, notes

    new, notes = _translate_flags(STAGES[stage], old)
    if _new_names(config):
        raise _mixed(old, {"stage": f"ogpsa_{STAGES[stage]}", **new}, stage)
    ours: dict[str, Any] = {}
    for name, value in config.items():
        if name == "stage":
            ours["stage"] = f"ogpsa_{STAGES[stage]}" if new else STAGES[stage]
            ours.update(new)
        elif name not in FLAGS:
            ours[name] = value
    return ours, notes


def _new_names(config: Mapping[str, Any]) -> list[str]:
    return [name for name in config if name == "use_ogpsa" or name.startswith("ogpsa_")]


def _mixed(old: Mapping[str, Any], new: Mapping[str, Any], stage: Any) -> OGPSAError:
    given = ", ".join([*([f"stage: {stage}"] if stage in STAGES else []), *old])
    lines = "".join(f"\n  {name}: {value}" for name, value in new.items())
    return OGPSAError(
        f"The released code's flags ({given}) and ogpsa_ arguments cannot be mixed. Remove the old ones; "
        f"they mean:{lines}"
    )


def _translate_flags(stage: str, old: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    given = old.get("base_dataset", "")  # a YAML list is as good as commas
    words = given.split(",") if isinstance(given, str) else given
    names = [str(word).strip() for word in words if str(word).strip()]
    notes = ["base_threshold has no effect, in the released code and here."] if "base_threshold" in old else []
    if not names:
        idle = [name for name in old if name not in ("base_dataset", "base_threshold")]
        notes.append(f"There is no base_dataset, so this is a plain run (stage: {stage})." + _ignored(idle))
        return {}, notes
    if len(names) > 2:
        notes.append(
            f"The released code would use {names[0]} and {names[1]} only; here all {len(names)} sets are used."
        )
    method = old.get("base_method", METHODS[0])
    if method not in METHODS:
        raise OGPSAError(f"base_method: {method} is not possible; it must be one of {', '.join(METHODS)}.")

    new: dict[str, Any] = {"ogpsa_reference_dataset": ",".join(names)}
    if "base_num_samples" in old:
        new["ogpsa_reference_samples"] = old["base_num_samples"]
    new["ogpsa_reference_selection"] = "first"
    new["ogpsa_reference_average"] = "batch"
    if stage == "dpo":
        new["ogpsa_reference_loss"] = "lm_both"
    steps = old.get("base_num_steps")
    new["ogpsa_refresh_steps"] = steps if _is_positive(steps) else ONCE
    new["ogpsa_granularity"] = "parameter"
    new["ogpsa_tolerance"] = COLLINEAR
    mode, more = _translate_method(stage, method, len(names), old)
    return {**new, **mode}, notes + more


def _translate_method(stage: str, method: str, sets: int, old: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The mode, as the released code has it: some methods do nothing there with one set, or with several."""
    try:
        scale = float(old.get("base_scale", 1.0))
    except (TypeError, ValueError):
        raise OGPSAError(f"base_scale: {old['base_scale']} is not possible; it must be a number.") from None
    notes = []
    if method == "threshold" and sets == 1:
        notes.append(
            "base_method: threshold is decided on the accumulated gradient, once per optimizer step; the released "
            "code decides for every micro-batch and rank. The two agree with one rank and no accumulation."
        )
        return {"ogpsa_mode": "conflict", **({} if scale == 1.0 else {"ogpsa_aligned_scale": scale})}, notes
    if "base_scale" in old:
        notes.append("base_scale is ignored: it acts with base_method: threshold and one set only.")
    if method == "threshold" and stage == "sft":
        notes.append(
            "base_method: threshold with several sets is orthogonal_projection, as in the released code's SFT."
        )
        method = "orthogonal_projection"
    if method == "plane_projection" and sets > 1:
        return {"ogpsa_mode": "plane"}, notes
    if method == "orthogonal_projection":
        return {"ogpsa_mode": "orthogonal"}, notes
    notes.append(
        f"base_method: {method} with {sets} set{'s' if sets > 1 else ''} changes no gradient in the released code's "
        f"{stage.upper()}, and so not here: this run only watches."
    )
    return {"ogpsa_monitor_only": True}, notes


def _is_positive(steps: Any) -> bool:
    try:
        return steps is not None and float(steps) > 0
    except (TypeError, ValueError):
        return True  # left for the check of ogpsa_refresh_steps, which names what is wrong


def _ignored(names: list[str]) -> str:
    return f" Ignored: {', '.join(names)}." if names else ""
