"""Match "code": the Python code of an answer passes its tests, tried in processes of its own.

What a model wrote is run only where that was asked for, see `judging.py`; this module starts the processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from forget_callback.probes.checks import require
from forget_callback.probes.judges.code_limits import SECONDS
from forget_callback.probes.judges.code_text import code_in, parsed
from forget_callback.probes.judges.finding import Finding, Form, require_doc
from forget_callback.probes.quoting import printable, quoted, shortened

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation

_FORM: Form = {
    "tests": ("Python code that asserts", lambda value: isinstance(value, str) and "assert" in value),
    "entry": ("the name of the function that it calls", lambda value: isinstance(value, str) and value.isidentifier()),
}
_PROCESS = Path(__file__).with_name("code_process.py")
# To start Python twice on a busy machine; the processes have their own limits from there on.
_START_SECONDS = 30.0


def judge(text: str, item: Generation, finished: bool) -> Finding:
    """Whether the code in a text passes the item's tests. Runs it.

    Raises:
        ValueError: If the processes that try it cannot be started.
    """
    code = code_in(text, item.doc["entry"])
    if code is None:
        return Finding.nothing("no Python code")
    return _tried(code, item.doc["tests"], item.doc["entry"])


def require_judgeable(item: Generation) -> None:
    """That the tests are Python that calls the function, and the example answers are code that defines it.

    Nothing is run: whether an example passes is seen where its code may be.

    Raises:
        ValueError: If not.
    """
    require_doc(item, _FORM, ("tests", "entry"))
    entry, tests = item.doc["entry"], item.doc["tests"]
    require(parsed(tests) is not None, item, "doc.tests", f"is no Python: {quoted(tests)}")
    require(entry in tests, item, "doc.tests", f"never calls {entry}: {quoted(tests)}")
    for answer in item.answer:
        code = code_in(answer, entry)
        require(code is not None, item, "answer", f"holds no Python code: {quoted(answer)}")
        require(entry in str(code), item, "answer", f"does not define {entry}: {quoted(answer)}")


def _tried(code: str, tests: str, entry: str) -> Finding:
    """What comes of running code and its tests."""
    # Without site-packages, and with one order of sets: what passes once passes again.
    command = [sys.executable, "-s", "-S", "-B", str(_PROCESS), "tests"]
    environment = {"PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"}
    environment |= {
        key: os.environ[key] for key in ("SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONHOME") if key in os.environ
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    own_group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=tempfile.gettempdir(),
            start_new_session=True,  # Ctrl-C in a terminal is for the trainer
            creationflags=own_group,
            **pipes,  # type: ignore[call-overload]
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{sys.executable!r} could not be started to run code: {error}") from error
    try:
        asked = json.dumps({"code": code, "tests": tests, "entry": entry}).encode() + b"\n"
        said, _ = process.communicate(asked, timeout=SECONDS + _START_SECONDS)
    except subprocess.TimeoutExpired:
        said = b""
    finally:
        _end(process)
    try:
        found = json.loads(said)
    except ValueError:
        found = {"problem": "takes too long, or too much memory", "gone": True}
    if not found["problem"]:
        return Finding.passed(code)
    return Finding.failed(code, shortened(printable(found["problem"]), 200), ran_out=found["gone"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of a process and of those that it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    process.communicate()
