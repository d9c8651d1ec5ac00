"""A command run to its end, to which the signals that come to this process are passed on, each once.

A signal to the whole process group (Ctrl-C in a terminal, `timeout`, a scheduler, ``kill -- -PGID``) has reached the
command by itself; passed on it would come twice, and a training that saves at the first one is ended by the second. No
signal says whom else it was sent to. A process of our group that does nothing does: what the group gets ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

TOGETHER = 0.5  # seconds within which all processes of a group have got a signal, also on a machine that is busy


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a command in this process group; its exit status, as a shell has it.

    Raises:
        OSError: If it cannot be started.
    """
    if sys.platform == "win32":  # without these signals, and a console sends Ctrl-C to all
        return subprocess.run(command, env=dict(environment)).returncode
    passed_on = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    heard = [number for number in passed_on if signal.getsignal(number) != signal.SIG_IGN]  # as `nohup` has SIGHUP
    with (
        _arrivals(*heard, signal.SIGCHLD) as arrivals,
        subprocess.Popen(command, env=dict(environment)) as process,
        contextlib.closing(_Group()) as group,  # later than the command: better a signal twice than never
    ):
        while process.poll() is None:
            number = os.read(arrivals, 1)[0]
            if number != signal.SIGCHLD and not group.got(number):
                process.send_signal(number)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


@contextlib.contextmanager
def _arrivals(*numbers: int) -> Iterator[int]:
    """A file descriptor from which the signals can be read that come, a byte each, in their order."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, lambda number, frame: None) for number in numbers}
    outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(outer)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        os.close(reader)
        os.close(writer)


class _Group:
    """Which signals the process group of this process gets."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._start()

    def _start(self) -> None:
        waits = "ulimit -c 0; exec cat"  # to the end of its input, which comes with ours; no core file after Ctrl-\
        self._process = subprocess.Popen(["sh", "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def got(self, number: int) -> bool:
        """Whether a signal that has just come was for all of the group.

        careful: `timeout` sends one to this process and one to the group. They count as one, as they mostly do for a
        process that gets both.
        """
        if time.monotonic() - self._last.get(number, -TOGETHER) < TOGETHER:
            return True
        try:
            ended_by = -self._process.wait(TOGETHER)
        except subprocess.TimeoutExpired:
            return False
        self._last[ended_by] = time.monotonic()
        self.close()
        self._start()
        return ended_by == number

    def close(self) -> None:
        """Ends the process that waits."""
        with self._process:  # closes its input, and waits
            pass
