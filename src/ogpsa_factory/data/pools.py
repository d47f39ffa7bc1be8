"""Prompts and answers drawn from a source, kept on the disk until all sets that need them are built."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .. import __version__
from ..files import read_json, write_json
from .paper import FOLDER, Order
from .recipes import halueval, saferlhf, ultrafeedback
from .records import Row
from .sources import SAFERLHF, ULTRAFEEDBACK, Source


OnRows = Callable[[Source, int], None]


class Pools:
    """What was drawn from each source of an order: an interrupted build need not read a source again."""

    def __init__(self, order: Order, on_rows: OnRows) -> None:
        """Draw nothing yet.

        Args:
            order: what is built.
            on_rows: called now and then with the number of rows read from a source.
        """
        self._order = order
        self._on_rows = on_rows
        self._folder = order.dataset_dir / FOLDER
        self._drawn: dict[str, tuple[list[Any], Counter[str]]] = {}

    def draw(self, source: Source, size: int) -> tuple[list[Any], Counter[str]]:
        """Draw from a source, once.

        Args:
            source: which one.
            size: how many prompts at most; later calls for the same source get the same.

        Returns:
            Prompts with their answers in random order, the prompt first, and what became of the source's rows.

        Raises:
            OGPSAError: the source cannot be read.
        """
        if source.name in self._drawn:
            return self._drawn[source.name]
        order = self._order
        origin = order.origins[source.name]
        facts = json.dumps([__version__, source.name, origin.identity(), size, order.seed, order.knowledge])
        kept = self._folder / f".selected-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
        if kept.exists():
            stored = read_json(kept)
            items, counts = stored["items"], Counter(stored["counts"])
        else:
            counts = Counter()
            rows = self._counted(source, origin.rows())
            if source is SAFERLHF:
                items = saferlhf.sample_prompts(rows, size, order.seed, counts)
            elif source is ULTRAFEEDBACK:
                items = ultrafeedback.sample_pairs(rows, size, order.seed, counts)
            else:
                items = halueval.sample_pairs(rows, size, order.seed, counts, order.knowledge)
            write_json(kept, {"items": items, "counts": counts})
        self._drawn[source.name] = (items, counts)
        return items, counts

    def forget(self) -> None:
        """Remove what is kept on the disk."""
        for path in self._folder.glob(".selected-*.json"):
            path.unlink(missing_ok=True)

    def _counted(self, source: Source, rows: Iterable[Row]) -> Iterator[Row]:
        number = 0
        for number, row in enumerate(rows, start=1):
            yield row
            if number % 500 == 0:
                self._on_rows(source, number)
        self._on_rows(source, number)
