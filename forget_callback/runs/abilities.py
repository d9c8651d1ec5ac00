"""Abilities side by side: knowledge, behaviour, text and tasks in one order, one sentence and one table.

A run can keep every fact and lose its refusals, its format or its plain text. What was lost comes first: abilities
whose loss is significant (Holm over them), by the share of what the model could do before; then what moved; then the
rest. Computes nothing but that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from forget_callback.metrics.intervals import holm
from forget_callback.metrics.verdict import LEVEL
from forget_callback.probes.quoting import printable
from forget_callback.runs.categories import loss_order, lost_share, significant_categories
from forget_callback.runs.formatting import bits_change, percent
from forget_callback.runs.rows import Row
from forget_callback.runs.sentences import bits_moved, counts, lost, mean_score, open_ended, scores, sentence, words_of

NAMED = 3  # categories in a sentence
_RANK = {"lost": 0, "moved": 1}


@dataclass(frozen=True)
class Part:
    """One ability in one probe, or one of its categories.

    Attributes:
        ability: "knowledge", "behaviour", "text" or "task"; "" where it is not known.
        row: Of the items of this ability alone.
        verdict: "lost", "moved", "none" or "unclear". Of a category "lost" is tested with all others of the probe at
            once (Holm), and one that is lost by its own test alone has "moved".
    """

    ability: str
    row: Row
    verdict: str

    @property
    def order(self) -> tuple[int, float]:
        """Where it stands among others of its ability: significant losses first, then what moved."""
        return _RANK.get(self.verdict, 2), -loss_order(self.row)


def by_ability(row: Row) -> list[Row]:
    """A row of several abilities as a row for each, of its items alone; one of a single ability as it is."""
    if len(row.transitions.abilities) < 2:
        return [row]
    unknown = dict.fromkeys(row.over_time, math.nan)
    return [replace(row, transitions=t, over_time=unknown, collapse="") for t in row.transitions.abilities.values()]


def is_mixed(rows: Sequence[Row]) -> bool:
    """Whether there is more to show than one kind of right and wrong: several abilities, behaviour, text, or scores."""
    parts = [one.transitions for row in rows if row.probe != "all" for one in by_ability(row)]
    found = {t.ability for t in parts}
    return len(found) > 1 or not found <= {"", "knowledge", "task"} or any(t.graded for t in parts)


def side_by_side(rows: Sequence[Row]) -> list[list[Part]]:
    """The abilities of each probe, what was lost first: of each the whole, then its categories in the same order.

    Args:
        rows: Of one evaluation, of all probes and categories.
    """
    groups = []
    for probe in dict.fromkeys(row.probe for row in rows if row.probe != "all"):
        split = [one for row in rows if row.probe == probe for one in by_ability(row)]
        sure = {id(row) for row in significant_categories(split)}
        for whole, verdict in _verdicts([row for row in split if not row.category]):
            ability = whole.transitions.ability
            own = [row for row in split if row.category and row.transitions.ability == ability]
            parts = [Part(ability, row, _of_category(row, id(row) in sure)) for row in own]
            parts.sort(key=lambda part: part.order)
            groups.append([Part(ability, whole, verdict), *parts])
    return sorted(groups, key=_group_order)


def _group_order(group: Sequence[Part]) -> tuple[int, float]:
    """Of an ability with its categories: one of them that is lost for sure counts as moved, whatever the whole is."""
    whole = group[0]
    rank = min(_RANK.get(whole.verdict, 2), 1 if any(part.verdict == "lost" for part in group) else 2)
    share = lost_share(whole.row)
    return rank, math.inf if math.isnan(share) else -share


def _of_category(row: Row, significant: bool) -> str:
    own = row.transitions.verdict if row.confirmed else "unclear"
    return "lost" if significant else "moved" if own == "lost" else own


def _verdicts(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Each with its verdict, in which "lost" is tested over all of them at once (Holm)."""
    p = holm([row.transitions.loss_p_value if row.confirmed else math.nan for row in rows])
    for row, adjusted in zip(rows, p):
        own = row.transitions.verdict if row.confirmed else "unclear"
        yield row, "moved" if own == "lost" and not adjusted < LEVEL else own


def joint_verdict(row: Row, among: Sequence[Row] = ()) -> str:
    """The verdict on a row of several abilities; "lost" also where only those were asked in all prompts that are."""
    if row.confirmed:
        return row.transitions.verdict
    return "lost" if any(verdict == "lost" for _, verdict in _verdicts(_kinds(row, among))) else "unclear"


def joint_sentence(row: Row, among: Sequence[Row] = ()) -> str:
    """The one sentence on a row of several abilities, a clause each, what was lost first.

    Args:
        row: Of the pool of all probes, or of one probe of several abilities.
        among: All rows of the same evaluation, for the categories.
    """
    groups = []
    for whole, verdict in _verdicts(_kinds(row, among)):
        ability = whole.transitions.ability
        sure = [
            part
            for group in side_by_side([one for one in among if row.probe in (one.probe, "all")])
            for part in group[1:]
            if part.ability == ability and part.verdict == "lost"
        ]
        groups.append([Part(ability, whole, verdict), *sorted(sure, key=lambda part: part.order)])
    return "; ".join(
        _clause(group[0], group[1:]) + _unrecalled(group[0].row) for group in sorted(groups, key=_group_order)
    )


def _kinds(row: Row, among: Sequence[Row]) -> list[Row]:
    """The abilities of a row; of several probes each is confirmed where its own probes are."""
    kinds = by_ability(row)
    if row.confirmed:
        return kinds
    open_kinds = {
        one.transitions.ability
        for part in among
        if not part.category and part.probe != "all" and not part.confirmed
        for one in by_ability(part)
    }
    return [replace(one, confirmed=bool(open_kinds) and one.transitions.ability not in open_kinds) for one in kinds]


def _clause(whole: Part, sure: Sequence[Part]) -> str:
    """What is said of one ability; `sure` are its categories whose loss is significant."""
    t, name = whole.row.transitions, whole.ability or "other items"
    most = f", most in {_named(sure[:1])}" if sure else ""
    if whole.verdict == "lost":
        if name == "text":
            return f"lost in text: {bits_moved(whole.row)}{most}"
        if t.told_by_score and not sure:
            return f"lost in {name}: {scores(whole.row)}"
        if name == "knowledge" or not sure:
            return f"lost in {name}: {lost(t, bare=True)}{most}"
        return f"lost in {name}: {_named(sure)}"
    said = sentence(whole.row)
    if t.verdict == "lost" and whole.row.confirmed:  # by its own test alone
        said = f"{scores(whole.row)}; a loss is not established" if t.told_by_score else "a loss is not established"
    return f"lost in a part of {name}: {_named(sure)}; overall {said}" if sure else f"{name}: {said}"


def _unrecalled(row: Row) -> str:
    """Recall that was lost for sure, of knowledge that is read from choices: access, which the clause leaves out."""
    t = row.transitions
    gone = t.interval("recall_lost").low > 0 and not open_ended(t)
    return f", and {percent(t.recall_lost)} no longer recalled" if gone else ""


def _named(parts: Sequence[Part]) -> str:
    """Categories with what they lost, "json 48 of the 60 it did, tools 12 of 31"."""
    said = []
    for part in parts[:NAMED]:
        t, name = part.row.transitions, printable(part.row.category)
        if part.ability == "text":
            said.append(f"{name} ({bits_change(part.row)})")
            continue
        if t.told_by_score:
            said.append(f"{name} ({mean_score(part.row)})")
            continue
        c = counts(t)
        known = f"the {c.known:,} it {words_of(t).could}" if not said and t.knowledge.known_well else f"{c.known:,}"
        said.append(f"{name} {'' if open_ended(t) else 'about '}{c.lost:,} of {known}")
    more = len(parts) - NAMED
    return ", ".join(said) + (f" and {more} more" if more > 0 else "")
