"""What docs/refresh.py writes into docs/cost.md and README.md of benchmarks/results/cost, and the figure beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import scaling

from ogpsa_factory.fused import SHORT, FusedKernels
from ogpsa_factory.kernel_choice import WORTH_COMPILING
from ogpsa_factory.results.drawing import COLOURS, MARKERS, add_legend, new_figure, save


RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "cost"
PICTURE = Path(__file__).resolve().parent / "cost.png"
PROJECTS = ("gradient", "update", "preconditioned")
# Assumptions of the prediction, none of them measured here.
PEAK, UTILISATION, ROW = 989e12, 0.4, 512  # an H100's bf16 operations per second, the share in use, tokens per row
GPUS = 8
GOAL = 0.6  # share of the limit that was asked for


def _read(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{part}.json").read_text(encoding="utf-8"))
    return found


def _table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _steps(kinds: list[str]) -> list[list[str]]:
    cells = _read("step")["results"][0]["kinds"]
    naive = cells["naive"]["seconds"]["median"]
    rows = []
    for kind in kinds:
        ratio, own = cells[kind]["ratio"], cells[kind]["own"]["median"]
        spread = f"{ratio['min']:.3f} to {ratio['max']:.3f}"
        rows.append([kind, f"{ratio['median']:.3f}", spread, f"{_ms(own)} ms", f"{own / naive:.1%}"])
    return rows


def _step_facts() -> str:
    result = _read("step")
    naive = result["results"][0]["kinds"]["naive"]["seconds"]["median"]
    return (
        f"{result['parameters'] / 1e6:.0f} million parameters in {result['dtype']}, "
        f"{result['references']} references, "
        f"{result['tokens_per_step']:,} tokens per step, {result['device']} with {result['threads']} threads, "
        f"{result['rounds']} interleaved rounds; a naive step takes {naive:.2f} s"
    )


_HEAD = ["step", "time over naive", "lowest to highest round", "own time", "share of a naive step"]


def readme_section() -> str:
    """The kinds that most people use, and where to read on."""
    names = [name for project in PROJECTS for name in (project, f"{project}, logged")]
    return (
        f"{_table(_HEAD, _steps(names))}\n\nBetween refreshes: {_step_facts()}. Own time is what is spent in OGPSA's "
        "code; ratios are medians of rounds and carry the machine's noise, own time carries less. Command: `python "
        "benchmarks/cost step`. There is no GPU figure yet. [Cost](docs/cost.md) has the limit that memory sets, the "
        "refresh, and how all of it grows."
    )


def step_section() -> str:
    """All kinds of steps."""
    names = [name for name in _read("step")["results"][0]["kinds"] if name != "naive" and "hooks" not in name]
    return f"{_table(_HEAD, _steps(names))}\n\n{_step_facts()}. Command: `python benchmarks/cost step`."


def sizes_section() -> str:
    """Steps of a small and a large model."""
    rows = []
    for model in _read("sizes")["models"]:
        cells = model["results"][0]["kinds"]
        naive = cells["naive"]["seconds"]["median"]
        for kind in ("gradient", "preconditioned"):
            own, ratio = cells[kind]["own"]["median"], cells[kind]["ratio"]["median"]
            size = f"{model['parameters'] / 1e6:.0f}"
            rows.append([size, kind, f"{naive:.2f} s", f"{ratio:.3f}", f"{_ms(own)} ms", f"{own / naive:.1%}"])
    head = ["million parameters", "step", "naive step", "time over naive", "own time", "share of a naive step"]
    return f"{_table(head, rows, 2)}\n\nCommand: `python benchmarks/cost sizes`."


def _accumulations() -> list[dict[str, Any]]:
    """Steps of one micro-batch, which are part `step`, and of several."""
    return [*_read("step")["results"], *_read("accumulation")["results"]]


def hooks_section() -> str:
    """Time in projections per step, against hooks on every micro-batch."""
    rows = []
    for result in _accumulations():
        own = {name: cell["own"]["median"] for name, cell in result["kinds"].items()}
        cells = [
            f"{_ms(own[name])} ({own[name] / own['gradient']:.1f} times)" for name in ("hooks", "hooks, with care")
        ]
        rows.append([str(result["accumulation"]), _ms(own["gradient"]), *cells, _ms(own["update"])])
    head = ["micro-batches per step", "`gradient` (ms)", "hooks (ms)", "hooks, with care (ms)", "`update` (ms)"]
    return f"{_table(head, rows)}\n\nCommand: `python benchmarks/cost accumulation`."


def projection_section() -> str:
    """Every cell of the grid against its limit."""
    result = _read("projection")
    rows, missing = [], []
    for cell in result["cells"]:
        what = [f"{cell['parameters'] / 1e6:.0f}", cell["dtype"], str(cell["k"]), cell["granularity"]]
        if not cell["fits"]:
            missing.append(f"{cell['size']} in {cell['dtype']} with k = {cell['k']}")
            continue
        own = [f"{_ms(cell[n]['seconds']['median'])} ({cell[n]['of_limit']:.0%})" for n in ("fused", "plain")]
        rows.append([*what, _ms(cell["limit"]), *own])
    head = ["million parameters", "gradients, basis", "k", "granularity", "limit (ms)", "fused (ms)", "plain (ms)"]
    speeds = {name: [c["gb_s"][name] for c in result["cells"] if c["fits"]] for name in ("read", "update")}
    read, update = (f"{min(values):.0f} to {max(values):.0f} GB/s" for values in speeds.values())
    text = (
        f"In brackets the share of the limit that is reached. The cells' own bandwidth: {read} for reading, {update} "
        "for an addition in place."
    )
    large = [c for c in result["cells"] if c["fits"] and c["parameters"] >= WORTH_COMPILING]
    for dtype in dict.fromkeys(c["dtype"] for c in large):
        shares = [c["fused"]["of_limit"] for c in large if c["dtype"] == dtype]
        reached = f"{sum(share >= GOAL for share in shares)} of {len(shares)} cells reach {GOAL:.0%}"
        text += f" Compiled, from 16 million on, {dtype}: {reached} (lowest {min(shares):.0%}, median "
        text += f"{np.median(shares):.0%})."
    left_out = f" Not enough memory for: {'; '.join(missing)}." if missing else ""
    return f"{_table(head, rows, 2)}\n\n{text}{left_out} Command: `python benchmarks/cost projection`."


def _cells(dtype: str, granularity: str = "parameter") -> list[dict[str, Any]]:
    cells = _read("projection")["cells"]
    return [c for c in cells if c["fits"] and c["dtype"] == dtype and c["granularity"] == granularity]


def _fit(dtype: str) -> tuple[float, float, float]:
    """Seconds per call and bytes per second of compiled projections, and the largest relative error of the fit."""
    cells = _cells(dtype)
    taken = np.array([c["fused"]["seconds"]["median"] for c in cells])
    causes = np.array([[c["calls"], c["bytes"]] for c in cells])
    found, *_ = np.linalg.lstsq(causes / taken[:, None], np.ones(len(cells)), rcond=None)
    return float(found[0]), 1 / float(found[1]), float(np.abs(causes @ found / taken - 1).max())


def growth_section() -> str:
    """The fit in d and k, the measurement in N, the law in steps."""
    rows = []
    for dtype in dict.fromkeys(c["dtype"] for c in _read("projection")["cells"]):
        tensor, speed, error = _fit(dtype)
        rows.append([dtype, f"{tensor * 1e6:.0f}", f"{speed / 1e9:.0f}", f"{error:.0%}"])
    head = ["gradients, basis", "µs per call", "GB/s", "largest error of the fit"]
    ranks = {line["ranks"]: line["seconds"]["median"] for line in _read("ranks")["results"]}
    return (
        f"{_table(head, rows)}\n\n- **N ranks.** {ranks[1] * 1e3:.1f} ms on one rank, {ranks[2] * 1e3:.1f} ms where "
        f"two share the gradient ({ranks[1] / ranks[2]:.2f} times as fast), one thread each, gloo, k = 2, "
        f"{_read('ranks')['parameters'] / 1e6:.0f} million parameters. Command: `python benchmarks/cost ranks`."
    )


def refresh_section() -> str:
    """Ways to cut a refresh into passes, and a refresh beside its bare passes."""
    result = _read("refresh")
    rows = []
    for name, count in result["passes"].items():
        over = result["over_bare"][name]
        taken = [f"{result['seconds'][f'{what}, {name}']['median']:.1f} s" for what in ("bare", "refresh")]
        share = f"{over['median']:.3f} ({over['min']:.3f} to {over['max']:.3f})"
        rows.append([name, str(count), f"{result['tokens'][name]:,}", *taken, share])
    batch, reference = result["training_batch"], result["reference_rows"]
    head = ["passes", "number", "tokens, padded", "bare passes", "refresh", "refresh over bare passes"]
    return (
        f"{_table(head, rows)}\n\n{reference['count']} rows of {reference['mean']:.0f} tokens on average and "
        f"{reference['longest']} at the most, where training takes {batch['rows']} rows of up to {batch['longest']} "
        f"at a time; {result['parameters'] / 1e6:.0f} million parameters, "
        f"{len(result['over_bare']['rows']['all'])} rounds. Command: `python benchmarks/cost refresh`."
    )


def whole_section() -> str:
    """Whole periods: refresh and the K steps after it."""
    periods = _read("whole_run")["periods"]
    rows = []
    for period in periods:
        ratio, over = period["ratio"], period["points_over_bare_passes"]
        for kind in over:
            cells = [f"{100 * (ratio[k]['median'] - 1):.1f}%" for k in ("bare passes", kind)]
            points = f"{over[kind]['median']:+.1f} ({over[kind]['min']:+.1f} to {over[kind]['max']:+.1f})"
            rows.append([str(period["period"]), kind, *cells, points, str(period["rounds"])])
    head = ["K", "OGPSA", "bare passes over naive", "OGPSA over naive", "points over bare passes", "rounds"]
    first = periods[0]
    return (
        f"{_table(head, rows, 2)}\n\nMedians and range of rounds; kinds take turns step by step. "
        f"{first['parameters'] / 1e6:.0f} million parameters, {first['tokens_per_step']:,} tokens in 128 rows per "
        f"step, {first['rows_per_refresh']} rows per refresh. Command: `python benchmarks/cost whole_run`."
    )


def prediction_section() -> str:
    """The paper's runs on 8 GPUs, from what was measured here and a data sheet."""
    # Shards are read twice, as all products of a tensor have to be summed over ranks before any of it is changed.
    largest = max((c for c in _cells("bfloat16", "global") if c["k"] == 2), key=lambda c: c["parameters"])
    share = largest["fused"]["of_limit"]
    footprint = scaling.predict(scaling.shapes("7B"), "zero2", GPUS, 2, precision="mixed")
    # ZeRO-2 divides one long vector of all tensors: a rank has an eighth of them, nearly all of these whole.
    sizes = [shape.numel() for shape in scaling.shapes("7B")]
    long = sum(-(-size // FusedKernels.piece) for size in sizes if size >= SHORT)
    moved, calls = scaling.moved(footprint), 2 * (1 + long / GPUS)
    projection = moved / (share * scaling.BANDWIDTH) + _fit("bfloat16")[0] * calls
    # Copying k gradients, their Gram matrix and mixing them: 5 k numbers an element, where a projection takes 2 k + 3.
    spanning = 10 / 7 * projection
    parameters = sum(shape.numel() for shape in scaling.shapes("7B"))
    rows = []
    for stage in scaling.STAGES:
        training = stage.training(scaling.RECOMPUTED)
        step = 2 * parameters * stage.batch * ROW * training / (GPUS * PEAK * UTILISATION)
        bare = 2 * scaling.ROWS * scaling.RECOMPUTED / (stage.refresh_steps * stage.batch * training)
        spans = spanning / (stage.refresh_steps * step)
        cells = [bare, projection / step, spans, bare + projection / step + spans]
        rows.append([stage.name, str(stage.refresh_steps), f"{step:.2f}", *(f"{cell:.2%}" for cell in cells)])
    head = ["stage", "K", "step (s)", "reference passes", "projection", "spanning the subspace", "together"]
    return (
        f"{_table(head, rows)}\n\nFrom this page: compiled kernels reach {share:.0%} of what simple operations reach "
        "in bfloat16 (largest model, k = 2, global), and the fit's time per call. **Assumed**, not measured: that "
        f"both hold on a GPU, with its data sheet's {scaling.BANDWIDTH / 1e12:.2f} TB/s (H100) as the limit; "
        f"{UTILISATION:.0%} of its {PEAK / 1e12:.0f} TFLOP/s in use; ZeRO-2, gradient checkpointing, rows of {ROW} "
        "tokens. On paper: "
        "the passes, and that spanning moves 10/7 of a projection's bytes. Command: `python docs/refresh.py`."
    )


def bound_section() -> str:
    """What share of a step on one GPU a projection takes at least: model sizes cancel out."""
    tokens = 16 * 1024
    rows = []
    for gradients, bytes_moved in (("bfloat16", 2 * 2 * 2 + 3 * 2), ("float32", 2 * 2 * 2 + 3 * 4)):
        # moved / bandwidth over 2 x passes x parameters x tokens / (peak x utilisation), per parameter
        shares = [
            bytes_moved * PEAK * UTILISATION / (scaling.BANDWIDTH * 2 * passes * tokens)
            for passes in (scaling.RECOMPUTED, scaling.PLAIN)
        ]
        rows.append([gradients, *(f"{share:.2%} ({tokens * share / 0.01:,.0f} tokens)" for share in shares)])
    return (
        f"{_table(['gradients', 'with gradient checkpointing', 'without'], rows)}\n\nA projection's bytes over the "
        f"data sheet's bandwidth, in a step of {tokens:,} tokens on one H100 at {UTILISATION:.0%} of its peak; a "
        "bfloat16 basis of two directions. In brackets the tokens that a step must have for 1%. Command: `python "
        "docs/refresh.py`."
    )


def draw() -> None:
    """Time of a projection against the bytes it moves, with the limit, and of hooks against micro-batches."""
    figure, axes = new_figure(1, 2)
    left, right = axes[0]
    for i, dtype in enumerate(dict.fromkeys(c["dtype"] for c in _read("projection")["cells"])):
        cells = sorted(_cells(dtype), key=lambda c: c["bytes"])
        size = [c["bytes"] / 1e9 for c in cells]
        for name, filled in (("fused", True), ("plain", False)):
            taken = [c[name]["seconds"]["median"] * 1e3 for c in cells]
            face = COLOURS[i] if filled else "none"
            label = f"{dtype}, {name}"
            left.plot(size, taken, MARKERS[i + 1], color=COLOURS[i], markerfacecolor=face, label=label, ls="none")
    cells = sorted(_cells("float32"), key=lambda c: c["bytes"])
    limits = [c["limit"] * 1e3 for c in cells]
    left.plot([c["bytes"] / 1e9 for c in cells], limits, color="black", lw=1, label="float32, limit")
    left.set(xscale="log", yscale="log", xlabel="moved by one projection (GB)", ylabel="milliseconds")
    left.set_title("Projection against the memory's bandwidth", fontsize=10)
    results = _accumulations()
    for i, name in enumerate(("hooks", "hooks, with care", "gradient", "update", "preconditioned")):
        taken = [result["kinds"][name]["own"]["median"] * 1e3 for result in results]
        number = [result["accumulation"] for result in results]
        right.plot(number, taken, marker=MARKERS[i], color=COLOURS[i + 3], label=name)
    right.set(xscale="log", yscale="log", xlabel="micro-batches per step", ylabel="milliseconds per step")
    right.set_xticks(number, [str(n) for n in number])
    right.set_title("Projecting once per step, or in hooks", fontsize=10)
    add_legend(figure, [h for each in (left, right) for h in each.get_legend_handles_labels()[0]], columns=4)
    save(figure, PICTURE)
