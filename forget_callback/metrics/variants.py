"""What was lost where several prompts ask the same item: right in every one before and in none after.

One prompt cannot tell what is gone from what is no longer said in that form (spurious forgetting, arXiv 2501.13453).
With R such an item, and T its twin, the same wrong option in every prompt before and in none after, and not right in
every one after: if the options of a guesser are exchangeable, R and T stand as 1 to k - 2 where all prompts agree after
(then T is another wrong option), else as 1 to k - 1. So, whatever guesses have in common between prompts and over time,

    lost = mean over items of k/(k - 1) (R - T/(k - 2 if unanimous else k - 1)),    k >= 3

An answer that could not be parsed is not right; before, it is neither R nor T; after, it is not unanimous. Takes items
scored both times in all of their prompts. Shares of samples stand for right and wrong where an item has several.
"""

from __future__ import annotations

import numpy as np

from forget_callback.metrics.estimates import Scored, shares_of, signed_shares
from forget_callback.metrics.pairs import Flags, Floats, Ints, Pairs, Prompts, mean


def lost(items: Pairs) -> Scored:
    """The estimate of this module's docstring, with the events of each number of options a stratum.

    Args:
        items: Of three options or more, with the chosen options.
    """
    prompts, k = items.in_all_prompts, items.n_choices
    gone, scale = right_then_wrong(prompts), k / (k - 1)
    twins, unanimous = _twins(prompts)
    agreed, divided = twins & unanimous, twins & ~unanimous
    scores = scale * (gone - agreed / (k - 2) - divided / (k - 1))
    return Scored(
        scores,
        shares_of(k, (gone, scale), (agreed, -scale / (k - 2)), (divided, -scale / (k - 1))),
    )


def net(items: Pairs) -> Scored:
    """R less its mirror, times k/(k - 1): what was lost beyond what was gained, whatever the options are."""
    gone, come = right_then_wrong(items.in_all_prompts), right_then_wrong(items.in_all_prompts.swapped())
    scale = _scale(items.n_choices)
    scores = scale * (gone - come)
    if items.sampled:
        weight = mean(scale)
        return Scored(scores, signed_shares(scores, positive_weight=weight, negative_weight=weight))
    return Scored(scores, shares_of(items.n_choices, (gone, scale), (come, -scale)))


def at_most(items: Pairs) -> Scored:
    """R times (k/(k - 1))^W, W prompts of the item: what was lost if every lost item is guessed anew in each prompt."""
    prompts = items.in_all_prompts
    found, scale = right_then_wrong(prompts), _scale(items.n_choices) ** prompts.asked.sum(axis=0)
    if items.sampled:
        weight = mean(scale)
        return Scored(scale * found, signed_shares(scale * found, positive_weight=weight, negative_weight=weight))
    return Scored(scale * found, shares_of(scale, (found, scale)))


def known_before(items: Pairs) -> Scored:
    """Right in all prompts, less the guesses among them: 1 for each k - 1 items with the same wrong option in all."""
    prompts, k = items.in_all_prompts, items.n_choices
    assert prompts.choices is not None
    right, one = _all(prompts.before, prompts.asked), np.ones(len(items))
    wrong = _same_wrong(prompts.before, prompts.choices[0], prompts.asked)
    return Scored(right - wrong / (k - 1), shares_of(k, (right, one), (wrong, -1 / (k - 1))))


def known_in_first(items: Pairs) -> Scored:
    """(right - c)/(1 - c) in the first prompt, where guesses have the chance c = 1/k."""
    right, k = items.in_all_prompts.before[0], items.n_choices
    scores = right - (1 - right) / (k - 1)
    if items.sampled:
        return Scored(scores, signed_shares(scores, positive_weight=1.0, negative_weight=1.0))
    return Scored(scores, shares_of(k, (right, np.ones(len(k))), (1 - right, -1 / (k - 1))))


def right_in_all(prompts: Prompts) -> Floats:
    """Right in every prompt before, ``(n_items,)``."""
    return _all(prompts.before, prompts.asked)


def right_then_wrong(prompts: Prompts) -> Floats:
    """R: right in every prompt before and in none after, ``(n_items,)``; of samples, how often such a draw is."""
    return _all(prompts.before, prompts.asked) * _all(1 - prompts.after, prompts.asked)


def _twins(prompts: Prompts) -> tuple[Flags, Flags]:
    """T, and whether all prompts agree after, ``(n_items,)`` each."""
    assert prompts.choices is not None
    (before, after), asked = prompts.choices, prompts.asked
    left = ((after != before[0]) | ~asked).all(axis=0)
    not_right = _all(prompts.after, asked) == 0
    twins: Flags = _same_wrong(prompts.before, before, asked) & left & not_right
    return twins, _agree(after, asked)


def _same_wrong(right: Floats, choice: Ints, asked: Flags) -> Flags:
    found: Flags = _agree(choice, asked) & (right[0] == 0)
    return found


def _agree(choice: Ints, asked: Flags) -> Flags:
    """Whether all prompts of an item chose one option."""
    agreed: Flags = ((choice == choice[0]) | ~asked).all(axis=0) & (choice[0] >= 0)
    return agreed


def _all(share: Floats, asked: Flags) -> Floats:
    """Whether it is so in every prompt that the item has."""
    found: Floats = np.where(asked, share, 1.0).prod(axis=0)
    return found


def _scale(n_choices: Floats) -> Floats:
    return 1 + 1 / (n_choices - 1)  # k/(k - 1), 1 where open-ended
