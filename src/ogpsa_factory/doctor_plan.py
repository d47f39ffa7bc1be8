"""`ogpsa doctor --plan MODEL`: whether a run fits, engine by engine, before machines are rented."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .errors import OGPSAError


if TYPE_CHECKING:
    from .footprint import Footprint, Memory
    from .footprint.model import Parameters
    from .footprint.settings import Settings


NOT_COUNTED = (
    "Not counted: activations and logits, layers that are gathered for a moment, communication buffers (with DDP as "
    "many bytes as the gradients), what CUDA and the libraries take for themselves."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--plan` and what belongs to it.

    Args:
        parser: of `ogpsa doctor`.
    """
    parser.add_argument(
        "--plan",
        metavar="MODEL",
        help="predict what training and OGPSA take per GPU, from a model's folder or config.json, a name on the hub, "
        "or a LLaMA-Factory training file (its settings are then the defaults below)",
    )
    options = parser.add_argument_group("options of --plan")
    options.add_argument("--world-size", type=int, metavar="N", help="number of GPUs (8)")
    options.add_argument("--references", type=int, metavar="M", help="number of reference sets (2)")
    options.add_argument("--rank", type=int, metavar="R", help="directions per reference set (1)")
    options.add_argument("--project", choices=("gradient", "update", "preconditioned"), help="see ogpsa_project")
    options.add_argument("--subspace-dtype", choices=("auto", "float32", "bfloat16"), help="see ogpsa_subspace_dtype")
    options.add_argument("--offload", action="store_true", default=None, help="see ogpsa_offload")
    options.add_argument("--lora-rank", type=int, metavar="R", help="train LoRA adapters of this rank")
    options.add_argument("--lora-target", metavar="NAMES", help="modules with adapters, by commas (all)")
    options.add_argument("--engine", metavar="NAME", help="one engine only, e.g. zero3 or fsdp2-offload")
    options.add_argument("--memory", type=float, metavar="GB", help="memory of a GPU: say what fits")


def run(args: argparse.Namespace) -> int:
    """Print the plan.

    Args:
        args: the options of :func:`add_options`, and `json`.

    Returns:
        0.

    Raises:
        OGPSAError: the model cannot be read, or an option is not possible.
    """
    from .footprint.memory import check
    from .footprint.settings import read_settings

    if args.plan is None:
        given = [name for name in _OPTIONS if getattr(args, name) is not None]
        raise OGPSAError(f"--{given[0].replace('_', '-')} belongs to --plan MODEL. Add --plan and a model.")
    ranks = 8 if args.world_size is None else args.world_size
    settings = _override(read_settings(args.plan), args)
    directions = settings.references * settings.rank
    check(args.engine or settings.engine or "ddp", ranks, directions)  # before the model is built, which takes seconds

    from transformers.utils import logging

    from .footprint import ENGINES
    from .footprint.model import read_parameters
    from .footprint.run import predict_run

    logging.set_verbosity_error()
    parameters = read_parameters(settings.model, settings.tuning, settings.trust_remote_code)
    predictions = [
        predict_run(settings, parameters, name, ranks) for name in ([args.engine] if args.engine else list(ENGINES))
    ]
    if args.json:
        print(json.dumps(_as_json(settings, parameters, predictions, ranks, args.memory), indent=2))
    else:
        _print_table(settings, parameters, predictions, ranks, args.memory)
    return 0


_OPTIONS = ("world_size references rank project subspace_dtype offload lora_rank lora_target engine memory").split()


def asked(args: argparse.Namespace) -> bool:
    """Whether the command line has `--plan`, or an option that needs it."""
    return any(getattr(args, name, None) is not None for name in ("plan", *_OPTIONS))


def _override(settings: Settings, args: argparse.Namespace) -> Settings:
    """Let options of the command line take precedence over a file's."""
    for name in ("references", "rank", "project", "subspace_dtype", "offload"):
        if getattr(args, name) is not None:
            setattr(settings, name, getattr(args, name))
    if args.lora_rank is not None or args.lora_target is not None:
        settings.tuning.method = "lora"
        settings.reference_model = False
    if args.lora_rank is not None:
        settings.tuning.rank = args.lora_rank
    if args.lora_target is not None:
        settings.tuning.targets = [name.strip() for name in args.lora_target.split(",") if name.strip()]
    return settings


def _as_json(
    settings: Settings, parameters: Parameters, predictions: list[Footprint], ranks: int, memory: float | None
) -> dict[str, Any]:
    def place(each: Memory) -> dict[str, int]:
        totals = {"training": each.training, "steady": each.steady, "refresh": each.refresh, "peak": each.peak}
        return {**asdict(each), **totals}

    trained, total = _counts(parameters)
    engines = {
        each.engine: {
            "elements": each.elements,
            "subspace_dtype": each.subspace_dtype,
            "device": place(each.device),
            "host": place(each.host),
            "traffic": each.traffic,
            **({} if memory is None else {"fits": each.device.peak <= memory * 1e9}),
        }
        for each in predictions
    }
    return {
        "model": parameters.kind,
        "parameters": total,
        "trained": trained,
        "world_size": ranks,
        "directions": settings.references * settings.rank,
        "settings": asdict(settings),
        "engines": engines,
        "remarks": [*parameters.remarks, *settings.remarks, NOT_COUNTED],
    }


def _counts(parameters: Parameters) -> tuple[int, int]:
    """Number of trained parameters, and of all."""
    import math

    trained = sum(map(math.prod, parameters.trained))
    return trained, trained + sum(map(math.prod, parameters.frozen))


def _print_table(
    settings: Settings, parameters: Parameters, predictions: list[Footprint], ranks: int, memory: float | None
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    from .footprint import ENGINES

    trained, total = _counts(parameters)
    directions = settings.references * settings.rank
    console = Console(highlight=False, markup=False)
    console.print(
        f"{parameters.kind}: {total:,} parameters, {trained:,} of them trained ({settings.tuning.method}, "
        f"{settings.precision} precision), on {ranks} rank{'s' if ranks > 1 else ''}; subspace of k = {directions} "
        f"(reference sets: {settings.references}, rank: {settings.rank})."
    )
    numbers = [Column(name, justify="right") for name in ("training", "OGPSA", "refresh", "logged", "sent")]
    fits = [] if memory is None else [f"fits in {memory:g}"]
    columns: list[Column | str] = [Column("engine", no_wrap=True), "basis", *numbers, *fits]
    table = Table(*columns, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for each in predictions:
        mark = " ←" if each.engine == settings.engine else ""
        row = [
            each.engine + mark,
            each.subspace_dtype.replace("float", "fp").replace("bfp", "bf"),
            _pair(each.device.training, each.host.training),
            _pair(each.device.steady, each.host.steady),
            _pair(each.device.refresh, each.host.refresh),
            _pair(each.device.copy, each.host.copy),
            f"{each.traffic:,}",
        ]
        verdict = [] if memory is None else ["yes" if each.device.peak <= memory * 1e9 else "no"]
        table.add_row(*row, *verdict)
    console.print(table)
    lines = [
        "In GB (10^9 bytes) per rank, H: in host memory. OGPSA comes on top of training; refresh: its peak, while the "
        "subspace is refreshed; logged: a copy of the weights in the steps that are logged; sent: bytes that the "
        f"projection sends per optimizer step (ogpsa_project: {settings.project}).",
        f"←: what the training file asks for ({ENGINES[settings.engine].label})." if settings.engine else "",
        *parameters.remarks,
        *settings.remarks,
        "The reference model of this stage is counted with training." if settings.reference_model else "",
        NOT_COUNTED,
    ]
    for line in filter(None, lines):
        console.print(line)


def _pair(device: int, host: int) -> str:
    """Gigabytes on the device and, marked, on the host."""
    parts = [f"{device / 1e9:.2f}"] if device or not host else []
    return " + ".join([*parts, f"{host / 1e9:.2f} H"] if host else parts)
