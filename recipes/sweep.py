"""Runs recipes at several values of a key, and shows all runs side by side.

python recipes/sweep.py --config A.yaml [B.yaml ...] [--over KEY=V1,V2] [--seeds 0,1,2] [--smoke] [--out DIR]

A run is a process of its own, by recipes/sft.py or recipes/grpo.py; `--launch` is put before it, such as
"accelerate launch --config_file recipes/accelerate/zero3.yaml". A run that is there already is not trained again.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from forget_callback import Store
from forget_callback.report import write_report
from forget_callback.report.terminal import sparkline
from forget_callback.runs.formatting import estimate

RECIPES = Path(__file__).parent


def runs(configs: list[Path], over: str | None, seeds: list[str]) -> list[tuple[str, Path, list[str]]]:
    """(name, config, options) of each run."""
    key, _, values = (over or "").partition("=")
    if over and not values:
        raise SystemExit(f"--over {over!r}: expected KEY=VALUE,VALUE,...")
    found = []
    for config in configs:
        name = config.stem if config.stem != "config" else config.parent.name
        if len(configs) == 1 and (over or seeds != [""]):
            name = ""  # the value and the seed say it
        for value in values.split(",") if values else [""]:
            for seed in seeds:
                parts = [name, f"{key}={value.replace('/', '_')}" if value else "", f"seed={seed}" if seed else ""]
                options = [*([f"--{key}", value] if value else []), *(["--seed", seed] if seed else [])]
                found.append(("-".join(filter(None, parts)), config, options))
    return found


def train(config: Path, out: Path, options: list[str], smoke: bool, launch: str) -> None:
    """One run."""
    trainer = yaml.safe_load(config.read_text(encoding="utf-8")).get("trainer", "sft")
    start = shlex.split(launch) if launch else [sys.executable]
    command = [*start, str(RECIPES / f"{trainer}.py"), "--config", str(config), "--out", str(out), *options]
    subprocess.run([*command, *(["--smoke"] if smoke else [])], check=True)


def table(stores: list[Store]) -> Table:
    """The end of each run: what was lost and gained of each probe, with 95% intervals, and the curve of 1→0."""
    shown = Table(title="What each run had lost and gained in the end", title_justify="left", box=box.SIMPLE_HEAD)
    shown.add_column("run", overflow="fold")
    for name in ("1→0", "0→1", "knowledge lost"):
        shown.add_column(name, justify="right", no_wrap=True)
    for store in stores:
        history = store.history()
        ends = [history.select(probe.name) for probe in store.probes()]
        shown.add_row(f"{store.path.parent.name}, {ends[0][-1].samples_seen:,.0f} samples", style="bold")
        for rows in ends:
            curve = sparkline([row.value("forgetting") for row in rows])
            cells = (estimate(rows[-1], metric) for metric in ("forgetting", "backward_transfer", "knowledge_lost"))
            shown.add_row(f"{rows[0].probe}\n{curve}", *(cell.replace(" [", "\n[") for cell in cells))
        shown.add_section()
    return shown


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Runs recipes at several values of a key, side by side.")
    parser.add_argument("--config", required=True, nargs="+", type=Path, help="one or several recipes' YAML")
    parser.add_argument("--over", help="KEY=V1,V2,...: any field, such as train_samples=1000,10000")
    parser.add_argument("--seeds", default="", help="of the training, with commas")
    parser.add_argument("--smoke", action="store_true", help="the tiny model and a few hundred samples, on a CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="where the runs go")
    parser.add_argument("--launch", default="", help="put before each run, such as 'accelerate launch ...'")
    given = parser.parse_args()
    missing = [str(config) for config in given.config if not config.is_file()]
    if missing:
        parser.error(f"--config: no such file: {', '.join(missing)}")
    stores = []
    for name, config, options in runs(given.config, given.over, given.seeds.split(",")):
        store = Store(given.out / name)
        if not (store.path / "report.html").is_file():
            train(config, given.out / name, options, given.smoke, given.launch)
        stores.append(store)
    Console().print(table(stores))
    print(f"page {write_report(stores, given.out / 'report.html', stages=False)}")
