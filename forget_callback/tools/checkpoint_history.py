"""The history that a run's checkpoints give: what the callback would have recorded, of a run that is over or under way.

How things are scored, compared and kept is the Scorer's and the monitor's, as in a run. All processes call this, and
the main one keeps the monitor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from forget_callback.probes.probe import Probe
from forget_callback.runs.run_at import RunAt
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.store import Store
from forget_callback.scoring.distributed import on_main, rank, together
from forget_callback.scoring.engine import Ask, Scorer
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.loading import load_model, load_tokenizer
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.tools.checkpoints import Checkpoint, baseline_of
from forget_callback.training.monitor import ForgetMonitor, Observation
from forget_callback.training.record import keep_references
from forget_callback.training.session import with_time_of
from forget_callback.training.setup import can_differ
from forget_callback.training.trackers import Log, Tracker, Upload

Confirm = Callable[[Sequence[Snapshot]], bool]


class ModelScorer(Protocol):
    """Scores one model after the other on the same probes."""

    @property
    def probes(self) -> Sequence[Probe]:
        """As they are scored, with their chat templates."""

    @property
    def references(self) -> dict[str, Reference]:
        """By probe, what the baseline expected in documents; to be filled where that is known."""

    def use_batches_of(self, batch_tokens: int | None) -> None:
        """Uses the batch size of an earlier run of the command, or of the run itself, unless one is set."""

    def score(
        self,
        checkpoint: Checkpoint,
        *,
        again: bool = False,
        variants: bool = True,
        ask: Ask | None = None,
        confirm: Confirm | None = None,
        keep: bool = False,
    ) -> tuple[list[Snapshot], list[Snapshot]]:
        """A snapshot of each probe at step 0; with `again`, of each that can differ, a second one of other samples.

        Args:
            checkpoint: Any model.
            again: Whether to score it once more.
            variants: Whether to ask the further prompts as well.
            ask: Which items to ask them, all by default; called on each process.
            confirm: Where they are not asked: whether these snapshots of the first prompts call for it.
            keep: Whether later models are compared with this one on documents.
        """


class CheckpointScorer:
    """A `ModelScorer` that loads them here, and scores each in the same batches on all processes together.

    `tokenizer` is the directory or hub id of that of all models; `batch_tokens` as in `score_probe`; `device` one of
    torch's, by default the accelerator if there is one.
    """

    def __init__(
        self, probes: Sequence[Probe], tokenizer: str, *, batch_tokens: int | None = None, device: str | None = None
    ) -> None:
        loaded = together(lambda: load_tokenizer(tokenizer))
        self.probes: Sequence[Probe] = together(lambda: [bind(probe, loaded) for probe in probes])
        self._scorer = Scorer(loaded, self.probes, batch_tokens=batch_tokens, shared=True)
        self._device = device

    @property
    def references(self) -> dict[str, Reference]:
        """See `ModelScorer`."""
        return self._scorer.references

    def use_batches_of(self, batch_tokens: int | None) -> None:
        """Uses the batch size of an earlier run of the command, or of the run itself, unless one is set."""
        self._scorer.batch_tokens = self._scorer.batch_tokens or batch_tokens

    def score(
        self,
        checkpoint: Checkpoint,
        *,
        again: bool = False,
        variants: bool = True,
        ask: Ask | None = None,
        confirm: Confirm | None = None,
        keep: bool = False,
    ) -> tuple[list[Snapshot], list[Snapshot]]:
        """See `ModelScorer`."""
        network = together(lambda: load_model(checkpoint.model, device=self._device, dtype=checkpoint.dtype))
        taken = self._scorer.score(network, variants=variants, progress=rank() == 0, keep=keep, ask=ask)
        if not variants and confirm is not None and on_main(lambda: confirm(taken)):
            taken = with_time_of(taken, self._scorer.score(network, progress=rank() == 0))
        other: list[Snapshot] = []
        if again and (names := can_differ(network, self.probes)):
            other = self._scorer.again(names).score(network, variants=False, progress=rank() == 0)
        return [snapshot.with_metadata(model=checkpoint.model) for snapshot in taken], other


class CheckpointHistory:
    """A history that grows by one checkpoint after the other. All processes call each method together.

    Args:
        scorer: Scores them.
        store: Where it is kept; a record that is there goes on.
        training: What is trained, where that is not recorded yet, see `ForgetMonitor`.
        stop: Rules that are evaluated at each.
        trackers: Where the numbers go, made once the record is read.
        log: See `ForgetMonitor`.
        upload: See `ForgetMonitor`.

    Attributes:
        monitor: Of the record, on the main process.
        steps: That are recorded.

    Raises:
        ValueError: If the record is of other probes, or another process writes there.
    """

    def __init__(
        self,
        scorer: ModelScorer,
        store: Store,
        *,
        training: Mapping[str, Any] | None = None,
        stop: Sequence[StopRule] = (),
        trackers: Callable[[], Sequence[Tracker]] = tuple,
        log: Log = "main",
        upload: Upload = "metrics",
    ) -> None:
        self._scorer, self._store = scorer, store
        self.monitor: ForgetMonitor | None = None

        def open_store() -> tuple[list[int], int | None, dict[str, Reference]]:
            require_same_probes(store, scorer.probes)
            self.monitor = monitor = ForgetMonitor(
                scorer.probes, store, trackers(), stop, log=log, upload=upload, training=training
            )
            steps = sorted({row.step for row in monitor.rows})
            last = store.read(scorer.probes[0].name, steps[-1]).metadata if steps else {}
            known = RunAt(store, None).references(scorer.probes) if steps else {}
            return steps, last.get("batch_tokens"), known

        self.steps, batch_tokens, references = on_main(open_store)
        scorer.references.clear()  # of a training before
        scorer.references.update(references)
        scorer.use_batches_of(batch_tokens)

    @property
    def main(self) -> ForgetMonitor:
        """The monitor, for what runs on the main process only."""
        assert self.monitor is not None
        return self.monitor

    def add(
        self,
        checkpoint: Checkpoint,
        *,
        variants: bool = True,
        changed: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Observation | None:
        """Scores a checkpoint and adds it; what was observed, on the main process.

        Args:
            checkpoint: Of a later step than the last; the first is what all is compared with.
            variants: Whether to ask the further prompts also where no rule calls for it.
            changed: Whether to ask them only of items whose answer to the first one changed, where theirs can count.
            metadata: Kept with its snapshots.

        Raises:
            Exception: If it cannot be loaded or scored.
        """
        step, first = checkpoint.step or 0, not self.steps
        taken, again = self._scorer.score(
            checkpoint,
            again=first,
            variants=variants,
            ask=self._worth_asking if changed else None,
            confirm=lambda snapshots: self.main.would_act(step, snapshots),
            keep=first,
        )
        taken = [one.with_metadata(**(metadata or {})) for one in taken]
        seen: list[Observation] = []

        def observe() -> None:
            if first:
                keep_references(self._store, self._scorer.references.values())
            counts = {"samples_seen": checkpoint.samples_seen, "tokens_seen": checkpoint.tokens_seen}
            seen.append(self.main.observe(step, taken, **counts, again=again or None))

        on_main(observe)
        self.steps = sorted({*self.steps, step})
        return seen[0] if seen else None

    def _worth_asking(self, snapshots: Sequence[Snapshot]) -> Mapping[str, Collection[str]]:
        return on_main(lambda: self.main.worth_asking(snapshots))

    def finish(self) -> None:
        """Writes the page, and finalizes the trackers."""
        on_main(lambda: None if self.monitor is None else self.monitor.finish())


def score_history(
    scorer: ModelScorer,
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
    new = on_main(lambda: not store.exists)
    training = {"model": baseline or checkpoints[0].model} if new else None
    history = CheckpointHistory(scorer, store, training=training)
    done = list(history.steps)
    wanted = [*([baseline_of(baseline, checkpoints[0])] if baseline else []), *checkpoints]
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
        first = not history.steps
        observation = history.add(checkpoint)
        on_main(lambda observation=observation, first=first: _show(observation, first, seen))  # type: ignore[misc]
    history.finish()


def _show(observation: Observation | None, first: bool, seen: Callable[[Observation, bool], object]) -> None:
    assert observation is not None
    seen(observation, first)
    if observation.error is not None:
        raise observation.error


def require_same_probes(store: Store, probes: Sequence[Probe]) -> None:
    """The history of a store is that of all its probes: with some of them it would be written without the others."""
    if not store.exists:
        return
    held, own = store.manifest()["probes"], {probe.name for probe in probes}
    measured = {name for name in held if store.steps(name)}
    if others := sorted(measured - own):
        raise ValueError(f"{store.path} has snapshots of {others} too; score all its probes, or use another --out")
    if new := sorted(own - held.keys()) if measured else []:
        raise ValueError(f"{store.path} has no snapshots of {new} from its start on; use another --out for them")


def _remarks(n_wanted: int, left: Sequence[Checkpoint], from_first: bool) -> Iterator[str]:
    """What there is to say before scoring; `from_first`: all is compared with the first checkpoint."""
    if len(left) < n_wanted:
        yield f"{n_wanted - len(left)} of {n_wanted} are scored already"
    if from_first:
        step = left[0].step
        yield f"no --baseline: everything is compared with step {step}, and what was forgotten before it is not seen"
    if left and all(math.isnan(checkpoint.samples_seen) for checkpoint in left if checkpoint.step):
        yield "the checkpoints were saved without ForgetCallback: how many samples they were trained on is not known"
