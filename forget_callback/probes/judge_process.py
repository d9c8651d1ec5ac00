"""A process that judges, with a deadline: started when first needed, kept, killed and replaced when it is over.

Knows how to start and to end the process, and nothing of what is judged there (`judge_worker.py`). Not by
multiprocessing: a fork takes the trainer's threads and devices along, anything else imports the user's script again.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forget_callback.probes.judge_worker import HAS_TIMER, LOAD, WAITING, receive, send

# To start Python and import what the rules need, which a network file system may take its time for.
START_SECONDS = 120.0
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from forget_callback.probes.judge_worker import serve; serve()"
# What would make the process believe that it is a rank, run the user's start-up code, or touch a device.
_NOT_INHERITED = (
    *("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_", "FORGET_CALLBACK", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONWARNINGS"),
)
_OF_ITS_OWN = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
_BY_TIMER = [-getattr(signal, name, 0) for name in ("SIGPROF", "SIGALRM")]


class ProcessLost(Exception):
    """The process could not be started, or has ended by itself."""


class JudgeProcess:
    """One such process, from its start to its end.

    Raises:
        ProcessLost: If it does not start.
    """

    def __init__(self) -> None:
        python = sys.executable
        if not python or getattr(sys, "frozen", False):
            raise ProcessLost(f"there is no Python to start (sys.executable is {python!r})")
        paths = [path or os.getcwd() for path in sys.path if isinstance(path, str)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
        own_group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
        try:
            self._process = subprocess.Popen(
                [python, "-c", _CODE, *paths, str(Path(__file__).parents[2])],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | _OF_ITS_OWN,
                start_new_session=True,  # Ctrl-C in a terminal is for the trainer
                creationflags=own_group,
            )
        except OSError as error:
            raise ProcessLost(f"{python!r} could not be started: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._owner = os.getpid()
        self._problems: dict[str, str] = {}
        self.alive = True

    def load(self, needs: Mapping[str, Any]) -> dict[str, str]:
        """Loads what rules need, by name, and says what stands against each, "" if nothing.

        Raises:
            ProcessLost: If there is no answer.
        """
        new = {name: need for name, need in needs.items() if name not in self._problems}
        if new:
            try:
                reply = self._exchange(*([LOAD] if self._problems else []), list(new.values()), seconds=START_SECONDS)
            except TimeoutError:
                raise ProcessLost(f"it was not ready after {START_SECONDS:g} seconds") from None
            if not isinstance(reply, dict) or "problems" not in reply:
                self.close()
                raise ProcessLost(f"{sys.executable!r} is no Python that can judge: it answered {str(reply)[:80]!r}")
            self._problems |= dict(zip(new, reply["problems"]))
        return self._problems

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The reply to a request; None if it takes longer than so many seconds of processor time.

        Where there is no timer of processor time the clock decides.

        Raises:
            ProcessLost: If the process ended otherwise.
        """
        try:
            limit = seconds * WAITING + 5 if HAS_TIMER else seconds  # its own timer comes first
            reply = self._exchange({**request, "seconds": seconds}, seconds=limit)
        except TimeoutError:
            return None
        return None if reply.get("over") else dict(reply)

    def close(self) -> None:
        """Ends the process, and whatever it started."""
        if not self.alive or self._owner != os.getpid():
            return
        self.alive = False
        self._kill()
        self._process.wait()
        self._to.close()
        self._from.close()

    def forget(self) -> None:
        """In a fork of the process that started it: gives up its ends of the pipes."""
        self.alive = False
        self._to.close()
        self._from.close()
        self._process.returncode = 0  # nothing to wait for here

    def _exchange(self, *messages: Any, seconds: float) -> Any:
        """Sends messages and returns the reply.

        Raises:
            TimeoutError: If it takes longer; the process is then ended.
            ProcessLost: If the process ends by itself.
        """
        overdue = threading.Event()

        def give_up() -> None:
            overdue.set()
            self._kill()

        timer = threading.Timer(seconds, give_up)  # portable, where select() is not: reading then ends
        timer.daemon = True
        timer.start()
        try:
            for message in messages:
                send(self._to.fileno(), message)
            reply = receive(self._from.fileno())
        except BaseException as error:
            _stop(timer)
            with contextlib.suppress(subprocess.TimeoutExpired):  # so that its status is its own
                self._process.wait(0.2 if isinstance(error, EOFError) else 0)
            self.close()  # after Ctrl-C as well: what comes next would be the reply to this
            status = self._process.returncode
            if not isinstance(error, (OSError, EOFError, ValueError)):
                raise
            if overdue.is_set() or status in _BY_TIMER:
                raise TimeoutError from error
            raise ProcessLost(f"{sys.executable!r} ended with status {status}") from error
        _stop(timer)
        if overdue.is_set():
            self.close()
        return reply

    def _kill(self) -> None:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()


def _stop(timer: threading.Timer) -> None:
    timer.cancel()
    timer.join()


_current: JudgeProcess | None = None
_in_use = threading.RLock()


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """One thread at a time."""
    with _in_use:
        yield


def current() -> JudgeProcess:
    """The living process of this one, for who has it `reserved`.

    Raises:
        ProcessLost: If it does not start.
    """
    global _current
    if _current is None or not _current.alive:
        _current = None
        _current = JudgeProcess()
    return _current


@atexit.register
def end() -> None:
    """Ends the process, if there is one; what is judged next starts another."""
    if _current is not None:
        _current.close()


def _forget() -> None:
    global _current, _in_use
    _in_use = threading.RLock()
    if _current is not None:
        _current.forget()
        _current = None


if hasattr(os, "register_at_fork"):  # a data loader's workers, which must not keep the pipes open
    os.register_at_fork(after_in_child=_forget)
