"""The run, or the step of one, that a user named: RUN or RUN@STEP."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.suggest import beside, did_you_mean
from forget_callback.runs.rows import Stage
from forget_callback.runs.store import Store
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunAt:
    """A store and, where the user named one, a step of it."""

    store: Store
    step: int | None

    def read(self, probe: str, *, default: Literal["first", "last"]) -> Snapshot:
        """The snapshot of a probe at the named step, else at the first or last one.

        Raises:
            ValueError: If there is none.
        """
        steps = self.store.steps(probe)
        if self.step is None and not steps:
            raise ValueError(f"{self.store.path} has no snapshot of probe {quoted(probe)}")
        return self.store.read(probe, self.step if self.step is not None else steps[0 if default == "first" else -1])

    def baseline(self, probe: str) -> Snapshot:
        """What a later stage is compared against: the named step, else what this run was, else its first snapshot.

        Raises:
            ValueError: If there is none.
        """
        own = self.store.read_beside("baseline", probe) if self.step is None else None
        return self.read(probe, default="first") if own is None else own

    def references(self, probes: Iterable[Probe]) -> dict[str, Reference]:
        """What the baseline expected in the documents of these probes, by name; says where that is not known."""
        found = {}
        for probe in probes:
            if not any(item.kind == "text" for item in probe.items):
                continue
            try:
                found[probe.name] = self.store.reference(self.baseline(probe.name))
            except (OSError, ValueError) as error:
                logger.warning("probe %r has no KL divergence from the baseline: %s", probe.name, error)
        return found

    def next_stage(self, probe: str) -> Stage:
        """The stage of a run that continues from here; the same one if nothing was trained yet."""
        last, before = self.read(probe, default="last"), self.store.stage
        trained = 0.0 if np.isnan(last.samples_seen) else last.samples_seen
        return Stage(before.number + (last.step > 0), before.samples_before + trained)


def open_run(run: str | os.PathLike[str], *, others: str = "") -> RunAt:
    """What RUN or RUN@N names.

    Args:
        others: What else the user may name there, for the error.

    Raises:
        ValueError: If there is no run there.
    """
    text = os.fspath(run)
    directory, at, step = text.rpartition("@")
    named = bool(at) and step.isdigit() and not Path(text).exists()
    path = Path(directory if named else text)
    store = Store(path)
    if not store.exists:
        missing = "" if path.exists() else f"no such file or directory{f' as {quoted(str(path))}' if named else ''}; "
        expected = f"expected a directory that holds forget/, RUN or RUN@STEP{others}"
        raise ValueError(f"{printable(text)} is not a run: {missing}{expected}{_instead(path)}")
    return RunAt(store, int(step) if named else None)


def require_before(baseline: str, run: Path) -> None:
    """That a model before training is not the run's own directory, where a trainer saves the one after it.

    Raises:
        ValueError: If it is.
    """
    home = run.parent if run.name == "forget" else run
    if Path(baseline).exists() and Path(baseline).resolve() in (home.resolve(), (home / "forget").resolve()):
        raise ValueError(
            f"--baseline {quoted(baseline, 200)} is the RUN itself, and a model saved there is the one after training; "
            "give the model before training"
        )


def _instead(path: Path) -> str:
    """Which run was probably meant by a path that is none: one of that name, or one within it."""
    if not path.exists():
        return did_you_mean(path, [one for one in beside(path) if Store(one).exists])
    within = [one for one in sorted(path.iterdir()) if Store(one).exists] if path.is_dir() else []
    return f"; did you mean {quoted(str(within[-1]), 200)}?" if within else ""
