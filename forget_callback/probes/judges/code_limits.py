"""What a process that runs the code of an answer gives up, and the limits that it gets.

Environment, files other than the standard library's, network and processes; processor time, memory and, whatever
becomes of the process that started it, time. That stops what a model writes by mistake. It is no prison for code that
means to break out. On the standard library: `code_process.py` says why.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

CPU_SECONDS = 2  # of the answer; the tests' own code has a second more
SECONDS = 6.0  # by the clock
MEMORY = 2**29
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
