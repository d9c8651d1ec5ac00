"""The command line as it can be typed where this process was started, for whatever prints what to run next.

A program in a virtual environment that is not active is on nobody's PATH, so "forget-callback compare ..." as it stands
is not found in the shell of whoever ran `.venv/bin/forget-callback`, a notebook, or `make`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

PROGRAM = "forget-callback"


def next_command(*arguments: object, program: str = PROGRAM) -> str:
    """A command with these arguments, quoted for a shell.

    As short as it runs: the program's name where the one on PATH is of this environment, else its path from the current
    directory, else ``python -m forget_callback``.

    Args:
        *arguments: A path or text each.
        program: Ours, or another that pip puts beside it and that is a module of nearly that name, such as wandb.
    """
    return " ".join([_called(program), *(shlex.quote(str(argument)) for argument in arguments)])


def _called(program: str) -> str:
    """How this environment's program is called."""
    python = Path(sys.executable)  # beside it lie the programs: beside the link, not what it points to
    beside = python.with_name(f"{program}.exe" if os.name == "nt" else program)
    started = Path(sys.argv[0]) if Path(sys.argv[0]).stem == program else beside
    for script in (started, beside):
        if script.is_file():
            return program if _is_on_path(program, script) else shlex.quote(_from_here(script))
    name = next((name for name in ("python", "python3") if _is_on_path(name, python)), None)
    return f"{name or shlex.quote(_from_here(python))} -m {program.replace('-', '_')}"


def _is_on_path(name: str, program: Path) -> bool:
    """Whether a shell that is asked for the name starts this program.

    A link to Python is an environment of its own, so of Python the path counts; of a script what it points to.
    """
    found = shutil.which(name)
    if found is None:
        return False
    is_python = name.startswith("python")
    return os.path.abspath(found) == os.path.abspath(program) or (not is_python and os.path.samefile(found, program))


def _from_here(program: Path) -> str:
    """Its path as a shell in the current directory takes it."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted meanwhile
        return str(program)
    path = Path(os.path.abspath(program))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
