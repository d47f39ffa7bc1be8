"""Which rows of a pool to take as a reference set: pure functions on one vector per row.

OGPSA protects the span of its reference gradients, so a good reference set is one whose gradients span the pool's.
Finding the best such rows is the column subset selection problem, which is NP-hard; :func:`select_spanning` is the
usual greedy answer to it (Farahat, Ghodsi and Kamel, 2011). The other choices are what it must be compared with.
"""

import random
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ..errors import OGPSAError


# A row lies in the span of others when less than this share of its own squared norm sticks out: the residuals' own
# rounding is around 1e-30, that of gradients in float32 around 1e-14.
_SPENT = 1e-12
_TIE = 1e-9  # scores closer than this, relatively, differ by rounding
_STALE = 1e-3  # updated scores are computed anew once this share of the energy they were computed from is left


def select(method: str, groups: Sequence[Hashable], count: int, seed: int, features: Tensor | None) -> list[int]:
    """Choose rows by one of ``random``, ``stratified``, ``loss``, ``embedding`` and ``gradient``.

    Args:
        method: its name.
        groups: the group of every row.
        count: number of rows to choose.
        seed: of the draws.
        features: of shape ``[rows, dimensions]``: losses (one dimension), embeddings or gradients; may be None for
            ``random`` and ``stratified``.

    Returns:
        ``count`` different indices; what the method's own function raises is raised here too.
    """
    if method == "random":
        return select_random(len(groups), count, seed)
    if method == "stratified":
        return select_stratified(groups, count, seed)
    assert features is not None, f"method {method} needs features"
    if method == "loss":
        return select_by_loss(features[:, 0], count)
    return select_spanning(unit_rows(features), count)


def select_random(rows: int, count: int, seed: int) -> list[int]:
    """Draw rows without replacement.

    Args:
        rows: number of rows in the pool.
        count: number of rows to draw.
        seed: of the draw.

    Returns:
        ``count`` different indices, ascending.

    Raises:
        OGPSAError: the pool has fewer rows.
    """
    _check(rows, count)
    return sorted(random.Random(seed).sample(range(rows), count))


def select_stratified(groups: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Draw the same number of rows from every group, as far as the groups' sizes allow.

    Equal quotas, not proportional ones: a rare skill is as easily forgotten as a common one. A group that is too
    small gives all its rows, and the others share what is missing; what cannot be shared equally goes to the groups
    that have most rows left, one each (of equal ones, to the group that comes first in the pool).

    Args:
        groups: the group of every row.
        count: number of rows to draw.
        seed: of the draws within the groups.

    Returns:
        ``count`` different indices, ascending.

    Raises:
        OGPSAError: the pool has fewer rows.
    """
    _check(len(groups), count)
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    level = max(level for level in range(count + 1) if sum(min(len(m), level) for m in members.values()) <= count)
    quotas = {group: min(len(rows), level) for group, rows in members.items()}
    by_size = sorted(members, key=lambda group: -len(members[group]))
    for group in by_size[: count - sum(quotas.values())]:
        quotas[group] += 1
    rng = random.Random(seed)
    return sorted(row for group, rows in members.items() for row in rng.sample(rows, quotas[group]))


def select_by_loss(losses: Tensor, count: int) -> list[int]:
    """Spread the choice evenly over the losses: the middle row of each of ``count`` equal slices of their order.

    Not the extremes: the highest losses are those of wrong or odd rows, and rows with the lowest have hardly a
    gradient. Equal slices keep the pool's distribution: its shares of easy and of hard rows.

    Args:
        losses: of shape ``[rows]``, finite.
        count: number of rows to choose.

    Returns:
        ``count`` different indices, by ascending loss. Of equal losses, the lower index counts as the smaller.

    Raises:
        OGPSAError: the pool has fewer rows, or a loss is not finite.
    """
    _check(len(losses), count)
    _check_finite(losses[:, None])
    order = losses.argsort(stable=True).tolist()
    return [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]


def select_spanning(features: Tensor, count: int) -> list[int]:
    """Choose rows greedily so that their span holds as much of the pool's energy as possible.

    Each pick maximises the sum over the pool of squared projections onto the span of all picks so far. With residuals
    ``R`` (what of each row is outside the span) and ``G = R R^T``, row ``i`` adds ``f_i / g_i``, where
    ``f_i = ||G_i||^2`` and ``g_i = G_ii``. A pick with unit residual ``q`` changes these through ``w = R q`` alone:
    ``G <- G - w w^T``, so ``f_i <- f_i - 2 w_i (G w)_i + w_i^2 ||w||^2``: each pick costs a few passes over ``R``.

    Once no row sticks out of the span (the pool's rank is used up), another round starts with the rows that are left.

    Args:
        features: of shape ``[rows, dimensions]``, finite. Rows count by their squared norms: see :func:`unit_rows`.
        count: number of rows to choose.

    Returns:
        ``count`` different indices in the order in which they were picked: the first ``k`` are the choice of ``k``
        rows. Of rows that are equally good up to rounding, the lowest index is taken; rows of zeros come last.

    Raises:
        OGPSAError: the pool has fewer rows, or a feature is not finite.
    """
    _check(len(features), count)
    _check_finite(features)
    picked: list[int] = []
    left = torch.arange(len(features))
    while len(picked) < count:
        chosen = _one_round(features[left], count - len(picked))
        if not chosen:  # only zeros are left
            chosen = list(range(count - len(picked)))
        picked += left[chosen].tolist()
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[chosen] = False
        left = left[keep]
    return picked


def _one_round(features: Tensor, count: int) -> list[int]:
    """Pick until ``count`` rows are picked or none sticks out of their span; see :func:`select_spanning`."""
    residuals = features.double()
    residuals = residuals / residuals.abs().max().clamp_min(torch.finfo(torch.float64).tiny)  # squares stay in range
    own = residuals.square().sum(dim=1)
    g = own.clone()
    f, energy_then = torch.zeros_like(own), float("inf")
    picked: list[int] = []
    while len(picked) < count:
        candidates = g > _SPENT * own
        if not candidates.any():
            break
        energy = float(g.sum())
        if energy < _STALE * energy_then:
            f, energy_then = _squared_gram_rows(residuals), energy
        scores = torch.where(candidates, f / g, -1.0)
        best = int((scores >= scores.max() * (1 - _TIE)).nonzero()[0])
        picked.append(best)
        q = residuals[best] / residuals[best].norm()
        w = residuals @ q
        f -= 2 * w * (residuals @ (residuals.T @ w)) - w.square() * w.square().sum()
        f.clamp_(min=0)
        residuals.addr_(w, q, alpha=-1)
        g = residuals.square().sum(dim=1)
    return picked


def _squared_gram_rows(rows: Tensor) -> Tensor:
    """``||(R R^T)_i||^2`` of every row, by way of the small matrix ``R^T R``: the Gram matrix may not fit."""
    return ((rows @ (rows.T @ rows)) * rows).sum(dim=1)


def unit_rows(features: Tensor) -> Tensor:
    """Divide every row by its norm.

    The span of a set of rows does not depend on their norms, but what a greedy choice counts as energy does: gradients
    of short or hard answers are many times longer than others, and without this would be all it looks at.

    Args:
        features: of shape ``[rows, dimensions]``.

    Returns:
        The rows at norm 1; rows of zeros stay as they are.
    """
    norms = features.norm(dim=1, keepdim=True)
    return features / torch.where(norms > 0, norms, 1.0)


def explained(features: Tensor, picked: Sequence[int]) -> float:
    """Share of the pool's energy that lies in the span of the picked rows.

    Args:
        features: of shape ``[rows, dimensions]``, finite.
        picked: indices of rows.

    Returns:
        The sum of squared projections over the sum of squared norms, in [0, 1]; 1 for a pool of zeros.
    """
    pool = features.double()
    total = pool.square().sum()
    if total == 0:
        return 1.0
    _, values, directions = torch.linalg.svd(unit_rows(pool[list(picked)]), full_matrices=False)
    basis = directions[values.square() > _SPENT / 100]  # every row that was picked for its own direction counts
    return min(1.0, float((pool @ basis.T).square().sum() / total))


def mean_cosine(features: Tensor, picked: Sequence[int]) -> float:
    """Cosine between the mean of the picked rows and the mean of the pool.

    With gradients that are weighted by their label tokens this is the cosine between the one direction that the choice
    gives as a reference set (``ogpsa_rank: 1``) and the one that the whole pool would give.

    Args:
        features: of shape ``[rows, dimensions]``, finite.
        picked: indices of rows.

    Returns:
        A number in [-1, 1]; 0 where a mean is zero.
    """
    pool = features.double()
    return float(torch.cosine_similarity(pool[list(picked)].mean(dim=0), pool.mean(dim=0), dim=0))


def _check(rows: int, count: int) -> None:
    if not 1 <= count <= rows:
        raise OGPSAError(f"{count} rows were asked for of a pool with {rows}: ask for 1 to {rows}, or add rows to it.")


def _check_finite(features: Tensor) -> None:
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise OGPSAError(f"{len(bad)} rows have features that are not finite (indices {rows}): leave them out.")
