"""The demo on fresh worlds: does its result hold on worlds that nobody looked at when its settings were chosen?

Run:  python benchmarks/demo_seeds.py [--seeds 10 11 12 13 14 15 16] [--jobs 2] [--output FILE.json]

Each world is generated and its base model trained from scratch with its own seed; naive and OGPSA-SFT run through
`llamafactory-cli` with the demo's files and one seed for both; all three models are evaluated by generation. Worlds in
the output file are not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
MODELS = ("base", "naive_sft", "ogpsa_sft")


def run_world(seed: int) -> dict[str, Any] | None:
    """Build one world, align it twice, evaluate; return the three results by model, None if the base is unfit."""
    tools = Path(sys.executable).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:

        def call(*words: object, may_fail: bool = False) -> bool:
            done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode and not may_fail:
                raise SystemExit(f"World {seed}: {words[0]} failed.\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
            return done.returncode == 0

        if not call(tools / "ogpsa", "lab", "build", "--seed", seed, may_fail=True):
            print(f"world {seed}: its base model missed the thresholds of `ogpsa lab build`", flush=True)
            return None
        for name in MODELS[1:]:
            call(tools / "llamafactory-cli", "train", ROOT / f"examples/yaml/mini/{name}.yaml", f"seed={seed}")
        call(tools / "ogpsa", "lab", "evaluate")
        result = {
            name: json.loads(Path(folder, "saves", "mini", name, "lab_evaluation.json").read_text()) for name in MODELS
        }
    means = "  ".join(f"{name} {100 * result[name]['skills_mean']:.1f}" for name in MODELS)
    print(f"world {seed}: mean of skills  {means}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14, 15, 16])
    parser.add_argument("--jobs", type=int, default=2, help="worlds at a time, one thread each")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "demo_seeds.json")
    options = parser.parse_args()
    kept = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    missing = [seed for seed in options.seeds if kept.get(str(seed)) is None]
    with ThreadPoolExecutor(options.jobs) as pool:
        kept |= dict(zip(map(str, missing), pool.map(run_world, missing), strict=True))
    results = {str(seed): kept[str(seed)] for seed in options.seeds}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
