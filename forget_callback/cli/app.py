"""The Typer app and its entry point: how errors become exit statuses."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from forget_callback.cli.output import Group
from forget_callback.probes.installed import what_to_install
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.spacing import spacing_problem

app = typer.Typer(
    cls=Group,
    help="See, item by item, what a language model forgets and what it gains.",
    epilog="In a script: SFTTrainer(..., callbacks=[ForgetCallback('builtin:facts')])",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
notes = Console(stderr=True)
UsageError: Any = typer.BadParameter.__bases__[0]  # of click, or of what typer has of it


def _say_version(asked: bool) -> None:
    if asked:
        try:
            print(f"forget-callback {metadata.version('forget-callback')}")
        except metadata.PackageNotFoundError:
            print("forget-callback, not installed: run as a module from its sources")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; anywhere in a line.")] = False,
) -> None:
    pass  # `main` reads --debug, wherever it stands


IncludePath = Annotated[Path | None, typer.Option(help="Directory with YAML tasks of your own, for lm-eval:TASK.")]


def note(text: str) -> None:
    """Prints a text to standard error as it is, but for what a terminal would obey."""
    notes.print(_harmless(text), highlight=False, soft_wrap=True, markup=False, emoji=False)


def say_spacing(*probes: Probe) -> None:
    """Prints which of these probes have answers without the space before them."""
    for probe in probes:
        if problem := spacing_problem(probe):
            note(f"probe {probe.name!r}: {problem}")


def _harmless(text: str) -> str:
    """A last net: who makes the text quotes what others wrote, and this cannot tell their line breaks from ours."""
    return "\n".join(map(printable, text.split("\n")))


def with_include_path(spec: str, include_path: Path | None) -> str:
    """A spec of lm-eval with the directory of its tasks; any other as it is."""
    if include_path is None or not spec.startswith("lm-eval:"):
        return spec
    return f"{spec}{'&' if '?' in spec else '?'}include_path={quote(str(include_path))}"


def main() -> None:
    """Entry point: errors in one or two lines, exit status 2."""
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)  # what follows is another program's
    debug = "--debug" in given[:at]
    arguments = [argument for argument in given[:at] if argument != "--debug"] + given[at:]
    try:
        code = app(args=arguments or ["--help"], prog_name="forget-callback", standalone_mode=False)
        sys.exit((code or 0) if arguments else 2)
    except typer.Abort:  # of input that ended
        sys.exit(2)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what is left in the buffer goes there at exit
        sys.exit(2)
    except Exception as error:
        if debug:  # as text: an error that is raised would end with status 1, that of a gate
            print(_harmless(traceback.format_exc()), file=sys.stderr)
        text = _wrong_usage(error, arguments) if isinstance(error, UsageError) else _problem(error)
        print(f"error: {_harmless(text)}", file=sys.stderr)
        sys.exit(2)


def _problem(error: Exception) -> str:
    """An error in words; what is no error of the user's is named by its class."""
    if isinstance(error, ModuleNotFoundError) and (missing := what_to_install(error)):
        return missing
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:  # "[Errno 2] No such file or directory: 'x'"
        text = f"{str(error.filename)!r}: {error.strerror}"
    return text if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: {text}"


def _wrong_usage(error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with the arguments, and how they go; click leaves out the value that came."""
    lines = [error.format_message().strip().rstrip(".").replace("Value error, ", "")]
    options = getattr(getattr(error, "param", None), "opts", None) or ()
    words = [part for one in arguments for part in (one.split("=", 1) if one.startswith("--") else [one])]
    values = [value for option, value in pairwise(words) if option in options]
    if values and lines[0].startswith("Invalid") and quoted(values[-1]) not in lines[0]:
        lines[0] += f", got {quoted(values[-1])}"
    if error.ctx is not None:
        usage = " ".join(error.ctx.get_usage().split()).removeprefix("Usage: ")
        lines.append(f"usage: {usage}; {error.ctx.command_path} --help tells more")
    return "\n".join(lines)
