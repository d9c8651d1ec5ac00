"""What a run says of its own accord, each thing once: before it trains, about its probes, and when a rule fires.

Logs and alerts, and decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from forget_callback.probes.probe import Probe
from forget_callback.runs.decisions import fired_so_far
from forget_callback.runs.early_warning import early_warning
from forget_callback.runs.headline import most_in
from forget_callback.runs.history import History
from forget_callback.runs.item_changes import flips_line
from forget_callback.runs.rows import Row
from forget_callback.runs.start_lines import start_lines
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.stopping import StopDecision, can_fire
from forget_callback.runs.store import Store
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.display import guarded
from forget_callback.training.idle import idle_rules
from forget_callback.training.remarks import differences, spacing

logger = logging.getLogger(__name__)


class Notices:
    """The notices of one run.

    Args:
        probes: Of the run.
        store: Its record; of several processes only the one that writes there says what is of interest once.
        rules: Its stop rules.
        planned: Snapshots planned for the run, for strict rules.
        alert: Sends a title and a text through the trackers.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        store: Store,
        rules: Sequence[StopRule],
        *,
        planned: int | None,
        alert: Callable[[str, str], None],
    ) -> None:
        self._probes, self._store, self._rules, self._planned, self._alert = probes, store, rules, planned, alert
        self._advised: set[tuple[str, str]] = set()
        self._warned: set[StopRule] = set()

    def recall(self, history: History) -> None:
        """What a run said before it was interrupted is not said again."""
        with guarded("noting what was said before"):
            for probe in self._probes:
                last = self._store.read(probe.name, self._store.steps(probe.name)[-1])
                self._advised |= {(one.probe, one.key) for one in history.advice(probe, last)}
            warning = [rule for rule in self._rules if rule.action == "warn"]
            names = [probe.name for probe in self._probes]
            self._warned = fired_so_far(warning, history, names, planned=self._planned)

    def start(self, history: History, snapshots: Sequence[Snapshot], again: Sequence[Snapshot]) -> None:
        """Logs what there is to know before training.

        Args:
            history: Of the first step alone.
            snapshots: Of that step.
            again: The same model scored once more, on the probes on which it was.
        """
        baseline = [history.baseline(probe.name) for probe in self._probes]
        same = {one.probe: one for one in again}
        for line in (
            *(spacing(self._probes) if self._store.writable else ()),
            *filter(None, (flips_line(one, same[one.probe]) for one in snapshots if one.probe in same)),
            *differences(baseline, snapshots, history.last_rows),
            *idle_rules(self._rules, self._probes, baseline, history.last_rows),
        ):
            logger.warning("%s", line)
        if self._store.writable:
            shown, *warnings = start_lines(baseline, [rule for rule in self._rules if can_fire(rule, baseline)])
            logger.info("%s", shown)
            for line in warnings:
                logger.warning("%s", line)

    def advise(self, history: History, snapshots: Sequence[Snapshot]) -> None:
        """Logs what there is to know about each probe."""
        if not self._store.writable:
            return
        planned = self._store.run.planned_steps
        for probe, now in zip(self._probes, snapshots):
            early = early_warning(history.select(probe.name)[-1], planned_steps=planned)
            for one in (*early, *history.advice(probe, now)):
                if (one.probe, one.key) not in self._advised:
                    self._advised.add((one.probe, one.key))
                    logger.warning("%s", one)

    def decided(self, decisions: Sequence[StopDecision], rows: Sequence[Row]) -> None:
        """Logs the rules that fired and alerts; one that only warns does so once.

        Args:
            rows: Of the step at which they fired.
        """
        for decision in decisions:
            if decision.fired and decision.rule not in self._warned:
                if not decision.stop:
                    self._warned.add(decision.rule)
                title = "Forgetting: stopping" if decision.stop else "Forgetting: warning"
                most = "" if decision.category else most_in(rows, decision.probe)
                text = decision.reason + most
                logger.warning("%s: %s", title, text)
                self._alert(title, text)
