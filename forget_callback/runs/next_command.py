"""The command line as it can be typed where this process was started, for whatever prints what to run next.

A program in a virtual environment that is not active is on nobody's PATH, so "forget-callback compare ..." as it stands
is not found in the shell of who ran `.venv/bin/forget-callback`, a notebook, or `make`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "forget-callback"


def next_command(*arguments: object) -> str:
    """A command of ours with these arguments, quoted for a shell.

    As short as it runs: the program's name where the one on PATH is of this environment, else its path from the current
    directory, else ``python -m forget_callback``.

    Args:
        *arguments: A path or text each.
    """
    return " ".join([_program(), *(shlex.quote(str(argument)) for argument in arguments)])


def _program() -> str:
    """How this environment's program is called."""
    beside = Path(sys.executable).with_name(
        f"{PROGRAM}.exe" if os.name == "nt" else PROGRAM
    )  # its link, not its target
    started = Path(sys.argv[0]) if Path(sys.argv[0]).stem == PROGRAM else beside
    for script in (started, beside):
        if script.is_file():
            return PROGRAM if _is_on_path(PROGRAM, script) else shlex.quote(_from_here(script))
    name = next((name for name in ("python", "python3") if _is_on_path(name, Path(sys.executable))), None)
    return f"{name or shlex.quote(_from_here(Path(sys.executable)))} -m forget_callback"


def _is_on_path(name: str, program: Path) -> bool:
    """Whether a shell that is asked for the name starts this program.

    A link to Python is an environment of its own, so of Python the path counts; of a script what it points to.
    """
    found = shutil.which(name)
    if found is None:
        return False
    return os.path.abspath(found) == os.path.abspath(program) or (name == PROGRAM and os.path.samefile(found, program))


def _from_here(program: Path) -> str:
    """Its path as a shell in the current directory takes it."""
    path = Path(os.path.abspath(program))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
