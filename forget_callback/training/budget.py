"""`max_overhead`: which evaluations a run can afford, and of how many items.

The baseline is always whole, and the limit holds for what comes after it. Each evaluation has the same share of what
is allowed in all, once the last one, in all prompts, is paid for, and spends no more than training has earned by
then. What one leaves is spread over as many as there were so far: the first go by what the baseline took, which may
be far off. What is done once (token ids, batches, self-checks) counts as time that has passed, not as what a later
evaluation takes. Decides on rank 0 alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from transformers import TrainerState, TrainingArguments

from forget_callback.probes.probe import Probe
from forget_callback.scoring.once import once
from forget_callback.training.budget_lines import BudgetLines
from forget_callback.training.parts import Cost, largest, part_of, size_of
from forget_callback.training.schedule import to_come
from forget_callback.training.setup import Settings, evaluations_of

# Steps after which the time of a step is known; the first one takes longer.
_STEPS_TO_KNOW = 5
# By how much an evaluation may run ahead of what training has earned before it is made smaller, or left out: no two
# take quite the same time.
_AHEAD = 1.06
# Where the best part has this many times the items of the last one, that one is kept: a curve is of the same items.
_NEAR = (0.9, 1.15)
# Weight of the last measurement.
_NEW = 0.3


class Budget:
    """The time that a run may spend on its probes after the baseline.

    Args:
        args: With the schedule of the Trainer's own evaluations.
        state: When this training starts, or resumes.
        kept: What the checkpoint that it resumes from has of this, see `kept`.

    Attributes:
        part: Share of the items that is scored.
        lines: What is said of it.
    """

    def __init__(
        self, settings: Settings, args: TrainingArguments, state: TrainerState, kept: Mapping[str, Any]
    ) -> None:
        self._limit, self._variants, self._every = settings.max_overhead, settings.variants, settings.every
        self._evaluations = evaluations_of(args, state)
        self.lines = BudgetLines(settings.max_overhead)
        self.part = 1.0
        self._first_step, self._last_step = state.global_step, state.max_steps
        self._since = int(kept.get("since", state.global_step))  # the step from which on time was measured
        self._trained_before, self._probed_before = (float(kept.get(name, 0)) for name in ("trained", "probed"))
        self._taken = int(kept.get("taken", 0))  # evaluations
        cost = kept.get("cost")
        self._cost = None if cost is None else Cost(**cost)
        # What of it was measured after the baseline: before any training, the model is another one.
        self._later = set() if cost is None else set(cost)
        self._probed = 0.0  # seconds, of this process
        self._scoring = 0.0  # of the present evaluation
        self._begun = time.perf_counter()
        self._after_first_step = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit is not None

    @property
    def kept(self) -> dict[str, Any]:
        """What was measured, for a checkpoint: a resumed run goes on with it."""
        if self._limit is None:
            return {}
        cost = None if self._cost is None else asdict(self._cost)
        probed = self._probed_before + self._probed
        return {"since": self._since, "trained": self._trained, "probed": probed, "taken": self._taken, "cost": cost}

    @property
    def _trained(self) -> float:
        """Seconds of training so far."""
        return self._trained_before + time.perf_counter() - self._begun - self._probed

    def announce(self, probes: Sequence[Probe], *, samples: float) -> None:
        """Says before the baseline is scored if it is likely to exceed the limit by itself.

        Args:
            samples: That the run trains on.
        """
        further = self._variants != "off"
        prompts = sum(1 + len(item.variants) * further for probe in probes for item in probe.items)
        self.lines.announce(prompts, samples)

    @contextlib.contextmanager
    def baseline(self) -> Iterator[None]:
        """Around the baseline, after which the limit begins to hold."""
        with once(repeated=True) as work:
            yield
        now = time.perf_counter()
        self.lines.baseline_took(now - self._begun, work.seconds)
        self._begun = now

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Around an evaluation."""
        begun, self._scoring = time.perf_counter(), 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self._probed += spent
            if self._scoring:  # batches of another part are made anew: that is not done once here
                self._learn({"rest": spent - self._scoring})

    def scored(
        self, probes: Sequence[Probe], seconds: Mapping[str, float], *, baseline: bool = False, changed: bool = False
    ) -> None:
        """Learns what prompts take from a scoring of the present part, see `Scorer.seconds`.

        Args:
            changed: Whether further prompts were asked of changed items alone.
        """
        asked = {
            name: Cost(name == "first", name == "further").of(probes, self.part, variants=True) for name in seconds
        }
        per_prompt = {name: spent / asked[name] for name, spent in seconds.items() if asked[name]}
        if "further" in per_prompt and (changed or "changed" not in self._later):  # at most what all of them take
            per_prompt["changed"] = per_prompt["further"]
        if changed:
            per_prompt.pop("further", None)
        self._scoring += sum(seconds.values())
        self._learn(per_prompt, baseline=baseline)

    @contextlib.contextmanager
    def showing_baseline(self) -> Iterator[None]:
        """Around what the baseline takes beside scoring."""
        begun = time.perf_counter()
        yield
        self._learn({"rest": time.perf_counter() - begun}, baseline=True)

    def _learn(self, new: Mapping[str, float], *, baseline: bool = False) -> None:
        """A moving average: answers grow longer as a model is trained, and machines are shared."""
        cost = asdict(self._cost or Cost(0.0, 0.0))
        for name, seconds in new.items():
            known = cost[name] if name in self._later else seconds
            cost[name] = known + _NEW * (seconds - known)
        self._cost = Cost(**cost)
        if not baseline:
            self._later |= new.keys()

    def step_ended(self, state: TrainerState) -> None:
        """Says what share of the run the baseline takes, as soon as the time of a step is known."""
        done, total = state.global_step - self._first_step, self._last_step - self._first_step
        if done == 1:
            self._after_first_step = self._trained
        elif self._limit is not None and done == min(_STEPS_TO_KNOW, total):
            self.lines.baseline_is((self._trained - self._after_first_step) / (done - 1) * total)

    def choose(self, probes: Sequence[Probe], state: TrainerState, *, end: bool) -> float | None:
        """The share of the items to score now; None where even the smallest part costs too much, but at the end.

        Args:
            end: Whether it is the last one.
        """
        assert self._limit is not None
        if self._cost is None:
            return self.lines.unknown(state.global_step, probes)
        after = 0 if end else self._to_come(state.global_step)
        cost, probed = self._cost, self._probed_before + self._probed
        trained, step = self._trained, state.global_step
        earned = self._limit / (1 - self._limit) * trained
        total: float = earned * (self._last_step - self._since) / (step - self._since)
        planned = max(self._to_come(self._since), after + 1)

        def one(share: float, *, last: bool = False) -> float:
            changed = self._variants == "changed" and not last
            further = changed or self._variants == "all" or (last and self._variants != "off")
            return cost.of(probes, share, variants=further, changed=changed)

        def steady(share: float) -> bool:
            last = one(share, last=True)
            if not after:
                return probed + last <= total
            several = min(max(self._taken, 1), after)
            allowed = (total - last) * (planned - after + several - 1) / (planned - 1)
            return probed + several * one(share) <= allowed

        def now(share: float) -> bool:
            needed = probed + one(share)
            return end or bool(needed <= _AHEAD * earned and needed + one(share, last=True) <= total)

        wanted = self._near(probes, largest(steady) or 0.0, end=end)
        part = largest(now, wanted)
        self._taken += part is not None
        training = trained * (self._last_step - self._since) / (step - self._since)
        seconds = one(1.0, last=end)
        self.lines.chosen(step, probes, self.part, part, seconds=seconds, left=after + 1, training=training)
        return part

    def _to_come(self, step: int) -> int:
        """Evaluations after a step."""
        return to_come(self._every, step, self._last_step, evaluations=self._evaluations)

    def _near(self, probes: Sequence[Probe], best: float, *, end: bool) -> float:
        """The last part, where the best one is not far from it."""
        if best == 1:
            return best
        new, old, least = (sum(size_of(len(probe), share) for probe in probes) for share in (best, self.part, 0.0))
        # Where evaluations are left out, so that what is left at the end is less than one more, it is no larger.
        low, high = (_NEAR[0], 2.0) if end and old == least else _NEAR
        return self.part if low <= new / old <= high else best

    def items(self, part: float, probes: Sequence[Probe]) -> Mapping[str, Collection[str]] | None:
        """The items to score from here on, by probe; None where that changes nothing."""
        if part == self.part:
            return None
        self.part = part
        return {probe.name: part_of(probe, part) for probe in probes if size_of(len(probe), part) < len(probe)}

    def finish(self) -> None:
        """Says what was taken of the time after the baseline."""
        probed = self._probed_before + self._probed
        if self._limit is not None and probed:
            self.lines.took(probed / (probed + self._trained))
