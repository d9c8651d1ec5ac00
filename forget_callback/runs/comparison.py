"""Two checkpoints of the same probes compared item by item, and the result as `compare` and the page have it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forget_callback.metrics.collapse import COLLAPSED
from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import quoted
from forget_callback.runs.headline import headline
from forget_callback.runs.history import History
from forget_callback.runs.rows import ALL_METRICS, Row
from forget_callback.runs.side_by_side import abilities_result
from forget_callback.runs.sides import Side
from forget_callback.snapshots.joined import align_both
from forget_callback.snapshots.snapshot import Snapshot


def compare_checkpoints(before: Mapping[str, Snapshot], after: Mapping[str, Snapshot]) -> list[Row]:
    """A row per probe and category, and for several probes the pool of all their items, "all".

    Args:
        before: A snapshot of each probe, by name.
        after: The same probes at the later checkpoint.

    Raises:
        ValueError: If two snapshots of a probe differ in fingerprint or items, or hold none; or one is called "all".
    """
    for name, snapshot in before.items():
        if name == "all":
            raise ValueError("a probe is called 'all', as the pool of several is; give it another name")
        if not len(snapshot):
            raise ValueError(f"probe {quoted(name)} has no items: nothing to compare")
    history = History()
    history.append(compared_against(before, after))
    last = [align_both(snapshot, after[name])[1] for name, snapshot in before.items()]
    return history.append([replace(snapshot, step=1) for snapshot in last])


def compared_against(before: Mapping[str, Snapshot], after: Mapping[str, Snapshot]) -> list[Snapshot]:
    """The snapshots before, over the variants that both sides have: one that was asked more is no look asked fewer."""
    return [replace(align_both(snapshot, after[name])[0], step=0) for name, snapshot in before.items()]


def left_out(before: Mapping[str, Snapshot], after: Mapping[str, Snapshot]) -> list[str]:
    """What the sides do not share: a line for each probe with other variants of the prompt, or other categories."""
    lines = []
    for name, one in before.items():
        sides = one.n_variants, after[name].n_variants
        first, last = align_both(one, after[name])
        both, moved = first.n_variants, _moved(first, last)
        if moved:
            items = "1 item is" if moved == 1 else f"{moved} items are"
            lines.append(f"probe {quoted(name)}: {items} of another category after; that of before is used")
        if max(sides) > both:
            asked = f"{sides[0]} before and {sides[1]} after"
            lines.append(
                f"probe {quoted(name)}: compared over {both} of its variants, for {asked} were asked, not all the same"
            )
    return lines


def _moved(first: Snapshot, last: Snapshot) -> int:
    """How many of the same items are of another category; a side that names none at all says nothing of them."""
    one, other = first.category.astype(str), last.category.astype(str)
    return int((one != other).sum()) if (one != "").any() and (other != "").any() else 0


def without_texts(rows: Sequence[Row]) -> list[Row]:
    """The rows, which then quote no answer wherever they are shown: a headline's notes do where answers are all one."""
    return [replace(row, collapse=COLLAPSED) if row.collapse else row for row in rows]


def overall(rows: Sequence[Row]) -> Row:
    """The row of all items: of the pool "all" where there are several probes, else of the only probe."""
    whole = {row.probe: row for row in rows if not row.category}
    return whole["all"] if "all" in whole else next(iter(whole.values()))


def comparison_result(
    rows: Sequence[Row],
    before: Side,
    after: Side,
    *,
    failed: Sequence[str] = (),
    inconclusive: Sequence[str] | None = None,
    too_few: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The rows of `compare_checkpoints` as what `compare --format json` prints; a missing number is NaN.

    Args:
        before: What was compared against: the options of its items, and the metric that decided.
        after: What was compared with it.
        failed: The gates that failed.
        inconclusive: Those that neither failed nor passed; None where that was not asked for.
        too_few: Those that can never or hardly fail on these items, and why.
        notes: What was said of the sides beside the numbers.
    """
    about = {name: _about(one) for name, one in before.snapshots.items()}
    gate: dict[str, Any] = {"passed": not failed and not inconclusive, "failed": list(failed)}
    if inconclusive is not None:
        gate["inconclusive"] = list(inconclusive)
    sides = {"before": before.record, "after": after.record}
    alone = {"before": list(before.alone), "after": list(after.alone)}
    return {
        **sides,
        **rows_result(rows, about={**about, "all": _about(*before.snapshots.values())}),
        "left_out": alone,
        "gate": gate,
        **({"gates_too_few": dict(too_few)} if too_few else {}),
        "notes": list(notes),
    }


def rows_result(rows: Sequence[Row], *, about: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The rows of one step as JSON has them: `probes` by name with their categories, `all` items, and `abilities`.

    Args:
        rows: Of every probe and category, a whole probe before its categories.
        about: What else there is to say, by the probe's name, "all" of all.
    """
    more, probes = about or {}, dict[str, Any]()
    for row in rows:
        if row.category and row.probe in probes:
            probes[row.probe]["categories"][row.category] = _numbers(row)
        elif row.probe != "all":
            probes[row.probe] = {**_whole(row, rows), **more.get(row.probe, {}), "categories": {}}
    total = {**_whole(overall(rows), rows), **more.get("all", {})}
    return {"probes": probes, "all": total, "abilities": abilities_result(rows)}


def _whole(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    said = headline(row, among=rows)
    return {**_numbers(row), "headline": said.sentence, "notes": list(said.notes)}


def _numbers(row: Row) -> dict[str, Any]:
    numbers = {name: row.numbers[name] for name in ALL_METRICS}
    said = {"collapse": row.collapse} if row.collapse else {}
    return {**numbers, "verdict": row.transitions.verdict if row.confirmed else "unclear", **said}


def _about(*snapshots: Snapshot) -> dict[str, Any]:
    """What decided in a log, and the number of options; None where not known, or not the same in all."""
    metrics = {snapshot.metadata.get("metric") for snapshot in snapshots}
    options = set(np.concatenate([snapshot.n_choices for snapshot in snapshots]).tolist())
    k = options.pop() if len(options) == 1 else math.inf
    return {"metric": metrics.pop() if len(metrics) == 1 else None, "k": int(k) if math.isfinite(k) else None}


def decided_by(snapshot: Snapshot) -> str:
    """What decides right and wrong in a log, and the number of options, for people: "decided by acc, 4 options"."""
    metric, chosen = snapshot.metadata.get("metric"), snapshot.metadata.get("filter", "none")
    parts = [] if metric is None else [f"decided by {metric}" + (f" of filter {chosen}" if chosen != "none" else "")]
    closed = snapshot.n_choices[np.isfinite(snapshot.n_choices)]
    n_open = len(snapshot) - len(closed) - int((snapshot.kind == "text").sum())
    if len(closed):
        low, high = int(closed.min()), int(closed.max())
        parts.append(f"{low} options" if low == high else f"{low} to {high} options")
    if n_open > 0:
        parts.append(f"{counted(n_open)} open-ended" if len(closed) else "open-ended")
    return ", ".join(parts)
