"""Real trainings by other people's trainers: an example's configuration with a tiny taught model, and what came out.

The tests that use this run in environments of their own, see `make integrations`.
"""

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import transformers
import yaml
from safetensors.torch import load_file

from forget_callback.demo import tiny
from forget_callback.probes.load import load_probe
from forget_callback.runs.store import Store
from tests.helpers import digest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "integrations"
STEPS = [0, 4, 8, 12, 16]  # of every example
PROBES = ["builtin:facts?kind=choice", "builtin:facts?kind=recall"]
LIMIT = 100
CALLBACK = {"probes": PROBES, "probe_limit": LIMIT, "every": 4}  # as the examples have it
SETTINGS = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


@dataclass(frozen=True)
class Trained:
    """A run directory, and what its command printed."""

    path: Path
    printed: str

    @property
    def weights(self) -> str:
        """Of the last checkpoint, as a hash."""
        return digest(load_file(self.path / "checkpoint-16" / "model.safetensors"))

    @property
    def snapshots(self) -> dict[tuple[str, int], pd.DataFrame]:
        """Every item of every snapshot, by probe and step."""
        store = Store(self.path)
        return {
            (probe.name, step): store.read(probe.name, step).to_pandas().set_index("id")
            for probe in store.probes()
            for step in store.steps(probe.name)
        }

    @property
    def history(self) -> pd.DataFrame:
        """The table of the run, without what a clock gave."""
        table = pd.read_parquet(self.path / "forget" / "history.parquet")
        return table.drop(columns=["probe_seconds", "overhead"], errors="ignore")


def make_taught(directory: Path) -> Path:
    """A directory with a tiny model that knows most of the facts that the examples ask for."""
    with tiny.quiet():
        transformers.set_seed(0)
        facts = tiny.known_facts(*[load_probe(spec, limit=LIMIT) for spec in PROBES])
        new = [" ".join(pair) for pair in tiny.invented_facts(128, random.Random(0))]
        model, tokenizer = tiny.make_taught_model(facts, new, seed=0, steps=150)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def configured(name: str, directory: Path, *, without: tuple[str, ...] = (), **overrides) -> Path:
    """An example's YAML, with some keys left out or overridden, written into a directory."""
    given = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    config = {key: value for key, value in {**given, **overrides}.items() if key not in without}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    return directory / name


def run(*words: object, **environment: str) -> tuple[int, str]:
    """A command of this environment in the repository, as a user types it: its exit status and what it printed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("FORGET")},
            **SETTINGS,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout + done.stderr


def train(path: Path, *words: object, **environment: str) -> Trained:
    """Runs the command that trains into a run directory, and expects it to succeed."""
    status, printed = run(*words, **environment)
    assert status == 0, printed[-5000:]
    return Trained(path, printed)


def attached(*words: object) -> list[object]:
    """The command, started by `forget-callback run` with what the examples have."""
    return [sys.executable, "-m", "forget_callback", "run", "--config", EXAMPLES / "forget.yaml", "--", *words]


def from_checkpoints(trained: Trained, model: Path, directory: Path) -> Trained:
    """What scoring its checkpoints afterwards gives: the history that the callback would have recorded."""
    probes = [word for spec in PROBES for word in ("--probe", spec)]
    options = [*probes, "--limit", LIMIT, "--baseline", model, "--out", directory]
    checkpoints = sorted(trained.path.glob("checkpoint-*"))  # the run directory of some is a model itself
    return train(directory, sys.executable, "-m", "forget_callback", "snapshot", *checkpoints, *options)


def require_same(one: Trained, other: Trained, *, margins: float = 0.0) -> None:
    """Expects two runs to have the same snapshots item by item, and the same history.

    Args:
        margins: How far margins may be apart, in nats: 0 where the model was scored in one process both times.
    """
    assert {step for _, step in one.snapshots} == set(STEPS)
    assert one.snapshots.keys() == other.snapshots.keys()
    for key, snapshot in one.snapshots.items():
        pd.testing.assert_frame_equal(snapshot, other.snapshots[key], rtol=0, atol=margins, obj=f"snapshot {key}")
    pd.testing.assert_frame_equal(one.history, other.history, rtol=0, atol=margins, obj="history")
