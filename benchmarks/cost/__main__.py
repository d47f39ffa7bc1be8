"""What OGPSA costs, side by side in one run: steps, projections against the memory's bandwidth, ranks, whole periods.

Run:  python benchmarks/cost [PART …] [--device cuda] [--output benchmarks/results/cost]

Parts: step, accumulation, sizes, projection, ranks, refresh, whole_run; all of them by default, about 35 minutes on 2
cores.
Each writes PART.json with every single measurement; `python docs/refresh.py` makes tables and plots of them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import projection
import ranks
import refresh
import step
import torch
import whole_run


def parts(device: torch.device, rounds: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """What can be measured on a device, by name."""
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    size, sequences = ("1.5B", 128) if gpu else ("50M", 16)  # 16k and 2k tokens
    few = {name: step.KINDS[name] for name in ("naive", "gradient", "preconditioned")}
    many = {**few, **{name: step.KINDS[name] for name in ("update", "hooks", "hooks, with care")}}
    sizes = ["0.5B", "1.5B"] if gpu else ["5M", "50M", "200M"]

    def steps(size: str, accumulations: list[int], rounds: int, kinds: dict[str, step.Kind]) -> dict[str, Any]:
        return step.measure(size, device, dtype, sequences, accumulations, rounds, kinds)

    return {
        "step": lambda: steps(size, [1], rounds, few if gpu else step.KINDS),  # all at once, in one GPU's memory
        "accumulation": lambda: steps(size, [4, 16], max(3, rounds // 3), many),
        "sizes": lambda: {"models": [steps(each, [1], max(3, rounds // 3), few) for each in (sizes[0], sizes[-1])]},
        "projection": lambda: projection.measure(sizes, device, 5),
        "ranks": lambda: ranks.measure(size, [1, 2], 2, 2 * rounds),
        "refresh": lambda: refresh.measure(size if gpu else "20M", device, max(3, rounds // 3)),
        "whole_run": lambda: {
            "periods": [
                whole_run.measure(size if gpu else "20M", device, 16, 30, max(2, rounds // 3), whole_run.KINDS[:3]),
                whole_run.measure(size if gpu else "20M", device, 16, 5, max(2, rounds // 2)),
            ]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts; all by default")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15, help="measured steps of each kind in part `step`")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cost"), help="folder of the figures")
    options = parser.parse_args()
    known = parts(torch.device(options.device), options.rounds)
    unknown = [part for part in options.parts if part not in known]
    if unknown:
        sys.exit(f"There is no part {unknown[0]}; parts are {', '.join(known)}.")
    chosen = options.parts or list(known)
    if len(chosen) > 1:  # in a process each, so that none finds the memory as another has left it
        shared = ["--device", options.device, "--rounds", str(options.rounds), "--output", str(options.output)]
        for part in chosen:
            subprocess.run([sys.executable, str(Path(__file__).parent), part, *shared], check=True)
        return
    (part,) = chosen
    print(f"== {part}", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{part}.json"
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps(known[part](), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"wrote {path}", flush=True)


if __name__ == "__main__":
    main()
