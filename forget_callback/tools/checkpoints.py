"""Checkpoints of one run, scored when it is over: the history that the callback would have recorded.

Knows where a checkpoint keeps its step and what it was trained on; how things are scored, compared and kept is the
Scorer's and the monitor's, as in a run. All processes call this, and the main one keeps the monitor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from transformers import TrainerState

from forget_callback.probes.probe import Probe
from forget_callback.runs.store import Store
from forget_callback.scoring.distributed import on_main, rank, together
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood.tokens import bind
from forget_callback.scoring.loading import load_model, load_tokenizer
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.training.monitor import ForgetMonitor, Observation
from forget_callback.training.resume import Notes
from forget_callback.training.setup import can_differ

_STATE = "trainer_state.json"
_NUMBERED = re.compile(r"(?:checkpoint|step)[-_]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """A model at one step of its training.

    Attributes:
        model: Directory or hub id; a PEFT adapter's directory names its base model.
        step: None if neither its trainer's state nor its name says.
        samples_seen: As the callback counted them. NaN where it did not: steps and batch sizes do not tell under
            packing or on several processes.
        tokens_seen: Likewise.
    """

    model: str
    step: int | None
    samples_seen: float = math.nan
    tokens_seen: float = math.nan

    @classmethod
    def of(cls, model: str) -> Checkpoint:
        """What a directory or hub id is a checkpoint of."""
        file = Path(model) / _STATE
        if file.is_file():
            state = TrainerState.load_from_json(str(file))
            notes = Notes.of(state)
            seen = (math.nan, math.nan) if notes is None else (notes.samples_seen, notes.tokens_seen)
            return cls(model, state.global_step, *seen)
        numbered = _NUMBERED.fullmatch(Path(model).name)
        return cls(model, int(numbered[1]) if numbered else None)


def find_checkpoints(models: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints that MODEL arguments name, by step; a run's directory without a model stands for all in it.

    Raises:
        ValueError: If there are several and the step of one is not known, or two are of one step.
    """
    found = [Checkpoint.of(path) for model in models for path in _expanded(model)]
    if len(found) == 1:
        return found
    for checkpoint in found:
        if checkpoint.step is None:
            raise ValueError(
                f"the step of {checkpoint.model} is not known: it has no {_STATE} and is not named checkpoint-N; of "
                "several models each must be a checkpoint of one run, and the one before training is --baseline"
            )
    found.sort(key=lambda checkpoint: checkpoint.step or 0)
    for one, other in pairwise(found):
        if one.step == other.step:
            raise ValueError(f"{one.model} and {other.model} are both of step {one.step}; name one of them")
    return found


def _expanded(model: str) -> list[str]:
    path = Path(model)
    is_model = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    inside = [] if is_model else sorted(str(found) for found in path.glob("checkpoint-*") if found.is_dir())
    return inside or [model]


class CheckpointScorer:
    """Scores one model after the other on the same probes, in the same batches, on all processes together.

    `tokenizer` is the directory or hub id of that of all models; `batch_tokens` as in `score_probe`.
    """

    def __init__(self, probes: Sequence[Probe], tokenizer: str, *, batch_tokens: int | None = None) -> None:
        loaded = together(lambda: load_tokenizer(tokenizer))
        self.probes = together(lambda: [bind(probe, loaded) for probe in probes])
        self._scorer = Scorer(loaded, self.probes, batch_tokens=batch_tokens, shared=True)

    def use_batches_of(self, batch_tokens: int | None) -> None:
        """Uses the batch size of an earlier run of the command, or of the run itself, unless one is set."""
        self._scorer.batch_tokens = self._scorer.batch_tokens or batch_tokens

    def score(self, model: str, *, again: bool = False) -> tuple[list[Snapshot], list[Snapshot]]:
        """A snapshot of each probe at step 0; with `again`, where answers can differ, a second one of other samples."""
        network = together(lambda: load_model(model))
        taken = self._scorer.score(network, progress=rank() == 0)
        other: list[Snapshot] = []
        if again and can_differ(network, self.probes):
            own = self._scorer
            scorer = Scorer(
                own.tokenizer, self.probes, batch_tokens=own.batch_tokens, replicate=1, shared=True, pace=own.pace
            )
            other = scorer.score(network, variants=False, progress=rank() == 0)
        return [snapshot.with_metadata(model=model) for snapshot in taken], other


def score_history(
    scorer: CheckpointScorer,
    checkpoints: Sequence[Checkpoint],
    store: Store,
    *,
    baseline: str | None = None,
    seen: Callable[[Observation, bool], object] = lambda observation, first: None,
    note: Callable[[str], object] = lambda text: None,
) -> None:
    """Scores the checkpoints of a run in order, and writes its history and page.

    Steps that the store has are not scored again, so an interrupted command resumes where it was.

    Args:
        baseline: The model before training, which is step 0; else the first step that there is is compared against.
        seen: Called with each observation, and whether it is what all is compared with, on the main process.
        note: Called with what there is to say, on the main process.

    Raises:
        ValueError: If a checkpoint that is not scored yet comes before the last snapshot of the store, or the store
            has snapshots of probes that are not scored now.
    """
    monitor: ForgetMonitor | None = None

    def open_store() -> tuple[list[int], int | None]:
        nonlocal monitor
        _require_all_probes(store, scorer.probes)
        model = None if store.exists else {"model": baseline or checkpoints[0].model}
        monitor = ForgetMonitor(scorer.probes, store, training=model)
        steps = sorted({row.step for row in monitor.rows})
        last = store.read(scorer.probes[0].name, steps[-1]).metadata if steps else {}
        return steps, last.get("batch_tokens")

    def observe(checkpoint: Checkpoint, taken: list[Snapshot], again: list[Snapshot]) -> None:
        assert monitor is not None
        first = monitor.last_step is None
        observation = monitor.observe(
            checkpoint.step or 0,
            taken,
            samples_seen=checkpoint.samples_seen,
            tokens_seen=checkpoint.tokens_seen,
            again=again or None,
        )
        seen(observation, first)
        if observation.error is not None:
            raise observation.error

    done, batch_tokens = on_main(open_store)
    scorer.use_batches_of(batch_tokens)
    wanted = [*([Checkpoint(baseline, 0, 0.0, 0.0)] if baseline else []), *checkpoints]
    left = [checkpoint for checkpoint in wanted if checkpoint.step not in done]
    if rank() == 0:
        for remark in _remarks(len(wanted), left, not done and baseline is None):
            note(remark)
    for checkpoint in left:
        if done and (checkpoint.step or 0) < done[-1]:
            raise ValueError(
                f"{checkpoint.model} is of step {checkpoint.step}, and {store.path} has later ones, {done}: a history "
                "grows by later steps alone; use another --out"
            )
    for checkpoint in left:
        taken, again = scorer.score(checkpoint.model, again=not done and checkpoint is left[0])
        on_main(partial(observe, checkpoint, taken, again))
    on_main(lambda: None if monitor is None else monitor.finish())


def _require_all_probes(store: Store, probes: Sequence[Probe]) -> None:
    """The history of a store is that of all its probes: with some of them it would be written without the others."""
    held = {probe.name for probe in store.probes()} if store.exists else set()
    others = [name for name in sorted(held - {probe.name for probe in probes}) if store.steps(name)]
    if others:
        raise ValueError(f"{store.path} has snapshots of {others} too; score all its probes, or use another --out")


def _remarks(n_wanted: int, left: Sequence[Checkpoint], from_first: bool) -> Iterator[str]:
    """What there is to say before scoring; `from_first`: all is compared with the first checkpoint."""
    if len(left) < n_wanted:
        yield f"{n_wanted - len(left)} of {n_wanted} are scored already"
    if from_first:
        step = left[0].step
        yield f"no --baseline: everything is compared with step {step}, and what was forgotten before it is not seen"
    if left and all(math.isnan(checkpoint.samples_seen) for checkpoint in left if checkpoint.step):
        yield "the checkpoints were saved without ForgetCallback: how many samples they were trained on is not known"
