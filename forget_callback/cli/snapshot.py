"""`snapshot`: a model, a served model or the checkpoints of a run scored on probes, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forget_callback.cli.app import IncludePath, app, note, say_spacing, with_include_path
from forget_callback.cli.output import Format, print_json
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.remote import require_model
from forget_callback.report.terminal import measured, snapshot_line
from forget_callback.runs.comparison import compare_checkpoints, rows_result
from forget_callback.runs.files import require_writable
from forget_callback.runs.results import snapshot_result
from forget_callback.runs.run_at import RunAt, open_run
from forget_callback.runs.store import Store
from forget_callback.runs.training import Training
from forget_callback.scoring.served.client import Server, is_address
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    from forget_callback.tools.checkpoint_history import CheckpointScorer
    from forget_callback.tools.checkpoints import Checkpoint
    from forget_callback.training.monitor import Observation


@app.command()
def snapshot(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Directories, hub ids, or one http://HOST:PORT/v1#MODEL."),
    ],
    probe: Annotated[list[str], typer.Option(help="Probe spec; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    step: Annotated[int | None, typer.Option(min=0, help="Step of a single model; by default its own, or 0.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The model before training, step 0; of one model also a RUN, to give its KL divergence from that."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per probe, at most.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward pass; halved on OOM.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Directory or hub id, if not found with the model.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent requests to a server.")] = 16,
    include_path: IncludePath = None,
    format: Format = "text",
) -> None:
    """Scores a model, or the checkpoints of a run, on probes.

    Writes a run directory, which compare and report read; of several checkpoints with the history of their run.
    """
    store = Store(out)
    require_writable(out, "--out", directory=True)
    probes = [load_probe(with_include_path(spec, include_path), limit=limit) for spec in probe]
    say_spacing(*probes)
    if any(map(is_address, models)):
        if len(models) > 1 or baseline is not None:
            raise ValueError(f"a served model must be the only one, got {[*models, *([baseline] if baseline else [])]}")
        _score_served(Server.at(models[0], concurrency=concurrency), probes, store, step or 0, tokenizer)
        _ended(store, probes, [step or 0], format)
        return

    from forget_callback.scoring.distributed import process_group, rank
    from forget_callback.tools.checkpoint_history import CheckpointScorer, score_history
    from forget_callback.tools.checkpoints import find_checkpoints

    checkpoints = find_checkpoints(models)
    before = None if baseline is None or not _is_run(baseline) else open_run(baseline)
    if before is not None and len(checkpoints) > 1:
        raise ValueError(
            f"--baseline {quoted(baseline)} is a RUN, which goes with one model; give the model before training, in a "
            "directory that holds no forget/"
        )
    baseline = None if before is not None else baseline
    for model in [*(one.model for one in checkpoints), *filter(None, (baseline, tokenizer))]:
        require_model(model)
    if step is not None and (len(checkpoints) > 1 or baseline is not None):
        raise ValueError(f"--step {step} goes with one model; checkpoints know their steps, and --baseline is step 0")
    with process_group():
        scorer = CheckpointScorer(probes, tokenizer or checkpoints[-1].model, batch_tokens=batch_tokens)
        if len(checkpoints) > 1 or baseline is not None:
            score_history(scorer, checkpoints, store, baseline=baseline, seen=_show, note=note)
            steps = [*([0] if baseline else []), *(one.step or 0 for one in checkpoints)]
        else:
            steps = [(checkpoints[0].step or 0) if step is None else step]
            _score_one(scorer, checkpoints[0], store, steps[0], before)
        if rank() == 0:
            _ended(store, probes, steps, format)


def _ended(store: Store, probes: Sequence[Probe], steps: Sequence[int], format: Format) -> None:
    """Says where everything is, and with JSON what was scored, now or by an earlier call of the same command."""
    note(f"written to {store.path}")
    if format != "json":
        return
    taken = [{probe.name: store.read(probe.name, step) for probe in probes} for step in steps]
    files = store.path / "snapshots"
    result: dict[str, Any] = {
        "run": store.path.parent,
        "snapshots": [
            {**snapshot_result(one), "path": files / name / f"step-{one.step:08d}.parquet"}
            for own in taken
            for name, one in own.items()
        ],
    }
    if len(taken) > 1:
        result |= rows_result(compare_checkpoints(taken[0], taken[-1]))
    print_json("snapshot", result)


def _score_served(server: Server, probes: Sequence[Probe], store: Store, step: int, tokenizer: str | None) -> None:
    from forget_callback.scoring.served.score import bind_served, score_served

    bound = [bind_served(probe, server, tokenizer=tokenizer) for probe in probes]
    _begin(store, [probe for probe, _ in bound], step, server.model)
    for probe, loaded in bound:
        _keep(store, [score_served(server, probe, loaded, progress=True).at(step)])


def _is_run(name: str) -> bool:
    """Whether a baseline is a RUN or RUN@STEP: also where the trained model was saved beside its forget/."""
    return Store(Path(name if Path(name).exists() else name.rpartition("@")[0] or name)).exists


def _score_one(scorer: CheckpointScorer, checkpoint: Checkpoint, store: Store, step: int, before: RunAt | None) -> None:
    """Scores one model; the first of a directory, without another baseline, is what later ones are compared with."""
    from forget_callback.scoring.distributed import on_main
    from forget_callback.training.record import keep_references

    def known() -> dict[str, Reference] | None:
        run = RunAt(store, None) if before is None and store.exists else before
        measured = [probe for probe in scorer.probes if run is not None and run.store.steps(probe.name)]
        found = run.references(measured) if run is not None and (measured or before is not None) else None
        _begin(store, scorer.probes, step, checkpoint.model)
        return found

    references = on_main(known)
    scorer.references.update(references or {})
    taken, _ = scorer.score(checkpoint, keep=references is None)
    if references is None:
        on_main(lambda: keep_references(store, scorer.references.values()))
    samples, tokens = checkpoint.samples_seen, checkpoint.tokens_seen
    taken = [one.at(step, samples_seen=samples, tokens_seen=tokens) for one in taken]
    on_main(lambda: _keep(store, taken))


def _begin(store: Store, probes: Sequence[Probe], step: int, model: str) -> None:
    """Prepares the store; refuses the record of a training and a step that is there, before anything is scored."""
    if store.exists and store.run.status is not None:
        raise ValueError(
            f"--out: {store.path} is the record of a training, and one model more does not belong in it; give another "
            "--out. To score all checkpoints of a run name its directory as MODEL"
        )
    if not store.exists:
        store.write_training(Training(model=model))
    store.begin(probes)
    for probe in probes:
        if step in store.steps(probe.name):
            raise ValueError(
                f"{store.path} holds probe {probe.name!r} at step {step} already; give another --out or --step"
            )


def _show(seen: Observation, first: bool) -> None:
    print(snapshot_line(seen.rows, seen.seconds, first=first), flush=True)


def _keep(store: Store, taken: Sequence[Snapshot]) -> None:
    for one in taken:
        store.write(one)
        print(measured(one), flush=True)
