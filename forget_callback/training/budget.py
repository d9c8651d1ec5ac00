"""`max_overhead`: which evaluations a run can afford, and of how many items.

The baseline is always whole, whatever it costs, so the limit holds for what comes after it; where the baseline alone
exceeds it, that is said. What the first evaluation costs once (token ids, batches, the choice of a scoring path) is not
held against later ones.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from transformers import TrainerState

from forget_callback.probes.probe import Probe
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.schedule import MIN_SNAPSHOTS, affordable, allowance, baseline_share, part_of
from forget_callback.training.setup import Settings

logger = logging.getLogger(__name__)

# Steps after which the time of a step is known; the first ones take longer.
_STEPS_TO_KNOW = 5


class Budget:
    """The time that a run may spend on its probes after the baseline.

    Args:
        prompts: Of all probes together, with further ones.
        items: Of all probes together.
        first_step: Where this training starts, or resumes.

    Attributes:
        part: Share of the items that is scored.
    """

    def __init__(self, settings: Settings, *, prompts: int, items: int, first_step: int) -> None:
        self._limit, self._prompts, self._first_step = settings.max_overhead, prompts, first_step
        self._ends = settings.variants == "ends"
        # A snapshot of all prompts costs this many of the first ones, where there are both.
        self._whole_cost = prompts / items if self._ends else 1.0
        self.part = 1.0
        self._first: float | None = None  # seconds of the first evaluation, on rank 0
        self._skipped = self._said = False

    @classmethod
    def of(cls, settings: Settings, probes: Sequence[Probe], *, first_step: int) -> Budget:
        """The budget for these probes."""
        further = settings.variants != "off"
        prompts = sum(1 + len(item.variants) * further for probe in probes for item in probe.items)
        return cls(settings, prompts=prompts, items=sum(map(len, probes)), first_step=first_step)

    def announce(self, state: TrainerState, samples_per_step: float) -> None:
        """Says before the baseline is scored if it is likely to exceed the limit by itself."""
        trained = (state.max_steps - self._first_step) * samples_per_step
        share = baseline_share(self._prompts, trained)
        self._said = self._limit is not None and share > self._limit
        if self._said:
            logger.warning(
                "the baseline alone is likely to take more than max_overhead=%g of this run: it is %d prompts, and "
                "training is %d samples, about %.2g of the time; it is scored whole all the same, and the limit holds "
                "for what comes after it",
                self._limit,
                self._prompts,
                trained,
                share,
            )

    def begin(self, monitor: ForgetMonitor, *, baseline: bool) -> None:
        """Takes the first evaluation, on rank 0: what it took is not held against later ones."""
        if self._first is None:
            self._first = monitor.probe_seconds[0]
            self._said |= not baseline

    def afforded(self, monitor: ForgetMonitor, state: TrainerState) -> tuple[float, bool]:
        """The share of the items to score from here on, and whether even that is too expensive now; on rank 0."""
        assert self._limit is not None
        total, last = monitor.probe_seconds
        spent = total - (self._first or 0.0)
        # Where most evaluations ask the first prompts alone, the last one still asks all.
        if monitor.confirmed:
            last /= self._whole_cost
        reserved = last * self._whole_cost if self._ends else 0.0
        steps = state.global_step - self._first_step
        progress = steps / (state.max_steps - self._first_step)
        trained = monitor.elapsed - total
        self._say_measured(trained / progress)
        allowed = allowance(self._limit, trained=trained, progress=progress) - reserved
        part = self.part
        if part == 1 and steps >= _STEPS_TO_KNOW:
            part = affordable(allowed - spent, last)
        return part, spent + last * part / self.part > progress * allowed

    def _say_measured(self, training: float) -> None:
        """Says once that the baseline alone exceeds the limit, as measured; where that was not said before it."""
        first = self._first or 0.0
        if not self._said and first > (self._limit or 1.0) * (first + training):
            self._said = True
            logger.warning(
                "the baseline alone took %.3g s, and training takes about %.3g s: more than max_overhead=%g of this "
                "run; the limit holds for what comes after the baseline",
                first,
                training,
                self._limit,
            )

    def items(self, part: float, probes: Sequence[Probe]) -> Mapping[str, Collection[str]] | None:
        """The items to score from here on, by probe; None where that changes nothing."""
        only = {probe.name: part_of(probe, part) for probe in probes}
        if part == self.part or all(len(only[probe.name]) == len(probe) for probe in probes):
            return None
        self.part = part
        logger.warning(
            "scoring all items %d more times would take more than max_overhead=%g of this run; from here on the same "
            "random part of them is scored, by category: %s",
            MIN_SNAPSHOTS,
            self._limit,
            ", ".join(f"{len(only[probe.name])} of {len(probe)} of {probe.name!r}" for probe in probes),
        )
        return only

    def say_skipped(self, step: int) -> None:
        """Says that the snapshot of a step is left out, aloud the first time."""
        logger.log(
            logging.INFO if self._skipped else logging.WARNING,
            "no snapshot at step %d: it would exceed max_overhead=%g (more of these are logged at level INFO)",
            step,
            self._limit,
        )
        self._skipped = True
