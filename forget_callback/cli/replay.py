"""`replay`: training data nearest to what a run forgot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from forget_callback.cli.app import app, note
from forget_callback.cli.output import Format, print_json
from forget_callback.probes.plurals import are, counted, have, were
from forget_callback.runs.files import require_writable, write_text
from forget_callback.runs.run_at import open_run


@app.command()
def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="RUN or RUN@STEP.")],
    pool: Annotated[str, typer.Option(help="Training data: a .jsonl, .json or .parquet file, or hub id.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file to write.")],
    size: Annotated[int, typer.Option(min=1, help="Examples, at most.")] = 1000,
    split: Annotated[str, typer.Option(help="Split of the pool.")] = "train",
    only: Annotated[
        Literal["gone"] | None, typer.Option(help="Only items that came back by no help, as recheck found.")
    ] = None,
    format: Format = "text",
) -> None:
    """Selects training data nearest to what a run forgot.

    Examples that contain an item of the probe are left out.
    """
    require_writable(out, "--out")
    open_run(run)  # an error is said before the pool is read
    from forget_callback.tools.replay import read_pool, replay_pack

    pack = replay_pack(run, read_pool(pool, split), size=size, only=only)
    lines = "".join(json.dumps(example, ensure_ascii=False, default=str) + "\n" for example in pack.examples)
    write_text(out, lines)
    beside = out.with_name(f"{out.name}.why.json")
    write_text(beside, pack.summary())
    lost = counted(pack.forgotten, "forgotten item")
    if format == "json":
        print_json("replay", {"path": out, "why": beside, "n": len(pack.examples), **pack.counts()})
    else:
        print(f"{counted(len(pack.examples), 'example')} for {lost} written to {out}")
    if pack.covered < pack.forgotten:
        note(
            f"only {pack.covered} of {lost} {have(pack.covered)} an example in the pool that is near; what was picked "
            "for the others is about something else: give it data on these as well"
        )
    if pack.not_looked_for:
        note(
            f"{counted(pack.not_looked_for)} of the probe {are(pack.not_looked_for)} not looked for, without words "
            "that few others have: no example is excluded for these"
        )
    contain = "contains" if pack.refused == 1 else "contain"
    note(
        f"{counted(pack.refused, 'example')} of the pool {contain} one of the probe's items and {were(pack.refused)} "
        f"excluded; {beside} names the item that selected each example"
    )
