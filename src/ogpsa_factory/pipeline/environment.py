"""`environment.json`: with what a run was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import write_text
from .state import now


ENVIRONMENT_FILE = "environment.json"
_PACKAGES = "llamafactory torch transformers trl peft accelerate datasets deepspeed ogpsa_factory".split()

# Named one by one: the others may hold secrets.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES FORCE_TORCHRUN NPROC_PER_NODE NNODES NODE_RANK OMP_NUM_THREADS OGPSA_DISABLE USE_RAY "
    "USE_MCA USE_KT ALLOW_EXTRA_ARGS DISABLE_VERSION_CHECK"
).split()


def write_environment(run_dir: Path, pipeline_file: Path) -> None:
    """Write this invocation's environment; those of earlier ones on the same run directory are kept under ``earlier``.

    Args:
        run_dir: the run directory.
        pipeline_file: the pipeline file, of which the hash is taken.
    """
    path = run_dir / ENVIRONMENT_FILE
    earlier: list[dict[str, Any]] = []
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = [*before.pop("earlier"), before]
    described = {**describe_environment(pipeline_file), "earlier": earlier}
    write_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def describe_environment(pipeline_file: Path) -> dict[str, Any]:
    """Describe what decides on a run's outcome outside its arguments; CUDA is not initialised.

    Args:
        pipeline_file: the pipeline file.

    Returns:
        Plain values for JSON.
    """
    return {
        "time": now(),
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "pipeline_file": str(pipeline_file),
        "pipeline_sha256": hashlib.sha256(pipeline_file.read_bytes()).hexdigest(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": sys.version,
        "platform": platform.platform(),
        "gpus": (_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    commit = _output("git", "rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "dirty": _output("git", "status", "--porcelain") != ""}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """What a command prints; None where it is not installed, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
