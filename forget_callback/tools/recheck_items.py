"""Which items of a run are asked once more with help: those that it lost, and as many that were never known.

Texts have no help, and answers that a user's own scorer judged cannot be judged again here; both are said.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.probes.helps import HELPS, Asking, with_help
from forget_callback.probes.items import Generation, Item
from forget_callback.probes.peers import Peers
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean
from forget_callback.runs.run_at import RunAt
from forget_callback.runs.series import answered
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    from forget_callback.tools.recheck import Ask


@dataclass(frozen=True)
class Chosen:
    """An item with one help.

    Attributes:
        probe: The item's probe, as it is asked.
        group: "lost" or "control": never known.
    """

    probe: Probe
    item: Item
    group: str
    help: str
    asking: Asking


def require_names(probes: Sequence[Probe], names: Sequence[str], category: str | None) -> list[Probe]:
    """The probes with these names, all where none is named.

    Raises:
        ValueError: If the run has no probe or category of a name.
    """
    known = [probe.name for probe in probes]
    for name in names:
        if name not in known:
            raise ValueError(f"--probe: the run has no probe {quoted(name)}; has {known}{did_you_mean(name, known)}")
    chosen = [probe for probe in probes if not names or probe.name in names]
    categories = sorted({item.category for probe in chosen for item in probe.items if item.category})
    if category is not None and category not in categories:
        raise ValueError(
            f"--category: no item is of category {quoted(category)}; known are {categories}"
            f"{did_you_mean(category, categories)}"
        )
    return chosen


def choose(
    at: RunAt, probes: Sequence[Probe], ask: Ask, tokenizer: Any, *, note: Callable[[str], object]
) -> list[Chosen]:
    """All items to ask, a help each.

    Args:
        at: A step of a run.
        probes: Of the run.
        ask: Which of their items.
        tokenizer: Of the model that is asked.
        note: Called with what is left out.

    Raises:
        ValueError: If nothing was lost.
    """
    sides = {
        probe.name: (RunAt(at.store, None).baseline(probe.name), at.read(probe.name, default="last"))
        for probe in probes
    }
    maybe_known = {fact for before, after in sides.values() for side in (before, after) for fact in _facts(side)}
    chosen: list[Chosen] = []
    for probe in probes:
        bound, can_be = bind(probe, tokenizer), _askable(probe, note)
        before, after = sides[probe.name]
        askable = [item for item in probe.items if item.id in can_be]
        gone = _lost(before, after)
        lost = [item for item in askable if item.id in gone and ask.category in (None, item.category)]
        lost = _by_lot(lost, probe.name)[: ask.limit]
        right = set(after.ids[answered(after) == 1])
        never = _never_right(before) & _never_right(after)
        unknown = [item for item in askable if item.id in never and not (item.fact and item.fact in maybe_known)]
        groups = {"lost": lost, "control": _matched(lost, unknown, probe.name)}
        peers = Peers(probe.items, right)
        has_template = isinstance(getattr(tokenizer, "chat_template", None), str)
        for group, items in groups.items():
            chosen += _with_helps(bound, group, items, peers, has_template)
    if not any(one.group == "lost" for one in chosen):
        of = "" if ask.category is None else f" of category {quoted(ask.category)}"
        raise ValueError(
            f"{at.store.path} lost no item{of} by step {at.step} that it knew at its baseline and that can be "
            "asked with help: there is nothing to recheck"
        )
    return chosen


def _with_helps(probe: Probe, group: str, items: Sequence[Item], peers: Peers, has_template: bool) -> Iterator[Chosen]:
    for item in items:
        for help in HELPS:
            asking = with_help(help, item, peers, chat=bool(probe.chat), has_template=has_template)
            if asking is not None:
                yield Chosen(probe, item, group, help, asking)


def _askable(probe: Probe, note: Callable[[str], object]) -> set[str]:
    """Ids of the items that can be asked with help."""
    texts = {item.id for item in probe.items if item.kind == "text"}
    judged = {item.id for item in probe.items if probe.scorer and isinstance(item, Generation)}
    if texts:
        has = "1 text has" if len(texts) == 1 else f"{len(texts)} texts have"
        note(f"probe {probe.name!r}: {has} no recheck: a text that got worse has no answer")
    if judged:
        note(
            f"probe {probe.name!r}: {len(judged)} generated answer{'' if len(judged) == 1 else 's'} judged by "
            f"{quoted(probe.scorer)}, which is not available here: not asked again"
        )
    code = {item.id for item in probe.items if isinstance(item, Generation) and item.match == "code"} - judged
    if code:
        note(
            f"probe {probe.name!r}: {len(code)} item{'' if len(code) == 1 else 's'} of code not asked again: what is "
            "written is not run here"
        )
    return set(probe.ids) - texts - judged - code


def _lost(before: Snapshot, after: Snapshot) -> set[str]:
    return set(before.ids[answered(before) == 1]) & set(after.ids[answered(after) == 0])


def _may_be_right(snapshot: Snapshot) -> NDArray[np.bool_]:
    """Which items are right in one of their prompts, or skipped one in which they may be, ``(n_items,)``."""
    right: NDArray[np.bool_] = snapshot.correct > 0.5
    for answers in snapshot.further:
        right = right | (answers.correct > 0.5) | answers.skipped
    return right


def _never_right(snapshot: Snapshot) -> set[str]:
    """Ids of the items that were scored in the first prompt, skipped none and are right in none."""
    return set(snapshot.ids[~_may_be_right(snapshot) & ~np.isnan(snapshot.correct)])


def _facts(snapshot: Snapshot) -> set[str]:
    """The facts that may be known in some form: not what a model never knew, whatever it never said."""
    return {fact for fact in snapshot.fact[_may_be_right(snapshot)] if fact}


def _matched(lost: Sequence[Item], unknown: Sequence[Item], seed: str) -> list[Item]:
    """As many items that were never known as were lost, if there are: of the same kinds, and categories if possible."""
    drawn = _by_lot(unknown, seed)
    chosen: dict[str, Item] = {}
    strata: Sequence[Callable[[Item], Any]] = (lambda one: (one.kind, one.category), lambda one: one.kind)
    missing = Counter(item.kind for item in lost)
    for stratum in strata:
        wanted: Mapping[Any, int] = Counter(map(stratum, lost))
        left = {key: min(n, missing[key[0] if isinstance(key, tuple) else key]) for key, n in wanted.items()}
        for item in drawn:
            if item.id not in chosen and left.get(stratum(item), 0) > 0 and missing[item.kind] > 0:
                chosen[item.id] = item
                left[stratum(item)] -= 1
                missing[item.kind] -= 1
    return list(chosen.values())


def _by_lot(items: Sequence[Item], seed: str) -> list[Item]:
    """In an order that depends on the ids alone."""
    return sorted(items, key=lambda item: (random.Random(f"{seed}/{item.id}").random(), item.id))
