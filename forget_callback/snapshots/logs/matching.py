"""Items that several logs share with the same prompt, options and right answer, or why the logs do not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from forget_callback.snapshots.logs.log import Log, LoggedItem, LogOptions

SHOWN = 3


def match(logs: Sequence[Mapping[str, Log]], wanted: LogOptions) -> list[dict[str, Log]]:
    """The same tasks of several models with the same items, by id; a log's items keep the first one's order.

    Args:
        logs: Each model's logs by probe name; the others are compared with the first.
        wanted: With `allow_partial`, items that cannot be compared are left out and counted; else they are an error.

    Raises:
        ValueError: If tasks or items differ, or nothing is left.
    """
    names = list(logs[0])
    for other in logs[1:]:
        if set(other) != set(names):
            one, two = (next(iter(own.values())).source for own in (logs[0], other))
            raise ValueError(f"the tasks differ: {names} in {one}, {list(other)} in {two}")
    return [dict(zip(names, own)) for own in zip(*(_same_items([one[name] for one in logs], wanted) for name in names))]


def _same_items(logs: Sequence[Log], wanted: LogOptions) -> list[Log]:
    """The logs of one task with the items that all of them have."""
    items = [{item.id: item for item in log.items} for log in logs]
    first, kept = logs[0], set(items[0])
    for other, own in zip(logs[1:], items[1:]):
        _require_same_way(first, other)
        different = {
            f"items missing in {other.source}": [name for name in items[0] if name not in own],
            f"items missing in {first.source}": [name for name in own if name not in items[0]],
            **_changed(items[0], own),
        }
        reasons = [f"{reason}: {len(ids)} ({_some(ids)})" for reason, ids in different.items() if ids]
        if None not in (first.few_shot, other.few_shot) and first.few_shot != other.few_shot:
            reasons.insert(0, f"few-shot examples: {first.few_shot} against {other.few_shot}")
        if reasons and not wanted.allow_partial:
            raise ValueError(
                f"{first.probe}: {first.source} and {other.source} do not compare: {'; '.join(reasons)}. "
                "To leave these items out: --allow-partial"
            )
        kept -= {name for ids in different.values() for name in ids}
        if reasons:
            wanted.note(f"{first.probe}: left out of {other.source}: {'; '.join(reasons)}; {len(kept)} items are left")
    if not kept:
        raise ValueError(
            f"{first.probe}: nothing to compare: the logs share no item with the same prompt, options and right answer"
        )
    order = [name for name in items[0] if name in kept]
    return [replace(log, items=tuple(own[name] for name in order)) for log, own in zip(logs, items)]


def _require_same_way(first: Log, other: Log) -> None:
    for key in dict.fromkeys([*first.how, *other.how]):
        one, two = first.how.get(key, "none"), other.how.get(key, "none")
        if one != two:
            hint = f"; choose one that both have with --{key}" if key in ("metric", "filter") else ""
            raise ValueError(
                f"{first.probe}: {first.source} and {other.source} do not compare: {key} {one!r} against {two!r}{hint}"
            )


def _changed(one: Mapping[str, LoggedItem], two: Mapping[str, LoggedItem]) -> dict[str, list[str]]:
    """Ids of the items that differ in two logs, by what differs first."""
    found: dict[str, list[str]] = {}
    for name, item in one.items():
        other = two[name].hashes if name in two else {}
        cause = next((part for part, value in item.hashes.items() if other.get(part, value) != value), None)
        if cause is not None:
            found.setdefault(f"items with another {cause}", []).append(name)
    return found


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
