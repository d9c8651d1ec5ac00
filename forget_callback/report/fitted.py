"""Tables that fit the terminal: names are folded, numbers are never cut, and the least important columns give way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from forget_callback.probes.quoting import printable

_NAME = 12  # columns that a name has at least


@dataclass
class FittedTable:
    """A table of names and numbers, whose columns are chosen where it is shown, by the width that there is.

    Attributes:
        title: Above it, on the left.
        columns: Their headings; the first one is of names, which are folded, the others of numbers.
        drop: Positions of columns that are left out where there is no room for all, in this order; a line says so.
    """

    title: str
    columns: Sequence[str]
    drop: Sequence[int] = ()
    _rows: list[tuple[Text | str, list[str], str]] = field(default_factory=list)
    _sections: set[int] = field(default_factory=set)

    def add_section(self) -> None:
        """Draws a line above the next row, where there is one before it."""
        self._sections.add(len(self._rows) - 1)

    def add_row(self, name: Text | str, *cells: str, style: str = "") -> None:
        """Appends a row, a cell for each column; a name that is a string is a number, which is not folded either."""
        self._rows.append((name, list(cells), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table of the columns that fit."""
        kept, widths, least = list(range(1, len(self.columns))), self._widths(), self._least()
        left_out = []
        for column in self.drop:
            if least + _around(widths[i] for i in kept) <= options.max_width:
                break
            kept.remove(column)
            left_out.append(self.columns[column])
        numbers = _around(widths[i] for i in kept)
        names = max(min(least, options.max_width - numbers), 4)
        table = plain_table(self.title)
        table.add_column(self.columns[0], overflow="fold", min_width=names)
        for i in kept:  # where even these do not fit, they are folded between words
            fits = names + numbers <= options.max_width
            table.add_column(self.columns[i], justify="right", no_wrap=fits, overflow="fold")
        for number, (name, cells, style) in enumerate(self._rows):
            table.add_row(name, *(Text(cells[i - 1]) for i in kept), style=style, end_section=number in self._sections)
        yield table
        if left_out:
            yield Text(f"no room for {', '.join(reversed(left_out))} in {options.max_width} columns", style="dim")

    def _least(self) -> int:
        """The columns that the names need."""
        return max([_NAME, *(cell_len(name) for name, _, _ in self._rows if isinstance(name, str))])

    def _widths(self) -> list[int]:
        """The widest cell of each column, its heading included."""
        cells = [[str(name), *own] for name, own, _ in self._rows]
        return [max(map(cell_len, (self.columns[i], *(row[i] for row in cells)))) for i in range(len(self.columns))]


def _around(widths: Iterable[int]) -> int:
    """What the columns of these widths take, with the space between them and at both edges."""
    return sum(3 + width for width in widths) + 2


def plain_table(title: str) -> Table:
    """An empty table with the title on the left."""
    # As a Text, what it holds in brackets is no markup.
    return Table(title=Text(printable(title), style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
