"""The paper's own tables (arXiv 2602.07892 v1), quoted in `evaluation/paper/`."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from ..errors import OGPSAError
from ..places import find
from .models import Benchmark, Model


CITATION = "arXiv 2602.07892 v1"
MODELS = {"qwen2_5_7b": "Qwen2.5-7B-Instruct", "llama3_1_8b": "Llama3.1-8B-Instruct"}
SUITE = "paper"  # the name of the suite that measures the same benchmarks
TABLES = ("table1", "ablations")
SAFETY = ("StrongReject", "XSTest", "WildChat", "Stereotype")
GENERAL = ("SimpleQA", "GPQA", "MMLU", "IFEval", "HHH", "AdvGLUE")


def paper_table(name: str) -> list[dict[str, str]]:
    """Read one of the paper's tables, as quoted.

    Args:
        name: `table1` (the main result) or `ablations` (Tables 2 to 8).

    Returns:
        Its rows, as text by column.

    Raises:
        OGPSAError: there is no such table, or the file cannot be found.
    """
    if name not in TABLES:
        raise OGPSAError(f"There is no table {name!r} of the paper: take one of {', '.join(TABLES)}.")
    with find(f"paper/{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def paper_models(key: str) -> list[Model]:
    """One model family of Table 1, in the form of evaluated models: scores without items.

    Args:
        key: one of `MODELS`.

    Returns:
        The base, named `base`, and the aligned models, named `PIPELINE/METHOD`.
    """
    rows = [row for row in paper_table("table1") if row["model"] == MODELS[key]]
    return [_model(row["pipeline"], row["method"], row, "Table 1") for row in rows]


def paper_ablations() -> dict[str, list[Model]]:
    """Tables 2 to 8, each model of a table as a family of its own.

    Returns:
        By title: the base, from Table 1 where the table has none, and a model for every setting. What a table calls
        `none` or by the pipeline's name alone is the method `naive`.
    """
    bases = {row["model"]: row for row in paper_table("table1") if row["method"] == "base"}
    families: dict[str, list[Model]] = {}
    for row in paper_table("ablations"):
        number, model, what = row["table"], row["model"], row["axis"].replace("_", " ")
        family = families.setdefault(f"{model}, Table {number}: {what}", [])
        if not family and row["setting"] != "base":
            shown = {name: score for name, score in bases[model].items() if name in row}
            family.append(_model("base", "base", shown, "Table 1"))
        methods = {"none": "naive", row["pipeline"]: "naive", f"{row['pipeline']}+ogpsa": "ogpsa", "base": "base"}
        method = methods.get(row["setting"], row["setting"])
        family.append(_model(row["pipeline"], method, row, f"Table {number}"))
    return families


def _model(pipeline: str, method: str, row: Mapping[str, str], table: str) -> Model:
    axes = {**dict.fromkeys(SAFETY, "safety"), **dict.fromkeys(GENERAL, "general")}
    scores = {b: Benchmark(b, axis, b, score=float(row[b])) for b, axis in axes.items() if b in row}
    name = "base" if method == "base" else f"{pipeline}/{method}"
    return Model(name, f"{CITATION}, {table}", scores, suite={"name": SUITE})
