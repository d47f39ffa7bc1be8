"""Write the figures of README.md and of docs/ from raw results, so that none is typed.

make demo
python benchmarks/demo_seeds.py
python benchmarks/cost
python benchmarks/memory.py --output benchmarks/results/memory.json
python benchmarks/data_build.py
python benchmarks/reference_selection.py
ogpsa reproduce table1 --scale mini
ogpsa lab run examples/yaml/lab/*.yaml
python docs/refresh.py --demo --reproduce --lab   takes results of the demo, table or lab over; else only writes
"""

import argparse
import io
import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import cost_sections
import lab_sections
import paper_sections
from rich import box
from rich.console import Console

from ogpsa_factory.lab.compare import draw, make_table, read_results
from ogpsa_factory.lab.files import RESULT_FILE, STAGES


ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DATA = ROOT / "docs" / "data.md"
LAB = lab_sections.LAB / "README.md"
COST = ROOT / "docs" / "cost.md"
REPRODUCE = ROOT / "docs" / "reproduce.md"
DEMO = ROOT / "docs" / "demo"
PICTURE = DEMO / "safety_versus_utility.png"
MEMORY = ROOT / "benchmarks" / "results" / "memory.json"
DATA_BUILD = ROOT / "benchmarks" / "results" / "data_build.json"
SELECTION = ROOT / "benchmarks" / "results" / "reference_selection.json"
SEEDS = ROOT / "benchmarks" / "results" / "demo_seeds.json"
_NO_DIFFERENCE = "no way of choosing differs from a random choice"
MODELS = ("base", "naive/sft", "naive/dpo", "ogpsa/sft", "ogpsa/dpo")


def take_over_demo() -> None:
    """Copy what `make demo` measured in place of what is there, and draw its picture."""
    read_results([ROOT / "saves" / "mini" / name for name in MODELS])  # says what is missing before anything goes
    for old in DEMO.rglob(RESULT_FILE):
        old.unlink()
    for name in MODELS:
        (DEMO / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "saves" / "mini" / name / RESULT_FILE, DEMO / name / RESULT_FILE)
    draw(read_results([DEMO / name for name in MODELS]), PICTURE)


def demo_section() -> str:
    """The picture and the table of the demo, in Markdown."""
    table = make_table(read_results([DEMO / name for name in MODELS]))
    table.box, table.title = box.MARKDOWN, None
    for column, name in zip(table.columns[1:], MODELS, strict=True):
        column.header = name  # Markdown has one line for it
    text = io.StringIO()
    Console(file=text, width=400).print(table)
    lines = [line.strip() for line in text.getvalue().splitlines() if line.strip()]
    return f"![Safety against utility in the miniature world]({PICTURE.relative_to(ROOT)})\n\n" + "\n".join(lines)


def memory_section() -> str:
    """Measured beside predicted extra memory, one line per engine and number of ranks."""
    result = json.loads(MEMORY.read_text(encoding="utf-8"))
    rows = [
        "| engine | ranks | basis | between refreshes | at a refresh |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for line in result["lines"]:
        cells = (f"{line[kind]:.0f} ({line[f'{kind}_predicted']:.0f})" for kind in ("basis", "between", "refresh"))
        rows.append(f"| {line['engine']} | {line['ranks']} | " + " | ".join(cells) + " |")
    return (
        f"Megabytes that OGPSA adds on the fullest rank, measured (and predicted): {result['parameters'] / 1e6:.0f} "
        f"million parameters, {result['directions']} directions, float32, {result['device'].upper()}. The basis is "
        "counted, the other two are differences between an OGPSA and a naive run: after a step, and at the highest "
        "point while gradients are computed. There the prediction is an upper bound: room that an engine takes only "
        "while it accumulates is free during a refresh. The compiler of the projection's kernels takes "
        f"{max(line['compiler'] for line in result['lines']):.0f} MB of host memory besides, once per process. "
        "Command: `python benchmarks/memory.py`.\n\n" + "\n".join(rows)
    )


def seeds_section() -> str:
    """The demo on fresh worlds: means over worlds of the mean of skills, and how often OGPSA is above naive."""
    measured = json.loads(SEEDS.read_text(encoding="utf-8"))
    worlds = {seed: result for seed, result in measured.items() if result is not None}
    skills = {name: [world[name]["skills_mean"] for world in worlds.values()] for name in MODELS}
    refused = {name: [world[name]["refused"] for world in worlds.values()] for name in MODELS}
    rows = [
        "| world | base | naive SFT | then naive DPO | OGPSA-SFT | then OGPSA-DPO |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for i, world in enumerate(worlds):
        rows.append(f"| {world} | " + " | ".join(f"{100 * skills[name][i]:.1f}" for name in MODELS) + " |")
    rows.append("| mean | " + " | ".join(f"{100 * statistics.mean(skills[name]):.1f}" for name in MODELS) + " |")

    def above(stage: str) -> int:
        return sum(own > naive for own, naive in zip(skills[f"ogpsa/{stage}"], skills[f"naive/{stage}"], strict=True))

    def shares(kind: str) -> str:
        mean = {name: f"{100 * statistics.mean(entry[kind] for entry in refused[name]):.1f}%" for name in MODELS}
        return "; ".join(
            f"after {stage.upper()} naive {mean[f'naive/{stage}']}, OGPSA {mean[f'ogpsa/{stage}']}" for stage in STAGES
        )

    lines = [
        f"Mean accuracy of the skills, in percent, in {len(worlds)} worlds that were not looked at when the demo's",
        f"settings were chosen. OGPSA is above naive in {above('sft')} of {len(worlds)} after SFT and in",
        f"{above('dpo')} of {len(worlds)} after DPO. Means over the worlds of held-out harmful requests refused:",
        f"{shares('harmful_held_out')}. Of benign look-alikes wrongly refused: {shares('lookalike')}.",
        f"Worlds left out because the base model missed its own thresholds: {len(measured) - len(worlds)}.",
        "Command: `python benchmarks/demo_seeds.py`.",
    ]
    return " ".join(lines) + "\n\n" + "\n".join(rows)


def data_build_section() -> str:
    """Time and memory of builds, in one sentence."""
    lines = json.loads(DATA_BUILD.read_text(encoding="utf-8"))["lines"]
    names = {"saferlhf": "PKU-SafeRLHF", "general": "UltraFeedback", "halueval": "HaluEval"}
    parts = [
        f"{names[line['build']]} ({line['source_mb']:,.0f} MB) {line['seconds']:.1f} s and {line['peak_mb']:.0f} MB"
        for line in lines
    ]
    return (
        f"On one CPU core, {lines[0]['rows']:,} generated rows in each public schema take, templates for refusals and "
        f"start-up included, in time and memory at the most: {', '.join(parts)}. "
        "Command: `python benchmarks/data_build.py`."
    )


def selection_section() -> str:
    """Ways to choose reference rows on fresh worlds, each against a random choice of its size in the same world."""
    measured = json.loads(SELECTION.read_text(encoding="utf-8"))
    runs = max(map(len, measured.values()))
    worlds = [world for world in measured.values() if len(world) == runs]
    arms = [(pool, budget) for pool in ("balanced", "skewed") for budget in (28, 70)]

    def figure(world: dict, arm: tuple[str, int], method: str, key: str = "skills_mean") -> float:
        """Mean over the draws of a method in one world, in percent."""
        found = [run for name, run in world.items() if name.startswith("/".join((*map(str, arm), method)) + "/")]
        return 100 * statistics.mean(run[key] if key in run else run["refused"][key] for run in found)

    def over_worlds(values: list[float]) -> str:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"

    rows = [
        f"| rows chosen by | {' | '.join(f'{budget} of the {pool}' for pool, budget in arms)} | minus random "
        "| look-alikes refused | harmful refused | gradients explained |",
        "| --- |" + " ---: |" * (len(arms) + 4),
    ]
    words = []
    for method in ("random", "stratified", "loss", "embedding", "gradient"):
        cells = [over_worlds([figure(world, arm, method) for world in worlds]) for arm in arms]
        gains = [statistics.mean(figure(w, arm, method) - figure(w, arm, "random") for arm in arms) for w in worlds]
        error = statistics.stdev(gains) / len(gains) ** 0.5
        cells.append("" if method == "random" else f"{statistics.mean(gains):+.1f} ± {error:.1f}")
        for key in ("lookalike", "harmful_held_out", "explained"):
            cells.append(f"{statistics.mean(figure(w, arm, method, key) for w in worlds for arm in arms):.1f}")
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
        if method != "random" and abs(statistics.mean(gains)) > 2 * error:
            side = "above" if statistics.mean(gains) > 0 else "below"
            words.append(f"`{method}` is {side} random in {sum(g > 0 for g in gains)} of {len(gains)} worlds")

    def anchor(name: str, label: str) -> str:
        skills = over_worlds([100 * world[name]["skills_mean"] for world in worlds])
        refused = statistics.mean(100 * world[name]["refused"]["lookalike"] for world in worlds)
        return f"{label} {skills} (look-alikes refused: {refused:.1f}%)"

    draws = [
        100
        * abs(world[f"{pool}/{budget}/random/0"]["skills_mean"] - world[f"{pool}/{budget}/random/1"]["skills_mean"])
        for world in worlds
        for pool, budget in arms
    ]
    naive = [100 * world["naive"]["skills_mean"] for world in worlds]
    by_chance = [statistics.mean(figure(world, arm, "random") for arm in arms) for world in worlds]
    above = sum(chance > plain for chance, plain in zip(by_chance, naive, strict=True))
    lines = [
        "Mean accuracy of the skills after OGPSA-SFT, in percent (± standard deviation over",
        f"{len(worlds)} worlds), with 28 or 70 rows chosen of a balanced or a skewed pool of all skills as one",
        "reference set with seven directions. By two standard errors over the worlds,",
        f"{'; '.join(words) or _NO_DIFFERENCE}; two random choices of one size differ by",
        f"{statistics.mean(draws):.1f} points on average. Without a choice:",
        f"{anchor('naive', 'naive SFT')}; {anchor('balanced/all', 'all rows of the balanced pool')};",
        f"{anchor('skewed/all', 'all rows of the skewed pool')}; {anchor('per_skill', 'one set per skill')}.",
        f"With so few rows in one set, OGPSA is above naive in {above} of {len(worlds)} worlds (random choice, mean",
        "of the four columns). Worlds left out because the base model missed its thresholds:",
        f"{len(measured) - len(worlds)}.",
        "Command: `python benchmarks/reference_selection.py`.",
    ]
    return " ".join(lines) + "\n\n" + "\n".join(rows)


SECTIONS: dict[Path, dict[str, Callable[[], str]]] = {
    README: {
        "demo": demo_section,
        "seeds": seeds_section,
        "overhead": cost_sections.readme_section,
        "memory": memory_section,
        "lab": lab_sections.readme_section,
        "step": lab_sections.readme_step_section,
    },
    COST: {
        "cost_step": cost_sections.step_section,
        "cost_sizes": cost_sections.sizes_section,
        "cost_projection": cost_sections.projection_section,
        "cost_hooks": cost_sections.hooks_section,
        "cost_refresh": cost_sections.refresh_section,
        "cost_whole": cost_sections.whole_section,
        "cost_growth": cost_sections.growth_section,
        "cost_prediction": cost_sections.prediction_section,
        "cost_bound": cost_sections.bound_section,
    },
    DATA: {"data_build": data_build_section, "selection": selection_section},
    REPRODUCE: {
        "mini": paper_sections.mini_section,
        "samples": paper_sections.samples_section,
        "gain": paper_sections.gain_section,
        "noise": paper_sections.noise_section,
    },
    LAB: {
        "facts": lab_sections.facts_section,
        "table1": lab_sections.table1_section,
        "fronts": lab_sections.fronts_section,
        "tax": lab_sections.tax_section,
        "ogpsa": lambda: lab_sections.pair_section("ogpsa", "naive"),
        "global": lambda: lab_sections.pair_section("ogpsa", "ogpsa_global"),
        "conflict": lambda: lab_sections.pair_section("ogpsa_conflict", "ogpsa"),
        "refresh_steps": lambda: lab_sections.ablation_section("refresh_steps"),
        "samples": lambda: lab_sections.ablation_section("samples"),
        "samples_mixed": lambda: lab_sections.ablation_section("samples_mixed"),
        "rank": lambda: lab_sections.ablation_section("rank"),
        "composition": lambda: lab_sections.ablation_section("composition"),
        "reference_loss": lambda: lab_sections.ablation_section("reference_loss"),
        "mode": lambda: lab_sections.ablation_section("mode"),
        "granularity": lambda: lab_sections.ablation_section("granularity"),
        "overlap": lab_sections.overlap_section,
        "cost": lab_sections.cost_section,
        "worlds": lambda: lab_sections.worlds_section("methods", "second_world"),
        "step": lambda: lab_sections.step_section("step"),
        "step_conflict": lambda: lab_sections.step_section("step_conflict"),
        "step_pair": lambda: lab_sections.pair_section("preconditioned", "gradient", "step"),
        "leak": lab_sections.leak_section,
        "adaptive": lab_sections.schedule_section,
        "step_refresh": lambda: lab_sections.ablation_section("step_refresh"),
        "step_refresh_preconditioned": lambda: lab_sections.ablation_section("step_refresh_preconditioned"),
        "step_momentum": lambda: lab_sections.ablation_section("step_momentum"),
        "step_momentum_preconditioned": lambda: lab_sections.ablation_section("step_momentum_preconditioned"),
        "step_damping": lambda: lab_sections.ablation_section("step_damping"),
        "step_second_world": lambda: lab_sections.step_section("step_second_world"),
        "step_worlds": lambda: lab_sections.worlds_section("step", "step_second_world"),
    },
}


def render(page: Path, text: str) -> str:
    """Return a page's text with its measured sections written anew."""
    for name, section in SECTIONS[page].items():
        new = section()
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda match, new=new: f"{match[1]}{new}\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"{page} must have the marks <!-- {name} --> and <!-- /{name} --> once.")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="take over the results of `make demo` first")
    parser.add_argument("--reproduce", action="store_true", help="take over Table 1 of the miniature world first")
    parser.add_argument("--lab", action="store_true", help="take over the results of the lab's grids first")
    args = parser.parse_args()
    if args.demo:
        take_over_demo()
    if args.reproduce:
        paper_sections.MINI.mkdir(exist_ok=True)
        for name in paper_sections.MINI_FILES:
            shutil.copy(ROOT / "results" / "reproduce" / "mini" / "table1" / name, paper_sections.MINI)
    if args.lab:
        lab_sections.take_over(ROOT / "saves" / "lab")
    lab_sections.write_lab_report()
    cost_sections.draw()
    for page in SECTIONS:
        page.write_text(render(page, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
