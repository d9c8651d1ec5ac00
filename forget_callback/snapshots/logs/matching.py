"""Items that several logs share with the same prompt, options and right answer, or why the logs do not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forget_callback.snapshots.logs.log import Log, LogOptions

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
    first, kept = logs[0], {item.id for item in logs[0].items}
    for other in logs[1:]:
        _require_same_way(first, other)
        different = _differences(first, other)
        reasons = [f"{reason}: {len(ids)} ({_some(ids)})" for reason, ids in different.items()]
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
    order = [item.id for item in first.items if item.id in kept]
    return [log.select(order) for log in logs]


def _require_same_way(first: Log, other: Log) -> None:
    for key in dict.fromkeys([*first.how, *other.how]):
        one, two = first.how.get(key, "none"), other.how.get(key, "none")
        if one != two:
            hint = f"; choose one that both have with --{key}" if key in ("metric", "filter") else ""
            raise ValueError(
                f"{first.probe}: {first.source} and {other.source} do not compare: {key} {one!r} against {two!r}{hint}"
            )


def _differences(first: Log, other: Log) -> dict[str, list[str]]:
    """Ids of the items that do not compare, by the reason."""
    one, two = ({item.id: item for item in log.items} for log in (first, other))
    found = {
        f"items missing in {other.source}": [name for name in one if name not in two],
        f"items missing in {first.source}": [name for name in two if name not in one],
    }
    for name in one:
        if name not in two:
            continue
        a, b = one[name].hashes, two[name].hashes
        cause = next((part for part in a if part in b and a[part] != b[part]), None)
        if cause is not None:
            found.setdefault(f"items with another {cause}", []).append(name)
    return {reason: ids for reason, ids in found.items() if ids}


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
