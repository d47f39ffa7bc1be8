"""Invented evaluations, as `ogpsa evaluate` would have written them."""

import hashlib
import json

import numpy as np

from ogpsa_factory.files import write_json, write_text
from ogpsa_factory.results.features import ADVGLUE_TASKS, make_items


# name: axis, samples, tasks, title
BENCHMARKS = {
    "StrongReject": ("safety", 120, ("pair", "pap"), "StrongReject under PAIR and PAP"),
    "XSTest": ("safety", 200, ("unsafe",), "XSTest, unsafe half"),
    "WildChat": ("safety", 150, ("toxic",), "WildChat, toxic"),
    "Stereotype": ("safety", 95, ("stereotypes",), "Do-Not-Answer, stereotypes"),
    "SimpleQA": ("general", 400, ("simpleqa",), "SimpleQA"),
    "GPQA": ("general", 198, ("main",), "GPQA"),
    "MMLU": ("general", 570, ("law", "physics", "virology"), "MMLU"),
    "IFEval": ("general", 180, ("ifeval",), "IFEval, prompts, strict"),
    "HHH": ("general", 120, ("helpful", "honest", "harmless"), "HHH"),
    "AdvGLUE": ("general", 180, tuple(sorted(ADVGLUE_TASKS)), "AdvGLUE, dev"),
    "XSTest-safe": ("extra", 250, ("safe",), "XSTest, safe half: refusals"),
}
AGGREGATIONS = {"StrongReject": "task_mean", "AdvGLUE": "advglue"}
JUDGED = ("StrongReject", "XSTest", "WildChat", "Stereotype", "SimpleQA", "XSTest-safe")
BASE = {
    "StrongReject": 0.45,
    "XSTest": 0.65,
    "WildChat": 0.2,
    "Stereotype": 0.9,
    "SimpleQA": 0.04,
    "GPQA": 0.3,
    "MMLU": 0.7,
    "IFEval": 0.62,
    "HHH": 0.85,
    "AdvGLUE": 0.7,
    "XSTest-safe": 0.06,
}
SAFER = {"StrongReject": 0.9, "XSTest": 0.88, "WildChat": 0.6, "Stereotype": 0.99, "XSTest-safe": 0.2}
NAIVE = {**BASE, **SAFER, "SimpleQA": 0.01, "IFEval": 0.45, "AdvGLUE": 0.6}
OGPSA = {**BASE, **SAFER, "SimpleQA": 0.035, "IFEval": 0.61, "AdvGLUE": 0.66}


def write_model(folder, name, chances, seed=0, judge="gpt-4o-mini at https://api.example/v1", gaps=None, **more):
    """Write one model's scores and items; `chances` is the probability of a right answer by benchmark.

    `limit` is the suite's, `lost` a number of samples that failed, `suite` the suite's name. `asked` has keys of the
    top level, such as the temperature; `of` changes entries of benchmarks, by their names.
    """
    rng = np.random.default_rng(seed)
    home = folder / name
    benchmarks = {}
    for benchmark, (axis, samples, tasks, title) in BENCHMARKS.items():
        entry = {"axis": axis, "title": title, "higher_is_better": benchmark != "XSTest-safe"}
        benchmarks[benchmark] = entry
        if gaps and benchmark in gaps:
            entry["gap"] = gaps[benchmark]
            continue
        lost = more.get("lost", 0)
        aggregation = AGGREGATIONS.get(benchmark, "mean")
        lines = list(_lines(benchmark, aggregation, chances[benchmark], samples, tasks, rng))[lost:]
        write_text(home / benchmark / "items.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        entry |= {
            "score": round(make_items(aggregation, lines).score(), 4),
            "aggregation": aggregation,
            "samples": len(lines),
            "failed": lost,
            "unparsed": 0,
            "judge": judge if benchmark in JUDGED else None,
            "note": None,
            "details": {"full_refusal": 61.5, "partial_refusal": 12.25} if benchmark == "XSTest" else {},
            "items": f"{benchmark}/items.jsonl",
            "settings": hashlib.sha256(benchmark.encode()).hexdigest(),
            "rows": f"{samples:064x}",
            "origins": [f"files of {benchmark}"],
            **more.get("of", {}).get(benchmark, {}),
        }
    content = {
        "format": 1,
        "model": {"name": name, "path": f"saves/{name}", "adapters": [], "fingerprint": f"sha256:{seed:064x}"},
        "suite": {
            "name": more.get("suite", "paper"),
            "title": "The paper's ten benchmarks",
            "fingerprint": more.get("fingerprint", "sha256:5417e"),
            "limit": more.get("limit"),
        },
        "versions": {"ogpsa_factory": "0.1.0", "lm_eval": "0.4.13"},
        "backend": "hf",
        "dtype": "auto",
        "arguments": "",
        "chat_template": True,
        "system": None,
        "temperature": 0.0,
        **more.get("asked", {}),
        "benchmarks": benchmarks,
    }
    write_json(home / "scores.json", content)
    return home / "scores.json"


def _lines(benchmark, aggregation, chance, samples, tasks, rng):
    for number in range(samples):
        line = {"id": f"{benchmark}-{number}", "task": tasks[number % len(tasks)]}
        right = bool(rng.random() < chance)
        if aggregation == "advglue":
            label = number // len(tasks) % 2
            yield {**line, "label": label, "prediction": label if right else 1 - label}
        elif benchmark == "StrongReject":  # graded in eighths
            yield {**line, "value": 1.0 if right else int(rng.integers(0, 8)) / 8}
        else:
            yield {**line, "value": float(right)}


def write_world(folder, **more):
    """A base, and two pipelines with a naive, a LoRA and an OGPSA model each."""
    write_model(folder, "base", BASE, seed=1, **more)
    for place, pipeline in enumerate(("SFT", "DPO")):
        write_model(folder, f"{pipeline}/naive", NAIVE, seed=10 + place, **more)
        write_model(folder, f"{pipeline}/lora", {**NAIVE, "MMLU": 0.62}, seed=20 + place, **more)
        write_model(folder, f"{pipeline}/ogpsa", OGPSA, seed=30 + place, **more)
    return folder
