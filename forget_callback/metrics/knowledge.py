"""Which items tell what was known and lost, and by which method.

Knowledge is read from multiple choice with three options or more where a probe has such items, else from those with
two, else from open-ended ones. With several prompts an item by the estimator of `variants`, else by the guessing model.
Beside it stand the net of lost and gained, the range, what was lost in form only, and recall of the same facts.
Compact: what is kept has no vector of items. Knows nothing of snapshots or time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import nan, sqrt

import numpy as np

from forget_callback.metrics import variants
from forget_callback.metrics.estimates import Estimate, Scored, estimate_of, lesser, shares_of, signed_shares
from forget_callback.metrics.guessing import Guessed, by_choice, by_joint
from forget_callback.metrics.intervals import NO_INTERVAL, Interval
from forget_callback.metrics.pairs import Flags, Floats, Pairs, mean

# Below this many items nothing is claimed, and what is known is too uncertain to cap anything.
MIN_ITEMS = 30
# Where this share of the items has a second prompt of other structure, a claim is of more than one prompt.
MOST = 0.9


@dataclass(frozen=True)
class Knowledge:
    """What was known before, lost and gained, none of it clipped or capped.

    Attributes:
        method: "choice" uses the chosen options, "joint" assumes independent guesses, "net" is lost less gained,
            "exact" needs no correction (open-ended items).
        lost, gained, known_before: Of the items that enter.
        net: Lost less gained of the same items.
        at_most: Lost if every item lost is guessed anew: its upper end is that of the range.
        net_of_all: `net` of all items with options, those with two included.
        first_prompt_lost: `lost` by the first prompt alone.
        spurious: Lost in the first prompt and not in all, item by item; None with one prompt.
        two_prompts: Whether the items have a second prompt of other structure, so that a claim is not of one prompt.
        sampled: Whether they are sampled, several answers each.
        n_asked: Items that would enter if all had been scored.
        facts: Whether each of them asks for a fact of its own, so that they may be called facts.
    """

    method: str
    lost: Estimate
    gained: Estimate
    known_before: Estimate
    net: Estimate
    at_most: Estimate
    net_of_all: Estimate
    first_prompt_lost: Estimate
    spurious: Estimate | None
    two_prompts: bool
    sampled: bool
    n_asked: int
    facts: bool

    @cached_property
    def known_interval(self) -> Interval:
        """95% interval of what was known before."""
        return self.known_before.interval()

    @property
    def known_anything(self) -> bool:
        """Whether it is beyond doubt that something was known."""
        return self.known_before.n >= MIN_ITEMS and self.known_interval.low > 0

    @property
    def known_well(self) -> bool:
        """Whether what was known is known well enough to count losses in it: in doubt by less than a factor of two."""
        return self.known_anything and self.known_interval.low > self.known_before.mean / 2

    def lost_mean(self) -> float:
        """Lost, at most what was known, where that is beyond doubt."""
        return min(self.lost.mean, self.known_before.mean) if self.known_anything else self.lost.mean

    def lost_interval(self, confidence: float) -> Interval:
        """The interval of `lost_mean`."""
        own = self.lost.interval(confidence=confidence)
        return lesser(own, self.known_before.interval(confidence=confidence)) if self.known_anything else own

    @cached_property
    def lost_range(self) -> Interval:
        """From the net, not below 0, to what was lost if every item lost is guessed anew, with their 95% ends."""
        if not self.lost.n:
            return NO_INTERVAL
        ceiling = max(self.known_interval.high, 0.0)
        low = min(max(self.net.interval().low, 0.0), ceiling)
        return Interval(low, max(min(self.at_most.interval().high, ceiling), low))

    def known_lost(self) -> float:
        """Share of what was known that is lost; NaN where next to nothing may have been known: a ratio of noise."""
        known = self.known_before.mean
        return min(self.lost.mean / known, 1.0) if _divides(known, self.known_interval) else nan

    def known_lost_interval(self, confidence: float) -> Interval:
        """Interval of that ratio by MOVER (Donner and Zou 2012), at most 1; NaN if next to nothing may have been known.

        As if both were independent: an item known and lost is in both, so it is rather wide.
        """
        known, (few, many) = self.known_before.mean, self.known_before.interval(confidence=confidence)
        if not _divides(known, Interval(few, many)):
            return NO_INTERVAL
        lost, (low, high) = self.lost.mean, self.lost.interval(confidence=confidence)
        both = lost * known

        def end(limit: float, other: float, side: int) -> float:
            square = other * (2 * known - other)
            return (both + side * sqrt(max(both**2 - limit * (2 * lost - limit) * square, 0.0))) / square

        return lesser(Interval(end(low, many, -1), end(high, few, 1)), Interval(1.0, 1.0))


def _divides(known: float, interval: Interval) -> bool:
    """Whether a ratio to a share means anything: it is above 0, and below twice what it seems."""
    return interval.low > 0 and interval.high < 2 * known


def knowledge_of(pairs: Pairs) -> Knowledge:
    """What items of which some may be unscored tell about knowledge."""
    first = _scored_first(pairs)
    items = first.scored_in_all()
    method, found = _estimate(items)
    lost = _whole(found.lost, items)
    net = whole = lost if method == "net" else _whole(variants.net(items), items)
    if (pairs.closed & ~pairs.several).any() and pairs.several.any():  # two options do not enter, and count in the net
        closed = pairs.take(pairs.closed).scored().scored_in_all()
        whole = _whole(variants.net(closed), closed)
    return Knowledge(
        method=method,
        lost=lost,
        gained=_whole(found.gained, items),
        known_before=_whole(found.known_before, items),
        net=net,
        at_most=_whole(variants.at_most(items), items),
        net_of_all=whole,
        first_prompt_lost=lost if items is first and items.n_prompts == 1 else _first_prompt_lost(first),
        spurious=_whole(_spurious(items, method), items) if items.n_prompts > 1 else None,
        two_prompts=_two_prompts(items),
        sampled=items.sampled,
        n_asked=int(entering(pairs).sum()),
        facts=_own_facts(items),
    )


def _first_prompt_lost(items: Pairs) -> Estimate:
    first = items.first().scored()
    return _whole(_estimate(first)[1].lost, first)


def _whole(scored: Scored, items: Pairs) -> Estimate:
    return estimate_of(scored, items.cluster, sampled=items.sampled)


def entering(pairs: Pairs) -> Flags:
    """The items that enter, ``(n_items,)``: those of three options or more, else of two, else the open-ended ones."""
    for flags in (pairs.several, pairs.closed):
        if flags.any():
            return flags
    return np.ones(len(pairs), bool)


def lost_by_item(pairs: Pairs) -> Floats:
    """Each item's part in `knowledge_lost`, ``(n,)``: their mean is the uncapped estimate.

    NaN where an item does not enter, or was not scored both times in every prompt that it has.
    """
    found, at = np.full(len(pairs), np.nan), entering(pairs) & ~np.isnan(pairs.before) & ~np.isnan(pairs.after)
    if pairs.prompts is not None:
        at &= pairs.prompts.scored
    found[at] = _estimate(_scored_first(pairs).scored_in_all())[1].lost.scores
    return found


def _scored_first(pairs: Pairs) -> Pairs:
    """The items that enter and were scored both times in the first prompt."""
    return pairs.take(entering(pairs)).without_unasked().scored()


def _estimate(items: Pairs) -> tuple[str, Guessed]:
    """Name of the method that the items allow, and what it finds."""
    prompts = items.in_all_prompts
    stored, several = prompts.choices is not None, bool(items.several.any())
    if not items.sampled and not items.closed.any():
        right, one = variants.right_in_all(prompts), np.ones(len(items))
        known = Scored(right, shares_of(one, (right, one)))
        return "exact", Guessed(variants.at_most(items), variants.at_most(items.swapped()), known)
    if not items.sampled and several and items.n_prompts == 1:
        return ("choice", by_choice(items)) if stored else ("joint", by_joint(items))
    known = variants.known_before(items) if stored and not items.sampled else variants.known_in_first(items)
    if several and stored and not items.sampled:
        return "choice", Guessed(variants.lost(items), variants.lost(items.swapped()), known)
    return "net", Guessed(variants.net(items), variants.net(items.swapped()), known)


def _spurious(items: Pairs, method: str) -> Scored:
    """The estimate of the first prompt by the same formula, less that of all, item by item."""
    of = {"choice": variants.lost, "exact": variants.at_most}.get(method, variants.net)
    scores = of(items.first()).scores - of(items).scores
    weight = mean(1 + 1 / (items.n_choices - 1))
    return Scored(scores, signed_shares(scores, positive_weight=weight, negative_weight=weight))


def _own_facts(items: Pairs) -> bool:
    """Whether no item is without a fact, and no fact is asked twice."""
    return items.fact is not None and bool((items.fact >= 0).all()) and len(np.unique(items.fact)) == len(items)


def _two_prompts(items: Pairs) -> bool:
    if items.prompts is None or not len(items):
        return False
    strong = (items.prompts.asked & ~items.prompts.weak).sum(axis=0) > 1
    return bool(strong.mean() >= MOST)
