"""What the demo on a real model prints at its end: verdict, curve, some items lost and gained, and the files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from forget_callback.callback import ForgetCallback
from forget_callback.demo.config import DemoConfig
from forget_callback.demo.offline import offline_run
from forget_callback.demo.samples import Samples
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable
from forget_callback.probes.variants import QUESTION
from forget_callback.report.fitted import plain_table
from forget_callback.report.terminal import changes_table, lost_cell
from forget_callback.runs.abilities import is_mixed
from forget_callback.runs.formatting import bits, bits_change, percent
from forget_callback.runs.headline import headline
from forget_callback.runs.next_command import next_command
from forget_callback.runs.rows import Row
from forget_callback.runs.store import Store
from forget_callback.snapshots.snapshot import Snapshot

SHOWN = 5  # items lost, and as many gained


def show(config: DemoConfig, callback: ForgetCallback, trainer: Any, samples: Samples, results: Console) -> None:
    """Prints the outcome of a run."""
    monitor = callback.monitor
    assert monitor is not None
    metric = "reward" if config.method == "grpo" else "loss"
    logged = [(row["step"], float(row[metric])) for row in trainer.state.log_history if metric in row]

    def line(text: str, style: str | None = None) -> None:
        results.print(Text(printable(text), style=style or ""), highlight=False, soft_wrap=True)

    results.print()
    count = trainer.state.max_steps * trainer.args.per_device_train_batch_size
    line(f"{config.method.upper()} on {trained_on(config, samples, count)}", "bold")
    if is_mixed(monitor.last_rows):
        results.print()
        results.print(changes_table(monitor.last_rows, title="Before and after, what was lost first"))
    else:
        for row in monitor.last_rows:
            if not row.category and row.probe != "all":
                said = headline(row)
                for text in (said.sentence, *said.notes):
                    line(f"{row.probe}: {text}")
    store = Store(config.out)
    for probe in monitor.probes:
        rows = [row for row in monitor.rows if (row.probe, row.category) == (probe.name, "")]
        results.print()
        results.print(curve(rows, logged, metric, title=f"{probe.name} during training"))
        if rows[-1].transitions.ability == "text":
            continue
        steps = store.steps(probe.name)
        before, after = (store.read(probe.name, steps[i]) for i in (0, -1))
        for what, sides in (("lost", (before, after)), ("gained", (after, before))):
            if len(places := moved(*sides)):
                results.print(changed(what, probe, before, after, places))
    for name, text in _places(config, store):
        line(f"{name:<15}{text}")


def trained_on(config: DemoConfig, samples: Samples, count: int) -> str:
    """How much is trained on, in words that go with the samples seen of the curve."""
    if config.method == "dpo":
        return f"{count:,} pairs ({samples.about}; both answers of a pair are counted: {2 * count:,} samples)"
    return f"{count:,} samples ({samples.about})"


def curve(rows: Sequence[Row], logged: Sequence[tuple[int, float]], metric: str, *, title: str) -> Table:
    """The task beside what was lost, a line an evaluation; the loss is the mean since the evaluation before."""
    table, text = plain_table(title), rows[0].transitions.ability == "text"
    names = ("bits per byte", "worse", "better", "change") if text else ("accuracy", "1→0", "0→1", "lost")
    for name in ("samples", metric, *names):
        table.add_column(name, justify="right", no_wrap=True)
    before = -1
    for row in rows:
        own = [value for step, value in logged if before < step <= row.step]
        t, before = row.transitions, row.step
        table.add_row(
            f"{row.samples_seen:,.0f}",
            f"{np.mean(own):.2f}" if own else "",
            bits(row.value("bits_per_byte_after")) if text else percent(t.accuracy_after),
            percent(t.forgetting),
            percent(t.backward_transfer),
            "" if not row.confirmed or not row.step else bits_change(row) if text else lost_cell(row),
        )
    return table


def moved(before: Snapshot, after: Snapshot) -> NDArray[np.int64]:
    """Positions of the items that are right before and wrong after, in every prompt; those that moved most first."""
    right, wrong = (
        np.all([_correct(side, number, of=before) == value for number in range(1, before.n_variants + 1)], axis=0)
        for side, value in ((before, 1), (after, 0))
    )
    found = np.flatnonzero(right & wrong)
    return found[np.argsort((after.margin - before.margin)[found], kind="stable")]


def _correct(side: Snapshot, number: int, *, of: Snapshot) -> NDArray[Any]:
    return np.asarray(getattr(side, "correct" if number == 1 else f"correct_{number}"))


def changed(what: str, probe: Probe, before: Snapshot, after: Snapshot, places: NDArray[np.int64]) -> Table:
    """A few items that were lost or gained, with the right answer and the wrong one."""
    every = " in every prompt" if before.n_variants > 1 else ""
    way = "right before, wrong now" if what == "lost" else "wrong before, right now"
    shown = f" ({SHOWN} of {len(places)})" if len(places) > SHOWN else ""
    table = plain_table(f"{what.capitalize()}: {way}{every}{shown}")
    names = ("right answer", "answer now") if what == "lost" else ("answer before", "right answer")
    for name in ("question", *names):
        table.add_column(name, overflow="fold")
    prompts = {item.id: item.prompt for item in probe.items}
    for i in places[:SHOWN]:
        asked = prompts[str(before.ids[i])].removeprefix(QUESTION.opening).removesuffix(QUESTION.closing)
        texts = (asked, before.prediction[i], after.prediction[i])
        table.add_row(*(Text(printable(" ".join(str(text).split()))) for text in texts))
    return table


def _places(config: DemoConfig, store: Store) -> list[tuple[str, str]]:
    """Where the run is, and what to do next."""
    run = offline_run(config.out)
    commands = [next_command("compare", config.out, config.out)]
    if not config.lora and find_spec("peft") is not None:
        options = [] if config.data is None else ["--data", config.data]
        options += [] if config.method == "sft" else ["--method", config.method]
        options += [] if config.samples is None else ["--samples", str(config.samples)]
        options += [] if config.seed == 0 else ["--seed", str(config.seed)]
        options += [word for spec in config.probes for word in ("--probe", spec)]
        commands.append(
            next_command("demo", "--model", config.model, *options, "--lora", "--out", f"{config.out}-lora")
        )
    return [
        ("", ""),
        ("page", str(store.path / "report.html")),
        ("run directory", str(config.out)),
        ("model", str(config.out / "model")),
        *([("W&B run", f"{run}   ({next_command('leet', run, program='wandb')})")] if run is not None else []),
        *zip(("next", "", ""), commands),
    ]
