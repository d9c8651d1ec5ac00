"""The command line. A command is a few calls downward.

Results go to standard output, progress and notes to standard error. Exit status: 0 fine, 1 a gate failed, 2 anything
else, so that an error is never taken for a pass.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from forget_callback.comparison import compare_checkpoints, comparison_json
from forget_callback.history import ALL_METRICS, Row
from forget_callback.probes import item_record
from forget_callback.snapshot import Snapshot
from forget_callback.sources import load_probe
from forget_callback.store import Store, open_run, write_whole
from forget_callback.terminal import changes_table, percent

app = typer.Typer(
    help="See, item by item, what a language model forgets and what it gains.",
    epilog="--debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
notes = Console(stderr=True)


class Format(str, Enum):
    """Output formats of `compare`."""

    table = "table"
    json = "json"
    markdown = "markdown"


class Method(str, Enum):
    """Ways to fine-tune in `demo`."""

    sft = "sft"
    grpo = "grpo"


def main() -> None:
    """Entry point: errors in one or two lines, exit status 2."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="forget-callback")
    except Exception as error:
        if debug:
            raise
        text = str(error).strip() or type(error).__name__
        known = isinstance(error, (ValueError, OSError, ImportError))
        print(f"error: {text}" if known else f"error: {type(error).__name__}: {text}", file=sys.stderr)
        sys.exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same curve.")] = 0,
    samples: Annotated[int, typer.Option(min=32, help="New facts to train on.")] = 1600,
    replay: Annotated[float, typer.Option(min=0, max=0.9, help="Share of samples that are old facts.")] = 0.0,
    method: Annotated[Method, typer.Option(help="How to fine-tune.")] = Method.sft,
) -> None:
    """Teaches a tiny model facts, fine-tunes it with TRL, and shows which facts it forgets."""
    from forget_callback.demo import run_demo

    run_demo(out, seed=seed, samples=samples, replay=replay, method=method.value, results=Console(), notes=notes)


@app.command()
def snapshot(
    model: Annotated[str, typer.Argument(help="Model directory or hub id.")],
    probe: Annotated[list[str], typer.Option(help="Probe spec; give it once per probe.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    step: Annotated[int, typer.Option(min=0, help="Step to record it under.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items a probe.")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one forward; halved when memory ends.")
    ] = None,
) -> None:
    """Scores a model on probes and writes a run directory."""
    probes = [load_probe(spec, limit=limit) for spec in probe]

    from forget_callback.loading import load_model, load_tokenizer
    from forget_callback.scoring import Scorer, bind

    tokenizer, network = load_tokenizer(model), load_model(model)
    probes = [bind(p, tokenizer) for p in probes]
    store = Store(out)
    store.begin(probes)
    for p, taken in zip(probes, Scorer(tokenizer, probes, batch_tokens=batch_tokens).score(network, progress=True)):
        store.write(replace(taken, step=step, metadata={**taken.metadata, "model": model}))
        print(f"{p.name}: {percent(taken.accuracy)} of {len(taken)} items right")
    notes.print(f"written to {store.path}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="RUN, RUN@STEP or a snapshot file; the first step by default.")],
    after: Annotated[str, typer.Argument(help="RUN, RUN@STEP or a snapshot file; the last step by default.")],
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.table,
    fail_if: Annotated[
        list[str] | None, typer.Option(help="Gate such as 'knowledge_lost>0.05' or 'PROBE/CATEGORY/METRIC>VALUE'.")
    ] = None,
) -> None:
    """Compares two checkpoints item by item; exit status 1 if a gate fails."""
    gates = [_Gate(text) for text in fail_if or ()]
    old, new = _snapshots(before, default="first"), _snapshots(after, default="last")
    if set(old) != set(new):
        raise ValueError(
            f"the probes differ: {before} has {sorted(old)}, {after} has {sorted(new)}; nothing to compare"
        )
    rows = compare_checkpoints(old, new)
    failed = [gate.text for gate in gates if gate.fails(rows)]
    if format is Format.json:
        print(comparison_json(rows, failed=failed))
    elif format is Format.markdown:
        print(_as_markdown(rows))
    else:
        Console().print(changes_table(rows, title=f"{before} → {after}"))
    for text in failed:
        notes.print(f"gate failed: {text}", highlight=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN [RUN ...]", help="Run directories, one or several.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    stages: Annotated[
        bool | None,
        typer.Option(
            "--stages/--side-by-side", help="The runs are stages of one pipeline, or not; by default, ask them."
        ),
    ] = None,
) -> None:
    """Writes one or several runs as a page that needs no network: verdict, curves, map, and every item's story."""
    from forget_callback.report import write_report

    print(write_report(runs, out, stages=stages))


@app.command()
def probes(
    spec: Annotated[str, typer.Argument(help="Probe spec, such as builtin:facts or probe.jsonl.")],
    show: Annotated[int, typer.Option(min=0, help="Print so many items.")] = 0,
) -> None:
    """Loads and checks a probe and prints what is in it."""
    probe = load_probe(spec)
    print(f"{probe.name}: {len(probe)} items, fingerprint {probe.fingerprint}")
    counts = Counter((item.category or "(no category)", item.kind) for item in probe.items)
    for (category, kind), count in counts.items():
        print(f"  {category:<20} {kind:<16} {count:>6}")
    for item in probe.items[:show]:
        print(json.dumps(item_record(item), ensure_ascii=False))


@app.command()
def verify(
    config: Annotated[Path, typer.Argument(help="A recipe's YAML.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps to train, three times.")] = 5,
) -> None:
    """Trains a few steps with and without the callback and compares everything by hash; exit status 1 if it differs."""
    import tempfile

    from forget_callback.recipe import Recipe
    from forget_callback.verify import certify

    recipe = Recipe.read(config)
    with tempfile.TemporaryDirectory() as out:
        quiet = {"save_strategy": "no", "report_to": [], "logging_steps": 1, "max_steps": steps, "output_dir": out}

        def callback() -> Any:
            return recipe.forget.callback(every=1, max_overhead=None, on_error="raise", output_dir=out)

        with contextlib.redirect_stdout(sys.stderr):  # the trainer's own lines
            found = certify(lambda own: recipe.build(own, **quiet), callback, seed=recipe.training.seed)
    for title, other in (("without, twice", found.again), ("with and without", found.with_callback)):
        differing = found.without.differs(other)
        for name, value in found.without.hashes.items():
            said = f"differ ({value[:12]}, {other.hashes[name][:12]})" if name in differing else f"equal ({value[:12]})"
            print(f"{title:<18}{name:<12}{said}")
    if not found.deterministic:
        notes.print(
            "the setup gives something else each time, even without the callback: nothing can be certified",
            soft_wrap=True,
        )
    print(f"{'passed' if found.passed else 'failed'}: {steps} steps, {found.probed} snapshots")
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def workspace(
    entity: Annotated[str, typer.Option(help="W&B user or team.")],
    project: Annotated[str, typer.Option(help="W&B project that the runs are in.")],
    save_json: Annotated[Path | None, typer.Option(help="Write it to this file instead of sending it.")] = None,
) -> None:
    """Builds a saved W&B workspace: overview, per category, items, cost."""
    from forget_callback.workspace import as_json, make_workspace

    made = make_workspace(entity, project)
    if save_json is None:
        print(made.save().url)
        return
    write_whole(save_json, lambda temporary: temporary.write_text(as_json(made), encoding="utf-8"))
    print(save_json)


class _Gate:
    """`[PROBE/[CATEGORY/]]METRIC>VALUE`; without a probe it reads the pool of all. A number that is missing fails."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"\s*(?:([^/<>]+)/)?(?:(.+)/)?(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*", text)
        if match is None or match[3] not in ALL_METRICS:
            raise ValueError(f"--fail-if {text!r}: expected METRIC>VALUE with METRIC one of {', '.join(ALL_METRICS)}")
        self.text, self.probe, self.category, self.metric = text, match[1], match[2] or "", match[3]
        self.relation, self.value = match[4], float(match[5])

    def fails(self, rows: list[Row]) -> bool:
        probe = self.probe or rows[-1].probe  # "all" of several probes, else the only one
        found = [row for row in rows if (row.probe, row.category) == (probe, self.category)]
        if not found:
            known = sorted({"/".join(filter(None, (row.probe, row.category))) for row in rows})
            raise ValueError(f"--fail-if {self.text!r}: no such probe or category; known are {', '.join(known)}")
        value = float(found[0].as_dict()[self.metric])
        passes = {
            ">": value <= self.value,
            ">=": value < self.value,
            "<": value >= self.value,
            "<=": value > self.value,
        }
        return not passes[self.relation]  # NaN compares false: a gate without a number fails


def _snapshots(source: str, *, default: Any) -> dict[str, Snapshot]:
    """The snapshots that RUN, RUN@STEP or a file names, by probe."""
    if Path(source).is_file():
        one = Snapshot.load(source)
        return {one.probe: one}
    run = open_run(source)
    return {probe.name: run.read(probe.name, default=default) for probe in run.store.probes()}


def _as_markdown(rows: list[Row]) -> str:
    lines = [
        "| probe | category | items | before | after | forgotten (1→0) | gained (0→1) | knowledge lost |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        t = row.transitions
        low, high = t.knowledge_lost_interval
        rates = (t.accuracy_before, t.accuracy_after, t.forgetting, t.backward_transfer)
        cells = [row.probe, row.category, str(t.n), *(percent(rate) for rate in rates)]
        lines.append(
            "| " + " | ".join([*cells, f"{percent(t.knowledge_lost)} [{percent(low)}, {percent(high)}]"]) + " |"
        )
    return "\n".join(lines)
