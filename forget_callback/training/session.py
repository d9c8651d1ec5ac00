"""One training run with its probes, across all ranks: what `ForgetCallback` does once it knows when.

All ranks score, and all get the results: what fails on one fails on all, so that none waits for another. The monitor,
with the history, the disk and the trackers, is on rank 0 alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rich.console import Console
from tqdm.auto import tqdm
from transformers import TrainerState, TrainingArguments

from forget_callback.probes.probe import Probe
from forget_callback.report.terminal import changes_table, snapshot_line
from forget_callback.runs.history import Row
from forget_callback.runs.store import open_run
from forget_callback.scoring.distributed import on_main, rank, together
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood.tokens import bind
from forget_callback.snapshots.snapshot import Snapshot, scoring_seconds
from forget_callback.training.data_seen import DataSeen
from forget_callback.training.monitor import ForgetMonitor
from forget_callback.training.resume import Notes, active_wandb_run, address_of, report_changes, setup_of
from forget_callback.training.schedule import MIN_SNAPSHOTS, affordable, allowance, part_of
from forget_callback.training.setup import Settings, can_differ, log_again, open_monitor, open_store

logger = logging.getLogger(__name__)

# Steps after which the time of a step is known; the first ones take longer.
_STEPS_TO_KNOW = 5


class Record:
    """What a rank knows of a run: rank 0 its monitor, the others copies of the monitor's rows.

    Attributes:
        monitor: None on all ranks but 0, and before training starts.
    """

    def __init__(self) -> None:
        self.monitor: ForgetMonitor | None = None
        self._copies: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        """The history so far, oldest first; the same on all ranks."""
        return self._copies if self.monitor is None else self.monitor.rows

    @property
    def last_step(self) -> int | None:
        """Step of the last snapshot, None before the first."""
        rows = self.rows
        return rows[-1].step if rows else None

    @property
    def last_rows(self) -> list[Row]:
        """The rows of the last snapshot."""
        if self.monitor is not None:
            return self.monitor.last_rows
        step = self.last_step
        return list(takewhile(lambda row: row.step == step, reversed(self._copies)))[::-1]

    def add(self, rows: Sequence[Row]) -> None:
        """Takes the rows of one more step, or of the last one with more prompts; a monitor has them already."""
        if self.monitor is None:
            while self._copies and self._copies[-1].step == rows[0].step:
                self._copies.pop()
            self._copies += rows


class Session:
    """One training run with its probes, from its baseline on.

    Args:
        trainer: Whose trackers get the metrics and whose vLLM generates, None if it could not be found.
        processing_class: The model's tokenizer, or a processor that holds one.

    Raises:
        Exception: If there can be no baseline: then nothing is left behind, and this run is not measured.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Any,
        args: TrainingArguments,
        state: TrainerState,
        model: Any,
        processing_class: Any,
    ) -> None:
        self.settings, self.trainer = settings, trainer
        self._first_step = state.global_step
        tokenizer = together(lambda: _tokenizer_of(model, processing_class))
        probes = together(lambda: [bind(probe, tokenizer) for probe in settings.probes])
        self._setup = setup_of(args, tokenizer)
        notes = _resumed_notes(state, self._setup)
        self._part, self._skipped = 1.0, False
        self._low_precision = bool(args.bf16 or args.fp16)  # the Trainer wraps the forward in autocast
        prompts = sum(1 + len(item.variants) for probe in probes for item in probe.items)
        # A snapshot of all prompts costs this many of the first ones, where there are both.
        self._whole_cost = prompts / sum(map(len, probes)) if settings.variants == "ends" else 1.0
        self.record, batch_tokens = self._open(args, state, probes, notes)
        self._scorer = self._make_scorer(tokenizer, probes, batch_tokens=settings.batch_tokens or batch_tokens)
        # A checkpoint may lack notes: its run's last snapshot then is the least that was seen.
        samples = max([notes.samples_seen, *(row.samples_seen for row in self.record.rows[-1:])])
        tokens = max([notes.tokens_seen, *(row.tokens_seen for row in self.record.rows[-1:])])
        self._data = DataSeen(samples, tokens)
        self._counted: tuple[int, tuple[float, float]] | None = None
        self._data.watch(model)
        try:
            if self.record.last_step is None:
                self._take_baseline(state, model)
            monitor = self.record.monitor
            # Seconds of probing before the first step.
            self._baseline_seconds = 0.0 if monitor is None else monitor.probe_seconds[0]
            self._score_part(notes.part)
        except BaseException:
            self.close()
            raise

    @property
    def lacks_prompts(self) -> bool:
        """Whether the last snapshot was of the first prompts alone, where the items have others."""
        return not all(row.confirmed for row in self.record.last_rows)

    def evaluate(self, state: TrainerState, model: Any, *, always: bool = False, whole: bool = False) -> bool:
        """Takes a snapshot, unless the time budget forbids it; whether training should stop.

        Args:
            always: Whatever it costs.
            whole: Ask the further prompts too, unless variants are off; at the step of a last snapshot that
                `lacks_prompts`, this one takes its place.
        """
        samples, tokens = self.count(state)
        if self.settings.max_overhead is not None:
            # Clocks differ between ranks, and all must take the same snapshots.
            part, too_dear = on_main(lambda: self._afforded(state))
            self._score_part(part)
            self.count(state)  # a checkpoint of this step keeps the part
            if too_dear and not always:
                logger.log(
                    logging.INFO if self._skipped else logging.WARNING,
                    "no snapshot at step %d: it would exceed max_overhead=%g (more of these are logged at level INFO)",
                    state.global_step,
                    self.settings.max_overhead,
                )
                self._skipped = True
                return False
        step, variants = state.global_step, self.settings.variants
        snapshots = self._score(self._scorer, model, variants=variants == "all" or (whole and variants != "off"))
        if variants == "ends" and not whole and on_main(lambda: self._monitor.would_act(step, snapshots)):
            snapshots = _with_time_of(snapshots, self._score(self._scorer, model, variants=True))
        return self._observe(step, snapshots, samples=samples, tokens=tokens)

    def finish(self) -> None:
        """Writes the report, finalizes the trackers, and prints what changed from the baseline to the last snapshot."""
        monitor = self.record.monitor
        if monitor is None:
            return
        monitor.finish()
        monitor.store.set_run(status="ended", steps=monitor.last_step)
        rows = monitor.last_rows
        title = f"From the baseline to step {rows[0].step:,}, after {rows[0].samples_seen:,.0f} samples"
        Console(stderr=True).print(changes_table(rows, title=title))

    def close(self) -> None:
        """Removes the forward hook from the model, and lets other runs have the directory."""
        self._data.stop()
        if self.record.monitor is not None:
            self.record.monitor.store.close()

    def count(self, state: TrainerState) -> tuple[float, float]:
        """Samples and tokens so far, also noted where every checkpoint keeps them; a collective once a step."""
        step = state.global_step
        if self._counted is None or self._counted[0] != step:
            self._counted = step, self._data.totals()
        samples, tokens = self._counted[1]
        run_id = "" if self.record.monitor is None else self._monitor.store.run_id
        Notes(samples, tokens, self._part, address_of(active_wandb_run()), self._setup, run_id).write(state)
        return samples, tokens

    def _observe(
        self,
        step: int,
        snapshots: Sequence[Snapshot],
        *,
        samples: float,
        tokens: float,
        again: Sequence[Snapshot] | None = None,
    ) -> bool:
        """Passes snapshots to the monitor on rank 0; whether to stop."""

        def observe() -> tuple[tuple[Row, ...], bool]:
            monitor, first = self._monitor, self.record.last_step is None
            seen = monitor.observe(step, snapshots, samples_seen=samples, tokens_seen=tokens, again=again)
            tqdm.write(snapshot_line(seen.rows, seen.seconds, first=first), file=sys.stderr)
            if seen.error is not None and self.settings.on_error == "raise":
                raise seen.error
            return seen.rows, seen.stop

        rows, stop = on_main(observe)
        self.record.add(rows)
        return stop

    @property
    def _monitor(self) -> ForgetMonitor:
        """The monitor, for what runs on rank 0 only."""
        assert self.record.monitor is not None
        return self.record.monitor

    def _score(self, scorer: Scorer, model: Any, *, variants: bool) -> list[Snapshot]:
        return scorer.score(model, variants=variants, progress=rank() == 0)

    def _make_scorer(self, tokenizer: Any, probes: Sequence[Probe], *, batch_tokens: int | None, **more: Any) -> Scorer:
        vllm = getattr(self.trainer, "vllm_generation", None)
        return Scorer(
            tokenizer, probes, batch_tokens=batch_tokens, shared=True, vllm=vllm, scorer=self.settings.scorer, **more
        )

    def _make_other_scorer(self, **more: Any) -> Scorer:
        """A second Scorer with the same, possibly OOM-reduced, batch size."""
        scorer = self._scorer
        return self._make_scorer(scorer.tokenizer, scorer.probes, batch_tokens=scorer.batch_tokens, **more)

    def _afforded(self, state: TrainerState) -> tuple[float, bool]:
        """The share of the items to score from here on, and whether even that is too expensive now."""
        monitor, limit = self._monitor, self.settings.max_overhead
        assert limit is not None
        spent, last = monitor.probe_seconds
        # Where most evaluations ask the first prompts alone, the last one still asks all.
        if monitor.confirmed:
            last /= self._whole_cost
        reserved = last * self._whole_cost if self.settings.variants == "ends" else 0.0
        progress = (state.global_step - self._first_step) / (state.max_steps - self._first_step)
        allowed = allowance(limit, trained=monitor.elapsed - spent, progress=progress) - reserved
        part = self._part
        if part == 1 and state.global_step - self._first_step >= _STEPS_TO_KNOW:
            part = affordable(allowed - spent, last)
        cost = last * part / self._part
        # What is left after the baseline is spent evenly.
        return part, spent - self._baseline_seconds + cost > progress * (allowed - self._baseline_seconds)

    def _score_part(self, part: float) -> None:
        """Scores a fixed part of the items from here on."""
        probes = self._scorer.probes
        only = {probe.name: part_of(probe, part) for probe in probes}
        if part == self._part or all(len(only[probe.name]) == len(probe) for probe in probes):
            return
        self._scorer = self._make_other_scorer(only=only)
        self._part = part
        logger.warning(
            "scoring all items %d more times would take more than max_overhead=%g of this run; from here on the same "
            "random part of them is scored, by category: %s",
            MIN_SNAPSHOTS,
            self.settings.max_overhead,
            ", ".join(f"{len(only[probe.name])} of {len(probe)} of {probe.name!r}" for probe in probes),
        )

    def _open(
        self, args: TrainingArguments, state: TrainerState, probes: Sequence[Probe], notes: Notes
    ) -> tuple[Record, int | None]:
        """The record of this run, and the batch size of its last snapshot, None where it has none."""
        record = Record()

        def on_disk() -> tuple[list[Row], int | None]:
            store = open_store(self.settings, args, state, notes)
            record.monitor = monitor = open_monitor(self.settings, self.trainer, args, state, probes, store)
            if monitor.last_step is None:
                return [], None
            log_again(monitor, notes)
            last = monitor.store.read(probes[0].name, monitor.last_step)
            return monitor.rows, last.metadata.get("batch_tokens")

        rows, batch_tokens = on_main(on_disk)
        record.add(rows)
        return record, batch_tokens

    def _take_baseline(self, state: TrainerState, model: Any) -> None:
        """Scores the model as it is, and what it is compared against if that is another one."""
        resumed, baseline = state.global_step > 0, self.settings.baseline
        if baseline == "base":
            if not hasattr(model, "disable_adapter"):
                raise ValueError("baseline='base' needs a PEFT model, whose adapters can be switched off")
            with model.disable_adapter():
                base = self._score(self._scorer, model, variants=self.settings.variants != "off")
            on_main(lambda: self._monitor.compare_with(base))
        elif baseline != "start":
            on_main(self._compare_with_run)
        elif resumed:
            raise ValueError(
                f"training resumed at step {state.global_step}, but there is no baseline of its start; resume in the "
                "run's own output_dir, or pass baseline=RUN, or baseline='base' for adapters"
            )
        now, again = self._score(self._scorer, model, variants=self.settings.variants != "off"), None
        if not resumed and self._rescores(model):
            again = self._score_again(model)
        samples, tokens = self.count(state)
        self._observe(state.global_step, now, samples=samples, tokens=tokens, again=again)

    def _compare_with_run(self) -> None:
        run = open_run(self.settings.baseline)
        names = [probe.name for probe in self.settings.probes]
        self._monitor.compare_with([run.baseline(name) for name in names], stage=run.next_stage(names[0]))

    def _score_again(self, model: Any) -> list[Snapshot] | None:
        """The same model once more, in other batches and with other samples."""
        try:
            return self._score(self._make_other_scorer(replicate=1), model, variants=False)
        except Exception as error:  # the baseline itself is safe
            logger.warning("the baseline could not be scored a second time: %s: %s", type(error).__name__, error)
            return None

    def _rescores(self, model: Any) -> bool:
        """Whether the baseline is scored a second time: unless told, where something can differ and time is free."""
        if self.settings.rescore is not None:
            return self.settings.rescore
        differs = self._low_precision or can_differ(model, self._scorer.probes)
        return differs and self.settings.max_overhead is None


def _with_time_of(first: Sequence[Snapshot], whole: Sequence[Snapshot]) -> list[Snapshot]:
    """Snapshots of all prompts, whose time is also that of those of the first prompts before them."""
    times = [scoring_seconds(pair) for pair in zip(first, whole)]
    return [one.with_metadata(seconds=seconds) for one, seconds in zip(whole, times)]


def _resumed_notes(state: TrainerState, setup: Mapping[str, Any]) -> Notes:
    """What the checkpoint keeps that training resumes from; warns about what it lacks and what changed since."""
    kept = Notes.of(state)
    if state.global_step > 0 and kept is None:
        logger.warning(
            "the checkpoint was saved without ForgetCallback: the samples before step %d are not counted",
            state.global_step,
        )
    notes = kept or Notes()
    if rank() == 0:
        report_changes(notes.setup, setup)
    return notes


def _tokenizer_of(model: Any, processing_class: Any) -> Any:
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if model is None or tokenizer is None:
        raise ValueError(
            f"the trainer gave no {'model' if model is None else 'tokenizer'}; pass processing_class= to it"
        )
    return tokenizer
