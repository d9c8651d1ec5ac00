"""`run`: any command that trains with a Hugging Face Trainer, unchanged, with the callback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forget_callback.cli.app import UsageError, app, note, say_spacing
from forget_callback.cli.output import Command
from forget_callback.probes.plurals import counted
from forget_callback.probes.quoting import printable

if TYPE_CHECKING:
    from forget_callback.tools.arguments import CallbackArguments
    from forget_callback.tools.launch import Launched

_SEVERAL = ("--probes", "--stop")  # options that take several values, up to the next option


class RunCommand(Command):
    """`run`, whose own options end at ``--``: what comes then is the command's, its ``--help`` and ``--debug`` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Reads the options; ``--probes A B`` is ``--probes A --probes B``."""
        at = args.index("--") if "--" in args else len(args)
        if at < len(args) and args[at - 1 : at] and args[at - 1] in (*_SEVERAL, "--every", "--config"):
            raise UsageError(f"{args[at - 1]} needs a value before --", ctx=ctx)
        found = super().parse_args(ctx, [*_repeated(self.spelled(args[:at])), *args[at:]])
        if "--" not in args and not ctx.params["help"]:
            raise UsageError("put -- before the command, such as: forget-callback run -- python train.py", ctx=ctx)
        return found


def _repeated(words: Iterable[str]) -> list[str]:
    found: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word if word in _SEVERAL else ""
        elif option and found[-1] != option:
            found.append(option)
        found.append(word)
    return found


@app.command(cls=RunCommand, add_help_option=False)
def run(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="After --, such as -- trl sft --config sft.yaml.")
    ] = None,
    probes: Annotated[list[str] | None, typer.Option(metavar="SPEC ...", help="Probes; default builtin:facts.")] = None,
    every: Annotated[
        str | None, typer.Option(metavar="N", help="Steps between evaluations; by default the Trainer's evaluations.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="RULE ...", help="Such as knowledge_lost>0.05.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with these and all other arguments.")
    ] = None,
    require: Annotated[bool, typer.Option("--require", help="End the command where it cannot be watched.")] = False,
    help: Annotated[bool, typer.Option("--help", help="Show this message, and what would be attached.")] = False,
) -> None:
    """Runs a command that trains, and adds the callback.

    Every Trainer that COMMAND builds gets the ForgetCallback that --help shows; options override --config.
    """
    from forget_callback.tools.launch import launch

    arguments = _arguments(config, {"probes": probes, "every": every, "stop": stop})
    if help:
        shown = _shown(arguments)
        print(ctx.get_help())
        print(shown)
        return
    if not command:
        raise UsageError("the command after -- is missing, such as: forget-callback run -- python train.py", ctx=ctx)
    if require and arguments.on_error == "warn":
        arguments = replace(arguments, on_error="refuse")
    say_spacing(*arguments.callback().settings.probes)  # what is wrong with them is wrong before anything is started
    raise typer.Exit(_status(launch(command, arguments.absolute(), require=require), arguments, require=require))


def _arguments(config: Path | None, options: dict[str, Any]) -> CallbackArguments:
    """Those of the file, overridden by those of the command line."""
    from forget_callback.tools.arguments import CallbackArguments

    read = CallbackArguments() if config is None else CallbackArguments.read(config)
    given = {name: value for name, value in options.items() if value}
    if str(given.get("every")).isdecimal():
        given["every"] = int(given["every"])
    return replace(read, **given)


def _shown(arguments: CallbackArguments) -> str:
    """What would be attached, in the form of a config; checked as before a command."""
    import yaml

    from forget_callback.probes.load import load_probe

    if arguments == type(arguments)():  # nothing was given, and a callback takes seconds to import
        probes = [load_probe(spec) for spec in arguments.probes]
    else:
        probes = [*arguments.callback().settings.probes]
    lines = [f"probe {printable(one.name)}: {counted(len(one))}, fingerprint {one.fingerprint[:12]}" for one in probes]
    title = "Each Trainer of COMMAND that trains a causal language model gets a ForgetCallback with"
    return "\n".join([title, "", yaml.safe_dump(vars(arguments), sort_keys=False), *lines])


def _status(found: Launched, arguments: CallbackArguments, *, require: bool) -> int:
    """Says what was watched; the exit status of `run`."""
    for why in found.failed:
        note(f"forget-callback run: not attached: {printable(why)}")
    for why in found.unwatched:
        note(f"forget-callback run: not watched: {printable(why)}")
    if found.watched:
        said = "had {} listen to forget-callback watch, which measures" if arguments.remote else "watched {}"
        end = f"; the command ended with status {found.status}" if found.status else ""
        note(f"forget-callback run: {said.format(_counted(found.watched))}{end}")
    elif not (found.failed or found.unwatched):
        note(f"forget-callback run: nothing was watched: {_why_nothing(found)}")
    if require and (found.failed or found.unwatched or not (found.watched or found.status)):
        return 2
    return found.status


def _counted(trainers: Sequence[str]) -> str:
    return ", ".join(f"{trainers.count(name)} {printable(name)}" for name in dict.fromkeys(trainers))


def _why_nothing(found: Launched) -> str:
    if found.attached:
        return f"the callback was attached to {_counted(found.attached)}, and no training began"
    if found.left_out:
        return "; ".join(map(printable, found.left_out))
    if found.python:
        return "the command built no Trainer of transformers"
    return (
        "no Python process of the command could be reached: python -I, -E and -S cannot, nor another machine, a "
        "container, or what sets PYTHONPATH anew"
    )
