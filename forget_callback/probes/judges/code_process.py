"""The two processes that try the code of an answer: `code.py` runs this file as a script, on the standard library.

The first holds the tests and never runs the answer, the second runs the answer and never sees the tests. A call of the
tests goes over a pipe and plain values come back, compared where the answer cannot reach: to exit, to print, to change
a built-in function or to return what equals everything passes no test.

Both give up what the platform lets them: environment, files other than the standard library's, network and
processes; and have limits of processor time, memory and, whatever becomes of the process that started them, time. That
stops what a model writes by mistake. It is no prison for code that means to break out.
"""

from __future__ import annotations

import builtins
import itertools
import json
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

CPU_SECONDS = 2  # of the answer; the tests' own code has a second more
SECONDS = 6.0  # by the clock
MEMORY = 2**29
_LONGEST = 2**22  # of a message, in bytes
_MOST = 10_000  # values of an iterator
# What an interpreter does as it goes on; whatever else tells its audit hooks is refused.
_HARMLESS = {
    *("array.__new__", "builtins.id", "code.__new__", "compile", "exec", "function.__new__", "marshal.load"),
    *("marshal.loads", "object.__delattr__", "object.__getattr__", "object.__setattr__", "sys._current_frames"),
    *("sys._getframe", "sys._getframemodulename", "sys.excepthook", "sys.unraisablehook", "time.sleep"),
    *("cpython._PySys_ClearAuditHooks", "winreg.OpenKey", "winreg.OpenKey/result"),
}
_REFUSED = {
    *("_ctypes", "_interpreters", "_multiprocessing", "_posixsubprocess", "_socket", "_winapi", "_xxsubinterpreters"),
    *("ctypes", "faulthandler", "mmap", "multiprocessing", "pty", "socket", "subprocess"),
    # Of these no audit hook is told what they do; "posix" and "nt" would be a new copy.
    *("_curses", "_dbm", "_gdbm", "_posixshmem", "_tkinter", "dbm", "nt", "posix", "readline"),
}
# The functions of `os` that stay: of many others no audit hook is told, and they reach files and any process.
_OS = {
    *("_exit", "_getfinalpathname", "_getfullpathname", "_path_exists", "_path_isdir", "_path_isfile"),
    *("_path_islink", "_path_normpath", "_path_splitroot", "_path_splitroot_ex", "close", "cpu_count"),
    *("device_encoding", "fspath", "fstat", "get_terminal_size", "getcwd", "getcwdb", "getegid", "geteuid"),
    *("getgid", "getpid", "getppid", "getuid", "isatty", "listdir", "lseek", "lstat", "open"),
    *("process_cpu_count", "read", "register_at_fork", "scandir", "stat", "strerror", "uname", "urandom"),
    *("waitpid", "waitstatus_to_exitcode"),
}
_NOT_ALLOWED = "is not allowed in code that is judged"


class Gone(BaseException):
    """The other process has ended, or no longer says what can be read."""


class Opaque:
    """Stands for a value that is none of the plain ones: it equals nothing, and is true where the value is."""

    def __init__(self, truth: bool) -> None:
        self.truth = truth

    def __bool__(self) -> bool:
        return self.truth


class Peer:
    """One end of the pipe: calls functions of the other process, and has its own called."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO, *, plain_only: bool = False) -> None:
        self._reader, self._writer, self._plain_only = reader, writer, plain_only
        self._own: list[Callable[..., Any]] = []
        self.gone = False

    def send(self, message: dict[str, Any]) -> None:
        """Writes a message, a line of JSON."""
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            self._writer.flush()
        except OSError:
            self.gone = True
            raise Gone("it ended") from None

    def reply(self) -> Any:
        """The value that comes back; calls that come before it are answered.

        Raises:
            Gone: If none comes.
            Exception: What the other process raised, if that is a built-in one.
        """
        while "call" in (message := self._receive()):
            self.send(self.answer(self._called, message))
        if "error" in message:
            raise _exception(*message["error"])
        return self._unpacked(message["value"])

    def answer(self, work: Callable[[Any], Any], given: Any) -> dict[str, Any]:
        """What some work returns or raises, as a message."""
        try:
            return {"value": self.packed(work(given))}
        except Gone:
            raise
        except BaseException as error:  # SystemExit too
            return {"error": [[cls.__name__ for cls in type(error).__mro__], _said(error)]}

    def _called(self, message: dict[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
        """What an own function returns, and its arguments, which it may have changed."""
        args, kwargs = self._unpacked(message["given"])
        return self._own[message["call"]](*args, **kwargs), args, kwargs

    def packed(self, value: Any) -> Any:
        """A value as JSON: plain ones by value, functions by number, iterators by what they give."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        for name, cls in _SEQUENCES.items():
            if isinstance(value, cls):
                return {name: [self.packed(one) for one in value]}
        if isinstance(value, dict):
            return {"dict": [[self.packed(key), self.packed(one)] for key, one in value.items()]}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": list(value)}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, _VIEWS):
            return self.packed(list(value))
        if hasattr(value, "__next__"):
            return {"iterator": [self.packed(one) for one in itertools.islice(value, _MOST)]}
        if callable(value):
            self._own.append(value)
            return {"function": len(self._own) - 1, "name": str(getattr(value, "__name__", "function"))}
        if self._plain_only:
            raise TypeError(f"a {type(value).__name__} cannot be passed to code that is judged, only plain values can")
        return {"opaque": bool(value)}

    def _unpacked(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((name, held), *more) = value.items()
        if name in _SEQUENCES:
            return _SEQUENCES[name](self._unpacked(one) for one in held)
        if name == "iterator":
            return iter([self._unpacked(one) for one in held])
        if name == "dict":
            return {self._unpacked(key): self._unpacked(one) for key, one in held}
        if name == "function":
            return self._stub(held, more[0][1])
        return {"bytes": bytes, "opaque": Opaque}[name](held) if name not in _SPREAD else _SPREAD[name](*held)

    def _stub(self, number: int, name: str) -> Callable[..., Any]:
        """A function that is called in the other process."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.send({"call": number, "given": self.packed([list(args), kwargs])})
            value, own_args, own_kwargs = self.reply()
            for mine, theirs in zip([*args, *kwargs.values()], [*own_args, *own_kwargs.values()]):
                _update(mine, theirs)
            return value

        call.__name__ = call.__qualname__ = name
        return call

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._reader.readline(_LONGEST)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self.gone = True
            raise Gone("it ended")
        return message


_SEQUENCES: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SPREAD: Mapping[str, Any] = {"range": range, "complex": complex}
_VIEWS: tuple[Any, ...] = (type({}.keys()), type({}.values()), type({}.items()))


def _update(mine: Any, theirs: Any) -> None:
    """Makes a list, set or dict what the function that it was given to has made of it."""
    if isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, (set, dict)) and type(mine) is type(theirs):
        mine.clear()
        mine.update(theirs)


def _exception(names: list[str], said: str) -> BaseException:
    """The nearest built-in exception to one of the other process."""
    for name in names:
        cls = getattr(builtins, name, None)
        if isinstance(cls, type) and issubclass(cls, Exception):
            return cls(said) if cls not in (UnicodeDecodeError, UnicodeEncodeError) else ValueError(said)
    return RuntimeError(f"{names[0]}: {said}")


def _said(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except Exception:  # the answer's own class
        return ""


def restrict(cpu_seconds: int) -> None:
    """Gives up what an answer has no need of."""
    until, parent = time.monotonic() + SECONDS + 1, os.getppid()

    def watch() -> None:
        while time.monotonic() < until and os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _limit(cpu_seconds)
    library = os.path.dirname(os.__file__) + os.sep
    places = (library, sys.exec_prefix + os.sep + "DLLs" + os.sep)

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event in _HARMLESS or (event == "import" and args[0].partition(".")[0] not in _REFUSED):
            return
        if event in ("open", "os.listdir", "os.scandir"):
            path, flags = args[0], args[2] if event == "open" else 0
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if isinstance(path, str) and not writes and ".." not in path and (path + os.sep).startswith(places):
                return
        if event == "import":  # as a library expects that does without
            raise ImportError(f"import {args[0]} {_NOT_ALLOWED}")
        raise PermissionError(f"{event} {_NOT_ALLOWED}")

    _limit_os()
    sys.addaudithook(refuse)


def _limit_os() -> None:
    """Leaves of the functions that `os` takes from the platform those that are allowed by name."""
    platform = sys.modules[os.name]
    for name, function in list(vars(platform).items()):
        if isinstance(function, types.BuiltinFunctionType) and name not in _OS:
            for module in (platform, os):
                setattr(module, name, _refused(name))


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(f"os.{name} {_NOT_ALLOWED}")

    return refuse


def _limit(cpu_seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    memory = MEMORY
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            memory += int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        memory *= 2
    limits = {"CPU": cpu_seconds, "AS": memory, "FSIZE": 0, "NPROC": 0, "NOFILE": 32, "CORE": 0}
    for name, most in limits.items():
        try:
            number = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(number)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (most, most))
        except (AttributeError, OSError, ValueError):  # not on this platform
            continue


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
    """Reads code, tests and name of the function, and writes what stands against the code, "" if nothing."""
    import subprocess

    asked = json.loads(sys.stdin.buffer.readline())
    _, result = _private_pipes()
    command = [sys.executable, *sys.orig_argv[1 : sys.orig_argv.index(__file__)], __file__, "answer"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    to, back = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
    restrict(CPU_SECONDS + 1)
    problem = _problem(Peer(back, to, plain_only=True), asked)
    result.write(json.dumps({"problem": problem}).encode())
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
        missing = isinstance(error, KeyError) and entry in _said(error)
        return f"does not define {entry}" if missing else f"raises {type(error).__name__}: {_said(error)}"
    tests = asked["tests"]
    try:
        exec(compile(tests, "tests", "exec"), {"__name__": "tests", entry: function})
    except BaseException as error:
        trace, line = error.__traceback__, 0
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "tests" else line
            trace = trace.tb_next
        source = tests.splitlines()[line - 1].strip() if line else ""
        said = "" if isinstance(error, AssertionError) else f" ({type(error).__name__}: {_said(error)})"
        return f"fails {source}{' (ends, or takes too long or too much memory)' if peer.gone else said}"
    return "ends" if peer.gone else ""


if __name__ == "__main__":
    sys.path.pop(0)  # where this file lies
    {"answer": run_answer, "tests": run_tests}[sys.argv[1]]()
