"""The W&B run of a watcher: that of the training which it watches where two processes can share one, else its own.

W&B's shared mode needs its server and was not run here. It is built by W&B's documentation, "Track all processes to a
single run" (docs.wandb.ai/models/track/log/distributed-training), and by the source of wandb 0.20 to 0.31.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forget_callback.probes.console import say
from forget_callback.probes.quoting import printable
from forget_callback.runs.remote import folder_of, read_training
from forget_callback.runs.rows import Row
from forget_callback.training.trackers import Tracker
from forget_callback.training.wandb_tracker import WandbTracker

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)


class WatcherTracker(WandbTracker):
    """A `WandbTracker` of a process that watches.

    Args:
        directory: The run's directory, or its `forget/` folder.
        shared: Whether the run is the training's own.
    """

    def __init__(self, run: wandb.Run, directory: str | os.PathLike[str], *, shared: bool) -> None:
        super().__init__(run)
        self._folder, self._shared = folder_of(directory), shared
        self._mark = self._folder / f".wandb-{run.id}"
        # A row that was logged twice would stand in the curves of a shared run twice.
        self.has_curves = shared and self._mark.exists()

    def log(self, row: Mapping[str, float]) -> None:
        """Adds one row to the run's history."""
        super().log(row)
        if self._shared and not self._mark.exists():
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.touch()

    def alert(self, title: str, text: str) -> None:
        """Sends a W&B alert, unless the training that this run is of is there to send it."""
        try:
            training = read_training(self._folder) if self._shared else None
        except (OSError, ValueError):
            training = None
        if training is None or training.status != "training":
            super().alert(title, text)

    def finish(self, rows: Sequence[Row], files: Mapping[str, Path]) -> None:
        """Writes the summary and the Artifact, and ends what this process has of the run."""
        super().finish(rows, files)
        self.run.finish()


def open_for_watcher(address: Mapping[str, str], *, directory: str | os.PathLike[str]) -> WatcherTracker:
    """Opens the W&B run in which a watcher logs.

    A training that runs in shared mode (WANDB_MODE=shared in its environment) shares its run. Otherwise the watcher has
    a run of its own, of the same project and grouped with it. Offline, each start of a watcher is a directory of its
    own, and gets the curves so far: the last one holds the whole curve.

    Args:
        address: `entity`, `project`, `id` and `mode` of the training's W&B run, see `RemoteTraining.wandb`; empty where
            it has none.
        directory: The run's directory; that of W&B's files, unless WANDB_DIR says otherwise.

    Raises:
        Exception: If W&B can open no run, not even offline.
    """
    import wandb

    own = address.get("id", "")
    mode = os.environ.get("WANDB_MODE") or address.get("mode") or None
    place: dict[str, Any] = {
        "entity": address.get("entity") or None,
        "project": address.get("project") or None,
        "dir": os.environ.get("WANDB_DIR") or os.fspath(directory),
        "reinit": "create_new",  # whatever run is active in this process
    }
    if own and mode == address.get("mode") == "shared":
        try:
            settings = wandb.Settings(
                mode="shared",
                x_primary=False,  # the training keeps the run's files and metadata
                x_label="forget-callback watch",
                x_update_finish_state=False,  # and says when it has ended
                console="off",
            )
            return WatcherTracker(wandb.init(**place, id=own, settings=settings), directory, shared=True)
        except Exception as error:
            mode = _offline_after(error)
    elif own and mode not in ("offline", "disabled"):
        logger.warning(
            "W&B run %s is not in shared mode, so the curves go to a run of their own, in the same project and group; "
            "to have them in that run, start the training with WANDB_MODE=shared",
            own,
        )
    place |= {
        "id": uuid.uuid4().hex[:8],  # WANDB_RUN_ID may be the training's
        "resume": "allow",
        "group": own or None,
        "name": f"forgetting of {own or Path(directory).resolve().name}",
        "job_type": "forget-callback watch",
    }
    place["mode"] = "online" if mode == "shared" else mode
    try:
        run = wandb.init(**place, settings=wandb.Settings(console="off"))
    except Exception as error:
        run = wandb.init(**{**place, "mode": _offline_after(error)}, settings=wandb.Settings(console="off"))
    if run.settings.mode in ("offline", "dryrun"):
        files = printable(str(Path(run.dir).parent))
        say(f"W&B is offline: the whole curve is in {files}; `wandb sync` that directory, and no earlier one")
    return WatcherTracker(run, directory, shared=False)


def lacks_curves(tracker: Tracker) -> bool:
    """Whether a tracker should get the curves so far, where a watcher goes on with a record."""
    return not (isinstance(tracker, WatcherTracker) and tracker.has_curves)


def _offline_after(error: Exception) -> Literal["offline"]:
    """Where the curves go without a server or a permission: they are worth more than their place."""
    logger.warning("W&B cannot be reached, so the curves are kept offline: %s", printable(str(error)))
    return "offline"
