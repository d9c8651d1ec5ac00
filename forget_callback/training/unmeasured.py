"""What a run does not measure: said so that it stands out among a trainer's lines, said again at its end, and kept.

Probes that cannot be scored at all, evaluations that failed, items that were dropped. Knows nothing of models or
trainers; only the main rank speaks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forget_callback.probes.quoting import printable, quoted
from forget_callback.scoring.distributed import rank
from forget_callback.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)

_LINE = "=" * 100


def alarm(*lines: str) -> None:
    """Logs an error in a frame, on the main rank."""
    if rank() == 0:
        logger.error("%s\n%s\n%s", _LINE, "\n".join(lines), _LINE)


def reason(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {printable(str(error))}"


class Unmeasured:
    """What was not measured so far in a run.

    Args:
        kept: The entries of the manifest of a run that is resumed or starts again.
        up_to: The step at which it does; what comes later is of no account.
    """

    def __init__(self, kept: Iterable[Mapping[str, Any]] = (), *, up_to: int = 0) -> None:
        self._missed: dict[tuple[str, int | None], str] = {}
        self._items: dict[tuple[str, str], int] = {}
        for one in kept:
            if (one["step"] or 0) > up_to:
                continue
            if one.get("items") is None:
                self._missed[one["probe"], one["step"]] = one["why"]
            else:
                self._items[one["probe"], one["why"]] = one["items"]

    def add(self, why: str, *, probe: str = "", step: int | None = None) -> bool:
        """Notes what failed; whether it is new.

        Args:
            probe: Its name, "" for all probes.
            step: Of the evaluation, None for the whole run.
        """
        new = (probe, step) not in self._missed
        self._missed[probe, step] = why
        return new

    def measured(self, step: int, snapshots: Sequence[Snapshot]) -> None:
        """Takes what was scored at a step, after all: counts the items in it that were not."""
        for probe in ("", *(one.probe for one in snapshots)):
            self._missed.pop((probe, step), None)
            self._missed.pop((probe, None), None)  # of an earlier start, which could not be watched and this one is
        for one in snapshots:
            for why, count in one.metadata.get("not_scored", {}).items():
                self._items[one.probe, why] = max(count, self._items.get((one.probe, why), 0))

    @property
    def entries(self) -> list[dict[str, Any]]:
        """As the manifest keeps them."""
        missed = [{"probe": probe, "step": step, "why": why} for (probe, step), why in self._missed.items()]
        items = [{"probe": name, "step": None, "why": why, "items": n} for (name, why), n in self._items.items()]
        return [*missed, *items]

    @property
    def lines(self) -> list[str]:
        """For people, a line each."""
        found = []
        for (probe, step), why in self._missed.items():
            who = f"probe {quoted(probe)}" if probe else "all probes"
            found.append(f"  {who}, {'the whole run' if step is None else f'step {step}'}: {why}")
        for (name, why), n in self._items.items():
            found.append(f"  probe {quoted(name)}, {n} item{'s' * (n > 1)}: {why}")
        return found
