"""`manifest.json`: what a run probed, with what, what it trained, and how far it got.

Read strictly: a file that was cut or changed by hand is an error that names it, never a number that is wrong.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.training import Training

FORMAT = 1
_PACKAGES = ("forget-callback", "torch", "transformers", "trl", "peft", "accelerate", "wandb")

# Of a run of ForgetCallback; None where no training is followed: a monitor of one's own loop, snapshots of models.
Status: TypeAlias = Literal["training", "ended", "unwatched"]


@dataclass(frozen=True)
class RunState:
    """Which run a record is of, and how far that got: the part "run" of `manifest.json`.

    Attributes:
        id: A uuid4 in hex.
        status: "training" until the end was seen, "ended", or "unwatched" where nothing is measured any more.
        planned_steps: Optimizer steps that the training has in all.
        steps: The step that the model was trained to, once it has ended.
        not_measured: `{"probe": name, or "" for all, "step": int, or None for the whole run, "why": text}` each; with
            `"items"` only so many items of that probe.

    Raises:
        ValueError: If one is not of its type.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: Status | None = None
    planned_steps: int | None = None
    steps: int | None = None
    not_measured: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.isalnum():
            raise ValueError(f"'run.id' must be letters and digits, got {quoted(self.id)}")
        if self.status not in (None, *get_args(Status)):
            raise ValueError(f"'run.status' must be one of {', '.join(get_args(Status))}, or null, got {self.status!r}")
        for name in ("planned_steps", "steps"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"'run.{name}' must be a whole number or null, got {quoted(getattr(self, name))}")
        if not isinstance(self.not_measured, Sequence) or not all(map(_is_miss, self.not_measured)):
            raise ValueError(
                "'run.not_measured' must be a list of {'probe': text, 'step': number or null, 'why': text}, got "
                f"{quoted(self.not_measured)}"
            )

    def whys(self, *, step: int | None = None, texts: bool = True) -> list[str]:
        """Why probes were not measured, in the whole run or at a step: a sentence each. Dropped items are no such.

        Args:
            texts: Whether the reason is in it: an error that may quote a prompt or an answer.
        """
        at = "" if step is None else f" at step {step}"
        missed = [one for one in self.not_measured if one.get("step") == step and one.get("items") is None]
        who = [f"probe {one['probe']!r}" if one["probe"] else "the run" for one in missed]
        said = [f"{name} was not measured{at}" for name in who]
        return [f"{line}: {printable(one['why'])}" for line, one in zip(said, missed)] if texts else said


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_miss(one: Any) -> bool:
    return (
        isinstance(one, Mapping)
        and isinstance(one.get("probe"), str)
        and isinstance(one.get("why"), str)
        and _is_count(one.get("step"))
        and _is_count(one.get("items"))
    )


def new_manifest(run: RunState, training: Training = Training()) -> dict[str, Any]:  # noqa: B008 - frozen
    """The manifest of a run before its probes are known."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    parts = {"run": asdict(run), "training": asdict(training), "probes": {}}
    return {"format": FORMAT, "created": created, "versions": versions, **parts}


def read_manifest(path: Path) -> dict[str, Any]:
    """What is in a manifest, every part of its type.

    Raises:
        ValueError: If there is none, or it is damaged; says what is wrong in it.
    """
    if not path.is_file():
        raise ValueError(f"no run at {path.parent}: expected a directory that holds forget/manifest.json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _require_valid(manifest)
    except (ValueError, RecursionError) as error:  # also text that is no UTF-8, and no JSON
        raise ValueError(
            f"{path} is damaged: {printable(str(error))}; restore it from a copy, or start the run again: what is "
            "there is set aside then"
        ) from None
    found: dict[str, Any] = manifest
    return found


def run_of(manifest: Mapping[str, Any]) -> RunState:
    """The part "run" of a manifest.

    Raises:
        ValueError: If one of its values is not of its type, or missing.
    """
    part = manifest.get("run")
    names = {f.name for f in fields(RunState)}
    if not isinstance(part, dict) or part.keys() != names:
        raise ValueError(f"'run' must be an object of {', '.join(sorted(names))}, got {quoted(part)}")
    return RunState(**part)


def _require_valid(manifest: Any) -> None:
    """Raises a ValueError that names the first part that is missing or of another type."""
    if not isinstance(manifest, dict):
        raise ValueError(f"expected an object, got {quoted(manifest)}")
    if manifest.get("format") != FORMAT or isinstance(manifest["format"], bool):
        raise ValueError(f"'format' must be {FORMAT}, got {quoted(manifest.get('format'))}")
    probes = manifest.get("probes")
    if not isinstance(probes, dict):
        raise ValueError(f"'probes' must be an object, a probe each, got {quoted(probes)}")
    for name, entry in probes.items():
        if not isinstance(entry, dict):
            raise ValueError(f"'probes.{name}' must be an object, got {quoted(entry)}")
        for key, kind in (("fingerprint", str), ("items", int), ("settings", dict)):
            if not isinstance(entry.get(key), kind) or isinstance(entry[key], bool):
                raise ValueError(f"'probes.{name}.{key}' must be of type {kind.__name__}, got {quoted(entry.get(key))}")
    stage = manifest.get("stage")
    if stage is not None and not (isinstance(stage, dict) and _is_stage(**stage)):
        raise ValueError(f"'stage' must be an object of number and samples_before, got {quoted(stage)}")
    Training.of(manifest.get("training"))
    run_of(manifest)


def _is_stage(number: Any = 0, samples_before: Any = 0.0, **more: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (number, samples_before))
    return numbers and isinstance(number, int) and not more


def incomplete(run: RunState, steps: Mapping[str, Sequence[int]], *, texts: bool = True) -> list[str]:
    """In which ways a record is not that of a whole run, a sentence each; none if it is.

    Args:
        steps: Of each probe, the steps at which there is a snapshot, in order.
        texts: Whether errors may be quoted, and with them prompts and answers.
    """
    common = sorted(set.intersection(*map(set, steps.values()))) if steps else []
    last = common[-1] if common else None
    found = run.whys(texts=texts)
    if run.status == "unwatched":
        found = found or ["the run is not measured, or no longer"]
    elif run.status == "training":
        planned = "" if run.planned_steps is None else f" of {run.planned_steps} planned"
        so_far = "nothing was measured yet" if last is None else f"its last snapshot is of step {last}{planned}"
        found.append(f"training has not ended: {so_far}")
    elif last is None:
        found.append("nothing was measured" if not any(steps.values()) else "no step was measured in all of its probes")
    elif run.steps is not None and run.steps != last:
        found.append(f"the model was trained to step {run.steps} and last measured at step {last}")
        found += run.whys(step=run.steps, texts=texts)
    for place, which in ((0, "first"), (-1, "last")):
        ends = {name: own[place] for name, own in steps.items() if own}
        missing = [name for name, own in steps.items() if not own]
        if len(set(ends.values())) > 1 or (ends and missing):
            each = [f"{step} of {name!r}" for name, step in ends.items()] + [f"none of {name!r}" for name in missing]
            found.append(f"the {which} snapshots are of different steps: {', '.join(each)}")
    return found
