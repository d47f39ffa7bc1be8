"""A plan in words and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import evaluation
from .data import CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS
from .plan import Plan, Run


SUITE = "paper"  # whose benchmarks the plan counts


def lines_of(
    plan: Plan, price: tuple[float, float] | None = None, suite: str | None = None, narrowed: Sequence[str] = ()
) -> Iterator[str]:
    """Say what a plan holds.

    Args:
        plan: which one.
        price: dollars per million tokens that a judge reads and writes; None where they are not given.
        suite: the one that was asked for; None for that of the table.
        narrowed: options for the evaluation that were given and that the plan does not count with.

    Yields:
        Lines.
    """
    hardware = plan.hardware
    yield f"{plan.table.title}: {len(plan.table.rows)} rows, {len(plan.runs)} runs. Nothing is started by --plan."
    if any(run.on_gpu for run in plan.runs):
        yield (
            f"Planned for {hardware.count} x {hardware.gpu.name} ({hardware.source}): {hardware.gpu.tflops:g} TFLOP/s "
            f"of dense bf16 each by the vendor's data sheet, {hardware.gpu.memory:g} GB; training reaches "
            f"{plan.mfu:.0%} of it (assumed, --mfu)."
        )
    yield ""
    yield from _aligned([_HEAD, *(_columns(plan, run) for run in plan.runs)])
    yield ""
    yield from _totals(plan)
    yield from _evaluation(plan, price, suite)
    if narrowed and plan.evaluation is not None:
        yield (
            f"The figures of evaluation and judge are for these benchmarks of the whole suite `{SUITE}`; they know "
            f"nothing of {', '.join(narrowed)}."
        )
    yield from _data(plan)
    yield from (f"Warning: {line}" for line in plan.warnings())


_HEAD = (
    "run",
    "steps x batch",
    "refreshes (+rows, +work)",
    "GPU-h",
    "GB per GPU",
    "model GB",
    "checkpoints GB",
    "for",
)


def _columns(plan: Plan, run: Run) -> tuple[str, ...]:
    cost = run.cost
    name = f"{run.stage.output}{' (finished)' if run.standing.finished else ''}"
    fits = ""
    if run.memory:
        fits = f"{run.memory[0] / 1e9:.1f} {'fits' if run.memory[0] <= plan.hardware.gpu.memory * 1e9 else 'NO'}"
    refreshes = "-"
    if cost.refreshes:
        more = f"+{cost.reference_rows / cost.rows:.0%}, +{cost.refreshing / cost.training:.0%}"
        refreshes = f"{cost.refreshes} ({more})"
    return (
        name,
        "average" if run.stage.merges else f"{cost.steps} x {cost.batch}",
        refreshes,
        f"{plan.hours(cost.operations):.2f}" if run.on_gpu else "-",
        fits or "-",
        _gigabytes(cost.model_bytes),
        _gigabytes(cost.checkpoint_bytes) if cost.checkpoint_bytes else "-",
        ", ".join(run.rows[:3]) + (f" and {len(run.rows) - 3} more" if len(run.rows) > 3 else ""),
    )


def _totals(plan: Plan) -> Iterator[str]:
    models, checkpoints = plan.disk
    trained = [run for run in plan.runs if run.on_gpu]
    if trained:
        every = plan.hours(sum(run.cost.operations for run in trained))
        left = plan.hours(sum(run.cost.operations for run in plan.left))
        done = "" if left == every else f", {left:.1f} of them still to be done"
        gpus = plan.hardware.count
        yield f"Training: {every:.1f} GPU-hours{done}; {left / gpus:.1f} hours on {gpus} GPUs."
    else:
        yield "Training: on the CPU, within minutes."
    yield (
        f"Disk at the peak: {_gigabytes(models + checkpoints)} GB, of which final models {_gigabytes(models)} GB and "
        f"checkpoints {_gigabytes(checkpoints)} GB (nothing is removed on the way)."
    )


def _evaluation(plan: Plan, price: tuple[float, float] | None, suite: str | None) -> Iterator[str]:
    estimate = plan.evaluation
    if estimate is None:
        which = f"the suite {suite}" if suite else "the suite of the miniature world, without GPU and judge"
        yield f"Evaluation: by {which}."
        return
    shown = [name for name in plan.table.benchmarks if name in evaluation.BENCHMARKS] or list(evaluation.BENCHMARKS)
    hours = estimate.hours(plan.hardware.gpu.tflops, plan.mfu)
    yield (
        f"Evaluation: {hours:.1f} GPU-hours for {len(plan.table.rows)} models on {len(shown)} benchmarks "
        f"({', '.join(shown)}); answers are written at {evaluation.GENERATION_SHARE:.0%} of the "
        "peak (assumed)."
    )
    cost = (
        f"{estimate.price(*price):.2f} dollars at {price[0]:g} and {price[1]:g} per million tokens"
        if price
        else "name its price with --price IN OUT, in dollars per million tokens"
    )
    yield (
        f"Judge (--judge endpoint): {estimate.requests:,} requests, {estimate.tokens_in / 1e6:.1f} million tokens in "
        f"and {estimate.tokens_out / 1e6:.1f} million out; {cost}."
    )


def _data(plan: Plan) -> Iterator[str]:
    for name, command in plan.missing.items():
        yield f"Missing data set: {name} ({command})"
    models = dict.fromkeys(
        [*(run.model for run in plan.runs), *(row.model for row in plan.table.rows if not row.file)]
    )
    yield f"Models: {', '.join(models)}."
    yield (
        f"Tokens: {CHARACTERS_PER_TOKEN} characters are counted as one, and {TEMPLATE_TOKENS} tokens of template are "
        "added to every sequence."
        + (f" Assumed, as they are not there yet: {', '.join(plan.assumed)}." if plan.assumed else "")
    )
    yield (
        "Memory per GPU is what `ogpsa doctor --plan` counts: weights, gradients, optimizer and subspace at a refresh,"
        " without activations. +rows: reference rows per training row; +work: operations of refreshes per operation "
        "of training. Figures of all kinds are estimates: none was measured."
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.0f}" if size >= 1e10 else f"{size / 1e9:.2f}" if size >= 1e7 else f"{size / 1e9:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
