"""The numbers of a comparison that are of what was known, lost and recalled, read from the estimates of `Knowledge`."""

from __future__ import annotations

from forget_callback.metrics.estimates import Estimate
from forget_callback.metrics.knowledge import Knowledge
from forget_callback.metrics.recall import Recall


class KnowledgeNumbers:
    """The numbers of a comparison that are corrected for guessing, in all prompts, and those of recall.

    Attributes:
        knowledge: What was known before, lost and gained: the estimates and their method.
        recall: What is no longer recalled; None where no item is recalled.
    """

    knowledge: Knowledge
    recall: Recall | None

    @property
    def knowledge_lost(self) -> float:
        """Estimated share of items known before and not known after; not clipped at 0, at most `known_before`.

        The cap holds where it is beyond doubt that something was known: with few items or next to nothing known, the
        estimate stands as it is, and nothing is claimed.
        """
        return self.knowledge.lost_mean()

    @property
    def knowledge_gained(self) -> float:
        """Estimated share of items not known before and known after; unclipped."""
        return self.knowledge.gained.mean

    @property
    def knowledge_lost_net(self) -> float:
        """Lost less gained, of all items with options, those with two included; else of open-ended ones."""
        return self.knowledge.net_of_all.mean

    @property
    def knowledge_lost_range_low(self) -> float:
        """At least this was lost: lower end of the net, not below 0."""
        return self.knowledge.lost_range.low

    @property
    def knowledge_lost_range_high(self) -> float:
        """At most this was lost: if every lost item is guessed anew; an upper end, not above that of `known_before`."""
        return self.knowledge.lost_range.high

    @property
    def knowledge_method(self) -> str:
        """How that was estimated: "choice", "joint", "net" or "exact", see `Knowledge`."""
        return self.knowledge.method

    @property
    def knowledge_n(self) -> int:
        """Items that `knowledge_lost` is the mean of."""
        return self.knowledge.lost.n

    @property
    def known_before(self) -> float:
        """Estimated share of those items known before."""
        return self.knowledge.known_before.mean

    @property
    def known_lost(self) -> float:
        """Share of what was known that is lost; NaN where it may be that nothing was known."""
        return self.knowledge.known_lost()

    @property
    def spurious_forgetting(self) -> float:
        """Lost in the first prompt and not in all: form, not knowledge; NaN with one prompt."""
        return self.knowledge.spurious.mean if self.knowledge.spurious else float("nan")

    @property
    def first_prompt_lost(self) -> Estimate:
        """`knowledge_lost` by the first prompt alone, uncapped."""
        return self.knowledge.first_prompt_lost

    @property
    def recall_lost(self) -> float:
        """Share of recall items that were recalled before and are not after; NaN where no item is recalled."""
        return self.recall.lost.mean if self.recall else float("nan")

    @property
    def recall_still_chosen(self) -> float:
        """Of those whose fact is also asked as a choice, the share chosen right in every prompt after."""
        return self.recall.still_chosen.mean if self.recall else float("nan")

    @property
    def in_this_prompt(self) -> bool:
        """Whether a claim is of one prompt only: no second one was asked, or one that is words around the first."""
        return not self.knowledge.two_prompts
