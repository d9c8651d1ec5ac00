"""The short commands: `report`, `probes`, `verify`, `workspace`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forget_callback.cli.app import IncludePath, app, note, say_spacing, with_include_path
from forget_callback.cli.compare import EPOCH, FILTER, METRIC, OPTIONS, PARTIAL
from forget_callback.cli.output import Format, print_json
from forget_callback.metrics.diagnostics import few_items
from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.probes.items import Item, Text
from forget_callback.probes.load import load_probe
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable
from forget_callback.probes.records import item_record
from forget_callback.probes.spacing import spacing_problem
from forget_callback.probes.training_data import TrainingRows
from forget_callback.runs.files import require_writable, write_text
from forget_callback.runs.run_at import open_run
from forget_callback.runs.store import Store
from forget_callback.snapshots.logs import LogOptions, is_log, match, read_logs

if TYPE_CHECKING:
    from forget_callback.tools.verify import Certificate


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Runs, or logs of one model's checkpoints in order.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    stages: Annotated[
        bool | None, typer.Option("--stages/--side-by-side", help="Stages of one pipeline; by default read from runs.")
    ] = None,
    filter: Annotated[str | None, FILTER] = None,
    metric: Annotated[str | None, METRIC] = None,
    epoch: Annotated[int | None, EPOCH] = None,
    n_choices: Annotated[int | None, OPTIONS] = None,
    allow_partial: Annotated[bool, PARTIAL] = False,
    format: Format = "text",
) -> None:
    """Writes the page of a run: verdict, curves, every answer.

    One HTML file that needs no network, of one run or of several side by side. Logs of lm-eval, lighteval, inspect or
    RL trainers, and files with `id` and `score`, become the checkpoints of one run, in the order given.
    """
    import tempfile

    from forget_callback.report import write_report

    require_writable(out, "--out")
    logs, remarks = [is_log(Path(run)) for run in runs], list[str]()
    if not any(logs):
        page = write_report(runs, out, stages=stages)
        remarks += [f"{printable(run)}: {line}" for run in runs for line in open_run(run).store.incomplete()]
    elif all(logs) and len(runs) > 1:
        chosen = LogOptions(filter, metric, epoch, n_choices, allow_partial, remarks.append)
        with tempfile.TemporaryDirectory() as directory:
            page = write_report(run_of_logs(runs, Path(directory) / "logs", chosen), out)
    else:
        raise ValueError("a report of logs needs two or more, the checkpoints of one model in order, and no runs")
    for line in remarks:
        note(line)
    if format == "json":
        print_json("report", {"page": page, "runs": runs, "notes": remarks})
    else:
        print(page)


def run_of_logs(paths: Sequence[str], directory: Path, chosen: LogOptions) -> Store:
    """Logs as a run, a step each."""
    logs = match([read_logs(Path(path), chosen) for path in paths], chosen)
    probes = {name: log.to_probe() for name, log in logs[0].items()}
    store = Store(directory)
    store.begin(list(probes.values()), source=", ".join(paths))
    for step, own in enumerate(logs):
        for name, log in own.items():
            store.write(log.snapshot(step=step, fingerprint=probes[name].fingerprint))
    return store


@app.command()
def probes(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="Probe spec, such as builtin:facts or probe.jsonl.")],
    show: Annotated[int, typer.Option(min=0, help="Items to print.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Items at most, drawn as a run would.")] = None,
    include_path: IncludePath = None,
    format: Format = "text",
) -> None:
    """Checks a probe and prints what is in it."""
    probe = load_probe(with_include_path(spec, include_path), limit=limit)
    if isinstance(probe, TrainingRows):
        raise ValueError(
            f"{printable(spec)}: up to {probe.rows} rows of a trainer's own data, which are taken when training "
            "starts: there is nothing to show before; forget/probes/train.jsonl of that run holds them"
        )
    say_spacing(probe)
    if few := _too_few(probe):
        note(f"probe {probe.name!r}: {few}")
    if format == "json":
        print_json("probes", _contents(probe, probe.items[:show]))
        return
    print(f"{probe.name}: {counted(len(probe))}, fingerprint {probe.fingerprint}")
    found = _contents(probe, ())
    for own in found["categories"]:
        print(f"  {own['category'] or '(no category)':<20} {own['kind']:<16} {own['n']:>6}")
    asked, weak = (
        ", ".join(f"{counted(count)} in {n}" for n, count in found["prompts"].items()),
        found["weak"],
    )
    if not all(isinstance(item, Text) for item in probe.items):
        print(f"  prompts: {asked}" + (f" ({weak} of them only with other words around the first)" if weak else ""))
    if sizes := [item.n_bytes for item in probe.items if isinstance(item, Text)]:
        print(f"  documents: {len(sizes)} of {min(sizes):,} to {max(sizes):,} bytes, {sum(sizes):,} in all")
    for item in probe.items[:show]:
        print(json.dumps(item_record(item), ensure_ascii=False))


def _contents(probe: Probe, shown: Sequence[Item]) -> dict[str, Any]:
    """What is in a probe: items by category and kind, by their number of prompts, and those that are to be shown."""
    counts = Counter((item.category or "", item.kind) for item in probe.items)
    prompts = Counter(1 + len(item.variants) for item in probe.items)
    return {
        "probe": probe.name,
        "fingerprint": probe.fingerprint,
        "n": len(probe),
        "categories": [{"category": name, "kind": kind, "n": n} for (name, kind), n in counts.items()],
        "prompts": dict(sorted(prompts.items(), reverse=True)),
        "weak": sum(bool(item.variants) and all(one.weak for one in item.variants) for item in probe.items),
        "shown": [item_record(item) for item in shown],
        "notes": [text for text in (spacing_problem(probe), _too_few(probe)) if text],
    }


def _too_few(probe: Probe) -> str:
    """What is said of a probe of few items; a document says more than one right or wrong answer."""
    texts = all(isinstance(item, Text) for item in probe.items)
    return few_items(len(probe)) if len(probe) < MIN_ITEMS or not texts else ""


@app.command()
def verify(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe's YAML.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps per training run; there are three.")] = 5,
    format: Format = "text",
) -> None:
    """Proves that the callback changes nothing in a training of yours.

    Trains a few steps of a recipe with and without it and compares weights, losses and random generators by hash; exit
    status 1 if they differ.
    """
    import tempfile

    from forget_callback.tools.recipe import Recipe
    from forget_callback.tools.verify import certify

    recipe = Recipe.read(config)
    with tempfile.TemporaryDirectory() as out:
        quiet = {"save_strategy": "no", "report_to": [], "logging_steps": 1, "max_steps": steps, "output_dir": out}

        def callback() -> Any:
            return recipe.forget.callback(every=1, max_overhead=None, on_error="raise", output_dir=out)

        with contextlib.redirect_stdout(sys.stderr):  # the trainer's own lines
            found = certify(lambda own: recipe.build(own, **quiet), callback, seed=recipe.training.seed)
    if not found.deterministic:
        note("training is not deterministic even without the callback: nothing can be verified")
    if format == "json":
        print_json("verify", _hashes(found, steps))
    else:
        for title, other in (("without, twice", found.again), ("with and without", found.with_callback)):
            for name, value in found.without.items():
                same = other[name] == value
                said = f"equal ({value[:12]})" if same else f"differ ({value[:12]}, {other[name][:12]})"
                print(f"{title:<18}{name:<12}{said}")
        print(f"{'passed' if found.passed else 'failed'}: {steps} steps, {found.probed} snapshots")
    if not found.passed:
        raise typer.Exit(1)


def _hashes(found: Certificate, steps: int) -> dict[str, Any]:
    hashes = {"without": found.without, "again": found.again, "with_callback": found.with_callback}
    return {
        "passed": found.passed,
        "deterministic": found.deterministic,
        "steps": steps,
        "snapshots": found.probed,
        "hashes": {name: {kind: own[name] for kind, own in hashes.items()} for name in found.without},
    }


@app.command()
def workspace(
    entity: Annotated[str, typer.Option(help="W&B user or team.")],
    project: Annotated[str, typer.Option(help="W&B project of the runs.")],
    save_json: Annotated[Path | None, typer.Option(help="Write JSON to this file instead of saving to W&B.")] = None,
    format: Format = "text",
) -> None:
    """Saves a W&B workspace with panels for forgetting.

    Its sections: overview, per category, items, cost.
    """
    if save_json is not None:
        require_writable(save_json, "--save-json")
    from forget_callback.training.wandb_workspace import as_json, make_workspace

    made = make_workspace(entity, project)
    url = None if save_json is not None else made.save().url
    if save_json is not None:
        write_text(save_json, as_json(made))
    if format == "json":
        print_json("workspace", {"url": url, "path": save_json})
    else:
        print(save_json or url)
