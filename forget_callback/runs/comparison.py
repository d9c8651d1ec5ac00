"""Two checkpoints of the same probes compared item by item, and the comparison as JSON for `compare` and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from forget_callback.runs.history import ALL_METRICS, History, Row
from forget_callback.snapshots.snapshot import Snapshot


def compare_checkpoints(before: Mapping[str, Snapshot], after: Mapping[str, Snapshot]) -> list[Row]:
    """A row per probe and category, and for several probes the pool of all their items, "all".

    Args:
        before: A snapshot of each probe, by name.
        after: The same probes at the later checkpoint.

    Raises:
        ValueError: If two snapshots of a probe differ in fingerprint or items.
    """
    history = History()
    history.append([replace(snapshot, step=0) for snapshot in before.values()])
    return history.append([replace(after[name], step=1) for name in before])


def overall(rows: Sequence[Row]) -> Row:
    """The row of all items: of the pool "all" where there are several probes, else of the only probe."""
    whole = {row.probe: row for row in rows if not row.category}
    return whole["all"] if "all" in whole else next(iter(whole.values()))


def comparison_json(rows: Sequence[Row], *, failed: Sequence[str] = ()) -> str:
    """The rows of `compare_checkpoints` and the gates that failed as JSON text; a missing number is null."""
    probes: dict[str, Any] = {}
    for row in rows:
        if row.category:
            probes[row.probe]["categories"][row.category] = _numbers(row)
        elif row.probe != "all":
            probes[row.probe] = {**_numbers(row), "categories": {}}
    gate = {"passed": not failed, "failed": list(failed)}
    return json.dumps({"probes": probes, "all": _numbers(overall(rows)), "gate": gate}, indent=2, allow_nan=False)


def _numbers(row: Row) -> dict[str, Any]:
    values = row.numbers
    return {name: None if values[name] != values[name] else values[name] for name in ALL_METRICS}
