"""The two processes that try the code of an answer: `code.py` runs this file as a script, on the standard library.

The first holds the tests and never runs the answer, the second runs the answer and never sees the tests. A call of the
tests goes over a pipe (`code_pipe.py`) and plain values come back, compared where the answer cannot reach: to exit, to
print, to change a built-in function or to return what equals everything passes no test. Both give up what they do not
need (`code_limits.py`).
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING or __name__ != "__main__":
    from forget_callback.probes.judges.code_limits import CPU_SECONDS, restrict
    from forget_callback.probes.judges.code_pipe import Peer, words_of
else:  # as a script: Python looks where it lies
    from code_limits import CPU_SECONDS, restrict
    from code_pipe import Peer, words_of


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, where nothing else reads or prints."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    return pipes


def _defined(asked: dict[str, str]) -> Any:
    """The function that an answer defines; examples of its use that come after it may fail."""
    module = sys.modules["answer"] = types.ModuleType("answer")
    try:
        exec(compile(asked["code"], "answer", "exec"), module.__dict__)
    except (Exception, SystemExit):
        if asked["entry"] not in module.__dict__:
            raise
    return module.__dict__[asked["entry"]]


def run_answer() -> None:
    """Runs an answer's code, then its functions as they are called, until nobody calls any more."""
    peer = Peer(*_private_pipes())
    try:
        asked = peer.reply()
        restrict(CPU_SECONDS)
        peer.send(peer.answer(_defined, asked))
        peer.reply()
    finally:
        os._exit(0)


def run_tests() -> None:
    """Reads code, tests and name of the function; writes what stands against the code, "" if nothing.

    Also whether its process was gone before the tests were through.
    """
    import subprocess

    asked = json.loads(sys.stdin.buffer.readline())
    _, result = _private_pipes()
    command = [sys.executable, *sys.orig_argv[1 : sys.orig_argv.index(__file__)], __file__, "answer"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    to, back = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
    restrict(CPU_SECONDS + 1)
    peer = Peer(back, to, plain_only=True)
    result.write(json.dumps({"problem": _problem(peer, asked), "gone": peer.gone}).encode())
    result.flush()
    to.close()
    process.wait()
    os._exit(0)


def _problem(peer: Peer, asked: dict[str, str]) -> str:
    """What stands against an answer's code."""
    entry = asked["entry"]
    try:
        peer.send({"value": peer.packed({"code": asked["code"], "entry": entry})})
        function = peer.reply()
    except BaseException as error:
        if peer.gone:
            return "ends, or takes too long or too much memory, before it is called"
        missing = isinstance(error, KeyError) and entry in words_of(error)
        return f"does not define {entry}" if missing else f"raises {type(error).__name__}: {words_of(error)}"
    tests = asked["tests"]
    try:
        exec(compile(tests, "tests", "exec"), {"__name__": "tests", entry: function})
    except BaseException as error:
        trace, line = error.__traceback__, 0
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests" else line
            trace = trace.tb_next
        source = tests.splitlines()[line - 1].strip() if line else ""
        said = "" if isinstance(error, AssertionError) else f" ({type(error).__name__}: {words_of(error)})"
        return f"fails {source}{' (ends, or takes too long or too much memory)' if peer.gone else said}"
    return "ends" if peer.gone else ""


if __name__ == "__main__":
    sys.path.pop(0)  # where this file lies
    {"answer": run_answer, "tests": run_tests}[sys.argv[1]]()
