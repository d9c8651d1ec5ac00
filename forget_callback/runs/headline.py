"""The headline of one comparison: the one sentence and the one number that every place shows.

Console, page, tables, gates, rules and alerts take their words from here, so none of them claims more than another.
Says what the verdict of `Transitions` allows: "lost", "moved", "none" or "unclear". Computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from forget_callback.metrics.intervals import Interval
from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.metrics.transitions import Transitions
from forget_callback.probes.quoting import printable
from forget_callback.runs.categories import significant_categories
from forget_callback.runs.formatting import estimate, p_value, percent, share, span
from forget_callback.runs.history import Row

SIGNIFICANT = 0.05
NOT_ASKED = "what was lost is measured where all prompts are asked"
METHODS = {
    "choice": "from the chosen options",
    "joint": "options not stored, guesses taken as independent",
    "net": "lost less gained",
    "exact": "open-ended, nothing guessed",
}


@dataclass(frozen=True)
class Headline:
    """What is said of one row; fractions of items, NaN where there is none.

    Attributes:
        probe: Its name.
        category: "" is the whole probe.
        verdict: "lost", "moved", "none" or "unclear"; "baseline" where nothing came after it yet.
        sentence: The finding, in the words of the verdict.
        detail: The number with interval, range, items, method and what was known.
        notes: What stands beside it: answers that are all one, lost in this prompt alone, recall as access, flips of
            the same model.
        number: `knowledge_lost`.
        interval: Of the number, 95%.
        range: At least, at most.
        gained: `knowledge_gained`.
        method: One of `METHODS`.
        known_before: Estimated share known at the baseline.
        variants: Prompts in which items were asked both times.
        in_this_prompt: Whether the claim is of one prompt only.
    """

    probe: str
    category: str
    verdict: str
    sentence: str
    detail: str
    notes: tuple[str, ...]
    number: float
    interval: Interval
    range: Interval
    gained: float
    method: str
    known_before: float
    variants: int
    in_this_prompt: bool

    @property
    def name(self) -> str:
        """Probe and category."""
        return "/".join(filter(None, (self.probe, self.category)))


def headline(row: Row, *, baseline: bool = False) -> Headline:
    """The headline of a row of a history or a comparison.

    Args:
        baseline: Whether the row is the baseline itself, with nothing to compare yet.
    """
    t = row.transitions
    return Headline(
        probe=row.probe,
        category=row.category,
        verdict="baseline" if baseline else t.verdict if row.confirmed else "unclear",
        sentence=_baseline(t) if baseline else _sentence(row),
        detail=_detail(row, baseline),
        notes=() if baseline else _notes(row),
        number=math.nan if baseline else row.value("knowledge_lost"),
        interval=Interval(row.value("knowledge_lost_low"), row.value("knowledge_lost_high")),
        range=Interval(row.value("knowledge_lost_range_low"), row.value("knowledge_lost_range_high")),
        gained=row.value("knowledge_gained"),
        method=t.knowledge_method,
        known_before=row.value("known_before"),
        variants=t.variants,
        in_this_prompt=t.in_this_prompt,
    )


def most_in(rows: Sequence[Row], probe: str) -> str:
    """The category of a probe that lost most at one evaluation, ", most in X (about 9 of 40 known)".

    "" where none lost for sure (Holm), or there is no other category.
    """
    own = [row for row in rows if row.probe == probe and row.category]
    sure = significant_categories(own) if len(own) > 1 else []
    if not sure:
        return ""
    t, c = sure[0].transitions, _counts(sure[0].transitions)
    known = ("answered" if _open_ended(t) else "known") if t.knowledge.known_well else called(t, c.known)
    return f", most in {printable(sure[0].category)} (about {c.lost:,} of {c.known:,} {known})"


def worst_first(headlines: Sequence[Headline]) -> list[Headline]:
    """The largest loss of knowledge first, then what open-ended items show, then what has no number, and "all"."""

    def order(one: Headline) -> tuple[bool, bool, bool, float]:
        missing = math.isnan(one.number)
        return one.probe == "all", missing, one.method == "exact", 0.0 if missing else -one.number

    return sorted(headlines, key=order)


def _baseline(t: Transitions) -> str:
    return f"only the baseline so far, {percent(t.accuracy_after)} of {t.n:,} items right"


def _sentence(row: Row) -> str:
    t = row.transitions
    if t.n == 0:
        return "nothing to compare, no item was scored both times"
    if not row.confirmed:
        moved = f"{t.n10:,} of {t.n:,} {_items(t.n)} went from right to wrong and {t.n01:,} from wrong to right"
        return f"{moved} in the first prompt alone, {_accuracy(t)}: {NOT_ASKED}"
    say = {"lost": _lost, "moved": _moved, "none": _none, "unclear": _unclear}[t.verdict]
    return say(t)


@dataclass(frozen=True)
class _Counts:
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


def _counts(t: Transitions) -> _Counts:
    n = t.knowledge_n
    known = _whole(t.known_before, n) if t.knowledge.known_well else n
    lost, low, high = (
        min(_whole(share, n), known)
        for share in (t.knowledge_lost, t.knowledge_lost_range_low, t.knowledge_lost_range_high)
    )
    return _Counts(
        lost=lost,
        low=low,
        high=high,
        gained=_whole(t.knowledge_gained, n),
        known=known,
        of=f"of the {known:,} {called(t, known)}" + (f" it {_knew(t)}" if t.knowledge.known_well else ""),
    )


def _whole(share: float, n: int) -> int:
    """A share of the items as a number of them, to the nearest one and not below 0."""
    return 0 if math.isnan(share) else max(math.floor(share * n + 0.5), 0)


def _lost(t: Transitions) -> str:
    """A loss in items: about how many, at least and at most; never a number without its range."""
    c, rest = _counts(t), ""
    between = f"between {c.low:,} and {c.high:,}"
    every = "all" if _open_ended(t) else "nearly all"
    if c.low == c.known:
        amount = every
    elif t.knowledge_method != "net" and t.knowledge_lost_range_low <= t.knowledge_lost <= t.knowledge_lost_range_high:
        amount = f"about {c.lost:,}" if c.lost < c.known else every
        if amount != "all":  # a count of answers and no estimate
            rest = f", {between}" if c.low else f", at most {c.high:,}"
    else:  # Two options and sampled answers have no estimate of their own; accuracy may be surer than the estimate.
        amount, rest = between if c.low else f"up to {c.high:,}", f", {_accuracy(t)}"
    lost = f"{amount} {c.of} are no longer answered" if _open_ended(t) else f"lost {amount} {c.of}"
    gained = f"about {c.gained:,} newly answered" if _open_ended(t) else f"gained about {c.gained:,}"
    return lost + _where(t) + rest + (f", and {gained}" if t.interval("knowledge_gained").low > 0 else "")


def _moved(t: Transitions) -> str:
    """Both ways side by side; a significant fall of accuracy is never nothing."""
    what = _accuracy(t) if _fell(t) else f"answers moved both ways, {_raw(t)}"
    return f"{what}; a loss is not established ({_at_most(t)})"


def _none(t: Transitions) -> str:
    return f"no loss shown{_where(t)} ({_at_most(t)})"


def _at_most(t: Transitions) -> str:
    return f"at most {_counts(t).high:,} {_counts(t).of}"


def _unclear(t: Transitions) -> str:
    n = t.knowledge.net_of_all.n
    if n < MIN_ITEMS:
        return f"unclear, {n} scored {_items(n)} {'is' if n == 1 else 'are'} too few ({MIN_ITEMS} at least), {_raw(t)}"
    known = percent(max(t.known_before, 0.0))
    return f"unclear, too little known at the baseline to see a loss ({known} of the items), {_raw(t)}"


def _open_ended(t: Transitions) -> bool:
    """Whether a lost item is one that is no longer answered, whatever the model knows."""
    return t.knowledge_method == "exact"


def _knew(t: Transitions) -> str:
    return "answered" if _open_ended(t) else "knew"


def called(t: Transitions, n: int) -> str:
    """What so many of the items that tell of knowledge are called: facts where each has a `fact` of its own."""
    return _items(n) if not t.knowledge.facts else "fact" if n == 1 else "facts"


def _where(t: Transitions) -> str:
    return " in this prompt" if t.in_this_prompt else ""


def _raw(t: Transitions) -> str:
    return f"{t.n10:,} of {t.n:,} {_items(t.n)} right to wrong, {t.n01:,} wrong to right"


def _fell(t: Transitions) -> bool:
    return t.net_change < 0 and t.p_value < SIGNIFICANT


def _accuracy(t: Transitions) -> str:
    return f"accuracy {percent(t.accuracy_before)} → {percent(t.accuracy_after)} (p {p_value(t.p_value)})"


def _detail(row: Row, baseline: bool) -> str:
    t = row.transitions
    if baseline:
        return f"known {percent(max(t.known_before, 0.0))} of the items" if t.knowledge_n else "no item was scored"
    if not row.confirmed:
        return f"{t.n:,} {_items(t.n)}, after {_seen(row)}"
    asked = f"{t.knowledge_n:,} {called(t, t.knowledge_n)}" + (f" in {t.variants} variants" if t.variants > 1 else "")
    parts = [
        f"{'no longer answered' if _open_ended(t) else 'lost'} {estimate(row)} of {asked}",
        span(row),
        f"{estimate(row, 'known_lost')} of what it {_knew(t)}" if t.knowledge.known_well else "",
        f"known before {percent(max(t.known_before, 0.0))}",
        METHODS[t.knowledge_method],
        f"after {_seen(row)}",
    ]
    return ", ".join(part for part in parts if part)


def _notes(row: Row) -> tuple[str, ...]:
    """What is not knowledge lost, and is not hidden either."""
    t, notes = row.transitions, []
    if row.collapse:
        notes.append(row.collapse)
    macro, flips = row.value("macro_knowledge_lost"), row.value("rescored_flips")
    if row.value("spurious_forgetting_low") > 0:  # it exists, and is more than noise
        notes.append(f"another {estimate(row, 'spurious_forgetting')} lost in this prompt alone (form, access)")
    if t.recall_lost > 0 and not _open_ended(t):
        notes.append(f"{percent(t.recall_lost)} no longer recalled{_still(row)}")
    if not math.isnan(macro) and (mean := share(row, "macro_knowledge_lost")) != share(row, "knowledge_lost"):
        notes.append(f"mean over the probes {mean}")
    if flips > 0:
        notes.append(
            f"numerical reproducibility: {percent(flips)} of the items flip when the same model is scored again"
        )
    return tuple(notes)


def _still(row: Row) -> str:
    """How many of the facts that are no longer recalled are known all the same."""
    still = row.value("recall_still_chosen")
    where = "in every variant" if row.transitions.variants > 1 else "in this prompt"
    return "" if math.isnan(still) else f", {percent(still, digits=0)} of them still chosen right {where}"


def _items(n: int) -> str:
    return "item" if n == 1 else "items"


def _seen(row: Row) -> str:
    if math.isnan(row.samples_seen):
        return f"step {row.step:,}"
    return f"{row.samples_seen:,.0f} sample{'' if row.samples_seen == 1 else 's'}"
