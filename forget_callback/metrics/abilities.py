"""What items are about, and the verdict of a mix: facts, behaviour and text each tell of themselves.

A run can keep every fact and lose its refusals. So in a mix each ability has its own transitions and verdict, and the
mix is claimed to have lost something where one of them is, adjusted for their number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from forget_callback.metrics.intervals import holm
from forget_callback.metrics.pairs import Flags, Ints, Pairs
from forget_callback.probes.abilities import TRAINING

# By the number that stands for each in `Pairs`; "" is not known.
ABILITIES = ("", "knowledge", "behaviour", "task", "text", TRAINING)
_KNOWLEDGE, _TASK, _TEXT, _TRAINING = map(ABILITIES.index, ("knowledge", "task", "text", TRAINING))


def ability_codes(ability: NDArray[np.object_], texts: Flags) -> Ints | None:
    """Abilities by their place in `ABILITIES`, of texts alone "text" or "training"; None where nothing is known."""
    places = {name: place for place, name in enumerate(ABILITIES)} | {"text": _TASK, TRAINING: _TASK}
    codes = np.fromiter((places.get(name, _TASK) for name in ability), np.int64, len(ability))
    codes[texts] = np.where(ability[texts] == TRAINING, _TRAINING, _TEXT)
    return codes if codes.any() else None


def rows_by_ability(codes: Ints | None) -> dict[str, Ints | slice]:
    """The items of each ability, by position, in the order of `ABILITIES`."""
    there = [0] if codes is None else np.flatnonzero(np.bincount(codes)).tolist()
    if codes is None or len(there) == 1:
        return {ABILITIES[code]: slice(None) for code in there}
    return {ABILITIES[code]: np.flatnonzero(codes == code) for code in there}


def is_text(pairs: Pairs) -> Flags:
    """Which items are texts, ``(n_items,)``."""
    found: Flags = np.zeros(len(pairs), bool) if pairs.ability is None else pairs.ability >= _TEXT
    return found


def tells_of_knowledge(pairs: Pairs) -> Flags:
    """The items that `knowledge_lost` may be of: those that ask for knowledge, if some do, else all but texts."""
    asks: Flags = np.zeros(len(pairs), bool) if pairs.ability is None else pairs.ability == _KNOWLEDGE
    return asks if asks.any() else ~is_text(pairs)


def lost_in(p_values: Mapping[str, float], level: float) -> tuple[str, ...]:
    """The abilities that lost something, the surest first, by Holm's method over all of them together.

    Args:
        p_values: Of the claim "lost" of each ability; NaN is no test.
        level: Of all claims together.
    """
    adjusted = dict(zip(p_values, holm(list(p_values.values()))))
    return tuple(sorted((name for name, p in adjusted.items() if p < level), key=lambda name: p_values[name]))


def loss_p_value_of(p_values: Mapping[str, float]) -> float:
    """Of "nothing was lost in any ability": below a level where `lost_in` names one. NaN without a test."""
    adjusted = holm(list(p_values.values()))
    return float(np.nanmin(adjusted)) if not np.isnan(adjusted).all() else float("nan")


def verdict_of_mix(verdicts: Mapping[str, str], *, lost: bool) -> str:
    """The first that fits: "lost", "moved", "none" or "unclear".

    Moved is where one ability is, or is lost by itself and not among several. An ability of which nothing can be said,
    such as one that the model never had, does not hide what can be said of others.

    Args:
        verdicts: Of each ability.
        lost: Whether `lost_in` names one.
    """
    if lost:
        return "lost"
    said = set(verdicts.values())
    return "moved" if said & {"lost", "moved"} else "none" if "none" in said else "unclear"
