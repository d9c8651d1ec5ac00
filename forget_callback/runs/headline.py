"""The headline of one comparison: the one sentence and the one number that every place shows.

Console, page, tables, gates, rules and alerts take their words from here, so none of them claims more than another.
Says what the verdict of `Transitions` allows: "lost", "moved", "none" or "unclear". Computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from forget_callback.metrics.intervals import Interval
from forget_callback.probes.plurals import counted, documents
from forget_callback.probes.quoting import printable
from forget_callback.runs.abilities import joint_sentence, joint_verdict
from forget_callback.runs.categories import lost_share, significant_categories
from forget_callback.runs.formatting import bits, bits_change, difference, estimate, percent, share, span
from forget_callback.runs.rows import Row
from forget_callback.runs.sentences import called, counts, mean_score, open_ended, sentence, words_of

_RANK = {"lost": 0, "moved": 1}
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
        ability: What kind its items are of, "knowledge", "behaviour", "text" or "task"; "" where of several.
        verdict: "lost", "moved", "none" or "unclear"; "baseline" where nothing came after it yet.
        sentence: The finding, in the words of the verdict.
        detail: The number with interval, range, items, method and what was known.
        notes: What stands beside it: answers that are all one, lost in this prompt alone, recall as access, flips of
            the same model.
        number: `knowledge_lost`.
        share: What was lost of what the model could do before, see `categories.lost_share`.
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
    ability: str
    verdict: str
    sentence: str
    detail: str
    notes: tuple[str, ...]
    number: float
    share: float
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


def headline(row: Row, *, baseline: bool = False, among: Sequence[Row] = ()) -> Headline:
    """The headline of a row of a history or a comparison.

    Where its items are of several abilities, such as facts, behaviour and text, the sentence names each, what was lost
    first.

    Args:
        baseline: Whether the row is the baseline itself, with nothing to compare yet.
        among: All rows of the same evaluation, so that the categories that lost most can be named.
    """
    t = row.transitions
    several = len(t.abilities) > 1
    return Headline(
        probe=row.probe,
        category=row.category,
        ability=t.ability,
        verdict="baseline" if baseline else joint_verdict(row, among) if several else _verdict(row),
        sentence=_baseline(row) if baseline else joint_sentence(row, among) if several else sentence(row),
        detail=_detail(row, baseline),
        notes=() if baseline else _notes(row),
        number=math.nan if baseline else row.value("knowledge_lost"),
        share=math.nan if baseline else lost_share(row),
        interval=Interval(row.value("knowledge_lost_low"), row.value("knowledge_lost_high")),
        range=Interval(row.value("knowledge_lost_range_low"), row.value("knowledge_lost_range_high")),
        gained=row.value("knowledge_gained"),
        method=t.knowledge_method,
        known_before=row.value("known_before"),
        variants=t.variants,
        in_this_prompt=t.in_this_prompt,
    )


def _verdict(row: Row) -> str:
    return row.transitions.verdict if row.confirmed else "unclear"


def most_in(rows: Sequence[Row], probe: str) -> str:
    """The category of a probe that lost most at one evaluation, ", most in X (about 9 of 40 known)".

    "" where none lost for sure (Holm), or there is no other category.
    """
    own = [row for row in rows if row.probe == probe and row.category]
    sure = significant_categories(own) if len(own) > 1 else []
    if not sure:
        return ""
    t, name = sure[0].transitions, printable(sure[0].category)
    if t.ability == "text":
        return f", most in {name} ({bits_change(sure[0])})"
    if t.told_by_score:
        return f", most in {name} ({difference(sure[0], 'score_change')})"
    c = counts(t)
    known = words_of(t).known if t.knowledge.known_well else called(t, c.known)
    return f", most in {name} (about {c.lost:,} of {c.known:,} {known})"


def worst_first(headlines: Sequence[Headline]) -> list[Headline]:
    """What was lost first, by its share of what the model could do before; then what moved, the rest, and "all".

    What is only recalled comes after what is known in other forms.
    """

    def order(one: Headline) -> tuple[bool, int, bool, bool, float]:
        missing, recall = math.isnan(one.share), one.ability == "knowledge" and one.method == "exact"
        return one.probe == "all", _RANK.get(one.verdict, 2), missing, recall, 0.0 if missing else -one.share

    return sorted(headlines, key=order)


def _baseline(row: Row) -> str:
    t = row.transitions
    if t.ability == "text":
        measured = f"{bits(row.value('bits_per_byte_after'))} bits per byte in {t.n:,} {documents(t.n)}"
        return f"only the baseline so far, {measured}"
    return f"only the baseline so far, {percent(t.accuracy_after)} of {counted(t.n)} right"


def _detail(row: Row, baseline: bool) -> str:
    t = row.transitions
    if t.ability == "text" and t.n:
        return _detail_of_text(row, baseline)
    if baseline:
        return f"known {percent(max(t.known_before, 0.0))} of the items" if t.knowledge_n else "no item was scored"
    if not row.confirmed:
        return f"{counted(t.n)}, after {_seen(row)}"
    words = words_of(t)
    asked = f"{t.knowledge_n:,} {called(t, t.knowledge_n)}" + (f" in {t.variants} variants" if t.variants > 1 else "")
    parts = [
        f"{words.gone} {estimate(row)} of {asked}",
        span(row),
        f"{estimate(row, 'known_lost')} of what it {words.could}" if t.knowledge.known_well else "",
        f"known before {percent(max(t.known_before, 0.0))}",
        METHODS[t.knowledge_method],
        f"after {_seen(row)}",
    ]
    return ", ".join(part for part in parts if part)


def _detail_of_text(row: Row, baseline: bool) -> str:
    t = row.transitions
    if baseline:
        return f"{t.n:,} {documents(t.n)}"
    worse = f"{share(row, 'forgetting')} of {t.n:,} {documents(t.n)} got worse by more than {t.floor:.2g} bits per byte"
    parts = [f"{t.n:,} {documents(t.n)}" if t.training else worse]
    if not math.isnan(kl := row.value("kl")):
        parts.append(f"KL to the baseline {kl:.3g} nats per token")
    if not math.isnan(top := row.value("top1_agreement")):
        parts.append(f"same most likely token at {percent(top)}")
    return ", ".join([*parts, f"after {_seen(row)}"])


def _notes(row: Row) -> tuple[str, ...]:
    """What is not knowledge lost, and is not hidden either."""
    t, notes = row.transitions, []
    if row.collapse:
        notes.append(row.collapse)
    macro, flips = row.value("macro_knowledge_lost"), row.value("rescored_flips")
    if row.value("spurious_forgetting_low") > 0:  # it exists, and is more than noise
        notes.append(f"another {estimate(row, 'spurious_forgetting')} lost in this prompt alone (form, access)")
    if t.recall_lost > 0 and not open_ended(t):
        notes.append(f"{percent(t.recall_lost)} no longer recalled{_still(row)}")
    if not math.isnan(macro) and (mean := share(row, "macro_knowledge_lost")) != share(row, "knowledge_lost"):
        notes.append(f"mean over the probes {mean}")
    if not math.isnan(row.value("score_before")) and not (row.confirmed and t.told_by_score):  # else it is the headline
        notes.append(mean_score(row))
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


def _seen(row: Row) -> str:
    if math.isnan(row.samples_seen):
        return f"step {row.step:,}"
    return f"{row.samples_seen:,.0f} sample{'' if row.samples_seen == 1 else 's'}"
