"""Starts a command whose Python processes add a `ForgetCallback` to the Trainers that they build.

Of the environment the command gets the arguments, a directory for reports, and our hook first on PYTHONPATH; all of it
is inherited by what the command starts itself. Knows nothing of torch: `hook/` and `attach` do the rest over there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from forget_callback.probes.quoting import quoted
from forget_callback.tools.arguments import ENVIRONMENT, CallbackArguments

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
    if shutil.which(command[0]) is None:
        raise ValueError(f"command {quoted(command[0])}: no such program on PATH; nothing was started")
    with tempfile.TemporaryDirectory(prefix="forget-callback-", ignore_cleanup_errors=True) as directory:
        reports = Path(directory)
        environment = environment_of(arguments, os.environ, reports=reports, require=require)
        status = _run(command, environment)
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


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status of a command, as a shell has it."""
    passing = _PassedOn()
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, passing) for number in heard}
    try:
        process = subprocess.Popen(command, env=dict(environment))
        passing.to(process)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
    return status if status >= 0 else 128 - status


class _PassedOn:
    """A handler that passes signals on to a process, also those that come before there is one.

    careful: Ctrl-C goes to all processes of the terminal's foreground, the command among them; passed on it would come
    twice, and a training that saves at the first one is ended by the second.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._process is None:
            self._early.append(number)
        elif number != signal.SIGINT or not _in_foreground():
            self._process.send_signal(number)

    def to(self, process: subprocess.Popen[bytes]) -> None:
        """Passes on to this process what came and what comes."""
        self._process = process
        for number in self._early:
            process.send_signal(number)


def _in_foreground() -> bool:
    """Whether this process belongs to the foreground of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


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
