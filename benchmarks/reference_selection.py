"""Does it matter which rows become the reference set? Ways to choose them, side by side on fresh miniature worlds.

Run:  python benchmarks/reference_selection.py [--seeds 20 21 22 23 24] [--output FILE.json]

In every world, the reference sets of all seven skills are thrown together into one pool in random order: once balanced
(200 rows each), once skewed (200 down to 3 rows; which skill has how many is drawn by the world's seed). Of each pool,
28 and 70 rows are chosen by every method of `ogpsa data select`, at random in two draws, and OGPSA-SFT runs with the
demo's own settings and the chosen rows as its reference set. Three anchors: naive SFT, OGPSA with the whole pool, and
OGPSA as in the demo, with every skill a set of its own (the one run that is told the skills).

The choice is one set with `ogpsa_rank: 7` for every method, the whole pool included: seven directions as in the demo,
dealt out by length without looking at skills, so nothing but the choice of rows differs. Runs of one world share its
base model and its seed. Runs that are in the output file are not run again: it is written after every run.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ogpsa_factory.files import read_json, write_json


ROOT = Path(__file__).resolve().parent.parent
SIZES = {"balanced": (200,) * 7, "skewed": (200, 100, 50, 25, 12, 6, 3)}
BUDGETS = (28, 70)
DRAWS = {"random": 2}  # the others are compared with it, so it is drawn twice
RANK = 7
Questions = list[tuple[str, str]]
Results = dict[str, dict[str, Any]]


def planned_runs() -> Iterator[tuple[str, str | None, int | None, str, int]]:
    """Every run of a world: its name, the pool, the budget, the method and which draw of it."""
    from ogpsa_factory.data.select_command import METHODS

    yield "naive", None, None, "naive", 0
    yield "per_skill", None, None, "per_skill", 0
    for pool in SIZES:
        yield f"{pool}/all", pool, None, "all", 0
        for budget in BUDGETS:
            for method in METHODS:
                for draw in range(DRAWS.get(method, 1)):
                    yield f"{pool}/{budget}/{method}/{draw}", pool, budget, method, draw


def make_pool(seed: int, kind: str, data: Path) -> tuple[Questions, list[str]]:
    """Throw the skills' reference sets together; return the rows and the skill of each."""
    from ogpsa_factory.lab.datasets import read_set
    from ogpsa_factory.lab.themes.theme import SKILLS
    from ogpsa_factory.lab.world import REFERENCE_PREFIX

    rng = random.Random(f"{seed}:{kind}")
    skills = [*SKILLS, "harmless"]
    rng.shuffle(skills)
    labelled = [
        (row, skill)
        for skill, size in zip(skills, SIZES[kind], strict=True)
        for row in read_set(data, REFERENCE_PREFIX + skill)[:size]
    ]
    rng.shuffle(labelled)
    return [row for row, _ in labelled], [skill for _, skill in labelled]


def measure_pool(name: str, base: Path, data: Path) -> dict[str, Any]:
    """Compute what the methods look at: gradients, embeddings and losses of every row, and the seconds each took."""
    import torch
    from transformers import AutoModelForCausalLM

    from ogpsa_factory.data import features
    from ogpsa_factory.llamafactory.data import tokenise_pool

    rows = tokenise_pool(name, str(base), dataset_dir=str(data), template="chatml", cutoff_len=64)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found: dict[str, Any] = {"seconds": {}}
    for method in ("gradient", "embedding", "loss"):
        start = time.perf_counter()
        found[method] = getattr(features, f"{method}_features")(model, rows)
        found["seconds"][method] = round(time.perf_counter() - start, 2)
    return found


def align(name: str, file: str, changes: dict[str, Any], seed: int, world: Path) -> dict[str, Any]:
    """Run SFT with the demo's settings, changed in what is compared; evaluate the model and return the result."""
    from llamafactory.train.tuner import run_exp

    from ogpsa_factory.lab.evaluate import evaluate_folder

    output = world / "saves" / name
    own = {
        "model_name_or_path": str(world / "base"),
        "dataset_dir": str(world / "data"),
        "output_dir": str(output),
        "seed": seed,
        "plot_loss": False,
        "disable_tqdm": True,
    }
    settings = yaml.safe_load((ROOT / "examples" / "yaml" / "mini" / file).read_text(encoding="utf-8"))
    start = time.perf_counter()
    run_exp({**settings, **own, **changes})
    seconds = time.perf_counter() - start
    return {**evaluate_folder(output, world / "data"), "model": name, "train_seconds": round(seconds, 1)}


class Pool:
    """One pool of a world: its rows, their skills, and what the methods look at."""

    def __init__(self, seed: int, kind: str, world: Path) -> None:
        from ogpsa_factory.lab.datasets import write_sets

        self.data, self.seed = world / "data", seed
        self.rows, self.skills = make_pool(seed, kind, self.data)
        write_sets(self.data, {f"pool_{kind}": self.rows})
        self.found = measure_pool(f"pool_{kind}", world / "base", self.data)

    def choose(self, name: str, budget: int | None, method: str, draw: int) -> dict[str, Any]:
        """Choose rows and register them under a name; return what is to be kept of the choice."""
        from ogpsa_factory.data.selection import explained, mean_cosine, select, unit_rows
        from ogpsa_factory.lab.datasets import write_sets

        picked = list(range(len(self.rows)))
        if budget is not None:
            vectors = self.found[method].vectors if method in self.found else None
            picked = sorted(select(method, self.skills, budget, 1000 * self.seed + draw, vectors))
        write_sets(self.data, {name: [self.rows[i] for i in picked]})
        gradients, chosen = self.found["gradient"], Counter(self.skills[i] for i in picked)
        return {
            "explained": explained(unit_rows(gradients.vectors), picked),
            "mean_cosine": mean_cosine(gradients.weighted(), picked),
            "skills_chosen": {skill: chosen[skill] for skill in sorted(set(self.skills))},
            "feature_seconds": self.found["seconds"].get(method, 0.0),
        }


def run_world(seed: int, kept: Results, save: Callable[[], None]) -> None:
    """Build one world and run what is missing of it; `kept` maps names of runs to results."""
    from ogpsa_factory.lab.build import build_world

    missing = [run for run in planned_runs() if run[0] not in kept]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        with quiet():
            report = build_world(world / "base", world / "data", seed)
        if report.shortcomings():
            save()  # without any run: that a world was left out is a result, too
            say(f"world {seed}: left out, its base model missed the thresholds of `ogpsa lab build`")
            return
        kept["base"] = {**report.result, "model": "base"}
        pools: dict[str, Pool] = {}
        for name, kind, budget, method, draw in missing:
            facts: dict[str, Any] = {}
            changes: dict[str, Any] = {}
            with quiet():
                if kind is not None:
                    pools[kind] = pools.get(kind) or Pool(seed, kind, world)
                    reference = name.replace("/", "_")
                    facts = pools[kind].choose(reference, budget, method, draw)
                    changes = {
                        "ogpsa_reference_dataset": reference,
                        "ogpsa_reference_samples": len(pools[kind].rows),
                        "ogpsa_rank": RANK,
                    }
                result = align(name, "naive_sft.yaml" if method == "naive" else "ogpsa_sft.yaml", changes, seed, world)
            kept[name] = {**result, **facts}
            save()
            say(f"world {seed}, {name}: skills {result['skills_mean']:.3f}, refused {json.dumps(result['refused'])}")
            gc.collect()
            gc.freeze()  # the libraries' objects, which every run's garbage collections would go through


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' own messages from the terminal; an exception still gets out."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "reference_selection.json")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LLAMAFACTORY_VERBOSITY": "ERROR"}
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    import torch

    from ogpsa_factory import install

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        install()
        results: dict[str, Results] = read_json(options.output) if options.output.exists() else {}

        def save() -> None:
            write_json(options.output, {seed: results[seed] for seed in sorted(results, key=int)})

        for seed in options.seeds:
            run_world(seed, results.setdefault(str(seed), {}), save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
