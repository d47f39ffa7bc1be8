"""How many reference rows one pass takes: no more tokens than a training batch may have, as that has to fit as well.

A refresh also holds a second basis. Where memory is so scarce, ``ogpsa_reference_batch_size`` is for the user to set.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from ..arguments import OGPSAArguments
from ..reference import BatchSize, ReferenceSet


# What a pass takes besides its tokens, in tokens. On a GPU that is not measured but estimated: to read the weights and
# add up the gradients of 7B parameters takes the time of some hundred tokens, to gather divided weights that of more.
OVERHEAD_CPU, OVERHEAD = 32, 512
_MEDIA = ("images", "videos", "audios")  # whose memory tokens do not tell


def reference_batch_size(
    arguments: OGPSAArguments,
    references: Sequence[ReferenceSet],
    training_rows: Any,
    batch_size: int,
    lowered: bool,
    on_cpu: bool,
) -> BatchSize:
    """Take what was asked for, or what a training batch of the longest rows would take.

    Args:
        arguments: validated arguments.
        references: the reference sets.
        training_rows: the tokenised training set.
        batch_size: rows of a training batch on each device.
        lowered: whether memory may turn out not to suffice, so that the training batch has been made smaller.
        on_cpu: whether training runs on a CPU.

    Returns:
        Rows alone where they were asked for, or where tokens do not tell what fits: streamed data, images.
    """
    asked = arguments.ogpsa_reference_batch_size
    if asked is not None:
        return BatchSize(min(asked, batch_size) if lowered else asked)
    rows = (reference.rows[i] for reference in references for i in range(len(reference.rows)))
    text = not any(row.get(kind) for row in rows for kind in _MEDIA)
    tokens = batch_size * longest_row(training_rows) if text else 0
    return BatchSize(batch_size, tokens, OVERHEAD_CPU if on_cpu else OVERHEAD)


def longest_row(rows: Any) -> int:
    """Input tokens of the longest row of a tokenised set, times the sequences in it.

    Args:
        rows: a dataset with the column ``input_ids``, or with ``chosen_input_ids`` and ``rejected_input_ids``.

    Returns:
        The number; 0 for anything else.
    """
    if not isinstance(rows, Dataset):
        return 0
    names = [name for name in ("chosen_input_ids", "rejected_input_ids") if name in rows.column_names]
    names = names or [name for name in ("input_ids",) if name in rows.column_names]
    longest = 0
    for table in rows.select_columns(names).with_format("arrow").iter(batch_size=1000) if names else ():
        longest = max(longest, *(pc.max(pc.list_value_length(table[name])).as_py() or 0 for name in names))
    return longest * len(names)
