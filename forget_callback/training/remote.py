"""Follows a training whose forgetting another process measures: says how far it is, and obeys what that one decides.

Loads no probe, scores nothing and leaves the run's record alone: the watcher owns that. What is left is two small files
(`runs/remote.py`), which rank 0 reads and writes, and the count of samples and tokens that every checkpoint keeps.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from transformers import TrainerControl, TrainerState, TrainingArguments

from forget_callback.probes.console import say
from forget_callback.probes.quoting import printable
from forget_callback.probes.specs import absolute
from forget_callback.runs.remote import (
    DECISION,
    TRAINING,
    Decision,
    RemoteTraining,
    folder_of,
    read_decision,
    read_training,
    write_training,
)
from forget_callback.runs.store import Store
from forget_callback.scoring.distributed import on_main, rank
from forget_callback.training import schedule
from forget_callback.training.data_seen import DataSeen, Seen, seen_before
from forget_callback.training.description import described
from forget_callback.training.display import Display
from forget_callback.training.follower import Follower
from forget_callback.training.record import Record
from forget_callback.training.resume import Notes, active_wandb_run, address_of, report_changes, setup_of
from forget_callback.training.setup import Settings, errors, trackers_of
from forget_callback.training.unmeasured import reason

logger = logging.getLogger(__name__)

# Seconds between two writes of how far the training is, where no checkpoint was saved in between.
_PAUSE = 10.0


class Listener:
    """Follows one training for a watcher.

    Args:
        before: What followed an earlier start of the same training that did not end: its samples stay counted. To the
            watcher it is a run of its own.
        trained: Of no account here: the watcher reads the model before training from where it lies.
    """

    failed: ClassVar[str] = "it could not be told to a watcher"
    lacking: ClassVar[str] = "no decision of a watcher {} obeyed in this run"

    def __init__(
        self,
        settings: Settings,
        trainer: Any,
        args: TrainingArguments,
        state: TrainerState,
        model: Any,
        processing_class: Any,
        *,
        before: Follower | None,
        trained: bool,
    ) -> None:
        self.record = Record()  # empty: it is the watcher's
        self._settings = settings
        self._folder = folder_of(settings.output_dir or args.output_dir or ".")
        self._said: set[str] = set()
        self._strict = settings.on_error != "warn"  # while it starts
        self._written: float | None = None
        self._stopped = False
        self._counted = Seen(-1)
        kept = Notes.of(state)
        self._setup = setup_of(args, getattr(processing_class, "tokenizer", processing_class))
        self.data = DataSeen(self._seen_before(state, kept, before))
        self.data.watch(model)
        self._display = Display((), trackers_of(settings, trainer), log=settings.log, upload=settings.upload)
        self._told = RemoteTraining(
            run=(kept.run_id if kept is not None else "") or on_main(lambda: uuid.uuid4().hex),
            step=state.global_step,
            max_steps=int(state.max_steps),
            first_step=state.global_step,
            probes=[absolute(spec) for spec in settings.specs],
            stop=settings.stop,
            log=settings.log,
            upload=settings.upload,
            training=described(trainer, args, state, model),
        )

        def begin() -> None:
            report_changes({} if kept is None else kept.setup, self._setup)
            if args.save_strategy == "no" and settings.every is None:
                logger.warning(
                    "remote=True, and no checkpoint will be saved that a watcher could score: save_strategy='no'; set "
                    "save_strategy='steps' and save_steps=, or pass every= to ForgetCallback, which then has them saved"
                )
            self._make_room()
            self._recall(state.global_step)
            self._tell(now=True)
            run = printable(str(self._folder.parent))
            say(f"remote: forgetting in this run is measured by `forget-callback watch {run}`")

        with errors(settings.on_error, lambda error: self._once("begin", reason(error)), starting=True):
            on_main(begin)
        self._strict = settings.on_error == "raise"
        self._count(state)

    def step_ended(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Asks for a checkpoint if `every` is due; where the Trainer logs, saves or evaluates, reads the decision."""
        self.data.end_step()
        last = state.global_step >= state.max_steps
        every = self._settings.every
        if every is not None and (last or schedule.is_due(every, state.global_step)):
            control.should_save = True
        if last or control.should_save or control.should_log or control.should_evaluate:
            self._listen(state, control)

    def epoch_ended(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Reads the decision, before the checkpoint that may follow."""
        self._listen(state, control)

    def logged(self, state: TrainerState, control: TrainerControl, logs: Mapping[str, Any]) -> None:
        """Does nothing: a checkpoint holds what the Trainer logged."""

    def evaluated(
        self, state: TrainerState, control: TrainerControl, model: Any, metrics: dict[str, float] | None, wanted: str
    ) -> None:
        """Counts samples and tokens: a new best model is saved next."""
        self._count(state)

    def train_ended(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Tells the watcher that this run has ended; does not wait for what it makes of the last checkpoint."""
        status = "stopped" if self._stopped else "ended"
        with errors(self._settings.on_error, lambda error: self._once("end", reason(error))):
            on_main(lambda: self._tell(now=True, status=status, step=state.global_step))

    def stop(self) -> None:
        """Removes the forward hooks from the model."""
        self.data.stop()

    def close(self) -> None:
        """The same: there is no directory to give back."""
        self.stop()

    def _listen(self, state: TrainerState, control: TrainerControl) -> None:
        """Obeys a new decision, on all ranks alike; a collective."""
        self._count(state)
        with errors(self._settings.on_error, lambda error: self._once("listening", reason(error))):
            stop, save = on_main(lambda: self._obey(state.global_step, saving=control.should_save))
            control.should_training_stop |= stop
            control.should_save |= save
            self._stopped |= stop

    def _obey(self, step: int, *, saving: bool) -> tuple[bool, bool]:
        """On rank 0, whether a new decision stops training, and whether it wants a checkpoint; passes its alerts on."""
        decision, before = self._decision(), self._told.obeyed
        if decision is None or decision.step > step:  # of what training went back over
            self._tell(step=step, now=saving)
            return False, False
        same = before is not None and before.step == decision.step
        stop = decision.action == "stop" and not (same and before is not None and before.action == "stop")
        save = decision.checkpoint and not (same and before is not None and before.checkpoint)
        alerts = [text for text in dict.fromkeys(decision.alerts) if text not in self._told.said]
        new = stop or save or bool(alerts)
        if new:  # before it is acted on: what is written is not obeyed again, whatever ends the run meanwhile
            said = (*self._told.said, *alerts)
            self._tell(step=step, now=True, obeyed=decision, said=said)
        else:
            self._tell(step=step, now=saving)
        if stop:
            self._alert("Forgetting: stopping", decision.reason or f"so the watcher decided at step {decision.step}")
        for text in alerts:
            if not (stop and text == decision.reason):
                self._alert("Forgetting: warning", text)
        return stop, stop or save

    def _decision(self) -> Decision | None:
        """On rank 0, the decision for this run; None where there is none."""
        try:
            decision = read_decision(self._folder)
        except (OSError, ValueError) as error:
            self._failed("damaged", f"no decision of the watcher is obeyed: {reason(error)}", error)
            return None
        self._said.discard("damaged")
        if decision is not None and decision.run != self._told.run:
            self._once(
                "foreign",
                f"{self._folder / DECISION} is for {'no run' if decision.run is None else 'another run'} and is not "
                f"obeyed in this one, {self._told.run}",
            )
            return None
        return decision

    def _make_room(self) -> None:
        """On rank 0, sets aside what an earlier training recorded here itself; what a watcher did is the watcher's."""
        store = Store(self._folder)
        try:
            if not store.exists or store.watched or store.run.id == self._told.run or not store.lock():
                return
        except ValueError:  # which record it is cannot be read: that is the watcher's to say
            return
        moved = store.set_aside()
        store.close()
        logger.warning("%s held an earlier run; its snapshots were moved to %s", self._folder, moved)

    def _recall(self, step: int) -> None:
        """On rank 0, takes from an earlier start of this run what was obeyed and said up to a step."""
        try:
            told = read_training(self._folder)
        except (OSError, ValueError) as error:
            logger.warning("%s; it is written anew", reason(error))
            return
        if told is not None and told.run == self._told.run:
            obeyed = told.obeyed if told.obeyed is not None and told.obeyed.step <= step else None
            self._told = replace(self._told, obeyed=obeyed, said=told.said)

    def _tell(self, *, now: bool = False, **changes: Any) -> None:
        """On rank 0, writes how far the training is.

        Args:
            now: Also where that was written a moment ago.
            **changes: Attributes of `RemoteTraining`.
        """
        self._told = replace(self._told, **changes, wandb=_wandb())
        begun = self._written is not None
        if begun and ((not now and time.monotonic() < (self._written or 0.0) + _PAUSE) or self._is_replaced()):
            return
        try:
            write_training(self._folder, self._told)
        except OSError as error:
            what = f"{self._folder / TRAINING} cannot be written, so a watcher does not know of this run"
            self._failed("unwritable", f"{what}: {reason(error)}", error)
        else:
            self._said.discard("unwritable")
        self._written = time.monotonic()

    def _is_replaced(self) -> bool:
        """Whether another training has begun in the same directory since."""
        try:
            told = read_training(self._folder)
        except (OSError, ValueError):
            return False
        if told is None or told.run == self._told.run:
            return False
        self._once(
            "replaced",
            f"another training, {told.run}, has begun in {self._folder.parent}, so this one is no longer watched; give "
            "each its own output_dir",
        )
        return True

    def _failed(self, what: str, text: str, error: Exception) -> None:
        if self._strict:
            raise error
        self._once(what, text)

    def _once(self, what: str, text: str) -> None:
        """Logs a warning on the main rank, once until it is over."""
        if what not in self._said and rank() == 0:
            logger.warning("%s", text)
        self._said.add(what)

    def _alert(self, title: str, text: str) -> None:
        logger.warning("%s: %s", title, printable(text))
        self._display.alert(title, printable(text))

    def _count(self, state: TrainerState) -> None:
        """Notes samples and tokens so far where every checkpoint keeps them; a collective once a step."""
        if self._counted.step != state.global_step:
            self._counted = self.data.totals(state.global_step)
        seen, run, wandb = self._counted, self._told.run, address_of(active_wandb_run())
        Notes(seen.samples, seen.tokens, 1.0, wandb, self._setup, run_id=run, step=seen.step).write(state)

    def _seen_before(self, state: TrainerState, kept: Notes | None, before: Follower | None) -> Seen:
        """What the model was trained on when this training starts."""
        if before is not None:
            return before.data.whole_steps(state.global_step)
        known: Iterable[Seen] = () if kept is None else [Seen(kept.step, kept.samples_seen, kept.tokens_seen)]
        return seen_before(state.global_step, known, samples_per_step=self._setup["samples_per_step"])


def _wandb() -> dict[str, str]:
    """Where the active W&B run is found, and its mode; empty without one."""
    run = active_wandb_run()
    return {} if run is None else {**address_of(run), "mode": str(run.settings.mode)}
