"""Starts a command whose Python processes add a `ForgetCallback` to the Trainers that they build.

Of the environment the command gets the arguments, a directory for reports, and our hook first on PYTHONPATH; all of it
is inherited by what the command starts itself. Knows nothing of torch: `hook/` and `attach` do the rest over there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forget_callback.probes.quoting import quoted
from forget_callback.tools.arguments import ENVIRONMENT, CallbackArguments
from forget_callback.tools.signals import run_command

HOOK = Path(__file__).with_name("hook")
REPORTS = "FORGET_CALLBACK_REPORTS"  # the directory where processes say what they attached, and what was watched
REQUIRE = "FORGET_CALLBACK_REQUIRE"  # whether a command that cannot be watched must end


@dataclass(frozen=True)
class Launched:
    """How a command ended, and what its processes attached and watched.

    Attributes:
        status: Its exit status, 128 + N where signal N ended it.
        attached: The trainers that got a callback, by class, in the order in which they were built.
        watched: The trainers whose training began with a callback that measures, by class.
        left_out: Those that have one of their own, or train no language model.
        failed: Why a trainer got none.
        unwatched: Why a training was not watched, though its trainer may have got one.
        python: Whether any Python process read the hook.
    """

    status: int
    attached: tuple[str, ...]
    watched: tuple[str, ...]
    left_out: tuple[str, ...]
    failed: tuple[str, ...]
    unwatched: tuple[str, ...]
    python: bool


def launch(command: Sequence[str], arguments: CallbackArguments, *, require: bool = False) -> Launched:
    """Runs a command to its end; signals to this process reach it.

    Args:
        command: Words, the program first.
        require: Whether a process that cannot attach the callback ends.

    Raises:
        ValueError: If there is no such program.
        OSError: If it cannot be started.
    """
    if os.path.isdir(command[0]) and os.sep in command[0]:
        raise ValueError(f"command {quoted(command[0])} is a directory, expected a program; nothing was started")
    if shutil.which(command[0]) is None:
        raise ValueError(f"command {quoted(command[0])}: no such program on PATH; nothing was started")
    with tempfile.TemporaryDirectory(prefix="forget-callback-", ignore_cleanup_errors=True) as directory:
        reports = Path(directory)
        environment = environment_of(arguments, os.environ, reports=reports, require=require)
        status = run_command(command, environment)
        outer = os.environ.get(REPORTS)  # of a `forget-callback run` that started this one
        if outer is not None:
            with contextlib.suppress(OSError):
                shutil.copytree(reports, outer, dirs_exist_ok=True)
        return _launched(status, reports)


def environment_of(
    arguments: CallbackArguments, environment: Mapping[str, str], *, reports: Path, require: bool
) -> dict[str, str]:
    """The environment of the command."""
    found = {name: value for name, value in environment.items() if name != REQUIRE}
    paths = [path for path in found.get("PYTHONPATH", "").split(os.pathsep) if path != str(HOOK)]
    if paths == [""]:
        paths = []
    own = {ENVIRONMENT: arguments.as_json(), REPORTS: str(reports), **({REQUIRE: "1"} if require else {})}
    return {**found, **own, "PYTHONPATH": os.pathsep.join([str(HOOK), *paths])}


def _launched(status: int, reports: Path) -> Launched:
    said = []
    for path in sorted(reports.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        with contextlib.suppress(ValueError):  # its process was killed while it wrote
            said.append(json.loads(path.read_text(encoding="utf-8")))
    kinds = ("attached", "watched", "left out", "failed", "unwatched")
    found = {kind: [one for one in said if one["found"] == kind] for kind in kinds}
    failed = [f"rank {one['rank']}, {one['trainer']}: {one['why']}" for one in found["failed"]]
    failed += [path.read_text(encoding="utf-8") for path in reports.glob("failed-*")]
    return Launched(
        status=status,
        attached=tuple(one["trainer"] for one in found["attached"]),
        watched=tuple(one["trainer"] for one in found["watched"]),
        left_out=tuple(f"{one['trainer']}: {one['why']}" for one in found["left out"]),
        failed=tuple(failed),
        unwatched=tuple(f"{one['trainer']}: {one['why']}" for one in found["unwatched"]),
        python=(reports / "python").exists(),
    )
