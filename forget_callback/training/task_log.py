"""Keeps the task's metrics of a run, in memory and in `forget/task.parquet`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from forget_callback.probes.quoting import quoted
from forget_callback.runs import task
from forget_callback.runs.store import Store

logger = logging.getLogger(__name__)

SHARE_OF_TIME = 0.02  # of the run, that writing between two snapshots may take


class TaskLog:
    """The task's metrics of one run. A store that holds some is read back: a resumed run continues them.

    Args:
        store: Where they go; whatever another run left there is set aside by then.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._columns: dict[str, list[Any]] = store.read_task().to_pydict()  # in the order in which they were logged
        self._changed, self._last_write, self._seconds = False, -math.inf, 0.0

    @property
    def curves(self) -> dict[str, task.TaskCurve]:
        """All so far, by metric."""
        return task.curves_of(self._table())

    def add(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        samples_seen: float = math.nan,
        tokens_seen: float = math.nan,
    ) -> None:
        """Adds what was logged at a step. Later steps, of a training that went back, are dropped.

        Raises:
            ValueError: If the step is no whole number, or a value is no number.
        """
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise ValueError(f"step must be a whole number of optimizer steps, got {quoted(step)}")
        for name, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"the task's metric {quoted(name)} must be a number, got {quoted(value)}")
        if not metrics:
            return
        self._drop(step, metrics)
        for name, value in metrics.items():
            row = (int(step), float(samples_seen), float(tokens_seen), name, float(value))
            for column, cell in zip(self._columns.values(), row):
                column.append(cell)
        self._changed = True

    def write_soon(self, *, now: bool = False) -> None:
        """Writes, unless that would cost too much of the time: then a later call or snapshot does.

        Args:
            now: Write whatever it costs.
        """
        since = time.perf_counter() - self._last_write
        if now or self._seconds <= SHARE_OF_TIME * since:
            try:
                self.write()
            except OSError as error:  # the next snapshot says so, and tries again
                logger.debug("%s could not be written: %s", task.FILE, error)

    def write(self) -> None:
        """Writes what is new.

        Raises:
            OSError: If the disk refuses.
        """
        if self._changed:
            began = time.perf_counter()
            self._store.write_task(self._table())
            self._changed, self._last_write = False, time.perf_counter()
            self._seconds = self._last_write - began

    def _drop(self, step: int, metrics: Mapping[str, float]) -> None:
        """Drops what is of later steps, and what is logged once more."""
        steps, names = self._columns["step"], self._columns["metric"]
        if not steps or steps[-1] < step:
            return
        kept = [
            i for i, (at, name) in enumerate(zip(steps, names)) if at < step or (at == step and name not in metrics)
        ]
        for name, column in self._columns.items():
            self._columns[name] = [column[i] for i in kept]

    def _table(self) -> pa.Table:
        return pa.table(self._columns, schema=task.SCHEMA)
