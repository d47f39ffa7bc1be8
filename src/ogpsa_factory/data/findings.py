"""What a check finds: counted by kind, with the first places as examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


ERROR, WARNING, NOTE = "error", "warning", "note"
_EXAMPLES = 3


@dataclass
class Finding:
    """One kind of thing in one set.

    Attributes:
        level: `ERROR` (training stops, or reads nothing as it was meant), `WARNING` (single rows are left out, or are
            not worth learning) or `NOTE`.
        what: the words for it.
        count: how many places; 0 where it is not about places.
        places: the first ones.
    """

    level: str
    what: str
    count: int = 0
    places: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.count:
            return self.what
        more = ", …" if self.count > len(self.places) else ""
        return f"{self.what}: {self.count:,} ({'; '.join(self.places)}{more})"


class Findings:
    """All kinds that were found in one set, in order of appearance."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, level: str, what: str, place: str | None = None) -> None:
        """Count one.

        Args:
            level: how bad it is.
            what: its kind, in the same words every time.
            place: where it is; None where it is about the set as a whole.
        """
        finding = self._found.setdefault((level, what), Finding(level, what))
        if place is not None:
            finding.count += 1
            if len(finding.places) < _EXAMPLES:
                finding.places.append(place)

    def __iter__(self) -> Iterator[Finding]:
        return iter(sorted(self._found.values(), key=lambda finding: (ERROR, WARNING, NOTE).index(finding.level)))

    def count(self, level: str) -> int:
        """Number of kinds of a level."""
        return sum(finding.level == level for finding in self._found.values())

    def __len__(self) -> int:
        return len(self._found)
