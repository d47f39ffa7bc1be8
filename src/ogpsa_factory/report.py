"""What a run leaves behind: ``ogpsa_report.json``, a section in the model card, and the curves as a picture."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import __version__
from .arguments import OGPSAArguments
from .files import write_text
from .reference import ReferenceSet


REPORT = "ogpsa_report.json"
PICTURE = "ogpsa_curves.png"
_HEADING = "## Orthogonal gradient projection (OGPSA)"
_PACKAGES = ("llamafactory", "torch", "transformers", "accelerate", "datasets", "peft", "deepspeed")


def write_report(
    folder: Path,
    arguments: OGPSAArguments,
    references: Sequence[ReferenceSet],
    history: Sequence[Mapping[str, Any]],
    run_arguments: Mapping[str, Any],
) -> Path:
    """Write ``ogpsa_report.json``.

    Args:
        folder: the run's output folder.
        arguments: OGPSA's arguments.
        references: the reference sets.
        history: the Trainer's log history.
        run_arguments: every other argument of the run, by group.

    Returns:
        The file's path.
    """
    content = {
        "versions": {"ogpsa_factory": __version__, **{name: _version(name) for name in _PACKAGES}},
        "arguments": arguments.ogpsa_settings(),
        "reference_sets": [describe(r) for r in references],
        "summary": summarise(history),
        "history": [
            {key: value for key, value in entry.items() if key == "step" or key.startswith("ogpsa/")}
            for entry in history
            if any(key.startswith("ogpsa/") for key in entry)
        ],
        "run_arguments": run_arguments,
    }
    path = folder / REPORT
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")
    return path


def summarise(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Refreshes, rejected ones, their seconds, and the mean removed ratio (None before the first log entry)."""
    refreshes = [entry for entry in history if "ogpsa/refresh_seconds" in entry]
    ratios = [entry["ogpsa/removed_ratio"] for entry in history if "ogpsa/removed_ratio" in entry]
    return {
        "refreshes": len(refreshes),
        "refreshes_rejected": sum(entry["ogpsa/refresh_accepted"] == 0 for entry in refreshes),
        "refresh_seconds": sum(entry["ogpsa/refresh_seconds"] for entry in refreshes),
        "mean_removed_ratio": sum(ratios) / len(ratios) if ratios else None,
    }


def describe(reference: ReferenceSet) -> dict[str, Any]:
    """What identifies a reference set: name, size and fingerprint of the tokenised rows in use."""
    return {
        "name": reference.name,
        "rows": sum(len(chunk) for chunk in reference.chunks),
        "label_tokens": reference.label_tokens,
        "directions": len(reference.chunks),
        "fingerprint": reference.fingerprint,
    }


def extend_model_card(folder: Path, arguments: OGPSAArguments, references: Sequence[ReferenceSet]) -> None:
    """Append the section on OGPSA to the model card, unless it is there or there is no card.

    Args:
        folder: the run's output folder.
        arguments: OGPSA's arguments.
        references: the reference sets.
    """
    card = folder / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    if _HEADING in text:
        return
    rows = [describe(r) for r in references]
    lines = [
        "",
        _HEADING,
        "",
        f"Trained with ogpsa_factory {__version__} (arXiv 2602.07892). {_what_was_done(arguments)}",
        "",
        "| reference set | rows | label tokens | directions | fingerprint |",
        "| --- | --- | --- | --- | --- |",
        *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows),
        "",
        *(f"- {name}: {value}" for name, value in arguments.ogpsa_settings().items()),
        "",
    ]
    write_text(card, text.rstrip("\n") + "\n" + "\n".join(lines))


def _what_was_done(arguments: OGPSAArguments) -> str:
    if arguments.ogpsa_monitor_only:
        return "The overlap with these reference sets' gradients was watched; the updates are those of plain training."
    what = "gradient" if arguments.ogpsa_project == "gradient" else "step of the optimizer"
    if arguments.ogpsa_mode == "plane":
        return "Of each gradient, only the part that lies in the span of these reference sets' gradients was kept."
    if arguments.ogpsa_mode == "conflict":
        return f"From each {what}, what would raise the loss on one of these reference sets was removed."
    if arguments.ogpsa_project == "preconditioned":
        return f"From each {what}, the part in the span of these reference sets' gradients was removed in its metric."
    return f"From each {what}, the part that lies in the span of these reference sets' gradients was removed."


def plot_curves(folder: Path, history: Sequence[Mapping[str, Any]]) -> Path | None:
    """Draw removed ratio, cosines, leaks and reference losses over the optimizer steps.

    Args:
        folder: the run's output folder.
        history: the Trainer's log history.

    Returns:
        The picture's path, or None if the history has nothing to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = [
        ("norm removed / norm before", {"ogpsa/removed_ratio": ("removed", "-")}),
        (
            "cosine with the reference gradient",
            {
                **{key: (_set(key), "-") for key in _keys(history, "ogpsa/cos/")},
                **{key: (f"{_set(key)}, after", "--") for key in _keys(history, "ogpsa/cos_after/")},
            },
        ),
        (
            "leak: cosine of the step with the reference gradient",
            {key: (_set(key), "-") for key in _keys(history, "ogpsa/leak/")},
        ),
        (
            "reference loss",
            {key: (_set(key), "-") for key in _keys(history, "ogpsa/reference_loss/")},
        ),
    ]
    logged = {key for entry in history for key in entry}
    panels = [(label, {key: curves[key] for key in curves if key in logged}) for label, curves in panels]
    panels = [(label, curves) for label, curves in panels if curves]
    if not panels:
        return None
    figure = Figure(figsize=(5 * len(panels), 4.2), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        colours: dict[str, str] = {}
        for key, (name, style) in curves.items():
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            colour = colours.setdefault(_set(key), f"C{len(colours)}")
            axes.plot(*zip(*points, strict=True), style, marker=".", markersize=4, color=colour, label=name)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(curves) > 1:  # above the axes, where no curve can run through it
            axes.legend(fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    path = folder / PICTURE
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=120)
    os.replace(partial, path)
    return path


def _keys(history: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for entry in history for key in entry if key.startswith(prefix)))


def _set(key: str) -> str:
    return key.split("/", 2)[-1]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
