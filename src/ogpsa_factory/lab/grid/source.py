"""What a result depends on besides its arguments: this package's own code, and the libraries.

Comments and docstrings are left out of the code's hash, so that mending a sentence makes nothing anew.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path


LIBRARIES = (
    *("torch", "transformers", "accelerate", "peft", "trl", "datasets", "llamafactory", "ogpsa_factory"),
    *("tokenizers", "numpy", "scipy"),
)
_PACKAGE = Path(__file__).parents[2]
_PLUGIN = (
    *("arguments.py", "basis.py", "checkpoint.py", "conflict.py", "controller.py", "coverage.py"),
    *("formulas.py", "fused.py", "grouping.py", "kernel_choice.py", "kernels.py", "linalg.py", "merge.py"),
    *("metric.py", "metrics.py", "modes.py", "packs.py", "reference.py", "released.py", "schedule.py", "span.py"),
    *("step.py", "storage.py", "subspace.py", "validation.py", "engines/*.py", "llamafactory/*.py"),
)
_WORLD = (
    *("lab/build.py", "lab/datasets.py", "lab/evaluate.py", "lab/losses.py", "lab/model.py", "lab/preferences.py"),
    *("lab/requests.py", "lab/vocabulary.py", "lab/world.py", "lab/themes/*.py", "lab/grid/osf.py"),
    "lab/grid/worker.py",
)


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on.

    Returns:
        By the library's name, and Python's.
    """
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {**found, "python": ".".join(platform.python_version_tuple()[:2])}


@cache
def source_digest() -> str:
    """A hash of the code that makes worlds, trains and measures.

    Returns:
        16 hexadecimal digits; other code may give the same results, as `ogpsa lab check` can tell.
    """
    total = hashlib.sha256()
    for pattern in (*_PLUGIN, *_WORLD):
        for path in sorted(_PACKAGE.glob(pattern)):
            total.update(f"{path.relative_to(_PACKAGE).as_posix()}\n{_code(path)}\n".encode())
    return total.hexdigest()[:16]


def _code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Expr(ast.Constant(None))
    return ast.unparse(tree)


@cache
def processor() -> str:
    """The kind of processor, as between kinds rounding differs.

    Returns:
        Its name where the system tells it, otherwise its architecture.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
