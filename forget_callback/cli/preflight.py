"""`preflight`: leakage and a pilot, before a training."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forget_callback.cli.app import app, note
from forget_callback.cli.output import Format, print_json
from forget_callback.metrics.intervals import Interval
from forget_callback.probes.load import load_probe
from forget_callback.probes.plurals import are, counted
from forget_callback.probes.quoting import printable, quoted
from forget_callback.probes.remote import require_model
from forget_callback.runs.early_warning import MODEL, Followed, followed, forecast
from forget_callback.runs.files import require_writable
from forget_callback.runs.formatting import bare, percent

if TYPE_CHECKING:
    from forget_callback.tools.preflight import Leak, Pilot

_SHOWN = 5  # ids of leaked items


@app.command()
def preflight(
    training: Annotated[
        str, typer.Argument(metavar="TRAINING", help="A recipe's YAML, or with --model a data set: a file or hub id.")
    ],
    model: Annotated[str | None, typer.Option(help="Directory or hub id; of a recipe its own.")] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="Looked for in the data, several times for several; of a recipe its own.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of the pilot, at most; an eighth of all, or one, if less.")
    ] = 64,
    learning_rate: Annotated[float | None, typer.Option(help="Without a recipe; TRL's default if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for the pilot's run.")] = Path("preflight"),
    format: Format = "text",
) -> None:
    """Trains the first steps, and says what followed in our study.

    Also looks for the probes' items in the training data. Exit status 1 if one is there or none could be looked for, or
    if texts got worse or facts were lost by more than noise, or could not be scored.
    """
    is_recipe = Path(training).suffix.casefold() in (".yaml", ".yml")
    if is_recipe and (model, learning_rate) != (None, None):
        raise ValueError(f"{quoted(training)} is a recipe, which says both: drop --model and --learning-rate")
    if not is_recipe:
        if model is None:
            raise ValueError(f"{quoted(training)} is no recipe (.yaml), so name the model as well: --model MODEL")
        require_model(model)
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ValueError(f"--learning-rate must be above 0, such as 1e-4, got {learning_rate:g}")
    require_writable(out, "--out", directory=True)
    specs = [load_probe(spec) for spec in probe or ()]
    from forget_callback.tools.preflight import leaks, pilot, recipe_of
    from forget_callback.tools.recipe import Recipe

    with contextlib.redirect_stdout(sys.stderr):  # the trainer's own lines
        if is_recipe:
            recipe = Recipe.read(training)
        else:
            assert model is not None
            recipe = recipe_of(training, model, learning_rate=learning_rate, out=out)
        probes = specs or [load_probe(spec, limit=recipe.forget.probe_limit) for spec in recipe.forget.probes]
        rows = recipe.data()[recipe.script.dataset_train_split]
        found = leaks(rows, probes)
        ended = pilot(recipe, steps=steps, out=out)
    looked = any(leak.looked_for for leak in found)
    passed = looked and not any(leak.items for leak in found) and not ended.lost
    if format == "json":
        print_json("preflight", {**_result(found, ended), "rows": len(rows), "run": out, "passed": passed})
    else:
        print("\n".join([*_leaks(found, len(rows)), *_pilot(ended)]))
    if not looked:
        note("no item was looked for in the data, so this does not pass: give --probe SPEC, what you will watch")
    if ended.warmup:
        note(
            f"the learning rate rises over the first {counted(ended.warmup, 'step')}; the study's runs had no warm-up, "
            "so this pilot shows less than theirs"
        )
    if not passed:
        raise typer.Exit(1)


def _numbers(ended: Pilot) -> dict[str, tuple[float, Followed]]:
    """The pilot's numbers by their names in the study, with what followed there; those that are known."""
    found = {"text_worse": ended.text_worse, "kl": ended.kl, "drift": ended.drift}
    return {name: (value, followed(name, value)) for name, value in found.items() if not math.isnan(value)}


def _forecast(ended: Pilot) -> Interval | None:
    """By how much texts will have got worse at the end; None where the study does not say."""
    return forecast(ended.text_worse) if ended.text_lost and ended.as_in_study else None


def _leaks(found: list[Leak], rows: int) -> Iterator[str]:
    data = counted(rows, "row")
    for leak in (one for one in found if one.items):
        n, names = len(leak.items), ", ".join(map(printable, leak.items[:_SHOWN]))
        more = ", ..." if n > _SHOWN else ""
        stand = f"data: {n:,} of {counted(leak.looked_for)} of {leak.probe} {are(n)} in the {data}: {names}{more}"
        yield f"{stand}; leave them out of the data, or they show what was trained"
    if clean := [f"{leak.probe} ({_looked(leak)})" for leak in found if leak.looked_for and not leak.items]:
        yield f"data: nothing in the {data} of {', '.join(clean)}"
    if short := [leak.probe for leak in found if not leak.looked_for]:
        yield f"data: {', '.join(short)} not looked for, no question has five words of its own"


def _looked(leak: Leak) -> str:
    """How many items were looked for, and of how many."""
    short = leak.n - leak.looked_for
    few = f", {short:,} more not, without five words of their own" if short else ""
    return f"{counted(leak.looked_for)}{few}"


def _pilot(ended: Pilot) -> Iterator[str]:
    low, high = ended.text_worse_interval
    change = f"{'+' if ended.text_worse > 0 else ''}{percent(ended.text_worse)} [{bare(low)}, {bare(high)}]"
    titles = {
        "text_worse": ("texts, bits per byte", change),
        "kl": ("new data, KL to the model before", f"{ended.kl:.3g}"),
        "drift": ("facts, drift on the options", f"{ended.drift:.3g}"),
    }
    yield f"pilot: {ended.steps:,} of {counted(ended.planned, 'step')}"
    if numbers := _numbers(ended):
        yield f"  {'':<34}{'':<25}after an eighth of the runs of the study of {MODEL},"
        yield f"  {'':<34}{'':<25}how many ended with a loss of those"
        yield f"  {'':<34}{'':<25}{'with as much':<15}with less"
    for name, (_, what) in numbers.items():
        title, value = titles[name]
        yield f"  {title:<34}{value:<25}{_of(what.lost, what.runs):<15}{_of(what.lost_below, what.runs_below)}"
    if ended.knowledge:
        yield f"facts: {ended.knowledge}"
    if ended.unscored:
        yield f"{counted(ended.unscored)} could not be scored at the end, as where training diverges"
    if (ends := _forecast(ended)) is not None:
        yield f"forecast: texts {percent(ends.low)} to {percent(ends.high)} worse at the end, if it goes on as there"
    elif ended.text_lost and ended.as_in_study:
        yield f"no forecast: texts are worse already than in any run of the study of {MODEL} after an eighth"
    elif ended.text_lost:
        yield "no forecast: the study says what followed after an eighth of a training, and this is another part"
    else:
        yield "no forecast: texts did not get worse by more than noise"


def _of(part: int, n: int) -> str:
    return f"{part} of {n}" if n else "no run had"


def _result(found: list[Leak], ended: Pilot) -> dict[str, Any]:
    ends = _forecast(ended)
    return {
        "leaks": [
            {"probe": leak.probe, "items": leak.items, "n": leak.n, "looked_for": leak.looked_for} for leak in found
        ],
        "pilot": {
            "steps": ended.steps,
            "planned": ended.planned,
            "warmup": ended.warmup,
            "unscored": ended.unscored,
        },
        "knowledge": ended.knowledge or None,
        "text_worse_interval": list(ended.text_worse_interval),
        "numbers": {
            name: {
                "value": value,
                "runs": one.runs,
                "lost": one.lost,
                "runs_below": one.runs_below,
                "lost_below": one.lost_below,
            }
            for name, (value, one) in _numbers(ended).items()
        },
        "forecast": None if ends is None else list(ends),
    }
