"""`recheck`: whether what a run lost is gone, or there and not said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from forget_callback.cli.app import app, note
from forget_callback.cli.output import Format, print_json
from forget_callback.probes.helps import AGAIN
from forget_callback.probes.quoting import printable
from forget_callback.probes.remote import require_model
from forget_callback.report.fitted import FittedTable
from forget_callback.runs.files import require_writable
from forget_callback.runs.formatting import percent
from forget_callback.runs.recheck_summary import beyond
from forget_callback.runs.rechecked import ROWS, SUMMARY, told_apart
from forget_callback.runs.run_at import open_run, require_before

BASELINE = typer.Option(help="Model before training: directory or hub id; by default the one that the run names.")


@app.command()
def recheck(
    run: Annotated[str, typer.Argument(metavar="RUN", help="RUN or RUN@STEP.")],
    model: Annotated[
        str | None, typer.Option(help="Directory or hub id; by default the last model that the run saved.")
    ] = None,
    baseline: Annotated[str | None, BASELINE] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Items that were wrong at this step.")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Name of a probe of the run; repeat for several.")] = None,
    category: Annotated[str | None, typer.Option(help="Only items of this category.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Lost items per probe, at most.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward pass; halved on OOM.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Directory or hub id, if not found with the model.")] = None,
    format: Format = "text",
) -> None:
    """Asks what a run lost once more, with help.

    Worked examples, first words, options, the chat template, other words; items never known get the same help.
    """
    at = open_run(run)
    if at.step is not None and step is not None and at.step != step:
        raise ValueError(f"{run} names step {at.step}, and --step is {step}; give one of them")
    require_writable(at.store.path / SUMMARY, "RUN")
    for one in (model, baseline, tokenizer):
        if one is not None:
            require_model(one)
    if baseline is not None:
        require_before(baseline, at.store.path)
    from forget_callback.tools.recheck import Ask, recheck as ask_again

    ask = Ask(at.step if step is None else step, tuple(probe or ()), category, limit)
    how: dict[str, Any] = {"model": model, "baseline": baseline, "tokenizer": tokenizer, "batch_tokens": batch_tokens}
    found = ask_again(at, ask, **how, progress=True, note=note)
    page = at.store.path / "report.html"
    if page.is_file():
        from forget_callback.report.page import write_report

        write_report([at.store], page)
        note(f"the page shows it: {page}")
    files = {"summary": at.store.path / SUMMARY, "rows": at.store.path / ROWS}
    if format == "json":
        for warning in found["warnings"]:
            note(warning)
        print_json("recheck", {**found, **files})
    else:
        _show(found, files)


def _show(found: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    console = Console()
    blocks = [block for whole in found["probes"].values() for block in told_apart(whole)]
    for block in blocks:
        console.print(_table(block))
    for text in (*found["warnings"], *(block["sentence"] for block in blocks)):
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True)
    note(f"every question and answer is in {files['rows']}")


def _table(block: Mapping[str, Any]) -> Any:
    """A row a help: how many of the lost items came right, beside what help alone explains."""
    columns = ("asked", "right", "never known", "by chance", "there", "baseline")
    table = FittedTable(
        f"{printable(block['name'])}: {block['lost']:,} lost items asked once more", ("help", *columns), drop=(4, 1)
    )
    rows = {**block["helps"], "any": {"label": "any help", **block["any"]}}
    for help, one in rows.items():
        if help == "any":
            table.add_section()
        before = one["baseline"]
        table.add_row(
            one["label"],
            f"{one['n']:,}",
            percent(one["right"]),
            percent(one["control"]),
            percent(one["chance"]) if one["chance"] > 0 else "-",
            "" if help == AGAIN else beyond(one),
            "-" if before is None else percent(before["before"]),
        )
    return table
