"""Two checkpoints of the same probes, item by item, and their JSON: what `compare` prints and the report hands out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from forget_callback.runs.history import ALL_METRICS, History, Row
from forget_callback.snapshots.snapshot import Snapshot


def compare_checkpoints(before: Mapping[str, Snapshot], after: Mapping[str, Snapshot]) -> list[Row]:
    """A row per probe and category, and of several probes their pool, "all", at the end.

    Args:
        before: A snapshot of each probe, by its name.
        after: The same probes at the later checkpoint.

    Raises:
        ValueError: If two snapshots of a probe have other fingerprints or items.
    """
    history = History()
    history.append([replace(snapshot, step=0) for snapshot in before.values()])
    return history.append([replace(after[name], step=1) for name in before])


def comparison_json(rows: Sequence[Row], *, failed: Sequence[str] = ()) -> str:
    """Those rows as JSON text; a number that does not exist is null.

    Args:
        rows: What `compare_checkpoints` gives.
        failed: Gates that failed.
    """
    probes: dict[str, Any] = {}
    pooled: dict[str, Any] = {}
    whole = rows[-1].probe  # "all" of several probes, else the only one
    for row in rows:
        values = row.numbers
        numbers = {name: None if values[name] != values[name] else values[name] for name in ALL_METRICS}
        if row.category:
            probes[row.probe]["categories"][row.category] = numbers
        elif row.probe != "all":
            probes[row.probe] = {**numbers, "categories": {}}
        if not row.category and row.probe == whole:
            pooled = numbers
    gate = {"passed": not failed, "failed": list(failed)}
    return json.dumps({"probes": probes, "all": pooled, "gate": gate}, indent=2, allow_nan=False)
