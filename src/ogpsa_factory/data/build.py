"""From rows of public sources to training files, cards and entries in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..files import locked, replaced_file
from .cards import Card, read_facts
from .finished import differences, instructions_in
from .paper import FOLDER, STEPS, Order
from .pools import OnRows, Pools
from .recipes.saferlhf import HarmfulPrompt
from .recipes.values import Pair
from .records import write_rows
from .refusals import RefusalRequest, Refusals
from .registry import Registry
from .rewrites import Rewritten
from .sources import Source


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
        on_rows: OnRows = lambda source, rows: None,
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
        self._folder = order.dataset_dir / FOLDER
        self._registry = Registry(order.dataset_dir)
        self._pools = Pools(order, on_rows)
        self._open: list[str] = []  # steps whose sets are still to be made

    def run(self) -> Iterator[Built]:
        """Build what is missing, step by step, and register it.

        Yields:
            Each set when it is on the disk and registered.

        Raises:
            OGPSAError: sets or entries of the same names are there that are not as they would be built, a source
                cannot be read or gives no rows, or another build writes to the same folder.
        """
        order = self.order
        self._registry.check_free(order.entries(order.steps), replace=order.replace)
        busy = f"Another `ogpsa data build` writes to {self._folder}: wait until it ends, or stop it."
        with locked(self._folder / ".lock", busy):
            for path in self._folder.glob(".*.tmp.*"):  # half-written files of a build that was killed
                path.unlink(missing_ok=True)
            self._open = self._plan()
            for name in order.steps:
                built = list(self._make(name) if name in self._open else self._kept(name))
                self._registry.register(order.entries([name]), replace=order.replace)
                yield from built
            self._pools.forget()

    def _plan(self) -> list[str]:
        """The steps whose sets have to be made; what would be lost by that is refused before anything is read."""
        order = self.order
        found: list[str] = []
        reasons: dict[tuple[str, ...], list[str]] = {}
        for name in order.steps:
            for path in order.files_of(name):
                if differs := differences(path, order.settings_of(name)):
                    reasons.setdefault(tuple(differs), []).append(path.stem)
                elif path.exists():
                    continue
                found += [name] * (name not in found)
        for name in order.steps:
            other = STEPS[name].other
            if other is None or name in found or other in found:
                continue
            shared = instructions_in(order.files_of(name)) & instructions_in(order.files_of(other))
            if shared:
                differs = [f"{len(shared):,} of its instructions are in {_names(other)} too"]
                reasons.setdefault(tuple(differs), []).extend(STEPS[name].sets.values())
                found.append(name)
        if reasons and not order.replace:
            listed = "; ".join(f"{', '.join(sets)} ({', '.join(differs)})" for differs, sets in reasons.items())
            raise OGPSAError(
                f"{self._folder} has sets that are not as this build would make them: {listed}. Nothing was changed. "
                "Pass --replace to make them anew, or choose another --output."
            )
        return found

    def _kept(self, name: str) -> Iterator[Built]:
        for path in self.order.files_of(name):
            rows = read_facts(path.with_suffix(".md"))["rows"]
            yield Built(path.stem, path, rows, self.order.samples_of(name), False)

    def _make(self, name: str) -> Iterator[Built]:
        step, order = STEPS[name], self.order
        left_out = self._left_out(name)
        drawn, counts = self._pools.draw(step.source, self._size(step.source))
        items = [item for item in drawn if item[0] not in left_out][: order.samples_of(name)]
        if not items:
            raise OGPSAError(_nothing_left(name, len(drawn), counts))
        pairs, written = self._written(name, items)
        for kind, set_name in step.sets.items():
            path = order.file_of(set_name)
            rows = [_record(kind, *pair) for pair in pairs]
            # The card comes first: a file without one would look like the user's own to the next build.
            with replaced_file(path) as temporary:
                done = write_rows(temporary, rows)
                Card(
                    name=set_name,
                    kind=kind,
                    rows=done.rows,
                    sha256=done.sha256,
                    settings=order.settings_of(name),
                    source=step.source,
                    origin=order.origins[step.source.name].described,
                    counts=counts,
                    recipe=step.recipe,
                    written=written,
                    left_out={_names(step.other): len(left_out)} if step.other and left_out else {},
                    characters=_mean_characters(rows),
                ).write(path.with_suffix(".md"))
            yield Built(set_name, path, done.rows, order.samples_of(name), True)
        self._open.remove(name)

    def _written(self, name: str, items: list[Any]) -> tuple[list[Pair], dict[str, Any]]:
        """The pairs of a step, and what was written for them."""
        if name == "saferlhf":
            harmful = [HarmfulPrompt(*item) for item in items]
            done = self._write_refusals([RefusalRequest(each.prompt, tuple(each.categories)) for each in harmful])
            pairs = [Pair(each.prompt, text, each.rejected) for each, text in zip(harmful, done.texts, strict=True)]
            return pairs, {"what": "Refusals", "method": done.method, "counts": dict(done.counts)}
        pairs = [Pair(*item) for item in items]
        if name != "halueval" or self._rewrite is None:
            return pairs, {}
        rewritten = self._rewrite(pairs)
        method = {"what": "Form of the rejected answers", "method": rewritten.method, "counts": rewritten.counts}
        return rewritten.pairs, method

    def _left_out(self, name: str) -> set[str]:
        """Instructions of the other step with the same source; none where its sets are to be made after this one."""
        other = STEPS[name].other
        return set() if other is None or other in self._open else instructions_in(self.order.files_of(other))

    def _size(self, source: Source) -> int:
        """Prompts that are enough for all steps with a source, and for what each leaves out.

        It is the same before and after a step is made, so that what an interrupted build has drawn is found again.
        """
        order, sizes = self.order, []
        for name in order.steps:
            if STEPS[name].source is source:
                other = STEPS[name].other
                to_come = order.samples_of(other) if other and other in order.steps else 0
                sizes.append(order.samples_of(name) + max(to_come, len(self._left_out(name))))
        return max(sizes)


def _names(step: str) -> str:
    return " and ".join(STEPS[step].sets.values())


def _nothing_left(name: str, drawn: int, counts: dict[str, int]) -> str:
    """Why a step has no rows, and what to do."""
    step = STEPS[name]
    if step.other and drawn:
        return (
            f"{step.source.name} has no instruction left for {_names(name)}: all {drawn:,} that fit are in "
            f"{_names(step.other)}. Make those smaller (`ogpsa data build {step.other} --samples N --replace`), or "
            "name a larger source. What was built before is registered."
        )
    seen = ", ".join(f"{what}: {count:,}" for what, count in counts.items()) or "it has no rows"
    return f"{step.source.name} gives no row for {_names(name)} ({seen}). Name another file with --source."


def _record(kind: str, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    if kind == "sft":
        return {"instruction": prompt, "output": chosen}
    return {"instruction": prompt, "chosen": chosen, "rejected": rejected}


def _mean_characters(rows: list[dict[str, str]]) -> dict[str, float]:
    return {column: sum(len(row[column]) for row in rows) / len(rows) for column in rows[0]}
