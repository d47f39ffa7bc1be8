"""What a refresh takes, with its rows cut into passes in three ways, and beside the bare passes.

Reference rows are shorter than the longest training rows, as they are in practice, and of many lengths. The bare
passes are those of the same batches, with gradients that are thrown away: what no implementation can avoid.
"""

import math
from typing import Any

import torch
from common import Rows, machine, make_controller, make_model, mean_loss, seconds_of, spread

from ogpsa_factory.llamafactory.batches import OVERHEAD, OVERHEAD_CPU
from ogpsa_factory.reference import BatchSize, ReferenceSet, plan_batches


BATCH, LONGEST, SETS, ROWS = 4, 512, 2, 64  # rows of a training batch, tokens of the longest, reference sets, rows


def measure(size: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Run refreshes and bare passes of all kinds in turn.

    Args:
        size: key of ``SIZES``.
        device: where to train.
        rounds: of each kind.

    Returns:
        Seconds, passes and padded tokens of each kind, and how much longer refreshes take than the bare passes.
    """
    overhead = OVERHEAD_CPU if device.type == "cpu" else OVERHEAD
    kinds = {
        "rows": BatchSize(BATCH),
        "as many as fit": BatchSize(BATCH, BATCH * LONGEST, overhead=10**6),
        "least time": BatchSize(BATCH, BATCH * LONGEST, overhead),
    }
    model = make_model(size, device)
    torch.manual_seed(1)
    references = [_rows(model.config.vocab_size) for _ in range(SETS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    controller = make_controller(model, optimizer, references, BATCH)
    passes = {
        name: [plan_batches(each, 0, batch, 0, 1) for each in controller.references] for name, batch in kinds.items()
    }

    def refresh(name: str) -> None:
        controller.batch_size = kinds[name]
        controller.refresh(0)

    def bare(name: str) -> None:
        for reference, batches in zip(controller.references, passes[name], strict=True):
            for batch in batches:
                mean_loss(model, [reference.rows[i] for i in batch]).backward()
            model.zero_grad(set_to_none=True)

    work = {f"{what}, {name}": (own, name) for name in kinds for what, own in (("refresh", refresh), ("bare", bare))}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for kind in sorted(work, reverse=number % 2 == 1):
            own, name = work[kind]
            taken = seconds_of(lambda own=own, name=name: own(name), device)
            if number:  # the first round fills caches
                seconds[kind].append(taken)
    lengths = [len(row["input_ids"]) for each in references for row in each]
    return {
        "size": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_batch": {"rows": BATCH, "longest": LONGEST},
        "reference_rows": {"count": len(lengths), "mean": sum(lengths) / len(lengths), "longest": max(lengths)},
        "passes": {name: sum(map(len, batches)) for name, batches in passes.items()},
        "tokens": {name: _padded(controller.references, batches) for name, batches in passes.items()},
        "seconds": {kind: spread(values) for kind, values in seconds.items()},
        "over_bare": {
            name: spread([a / b for a, b in zip(seconds[f"refresh, {name}"], seconds[f"bare, {name}"], strict=True)])
            for name in kinds
        },
        **machine(device),
    }


def _padded(references: list[ReferenceSet], passes: list[list[list[int]]]) -> int:
    """Tokens of all passes, each row filled up to the longest of its pass."""
    return sum(
        len(batch) * max(reference.lengths[i] for i in batch)
        for reference, batches in zip(references, passes, strict=True)
        for batch in batches
    )


def _rows(vocabulary: int) -> Rows:
    """Random token ids in rows whose logarithms of length are normal, around 80 tokens."""
    lengths = [min(LONGEST, max(8, round(math.exp(x)))) for x in torch.normal(math.log(80), 0.7, (ROWS,)).tolist()]
    made = []
    for length in lengths:
        tokens = torch.randint(0, vocabulary, (length,)).tolist()
        made.append({"input_ids": tokens, "labels": tokens})
    return made
