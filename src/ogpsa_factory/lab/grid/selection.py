"""A part of a grid, as chosen on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace

from ...errors import OGPSAError
from .definition import Grid


def selected(grid: Grid, args: argparse.Namespace) -> Grid:
    """Restrict a grid.

    Args:
        grid: as read.
        args: `seeds`, `methods` and `pipelines`, names separated by commas; None for all.

    Returns:
        The grid with what was chosen, in the file's order.

    Raises:
        OGPSAError: there is no such method or pipeline, a seed is no number, or nothing is left.
    """
    seeds = grid.seeds
    if args.seeds is not None:
        words = [word.strip() for word in args.seeds.split(",")]
        if not all(word.isdecimal() for word in words):
            raise OGPSAError(f"--seeds {args.seeds}: write whole numbers separated by commas.")
        for word in words:
            if int(word) not in grid.seeds:
                raise OGPSAError(f"--seeds {word}: {grid.file} has {', '.join(map(str, grid.seeds))}. Add it there.")
        seeds = tuple(dict.fromkeys(map(int, words)))
    methods = _chosen("--methods", args.methods, grid.methods)
    pipelines = _chosen("--pipelines", args.pipelines, grid.pipelines)
    kept = {
        name: replace(method, pipelines=tuple(each for each in method.pipelines if each in pipelines))
        for name, method in grid.methods.items()
        if name in methods
    }
    kept = {name: method for name, method in kept.items() if method.pipelines}
    if not kept:
        raise OGPSAError(f"{grid.file}: no method is left: none of those chosen takes part in these pipelines.")
    left = {name: rates for name, rates in grid.pipelines.items() if name in pipelines}
    return replace(grid, seeds=seeds, methods=kept, pipelines=left)


def _chosen(option: str, given: str | None, known: Collection[str]) -> set[str]:
    if given is None:
        return set(known)
    words = {word.strip() for word in given.split(",") if word.strip()}
    for word in sorted(words - set(known)):
        raise OGPSAError(f"{option} {word}: the grid has {', '.join(known)}.")
    return words
