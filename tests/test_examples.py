"""The examples run as their own text says; `plot_run.py` runs with the README's commands in `test_demo.py`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_known_truth_writes_its_table_and_figure(tmp_path):
    command = [sys.executable, ROOT / "examples" / "known_truth.py", "--out", tmp_path / "study"]
    command += ["--seeds", "1", "--facts", "60", "--steps", "5", "15"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert run.returncode == 0, run.stderr
    table = (tmp_path / "study.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
