"""`ogpsa doctor`: what is installed, what is hooked in, what works here, and what is wrong, in words.

The tried version ranges are read from the package's own metadata, so that pyproject.toml is the one place for them.
"""

import argparse
import contextlib
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from . import _startup, doctor_plan


DISTRIBUTION = "ogpsa_factory"
REQUIRED = (
    "llamafactory torch torchvision torchaudio transformers accelerate datasets peft trl numpy scipy safetensors"
).split()
OPTIONAL = ("deepspeed", "lm_eval", "ray", "liger_kernel")

# These have to come from one release, so the command that mends one of them names all three.
TORCH_FAMILY = ("torch", "torchvision", "torchaudio")

# There once the kernel has loaded the NVIDIA driver.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass
class Version:
    """One line of the version table; `inside` is None where there is nothing to compare."""

    name: str
    installed: str | None
    tried: str
    inside: bool | None


@dataclass
class Examination:
    """All that `ogpsa doctor` finds out; `problems` is empty when all is well."""

    versions: list[Version] = field(default_factory=list)
    hook: dict[str, Any] = field(default_factory=dict)
    patched: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def register(subparsers: Any) -> None:
    """Add `ogpsa doctor` to the command line.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser("doctor", help="say what is installed, what is hooked in, and what is wrong")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    doctor_plan.add_options(parser)
    parser.set_defaults(handler=lambda args: doctor_plan.run(args) if doctor_plan.asked(args) else run(args))


def run(args: argparse.Namespace) -> int:
    """Examine this environment and print the result; exit code 0 if all is well, else 1."""
    found = examine()
    if args.json:
        print(json.dumps({"ok": not found.problems, **asdict(found)}, indent=2))
    else:
        _print_tables(found)
    return 1 if found.problems else 0


def examine() -> Examination:
    """Examine versions, hook, imports, patches, devices and engines, in this order."""
    found = Examination()
    ranges = _tried_ranges(found)
    _examine_versions(found, ranges)
    _examine_hook(found)
    # LLaMA-Factory logs to standard output, which `--json` keeps for itself.
    with contextlib.redirect_stdout(sys.stderr):
        complete = all(version.installed for version in found.versions if version.name in REQUIRED)
        if complete and all(_examine_import(found, ranges, name) for name in TORCH_FAMILY):
            _examine_devices(found)
            _examine_patches(found, ranges)
    return found


def _tried_ranges(found: Examination) -> dict[str, str]:
    """Read the ranges, lower bound first, from the metadata of this package; extras included."""
    from packaging.requirements import Requirement

    try:
        own = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        found.problems.append(
            "ogpsa_factory is imported from a folder but is not installed, so nothing hooks it into LLaMA-Factory. "
            "Run `pip install -e .` in its repository."
        )
        return {}

    ranges = {}
    for line in [f"python{own['Requires-Python']}", *(own.get_all("Requires-Dist") or [])]:
        requirement = Requirement(line)
        ranges[requirement.name.replace("-", "_")] = ",".join(sorted(map(str, requirement.specifier), reverse=True))
    return ranges


def _examine_versions(found: Examination, ranges: dict[str, str]) -> None:
    names = ("python", DISTRIBUTION, *REQUIRED, *OPTIONAL)
    found.versions = [_compare(name, _installed(name), ranges.get(name, "")) for name in names]
    for version in found.versions:
        if version.inside is False:
            fault = f"{version.name} {version.installed} is outside the range that was tried ({version.tried})"
        elif version.installed is None and version.name in REQUIRED:
            fault = f"{version.name} is not installed"
        else:
            continue
        found.problems.append(f"{fault}. {_mend(version.name, ranges)}")


def _installed(name: str) -> str | None:
    try:
        return platform.python_version() if name == "python" else metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _compare(name: str, installed: str | None, tried: str) -> Version:
    from packaging.specifiers import SpecifierSet

    inside = SpecifierSet(tried).contains(installed, prereleases=True) if installed and tried else None
    return Version(name, installed, tried, inside)


def _mend(name: str, ranges: dict[str, str]) -> str:
    """Say what installs a tried version of a package."""
    if name == "python":
        return "Make a virtual environment with a Python inside it."
    names = TORCH_FAMILY if name in TORCH_FAMILY else (name,)
    return "Run `pip install " + " ".join(f"'{each}{ranges.get(each, '')}'" for each in names) + "`."


def _examine_hook(found: Examination) -> None:
    files = [Path(folder, "ogpsa_factory.pth") for folder in sys.path]
    installed = next((str(file) for file in files if file.is_file()), None)
    found.hook = {"pth": installed, "disabled": _startup.is_disabled(), "active": _startup.is_active()}
    if _startup.is_disabled():
        found.problems.append(
            f"The environment variable OGPSA_DISABLE is {os.environ['OGPSA_DISABLE']!r}, so training runs without "
            "OGPSA. Run `unset OGPSA_DISABLE`."
        )
    elif installed is None:
        found.problems.append(
            "ogpsa_factory.pth is in no folder of sys.path, so new processes do not know of OGPSA. "
            "Install the package anew with `pip install --force-reinstall --no-deps` and where it came from."
        )
    elif not _startup.is_active():
        found.problems.append(
            f"{installed} was not run when this Python started: Python reads .pth files in site-packages only, and "
            "not with -S. Install ogpsa_factory into the environment itself, or call ogpsa_factory.install()."
        )


def _examine_import(found: Examination, ranges: dict[str, str], name: str) -> bool:
    """Import a module of the torch family; what a mismatch of CUDA versions raises is not always an ImportError."""
    try:
        importlib.import_module(name)
    except Exception as reason:
        family = ", ".join(f"{each} {_installed(each)}" for each in TORCH_FAMILY)
        found.problems.append(
            f"`import {name}` fails ({_in_one_line(reason)}), and LLaMA-Factory imports it. Most often {family} are "
            f"not from one release, or not built for the same CUDA. {_mend(name, ranges)}"
        )
        return False
    return True


def _examine_devices(found: Examination) -> None:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found.devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count)] or ["CPU only"]
    if not count and NVIDIA_DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        found.problems.append(
            f"This machine has an NVIDIA driver, but torch {torch.__version__} (built for CUDA {torch.version.cuda}) "
            "sees no device. Compare with the CUDA version that `nvidia-smi` shows: update the driver if it is the "
            "older one, or install a build of the same torch version for that CUDA."
        )


def _examine_patches(found: Examination, ranges: dict[str, str]) -> None:
    """Import LLaMA-Factory, which the hook patches on the way, and see what came of it."""
    from .engines import SUPPORT
    from .llamafactory import compat

    found.engines = dict(SUPPORT)
    try:
        missing = compat.missing()
    except Exception as reason:  # the libraries below LLaMA-Factory raise what they like
        missing = [f"LLaMA-Factory cannot be imported ({_in_one_line(reason)})."]
    found.problems += [f"{sentence} {_mend('llamafactory', ranges)}" for sentence in missing]

    found.patched = _startup.patched()
    for problem in _startup.problems:
        if not any(sentence in problem for sentence in missing):
            found.problems.append(f"{problem}. Install ogpsa_factory anew; if that does not help, report this line.")

    skipped = [name for name in _startup.WATCHED if name in sys.modules and name not in found.patched]
    if skipped and found.hook["active"] and not _startup.problems:
        found.problems.append(
            f"{' and '.join(skipped)} went past the hook of ogpsa_factory, through another import hook. "
            "Call ogpsa_factory.install() before training."
        )


def _in_one_line(reason: Exception) -> str:
    return f"{type(reason).__name__}: {' '.join(str(reason).split())}"


def _print_tables(found: Examination) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console = Console(highlight=False)
    versions = Table("package", "installed", "tried", "", title="Versions", title_justify="left")
    verdicts = {True: "[green]tried[/]", False: "[red]outside[/]", None: ""}
    for version in found.versions:
        versions.add_row(version.name, version.installed or "-", version.tried or "-", verdicts[version.inside])

    state = Table("", Column(overflow="fold"), show_header=False, title="State", title_justify="left")
    state.add_row("hook", "active" if found.hook["active"] else "[red]not active[/]")
    state.add_row("start-up file", escape(found.hook["pth"] or "not found"))
    state.add_row("patched", "\n".join(found.patched) or "[red]nothing[/]")
    state.add_row("devices", "\n".join(found.devices) or "[red]unknown[/]")
    for engine, support in found.engines.items():
        state.add_row(engine, support)

    console.print(versions, state)
    for problem in found.problems:
        console.print(f"✗ {problem}", style="red", markup=False)
    if not found.problems:
        console.print("✓ All is well.", style="green")
