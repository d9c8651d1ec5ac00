"""When to look, by the number of optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from hashlib import sha256

from forget_callback.probes.items import Item
from forget_callback.probes.probe import Probe
from forget_callback.probes.sampling import stratified

Schedule = int | frozenset[int] | str | None


def checked(every: int | Iterable[int] | str | None) -> Schedule:
    """A schedule as `ForgetCallback` takes it: None, a number of steps, a list of them or "log2".

    Raises:
        ValueError: If it is anything else.
    """
    if every is None or every == "log2":
        return every
    steps = [every] if isinstance(every, int) else list(every) if not isinstance(every, str) else []
    if not steps or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in steps):
        raise ValueError(f"every must be None, a number of steps of 1 or more, a list of them or 'log2', got {every!r}")
    return every if isinstance(every, int) else frozenset(steps)


def is_due(every: Schedule, step: int) -> bool:
    """Whether a schedule names this step.

    >>> [step for step in range(1, 20) if is_due("log2", step)]
    [1, 2, 4, 8, 16]
    """
    if every is None:
        return False
    if isinstance(every, int):
        return step % every == 0
    return step in every if isinstance(every, frozenset) else step & (step - 1) == 0


def planned(every: Schedule, last: int, *, evaluations: int) -> int:
    """Looks after the baseline in a run of `last` steps, of which the last is one; evaluations are looks by None."""
    if every is None:
        return max(evaluations, 1)
    return sum(1 for step in range(1, last + 1) if is_due(every, step) or step == last)


def evaluations(strategy: str, last: int, *, steps: float, epochs: float) -> int:
    """Evaluations that a Trainer plans by its `eval_strategy`, every so many steps or once an epoch."""
    if strategy == "steps":
        return math.ceil(last / max(int(steps or last), 1))
    return math.ceil(epochs) if strategy == "epoch" else 0


# Looks that a run should be able to afford; fewer show no curve.
LOOKS = 8

# Items of a probe, and part of them, below which no number means much.
LEAST, LEAST_PART = 30, 0.01


def allowance(max_overhead: float, *, trained: float, progress: float) -> float:
    """Seconds that probing may take in a whole run.

    Args:
        max_overhead: Share of the run's wall time that probing may take, in (0, 1).
        trained: Seconds of training so far, without probing.
        progress: Part of the training that is done, in (0, 1].

    >>> round(allowance(0.05, trained=19.0, progress=0.02), 6)  # of 950 + 50 seconds
    50.0
    """
    return max_overhead / (1 - max_overhead) * trained / progress


def affordable(left: float, look: float) -> float:
    """Share of the items that can be scored `LOOKS` times in the seconds that are left, from `LEAST_PART` to 1.

    Args:
        left: Seconds.
        look: Seconds that a look at all items takes.

    >>> affordable(40.0, 10.0)
    0.5
    """
    return min(max(left / (LOOKS * look), LEAST_PART), 1.0) if look > 0 else 1.0


def part_of(probe: Probe, share: float) -> Collection[str]:
    """Ids of a random part of a probe's items, the same ones whenever it is asked; of each category its share."""

    def draw(item: Item) -> float:
        return int.from_bytes(sha256(item.id.encode()).digest()[:8], "big")

    limit = max(round(share * len(probe)), min(LEAST, len(probe)))
    return frozenset(item.id for item in stratified(probe.items, limit, stratum=lambda i: i.category, draw=draw))
