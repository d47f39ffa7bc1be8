"""Time and memory of `ogpsa data build` on 100,000 generated rows in the public schemas.

Run:  python benchmarks/data_build.py [--rows 100000] [--output FILE.json]

The rows are as long as the public ones on average; every build is a process of its own, whose peak memory is read when
it has ended. The files are generated anew in a temporary folder (UltraFeedback's 100,000 rows take 1 GB).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ogpsa_factory.files import write_json


ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"word{number}" for number in range(2000)]
CATEGORIES = ("Violence", "Drugs", "Cybercrime", "Privacy Violation")
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def text(rng: random.Random, characters: int) -> str:
    return " ".join(rng.choices(WORDS, k=max(1, characters // 9)))


def saferlhf(rng: random.Random, number: int) -> dict[str, Any]:
    safe = [rng.random() < 0.5, rng.random() < 0.5]
    row: dict[str, Any] = {"prompt": f"{number // 2} {text(rng, 90)}"}
    for answer in (0, 1):
        row[f"response_{answer}"] = text(rng, 350)
        row[f"is_response_{answer}_safe"] = safe[answer]
        row[f"response_{answer}_harm_category"] = dict.fromkeys(CATEGORIES, not safe[answer])
        row[f"response_{answer}_severity_level"] = 0 if safe[answer] else rng.randint(1, 3)
    return {**row, "better_response_id": rng.randint(0, 1), "safer_response_id": rng.randint(0, 1)}


def ultrafeedback(rng: random.Random, number: int) -> dict[str, Any]:
    completions = []
    for _ in range(4):
        fine = rng.randint(4, 20) / 4
        annotations = {aspect: {"Rating": "4", "Rationale": text(rng, 150)} for aspect in ASPECTS}
        scores = {"overall_score": round(2 * fine) * 1.0, "fine-grained_score": fine}
        long = {"response": text(rng, 1200), "critique": text(rng, 500), "annotations": annotations}
        completions.append({"model": "model", **long, **scores})
    return {"source": "generated", "instruction": f"{number} {text(rng, 500)}", "completions": completions}


def halueval(rng: random.Random, number: int) -> dict[str, Any]:
    answers = {"right_answer": text(rng, 14), "hallucinated_answer": text(rng, 60)}
    return {"knowledge": text(rng, 350), "question": f"{number} {text(rng, 100)}", **answers}


BUILDS: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    "saferlhf": saferlhf,
    "general": ultrafeedback,
    "halueval": halueval,
}


def measure(name: str, rows: int) -> dict[str, Any]:
    """Generate a source, build from it and return seconds and megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.jsonl")
        rng = random.Random(0)
        with source.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(BUILDS[name](rng, number)) + "\n" for number in range(rows))
        command = [str(Path(sys.executable).parent / "ogpsa"), "data", "build", name]
        command += ["--source", str(source), "--output", str(Path(folder, "data"))]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"{' '.join(command)} failed")
        size = source.stat().st_size
    peak = usage.ru_maxrss * 1024 / 1e6  # Linux counts in units of 1,024 bytes
    return {"build": name, "rows": rows, "source_mb": size / 1e6, "seconds": seconds, "peak_mb": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "data_build.json")
    options = parser.parse_args()
    lines = []
    for name in BUILDS:
        line = measure(name, options.rows)
        print(
            " ".join(f"{key} {value:.1f}" if isinstance(value, float) else str(value) for key, value in line.items())
        )
        lines.append(line)
    write_json(options.output, {"lines": lines})
    return 0


if __name__ == "__main__":
    sys.exit(main())
