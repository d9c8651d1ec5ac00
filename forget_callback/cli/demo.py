"""`demo`: see it work, on a tiny model of our own or on any causal language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from forget_callback.cli.app import app, note, notes
from forget_callback.cli.output import Format, print_json
from forget_callback.demo.stopped import said_if_stopped
from forget_callback.probes.quoting import printable
from forget_callback.probes.remote import require_model
from forget_callback.runs.comparison import rows_result
from forget_callback.runs.files import require_writable
from forget_callback.runs.next_command import next_command
from forget_callback.runs.task import main_metric

if TYPE_CHECKING:
    from forget_callback.callback import ForgetCallback

_SAMPLES = 1600


@app.command()
def demo(
    model: Annotated[
        str | None,
        typer.Option(help="Directory or hub id of a causal language model; a tiny one of our own by default."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --model: a file or data set to train on; a quiz of our own by default.")
    ] = None,
    method: Annotated[Literal["sft", "grpo", "dpo"], typer.Option(help="How to fine-tune.")] = "sft",
    lora: Annotated[bool, typer.Option("--lora", help="With --model: train an adapter.")] = False,
    probe: Annotated[
        list[str] | None,
        typer.Option(help="With --model: what to watch, several times for several; 600 facts by default."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=32, help="Samples to train on, of DPO pairs; what takes a few minutes by default.")
    ] = None,
    replay: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Without --model: share of samples that replay old facts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same curve.")] = 0,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("demo-run"),
    format: Format = "text",
) -> None:
    """Fine-tunes a model and shows what it forgets: minutes, on a CPU.

    Without --model a tiny one is made and taught facts first: two minutes, offline. With --model any causal language
    model is trained for a few minutes.
    """
    require_writable(out, "--out", directory=True)
    if model is None:
        _refuse({"--data": data is not None, "--lora": lora, "--probe": bool(probe), "--method dpo": method == "dpo"})
        from forget_callback.demo.run import run_demo

        share, results = replay or 0.0, Console()
        with said_if_stopped(out):
            ended = run_demo(
                out,
                seed=seed,
                samples=samples or _SAMPLES,
                replay=share,
                method=method,
                results=results,
                notes=notes,
            )
        if format == "json":
            print_json("demo", {"model": None, "method": method, "replay": share, "seed": seed, **_result(ended, out)})
        return
    if replay is not None:
        raise ValueError(
            "--replay mixes in facts that the tiny model was taught, and --model names one that was taught elsewhere; "
            "leave --replay out, or mix old data into the file that --data names (forget-callback replay makes such)"
        )

    require_model(model)
    note(f"loading {printable(model)} ...")  # imports and weights take a while
    with said_if_stopped(out):
        from forget_callback.demo.config import DemoConfig
        from forget_callback.demo.real import run_on_model

        config = DemoConfig(model, data, method, lora, tuple(probe or ()), samples, seed, out)
        ended = run_on_model(config, results=Console())
    if format == "json":
        print_json("demo", {"model": model, "method": method, "lora": lora, "seed": seed, **_result(ended, out)})


def _result(ended: ForgetCallback, out: Path) -> dict[str, Any]:
    """What a run that has ended measured, and where everything is."""
    from forget_callback.demo.offline import offline_run

    assert ended.monitor is not None
    store, rows = ended.monitor.store, ended.monitor.last_rows
    curves, page = store.task_curves(), store.path / "report.html"
    metric = main_metric(curves)
    return {
        "samples_seen": rows[0].samples_seen,
        "run": out,
        "trained_model": out / "model",
        "page": page if page.is_file() else None,
        "wandb": offline_run(out),
        "task": metric and {"metric": metric, "first": curves[metric].values[0], "last": curves[metric].values[-1]},
        "before": {"run": store.run.id, "step": ended.monitor.rows[0].step},
        "after": {"run": store.run.id, "step": rows[0].step},
        **rows_result(rows),
        "next": next_command("compare", out, out),
    }


def _refuse(given: dict[str, bool]) -> None:
    """Options of a real model are no options of the tiny one.

    Raises:
        ValueError: If one was given.
    """
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise ValueError(
            f"{' and '.join(names)} {'needs' if len(names) == 1 else 'need'} --model: the demo without a model makes "
            "and teaches a tiny one of its own; name a directory or hub id, such as "
            "--model HuggingFaceTB/SmolLM2-135M-Instruct"
        )
