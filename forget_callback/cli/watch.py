"""`watch`: the checkpoints of a run that is training, scored as they come, here or beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from forget_callback.cli.app import IncludePath, app, note, say_spacing, with_include_path
from forget_callback.cli.output import Format, print_json
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.probes.remote import require_model
from forget_callback.report.terminal import snapshot_line
from forget_callback.runs.comparison import rows_result
from forget_callback.runs.files import require_writable
from forget_callback.runs.remote import RemoteTraining
from forget_callback.runs.run_at import require_before
from forget_callback.runs.stop_rules import check_targets, stop_rules
from forget_callback.runs.store import Store

if TYPE_CHECKING:
    from forget_callback.tools.checkpoint_history import ModelScorer
    from forget_callback.tools.checkpoints import Checkpoint
    from forget_callback.tools.watch import Watched
    from forget_callback.training.monitor import Observation
    from forget_callback.training.trackers import Tracker


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that the training writes checkpoints into.")],
    probe: Annotated[
        list[str] | None, typer.Option(help="Probe spec; repeat for several. By default what the training names.")
    ] = None,
    pattern: Annotated[str, typer.Option(help="Which directories in it are checkpoints.")] = "checkpoint-*",
    patience: Annotated[float, typer.Option(min=0, help="Seconds without a new checkpoint after which to end.")] = 7200,
    interval: Annotated[float, typer.Option(min=0.01, max=86_400, help="Seconds between two looks at the disk.")] = 10,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="METRIC>VALUE at which training should stop; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where checkpoints are scored, such as cuda:1.")] = None,
    served: Annotated[
        str | None, typer.Option(metavar="URL", help="Score by a server instead, http://HOST:PORT/v1#MODEL.")
    ] = None,
    load: Annotated[
        str, typer.Option(metavar="COMMAND", help="Makes that server load a checkpoint; {checkpoint} stands for it.")
    ] = "",
    wandb: Annotated[bool, typer.Option("--wandb", help="Log the curves to the training's W&B run.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run directory to write, by default RUN.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The model before training; found out if it can be.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per probe, at most.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward pass; halved on OOM.")] = None,
    variants: Annotated[
        Literal["all", "changed", "ends", "off"], typer.Option(help="When to ask items in their further prompts.")
    ] = "all",
    tokenizer: Annotated[str | None, typer.Option(help="Directory or hub id, if not found with checkpoints.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent requests to a server.")] = 16,
    include_path: IncludePath = None,
    format: Format = "text",
) -> None:
    """Scores the checkpoints of a run while it trains.

    Gives the history and page of a callback in the training, and writes decision.json, which
    ForgetCallback(remote=True) obeys. Ends when the run does, or after --patience.
    """
    rules, target = stop_rules(stop or ()), out or run
    if served is not None:
        _require_served(served, load, device, batch_tokens, variants)
    elif load:
        raise ValueError(f"--load {load!r} loads a checkpoint into a server; give --served URL too")
    Store(target, writable=False).require_watched()
    if target.exists() or out is not None:
        require_writable(target, "--out" if out else "RUN", directory=True)
    given = [load_probe(with_include_path(spec, include_path), limit=limit) for spec in probe or ()]
    if given:
        check_targets(rules, given)
        say_spacing(*given)
    for model in filter(None, (baseline, tokenizer)):
        require_model(model)
    if baseline is not None:
        require_before(baseline, run)

    from forget_callback.scoring.distributed import process_group, rank, world_size
    from forget_callback.tools.checkpoint_history import CheckpointScorer
    from forget_callback.tools.served_checkpoints import ServedScorer
    from forget_callback.tools.watch import Watcher

    def make_scorer(first: Checkpoint, training: RemoteTraining | None) -> ModelScorer:
        probes = given or _probes_of(training, include_path, limit)
        if served is None:
            return CheckpointScorer(probes, tokenizer or first.model, batch_tokens=batch_tokens, device=device)
        return ServedScorer(probes, served, first.model, load=load, tokenizer=tokenizer, concurrency=concurrency)

    with process_group():
        _require_place(device, served, world_size())
        store = Store(target, writable=rank() == 0)
        watcher = Watcher(
            run,
            pattern,
            store,
            make_scorer,
            given=given,
            baseline=baseline,
            stop=rules,
            variants=variants,
            trackers=_wandb(store) if wandb else lambda training: (),
            interval=interval,
            patience=patience,
            shown=_show,
            note=note,
        )
        found = watcher.watch()
        if rank() == 0:
            _end(found, store, run, patience, format)


def _probes_of(training: RemoteTraining | None, include_path: Path | None, limit: int | None) -> list[Probe]:
    """The probes that the training was given."""
    specs = [] if training is None else training.probes
    if not specs:
        raise ValueError("no --probe, and the training names none; give --probe SPEC, such as builtin:facts")
    return [load_probe(with_include_path(spec, include_path), limit=limit) for spec in specs]


def _require_served(served: str, load: str, device: str | None, batch_tokens: int | None, variants: str) -> None:
    from forget_callback.tools.served_checkpoints import require_load

    for name, value in (("--device", device), ("--batch-tokens", batch_tokens)):
        if value is not None:
            raise ValueError(f"{name} {value} is of models that are loaded here; with --served the server decides it")
    if variants == "changed":
        raise ValueError(
            "--variants changed chooses what to ask by the answers to the first prompts, and a server is asked all at "
            "once; with --served give --variants all, or ends for fewer prompts"
        )
    require_load(served, load)


def _require_place(device: str | None, served: str | None, processes: int) -> None:
    """That what scores is there, before a checkpoint is.

    Raises:
        ValueError: If not.
    """
    import torch

    if processes > 1 and (device or served):
        what = f"--device {device}" if device else f"--served {served}"
        raise ValueError(f"{what} goes with one process; under torchrun each process has a device of its own")
    if device is not None:
        try:
            torch.zeros(1, device=device).item()  # of "meta", which holds no numbers, an error
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {device!r} is not there: {str(error).splitlines()[0]}") from None


def _wandb(store: Store) -> Any:
    def open_tracker(training: RemoteTraining | None) -> Sequence[Tracker]:
        from forget_callback.training.wandb_watcher import open_for_watcher

        return [open_for_watcher({} if training is None else training.wandb, directory=store.path.parent)]

    return open_tracker


def _show(seen: Observation, first: bool) -> None:
    print(snapshot_line(seen.rows, seen.seconds, first=first), flush=True)


def _end(found: Watched, store: Store, run: Path, patience: float, format: Format) -> None:
    """Says how it ended.

    Raises:
        ValueError: If there is no number of the last checkpoint.
    """
    note("the run has ended" if found.over else f"nothing new came for {patience:,.0f} s, so the watcher ends")
    if not found.steps:
        raise ValueError(f"no checkpoint in {run} was scored{f': {found.failed}' if found.failed else ''}")
    note(f"written to {store.path}")
    if found.failed:
        raise ValueError(f"the last checkpoint has no numbers: {found.failed}")
    if format == "json":
        about = {
            "run": run,
            "record": store.path,
            "ended": found.over,
            "steps": found.steps,
            "left_out": found.left_out,
            "decision": None if found.decision is None else asdict(found.decision),
        }
        print_json("watch", {**about, **rows_result(found.rows)})
