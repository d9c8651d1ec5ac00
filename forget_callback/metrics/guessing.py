"""The guessing model: how much of what went from right to wrong was known, and how much was a lucky guess.

Each item is of one of four latent classes: known both times, lost, gained, never known. An item that is not known is
guessed among its k options (chance c = 1/k, 0 where open-ended); guesses may persist: on items never known the same
option comes again with probability rho + (1 - rho) c. Takes the items that were scored both times; knows nothing of
snapshots, categories or time. Estimates are not clipped: slightly negative is possible, and right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from forget_callback.metrics.estimates import Scored, shares_of, signed_shares
from forget_callback.metrics.intervals import Tail, upper_tail
from forget_callback.metrics.pairs import Floats, Pairs, mean


class Guessed(NamedTuple):
    """What one method finds: lost, gained and known before."""

    lost: Scored
    gained: Scored
    known_before: Scored


@dataclass(frozen=True)
class GuessPersistence:
    """How often an item that is wrong both times keeps its option; items of three or more options only.

    Attributes:
        n: Items wrong both times with an option both times.
        rho: Estimated persistence, unclipped, NaN if `n` is 0; 0 is independent guesses, 1 always the same.
        p_value: Exact one-sided test of rho = 0, 1 if `n` is 0.
    """

    n: int
    rho: float
    p_value: float


def by_joint(pairs: Pairs) -> Guessed:
    """From right and wrong alone, for independent guesses; exact where open-ended.

        lost = mean (before - c)(1 - after)/(1 - c)^2

    Its bias is -never rho/(k - 1). mean before (1 - after)/(1 - c) is right where all guesses persist.
    """
    chance, k, right = 1 / pairs.n_choices, pairs.n_choices, pairs.before == 1
    weights = {"positive_weight": mean(1 / (1 - chance)), "negative_weight": mean(chance / (1 - chance) ** 2)}
    both = (_lost_by_joint(side) for side in (pairs, pairs.swapped()))
    lost, gained = (Scored(scores, signed_shares(scores, **weights)) for scores in both)
    known = shares_of(k, (right, np.ones(len(k))), (~right, -1 / (k - 1)))
    return Guessed(lost, gained, Scored((pairs.before - chance) / (1 - chance), known))


def _lost_by_joint(pairs: Pairs) -> Floats:
    chance = 1 / pairs.n_choices
    scores: Floats = (pairs.before - chance) * (1 - pairs.after) / (1 - chance) ** 2
    return scores


def by_choice(pairs: Pairs) -> Guessed:
    """From the chosen options, where k >= 3; see `_lost_by_choice` for the formula.

    Items of two options have no other wrong option to switch to: nothing is subtracted for them, an upper bound.
    """
    assert pairs.choices is not None
    k, right = pairs.n_choices, pairs.before == 1
    scale = 1 + 1 / (k - 1)  # k/(k - 1), 1 where open-ended
    per_switch = pairs.several / np.where(pairs.several, k - 2, 1.0)
    weights = {"positive_weight": mean(scale), "negative_weight": mean(per_switch * scale)}
    both = (_lost_by_choice(side) for side in (pairs, pairs.swapped()))
    lost, gained = (Scored(scores, signed_shares(scores, **weights)) for scores in both)
    wrong = ~right & (pairs.choices[0] >= 0)
    known = shares_of(k, (right, np.ones(len(k))), (wrong, -1 / (k - 1)))
    return Guessed(lost, gained, Scored(right - wrong / (k - 1), known))


def _lost_by_choice(pairs: Pairs) -> Floats:
    """Each item's part in what was lost, method "choice", ``(n_items,)``.

    Assumes that on an item not known the right option is uniform given the two chosen ones. Then lucky guesses that
    moved have twins that can be seen: switches from one wrong option to another. With k options, c = 1/k and g of
    `_parsed_guesses`,

        lost_i = [ 1{right -> wrong} - 1{wrong -> another wrong}/(k - 2) - 1{wrong -> unparsed}/(k - 1) ] / (1 - g c)

    where the wrong answer before was parsed, and the two subtracted terms are of items with k >= 3 only. Gained is the
    same with before and after exchanged. Open-ended items (c = 0) count as they are.
    """
    assert pairs.choices is not None
    k, several, (choice_before, choice_after) = pairs.n_choices, pairs.several, pairs.choices
    right_before, right_after = pairs.before == 1, pairs.after == 1
    wrong_twice = several & ~right_before & ~right_after & (choice_before >= 0)
    switched = wrong_twice & (choice_after >= 0) & (choice_before != choice_after)
    unparsed = wrong_twice & (choice_after < 0)
    twins = switched / np.where(several, k - 2, 1.0) + unparsed / (k - 1)
    scores: Floats = ((right_before & ~right_after) - twins) / (1 - _parsed_guesses(pairs) / k)
    return scores


def _parsed_guesses(pairs: Pairs) -> float:
    """Share of the guesses after whose option could be parsed, the g of the formula; 1 where all could.

    A wrong parsed answer stands for k/(k - 1) guesses, the right ones included:
    g = A / (A + number unparsed) with A = sum of k/(k - 1) over them.
    """
    assert pairs.choices is not None
    parsed = pairs.choices[1] >= 0
    n_unparsed = np.count_nonzero(pairs.closed & ~parsed)
    if not n_unparsed:
        return 1.0
    wrong = pairs.n_choices[pairs.closed & parsed & (pairs.after == 0)]
    guesses = float((wrong / (wrong - 1)).sum())
    return guesses / (guesses + n_unparsed)


def guess_persistence(pairs: Pairs) -> GuessPersistence:
    """How much guesses persist, from the options of items that are wrong both times.

    For one k and s = same/n, rho = (s(k - 1) - 1)/(k - 1 - s). For several, the two moments that this is the ratio of
    are summed over items. Under rho = 0 the same option comes again with probability 1/(k - 1).
    """
    assert pairs.choices is not None
    before, after = pairs.choices
    wrong_twice = pairs.several & (pairs.before == 0) & (pairs.after == 0) & (before >= 0) & (after >= 0)
    k, same = pairs.n_choices[wrong_twice], before[wrong_twice] == after[wrong_twice]
    if len(k) == 0:
        return GuessPersistence(0, float("nan"), 1.0)
    # Estimated counts: guesses repeated through persistence, and all never-known items.
    repeated = same * k / (k - 1)
    persistent, never_known = repeated - ~same * k / ((k - 1) * (k - 2)), repeated + ~same * k / (k - 2)
    rho = float(persistent.sum() / never_known.sum())
    return GuessPersistence(len(k), rho, upper_tail(int(same.sum()), 1 / (k - 1)).exact)


def nothing_forgotten(pairs: Pairs) -> float:
    """Mid-p of the exact test of "no item was lost"; NaN where all are open-ended.

    By the chosen options where items of three or more have them, else by right and wrong.
    """
    if not pairs.closed.any():
        return float("nan")
    return (nothing_forgotten_by_choice(pairs) if pairs.by_choice else nothing_forgotten_by_joint(pairs)).midp


def nothing_forgotten_by_choice(pairs: Pairs) -> Tail:
    """From the chosen options, right whatever rho is; of items with k >= 3.

    Of the items that moved between two options, not to the right one, 1/(k - 1) moved away from it; of those that went
    from an option to an unparsed answer, 1/k.
    """
    assert pairs.choices is not None
    before, after = pairs.choices
    moved = pairs.several & (before >= 0) & (pairs.after == 0) & (before != after)
    k = pairs.n_choices[moved]
    return upper_tail(int((pairs.before[moved] == 1).sum()), np.where(after[moved] >= 0, 1 / (k - 1), 1 / k))


def nothing_forgotten_by_joint(pairs: Pairs) -> Tail:
    """From right and wrong alone, for independent guesses: of items wrong after, 1/k were right before.

    Open-ended items say nothing here: no guess makes them right.
    """
    wrong_after = pairs.closed & (pairs.after == 0)
    return upper_tail(int((pairs.before[wrong_after] == 1).sum()), 1 / pairs.n_choices[wrong_after])
