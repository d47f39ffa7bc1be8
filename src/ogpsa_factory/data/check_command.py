"""`ogpsa data check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console

    from .check import Report
    from .targets import Target


def register_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check`.

    Args:
        commands: of `ogpsa data`.
    """
    check = commands.add_parser("check", help="look at every row of the sets that a training file names")
    check.add_argument(
        "targets",
        nargs="*",
        metavar="FILE.yaml|NAME|KEY=VALUE",
        help="training or pipeline files (KEY=VALUE behind them changes them), or names in dataset_info.json (all)",
    )
    folder = "data folder of names, and of files that do not say (%(default)s)"
    check.add_argument("--dataset-dir", type=Path, default=Path("data"), help=folder)
    check.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="FILE[:COLUMN]",
        help="prompts of an evaluation benchmark that no set may overlap with; repeatable",
    )
    check.add_argument("--model", help="whose tokenizer counts tokens (the training file's model_name_or_path)")
    check.add_argument("--template", help="LLaMA-Factory's template (the training file's)")
    check.add_argument("--cutoff-len", type=int, help="tokens that training keeps of a row (the training file's)")
    check.add_argument("--fix", action="store_true", help="mend entries and encodings, nothing else; backups are kept")
    check.add_argument("--allow-outside", action="store_true", help="read files that lie outside of the data folder")
    check.add_argument("--strict", action="store_true", help="exit with 1 after warnings, too")
    check.set_defaults(handler=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Check data sets and print what was found.

    Args:
        args: of the command line.

    Returns:
        0, or 1 after errors (with `strict` after warnings, too).

    Raises:
        OGPSAError: a file with arguments, a registry or a benchmark cannot be read.
    """
    from rich.console import Console

    from .check import check_target
    from .findings import ERROR, WARNING
    from .targets import DEFAULT_CUTOFF

    console = Console()
    targets = _targets(args)
    if args.fix:
        _fix(targets, console)
    failed = False
    for target in targets:
        target.model, target.template = args.model or target.model, args.template or target.template
        if args.cutoff_len is not None:
            target.cutoff_len = args.cutoff_len
        elif args.model or args.template:  # to count tokens is what they are for
            target.cutoff_len = target.cutoff_len or DEFAULT_CUTOFF
        with console.status(f"reading the sets of {target.where}"):
            report = check_target(target, args.benchmark, outside=args.allow_outside)
        _show(report, console)
        failed |= bool(report.count(ERROR) or (args.strict and report.count(WARNING)))
    return 1 if failed else 0


def _targets(args: argparse.Namespace) -> list[Target]:
    from ..errors import OGPSAError
    from .registry import INFO_FILE, ROLE_KEY, Registry
    from .targets import REFERENCE, TRAINING, Target, Use, is_training_file, read_targets

    if args.cutoff_len is not None and args.cutoff_len < 1:
        raise OGPSAError(f"--cutoff-len {args.cutoff_len} must be 1 token or more.")
    overrides = [word for word in args.targets if "=" in word]
    words = [word for word in args.targets if "=" not in word]
    files = [Path(word) for word in words if is_training_file(word) and Path(word).name != INFO_FILE]
    names = [word for word in words if not is_training_file(word)]
    folders = [Path(word).parent for word in words if Path(word).name == INFO_FILE]
    if overrides and not files:
        raise OGPSAError(f"{' '.join(overrides)} changes a training file, and none is named.")
    targets = [target for path in files for target in read_targets(path, overrides)]
    for folder in folders or ([args.dataset_dir] if names or not files else []):
        registry = Registry(folder)
        entries = {name: registry.entry(name) for name in names} or registry.entries
        if not entries:
            raise OGPSAError(f"{registry.path} has no entries, so there is nothing to check: name a training file.")
        uses = [
            Use(name, REFERENCE if entry.get(ROLE_KEY) == "reference" else TRAINING) for name, entry in entries.items()
        ]
        targets.append(Target(str(registry.path), folder, uses))
    return targets


def _fix(targets: list[Target], console: Console) -> None:
    from ..errors import OGPSAError
    from .fix import fix_set
    from .registry import Registry

    for folder, name in dict.fromkeys((target.dataset_dir, use.name) for target in targets for use in target.uses):
        try:
            done = fix_set(Registry(folder), name)
        except OGPSAError as error:
            done = [f"not mended: {error}"]
        for what in done:
            console.print(f"{name}: {what}", highlight=False, markup=False, soft_wrap=True)


def _show(report: Report, console: Console) -> None:
    from .findings import ERROR, NOTE, WARNING

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    say(report.where, "bold")
    for found in report.sets:
        stage = f", stage {found.use.stage}" if found.use.stage else ""
        longest = f", longest {found.longest:,} tokens" if found.longest is not None else ""
        state = "" if len(found.findings) else ": in order"
        say(f"  {found.use.name} ({found.use.role}{stage}): {found.rows:,} rows{longest}{state}")
        for finding in found.findings:
            say(f"    {finding.level}: {finding}", {ERROR: "red", WARNING: "yellow"}.get(finding.level, ""))
    for note in report.notes:
        say(f"  {NOTE}: {note}")
    say(f"  kinds of errors: {report.count(ERROR)}, of warnings: {report.count(WARNING)}")
