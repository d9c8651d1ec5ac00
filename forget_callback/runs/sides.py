"""The two sides of a comparison: what each one is, and that they are two, in order, and of whole records.

A model compared with itself loses nothing and passes every gate; a run read backwards shows its losses as gains.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.run_at import open_run
from forget_callback.runs.store import Store
from forget_callback.snapshots.joined import complete
from forget_callback.snapshots.logs.files import PACKED, read_text, suffix_of
from forget_callback.snapshots.snapshot import Snapshot

# What may be compared beside runs.
_OTHERS = ", a snapshot file, a file with id and score, or logs of lm-eval, lighteval or inspect"


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: As the user named it, without a step.
        snapshots: One of each probe, by the probe's name.
        files: What each was read from, by the probe's name.
        run: Id of the run that the snapshots are of, None where there is none: of logs, of a file that stands alone.
        step: Of the snapshots; None of logs.
        not_measured: What to say of probes that the run dropped.
        gaps: In which ways the record is not that of a whole run, where the user named no step.
        alone: Probes that it had and the other side has not: they are not in `snapshots`.
        probes: The texts of the items, by the probe's name, where they were at hand.
    """

    name: str
    snapshots: Mapping[str, Snapshot]
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    run: str | None = None
    step: int | None = None
    not_measured: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)

    def __str__(self) -> str:
        return printable(self.name) + ("" if self.step is None else f" at step {self.step}")

    @property
    def record(self) -> dict[str, str | int | None]:
        """Run and step, for JSON."""
        return {"run": self.run, "step": self.step}


def pair(before: Side, after: Side) -> tuple[Side, Side]:
    """Both sides with the probes that both have.

    Raises:
        ValueError: If there is none.
    """
    if before.snapshots.keys().isdisjoint(after.snapshots):
        raise ValueError(
            f"the probes differ: {before} has {sorted(before.snapshots)}, {after} has {sorted(after.snapshots)}; "
            "nothing to compare"
        )
    return _beside(before, after), _beside(after, before)


def one_sided(before: Side, after: Side) -> list[str]:
    """A line for each side that has probes of its own, which are left out."""
    sides = [side for side in (before, after) if side.alone]
    return [f"left out, for only {side} has it: {', '.join(map(printable, side.alone))}" for side in sides]


def _beside(side: Side, other: Side) -> Side:
    """A side without the probes that the other one lacks."""
    alone = [name for name in side.snapshots if name not in other.snapshots]
    shared = {name: one for name, one in side.snapshots.items() if name in other.snapshots}
    return replace(side, snapshots=shared, alone=(*side.alone, *alone))


def read_side(source: str, *, default: Literal["first", "last"], texts: bool = True) -> Side:
    """What RUN, RUN@STEP or a snapshot file names; without a step the first or last one that all probes have.

    Args:
        texts: Whether what is said of gaps may quote errors, and with them prompts and answers.

    Raises:
        ValueError: If there is none.
    """
    if Path(source).is_file():
        one = Snapshot.load(source)
        around = _store_around(Path(source))
        run = one.metadata.get("run") or (around.run.id if around else None)
        return Side(source, {one.probe: one}, {one.probe: (Path(source),)}, run, one.step)
    named = open_run(source, others=_OTHERS)
    store, probes = named.store, named.store.probes()
    step, name = named.step, source.rpartition("@")[0] if named.step is not None else source
    if step is None:
        step = _common_step(store, [probe.name for probe in probes], default)
    state = store.run
    dropped = {
        one["probe"]: printable(one["why"])
        for one in state.not_measured
        if one["probe"] and one["step"] is None and one.get("items") is None
    }
    not_measured = tuple(
        f"probe {quoted(probe)} was not measured{f': {why}' * texts}" for probe, why in dropped.items()
    )
    return Side(
        name=name,
        snapshots={probe.name: complete(store.read(probe.name, step), probe) for probe in probes},
        files={probe.name: (store.path / "snapshots" / probe.name / f"step-{step:08d}.parquet",) for probe in probes},
        run=state.id,
        step=step,
        not_measured=not_measured,
        # A probe that was dropped fails the gates over all of them, and no other.
        gaps=tuple(gap for gap in store.incomplete(texts=texts) if gap not in not_measured)
        if named.step is None
        else (),
        probes={probe.name: probe for probe in probes},
    )


def _common_step(store: Store, probes: Sequence[str], default: Literal["first", "last"]) -> int:
    """A step at which all probes were measured: of a run that was killed between two of them, the last whole one."""
    steps = store.steps(*probes)
    if steps:
        return steps[0 if default == "first" else -1]
    own = {name: store.steps(name) for name in probes}
    without = [name for name, found in own.items() if not found]
    if without or not own:
        raise ValueError(f"{store.path} has no snapshot of probe {', '.join(map(quoted, without)) or '(none)'}")
    each = ", ".join(f"{quoted(name)} has {found}" for name, found in own.items())
    raise ValueError(f"{store.path} has no step at which all of its probes were measured: {each}; name RUN@STEP")


def _store_around(file: Path) -> Store | None:
    """The run whose snapshots a file lies among: `forget/snapshots/<probe>/<file>`."""
    folders = file.resolve().parents
    if len(folders) < 3 or folders[1].name != "snapshots":
        return None
    store = Store(folders[2])
    return store if store.exists else None


def texts_of(side: Side) -> Mapping[str, Probe]:
    """The items of a side, by the probe's name; of a snapshot file those of the run that it lies in, if there is one.

    Raises:
        ValueError: If that run's probes are damaged.
    """
    found = dict(side.probes)
    for name, files in side.files.items():
        store = _store_around(Path(files[0])) if name not in found and files else None
        found |= {one.name: one for one in (store.probes() if store else ()) if one.name == name}
    return found


def require_two(before: Side, after: Side) -> None:
    """That the sides are two different snapshots, and one run's are not read backwards.

    Raises:
        ValueError: If not.
    """
    one_run = before.run is not None and before.run == after.run
    for name, old in before.snapshots.items():
        new = after.snapshots[name]
        at_once = one_run and before.step == after.step
        if _one_file(before.files.get(name, ()), after.files.get(name, ())) or _one_scoring(old, new, at_once):
            raise ValueError(
                f"{before} and {after} are the same snapshot of probe {quoted(name)}: compared with itself nothing is "
                "lost and every gate passes. Name two models, or two steps of a run: RUN@STEP"
            )
    if one_run and before.step is not None and after.step is not None and before.step > after.step:
        raise ValueError(
            f"{before} and {after} are of one run, and the steps run backwards: losses would be shown as gains. Name "
            "the earlier step first"
        )


def _one_file(one: Iterable[Path], other: Sequence[Path]) -> bool:
    """Whether they share a file, however its path is spelled."""
    return any(a.exists() and b.exists() and os.path.samefile(a, b) for a in one for b in other)


def _one_scoring(one: Snapshot, other: Snapshot, one_step: bool) -> bool:
    """Whether one is a copy of the other: the same answers, of one step of a run or scored in the same microseconds.

    Of one model that was scored twice the answers are the same, and the times are not.
    """
    seconds = one.metadata.get("seconds")
    return (one_step or (seconds is not None and seconds == other.metadata.get("seconds"))) and _alike(one, other)


def _alike(one: Snapshot, other: Snapshot) -> bool:
    """Whether all items have the same answers, margins, scores and bits per byte included."""
    if not np.array_equal(np.sort(one.ids.astype(str)), np.sort(other.ids.astype(str))):
        return False
    a, b = (side.select(np.argsort(side.ids.astype(str))) for side in (one, other))
    columns = ("correct", "margin", "score", "bits_per_byte")
    return all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in columns)


def copies(before: Side, after: Side) -> list[str]:
    """Probes whose files on the two sides hold the same, packed or not."""
    return [
        name
        for name, own in before.files.items()
        if (other := after.files.get(name)) and len(own) == len(other) and own and all(map(_same_content, own, other))
    ]


def _same_content(one: Path, other: Path) -> bool:
    if (one.suffix in PACKED) != (other.suffix in PACKED):
        return suffix_of(one) == suffix_of(other) and read_text(one) == read_text(other)
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
