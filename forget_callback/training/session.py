"""One training run with its probes, across all ranks: what `ForgetCallback` does once it knows when.

All ranks score, and all get the results: what fails on one fails on all, so that none waits for another. The monitor,
with the history, the disk and the trackers, is on rank 0 alone. What fails is kept apart: a probe costs no other probe,
and an evaluation no later one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from transformers import TrainerState, TrainingArguments

from forget_callback.probes.console import say
from forget_callback.probes.probe import Probe
from forget_callback.report.terminal import changes_table, show, snapshot_line
from forget_callback.runs.rows import Row
from forget_callback.runs.task import is_task_metric
from forget_callback.scoring.distributed import on_main, rank, together
from forget_callback.scoring.engine import Ask
from forget_callback.snapshots.snapshot import Snapshot, scoring_seconds
from forget_callback.training import start
from forget_callback.training.baseline import Baseline
from forget_callback.training.budget import Budget
from forget_callback.training.data_seen import DataSeen, Seen, seen_before
from forget_callback.training.description import described
from forget_callback.training.display import guarded
from forget_callback.training.follower import Follower
from forget_callback.training.probing import ProbeScorer
from forget_callback.training.record import Record, keep_references
from forget_callback.training.remarks import best_model
from forget_callback.training.resume import Notes, active_wandb_run, address_of, report_changes, setup_of
from forget_callback.training.setup import Settings
from forget_callback.training.train_rows import made
from forget_callback.training.unmeasured import alarm, reason

logger = logging.getLogger(__name__)


class Session:
    """One training run with its probes, from its baseline on.

    Args:
        trainer: Whose trackers get the metrics and whose vLLM generates, None if it could not be found.
        processing_class: The model's tokenizer, or a processor that holds one.
        before: What followed an earlier start of the same training that did not end: its baseline stays.
        trained: Whether the model was trained since training first started, without a baseline.

    Attributes:
        data: What the model was trained on.

    Raises:
        Exception: If there can be no baseline: then this run is not measured, and its record says so.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Any,
        args: TrainingArguments,
        state: TrainerState,
        model: Any,
        processing_class: Any,
        *,
        before: Follower | None = None,
        trained: bool = False,
    ) -> None:
        self.settings, self.trainer, self.record = settings, trainer, Record()
        self.data, self._counted = DataSeen(), Seen(-1)
        self._strict = settings.on_error == "raise"
        try:
            kept = Notes.of(state)
            self._training = described(trainer, args, state, model)
            self._claim(args, state, kept, before, trained)
            tokenizer = together(lambda: start.tokenizer_of(model, processing_class))
            self._setup = setup_of(args, tokenizer)
            on_main(lambda: report_changes({} if kept is None else kept.setup, self._setup))
            batch_tokens, probes = self._find_probes(args, state, tokenizer, kept or Notes())
            batch_tokens = settings.batch_tokens or batch_tokens
            vllm = getattr(trainer, "vllm_generation", None)
            how: dict[str, Any] = {"batch_tokens": batch_tokens, "vllm": vllm, "bars": not args.disable_tqdm}
            self._scorer = ProbeScorer(tokenizer, probes, settings.scorer, **how)
            self._budget = Budget(settings, args, state, kept.budget if kept is not None and before is None else {})
            self.data = DataSeen(self._seen_before(state, kept, before))
            self.data.watch(model)
            if self.record.last_step is not None:
                self._scorer.references.update(on_main(lambda: self.record.references(probes)))
            else:
                if settings.every is None and args.eval_strategy == "no" and rank() == 0:
                    logger.warning(
                        "no evaluation is scheduled, so only the first and the last step are scored; "
                        "pass every= to ForgetCallback, or eval_strategy= to the trainer"
                    )
                chosen = args.metric_for_best_model if args.load_best_model_at_end and rank() == 0 else None
                if said := best_model(chosen, settings.evaluation_names, greater=args.greater_is_better):
                    logger.warning("%s", said)
                with self._budget.baseline():
                    self._take_baseline(args, state, model, trained=trained)
            if kept is not None and before is None:
                self._score_part(kept.part)
        except BaseException as error:
            if isinstance(error, Exception):
                self.record.unmeasured.add(reason(error))
                self.record.write(status="unwatched")
            self.close()
            raise

    @property
    def lacks_prompts(self) -> bool:
        """Whether the last snapshot was not of all prompts that the items have."""
        return not all(row.confirmed and not row.skipped for row in self.record.last_rows)

    def evaluate(self, state: TrainerState, model: Any, *, always: bool = False, whole: bool = False) -> bool:
        """Takes a snapshot, unless the time budget forbids it; whether training should stop.

        Args:
            always: Whatever it costs.
            whole: Ask the further prompts too, unless variants are off; at the step of a last snapshot that
                `lacks_prompts`, this one takes its place.
        """
        with self._budget.spending():
            stop = self._evaluate(state, model, always=always, whole=whole)
        self.count(state)  # a checkpoint of this step keeps the part, and what it took
        return stop

    def missed(self, step: int, error: Exception) -> None:
        """Notes that the evaluation of a step failed, of all probes; says so once a step."""
        if self.record.unmeasured.add(reason(error), step=step):
            alarm(
                f"NOT MEASURED: the snapshot of step {step} could not be taken: {reason(error)}",
                "Training goes on, and the next evaluation tries again.",
            )
        self.record.write()

    def finish(self, state: TrainerState) -> None:
        """Writes the report, finalizes the trackers, and prints what changed and what was not measured; on rank 0."""
        monitor, unmeasured = self.record.monitor, self.record.unmeasured
        if monitor is None:
            return
        self.record.write(status="ended", steps=state.global_step)
        monitor.finish()
        rows = monitor.last_rows
        samples = rows[0].samples_seen
        self._budget.finish()
        title = f"From the baseline to step {rows[0].step:,}"
        title += "" if math.isnan(samples) else f", after {samples:,.0f} samples"
        show(changes_table(rows, title=title))
        if (page := monitor.store.path / "report.html").is_file():
            say(f"page: {page}")
        if unmeasured.lines:
            alarm("NOT MEASURED in this run:", *unmeasured.lines)

    def close(self) -> None:
        """Removes the forward hooks from the model, and lets other runs have the directory."""
        self.data.stop()
        self.record.close()

    def count(self, state: TrainerState) -> Seen:
        """Samples and tokens so far, also noted where every checkpoint keeps them; a collective once a step."""
        if self._counted.step != state.global_step:
            self._counted = self.data.totals(state.global_step)
        seen, wandb = self._counted, address_of(active_wandb_run())
        run = self.record.run_id
        how: dict[str, Any] = {"part": self._budget.part, "budget": self._budget.kept, "run_id": run, "step": seen.step}
        Notes(seen.samples, seen.tokens, wandb_run=wandb, setup=self._setup, **how).write(state)
        return seen

    def step_ended(self, state: TrainerState) -> None:
        """Times the first steps of training."""
        if rank() == 0:
            self._budget.step_ended(state)

    def log_task(self, state: TrainerState, logs: Mapping[str, Any], *, saving: bool) -> None:
        """Keeps what a trainer logged of the task itself, on rank 0; no collective, for one rank may log alone.

        Args:
            saving: Whether a checkpoint follows, which a resumed run would go on from.
        """
        if self.record.monitor is None:
            return
        with guarded("keeping the task's metrics"):
            best, seen, task = self._training.metric_for_best_model, self._counted, self.record.monitor.task
            known = seen.step == state.global_step
            own = {name: value for name, value in logs.items() if is_task_metric(name, best=best)}
            task.add(
                state.global_step,
                {name: float(value) for name, value in own.items() if isinstance(value, Real)},
                samples_seen=seen.samples if known else math.nan,
                tokens_seen=seen.tokens if known else math.nan,
            )
            task.write_soon(now=saving)

    def _evaluate(self, state: TrainerState, model: Any, *, always: bool, whole: bool) -> bool:
        self.count(state)
        if self._budget.limited and state.global_step != self.record.last_step:
            # Clocks differ between ranks, and all must take the same snapshots.
            part = on_main(lambda: self._budget.choose(self._scorer.probes, state, end=always))
            if part is None:
                return False
            self._score_part(part)
        step, variants = state.global_step, self.settings.variants
        further = variants in ("all", "changed") or (whole and variants != "off")
        ask = self.record.worth_asking if variants == "changed" and not always else None
        snapshots = self._score(step, model, variants=further, ask=ask)
        if variants == "ends" and not whole and on_main(lambda: self.record.main.would_act(step, snapshots)):
            snapshots = with_time_of(snapshots, self._score(step, model, variants=True))
        return self._observe(state, snapshots)

    def _score(self, step: int, model: Any, *, variants: bool, ask: Ask | None = None) -> list[Snapshot]:
        """A snapshot of each probe; of one that failed while another did not, without a number."""
        if self._strict:
            snapshots = self._scorer.score(model, variants=variants, ask=ask)
            self._budget.scored(self._scorer.probes, self._scorer.seconds, changed=ask is not None)
            return snapshots
        found, unmeasured = self._scorer.score_apart(model, variants=variants, ask=ask), self.record.unmeasured
        self._budget.scored(self._scorer.probes, self._scorer.seconds, changed=ask is not None)
        unmeasured.measured(step, found.snapshots)
        new = [name for name, why in found.failed.items() if unmeasured.add(why, probe=name, step=step)]
        if new:
            lines = [f"  probe {name!r}: {found.failed[name]}" for name in new]
            alarm(f"NOT MEASURED at step {step}, and tried again at the next evaluation:", *lines)
        blank = [self._scorer.unscored(name, why, variants=variants) for name, why in found.failed.items()]
        return [*found.snapshots, *blank]

    def _observe(self, state: TrainerState, snapshots: Sequence[Snapshot], again: Any = None) -> bool:
        """Passes snapshots to the monitor on rank 0; whether to stop."""
        seen = self.count(state)

        def observe() -> tuple[tuple[Row, ...], bool]:
            monitor, first = self.record.main, self.record.last_step is None
            counts = {"samples_seen": seen.samples, "tokens_seen": seen.tokens}
            found = monitor.observe(state.global_step, snapshots, **counts, again=again)
            say(snapshot_line(found.rows, found.seconds, first=first))
            self.record.write()
            if found.error is not None and self._strict:
                raise found.error
            return found.rows, found.stop

        rows, stop = on_main(observe)
        self.record.add(rows)
        return stop

    def _score_part(self, part: float) -> None:
        """Scores a fixed part of the items from here on."""
        only = self._budget.items(part, self._scorer.probes)
        if only is not None:
            self._scorer.keep_items(only)

    def _claim(
        self, args: TrainingArguments, state: TrainerState, kept: Notes | None, before: Follower | None, trained: bool
    ) -> None:
        """Takes the run's directory on rank 0; a training that starts again keeps its own, with the baseline."""
        if before is None:
            on_main(lambda: self.record.claim(self.settings, args, state, kept or Notes(), self._training))
            return
        on_main(lambda: self.record.claim_again(before.record, state, self._training))
        if trained and rank() == 0:
            logger.warning(
                "training starts again without having ended, with weights that its first start had trained: the "
                "baseline of that start stays, snapshots after it are set aside, and the samples stay counted; for a "
                "new run, make a new trainer with the model as it was"
            )

    def _find_probes(
        self, args: TrainingArguments, state: TrainerState, tokenizer: Any, notes: Notes
    ) -> tuple[int | None, Sequence[Probe]]:
        """The probes that this run can measure; opens the record of one that goes on, and gives its batch size."""
        probes, store, strict = self.settings.probes, self.record.store, self._strict
        given, unmade = on_main(lambda: made(probes, self.trainer, tokenizer, store, strict=strict))
        fit, failed = together(lambda: start.bound(given, tokenizer, strict=strict))
        found = self.record.remaining(self.settings, fit, failed | unmade)
        steps = on_main(lambda: self.record.steps(found))
        new = start.measured_before(found, steps)
        whole = [probe for probe in found if probe.name not in new]
        new |= on_main(lambda: self.record.without_start(whole))
        found = self.record.remaining(self.settings, [probe for probe in found if probe.name not in new], new)
        if not any(steps.values()):
            return None, found
        return self.record.open(self.settings, self.trainer, args, state, found, notes), found

    def _seen_before(self, state: TrainerState, kept: Notes | None, before: Follower | None) -> Seen:
        """What the model was trained on when this session starts."""
        step = state.global_step
        if before is not None:  # half-trained by its first start
            return before.data.whole_steps(step)
        # A checkpoint may lack notes: its run's last snapshot then is the least that was seen.
        known = [Seen(row.step, row.samples_seen, row.tokens_seen) for row in self.record.rows[-1:]]
        known += [] if kept is None else [Seen(kept.step, kept.samples_seen, kept.tokens_seen)]
        return seen_before(step, known, samples_per_step=self._setup["samples_per_step"])

    def _take_baseline(self, args: TrainingArguments, state: TrainerState, model: Any, *, trained: bool) -> None:
        """Scores the model as it is, and what it is compared against if that is another one."""
        low = bool(args.bf16 or args.fp16)  # the Trainer wraps the forward in autocast
        baseline = Baseline(self.settings, self._scorer, self.record, low_precision=low)
        other, stage = baseline.other_model(model, state.global_step, trained=trained)
        if rank() == 0:
            steps = state.max_steps - state.global_step
            self._budget.announce(self._scorer.probes, samples=steps * self._setup["samples_per_step"])
        now = baseline.score(model, keep=not other)
        self._budget.scored(self._scorer.probes, self._scorer.seconds, baseline=True)
        again = None if trained or state.global_step > 0 else baseline.score_again(model)
        probes = self._scorer.probes
        self.record.open(self.settings, self.trainer, args, state, probes, Notes())
        # Before the baseline: where that is on disk, this is too.
        on_main(lambda: keep_references(self.record.main.store, self._scorer.references.values()))
        if other:
            left = [one for one in other if one.probe in {probe.name for probe in probes}]
            on_main(lambda: self.record.main.compare_with(left, stage=stage))
        with self._budget.showing_baseline():
            self._observe(state, now, again)


def with_time_of(first: Sequence[Snapshot], whole: Sequence[Snapshot]) -> list[Snapshot]:
    """Snapshots of all prompts, whose time is also that of those of the first prompts before them."""
    times = [scoring_seconds(pair) for pair in zip(first, whole)]
    return [one.with_metadata(seconds=seconds) for one, seconds in zip(whole, times)]
