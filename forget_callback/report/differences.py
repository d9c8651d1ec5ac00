"""Runs against each other at their last checkpoints: whether one lost more than another, and the sentence that says so.

As careful as the verdict on one run: only runs that answered the same items are compared, item by item, so that what
they share cancels; with one prompt, where guesses may move in one run and stay in the other, accuracy must tell the
same. Computes no metric of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, sqrt

import numpy as np
from numpy.typing import NDArray

from forget_callback.metrics.intervals import NO_INTERVAL, Interval
from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.metrics.transitions import Transitions, compare
from forget_callback.probes.plurals import documents
from forget_callback.probes.quoting import printable
from forget_callback.runs.formatting import bits
from forget_callback.runs.history import History
from forget_callback.runs.rows import Row
from forget_callback.runs.sentences import called
from forget_callback.snapshots.snapshot import Snapshot

ERROR = 0.05
# Of the answers at the baseline so many may differ between runs of one model: numbers of another batch or device.
ALIKE = 0.02


@dataclass(frozen=True)
class Difference:
    """A second run less a first one, on one probe; fractions of items, of text bits per byte.

    Attributes:
        lost: `knowledge_lost` of the second less that of the first; of text `bits_per_byte_change`.
        interval: At 95%, or at what was asked for; NaN where there is none.
        between: From the last checkpoint of the first to that of the second, item by item, where both answered the
            same items, so that what they share cancels; else None.
        obstacle: Why neither can be said to have lost more, "" if that can be said.
        caveat: What else tells them apart, "" if nothing does.
        sure: Whether one did.
        in_this_prompt: Whether that is a claim of one prompt only.
        n: Items that enter.
        items: What they are called, "facts".
        open_ended: Whether a lost one is one that is no longer answered.
        text: Whether they are documents.
    """

    lost: float
    interval: Interval
    between: Transitions | None
    obstacle: str
    caveat: str
    sure: bool
    in_this_prompt: bool
    n: int
    items: str
    open_ended: bool
    text: bool = False

    @property
    def finding(self) -> str:
        """In a word or two what the second run did."""
        if self.obstacle:
            return "not compared"
        return ("lost more" if self.lost > 0 else "lost less") if self.sure else "no difference shown"


def difference(
    first: History, second: History, probe: str, last: tuple[Snapshot, Snapshot] | None, *, error: float = ERROR
) -> Difference:
    """How much more the second run lost on a probe.

    Args:
        last: Both last snapshots, where their items are the same.
        error: Of the interval and the claim, two-sided; less for one of several pairs.
    """
    one, two = (history.select(probe)[-1].transitions for history in (first, second))
    text = one.ability == two.ability == "text"
    metric = "bits_per_byte_change" if text else "knowledge_lost"
    r = 0.0 if last is None else correlation(first.lost_scores(probe)[-1], second.lost_scores(probe)[-1])
    own = [t.interval(metric, confidence=1 - error) for t in (one, two)]
    values = [float(getattr(t, metric)) for t in (one, two)]
    ends = mover_difference(values[0], own[0], values[1], own[1], r)
    between = None if last is None else compare(*last)
    obstacle = "they answered different items" if between is None else _obstacle(first, second, probe)
    caveat = "" if between is None else _begun(first, second, probe)
    lost, in_this_prompt = values[1] - values[0], not text and (one.in_this_prompt or two.in_this_prompt)
    sure = not obstacle and (ends.low > 0 or ends.high < 0)
    if sure and in_this_prompt and between is not None:
        sides = [(t.net_change, t.interval("net_change", confidence=1 - error)) for t in (one, two)]
        fell = mover_difference(*sides[0], *sides[1], 0.0)  # of models that began alike the test of pairs is sharper
        sure = (fell.high < 0 if lost > 0 else fell.low > 0) if caveat else between.p_value < error
        sure &= (two.net_change < one.net_change) == (lost > 0)
    n = min(_told(one), _told(two))
    items, open_ended = documents(n) if text else called(two, n), not text and two.knowledge_method == "exact"
    return Difference(lost, ends, between, obstacle, caveat, sure, in_this_prompt, n, items, open_ended, text)


def _told(t: Transitions) -> int:
    """The items that tell what was lost."""
    return t.n if t.ability == "text" else t.knowledge_n


def _begun(first: History, second: History, probe: str) -> str:
    """That two runs of the same items began with different models, "" if with one."""
    t = compare(first.baseline(probe), second.baseline(probe))
    changed = t.n10 + t.n01
    return "" if changed <= ALIKE * t.n else f"they began with different models, {changed:,} of {t.n:,} answers differ"


def _obstacle(first: History, second: History, probe: str) -> str:
    """Why two runs of the same items cannot be told apart by what they lost, "" if they can."""
    rows = [history.select(probe) for history in (first, second)]
    one, two = (own[-1].transitions for own in rows)
    if any(len(own) < 2 for own in rows):
        return "one has no checkpoint but the baseline"
    if not all(own[-1].confirmed for own in rows) or one.variants != two.variants:
        return "they were asked in different variants of the prompts"
    if min(_told(one), _told(two)) < MIN_ITEMS:
        return f"fewer than {MIN_ITEMS} items were scored"
    return ""


def pair_sentence(gap: Difference, first: str, second: str) -> str:
    """What is said of two runs: which lost more and by how many items, or that this is not shown.

    Args:
        gap: The second less the first.
        first: Its name.
        second: The other's.
    """
    a, b = printable(first), printable(second)
    if gap.obstacle:
        return f"{a} and {b} cannot be compared: {gap.obstacle}"
    if gap.text:
        return _text_sentence(gap, a, b)
    where, gone = " in this prompt" if gap.in_this_prompt else "", "no longer answered" if gap.open_ended else "lost"
    low, high = (round(end * gap.n) for end in gap.interval) if not isnan(gap.interval.low) else (0, 0)
    if gap.sure:
        more, less = (b, a) if gap.lost > 0 else (a, b)
        few, many = (low, high) if gap.lost > 0 else (-high, -low)
        about = f"about {round(abs(gap.lost) * gap.n):,} {gap.items} more, between {max(few, 1):,} and {many:,}"
        claim = f"{more} lost more than {less}"
        if gap.open_ended:
            claim = f"more is {gone} in {more} than in {less}"
        return f"{claim}{where}: {about}" + (f" ({gap.caveat})" if gap.caveat else "")
    said = f"no difference shown between {a} and {b}{where}"
    if low < 0 < high:
        return f"{said} ({b}: between {-low:,} fewer and {high:,} more {gap.items} {gone})"
    return said if low == high == 0 else f"{said} (accuracy does not tell)"


def _text_sentence(gap: Difference, a: str, b: str) -> str:
    """The same of documents, in bits per byte."""
    low, high = gap.interval
    if not gap.sure:
        return f"no difference shown between {a} and {b} ({b}: {bits(low, 3)} to {bits(high, 3)} bits per byte)"
    more, less = (b, a) if gap.lost > 0 else (a, b)
    few, many = (low, high) if gap.lost > 0 else (-high, -low)
    by = f"{bits(abs(gap.lost), 3)} bits per byte more, between {bits(few, 3)} and {bits(many, 3)}"
    return f"text got worse by more in {more} than in {less}: {by}" + (f" ({gap.caveat})" if gap.caveat else "")


def runs_sentence(
    histories: Sequence[History], names: Sequence[str], probe: str, last: Sequence[Snapshot]
) -> tuple[str, str]:
    """What is said first of several runs on a probe that all of them have, and the `Difference.finding` of it.

    Of two runs their difference; of more that of the one that lost most and the one that lost least, with the error
    divided by the number of pairs, as each of them might have been these.

    Args:
        last: Each run's last snapshot of the probe.
    """
    n, i, j = len(names), 0, 1
    same = all(same_items(last[0], one) for one in last)
    error = ERROR / (n * (n - 1) / 2)
    if n > 2:
        lost = [_lost(history.select(probe)[-1]) for history in histories]
        pairs = [(names[one], names[two], histories[one], histories[two]) for one, two in combinations(range(n), 2)]
        why = "" if same and not any(map(isnan, lost)) else "they did not answer the same items in the same variants"
        for a, b, one, two in pairs if not why else ():
            if not why and (obstacle := _obstacle(one, two, probe)):
                why = f"{printable(a)} and {printable(b)}, {obstacle}"
        if why:
            return f"the {n} runs cannot be compared: {why}", "not compared"
        i, j = int(np.argmin(lost)), int(np.argmax(lost))
        j = j if i != j else 1  # all lost the same
    gap = difference(histories[i], histories[j], probe, (last[i], last[j]) if same else None, error=error)
    said = pair_sentence(gap, names[i], names[j])
    return (said if n == 2 else f"{said}; of {n} runs these lost most and least"), gap.finding


def _lost(row: Row) -> float:
    return row.value("bits_per_byte_change" if row.transitions.ability == "text" else "knowledge_lost")


def same_items(one: Snapshot, other: Snapshot) -> bool:
    """Whether two snapshots are of the same items of the same probe."""
    return one.fingerprint == other.fingerprint and np.array_equal(one.ids, other.ids)


def mover_difference(a: float, of_a: Interval, b: float, of_b: Interval, r: float) -> Interval:
    """Interval of b - a from their own intervals and the correlation of their estimates (Zou and Donner 2008).

    >>> mover_difference(0.10, Interval(0.08, 0.12), 0.10, Interval(0.08, 0.12), 1.0)
    Interval(low=0.0, high=0.0)
    """
    if np.isnan([a, b, *of_a, *of_b]).any():
        return NO_INTERVAL

    def reach(da: float, db: float) -> float:
        return sqrt(max(da**2 + db**2 - 2 * r * da * db, 0.0))

    return Interval(b - a - reach(of_a.high - a, b - of_b.low), b - a + reach(a - of_a.low, of_b.high - b))


def correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Of the items that both have; 0 where one side does not vary."""
    both = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[both].astype(float), y[both].astype(float)
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
