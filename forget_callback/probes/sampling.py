"""Random subsets that keep the shares of categories. Knows nothing of what is drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def stratified(
    things: Sequence[T], limit: int, *, stratum: Callable[[T], Hashable], draw: Callable[[T], float]
) -> list[T]:
    """`limit` of the things, in their order: of each stratum its share (largest remainder), the lowest draws first.

    Args:
        stratum: The category of a thing.
        draw: A random number for each thing, the same at every call.

    >>> stratified("aaaabb", 3, stratum=str, draw=lambda thing: 0.5)
    ['a', 'a', 'b']
    """
    if limit >= len(things):
        return list(things)
    sizes = Counter(stratum(thing) for thing in things)
    quota = Counter({key: limit * size // len(things) for key, size in sizes.items()})
    by_remainder = sorted(sizes, key=lambda key: -(limit * sizes[key] % len(things)))
    quota.update(by_remainder[: limit - quota.total()])
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index in sorted(range(len(things)), key=lambda index: draw(things[index])):
        members[stratum(things[index])].append(index)
    chosen = sorted(index for key, indices in members.items() for index in indices[: quota[key]])
    return [things[index] for index in chosen]
