"""Terminal output: tables of a history, sparklines, the facts lost first. Computes no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.metrics.texts import texts_in
from forget_callback.probes.console import say
from forget_callback.probes.plurals import counted, documents
from forget_callback.probes.quoting import markdown, printable, shortened
from forget_callback.report.abilities_table import abilities_markdown, abilities_table
from forget_callback.report.fitted import FittedTable, plain_table
from forget_callback.runs.abilities import is_mixed
from forget_callback.runs.categories import significant_categories
from forget_callback.runs.formatting import bits, estimate, percent, span
from forget_callback.runs.headline import headline, most_in
from forget_callback.runs.lost_items import LostItem
from forget_callback.runs.retention import first_loss
from forget_callback.runs.rows import Row
from forget_callback.runs.side_by_side import LEGEND
from forget_callback.snapshots.snapshot import Snapshot

_FEW, _SURE, _NOT_SHOWN = "too few", "*", "†"
_LOOKS = 20  # that a sparkline shows, the last ones: as wide as a number with its interval
_COLUMNS = ("items", "accuracy", "1→0", "0→1", "lost")
_ITEM_COLUMNS = ("probe", "prompt", "right answer", "answer before", "answer now")
_CATEGORIES = 6  # that a table in Markdown shows before it folds up those without a significant loss
_TEXT = 200  # characters of a prompt or an answer
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """One bar a value, from 0 to the largest; a gap where a value is NaN.

    >>> sparkline([0.0, 0.1, 0.4])
    '▁▃█'
    """
    top = max((value for value in values if not math.isnan(value)), default=0.0)
    scale = (len(_BARS) - 1) / top if top > 0 else 0.0
    return "".join(" " if math.isnan(v) else _BARS[round(max(v, 0.0) * scale)] for v in values)


def snapshot_line(rows: Sequence[Row], seconds: float, *, first: bool) -> str:
    """One line per snapshot while training runs: accuracy at the baseline, each probe's headline later."""
    wholes = [row for row in rows if not row.category]
    said = [_begun(row) for row in wholes if row.probe != "all" or len(wholes) == 1]
    if not first:
        said = [f"{printable(row.probe)}: {_said(row, rows)}" for row in _told(wholes)]
    seen = rows[0].samples_seen
    samples = "" if math.isnan(seen) else f", {counted(round(seen), 'sample')}"
    at = f"at step {rows[0].step:,}{samples}"
    # A first snapshot that differs from the baseline is compared with another run's, or with the base of an adapter.
    own = not any(whole.transitions.n10 or whole.transitions.n01 for whole in wholes)
    title = f"{'baseline' if own else 'start'}{f' {at}' if rows[0].step else ''}: " if first else f"forgetting {at} | "
    return f"{title}{' | '.join(said)} | {seconds:.1f} s"


def measured(one: Snapshot) -> str:
    """One line of a snapshot by itself: how much of it is right, of texts their bits per byte."""
    texts = texts_in(one)
    said, n = [], int((~texts).sum())
    if n:
        said.append(f"{percent(one.accuracy)} of {counted(n)} right")
    if n < len(one):
        scored = one.bits_per_byte[texts & ~np.isnan(one.bits_per_byte)]
        mean = float(scored.mean()) if len(scored) else math.nan
        said.append(f"{bits(mean)} bits per byte in {len(one) - n:,} {documents(len(one) - n)}")
    return f"{printable(one.probe)}: {', '.join(said)}"


def _told(wholes: Sequence[Row]) -> list[Row]:
    """The rows of which something is said: of several abilities one for all, else one a probe."""
    pool = [row for row in wholes if row.probe == "all" or len(wholes) == 1]
    if pool and len(pool[0].transitions.abilities) > 1:
        return pool
    return [row for row in wholes if row.probe != "all" or len(wholes) == 1]


def _begun(row: Row) -> str:
    """What there is at the baseline."""
    t, name = row.transitions, printable(row.probe)
    if t.ability == "text":
        return f"{name} {bits(row.value('bits_per_byte_after'))} bits per byte in {t.n:,} {documents(t.n)}"
    return f"{name} {percent(t.accuracy_after)} of {counted(t.n)} right"


def _said(row: Row, rows: Sequence[Row]) -> str:
    said = headline(row, among=rows)
    return said.sentence + ("" if len(row.transitions.abilities) > 1 else most_in(rows, row.probe))


def changes_table(rows: Sequence[Row], *, title: str, about: Sequence[str] = ()) -> Group:
    """Probes and their categories, from before to after, and each probe's headline below.

    Where there is more than knowledge, abilities stand side by side, what was lost first, and one headline is of all.

    Args:
        about: Lines to end on, such as what was compared and the outcome of gates.
    """
    below = Text("\n".join(map(printable, [*_findings(rows), *about])))
    if is_mixed(rows):
        return Group(abilities_table(rows, title=title), below)
    table, marks = FittedTable(title, ("probe", *_COLUMNS), drop=(4, 3, 1, 2)), marks_of(rows)
    for row in rows:
        name = printable(row.category or row.probe)
        label = Text(f"  {name}") if row.category else Text(name, style="bold")
        label.append(_open_ended(row, rows), style="dim")
        if not row.category:
            table.add_section()
        changed = row.transitions
        table.add_row(
            label,
            _items(row),
            f"{100 * changed.accuracy_before:.1f} → {percent(changed.accuracy_after)}",
            percent(changed.forgetting),
            percent(changed.backward_transfer),
            lost_cell(row) + marks.get((row.probe, row.category), ""),
        )
    return Group(table, below)


def changes_markdown(rows: Sequence[Row], *, about: Sequence[str] = (), gates: Sequence[str] = ()) -> str:
    """What `changes_table` shows as Markdown: gates, headlines and `about`, then a table. Names are shown as they are.

    Of many categories the table has those with a significant loss, and the others are folded up.

    Args:
        gates: What to begin with, Markdown already.
    """
    sure = {(row.probe, row.category) for row in significant_categories(rows)}
    lines = [*gates, *(markdown(line) for line in [*_findings(rows), *about])]
    if is_mixed(rows):
        return "\n\n".join(["\n".join(f"- {line}" for line in lines), abilities_markdown(rows)])
    other = [row for row in rows if row.category and (row.probe, row.category) not in sure]
    shown = [row for row in rows if not row.category or (row.probe, row.category) in sure]
    few = sum(bool(row.category) for row in rows) <= _CATEGORIES
    parts = ["\n".join(f"- {line}" for line in lines), _rows_markdown(rows if few else shown, rows)]
    if other and not few:
        title = (
            f"<details><summary>{counted(len(other), 'category', 'categories')} without a significant loss</summary>"
        )
        parts += [title, _rows_markdown(other, rows), "</details>"]
    return "\n\n".join(parts)


def _rows_markdown(shown: Sequence[Row], rows: Sequence[Row]) -> str:
    """A table of some of the rows."""
    marks = marks_of(rows)
    lines = [
        "| probe | category | items | before | after | forgetting (1→0) | backward transfer (0→1) | lost | range |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in shown:
        t = row.transitions
        rates = (t.accuracy_before, t.accuracy_after, t.forgetting, t.backward_transfer)
        lost = lost_cell(row) + marks.get((row.probe, row.category), "")
        names = (markdown(row.probe), markdown(row.category))
        cells = [*names, _items(row), *(percent(rate) for rate in rates), lost + _open_ended(row, rows)]
        lines.append(f"| {' | '.join([*cells, span(row).removeprefix('range ')])} |")
    return "\n".join(lines)


def lost_items_table(items: Sequence[LostItem], *, count: int) -> Table:
    """The first `count` of the items that were lost, their texts shortened."""
    table = plain_table(_lost_title(items, count))
    for name in _ITEM_COLUMNS:
        table.add_column(name, overflow="fold")
    for item in items[:count]:
        table.add_row(*(Text(printable(text)) for text in _item_cells(item)))
    return table


def lost_items_markdown(items: Sequence[LostItem], *, count: int) -> str:
    """What `lost_items_table` shows as Markdown, every text as it is."""
    lines = [f"**{_lost_title(items, count)}**", ""]
    if items:
        lines += [f"| {' | '.join(_ITEM_COLUMNS)} |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(map(markdown, _item_cells(item)))} |" for item in items[:count]]
    return "\n".join(lines)


def _lost_title(items: Sequence[LostItem], count: int) -> str:
    if len(items) <= count:
        return f"All items that were right and are wrong now: {len(items)}"
    return f"{count} of {len(items)} items that were right and are wrong now, the surest losses first"


def _item_cells(item: LostItem) -> list[str]:
    """Probe and category, prompt, right answer, answer before and now; the id where the prompt is not known."""
    where = " / ".join(filter(None, (item.probe, item.category)))
    prompt = item.id if item.prompt is None else item.prompt
    texts = (prompt, item.expected, item.answer_before, item.answer_after)
    shown = ("?" if text is None else shortened(" ".join(text.split()), _TEXT) for text in texts)
    return [where, *shown]


def lost_cell(row: Row) -> str:
    """What was lost, with its interval; of a few items neither says anything."""
    return _FEW if is_few(row) else estimate(row)


def marks_of(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """What stands behind `lost_cell`, by probe and category, where the interval alone would tell more or less."""
    sure = {(row.probe, row.category) for row in significant_categories(rows)}
    marks = dict.fromkeys(sure, _SURE)
    for row in rows:
        shown = sure if row.category else {(row.probe, "")} if row.transitions.verdict == "lost" else set()
        if (row.probe, row.category) not in shown and row.value("knowledge_lost_low") > 0 and not is_few(row):
            marks[row.probe, row.category] = _NOT_SHOWN
    return marks


def is_few(row: Row) -> bool:
    """Whether too few of its items were scored both times to say how much was lost."""
    return 0 < row.transitions.knowledge_n < MIN_ITEMS


def _items(row: Row) -> str:
    """Items that were scored both times, of how many."""
    t = row.transitions
    return f"{t.n} of {t.n + t.n_unscored}" if t.n_unscored else str(t.n)


def _open_ended(row: Row, rows: Sequence[Row]) -> str:
    """What "lost" means in the row of open-ended items; not said again below a whole probe of them."""
    exact = {(one.probe, one.category) for one in rows if one.transitions.knowledge_method == "exact"}
    said = bool(row.category) and (row.probe, "") in exact
    return " (no longer answered)" if (row.probe, row.category) in exact and not said else ""


def _findings(rows: Sequence[Row]) -> list[str]:
    """Each probe's headline with what stands beside it, and the legend; of several abilities one headline."""
    wholes = [row for row in rows if not row.category]
    joint = _told(wholes) if is_mixed(rows) else wholes
    lines = [f"{row.probe}: {headline(row, among=rows).sentence}" for row in joint] if joint is not wholes else []
    for one in (headline(row, among=rows) for row in wholes):
        own = [] if joint is not wholes else [f"{one.probe}: {one.sentence}"]
        lines += [*own, *(f"{one.probe}: {note}" for note in one.notes)]
    return lines + ([LEGEND] if is_mixed(rows) else legend(rows))


def legend(rows: Sequence[Row], marks: Mapping[tuple[str, str], str] | None = None) -> list[str]:
    """What a mark or a word in the table means.

    Args:
        rows: Of the table.
        marks: From `marks_of`, where the table leaves out rows that were tested with its own.
    """
    lines = []
    known = marks_of(rows) if marks is None else marks
    used = {known.get((row.probe, row.category)) for row in rows}
    if _SURE in used:
        lines.append(f"{_SURE}: significantly lost, with all categories of the probe tested at once (Holm)")
    if _NOT_SHOWN in used:
        lines.append(f"{_NOT_SHOWN}: above 0 by this interval alone, which does not establish a loss")
    if any(map(is_few, rows)):
        lines.append(f"{_FEW}: fewer than {MIN_ITEMS} items do not tell how much was lost")
    return lines


def curve_table(
    series: Sequence[Sequence[Row]],
    *,
    title: str,
    task: Mapping[float, str] | None = None,
    task_name: str = "task",
) -> FittedTable:
    """What changed over the samples seen, a section a probe.

    Args:
        series: Each probe's rows, oldest first.
        task: How far the training's own task was, by samples seen, for a column more.
        task_name: Its heading.
    """
    names = ("samples seen", "1→0", "0→1", "lost", *([] if task is None else [printable(task_name)]))
    table = FittedTable(title, names, drop=(2, 1, *range(4, len(names))))
    metrics = ("forgetting", "backward_transfer", "knowledge_lost")
    for rows in series:
        table.add_section()
        lines = [sparkline([row.value(metric) for row in rows[-_LOOKS:]]) for metric in metrics]
        table.add_row(Text(printable(rows[0].probe)), *lines, *([] if task is None else [""]), style="bold")
        for row in rows:
            cells = [*(estimate(row, metric) for metric in metrics[:2]), lost_cell(row)]
            more = [] if task is None else [task.get(row.samples_seen, "-")]
            table.add_row(f"{row.samples_seen:,.0f}", *cells, *more)
    return table


def first_lost_table(snapshots: Sequence[Snapshot], prompts: dict[str, str], *, count: int, title: str) -> Table:
    """The recall items that went from right to wrong first, of snapshots of one probe, the baseline first.

    An answer is shown up to its first wrong token; `prompts` are by item id.
    """
    baseline, items = snapshots[0], first_loss(snapshots)
    at = {snapshot.samples_seen: snapshot for snapshot in snapshots}
    row = {name: i for i, name in enumerate(baseline.ids)}  # one order in all: snapshots of a store are the probe's
    lost = [(at[seen], row[name]) for name, seen in zip(items.ids[items.lost], items.samples_seen[items.lost])]
    lost.sort(key=lambda one: (one[0].samples_seen, one[0].margin[one[1]]))
    table = plain_table(title)
    for name in ("lost at sample", "prompt", "right answer", "answer now"):
        table.add_column(name, justify="right" if name == "lost at sample" else "left", overflow="fold")
    for now, i in lost[:count]:
        texts = (prompts[str(now.ids[i])], str(baseline.prediction[i]).strip(), f"{now.prediction[i]}…".strip())
        table.add_row(f"{now.samples_seen:,.0f}", *(Text(printable(text.replace("\n", " "))) for text in texts))
    return table


def show(table: RenderableType) -> None:
    """Prints to standard error, above the progress bars that there are."""
    console = Console(stderr=True)
    if console.is_jupyter:  # there it is HTML, and bars are none of the text
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    say("\n".join(line.rstrip() for line in printed.get().splitlines()))
