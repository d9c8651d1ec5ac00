"""What is said of one comparison of one kind of ability: a sentence, and the counts and words in it.

Says what the verdict of `Transitions` allows: "lost", "moved", "none" or "unclear". A fact that is lost was known, an
item of behaviour was done, a document of text got worse. Computes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.metrics.transitions import Transitions
from forget_callback.probes.plurals import are, counted, documents, items
from forget_callback.runs.formatting import bits, bits_change, difference, p_value, percent
from forget_callback.runs.rows import Row

SIGNIFICANT = 0.05
NOT_ASKED = "what was lost is measured where all prompts are asked"


@dataclass(frozen=True)
class Words:
    """How it is said that an item could be answered, no longer is, and newly is.

    Attributes:
        could: "knew", "answered" or "did".
        known: The same as an adjective.
        gone: "lost", or of open-ended items "no longer answered" or "no longer done"; of documents "got worse".
        new: "gained", "newly answered", "newly done" or "got better".
    """

    could: str
    known: str
    gone: str
    new: str


def words_of(t: Transitions) -> Words:
    """The words for the items of a comparison."""
    if t.ability == "text":
        return Words("could", "could", "got worse", "got better")
    did = t.ability == "behaviour"
    if open_ended(t):
        done = "done" if did else "answered"
        return Words("did" if did else "answered", done, f"no longer {done}", f"newly {done}")
    return Words("did", "done", "lost", "gained") if did else Words("knew", "known", "lost", "gained")


def sentence(row: Row) -> str:
    """The finding of a row in the words of its verdict."""
    t = row.transitions
    if t.n == 0:
        return "nothing to compare, no item was scored both times"
    if t.training:
        top = row.value("kl")
        kl = "" if math.isnan(top) else f", KL to the baseline {top:.3g} nats per token"
        return f"the training data, which is learned: {bits_moved(row)}{kl}"
    if t.ability == "text":
        return _text(row)
    if not row.confirmed:
        moved = f"{t.n10:,} of {counted(t.n)} went from right to wrong and {t.n01:,} from wrong to right"
        return f"{moved} in the first prompt alone, {_accuracy(t)}: {NOT_ASKED}"
    if t.told_by_score:
        if t.verdict == "lost":
            return f"lost{_where(t)}: {scores(row)}"
        return f"{scores(row)}; a loss is not established"
    say = {"lost": lost, "moved": _moved, "none": _none, "unclear": _unclear}[t.verdict]
    return say(t)


@dataclass(frozen=True)
class Counts:
    """A comparison in whole items; none of them is more than there was to lose.

    Attributes:
        lost: The estimate; 0 where it is negative.
        low: At least this.
        high: At most this.
        gained: The estimate of what is new.
        known: What there was to lose; all items where next to nothing was known, because a share of that is noise.
        of: The same in words, "of the 516 facts it knew".
    """

    lost: int
    low: int
    high: int
    gained: int
    known: int
    of: str


def counts(t: Transitions) -> Counts:
    """What was lost, gained and known, as numbers of items."""
    n = t.knowledge_n
    known = _whole(t.known_before, n) if t.knowledge.known_well else n
    lost, low, high = (
        min(_whole(share, n), known)
        for share in (t.knowledge_lost, t.knowledge_lost_range_low, t.knowledge_lost_range_high)
    )
    return Counts(
        lost=lost,
        low=low,
        high=high,
        gained=_whole(t.knowledge_gained, n),
        known=known,
        of=f"of the {known:,} {called(t, known)}" + (f" it {words_of(t).could}" if t.knowledge.known_well else ""),
    )


def _whole(share: float, n: int) -> int:
    """A share of the items as a number of them, to the nearest one and not below 0."""
    return 0 if math.isnan(share) else max(math.floor(share * n + 0.5), 0)


def lost(t: Transitions, *, bare: bool = False) -> str:
    """A loss in items: about how many, at least and at most; never a number without its range.

    Args:
        bare: Without saying that they are lost, for a sentence that has said so.
    """
    c, rest, words = counts(t), "", words_of(t)
    between = f"between {c.low:,} and {c.high:,}"
    every = "all" if open_ended(t) else "nearly all"
    if c.low == c.known:
        amount = every
    elif t.knowledge_method != "net" and t.knowledge_lost_range_low <= t.knowledge_lost <= t.knowledge_lost_range_high:
        amount = f"about {c.lost:,}" if c.lost < c.known else every
        if amount != "all":  # a count of answers and no estimate
            rest = f", {between}" if c.low else f", at most {c.high:,}"
    else:  # Two options and sampled answers have no estimate of their own; accuracy may be surer than the estimate.
        amount, rest = between if c.low else f"up to {c.high:,}", f", {_accuracy(t)}"
    said = f"{amount} {c.of}"
    if not bare:
        said = f"{said} are {words.gone}" if open_ended(t) else f"lost {said}"
    gained = f"about {c.gained:,} {words.new}" if open_ended(t) else f"gained about {c.gained:,}"
    return said + _where(t) + rest + (f", and {gained}" if t.interval("knowledge_gained").low > 0 else "")


def _moved(t: Transitions) -> str:
    """Both ways side by side; a significant fall of accuracy is never nothing."""
    what = _accuracy(t) if _fell(t) else f"answers moved both ways, {_raw(t)}"
    return f"{what}; a loss is not established ({_at_most(t)})"


def _none(t: Transitions) -> str:
    return f"no loss shown{_where(t)} ({_at_most(t)})"


def _at_most(t: Transitions) -> str:
    return f"at most {counts(t).high:,} {counts(t).of}"


def _unclear(t: Transitions) -> str:
    n = t.knowledge.net_of_all.n
    if n < MIN_ITEMS:
        return f"unclear, {n} scored {items(n)} {are(n)} too few ({MIN_ITEMS} at least), {_raw(t)}"
    known = percent(max(t.known_before, 0.0))
    return f"unclear, too little known at the baseline to see a loss ({known} of the items), {_raw(t)}"


def _text(row: Row) -> str:
    """Bits per byte before and after, and how many documents got worse; of few documents nothing is claimed."""
    t = row.transitions
    if t.verdict == "unclear":
        few = f"{t.n:,} {documents(t.n)} {are(t.n)} too few ({MIN_ITEMS} at least)"
        return f"unclear, {few}, {bits_moved(row)}"
    worse = f"{bits_moved(row)}, {t.n10:,} of {t.n:,} {documents(t.n)} got worse"
    better = f" and {t.n01:,} better" if t.n01 else ""
    if t.verdict == "lost":
        return f"text got worse, {worse}{better}"
    return f"no loss shown, {worse}{better}" if t.verdict == "none" else f"{worse}{better}; a loss is not established"


def bits_moved(row: Row) -> str:
    """Text before and after, "1.02 → 1.10 bits per byte (+0.08 [0.06, 0.10])"."""
    before, after = (bits(row.value(f"bits_per_byte_{side}")) for side in ("before", "after"))
    return f"{before} → {after} bits per byte ({bits_change(row)})"


def mean_score(row: Row) -> str:
    """Graded scores before and after, "mean score 0.95 → 0.55 (-0.40 [-0.42, -0.38])", of how many items if not all."""
    t, few = row.transitions, ""
    if t.score and not t.graded:
        few = f" of {counted(t.score.n)}"
    before, after = (bits(row.value(f"score_{side}")) for side in ("before", "after"))
    return f"mean score{few} {before} → {after} ({difference(row, 'score_change')})"


def scores(row: Row) -> str:
    """`mean_score`, and how many items crossed the threshold that makes right and wrong of it."""
    t = row.transitions
    if not t.n11 + t.n10:
        crossed = f"no item was at the threshold before{f', {t.n01:,} are now' if t.n01 else ''}"
    else:
        up = f" and {t.n01:,} rose to it" if t.n01 else ""
        crossed = f"{t.n10:,} of {counted(t.n)} fell below the threshold{up}"
    return f"{mean_score(row)}, {crossed}"


def open_ended(t: Transitions) -> bool:
    """Whether a lost item is one that is no longer answered, whatever the model knows."""
    return t.knowledge_method == "exact"


def called(t: Transitions, n: int) -> str:
    """What so many of the items that tell of knowledge are called: facts where each has a `fact` of its own."""
    return items(n) if not t.knowledge.facts else "fact" if n == 1 else "facts"


def _where(t: Transitions) -> str:
    return " in this prompt" if t.in_this_prompt else ""


def _raw(t: Transitions) -> str:
    return f"{t.n10:,} of {counted(t.n)} right to wrong, {t.n01:,} wrong to right"


def _fell(t: Transitions) -> bool:
    return t.net_change < 0 and t.p_value < SIGNIFICANT


def _accuracy(t: Transitions) -> str:
    return f"accuracy {percent(t.accuracy_before)} → {percent(t.accuracy_after)} (p {p_value(t.p_value)})"
