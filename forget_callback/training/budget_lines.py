"""What a run says of `max_overhead`: what the baseline takes of it, what is cut and why, and when it grows back.

Each thing once, on rank 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from forget_callback.probes.probe import Probe
from forget_callback.training.parts import size_of
from forget_callback.training.schedule import baseline_share

logger = logging.getLogger(__name__)


class BudgetLines:
    """The lines of one run."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._baseline: tuple[float, float] | None = None  # seconds, and those of work that is done once
        self._expected = False  # whether it was said before that the baseline exceeds the limit
        self._cut = self._grown = False
        self._skipped = self._taken = 0

    def announce(self, prompts: int, trained: float) -> None:
        """Before the baseline is scored: it is likely to exceed the limit by itself.

        Args:
            prompts: Of all probes together, with further ones.
            trained: Samples that the run trains on.
        """
        share = baseline_share(prompts, trained)
        self._expected = self._limit is not None and share > self._limit
        if self._expected:
            logger.warning(
                "the baseline alone is likely to take more than max_overhead=%g of this run: it is %d prompts, and "
                "training is %d samples, about %.2g of the time; it is scored whole all the same, and the limit holds "
                "for what comes after it",
                self._limit,
                prompts,
                trained,
                share,
            )

    def baseline_took(self, seconds: float, once: float) -> None:
        """Notes what the baseline took, and how much of it is work that is done once."""
        self._baseline = seconds, once

    def baseline_is(self, training: float) -> None:
        """What share of the run the baseline is, once it is known how many seconds training takes."""
        if self._baseline is None or self._limit is None:
            return
        seconds, once = self._baseline
        share = seconds / (seconds + training)
        above = share > self._limit
        logger.log(
            logging.WARNING if above else logging.INFO,
            "the baseline%s took %.3g s, %.3g s of it for what is done once, and training takes about %.3g s: %.2g of "
            "this run%s; the limit holds for what comes after the baseline",
            " alone" if above and not self._expected else "",
            seconds,
            once,
            training,
            share,
            f", more than max_overhead={self._limit:g}" if above else "",
        )

    def chosen(
        self,
        step: int,
        probes: Sequence[Probe],
        before: float,
        now: float | None,
        *,
        seconds: float,
        left: int,
        training: float,
    ) -> None:
        """What is scored at a step: aloud the first time that it is less, that it is more again, and that it is all.

        Args:
            before: Share of the items at the last evaluation.
            now: Share of them at this one, None where it is left out.
            seconds: That all items would take.
            left: Evaluations to come.
            training: Seconds that all training takes.
        """
        self._skipped, self._taken = self._skipped + (now is None), self._taken + (now is not None)
        if now is None:
            logger.log(
                logging.INFO if self._skipped > 1 else logging.WARNING,
                "no snapshot at step %d: it would exceed max_overhead=%g (more of these are logged at level INFO)",
                step,
                self._limit,
            )
            return
        if now == before:
            return
        said = self._grown if now > before else self._cut
        self._cut, self._grown = self._cut or now < before, self._grown or now > before
        logger.log(
            logging.INFO if said and now < 1 else logging.WARNING,
            "step %d: all items would take %s s, at %d evaluations to come, and training takes %s s in all: "
            "under max_overhead=%g %s, by category: %s",
            step,
            f"{seconds:.3g}",
            left,
            f"{training:.3g}",
            self._limit,
            "all of them are scored again"
            if now == 1
            else f"{'a larger' if now > before else 'a fixed'} random part of them is scored",
            ", ".join(f"{size_of(len(probe), now)} of {len(probe)} of {probe.name!r}" for probe in probes),
        )

    def unknown(self, step: int, probes: Sequence[Probe]) -> float:
        """That the smallest part is scored, and its share: after a checkpoint without anything measured."""
        items = ", ".join(f"{size_of(len(probe), 0.0)} of {len(probe)} of {probe.name!r}" for probe in probes)
        logger.info("step %d: what an evaluation takes is not known yet, so it is one of %s", step, items)
        return 0.0

    def took(self, share: float) -> None:
        """At the end: what probing took of the time after the baseline; aloud where something was cut."""
        logger.log(
            logging.WARNING if self._cut or self._skipped else logging.INFO,
            "after the baseline, %d evaluations took %.3g of the time (max_overhead=%g), %d were left out",
            self._taken,
            share,
            self._limit,
            self._skipped,
        )
