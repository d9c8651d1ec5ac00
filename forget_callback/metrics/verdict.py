"""Whether something was lost: the one verdict of two snapshots, and its p-value.

"lost" is claimed in at most 5% of runs in which nothing was lost; of one prompt, it is a claim about accuracy in this
prompt. Knows nothing of items.
"""

from __future__ import annotations

from forget_callback.metrics.graded import Change
from forget_callback.metrics.knowledge import MIN_ITEMS, Knowledge

# One-sided level of the claim "lost". Lost and net have half of it each.
LEVEL = 0.025
# More items of the first prompt that changed sides than this are told, whatever they mean.
MOVED = 0.05
# A mean graded score that fell by less is no loss: any training changes scores a little, in one direction.
SCORE_FLOOR = 0.01


def verdict_of(knowledge: Knowledge, *, accuracy_p_value: float, moved: float, score: Change | None = None) -> str:
    """The first that fits: "unclear", "lost", "moved", "unclear" or "none".

    Few items are unclear. Lost is what `loss_p_value` claims. Moved is where accuracy in the first prompt fell
    significantly or many of its items changed sides (of sampled items, where the net is above 0), or graded scores
    fell. If nothing was known before, nothing can be lost, and that is unclear, unless graded scores could fall.

    Args:
        knowledge: Of all prompts.
        accuracy_p_value: One-sided, of "accuracy in the first prompt did not fall".
        moved: Share of items whose first prompt went from right to wrong or back.
        score: Change of graded scores, where there are any.
    """
    if not knowledge.net_of_all.n >= MIN_ITEMS:
        return "unclear"
    if loss_p_value(knowledge, accuracy_p_value=accuracy_p_value, score=score) < LEVEL:
        return "lost"
    sampled = knowledge.sampled  # then the same model answers differently twice
    if knowledge.net.p_value() < LEVEL if sampled else accuracy_p_value < LEVEL or moved > MOVED:
        return "moved"
    if score is not None and score.n >= MIN_ITEMS:
        if score.fall_p_value() < LEVEL:
            return "moved"
        if score.before > score.change - score.interval().low:  # a fall to 0 would be sure
            return "none"
    return "none" if knowledge.known_before.interval().low > 0 else "unclear"


def loss_p_value(knowledge: Knowledge, *, accuracy_p_value: float, score: Change | None = None) -> float:
    """One-sided p-value of the claim "lost": it holds where this is below `LEVEL`; NaN without items.

    By what was lost or the net, the smaller one doubled; with one prompt by accuracy, or where sampled by the net, and
    where its answers are graded by that or the fall of the mean score, the smaller one doubled. 1 with few items, of
    which nothing is claimed.
    """
    if 0 < knowledge.net_of_all.n < MIN_ITEMS:
        return 1.0
    if knowledge.two_prompts:  # scores are of the first prompt
        return _either(knowledge.lost.p_value(), knowledge.net_of_all.p_value())
    own = _in_one_prompt(knowledge, accuracy_p_value)
    return _either(own, score.fall_p_value(SCORE_FLOOR)) if _tells(score) and score is not None else own


def told_by_score(knowledge: Knowledge, *, accuracy_p_value: float, score: Change | None) -> bool:
    """Whether it is sure that graded scores fell, and not, by right and wrong alone, that something was lost."""
    if score is None or not _tells(score) or not score.fall_p_value() < LEVEL:
        return False
    own = loss_p_value(knowledge, accuracy_p_value=accuracy_p_value)
    return not (own if knowledge.two_prompts else 2 * own) < LEVEL


def _in_one_prompt(knowledge: Knowledge, accuracy_p_value: float) -> float:
    return knowledge.net_of_all.p_value() if knowledge.sampled else accuracy_p_value


def _tells(score: Change | None) -> bool:
    """Whether there are enough graded scores, of more than one cluster."""
    return score is not None and score.n >= MIN_ITEMS and score.error >= 0


def _either(one: float, other: float) -> float:
    """Of a claim that holds by either of two tests (Bonferroni)."""
    return min(2 * min(one, other), 1.0)


def text_verdict_of(bits: Change, *, floor: float, moved: float) -> str:
    """The first that fits: "unclear", "lost", "moved" or "none"; of documents.

    Lost is what `text_loss_p_value` claims: bits per byte rose, in the mean, by more than the floor. Moved is where it
    is sure that they rose and not sure that it is by less than the floor, or where many documents changed by more.

    Args:
        floor: What does not count, in bits per byte.
        moved: Share of documents that got worse or better by more than the floor.
    """
    if bits.n < MIN_ITEMS:
        return "unclear"
    if text_loss_p_value(bits, floor=floor) < LEVEL:
        return "lost"
    rose = bits.interval().low > 0 and bits.interval().high > floor
    return "moved" if rose or moved > MOVED else "none"


def text_loss_p_value(bits: Change, *, floor: float) -> float:
    """One-sided p-value of "bits per byte did not rise by more than the floor", doubled: lost and net are two tests.

    So a claim of texts needs 98.75% one-sided, as one of other items does. NaN without documents, 1 with few.
    """
    if bits.n < MIN_ITEMS:
        return 1.0 if bits.n else float("nan")
    return min(2 * bits.p_value(floor), 1.0)
