"""What a training and the process that watches it from outside tell each other: two small files beside the record.

    training.json   by the training, `ForgetCallback(remote=True)`: which run it is, how far it got, what to probe
    decision.json   by the watcher: whether that run goes on

They lie in the run's `forget/` folder, on a disk that both reach, each written whole by one side alone. A decision is
for one run: what an earlier one left there says nothing of the next. Knows neither a trainer nor a watcher.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.files import write_text
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.training import Training

FORMAT_VERSION = 1
TRAINING, DECISION = "training.json", "decision.json"

Action = Literal["continue", "stop"]
RemoteStatus = Literal["training", "ended", "stopped"]


@dataclass(frozen=True)
class Decision:
    """What a watcher wants of a training, `decision.json`.

    Attributes:
        run: The id of the run that it is for, from `training.json`; None where there was none, which is for people's
            own loops and is not obeyed by the callback.
        step: Of the snapshot that it was made by.
        action: Whether training goes on or stops, with a last checkpoint.
        checkpoint: Whether the training should save one now; asked for once a step.
        alerts: What people should hear, each text once.
        reason: Why, in a sentence.

    Raises:
        ValueError: If one is not of its type.
    """

    run: str | None
    step: int
    action: Action = "continue"
    checkpoint: bool = False
    alerts: Sequence[str] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        _require(self.run is None or _is_id(self.run), "run", "letters and digits, or null", self.run)
        _require(_is_count(self.step), "step", "a whole number of 0 or more", self.step)
        _require(self.action in get_args(Action), "action", "'continue' or 'stop'", self.action)
        _require(isinstance(self.checkpoint, bool), "checkpoint", "true or false", self.checkpoint)
        _require(_is_texts(self.alerts), "alerts", "a list of texts", self.alerts)
        _require(isinstance(self.reason, str), "reason", "a text", self.reason)
        object.__setattr__(self, "alerts", tuple(self.alerts))


@dataclass(frozen=True)
class RemoteTraining:
    """What a training that is watched from outside says of itself, `training.json`.

    Attributes:
        run: Its id, kept when it is resumed.
        status: "training"; "stopped" where it ended because of a decision, "ended" where it ended otherwise. One that
            was killed stays "training", and `updated` stays behind.
        step: Optimizer steps so far, as of the last step at which the trainer logged, saved or evaluated.
        max_steps: Optimizer steps planned.
        first_step: At which this start of it began: 0, or the checkpoint's that it was resumed from. Checkpoints of
            later steps that lay there then are of what it went back over.
        probes: Specs that the callback was given for the watcher, with absolute paths; none of objects and tables.
        stop: Stop rules that it was given for the watcher.
        log: Which metrics trackers get, see `ForgetCallback`.
        upload: What leaves the machine, see `ForgetCallback`.
        wandb: `entity`, `project`, `id` and `mode` of its W&B run ("shared", "online", "offline"); empty without one.
        training: What it trains; `training.model` is the model that it started from, if that can be loaded by name.
        obeyed: The last decision that it followed, None before the first.
        said: The alerts that were passed on so far.
        updated: When this was written, ISO 8601 in UTC.

    Raises:
        ValueError: If one is not of its type.
    """

    run: str
    status: RemoteStatus = "training"
    step: int = 0
    max_steps: int = 0
    first_step: int = 0
    probes: Sequence[str] = ()
    stop: Sequence[StopRule] = ()
    log: str = "main"
    upload: str = "metrics"
    wandb: Mapping[str, str] = field(default_factory=dict)
    training: Training = Training()  # noqa: RUF009 - frozen
    obeyed: Decision | None = None
    said: Sequence[str] = ()
    updated: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        _require(_is_id(self.run), "run", "letters and digits", self.run)
        _require(self.status in get_args(RemoteStatus), "status", "'training', 'ended' or 'stopped'", self.status)
        for name in ("step", "max_steps", "first_step"):
            _require(_is_count(getattr(self, name)), name, "a whole number of 0 or more", getattr(self, name))
        for name in ("probes", "said"):
            _require(_is_texts(getattr(self, name)), name, "a list of texts", getattr(self, name))
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("log", "upload", "updated"):
            _require(isinstance(getattr(self, name), str), name, "a text", getattr(self, name))
        pairs = [text for pair in self.wandb.items() for text in pair] if isinstance(self.wandb, Mapping) else [None]
        _require(_is_texts(pairs), "wandb", "an object of texts", self.wandb)
        object.__setattr__(self, "stop", tuple(self.stop))


def write_decision(directory: str | os.PathLike[str], decision: Decision) -> None:
    """Writes `decision.json` of a run, whole.

    Args:
        directory: The run's directory, or its `forget/` folder.

    Raises:
        OSError: If the disk refuses.
    """
    _write(folder_of(directory) / DECISION, asdict(decision))


def read_decision(directory: str | os.PathLike[str]) -> Decision | None:
    """`decision.json` of a run, None where there is none.

    Raises:
        ValueError: If it is damaged; says what is wrong in it.
        OSError: If it cannot be read.
    """
    part = _read(folder_of(directory) / DECISION, Decision)
    return None if part is None else _made(folder_of(directory) / DECISION, lambda: Decision(**part))


def write_training(directory: str | os.PathLike[str], training: RemoteTraining) -> None:
    """Writes `training.json` of a run, whole.

    Raises:
        OSError: If the disk refuses.
    """
    _write(folder_of(directory) / TRAINING, asdict(training))


def read_training(directory: str | os.PathLike[str]) -> RemoteTraining | None:
    """`training.json` of a run, None where there is none: then no training there obeys decisions.

    Raises:
        ValueError: If it is damaged; says what is wrong in it.
        OSError: If it cannot be read.
    """
    part = _read(folder_of(directory) / TRAINING, RemoteTraining)
    return None if part is None else _made(folder_of(directory) / TRAINING, lambda: _training_of(part))


def folder_of(directory: str | os.PathLike[str]) -> Path:
    """The `forget/` folder of a run's directory, which may be that folder itself."""
    path = Path(directory)
    return path if path.name == "forget" else path / "forget"


def _training_of(part: Mapping[str, Any]) -> RemoteTraining:
    known = dict(part)
    rules = known.pop("stop", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError(f"'stop' must be a list of rules, an object each, got {quoted(rules)}")
    obeyed = known.pop("obeyed", None)
    if not isinstance(obeyed, dict | None):
        raise ValueError(f"'obeyed' must be a decision or null, got {quoted(obeyed)}")
    return RemoteTraining(
        **{name: value for name, value in known.items() if name != "training"},
        stop=[StopRule(**rule) for rule in rules],
        training=Training.of(known.get("training")),
        obeyed=None if obeyed is None else Decision(**obeyed),
    )


def _write(path: Path, part: Mapping[str, Any]) -> None:
    write_text(path, json.dumps({"format_version": FORMAT_VERSION, **part}, indent=2) + "\n")


def _read(path: Path, kind: type[Any]) -> dict[str, Any] | None:
    """The object in a file but for its version, None without a file.

    Raises:
        ValueError: If it is none, of another version, or has keys that it should not.
    """

    def read() -> dict[str, Any]:
        part = json.loads(text)
        if not isinstance(part, dict):
            raise ValueError(f"expected an object, got {quoted(part)}")
        version = part.pop("format_version", None)
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ValueError(f"'format_version' must be {FORMAT_VERSION}, got {quoted(version)}")
        names = [f.name for f in fields(kind)]
        if unknown := [name for name in part if name not in names]:
            raise ValueError(f"expected an object of {', '.join(names)}, got {quoted(unknown[0])} too")
        return part

    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    found: dict[str, Any] = _made(path, read)
    return found


def _made(path: Path, make: Any) -> Any:
    """What `make` makes of a file.

    Raises:
        ValueError: If it cannot; names the file.
    """
    try:
        return make()
    except (ValueError, TypeError, RecursionError) as error:  # a field is missing, of another type, or it is no JSON
        raise ValueError(f"{path} is damaged: {printable(str(error))}") from None


def _require(fine: bool, name: str, expected: str, value: object) -> None:
    if not fine:
        raise ValueError(f"'{name}' must be {expected}, got {quoted(value)}")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and value.isalnum()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
