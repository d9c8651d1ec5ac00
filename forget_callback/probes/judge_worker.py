"""The process that judges texts which may take for ever; `judge_process` starts it and asks.

It first loads what the rules need. Where it can fork, a copy of it then judges: the kernel ends the copy when a text
has used its processor time, even within one step of the interpreter, and the next copy goes on milliseconds later.
Elsewhere the process itself ends and is started anew.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from forget_callback.probes import lm_eval
from forget_callback.probes.answers import by_text
from forget_callback.probes.items import Generation

# In place of a text: what comes next is to be loaded.
LOAD = "load"
# A text that grows beyond this, over what is loaded, is over as well.
MEMORY = 2**30
HAS_TIMER = hasattr(signal, "setitimer")
# A busy machine, or a rule that waits, may take so many times its processor time by the clock.
WAITING = 10
# What the end of a copy means.
_FINISHED, _LOADS, _OVER, _LOST = range(4)
# Frameworks of macOS do not survive a fork.
_FORKS = hasattr(os, "fork") and sys.platform != "darwin"


def send(file: int, message: Any) -> None:
    """Writes a message: its length in four bytes, then JSON."""
    body = json.dumps(message).encode()
    rest = memoryview(len(body).to_bytes(4, "big") + body)
    while rest:
        rest = rest[os.write(file, rest) :]


def receive(file: int) -> Any:
    """The next message.

    Nothing is read ahead: what follows it is there for whoever reads next.

    Raises:
        EOFError: If there is no more.
    """
    return json.loads(_read(file, int.from_bytes(_read(file, 4), "big")))


def _read(file: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        if not (part := os.read(file, size - len(found))):
            raise EOFError
        found += part
    return bytes(found)


def serve(forks: bool = _FORKS) -> None:
    """Loads and judges what comes by standard input, until it ends."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)  # for rules that print or ask
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HAS_TIMER:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable()
    end = _LOADS
    while end == _LOADS:
        try:
            needs = receive(requests)
        except EOFError:
            return
        send(replies, {"problems": [_problem(need) for need in needs]})
        while (end := _end_of_copy(requests, replies) if forks else _judge(requests, replies)) == _OVER:
            send(replies, {"over": True})


def _end_of_copy(requests: int, replies: int) -> int:
    """Lets a copy judge, and says how that ended."""
    child = os.fork()
    if child == 0:
        end = _LOST
        try:
            end = _judge(requests, replies)
        finally:
            os._exit(end)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):  # by its own timer, or by a crash of what it ran; or by somebody else
        return _LOST if os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGTERM) else _OVER
    return os.WEXITSTATUS(status)


def _judge(requests: int, replies: int) -> int:
    """Judges one text after the other, until something else comes."""
    _limit_memory()
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return _FINISHED
        if request == LOAD:
            return _LOADS
        _set_timer(request["seconds"])
        try:
            reply = _reply(request)
        except (MemoryError, RecursionError):
            return _OVER
        finally:
            _set_timer(0)
        send(replies, reply)


def _reply(request: Any) -> dict[str, Any]:
    item = Generation(**request["item"])
    rule = lm_eval.by_task if item.task else by_text
    try:
        found = rule(item, request["text"], finished=request["finished"])
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # other people's code
        return {"problem": str(error) if item.task else f"item {item.id!r}: {type(error).__name__}: {error}"}
    return {"outcome": found.outcome, "prediction": found.prediction, "why": found.why}


def _problem(need: Any) -> str:
    """Loads what the rule of an item needs; what stands against it, "" if nothing."""
    item = Generation(**need["item"])
    try:
        if item.task:
            lm_eval.load_rule(item, need["include_path"])
        else:
            by_text(item, "$1$", finished=True)
    except Exception as error:  # other people's code
        return str(error) or type(error).__name__
    return ""


def _set_timer(seconds: float) -> None:
    """Ends this process after so many seconds of processor time, and if it waits after more; 0 takes that back."""
    if HAS_TIMER:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * WAITING)


def _limit_memory() -> None:
    """Refuses memory beyond `MEMORY` more than now, where the platform can."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = used + MEMORY if hard == resource.RLIM_INFINITY else min(used + MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    except (ImportError, OSError, ValueError):
        return
