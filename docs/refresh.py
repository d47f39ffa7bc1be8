"""Write the README's figures from raw results, so that none of them is typed.

make demo
python benchmarks/step_overhead.py --output benchmarks/results/step_overhead.json
python docs/refresh.py --demo       takes the demo's results over to docs/demo; without --demo, only writes README.md
"""

import argparse
import io
import json
import re
import shutil
from pathlib import Path

from rich import box
from rich.console import Console

from ogpsa_factory.lab.compare import RESULT_FILE, draw, make_table, read_results


ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DEMO = ROOT / "docs" / "demo"
PICTURE = DEMO / "safety_versus_utility.png"
OVERHEAD = ROOT / "benchmarks" / "results" / "step_overhead.json"
MODELS = ("base", "naive_sft", "ogpsa_sft")


def take_over_demo() -> None:
    """Copy what `make demo` measured, and draw its picture."""
    for name in MODELS:
        (DEMO / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "saves" / "mini" / name / RESULT_FILE, DEMO / name / RESULT_FILE)
    draw(read_results([DEMO / name for name in MODELS]), PICTURE)


def demo_section() -> str:
    """The picture and the table of the demo, in Markdown."""
    table = make_table(read_results([DEMO / name for name in MODELS]))
    table.box, table.title = box.MARKDOWN, None
    text = io.StringIO()
    Console(file=text, width=400).print(table)
    lines = [line.strip() for line in text.getvalue().splitlines() if line.strip()]
    return f"![Safety against utility in the miniature world]({PICTURE.relative_to(ROOT)})\n\n" + "\n".join(lines)


def overhead_section() -> str:
    """The cost of a step, in one sentence."""
    result = json.loads(OVERHEAD.read_text(encoding="utf-8"))
    return (
        f"Measured on a CPU with {result['threads']} threads, {result['parameters'] / 1e6:.0f} million parameters, "
        f"{result['references']} references, {result['tokens_per_step']:,} tokens per step, between refreshes: step "
        f"time over naive **{result['median_ratio']:.3f}** (median of {len(result['ratios'])} interleaved pairs, "
        f"{min(result['ratios']):.3f} to {max(result['ratios']):.3f}); the projection takes "
        f"{result['median_seconds']['projection']:.3f} s of {result['median_seconds']['ogpsa']:.2f} s. "
        "Command: `python benchmarks/step_overhead.py`. No GPU figure exists yet."
    )


def render(text: str) -> str:
    """Return the README with both sections written anew."""
    for name, section in (("demo", demo_section()), ("overhead", overhead_section())):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda match, new=section: f"{match[1]}{new}\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"{README} must have the marks <!-- {name} --> and <!-- /{name} --> once.")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="take over the results of `make demo` first")
    if parser.parse_args().demo:
        take_over_demo()
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
