"""`ogpsa data build | add | check | select`. Heavy imports stay inside the handlers, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
from pathlib import Path

from .build_command import register_build
from .check_command import register_check
from .select_command import register_select


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` and its commands to a command line; each sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    data = subparsers.add_parser("data", help="training data: the paper's from public sources, or your own")
    commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    register_build(commands)
    register_add(commands)
    register_check(commands)
    register_select(commands)


def register_add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `add`.

    Args:
        commands: of `ogpsa data`.
    """
    add = commands.add_parser("add", help="register your own file; its layout is found by itself")
    add.add_argument("file", type=Path, metavar="FILE", help="JSON, JSON Lines, CSV, Parquet or plain text")
    add.add_argument(
        "--role",
        required=True,
        choices=("safety", "reference", "general"),
        help="safety: what the model is to learn; reference: what it must not forget; general: mixed into training",
    )
    add.add_argument("--name", help="for dataset_info.json (the file's name without suffix)")
    add.add_argument(
        "--dataset-dir", type=Path, default=Path("data"), help="LLaMA-Factory's dataset_dir (%(default)s)"
    )
    add.add_argument("--replace", action="store_true", help="replace an entry and a file of that name")
    add.set_defaults(handler=run_add)


def run_add(args: argparse.Namespace) -> int:
    """Register a file and say what was found in it and how to use it.

    Args:
        args: `file`, `role`, `name`, `dataset_dir` and `replace`.

    Returns:
        0.

    Raises:
        OGPSAError: the file cannot be registered; nothing has changed then.
    """
    from rich.console import Console

    from .add import add_file

    added = add_file(args.file, args.dataset_dir, args.role, args.name, replace=args.replace)
    layout = added.layout
    columns = ", ".join(f"{name}: {column}" for name, column in layout.columns.items())
    kind = "pairs" if layout.ranking else "labelled answers" if "kto_tag" in layout.columns else "answers"
    if layout.formatting == "alpaca" and not layout.ranking and "response" not in layout.columns:
        kind = "plain text"
    stage = {"pairs": "dpo", "labelled answers": "kto", "plain text": "pt"}.get(kind, "sft")
    key = "ogpsa_reference_dataset" if added.role == "reference" else "dataset"
    usage = {"safety": f"stage: ogpsa_{stage}", "general": "beside your safety set, separated by a comma"}
    lines = [
        f"{added.name}: {added.rows:,} rows of {kind} ({columns}) in {added.path}",
        *([f"  columns that training does not read: {', '.join(added.unused)}"] if added.unused else []),
        *(f"  note: {remark}" for remark in added.remarks),
        f"In your YAML file: {key}: {added.name}" + (f"  ({usage[added.role]})" if added.role in usage else ""),
        f"On the command line: llamafactory-cli train your.yaml {key}={added.name}",
    ]
    Console().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return 0
