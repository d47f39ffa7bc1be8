"""Granularity: which tensors are projected together as one vector."""

import re
from collections.abc import Sequence
from typing import Literal


Granularity = Literal["parameter", "layer", "global"]


def group_parameters(names: Sequence[str], granularity: Granularity) -> list[int]:
    """Map each parameter to the group it is projected in.

    Args:
        names: qualified parameter names, e.g. ``model.layers.3.mlp.up_proj.weight``.
        granularity: ``parameter`` (every tensor alone: what the authors' released code does), ``layer`` (all tensors
            of one numbered block together, other tensors by their module) or ``global`` (one vector, as in the
            paper's text).

    Returns:
        One group index per name, numbered from 0 in order of first appearance.

    Raises:
        ValueError: if ``granularity`` is none of the three.
    """
    if granularity == "parameter":
        return list(range(len(names)))
    if granularity == "global":
        return [0] * len(names)
    if granularity != "layer":
        raise ValueError(f"granularity must be parameter, layer or global, got {granularity!r}.")
    index: dict[str, int] = {}
    groups = []
    for name in names:
        block = re.match(r"(?:.*?\.)??\d+(?=\.)", name)
        key = block.group(0) if block else name.rpartition(".")[0]
        groups.append(index.setdefault(key, len(index)))
    return groups
