"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .document import Block, Bullets, Cell, Heading, Paragraph, Picture, Table


def to_markdown(blocks: Iterable[Block]) -> str:
    """Write a document as Markdown.

    Args:
        blocks: of the document.

    Returns:
        The text.
    """
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def table_to_markdown(table: Table) -> str:
    """Write one table as Markdown: best in bold, second best underlined.

    Args:
        table: the table.

    Returns:
        Its lines.
    """
    heads = [escaped(head) for head in (*table.label_heads, *table.heads)]
    rule = ["---"] * len(table.label_heads) + ["---:" if table.numeric else "---"] * len(table.heads)
    rows = [[*map(escaped, line.labels), *map(_cell, line.cells)] for line in table.lines]
    return "\n".join(map(_row, [heads, rule, *rows]))


def escaped(text: str) -> str:
    """Take their meaning from the characters that Markdown and HTML would read.

    Args:
        text: any text.

    Returns:
        One line of Markdown that shows it.
    """
    flat = " ".join(text.split())
    flat = re.sub(r"([\\`*|~])", r"\\\1", flat).replace("](", r"]\(")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escaped(text)}"
        case Paragraph(text):
            return escaped(text)
        case Bullets(items):
            return "\n".join(f"- {escaped(item)}" for item in items)
        case Picture(name, description):
            return f"![{escaped(description)}]({name})"
        case Table():
            return table_to_markdown(block)


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.rank, text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
