"""`dial`: task accuracy against knowledge lost, between a model and its fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from forget_callback.cli.app import app, note
from forget_callback.cli.output import Format, print_json
from forget_callback.probes.load import load_probe
from forget_callback.probes.remote import require_model
from forget_callback.runs.files import require_writable

if TYPE_CHECKING:
    from forget_callback.tools.dial import Point


@app.command()
def dial(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="Model before fine-tuning: directory or hub id.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Model after it, or its LoRA adapter.")],
    probe: Annotated[list[str], typer.Option(help="Probe spec of what must not be forgotten; repeat for several.")],
    task: Annotated[str, typer.Option(help="Probe spec of what fine-tuning should teach.")],
    points: Annotated[str, typer.Option(help="Interpolation weights, comma-separated.")] = "0,0.25,0.5,0.75,1",
    limit: Annotated[int | None, typer.Option(min=1, help="Items per probe, at most.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward pass.")] = None,
    save: Annotated[Path | None, typer.Option(help="Save the best point's model here.")] = None,
    format: Format = "text",
) -> None:
    """Scores models between two: how much of a fine-tuning to keep."""
    from forget_callback.tools.dial import best_point, dial_table, finding, turn_dial

    try:
        shares = [float(part) for part in points.split(",")]
    except ValueError:
        raise ValueError(f"--points must be numbers from 0 to 1 with commas, got {points!r}") from None
    if save is not None:
        require_writable(save, "--save", directory=True)
    for model in (before, after):
        require_model(model)
    probes, learned = [load_probe(spec, limit=limit) for spec in probe], load_probe(task, limit=limit)

    found = turn_dial(before, after, probes, learned, shares=shares, batch_tokens=batch_tokens, save=save)
    best = best_point(found)
    if format == "json":
        print_json("dial", {**_result(found, best), "headline": finding(found, best), "saved": save})
        note(finding(found, best))
    else:
        Console().print(dial_table(found, best, task=learned.name))
    if save is not None:
        note(f"the model at {best.share:g} is in {save}")


def _result(points: list[Point], best: Point) -> dict[str, Any]:
    from forget_callback.tools.dial import as_good

    rows = [
        {
            "share": point.share,
            "task_accuracy": point.task.accuracy,
            "task_accuracy_low": point.task_interval.low,
            "task_accuracy_high": point.task_interval.high,
            "gain": point.gain,
            **point.change.transitions.as_dict(),
        }
        for point in points
    ]
    same = [point.share for point in as_good(points, best)]
    return {"points": rows, "best": best.share, "as_good": same}
