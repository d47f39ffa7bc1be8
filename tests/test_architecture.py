"""The import rules of docs/architecture.md, read from the code."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "ogpsa_factory"
ENGINES_AND_FRAMEWORKS = {"llamafactory", "deepspeed", "accelerate", "transformers", "datasets", "peft", "trl"}

# Module (or folder) -> what it must not import. Own modules start with a dot.
MUST_NOT_KNOW = {
    "_startup.py": {"*third-party"},
    "grouping.py": {"*third-party"},
    **dict.fromkeys(
        (
            "linalg.py",
            "kernels.py",
            "kernel_choice.py",
            "fused.py",
            "formulas.py",
            "packs.py",
            "basis.py",
            "storage.py",
            "conflict.py",
            "modes.py",
        ),
        ENGINES_AND_FRAMEWORKS | {".engines", ".reference", ".controller", ".llamafactory", ".arguments", ".subspace"},
    ),
    "subspace.py": ENGINES_AND_FRAMEWORKS | {".engines", ".reference", ".controller", ".llamafactory", ".arguments"},
    **dict.fromkeys(
        ("step.py", "span.py", "metric.py", "coverage.py"),
        ENGINES_AND_FRAMEWORKS | {".llamafactory", ".controller", ".reference", ".engines.native", ".engines.select"},
    ),
    "schedule.py": ENGINES_AND_FRAMEWORKS | {".llamafactory", ".controller", ".engines.native", ".engines.select"},
    "validation.py": ENGINES_AND_FRAMEWORKS | {".engines", ".reference", ".controller", ".llamafactory"},
    "arguments.py": ENGINES_AND_FRAMEWORKS | {".engines", ".reference", ".controller", ".llamafactory"},
    "checkpoint.py": ENGINES_AND_FRAMEWORKS | {".engines", ".reference", ".controller", ".llamafactory", ".subspace"},
    "reference.py": ENGINES_AND_FRAMEWORKS | {".controller", ".llamafactory", ".subspace"},
    "metrics.py": ENGINES_AND_FRAMEWORKS | {".engines", ".controller", ".llamafactory"},
    "report.py": ENGINES_AND_FRAMEWORKS | {".engines", ".controller", ".llamafactory", ".subspace"},
    "controller.py": ENGINES_AND_FRAMEWORKS | {".llamafactory", ".engines.native"},
    "engines": {"llamafactory", "accelerate", "transformers"}
    | {".subspace", ".reference", ".controller", ".llamafactory", ".arguments", ".conflict"},
    "llamafactory": {".subspace", ".modes", ".conflict", ".linalg", ".kernels", ".fused", ".step", ".span", ".metric"}
    | {".basis", ".packs", ".kernel_choice", ".formulas"},
    "files.py": {"*third-party"},
    "released.py": {"*third-party", ".arguments", ".llamafactory"},
    "translate.py": ENGINES_AND_FRAMEWORKS | {".llamafactory"},
    "data": {".controller", ".engines", ".subspace", ".lab", ".report", ".footprint"},
    "endpoint": {".data", ".llamafactory", ".lab", ".pipeline", "llamafactory", "transformers", "torch", "datasets"},
    "evaluation": ENGINES_AND_FRAMEWORKS - {"transformers", "peft", "datasets"}
    | {".controller", ".engines", ".subspace", ".reference", ".llamafactory", ".lab", ".pipeline", ".reproduce"},
    "results": ENGINES_AND_FRAMEWORKS
    | {"torch", "lm_eval", ".data", ".endpoint", ".lab", ".llamafactory", ".pipeline", ".controller", ".engines"}
    | {".subspace", ".evaluation"},
    "places.py": {"*third-party"},
    "mappings.py": ENGINES_AND_FRAMEWORKS | {".pipeline", ".llamafactory"},
    "merge.py": ENGINES_AND_FRAMEWORKS - {"transformers"} | {".llamafactory", ".pipeline", ".lab", ".evaluation"},
    "reproduce": {"llamafactory", ".llamafactory", ".controller", ".engines", ".subspace", ".evaluation", ".results"},
    "pipeline": {".controller", ".engines", ".subspace", ".reference", ".lab"},
    "lab": {".controller", ".engines", ".subspace", ".reference", ".llamafactory"},
}


def imports_of(path: Path) -> set[str]:
    """Everything a module imports: own modules as ``.name``, others by their first word. Inside functions too."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            home = list(parts[: len(parts) - node.level])
            base = [*home, *(node.module.split(".") if node.module else [])]
            found |= {"." + ".".join([*base, alias.name]) for alias in node.names} | {"." + ".".join(base)}
    return found


def modules(room: str) -> list[Path]:
    place = PACKAGE / room
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def violates(name: str, forbidden: set[str]) -> bool:
    if "*third-party" in forbidden and not name.startswith("."):
        import sys

        return name.split(".")[0] not in sys.stdlib_module_names
    return any(name == rule or name.startswith(rule + ".") for rule in forbidden)


@pytest.mark.parametrize("room", MUST_NOT_KNOW)
def test_room_does_not_know(room):
    assert modules(room)
    for path in modules(room):
        broken = sorted(name for name in imports_of(path) if violates(name, MUST_NOT_KNOW[room]))
        assert not broken, f"{path.relative_to(ROOT)} imports {', '.join(broken)}"


def test_two_modules_of_the_data_room_know_llamafactory():
    """The others are instant to import, and work where LLaMA-Factory is not installed."""
    knowing = {
        path.name
        for path in modules("data")
        if any(violates(name, {"llamafactory", ".llamafactory"}) for name in imports_of(path))
    }
    assert knowing == {"lengths.py", "features.py"}


def test_the_rules_can_be_broken():
    assert violates(".subspace.CapabilitySubspace", MUST_NOT_KNOW["checkpoint.py"])
    assert violates("torch", MUST_NOT_KNOW["_startup.py"]) and not violates("os.path", MUST_NOT_KNOW["_startup.py"])
    assert ".subspace.CapabilitySubspace" in imports_of(PACKAGE / "controller.py")
    assert "llamafactory.data" in imports_of(PACKAGE / "llamafactory" / "data.py")


def test_every_module_is_in_the_table():
    """docs/architecture.md names every module, and nothing that is not there."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    there = {path.name if path.is_file() else f"{path.name}/" for path in PACKAGE.iterdir()}
    there -= {"__init__.py", "__pycache__/", "py.typed"}
    assert table == there


def test_modules_are_short():
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 270}
    assert not long
