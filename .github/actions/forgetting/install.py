"""Installs forget-callback: what the input names, else the version that the action came with.

A comparison of logs and runs needs few packages, and no torch.
"""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parents[3]
PACKAGES = CLONE / "forget_callback" / "probes" / "installed.py"


def main() -> int:
    """Runs pip; its exit status."""
    wanted = shlex.split(os.environ["INSTALL"])
    if wanted == ["false"]:
        return 0
    if wanted:
        return pip(wanted)
    if not PACKAGES.exists():
        print("::error::input install is empty and the action does not lie in a clone of forget-callback: name one")
        return 2
    if os.environ["PROBES"].strip():
        return pip([str(CLONE)])
    few = runpy.run_path(str(PACKAGES))
    return pip([*few["FOR_COMPARE"], *few["FOR_PAGES"]]) or pip(["--no-deps", str(CLONE)])


def pip(words: list[str]) -> int:
    """Installs; the exit status."""
    return subprocess.run([sys.executable, "-m", "pip", "install", *words]).returncode


if __name__ == "__main__":
    sys.exit(main())
