"""Items that several logs share with the same prompt, options and right answer, or why the logs do not compare.

What is left out stays in every log, without a score, so that a gate sees how much was compared. Says once for all logs
what decided between right and wrong, and what the logs do not tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from forget_callback.probes.items import Text
from forget_callback.probes.plurals import are, counted
from forget_callback.probes.quoting import quoted
from forget_callback.snapshots.logs.log import SHOWN, Log, LoggedItem, LogOptions, listed

# Of files that anyone writes: two names for one thing.
_SAME_METRIC = {"correct", "score"}


def match(logs: Sequence[Mapping[str, Log]], wanted: LogOptions) -> list[dict[str, Log]]:
    """The same tasks of several models with the same items, by id; a log's items keep the first one's order.

    Args:
        logs: Each model's logs by probe name; the others are compared with the first. A task that not all have is
            left out, and noted.
        wanted: With `allow_partial`, items that cannot be compared are counted and have no score; else they are an
            error.

    Raises:
        ValueError: If no task is of all, items differ, or nothing is left.
    """
    logs = paired(logs)
    names = [name for name in logs[0] if all(name in own for own in logs)]
    sources = [next(iter(own.values())).source for own in logs]
    if not names:
        other = next(i for i, own in enumerate(logs) if own.keys() != logs[0].keys())
        one, two = ((listed(list(logs[i])), sources[i]) for i in (0, other))
        raise ValueError(f"the tasks differ: {one[0]} in {one[1]}, {two[0]} in {two[1]}")
    if alone := list(dict.fromkeys(name for own in logs for name in own if name not in names)):
        wanted.note(f"left out, for not all of the logs have it: {listed(alone)}")
    matched = [_same_items([one[name] for one in logs], wanted) for name in names]
    _say_what_decided([own[0] for own in matched], wanted)
    _say_what_is_not_known((log for own in logs for log in own.values() if not log.counted), wanted)
    return [dict(zip(names, own)) for own in zip(*matched)]


def paired(logs: Sequence[Mapping[str, Log]]) -> Sequence[Mapping[str, Log]]:
    """The logs under the names by which they are compared: of single files, such as base.jsonl, under one name."""
    if all(len(own) == 1 for own in logs) and not all(log.named for own in logs for log in own.values()):
        (name,) = logs[0]
        return [{name: log} for own in logs for log in own.values()]
    return logs


def _same_items(logs: Sequence[Log], wanted: LogOptions) -> list[Log]:
    """The logs of one task with the same items and the same first prompt; what not all of them have is unscored."""
    first, logs = logs[0], [logs[0], *(_in_prompt_of(logs[0], other) for other in logs[1:])]
    items = [{item.id: item for item in log.items} for log in logs]
    kept = set(items[0])
    for other, own in zip(logs[1:], items[1:]):
        _require_same_way(first, other)
        different = {
            f"items missing in {other.source}": [name for name in items[0] if name not in own],
            f"items missing in {first.source}": [name for name in own if name not in items[0]],
            **_changed(items[0], own),
        }
        reasons = [
            f"{reason}: {len(ids)}" + f" ({_some(ids)})" * wanted.texts for reason, ids in different.items() if ids
        ]
        if None not in (first.few_shot, other.few_shot) and first.few_shot != other.few_shot:
            reasons.insert(0, f"few-shot examples: {first.few_shot} against {other.few_shot}")
        if reasons and not wanted.allow_partial:
            raise ValueError(
                f"{first.probe}: {first.source} and {other.source} do not compare: {'; '.join(reasons)}. "
                "To leave these items out: --allow-partial"
            )
        kept -= {name for ids in different.values() for name in ids}
        if reasons:
            left = sum(items[0][name].correct + own[name].correct >= 0 for name in kept)  # NaN is not
            wanted.note(
                f"{first.probe}: left out of {other.source}: {'; '.join(reasons)}; {counted(left)} {are(left)} left"
            )
    if not kept:
        raise ValueError(
            f"{first.probe}: nothing to compare: the logs share no item with the same prompt, options and right answer"
        )
    everywhere = {item.id: item for own in reversed(items) for item in own.values()}
    order = dict.fromkeys(name for own in items for name in own)
    return [
        replace(
            log,
            probe=first.probe,
            items=tuple(own[name] if name in kept else everywhere[name].unscored() for name in order),
        )
        for log, own in zip(logs, items)
    ]


def _in_prompt_of(first: Log, other: Log) -> Log:
    """The other log with the first one's first prompt as its own, where items were asked in several.

    Raises:
        ValueError: If it was not asked in that prompt.
    """
    if not first.variants or not other.variants or first.variants[0] == other.variants[0]:
        return other
    name = first.variants[0]
    if name not in other.variants:
        raise ValueError(
            f"{first.probe}: the first prompt of {first.source} is the variant {quoted(name)}, in which "
            f"{other.source} was not asked: it has {listed(other.variants)}"
        )
    order = [name, *(one for one in other.variants if one != name)]
    return replace(
        other, variants=tuple(order), items=tuple(_turned(item, other.variants, order) for item in other.items)
    )


def _turned(item: LoggedItem, variants: Sequence[str], order: Sequence[str]) -> LoggedItem:
    """An item with its answers in another order of its variants."""
    own = dict(zip(variants, (item, *item.further)))
    further = tuple(one and replace(one, further=()) for one in (own[name] for name in order[1:]))
    return replace(own[order[0]] or item.unscored(), further=further)


def _require_same_way(first: Log, other: Log) -> None:
    for key in dict.fromkeys([*first.how, *other.how]):
        one, two = first.how.get(key, "none"), other.how.get(key, "none")
        if one != two and not (key == "metric" and {one, two} == _SAME_METRIC):
            hint = f"; choose one that both have with --{key}" if key in ("metric", "filter") else ""
            raise ValueError(
                f"{first.probe}: {first.source} and {other.source} do not compare: {key} {quoted(one)} against "
                f"{quoted(two)}{hint}"
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


def _say_what_decided(logs: Sequence[Log], wanted: LogOptions) -> None:
    """One line for all tasks in which the same metric decided between as many options."""
    groups: dict[str, list[str]] = {}
    for log in logs:
        if any(item.kind == Text.kind for item in log.items):
            groups.setdefault("documents, compared in bits per byte", []).append(log.probe)
            continue
        others = [name for name in log.offers.get("metric", ()) if name != log.how.get("metric")]
        choice = f", and not {listed(others)}: --metric" if others else ""
        said = f"{quoted(log.how.get('metric'))} decides what is right{choice}; {_options_in_words(log.items)}"
        groups.setdefault(said, []).append(log.probe)
    for said, names in groups.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        wanted.note(f"{', '.join(names[:SHOWN])}{more}: {said}")


def _options_in_words(items: Sequence[LoggedItem]) -> str:
    sizes = sorted({len(item.options) for item in items if item.options})
    several = "" if not sizes else f"{sizes[0]} options" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} options"
    unknown = sum(not item.options for item in items)
    if not unknown:
        return several
    return (
        f"{several}{', and ' if several else ''}{unknown} of {counted(len(items))} without options in the log "
        f"{are(unknown)} treated as open-ended, so that no guesses are taken off: if "
        "they are choices, say between how many, --n-choices"
    )


def _say_what_is_not_known(logs: Iterable[Log], wanted: LogOptions) -> None:
    sources = list(dict.fromkeys(log.source for log in logs))
    if sources:
        more = f" and {len(sources) - SHOWN} more" if len(sources) > SHOWN else ""
        wanted.note(
            f"whether lines are missing at the end of {', '.join(sources[:SHOWN])}{more} cannot be checked: no results "
            "file beside says how many items were evaluated"
        )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(quoted, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
