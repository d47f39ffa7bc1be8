"""A report as one HTML file that needs no other: readable on a phone, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from .document import Block, Bullets, Cell, Heading, Line, Paragraph, Picture, Table


_STYLE = """
:root { color-scheme: light dark;
  --text: #1d2430; --page: #ffffff; --line: #d9dee5; --soft: #f3f5f8; --mute: #5c6675; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e8ee; --page: #14181f; --line: #343c48; --soft: #1d232c; --mute: #9aa5b4; }
}
body { margin: 0 auto; max-width: 76rem; padding: 1rem; color: var(--text); background: var(--page);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1.05rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: 0.85rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
table.text td, table.text th { text-align: left; }
thead th { background: var(--soft); vertical-align: bottom; white-space: normal; min-width: 3.5rem; }
th.name { text-align: left; font-weight: 500; white-space: normal; min-width: 6rem; max-width: 11rem;
  background: var(--page); position: sticky; left: 0; }
th.name small { display: block; color: var(--mute); font-weight: 400; line-height: 1.2; }
thead th.name { background: var(--soft); }
tr:last-child > * { border-bottom: 0; }
tr.base > * { border-bottom: 2px solid var(--mute); } tr.quoted > * { color: var(--mute); font-style: italic; }
tr.first > * { border-top: 2px solid var(--line); }
b { font-weight: 700; } u { text-underline-offset: 2px; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
"""


def to_html(title: str, blocks: Iterable[Block], folder: Path) -> str:
    """Write a document as an HTML page.

    Args:
        title: of the page.
        blocks: of the document.
        folder: where its pictures are; they become part of the page.

    Returns:
        The text.
    """
    body = "\n".join(_block(block, folder) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
        case Picture(name, description):
            content = base64.b64encode((folder / name).read_bytes()).decode()
            return f'<p><img alt="{escape(description)}" src="data:image/png;base64,{content}"></p>'
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    # All that names a row is in one cell, which stays in sight while a narrow screen scrolls to the right.
    heads = [f'<th class="name" scope="col">{escape(", ".join(table.label_heads))}</th>']
    heads += [f'<th scope="col">{escape(head)}</th>' for head in table.heads]
    rows = []
    previous: Line | None = None
    for line in table.lines:
        classes = [line.kind]
        if previous and previous.kind != "base" and previous.labels[0] != line.labels[0] and len(line.labels) > 1:
            classes.append("first")  # of its block
        above = "".join(f"<small>{escape(label)}</small>" for label in line.labels[:-1] if label)
        name = f'<th class="name" scope="row">{above}{escape(line.labels[-1])}</th>'
        cells = [f"<td>{_cell(cell)}</td>" for cell in line.cells]
        rows.append(f'<tr class="{" ".join(classes)}">{name}{"".join(cells)}</tr>')
        previous = line
    kind = "" if table.numeric else ' class="text"'
    # A table that is wider than the screen scrolls by itself, also by the keyboard.
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>\n<thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return {1: f"<b>{text}</b>", 2: f"<u>{text}</u>"}.get(cell.rank, text)
