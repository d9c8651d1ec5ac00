"""`compare`: two checkpoints item by item, as a table or as a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from forget_callback.cli.app import app, note
from forget_callback.cli.output import print_json
from forget_callback.probes.plurals import counted, were
from forget_callback.probes.quoting import code, markdown, printable, quoted
from forget_callback.report.differences import runs_sentence
from forget_callback.report.terminal import changes_markdown, changes_table, lost_items_markdown, lost_items_table
from forget_callback.runs.comparison import (
    compare_checkpoints,
    compared_against,
    comparison_result,
    decided_by,
    left_out,
    overall,
    without_texts,
)
from forget_callback.runs.files import require_writable, write_text
from forget_callback.runs.gate import MIN_SCORED, GateResult, junit
from forget_callback.runs.gates import AnyGate, read_gate
from forget_callback.runs.history import History
from forget_callback.runs.lost_items import LostItem, lost_items
from forget_callback.runs.rows import Row
from forget_callback.runs.sides import Side, copies, one_sided, pair, read_side, require_two
from forget_callback.snapshots.logs import Log, LogOptions, is_log, match, paired, read_logs, require_there
from forget_callback.snapshots.logs.log import listed, task_and_time

FILTER = typer.Option(help="lm-eval: the answer filter, where a log has several.")
METRIC = typer.Option(help="Metric of a log that decides what is correct, such as acc_norm; for inspect, the scorer.")
EPOCH = typer.Option(min=1, help="inspect: which epoch, where samples were evaluated several times.")
OPTIONS = typer.Option("--n-choices", min=2, max=26, help="Options of items answered by a letter, if the log lacks it.")
PARTIAL = typer.Option(help="Leave out items that cannot be compared, and report how many.")
SCORED = typer.Option(min=0, max=1, help="Share of the items that must be scored on both sides, or each gate fails.")
OPEN = typer.Option(help="Exit with status 3 where a gate's limit is neither passed nor shown to be kept.")
ITEMS = typer.Option(min=0, help="Also show so many of the items that were lost, with prompts and answers.")
TEXTS = typer.Option(help="Whether what is said may quote prompts, answers, ids of items, and errors that do.")
IDENTICAL = typer.Option(help="Let gates pass on two logs that hold the same text, and may be one log and its copy.")


@app.command()
def compare(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help="RUN, RUN@STEP (else its first step), snapshot file, or log.")
    ],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", help="RUN, RUN@STEP (else its last step), snapshot file, or log.")
    ],
    format: Annotated[Literal["table", "json", "markdown"], typer.Option(help="How to print it.")] = "table",
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help="Gate: 'verdict=lost', 'knowledge_lost>0.05' or 'PROBE/CATEGORY/METRIC>VALUE'."),
    ] = None,
    bound: Annotated[
        Literal["value", "lower"], typer.Option(help="What a gate tests: the value, or its lower confidence limit.")
    ] = "value",
    min_scored: Annotated[float, SCORED] = MIN_SCORED,
    inconclusive: Annotated[bool, OPEN] = False,
    items: Annotated[int, ITEMS] = 0,
    texts: Annotated[bool, TEXTS] = True,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write the gates as JUnit XML.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Also write it as Markdown.")] = None,
    filter: Annotated[str | None, FILTER] = None,
    metric: Annotated[str | None, METRIC] = None,
    epoch: Annotated[int | None, EPOCH] = None,
    n_choices: Annotated[int | None, OPTIONS] = None,
    allow_partial: Annotated[bool, PARTIAL] = False,
    allow_identical: Annotated[bool, IDENTICAL] = False,
) -> None:
    """Compares two models item by item; with gates for CI.

    Exit status 1 if a gate fails, 2 for an error, with --inconclusive 3 if a gate neither fails nor passes for sure.
    Logs are an lm-eval output directory or samples_*.jsonl, lighteval details, an inspect log, a validation dump of an
    RL trainer, or any JSON Lines, CSV or Parquet file with `id` and `score`.
    """
    if not 0 <= min_scored <= 1:  # NaN, which older versions of click let pass
        raise ValueError(f"--min-scored must lie in [0, 1], such as {MIN_SCORED}, got {min_scored:g}")
    gates = [read_gate(one, bound=bound, min_scored=min_scored, inconclusive=inconclusive) for one in fail_if or ()]
    for file, option in ((junit_file, "--junit"), (markdown_file, "--markdown")):
        if file is not None:
            require_writable(file, option)
    if inconclusive and not gates:
        raise ValueError("--inconclusive needs a gate: give at least one --fail-if")
    if items and not texts:
        raise ValueError("--items shows prompts and answers, and --no-texts leaves them out: give one of the two")
    remarks: list[str] = []  # printed when nothing can go wrong any more: an error stands alone
    chosen = LogOptions(filter, metric, epoch, n_choices, allow_partial, remarks.append, texts)
    first, last = _sides(before, after, chosen, probes=items > 0)
    require_two(first, last)
    remarks += _gaps(first, last, gated=bool(gates))
    remarks += _copies(first, last, gated=bool(gates) and not allow_identical)
    remarks += left_out(first.snapshots, last.snapshots)
    for gate in gates:
        _require_both(gate, first, last)
    rows = compare_checkpoints(first.snapshots, last.snapshots)
    rows = rows if texts else without_texts(rows)
    not_measured = list(dict.fromkeys([*first.not_measured, *last.not_measured]))
    against = compared_against(first.snapshots, last.snapshots)
    results = [gate.judge(rows, not_measured=not_measured, before=against) for gate in gates]
    title = f"{first} → {last}"
    about = [f"{name}: {said}" for name, one in first.snapshots.items() if (said := decided_by(one))]
    about += _apart(before, after, first, last)
    for_files = [title, *one_sided(first, last), *about]  # which nobody reads beside the notes
    lost = lost_items(first, last) if items else []
    as_markdown = _markdown(rows, results, for_files, lost, items)
    if junit_file is not None:
        write_text(junit_file, junit(results, title=title, about=for_files))
    if markdown_file is not None:
        write_text(markdown_file, f"{as_markdown}\n")
    said = "\n".join(remarks)
    remarks += [*_uncovered(rows, min_scored), *(one for one in not_measured if one not in said)]
    for line in remarks:
        note(line)
    if format == "json":
        failed, unsure = ([one.text for one in results if one.outcome == name] for name in ("failed", "inconclusive"))
        few = {one.text: one.too_few for one in results if one.too_few}
        open_gates = unsure if inconclusive else None
        result = comparison_result(
            rows, first, last, failed=failed, inconclusive=open_gates, too_few=few, notes=remarks
        )
        named = {"lost_items": [asdict(one) for one in lost[:items]]} if items else {}
        print_json("compare", {**result, **named})
    elif format == "markdown":
        print(as_markdown)
    else:
        # Of a gate that did not pass the reason follows on standard error, once.
        lines = [f"{one.outcome}: {one.text}" + f": {one.message}" * (one.outcome == "passed") for one in results]
        Console().print(changes_table(rows, title=title, about=[*about, *lines]))
        if items:
            Console().print(lost_items_table(lost, count=items))
    _exit(results)


def _markdown(
    rows: Sequence[Row], results: Sequence[GateResult], about: Sequence[str], lost: Sequence[LostItem], items: int
) -> str:
    """The gates, the table and the first `items` of what was lost."""
    gates = [f"{one.outcome}: {code(one.text)}: {markdown(one.whole_message)}" for one in results]
    parts = [changes_markdown(rows, about=about, gates=gates)]
    return "\n\n".join([*parts, *([lost_items_markdown(lost, count=items)] if items else [])])


def _exit(results: Sequence[GateResult]) -> None:
    """Says which gates did not pass or cannot fail, and ends with the status of that: one that failed wins."""
    for one in results:
        if one.too_few:
            note(f"gate {printable(one.text)} {one.too_few}")
        if one.outcome != "passed":
            kind = "failed" if one.failed else "inconclusive"
            note(f"gate {kind}: {printable(one.text)}: {one.message}")
    outcomes = {one.outcome for one in results}
    if outcomes - {"passed"}:
        raise typer.Exit(1 if "failed" in outcomes else 3)


def _sides(before: str, after: str, chosen: LogOptions, *, probes: bool) -> tuple[Side, Side]:
    """Both sides, of logs the texts of the items only if asked for.

    Raises:
        ValueError: If they have no probes, or items of logs, in common.
    """
    is_ours = [not is_log(Path(source)) for source in (before, after)]
    if not any(is_ours):
        logs = paired([read_logs(Path(source), chosen) for source in (before, after)])
        old, new = match(logs, chosen)
        items = {name: log.to_probe() for name, log in old.items()} if probes else {}
        return replace(_of_logs(before, old, logs[0]), probes=items), _of_logs(after, new, logs[1])
    if not all(is_ours):
        log, other = (after, before) if is_ours[0] else (before, after)
        require_there(Path(log))
        raise ValueError(f"{log} is a log of another tool and {other} is not; compare logs of one tool, or two runs")
    old_side = read_side(before, default="first", texts=chosen.texts)
    first, last = pair(old_side, read_side(after, default="last", texts=chosen.texts))
    for line in one_sided(first, last):
        chosen.note(line)
    return first, last


def _apart(before: str, after: str, first: Side, last: Side) -> list[str]:
    """Which of two whole runs lost more: what is compared is the first step of one with the last of the other."""
    if first.run is None or first.run == last.run or not all(Path(source).is_dir() for source in (before, after)):
        return []
    runs = [(read_side(source, default="first"), read_side(source, default="last")) for source in (before, after)]
    if any(begun.step == ended.step for begun, ended in runs):
        return []
    histories = [History(), History()]
    for history, sides in zip(histories, runs):
        for side in sides:
            history.append([one for name, one in side.snapshots.items() if name in first.snapshots])
    lines = []
    for probe in first.snapshots:
        ends = [ended.snapshots[probe] for _, ended in runs]
        text, _ = runs_sentence(histories, [first.name, last.name], probe, ends)
        lines.append(f"{probe}, each from its own first step to its last: {text}")
    return lines


def _of_logs(source: str, logs: Mapping[str, Log], before: Mapping[str, Log]) -> Side:
    """A side of logs; `before` they were matched there may have been more."""
    files = {name: log.files for name, log in logs.items()}
    alone = tuple(name for name in before if name not in logs)
    return Side(source, {name: log.snapshot() for name, log in logs.items()}, files, alone=alone)


def _require_both(gate: AnyGate, first: Side, last: Side) -> None:
    """That both sides have what a gate is about.

    Raises:
        ValueError: If it is about all probes, or about one, that a side lacks: nothing is known of it, and that is no
            pass.
    """
    for side, other in ((first, last), (last, first)):
        if gate.probe in side.alone:
            raise ValueError(
                f"--fail-if {quoted(gate.text, 200)}: {side} has probe {gate.probe!r}, and {other} does not"
            )
        if side.alone and gate.probe in (None, "all"):
            probe = _readable(gate, first, last)
            example = f": {quoted(gate.on(probe), 200)}" if probe else ""
            raise ValueError(
                f"--fail-if {quoted(gate.text, 200)} is about all probes, and {other} lacks {listed(side.alone)}, "
                f"which {side} has. Measure it there too, or name a probe that both have{example}"
            )


def _readable(gate: AnyGate, first: Side, last: Side) -> str | None:
    """A probe of both sides that has what a gate compares, None where there is none."""
    for name in first.snapshots:
        row = overall(compare_checkpoints({name: first.snapshots[name]}, {name: last.snapshots[name]}))
        if gate.can_read(row):
            return name
    return None


def _gaps(*sides: Side, gated: bool) -> list[str]:
    """What the records of runs lack; with gates that is an error: a run that crashed passes nothing.

    Raises:
        ValueError: If `gated`.
    """
    found = list(dict.fromkeys(f"{side.name}: {gap}" for side in sides for gap in side.gaps))
    if found and gated:
        raise ValueError(f"{found[0]}. A gate needs a whole run: train it to its end, or judge a step: RUN@STEP")
    return found


def _copies(first: Side, last: Side, *, gated: bool) -> list[str]:
    """Says which files of the two sides hold the same, as a log that was copied by mistake does.

    Two evaluations of lm-eval or lighteval differ by the time in their files' names.

    Raises:
        ValueError: If `gated` and nothing shows that two logs are two.
    """
    lines = []
    for name in copies(first, last):
        pairs = list(zip(first.files[name], last.files[name]))
        line = f"{name}: {pairs[0][0]} and {pairs[0][1]} hold the same text, so that no item differs; is one a copy?"
        if gated and first.step is None and any(_time(one) == _time(other) for one, other in pairs):
            raise ValueError(f"{line} If two models did answer alike, say so: --allow-identical")
        lines.append(line)
    return lines


def _time(file: Path) -> str:
    return task_and_time(file)[1]


def _uncovered(rows: Sequence[Row], least: float) -> list[str]:
    """What to say of probes, and of their categories, of which too few items were scored both times."""
    lines = []
    for row in rows:
        t, name = row.transitions, "/".join(filter(None, (row.probe, row.category)))
        if (not row.category and not t.scored >= least) or t.n == 0:
            every = counted(t.n + t.n_unscored)
            lines.append(f"{printable(name)}: only {t.n} of {every} {were(t.n)} scored both times")
    return lines
