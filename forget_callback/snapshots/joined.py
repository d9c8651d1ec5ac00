"""Snapshots put beside each other: by the ids of their items, over the variants that both have, or pooled.

Knows what a probe says of its items, and neither files nor what the answers are compared for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.probes.abilities import TRAINING, ability_of
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.snapshots.answers import FURTHER, PER_ITEM, Answers, changed
from forget_callback.snapshots.skipped import comparable
from forget_callback.snapshots.snapshot import NOISE, Snapshot


def complete(snapshot: Snapshot, probe: Probe) -> Snapshot:
    """The snapshot in the probe's item order, with what the probe says of its items, such as their options.

    Raises:
        ValueError: If it is of another probe: name, fingerprint or set of ids differ.
    """
    if (snapshot.probe, snapshot.fingerprint) != (probe.name, probe.fingerprint):
        raise ValueError(
            f"snapshot of probe {snapshot.probe!r} ({snapshot.fingerprint[:12]}, {counted(len(snapshot))}) where probe "
            f"{probe.name!r} ({probe.fingerprint[:12]}, {counted(len(probe))}) was expected; use the probe of that "
            "run, or another baseline"
        )
    ordered = _ordered(snapshot, np.array(probe.ids, object), f"probe {probe.name!r}")
    texts = {
        name: np.array([getattr(item, name) for item in probe.items], object)
        for name in ("category", "cluster", "fact", "kind")
    }
    texts["ability"] = np.array([ability_of(item) for item in probe.items], object)
    return changed(ordered, **texts, n_choices=probe.n_choices, answer=probe.answer, samples=probe.samples)


def _ordered(snapshot: Snapshot, ids: NDArray[Any], owner: str) -> Snapshot:
    """The snapshot with its items in the order of `ids`.

    Raises:
        ValueError: If the two sets of ids differ; shows what is missing on each side.
    """
    if np.array_equal(snapshot.ids, ids):
        return snapshot
    position = dict(zip(snapshot.ids, range(len(snapshot))))
    rows = [position.get(name, -1) for name in ids]
    if len(rows) != len(position) or -1 in rows:
        missing = [name for name in ids if name not in position]
        extra = set(position).difference(ids)
        raise ValueError(
            f"items do not match: the snapshot of step {snapshot.step} lacks {len(missing)} of {owner} "
            f"{missing[:3]} and has {len(extra)} more {sorted(extra)[:3]}"
        )
    return snapshot.select(np.array(rows))


def align(before: Snapshot, after: Snapshot) -> Snapshot:
    """`after` with its items in the order of `before`, joined by id, and only the further variants that both have.

    Raises:
        ValueError: If the two are of different probes or hold different items.
    """
    if before.fingerprint != after.fingerprint:
        raise ValueError(
            f"snapshots of different probes do not compare: {before.probe!r} at step {before.step} has fingerprint "
            f"{before.fingerprint[:12]} and {counted(len(before))}, {after.probe!r} at step {after.step} has "
            f"{after.fingerprint[:12]} and {len(after)}; score both models on the same items, settings and chat "
            "template: use the probe of that run, or another baseline"
        )
    ordered = _ordered(after, before.ids, f"the snapshot of step {before.step}")
    return _with_variants(ordered, [answers.fingerprint for answers in before.further])


def align_both(before: Snapshot, after: Snapshot) -> tuple[Snapshot, Snapshot]:
    """Both with the same items in the same order, and with the same further variants: those that both have.

    Without further variants where one side skipped prompts that can count between these two.

    Raises:
        ValueError: As `align` does.
    """
    after = align(before, after)
    before = _with_variants(before, [answers.fingerprint for answers in after.further])
    return (before, after) if comparable(before, after) else (before.without_variants(), after.without_variants())


def _with_variants(snapshot: Snapshot, fingerprints: Sequence[str]) -> Snapshot:
    """The snapshot with those of these further variants that it has, in this order."""
    own = {answers.fingerprint: answers for answers in snapshot.further}
    return changed(snapshot, further=tuple(own[name] for name in fingerprints if name in own))


def pool(snapshots: Sequence[Snapshot]) -> Snapshot:
    """All items of several probes at one step as one snapshot, ids prefixed by the probe's name.

    Items of a probe with fewer variants than another are not asked in the further ones of that. Documents of the
    training data are learned and not remembered: they are in it only where there is nothing else.
    """
    others = [s.select(kept) if not kept.all() else s for s in snapshots if (kept := s.ability != TRAINING).any()]
    snapshots = others or snapshots
    first = snapshots[0]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(s, name) for s in snapshots]) for name in PER_ITEM if name != "ids"
    }
    ids = [f"{s.probe}/{name}" for s in snapshots for name in s.ids]
    noise = [s.metadata[NOISE] for s in snapshots if NOISE in s.metadata]
    further = []
    for number in range(max(len(s.further) for s in snapshots)):
        parts = [s.further[number] if number < len(s.further) else Answers.none(len(s)) for s in snapshots]
        values = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FURTHER}
        further.append(changed(parts[0], fingerprint="+".join(part.fingerprint for part in parts), **values))
    return changed(
        first,
        probe="all",
        fingerprint="+".join(s.fingerprint for s in snapshots),
        ids=np.array(ids, object),
        metadata={NOISE: max(noise)} if noise else {},
        further=tuple(further),
        **columns,
    )
