"""The demo on fresh worlds: does its result hold on worlds that nobody looked at when its settings were chosen?

Run:  python benchmarks/demo_seeds.py [--seeds 10 11 12 13 14 15 16] [--jobs 2] [--output FILE.json]

Each world is generated and its base model trained from scratch with its own seed; SFT and then DPO run through
`ogpsa pipeline` with the demo's files and one seed for all four; the base and the four models are evaluated by
generation. Worlds in the output file are not run again: it is written after every world.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ogpsa_factory.files import read_json, write_json
from ogpsa_factory.lab.files import RESULT_FILE


ROOT = Path(__file__).resolve().parent.parent
MODELS = ("base", "naive/sft", "naive/dpo", "ogpsa/sft", "ogpsa/dpo")
PIPELINES = ("naive_pipeline.yaml", "pipeline.yaml")


def run_world(seed: int) -> dict[str, Any] | None:
    """Build one world, align it in two pipelines, evaluate; return the results by model, None if the base is unfit."""
    tools = Path(sys.executable).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:

        def call(*words: object, may_fail: bool = False) -> bool:
            done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode and not may_fail:
                raise RuntimeError(f"{words[0]} failed.\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
            return done.returncode == 0

        if not call(tools / "ogpsa", "lab", "build", "--seed", seed, may_fail=True):
            return None
        for name in PIPELINES:
            call(tools / "ogpsa", "pipeline", ROOT / "examples/yaml/mini" / name, f"seed={seed}")
        call(tools / "ogpsa", "lab", "evaluate")
        return {name: read_json(Path(folder, "saves", "mini", name, RESULT_FILE)) for name in MODELS}


def is_measured(result: dict[str, Any] | None) -> bool:
    """Whether every model of a world has been evaluated; a world whose base was unfit is tried again."""
    return result is not None and set(result) == set(MODELS)


def in_words(result: dict[str, Any] | None) -> str:
    if result is None:
        return "its base model missed the thresholds of `ogpsa lab build`"
    return "mean of skills  " + "  ".join(f"{name} {100 * result[name]['skills_mean']:.1f}" for name in MODELS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14, 15, 16])
    parser.add_argument("--jobs", type=int, default=2, help="worlds at a time, one thread each")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "demo_seeds.json")
    options = parser.parse_args()
    kept = read_json(options.output) if options.output.exists() else {}
    kept = {seed: result for seed, result in kept.items() if is_measured(result)}
    missing = [seed for seed in options.seeds if str(seed) not in kept]
    print(f"{len(options.seeds)} worlds, {len(missing)} of them to run", flush=True)
    failed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(run_world, seed): seed for seed in missing}
        for count, done in enumerate(as_completed(running), start=1):
            seed = running[done]
            try:
                kept[str(seed)] = done.result()
            except RuntimeError as error:  # the other worlds are worth finishing
                failed += 1
                print(f"[{count}/{len(missing)}] world {seed}: {error}", flush=True)
                continue
            print(f"[{count}/{len(missing)}] world {seed}: {in_words(kept[str(seed)])}", flush=True)
            write_json(options.output, {seed: kept[seed] for seed in sorted(kept, key=int)})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
