"""What a gate reads of a comparison: the row that it names, and what is missing in its items."""

from __future__ import annotations

from collections.abc import Sequence

from forget_callback.metrics.transitions import Transitions
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.suggest import did_you_mean
from forget_callback.runs.comparison import overall
from forget_callback.runs.rows import Row

_SHOWN = 10


def option(gate: str) -> str:
    """A gate as it was given."""
    return f"--fail-if {quoted(gate, 200)}"


def shown(name: str) -> str:
    """A probe or category in a line: as it is, a very long one cut."""
    return printable(name) if len(name) <= 200 else quoted(name, 200)


def row_of(rows: Sequence[Row], probe: str | None, category: str, *, gate: str) -> Row:
    """The row of a probe and category, without a probe that of all items.

    Args:
        gate: As it was given, for the error.

    Raises:
        ValueError: If there is none.
    """
    probe = probe or overall(rows).probe
    row = next((row for row in rows if (row.probe, row.category) == (probe, category)), None)
    if row is not None:
        return row
    known = sorted({"/".join(filter(None, (row.probe, row.category))) for row in rows})
    there = ", ".join(map(shown, known[:_SHOWN])) + (f" and {len(known) - _SHOWN} more" * (len(known) > _SHOWN))
    name = "/".join(filter(None, (probe, category)))
    of_that_name = [one for one in known if one.endswith(f"/{name}")]  # a category without its probe
    meant = did_you_mean(of_that_name[0] if of_that_name else name, known)
    raise ValueError(f"{option(gate)}: no such probe or category; there are {there}{meant}")


def not_scored(rows: Sequence[Row], row: Row, *metrics: str, least: float, abilities: bool = False) -> list[str]:
    """What is missing in the items: of the row, and of each probe of a pool, which would hide it.

    Args:
        metrics: What must be there.
        least: The share that must have been scored both times.
        abilities: Also of each ability of these, which the others would hide.
    """
    parts = [row, *(one for one in rows if row.probe == "all" and one is not row and not one.category)]
    lines: list[str] = []
    for one in parts:
        name = shown("/".join(filter(None, (one.probe, one.category))))
        if line := _gap(one.transitions, name, metrics, least):
            lines.append(line)
        for ability, part in one.transitions.abilities.items() if abilities and not line else ():
            if line := _gap(part, f"{name} on {ability or 'other things'}", metrics, least):
                lines.append(line)
    return lines


def _gap(t: Transitions, name: str, metrics: Sequence[str], least: float) -> str:
    if t.n == 0 and not (t.abilities and t.scored > 0):  # of several abilities `n` leaves out texts
        return f"no item of {name} was scored both times"
    metric = min(metrics, key=t.coverage)
    scored = t.coverage(metric)
    if scored >= least:
        return ""
    which = "" if scored == t.scored else f" that {metric} is of"
    return f"only {scored:.4g} of the items of {name}{which} were scored both times, below --min-scored {least:g}"
