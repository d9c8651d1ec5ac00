"""The baseline of a run: what it is compared against, and the model as it is when training starts.

A probe that cannot be scored here is dropped from the run, and the others are scored once more without it: in the
batches of all later evaluations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from forget_callback.runs.rows import Stage
from forget_callback.runs.run_at import open_run
from forget_callback.scoring.distributed import on_main
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training import start
from forget_callback.training.probing import ProbeScorer
from forget_callback.training.record import Record
from forget_callback.training.setup import Settings, can_differ
from forget_callback.training.unmeasured import reason

logger = logging.getLogger(__name__)


class Baseline:
    """Scores what a run starts from. All ranks must call each of its methods together.

    Args:
        scorer: Scores all probes of the run, afterwards those alone that can be scored.
        low_precision: Whether the trainer computes below float32, whatever the dtype of the weights.
    """

    def __init__(self, settings: Settings, scorer: ProbeScorer, record: Record, *, low_precision: bool) -> None:
        self._settings, self._scorer, self._record = settings, scorer, record
        self._strict, self._low_precision = settings.on_error == "raise", low_precision

    def other_model(self, model: Any, step: int, *, trained: bool) -> tuple[list[Snapshot], Stage]:
        """What the run is compared against, where that is not the model as it is now; and the stage that it is then.

        Raises:
            ValueError: If there is no such baseline, and the model is not that of the start.
        """
        kind = self._settings.baseline
        if kind == "start":
            start.require_start(step, trained=trained)
            return [], Stage()
        if kind == "base":
            if not hasattr(model, "disable_adapter"):
                raise ValueError("baseline='base' needs a PEFT model, whose adapters can be switched off")
            with model.disable_adapter():
                return self.score(model, keep=True), Stage()
        probes = self._scorer.probes
        found, stage, failed = on_main(lambda: start.run_baseline(kind, probes, strict=self._strict))
        self._drop(failed)
        self._scorer.references.update(on_main(lambda: open_run(kind).references(self._scorer.probes)))
        return found, stage

    def score(self, model: Any, *, keep: bool) -> list[Snapshot]:
        """Snapshots of the probes that can be scored.

        Args:
            keep: Whether it is this model that later ones are compared with.
        """
        variants = self._settings.variants != "off"
        while True:
            failed: dict[str, str] = {}
            if self._strict:
                found = self._scorer.score(model, variants=variants, keep=keep)
            else:
                scored = self._scorer.score_apart(model, variants=variants, keep=keep)
                found, failed = list(scored.snapshots), dict(scored.failed)
            failed |= start.without_numbers(found)
            if not failed:
                self._record.unmeasured.measured(0, found)
                return found
            self._drop(failed)

    def score_again(self, model: Any) -> list[Snapshot] | None:
        """The same model once more, in other batches and with other samples; None where that is not wanted, or fails.

        Unless told, the probes that can differ, and where time is free.
        """
        rescore, limit, probes = self._settings.rescore, self._settings.max_overhead, self._scorer.probes
        wanted = [probe.name for probe in probes] if rescore else []
        if rescore is None and limit is None:
            wanted = can_differ(model, probes, low_precision=self._low_precision)
        if not wanted:
            return None
        try:
            return self._scorer.score_again(model, wanted)
        except Exception as error:  # the baseline itself is safe
            logger.warning("the baseline could not be scored a second time: %s", reason(error))
            return None

    def _drop(self, failed: Mapping[str, str]) -> None:
        left = [probe for probe in self._scorer.probes if probe.name not in failed]
        self._scorer.keep([probe.name for probe in self._record.remaining(self._settings, left, failed)])
