"""The numbers of one comparison: raw rates, the paper's, intervals and the verdict.

Signs: forgetting is 1->0 and never negative, backward transfer is 0->1 and never negative; all rates are fractions.
Compact, so that a run keeps one for every step and category. Computed in `transitions`; knows nothing of files or time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forget_callback.metrics.abilities import loss_p_value_of, lost_in, verdict_of_mix
from forget_callback.metrics.estimates import Estimate, Shares, Spread, Stratum
from forget_callback.metrics.graded import Change, GradedNumbers
from forget_callback.metrics.guessing import GuessPersistence
from forget_callback.metrics.intervals import NO_INTERVAL, Interval, mcnemar_midp
from forget_callback.metrics.knowledge import Knowledge
from forget_callback.metrics.knowledge_numbers import KnowledgeNumbers
from forget_callback.metrics.names import INTERVALS, METRICS
from forget_callback.metrics.recall import Recall
from forget_callback.metrics.verdict import (
    LEVEL,
    loss_p_value,
    text_loss_p_value,
    text_verdict_of,
    told_by_score,
    verdict_of,
)


@dataclass(frozen=True)
class Transitions(KnowledgeNumbers, GradedNumbers):
    """What changed between two snapshots; rates are fractions of `n`, NaN if `n` is 0.

    Raw numbers (counts, accuracy, forgetting, the paper's) are of the first prompt, `knowledge_*` and `known_*` of all
    prompts that both snapshots asked. A text counts as 1 -> 0 where its bits per byte rose by more than `floor`, as
    0 -> 1 where they fell by more, else as 1 -> 1. Of several abilities the raw numbers are of all items but texts,
    `knowledge_*` of those that ask for knowledge, if some do.

    Attributes:
        n: Items scored both times; `n11`, `n10`, `n01`, `n00` count them by right (1) or wrong (0), before and after.
        n_unscored: Items that at least one snapshot did not score; they are in no other number.
        variants: Prompts that items were asked in both times, at most.
        scored: Share of the items that were scored both times in every prompt that they have.
        forgetting_chance: Forgetting that the paper expects from guessing alone (arXiv 2510.17776), the same for
            backward transfer; per number of options, weighted by share.
        forgetting_max: The paper's ceiling on forgetting, accuracy before without lucky guesses.
        backward_transfer_max: The paper's ceiling on backward transfer, from the accuracy after.
        knowledge: What was known before, lost and gained: the estimates and their method.
        recall: What is no longer recalled, and whether it is still chosen; None where no item is recalled.
        rates: The raw rates of clustered items; None where items are independent.
        persistence: How often items wrong both times keep their option; None where options are not known.
        no_forgetting_p_value: Exact one-sided test of "nothing forgotten" by the first prompt, mid-p; NaN where no item
            can be guessed right.
        ability: What the items are about, such as "knowledge", "behaviour" or "text"; "" if several, or unknown.
        training: Whether they are texts of the training data itself, whose verdict is "unclear": nothing is claimed.
        abilities: Of items of several abilities the transitions of each; else nothing.
        score: Change of graded scores; None where there are none.
        bits: Change of bits per byte; None where no item is a text.
        floor: By how much the bits per byte of a text must change to count; NaN where no item is a text.
    """

    n: int
    n11: int
    n10: int
    n01: int
    n00: int
    n_unscored: int
    variants: int
    scored: float
    forgetting_chance: float
    forgetting_max: float
    backward_transfer_max: float
    knowledge: Knowledge
    recall: Recall | None
    rates: Mapping[str, Estimate] | None
    persistence: GuessPersistence | None
    no_forgetting_p_value: float
    ability: str
    training: bool
    abilities: Mapping[str, Transitions]
    score: Change | None
    bits: Change | None
    floor: float

    @property
    def accuracy_before(self) -> float:
        """Share right before; NaN of texts."""
        return float("nan") if self.ability == "text" else _share(self.n11 + self.n10, self.n)

    @property
    def accuracy_after(self) -> float:
        """Share right after; NaN of texts."""
        return float("nan") if self.ability == "text" else _share(self.n11 + self.n01, self.n)

    @property
    def net_change(self) -> float:
        """Accuracy after minus accuracy before, all that a task average shows; of texts share better minus worse."""
        return _share(self.n01 - self.n10, self.n)

    @property
    def forgetting(self) -> float:
        """Share of items that went from right to wrong (1->0), guesses included."""
        return _share(self.n10, self.n)

    @property
    def backward_transfer(self) -> float:
        """Share of items that went from wrong to right (0->1), guesses included."""
        return _share(self.n01, self.n)

    @property
    def forgetting_adjusted(self) -> float:
        """The paper's forgetting: less what guessing explains, clipped at 0 (arXiv 2510.17776)."""
        return clip(self.forgetting - self.forgetting_chance)

    @property
    def backward_transfer_adjusted(self) -> float:
        """The paper's backward transfer: less what guessing explains, clipped at 0 (arXiv 2510.17776)."""
        return clip(self.backward_transfer - self.forgetting_chance)

    @cached_property
    def verdict(self) -> str:
        """Whether something was lost: "lost", "moved", "none" or "unclear".

        See `verdict.verdict_of`, of texts `verdict.text_verdict_of`, of several abilities `abilities.verdict_of_mix`.
        """
        moved = _share(self.n10 + self.n01, self.n)
        if self.abilities:
            said = {name: part.verdict for name, part in self.abilities.items()}
            return verdict_of_mix(said, lost=bool(self.lost_abilities))
        if self.training:
            return "unclear"
        if self.bits:
            return text_verdict_of(self.bits, floor=self.floor, moved=moved)
        return verdict_of(self.knowledge, accuracy_p_value=self._accuracy_p_value, moved=moved, score=self.score)

    @cached_property
    def loss_p_value(self) -> float:
        """One-sided p-value of the claim "lost" of the verdict, which holds at 0.025; for Holm over several."""
        if self.abilities:
            return loss_p_value_of(self._loss_p_values)
        if self.training:
            return float("nan")
        if self.bits:
            return text_loss_p_value(self.bits, floor=self.floor)
        return loss_p_value(self.knowledge, accuracy_p_value=self._accuracy_p_value, score=self.score)

    @cached_property
    def told_by_score(self) -> bool:
        """Whether the verdict is that of graded scores, which fell where right and wrong tell of no loss."""
        if self.abilities or self.bits or self.verdict not in ("lost", "moved"):
            return False
        return told_by_score(self.knowledge, accuracy_p_value=self._accuracy_p_value, score=self.score)

    @property
    def lost_abilities(self) -> tuple[str, ...]:
        """Of several abilities those that the verdict claims were lost, the surest first (Holm)."""
        return lost_in(self._loss_p_values, LEVEL)

    @property
    def _loss_p_values(self) -> dict[str, float]:
        return {name: part.loss_p_value for name, part in self.abilities.items()}

    @property
    def guess_persistence(self) -> float:
        """How much guesses repeat: 0 is independent, 1 always the same; unclipped, NaN if it cannot be seen."""
        return self.persistence.rho if self.persistence else float("nan")

    @property
    def persistence_p_value(self) -> float:
        """Exact one-sided test of independent guesses; NaN if no item shows it."""
        return self.persistence.p_value if self.persistence and self.persistence.n else float("nan")

    @property
    def p_value(self) -> float:
        """McNemar's test of equal accuracy, mid-p, of clustered items t over the clusters; NaN without items."""
        if not self.n:
            return float("nan")
        return 2 * min(self._accuracy_p_value, 1 - self._accuracy_p_value) if self._robust else self._mcnemar

    @property
    def _mcnemar(self) -> float:
        return mcnemar_midp(self.n10, self.n01) if self.n else float("nan")

    @property
    def _robust(self) -> Spread | None:
        """Of the net change, over clusters."""
        return self.rates["net_change"].spread if self.rates else None

    @property
    def _accuracy_p_value(self) -> float:
        """One-sided, of "accuracy did not fall"."""
        if self._robust:
            return self._robust.p_value(-self.net_change)
        return self._mcnemar / 2 if self.n10 > self.n01 else 1 - self._mcnemar / 2

    @property
    def forgetting_interval(self) -> Interval:
        """95% Wilson interval."""
        return self.interval("forgetting")

    @property
    def backward_transfer_interval(self) -> Interval:
        """95% Wilson interval."""
        return self.interval("backward_transfer")

    @property
    def net_change_interval(self) -> Interval:
        """95% MOVER interval."""
        return self.interval("net_change")

    @property
    def knowledge_lost_interval(self) -> Interval:
        """95% MOVER interval."""
        return self.interval("knowledge_lost")

    def interval(self, metric: str, *, confidence: float = 0.95) -> Interval:
        """Two-sided interval of a metric of `INTERVALS`. Its low end is a one-sided bound at ``(1 + confidence) / 2``.

        Raises:
            ValueError: If the metric has no interval.
        """
        if metric not in INTERVALS:
            raise ValueError(f"metric {metric!r} has no interval; {', '.join(INTERVALS)} have one")
        if metric == "knowledge_lost":
            return self.knowledge.lost_interval(confidence)
        if metric == "known_lost":
            return self.knowledge.known_lost_interval(confidence)
        if metric == "score_lost":
            low, high = self.interval("score_change", confidence=confidence)
            return Interval(-high, -low)
        found = self._estimate(metric)
        return NO_INTERVAL if found is None else found.interval(confidence=confidence)

    def coverage(self, metric: str) -> float:
        """Share scored both times: of all items, and of those that the metric is of, whichever is less."""
        n, asked = self.n, 0
        if metric.startswith(("knowledge_", "known_", "spurious_")):
            n, asked = self.knowledge_n, self.knowledge.n_asked
        elif metric.startswith("recall_") and self.recall:
            n, asked = self.recall.lost.n, self.recall.n_asked
        elif metric.startswith(("score_", "bits_")) and (found := self.score if metric[0] == "s" else self.bits):
            n, asked = found.n, found.n_asked
        return min(self.scored, n / asked) if asked else self.scored

    def _estimate(self, metric: str) -> Estimate | Change | None:
        """What the interval of a metric comes from; None where the metric does not exist."""
        n10, n01 = (self.n10, 1.0), (self.n01, 1.0)
        if metric in ("forgetting", "backward_transfer"):
            return self._rate(metric, n10 if metric == "forgetting" else n01)
        if metric == "net_change":
            return self._rate(metric, n01, (self.n10, -1.0))
        if metric.startswith("recall_"):
            return getattr(self.recall, metric.removeprefix("recall_")) if self.recall else None
        if metric in ("score_change", "bits_per_byte_change"):
            return self.score if metric == "score_change" else self.bits
        known = self.knowledge
        return {
            "knowledge_gained": known.gained,
            "knowledge_lost_net": known.net_of_all,
            "known_before": known.known_before,
            "spurious_forgetting": known.spurious,
        }[metric]

    def _rate(self, name: str, *events: tuple[int, float]) -> Estimate:
        """A raw rate from its counts, or from clusters."""
        if self.rates is not None:
            return self.rates[name]
        counts, weights = zip(*events)
        return Estimate(Shares((Stratum(self.n, counts, weights),) if self.n else ()))

    def as_dict(self) -> dict[str, float | str]:
        """Every number by its metric name, intervals as `<metric>_low` and `<metric>_high`."""
        row: dict[str, float | str] = {name: getattr(self, name) for name in METRICS}
        for name in INTERVALS:
            row[f"{name}_low"], row[f"{name}_high"] = self.interval(name)
        return {**row, "knowledge_method": self.knowledge_method, "verdict": self.verdict}


def _share(count: int, n: int) -> float:
    return count / n if n else float("nan")


def clip(value: float) -> float:
    """At least 0, NaN as it is."""
    return value if np.isnan(value) else max(value, 0.0)
