"""Knowledge, behaviour and text side by side, in the terminal and as Markdown: what was lost first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from forget_callback.probes.quoting import markdown, printable
from forget_callback.report.fitted import FittedTable
from forget_callback.runs.rows import Row
from forget_callback.runs.side_by_side import COLUMNS, groups_of_lines


def abilities_table(rows: Sequence[Row], *, title: str) -> FittedTable:
    """Abilities and their categories for the terminal.

    Args:
        rows: Of one evaluation, of all probes and categories.
        title: Above it.
    """
    table = FittedTable(title, ("ability", *COLUMNS), drop=(1, 5))
    for group in groups_of_lines(rows):
        table.add_section()
        for line in group:
            name = printable(line.category or line.ability or line.probe)
            label = Text(f"  {name}") if line.category else Text(name, style="bold")
            if not line.category and line.ability:
                label.append(f" ({printable(line.probe)})", style="dim")
            table.add_row(label, *line.cells)
    return table


def abilities_markdown(rows: Sequence[Row]) -> str:
    """The same as Markdown."""
    lines = [
        f"| ability | probe | category | {' | '.join(COLUMNS)} |",
        "| --- | --- | --- " + "| ---: " * 5 + "| --- |",
    ]
    for line in (line for group in groups_of_lines(rows) for line in group):
        names = "" if line.category else f"**{line.ability}**", markdown(line.probe), markdown(line.category)
        lines.append(f"| {' | '.join([*names, *line.cells])} |")
    return "\n".join(lines)
