"""A gate on the verdict, `verdict=lost`: it fails where anything was lost, facts, behaviour or text.

Fails closed: of too few items, or of a model that could do next to nothing before, there is no verdict, which is no
pass; and what the table of abilities shows as lost does not pass beside a pool that is not. `gate` has the gates on
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from forget_callback.metrics.intervals import mcnemar_midp
from forget_callback.metrics.transitions import Transitions
from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import closest
from forget_callback.runs import worst
from forget_callback.runs.abilities import side_by_side
from forget_callback.runs.formatting import percent
from forget_callback.runs.gate import MIN_SCORED, Bound, GateResult, Outcome
from forget_callback.runs.gate_rows import not_scored, option, row_of, shown
from forget_callback.runs.headline import headline
from forget_callback.runs.rows import Row
from forget_callback.runs.thresholds import of_verdict
from forget_callback.snapshots.snapshot import Snapshot

# From the best to the worst: a gate fails on its word and on what is worse.
_VERDICTS = ("none", "unclear", "moved", "lost")
# Two-sided, of a fall of right answers that are too few for a verdict.
_BY_CHANCE = 0.05
# What a verdict rests on, where items have it.
_RESTS_ON = ("knowledge_lost", "score_lost", "bits_per_byte_change")


@dataclass(frozen=True)
class VerdictGate:
    """`[PROBE/[CATEGORY/]]verdict=WORD`; without a probe it reads the verdict on all items.

    Attributes:
        verdict: "lost"; "moved", which fails on "lost" too; or "unclear", which passes on "none" alone.
        min_scored: The share of the items that must have been scored both times, of each probe of several and of each
            ability; with less the gate fails.
        inconclusive: Whether the gate is "inconclusive" where there is no verdict, which else fails it, and where it
            would pass on what moved, or on several abilities of which one has no verdict.
    """

    text: str
    probe: str | None
    category: str
    verdict: str
    _: KW_ONLY
    min_scored: float = MIN_SCORED
    inconclusive: bool = False

    @staticmethod
    def parse(
        text: str, *, bound: Bound = "value", min_scored: float = MIN_SCORED, inconclusive: bool = False
    ) -> VerdictGate:
        """Reads a gate.

        Raises:
            ValueError: If there is no such verdict, the relation is another one, or `bound` is one of an interval.
        """
        where, relation, word = of_verdict(text) or ("", "", "")
        if word not in _VERDICTS or relation != "=" or not text.strip().startswith(f"{where}verdict"):
            alike = closest(word, ("lost", "moved", "unclear")) if relation in ("", "=", "==") else None
            meant = quoted(f"{where}verdict={alike or 'lost'}", 200)
            raise ValueError(
                f"{option(text)}: a verdict is one of {', '.join(reversed(_VERDICTS))}, and a gate on it is "
                f"verdict=WORD; did you mean {meant}?"
            )
        if bound != "value":
            raise ValueError(
                f"{option(text)} with --bound {bound}: a verdict has no interval, for it is what a test says; gate by "
                "it in a command without --bound"
            )
        probe, slash, category = where.removesuffix("/").partition("/")
        if slash and not category:
            raise ValueError(f"{option(text)}: expected PROBE/verdict=WORD or PROBE/CATEGORY/verdict=WORD")
        return VerdictGate(text, probe or None, category, word, min_scored=min_scored, inconclusive=inconclusive)

    def require_sense(self) -> None:
        """That the gate does not fail a model for losing nothing.

        Raises:
            ValueError: If it does.
        """
        if self.verdict == "none":
            where = of_verdict(self.text) or ("",)
            raise ValueError(
                f"{option(self.text)} fails what lost nothing, for a gate fails where its condition holds; to fail "
                f"what lost something: {quoted(f'{where[0]}verdict=lost', 200)}"
            )

    def on(self, probe: str) -> str:
        """The same gate on one probe, as it is written."""
        return f"{probe}/verdict={self.verdict}"

    def can_read(self, row: Row) -> bool:
        """Whether a row has a verdict."""
        return headline(row).verdict != "unclear"

    def judge(
        self, rows: Sequence[Row], *, not_measured: Sequence[str] = (), before: Sequence[Snapshot] = ()
    ) -> GateResult:
        """Tests a comparison; as `Gate.judge`.

        Raises:
            ValueError: If there is no such probe or category, or it is of the training data, of which nothing is said.
        """
        row = row_of(rows, self.probe, self.category, gate=self.text)
        t = row.transitions
        if t.training:
            raise ValueError(
                f"{option(self.text)}: of texts of the training data there is no verdict; gate them by "
                f"bits_per_byte_change>VALUE, or name another probe"
            )
        said = headline(row, among=rows)
        gaps = not_scored(rows, row, *_RESTS_ON, least=self.min_scored, abilities=True)
        gaps += not_measured if self.probe in (None, "all") else ()
        message = f"verdict is {said.verdict}, {_counted(row)}, {percent(t.scored)} scored, {said.sentence}"
        worse = [
            f"{name} {verdict}" for name, verdict in _in_the_table(rows, row) if _is_at_least(verdict, self.verdict)
        ]
        worse += _fallen(t)
        if gaps or worse or _is_at_least(said.verdict, self.verdict):
            beside = [] if _is_at_least(said.verdict, self.verdict) else worse
            return GateResult(self.text, "failed", "; ".join([message, *beside, *gaps]))
        none: Outcome = "inconclusive" if self.inconclusive else "failed"
        most = worst.history(before).select(row.probe, row.category)[-1].transitions if before else None
        if "unclear" in (said.verdict, most and most.verdict):
            why = "" if said.verdict == "unclear" else "; there was too little that it could lose"
            return GateResult(self.text, none, f"{message}{why}; that is no verdict, which is no pass")
        doubts = [f"there is no verdict on {' and '.join(names)}"] if (names := _unclear(t)) else []
        too_few = self._never(most) if most else ""
        if not self.inconclusive:
            return GateResult(
                self.text, "passed", message, too_few or "".join(f"passes, though {one}" for one in doubts)
            )
        doubts += ["what moved may be lost"] if said.verdict == "moved" else []
        return GateResult(self.text, none if doubts else "passed", "; ".join([message, *doubts]), too_few)

    def _never(self, lost: Transitions) -> str:
        """Why the gate would pass whatever is lost; "" where a loss can fail it.

        Args:
            lost: What the row would be if all that was right before were wrong after.
        """
        if _is_at_least(lost.verdict, self.verdict):
            return ""
        return (
            f"can never fail: even if all {lost.n10} of {counted(lost.n)} that were right before were wrong after, the "
            f"verdict would be {lost.verdict}; give it more items, or ones that the model knows"
        )


def _is_at_least(verdict: str, word: str) -> bool:
    return _VERDICTS.index(verdict) >= _VERDICTS.index(word)


def _in_the_table(rows: Sequence[Row], row: Row) -> list[tuple[str, str]]:
    """What the table of abilities says of the parts of a row: of whole probes, and of categories what is lost.

    A category is lost there with all of its probe tested at once; what moved in one by itself is no finding.
    """
    if row.category:
        return []
    parts = [
        (part.row, part.verdict)
        for group in side_by_side([one for one in rows if row.probe in (one.probe, "all")])
        for part in group
        if not part.row.transitions.training
    ]
    return [
        (f"{shown('/'.join(filter(None, (one.probe, one.category))))} is", verdict)
        for one, verdict in parts
        if verdict == "lost" or (verdict == "moved" and not one.category)
    ]


def _fallen(t: Transitions) -> list[str]:
    """The abilities without a verdict in which more got worse than chance would have it."""
    return [
        f"in {name}, too small for a verdict, {one.n10} got worse and {one.n01} better"
        for name, one in _unclear(t).items()
        if one.n10 > one.n01 and mcnemar_midp(one.n10, one.n01) < _BY_CHANCE
    ]


def _unclear(t: Transitions) -> dict[str, Transitions]:
    """The abilities without a verdict that the verdict of the whole leaves aside; not those that never have one."""
    return {
        name or "other items": one for name, one in t.abilities.items() if one.verdict == "unclear" and not one.training
    }


def _counted(row: Row) -> str:
    """The items that the verdict is of, "120 items and 40 documents of all"."""
    t, name = row.transitions, shown("/".join(filter(None, (row.probe, row.category))))
    n_texts = t.bits.n if t.bits else 0
    n = 0 if t.ability == "text" else t.n
    parts = [counted(n)] * (n > 0 or not n_texts) + [counted(n_texts, "document")] * (n_texts > 0)
    return f"{' and '.join(parts)} of {name}"
