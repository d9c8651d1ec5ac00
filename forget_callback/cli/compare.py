"""`compare`: two checkpoints item by item, as a table or as a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from forget_callback.cli.app import app, note
from forget_callback.report.terminal import changes_markdown, changes_table
from forget_callback.runs.comparison import compare_checkpoints, comparison_json, left_out
from forget_callback.runs.files import write_text
from forget_callback.runs.gate import Gate, junit
from forget_callback.runs.store import open_run
from forget_callback.snapshots.logs import LogOptions, is_log, match, read_logs
from forget_callback.snapshots.snapshot import Snapshot, complete

FILTER = typer.Option(help="lm-eval: the answer filter, where a log has several.")
METRIC = typer.Option(help="Metric of a log that decides what is correct, such as acc_norm; for inspect, the scorer.")
EPOCH = typer.Option(min=1, help="inspect: which epoch, where samples were evaluated several times.")
OPTIONS = typer.Option("--n-choices", min=2, max=26, help="Options of items answered by a letter, if the log lacks it.")
PARTIAL = typer.Option(help="Leave out items that cannot be compared, and report how many.")


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="RUN, RUN@STEP (else its first step), snapshot file, or log.")],
    after: Annotated[str, typer.Argument(help="RUN, RUN@STEP (else its last step), snapshot file, or log.")],
    format: Annotated[Literal["table", "json", "markdown"], typer.Option(help="How to print it.")] = "table",
    fail_if: Annotated[
        list[str] | None, typer.Option(help="Gate such as 'knowledge_lost>0.05' or 'PROBE/CATEGORY/METRIC>VALUE'.")
    ] = None,
    bound: Annotated[
        Literal["value", "lower"], typer.Option(help="What a gate tests: the value, or its lower confidence limit.")
    ] = "value",
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write the gates as JUnit XML.")] = None,
    filter: Annotated[str | None, FILTER] = None,
    metric: Annotated[str | None, METRIC] = None,
    epoch: Annotated[int | None, EPOCH] = None,
    n_choices: Annotated[int | None, OPTIONS] = None,
    allow_partial: Annotated[bool, PARTIAL] = False,
) -> None:
    """Compares two checkpoints item by item, of runs or of logs; exit status 1 if a gate fails.

    Logs are an lm-eval output directory or samples_*.jsonl, lighteval details, or an inspect log.
    """
    gates = [Gate.parse(text, bound=bound) for text in fail_if or ()]
    chosen = LogOptions(filter, metric, epoch, n_choices, allow_partial, note)
    first, last = _snapshots(before, after, chosen)
    for line in left_out(first, last):
        note(line)
    rows = compare_checkpoints(first, last)
    results = [gate.judge(rows) for gate in gates]
    title = f"{before} → {after}"
    if junit_file is not None:
        text = junit(results, title=title)
        write_text(junit_file, text)
    failed = [one for one in results if one.failed]
    if format == "json":
        print(comparison_json(rows, first, failed=[one.text for one in failed]))
    elif format == "markdown":
        lines = [f"- {'failed' if one.failed else 'passed'}: `{one.text}`: {one.message}" for one in results]
        print("\n".join([changes_markdown(rows), *([""] if lines else []), *lines]))
    else:
        Console().print(changes_table(rows, title=title))
    for one in failed:
        note(f"gate failed: {one.text}: {one.message}")
    if failed:
        raise typer.Exit(1)


def _snapshots(before: str, after: str, chosen: LogOptions) -> tuple[dict[str, Snapshot], dict[str, Snapshot]]:
    """Both sides by probe.

    Raises:
        ValueError: If they have no probes, or items of logs, in common.
    """
    is_ours = [not is_log(Path(source)) for source in (before, after)]
    if not any(is_ours):
        old, new = match([read_logs(Path(source), chosen) for source in (before, after)], chosen)
        return {name: log.snapshot() for name, log in old.items()}, {name: log.snapshot() for name, log in new.items()}
    if not all(is_ours):
        log, other = (after, before) if is_ours[0] else (before, after)
        raise ValueError(f"{log} is a log of another tool and {other} is not; compare logs of one tool, or two runs")
    first, last = _own(before, default="first"), _own(after, default="last")
    if set(first) != set(last):
        raise ValueError(
            f"the probes differ: {before} has {sorted(first)}, {after} has {sorted(last)}; nothing to compare"
        )
    return first, last


def _own(source: str, *, default: Any) -> dict[str, Snapshot]:
    """The snapshots that RUN, RUN@STEP or a file names, by probe."""
    if Path(source).is_file():
        one = Snapshot.load(source)
        return {one.probe: one}
    run = open_run(source)
    return {probe.name: complete(run.read(probe.name, default=default), probe) for probe in run.store.probes()}
