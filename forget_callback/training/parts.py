"""A part of a probe's items, in place of all of them, and how large a part a time budget allows.

Parts are nested: they are the beginnings of one random order, in which every category has its share, so a larger part
holds all items of a smaller one. Arithmetic on items and seconds: nothing here knows a model or a Trainer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from forget_callback.probes.probe import Probe

# Items of a probe below which no number means much: the standard error of a share is up to 5 points then.
LEAST = 100
# Halvings of the range in which a part is searched, to a thousandth of the items.
_HALVINGS = 10


def size_of(n_items: int, share: float) -> int:
    """Items in a part, `LEAST` of them at least.

    >>> size_of(1000, 0.42), size_of(1000, 0.0), size_of(60, 0.5)
    (420, 100, 60)
    """
    return max(round(share * n_items), min(LEAST, n_items))


def part_of(probe: Probe, share: float) -> Collection[str]:
    """Ids of a random part of a probe's items, the same ones at every call; of each category its share."""
    order = sorted((sha256(item.id.encode()).digest(), item.category, item.id) for item in probe.items)
    sizes, before = Counter(category for _, category, _ in order), Counter[str]()
    places = []
    for draw, category, name in order:
        places.append(((before[category] + 0.5) / sizes[category], draw, name))
        before[category] += 1
    return frozenset(name for *_, name in sorted(places)[: size_of(len(places), share)])


@dataclass(frozen=True)
class Cost:
    """Seconds that evaluating takes, as measured.

    Attributes:
        first: A first prompt.
        further: A further prompt.
        changed: The same where only items are asked that answer the first one otherwise than before, spread over all.
        rest: An evaluation beside its scoring: comparing, writing, showing.
    """

    first: float
    further: float
    rest: float = 0.0
    changed: float = 0.0

    def of(self, probes: Sequence[Probe], share: float, *, variants: bool, changed: bool = False) -> float:
        """Of an evaluation of a part of these probes, with their further prompts, perhaps of changed items, or none."""
        seconds, further = self.rest, self.changed if changed else self.further
        for probe in probes:
            prompts = sum(len(item.variants) for item in probe.items) if variants else 0
            seconds += size_of(len(probe), share) * (self.first + further * prompts / len(probe))
        return seconds


def largest(fits: Callable[[float], bool], most: float = 1.0) -> float | None:
    """The largest share up to `most` that fits, to a thousandth; None where not even the smallest part does.

    Args:
        fits: True for every share that is smaller than one that fits.

    >>> largest(lambda share: share <= 0.42), largest(lambda share: False), largest(lambda share: True, 0.3)
    (0.419, None, 0.3)
    """
    if fits(most):
        return most
    if not fits(0.0):
        return None
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return int(1000 * low) / 1000
