"""Where a run is recorded: in its directory, as its only writer, and with nothing of another run in it.

Comes before all that can fail. So what a directory holds is of the run that was started in it last, or of none: a gate
never judges the run before it.
"""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path

from transformers import TrainerState

from forget_callback.runs import aside
from forget_callback.runs.manifest import RunState
from forget_callback.runs.recorded import Recorded
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.training.attachment import is_training

logger = logging.getLogger(__name__)


def claim(
    directory: str | os.PathLike[str],
    state: TrainerState,
    run_id: str | None,
    training: Training = Training(),  # noqa: B008 - frozen
) -> Store:
    """The store of a run that starts or is resumed, with its lock; its manifest says that it is training.

    What another run left there is set aside. While that run is alive it keeps its place, and this one gets one beside
    it. A resumed run gets its own record, also where that was set aside since, or a new one where there is none.

    Args:
        run_id: Of a resumed run, what its checkpoint says, "" if that says nothing; None of a new run.
        training: What is trained.

    Raises:
        OSError: If what another run left there can neither be moved nor told apart.
    """
    run = RunState(status="training", planned_steps=int(state.max_steps))
    store, alone = _locked(directory, state, run_id, run)
    own, after, moved = False, -1, None
    try:
        own = alone and run_id is not None and _find_own(store, run_id)
        if own:
            after = state.global_step
            store.set_run(status=run.status, planned_steps=run.planned_steps, steps=None)
            store.write_training(training)
            store.drop_task(after=after)
            moved = store.set_aside(after=after)
            _say_what_lacks(store, after)
        else:
            moved = store.set_aside()
            store.start_run(run, training)
    except OSError:
        held = [path.name for path in (store.path / "snapshots").glob("*")]
        if any(step > after for name in held for step in store.steps(name)) or (store.exists and not own):
            raise  # two runs, or a run and its own past, would mix
        # Nothing can be written for now, which the monitor says.
    if moved is not None:
        logger.warning("%s held an earlier or longer run; its snapshots were moved to %s", store.path, moved)
    return store


def lock(store: Store, state: TrainerState) -> bool:
    """Takes a store for the training that has this state; False while another run that is alive has it."""
    of_state = weakref.ref(state)

    def alive() -> bool:
        training = of_state()
        return training is not None and is_training(training)

    return store.lock(owner=state, alive=alive)


def _locked(
    directory: str | os.PathLike[str], state: TrainerState, run_id: str | None, run: RunState
) -> tuple[Store, bool]:
    """A store, locked; and False where it is a new one because a run that is alive has the directory."""
    store = Store(directory)
    if run_id:
        own = Store(_beside(store, run_id))  # it had to give way when it was started
        if own.exists and lock(own, state):
            return own, True
    if lock(store, state):
        return store, True
    other = Store(_beside(store, run.id))
    logger.warning(
        "%s is being written by another run that has not ended, so this one is recorded beside it, in %s; give each "
        "run its own output_dir",
        store.path,
        other.path,
    )
    lock(other, state)
    return other, False


def _say_what_lacks(store: Store, step: int) -> None:
    """Warns where training went back and now goes on from a later checkpoint of before."""
    names = [path.name for path in (store.path / "snapshots").glob("*")]
    last = max((0, *store.steps(*names)))
    folders = (store.path / "set-aside").glob("*")
    before = {at for folder in folders for at in Recorded(folder).steps(*names) if last < at <= step}
    if before:
        logger.warning(
            "training resumes at step %d, and its last snapshot is of step %d: those of steps %s were set aside when "
            "it was resumed from an earlier checkpoint, and are missing; they are in %s",
            step,
            last,
            sorted(before),
            store.path / "set-aside",
        )


def _beside(store: Store, run_id: str) -> Path:
    return store.path.parent / f"run-{run_id[:8]}"


def _find_own(store: Store, run_id: str) -> bool:
    """Whether the store now holds the record of this run: it did, it was set aside, or only its manifest is damaged."""
    damage = None
    try:
        if store.exists and run_id in (store.run.id, ""):
            return True
    except ValueError as error:
        damage = error
    if run_id and store.take_back(run_id):
        logger.warning("%s is the record of the resumed run again; it had been set aside", store.path)
        return True
    if damage is None or not run_id or (store.path / "baseline").exists():  # which stage this is was in the manifest
        return False
    moved = aside.set_aside(store.path, ["manifest.json"])
    logger.warning(
        "%s; it was moved to %s and is written anew, the snapshots say themselves which run's", damage, moved
    )
    store.start_run(RunState(id=run_id))
    return True
