"""`--format json`: a command prints one JSON object to standard output, and nothing else there.

A command takes `format: Format = "text"` and calls `print_json` once with its result; `Command`, the class of all
commands, does the rest: what libraries and their child processes print meanwhile goes to standard error, and after an
error nothing is printed, so that half a result is never taken for one. docs/json.md and docs/schema.json say what is in
the objects.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

from forget_callback.runs.results import result_json

Format: TypeAlias = Annotated[
    Literal["text", "json"], typer.Option("--format", help="How to print the result; json is one object for scripts.")
]
_PROBES = ("--probe", "--probes")  # commands differ in it
_held: list[str] | None = None  # what a command with --format json has to print when it has ended


def print_json(command: str, result: Mapping[str, Any]) -> None:
    """Prints the one JSON object of a command, with the version of the format and the command's name.

    Args:
        command: Its name.
        result: Numbers, texts, paths, and lists and mappings of these. A `Path` is printed absolute; NaN and infinite
            numbers, which JSON has not, are null.
    """
    text = result_json(command, result)
    if _held is None:
        _write(text)
    else:
        _held.append(text)


class Command(TyperCommand):
    """Any of our commands: with --format json standard output holds its result alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Reads the options; what takes --probe takes --probes too, and the other way round."""
        return super().parse_args(ctx, self.spelled(args))

    def spelled(self, args: Sequence[str]) -> list[str]:
        """The words with the option for probes as this command spells it; those after ``--`` as they are."""
        own = {name for param in self.params for name in param.opts} & set(_PROBES)
        end = list(args).index("--") if "--" in args else len(args)
        if len(own) != 1:
            return list(args)
        (name,) = own
        parts = [word.partition("=") for word in args[:end]]
        return [
            *(name + is_ + value if word in _PROBES else word + is_ + value for word, is_, value in parts),
            *args[end:],
        ]

    def invoke(self, ctx: Any) -> Any:
        """Runs it; the result is printed when it has ended, also where a gate failed, and not after an error."""
        if ctx.params.get("format") != "json":
            return super().invoke(ctx)
        ended, value = None, None
        with _results_held() as results:
            try:
                value = super().invoke(ctx)
            except typer.Exit as status:  # a gate's
                ended = status
        for text in results:
            _write(text)
        if ended is not None:
            raise ended
        return value

    def get_params(self, ctx: Any) -> Any:
        """All options; a flag takes no value, so its help names no type."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """The command line as a whole."""

    def get_params(self, ctx: Any) -> Any:
        """All options; a flag takes no value, so its help names no type."""
        return _without_types(super().get_params(ctx))


def _without_types(params: Any) -> Any:
    for one in params:
        if getattr(one, "is_flag", False) and one.metavar is None:
            one.metavar = ""
    return params


@contextlib.contextmanager
def _results_held() -> Iterator[list[str]]:
    """Standard output is standard error, for Python and for child processes; gives what `print_json` got."""
    global _held
    results: list[str] = []
    _held = results
    try:
        with contextlib.redirect_stdout(sys.stderr), _descriptor_redirected():
            yield results
    finally:
        _held = None


@contextlib.contextmanager
def _descriptor_redirected() -> Iterator[None]:
    """File descriptor 1, which libraries in C and child processes print to, leads where 2 does."""
    if sys.__stdout__ is None or sys.__stderr__ is None:  # closed by who called
        yield
        return
    sys.__stdout__.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _write(text: str) -> None:
    """Prints a line of UTF-8, which JSON is in, whatever the terminal's encoding."""
    if sys.stdout is None:
        raise ValueError(
            "--format json prints to standard output, which is closed; leave it open, or direct it to a file"
        )
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        print(text)
        return
    binary.write(f"{text}\n".encode())
    binary.flush()
