"""The main table on a terminal of 120 columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .document import Table


if TYPE_CHECKING:
    from rich.table import Table as RichTable


_KEYWORDS = re.compile(r" \([^()]*judged by keywords\)")
_NARROW = 6  # the width of "100.00"
_WIDEST = 12  # of a name; a longer one goes on in the next line
_STYLES = {0: "", 1: "bold", 2: "underline"}
_ROWS = {"base": "dim", "quoted": "dim italic", "measured": ""}


def to_terminal(table: Table, title: str) -> RichTable:
    """Make a table for the terminal: best in bold, second best underlined.

    Args:
        table: the table.
        title: what stands above it.

    Returns:
        A table of rich.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    if any(_KEYWORDS.search(head) for head in table.heads):
        title += "; * is judged by keywords, at least in part"
    shown = RichTable(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for place, head in enumerate(table.label_heads):
        longest = max([len(head), *(len(line.labels[place]) for line in table.lines)])
        width = min(longest, _WIDEST)
        shown.add_column(Text(head), min_width=width, max_width=width, overflow="fold")
    for head in table.heads:
        folded = _folded(head)
        longest = max(map(len, folded.split()))
        width = longest if longest == _NARROW + 1 else _NARROW  # one more for "General"; others go on in the next line
        shown.add_column(Text(folded), justify="right", min_width=width, max_width=width, overflow="fold")
    for line, following in zip(table.lines, [*table.lines[1:], None], strict=True):
        cells = [Text(cell.text, style=_STYLES[cell.rank]) for cell in line.cells]
        last = following is not None and following.labels[0] != line.labels[0]
        shown.add_row(*map(Text, line.labels), *cells, style=_ROWS[line.kind], end_section=last)
    return shown


def _folded(head: str) -> str:
    """A head in lines that a narrow column holds: `StrongReject` is two words, and so is `look-alikes`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z]-)(?=[a-z])", "\n", _KEYWORDS.sub("*", head))
