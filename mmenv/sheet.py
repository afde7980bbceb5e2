"""Tables of text columns that fit where they are shown: a terminal, a Markdown file, a CSV file.

What does not fit the width is cut between columns, never in a name or a number: the columns that are left
over make another table below, their rows named anew.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mmenv.files import replacing

ALL = 10_000
"""A width at which nothing is cut into several tables."""


def as_columns(rows: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """The columns of rows that have the same headings."""
    return {heading: [row[heading] for row in rows] for heading in rows[0]}


@dataclass(frozen=True)
class Sheet:
    """A table of text; its first columns name the rows. A line break in a heading stands for a blank."""

    title: str
    columns: dict[str, list[str]]
    legend: Sequence[str] = ()
    """Lines below it."""
    left: frozenset[str] = field(default_factory=frozenset)
    """Columns of words: aligned left and folded between words."""
    keys: int = 1
    """So many columns name the rows."""
    colours: Mapping[str, str] = field(default_factory=dict)
    """Words that a terminal shows in a colour."""

    @classmethod
    def of_rows(
        cls, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], **more: Any
    ) -> Sheet:
        """Make it of its rows."""
        cells = map(list, zip(*rows, strict=True)) if rows else ([] for _ in headings)
        return cls(title, dict(zip(headings, cells, strict=True)), **more)

    def tables(self, console: Console) -> list[Table]:
        """Cut the table into as few as fit the console's width."""
        width = console.width
        options = console.options.update(width=ALL, max_width=ALL)
        keys, rest = self._keys, list(self.columns)[self.keys :]
        parts: list[list[str]] = [[]]
        for name in rest:
            tried = self._table([*keys, *parts[-1], name], width)
            if parts[-1] and Measurement.get(console, options, tried).maximum > width:
                parts.append([])
            parts[-1].append(name)
        return [self._table([*keys, *part], width) for part in parts]

    def print(self, console: Console, wide: bool = False) -> None:
        """Print it to fit the console, or in one piece however wide."""
        width = console.width
        if self.title:
            console.print(Text(self.title, style="bold"), soft_wrap=wide)
        try:
            console.width = ALL if wide else width
            for table in self.tables(console):
                console.print(table)
                console.print()
        finally:
            console.width = width
        for line in self.legend:
            console.print(escape(line), highlight=False, soft_wrap=wide)
        if self.legend:
            console.print()

    def markdown(self) -> str:
        """Write it as a table of Markdown, one piece."""
        heads = [head.replace("\n", " ") for head in self.columns]
        rows = [heads, *map(list, zip(*self.columns.values(), strict=True))]
        rows.insert(1, ["---" if self._words(name) else "---:" for name in self.columns])
        plain = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
        lines = [f"| {' | '.join(row)} |" for row in plain]
        parts = [f"**{self.title}**" if self.title else "", "\n".join(lines), "  \n".join(self.legend)]
        return "\n\n".join(filter(None, parts)) + "\n"

    @property
    def _keys(self) -> list[str]:
        """The columns that name the rows."""
        return list(self.columns)[: self.keys]

    def _words(self, name: str) -> bool:
        """Whether a column holds words."""
        return name in self.left or name in self._keys

    def _table(self, names: list[str], width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for name in names:
            justify: Literal["left", "right"] = "left" if self._words(name) else "right"
            most = self._most(name, width)
            table.add_column(escape(name), justify=justify, max_width=most, overflow="fold")
        for row in zip(*(self.columns[name] for name in names), strict=True):
            table.add_row(*map(self._cell, row))
        return table

    def _cell(self, text: str) -> Text:
        """A cell with its colours."""
        cell = Text(text)
        for word, colour in self.colours.items():
            cell.highlight_words([word], colour)
        return cell

    def _most(self, name: str, width: int) -> int | None:
        """How wide a column of words may become; numbers take what they need."""
        if name in self._keys:
            return max(width // 2 if name == self._keys[0] else width // 4, 20)
        if name in self.left:
            return max(width - max(map(cell_len, self.columns[self._keys[0]]), default=0) - 4, 20)
        return None


def write_markdown(path: Path, *parts: Sheet | str) -> None:
    """Write tables and paragraphs to a Markdown file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(as_markdown(*parts), encoding="utf-8")


def as_markdown(*parts: Sheet | str) -> str:
    """Join tables and paragraphs as Markdown."""
    return "\n".join(part.markdown() if isinstance(part, Sheet) else f"{part}\n" for part in parts)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of values to a CSV file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
