"""Whether something was lost: the one verdict of two snapshots, and its p-value.

"lost" is claimed in at most 5% of runs in which nothing was lost; of one prompt, it is a claim about accuracy in this
prompt. Knows nothing of items.
"""

from __future__ import annotations

from forget_callback.metrics.knowledge import MIN_ITEMS, Knowledge

# One-sided level of the claim "lost". Lost and net have half of it each.
LEVEL = 0.025
# More items of the first prompt that changed sides than this are told, whatever they mean.
MOVED = 0.05


def verdict_of(knowledge: Knowledge, *, accuracy_p_value: float, moved: float) -> str:
    """The first that fits: "unclear", "lost", "moved", "unclear" or "none".

    Few items are unclear. Lost is what `loss_p_value` claims. Moved is where accuracy in the first prompt fell
    significantly or many of its items changed sides (of sampled items, where the net is above 0). If nothing was known
    before, nothing can be lost, and that is unclear.

    Args:
        knowledge: Of all prompts.
        accuracy_p_value: One-sided, of "accuracy in the first prompt did not fall".
        moved: Share of items whose first prompt went from right to wrong or back.
    """
    if not knowledge.net_of_all.n >= MIN_ITEMS:
        return "unclear"
    if loss_p_value(knowledge, accuracy_p_value=accuracy_p_value) < LEVEL:
        return "lost"
    sampled = knowledge.sampled  # then the same model answers differently twice
    if knowledge.net.p_value() < LEVEL if sampled else accuracy_p_value < LEVEL or moved > MOVED:
        return "moved"
    return "none" if knowledge.known_before.interval().low > 0 else "unclear"


def loss_p_value(knowledge: Knowledge, *, accuracy_p_value: float) -> float:
    """One-sided p-value of the claim "lost": it holds where this is below `LEVEL`; NaN without items.

    By what was lost or the net, the smaller one doubled; with one prompt by accuracy, or where sampled by the net. 1
    with few items, of which nothing is claimed.
    """
    if 0 < knowledge.net_of_all.n < MIN_ITEMS:
        return 1.0
    if knowledge.two_prompts:
        return min(2 * min(knowledge.lost.p_value(), knowledge.net_of_all.p_value()), 1.0)
    return knowledge.net_of_all.p_value() if knowledge.sampled else accuracy_p_value
