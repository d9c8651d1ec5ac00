"""The Typer app and its entry point: how errors become exit statuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console

from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable
from forget_callback.probes.spacing import spacing_problem

app = typer.Typer(
    help="See, item by item, what a language model forgets and what it gains.",
    epilog="--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
notes = Console(stderr=True)

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
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="forget-callback")
    except Exception as error:
        if debug:
            raise
        text = _harmless(str(error).strip()) or type(error).__name__
        known = isinstance(error, (ValueError, OSError, ImportError))
        print(f"error: {text}" if known else f"error: {type(error).__name__}: {text}", file=sys.stderr)
        sys.exit(2)
