"""From rows of public sources to training files, cards and entries in the registry."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import OGPSAError
from ..files import locked, read_json, write_json
from .cards import Card, read_facts
from .paper import FOLDER, REFERENCE_ROWS, STEPS, Order
from .recipes import halueval, saferlhf, ultrafeedback
from .recipes.values import Pair
from .records import Row, hash_file, write_rows
from .refusals.writers import RefusalRequest, Refusals
from .registry import Registry
from .rewrites import Rewritten
from .sources import SAFERLHF, ULTRAFEEDBACK, Source


@dataclass(frozen=True)
class Built:
    """One set as it is now; `made` is false where it was there already."""

    name: str
    path: Path
    rows: int
    asked: int
    made: bool


class Builder:
    """Carries out an order."""

    def __init__(
        self,
        order: Order,
        write_refusals: Callable[[list[RefusalRequest]], Refusals],
        rewrite: Callable[[list[Pair]], Rewritten] | None = None,
        on_rows: Callable[[Source, int], None] = lambda source, rows: None,
    ) -> None:
        """Prepare to build; nothing is read or written yet.

        Args:
            order: what to build.
            write_refusals: from requests to refusals, one each.
            rewrite: gives HaluEval's rejected answers the form of the chosen ones; None leaves that to the recipe.
            on_rows: called now and then with the number of rows read from a source.
        """
        self.order = order
        self._write_refusals = write_refusals
        self._rewrite = rewrite
        self._on_rows = on_rows
        self._registry = Registry(order.dataset_dir)
        self._pools: dict[str, tuple[list[Any], Counter[str]]] = {}

    def run(self) -> Iterator[Built]:
        """Build what is missing, set by set, and register it.

        Yields:
            Each set when it is on the disk.

        Raises:
            OGPSAError: a source cannot be read or gives no rows, the registry has other entries of the same names, or
                another build writes to the same folder.
        """
        self._registry.check_free(self.order.entries(), replace=self.order.replace)
        folder = self.order.dataset_dir / FOLDER
        busy = f"Another `ogpsa data build` writes to {folder}: wait until it ends, or stop it."
        with locked(folder / ".lock", busy):
            for name in self.order.steps:
                yield from self._step(name)
            self._registry.register(self.order.entries(), replace=self.order.replace)
            for path in folder.glob(".selected-*.json"):
                path.unlink()

    def _step(self, name: str) -> Iterator[Built]:
        step, order = STEPS[name], self.order
        asked, fingerprint = order.samples_of(name), self._fingerprint(name)
        kept = {set_name: self._kept(set_name, fingerprint) for set_name in step.sets.values()}
        if all(kept.values()):
            for set_name, rows in kept.items():
                yield Built(set_name, order.file_of(set_name), rows or 0, asked, False)
            return
        items, counts = self._select(step.source)
        start = self._reserved() if name == "general" else 0
        items = items[start : start + asked]
        if not items:
            seen = ", ".join(f"{what}: {count:,}" for what, count in counts.items()) or "it has no rows"
            raise OGPSAError(f"{step.source.name} gives no row for {', '.join(step.sets.values())} ({seen}).")
        pairs, written = self._written(name, items)
        for kind, set_name in step.sets.items():
            path = order.file_of(set_name)
            done = write_rows(path, (_record(kind, *pair) for pair in pairs))
            Card(
                name=set_name,
                aliases=[step.aliases[kind]] if order.aliases else [],
                kind=kind,
                rows=done.rows,
                asked=asked,
                sha256=done.sha256,
                seed=order.seed,
                source=step.source,
                origin=order.origins[step.source.name].described,
                counts=counts,
                recipe=step.recipe,
                written=written,
                fingerprint=fingerprint,
                version=__version__,
                characters=_mean_characters([_record(kind, *pair) for pair in pairs]),
            ).write(path.with_suffix(".md"))
            yield Built(set_name, path, done.rows, asked, True)

    def _written(self, name: str, items: list[Any]) -> tuple[list[Pair], dict[str, Any]]:
        """The pairs of a step, and what was written for them."""
        if name == "saferlhf":
            harmful = [saferlhf.HarmfulPrompt(*item) for item in items]
            done = self._write_refusals([RefusalRequest(each.prompt, tuple(each.categories)) for each in harmful])
            pairs = [Pair(each.prompt, text, each.rejected) for each, text in zip(harmful, done.texts, strict=True)]
            return pairs, {"what": "Refusals", "method": done.method, "counts": dict(done.counts)}
        pairs = [Pair(*item) for item in items]
        if name != "halueval" or self._rewrite is None:
            return pairs, {}
        rewritten = self._rewrite(pairs)
        method = {"what": "Form of the rejected answers", "method": rewritten.method, "counts": rewritten.counts}
        return rewritten.pairs, method

    def _fingerprint(self, name: str) -> str:
        order, step = self.order, STEPS[name]
        own: dict[str, Any] = {"saferlhf": order.writer, "general": self._reserved()}
        own["halueval"] = [order.knowledge, order.writer if self._rewrite else None]
        origin = order.origins[step.source.name].identity()
        facts = [__version__, name, order.samples_of(name), order.seed, origin, own.get(name)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _kept(self, set_name: str, fingerprint: str) -> int | None:
        """The rows of a set that is there, whole and the same as it would become."""
        path = self.order.file_of(set_name)
        facts = read_facts(path.with_suffix(".md"))
        if facts.get("fingerprint") != fingerprint or not path.is_file() or facts.get("sha256") != hash_file(path):
            return None
        return int(facts["rows"])

    def _reserved(self) -> int:
        """How many of the first rows of UltraFeedback's draw belong to the reference set."""
        if "ultrafeedback" in self.order.steps:
            return self.order.samples_of("ultrafeedback")
        facts = read_facts(self.order.file_of("ultrafeedback_ref_sft").with_suffix(".md"))
        return max(REFERENCE_ROWS, int(facts.get("rows", 0)))

    def _select(self, source: Source) -> tuple[list[Any], Counter[str]]:
        """Prompts and answers for all steps with this source, in random order, and what became of its rows.

        They are kept beside the sets until all are built, so that what is interrupted later need not read again.
        """
        if source.name in self._pools:
            return self._pools[source.name]
        order = self.order
        size = max(
            order.samples_of(name) + (self._reserved() if name == "general" else 0)
            for name in order.steps
            if STEPS[name].source is source
        )
        origin = order.origins[source.name]
        facts = json.dumps([__version__, origin.identity(), size, order.seed, order.knowledge])
        kept = order.dataset_dir / FOLDER / f".selected-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
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
        self._pools[source.name] = (items, counts)
        return items, counts

    def _counted(self, source: Source, rows: Iterable[Row]) -> Iterator[Row]:
        number = 0
        for number, row in enumerate(rows, start=1):
            yield row
            if number % 500 == 0:
                self._on_rows(source, number)
        self._on_rows(source, number)


def _record(kind: str, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    if kind == "sft":
        return {"instruction": prompt, "output": chosen}
    return {"instruction": prompt, "chosen": chosen, "rejected": rejected}


def _mean_characters(rows: list[dict[str, str]]) -> dict[str, float]:
    return {column: sum(len(row[column]) for row in rows) / len(rows) for column in rows[0]}
