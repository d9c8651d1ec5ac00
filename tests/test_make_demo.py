"""`make demo` runs in the environment into which README's install put this clone, else in a .venv of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def clone(tmp_path):
    """The files that `make demo` reads, in a path with a space."""
    clone = tmp_path / "my clone"
    (clone / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", clone)
    shutil.copy(ROOT / ".ci" / "installed_here.py", clone / ".ci")
    for name in ("pyproject.toml", "constraints.txt"):
        (clone / name).touch()
    return clone


def python(folder, *, source=None):
    """A Python of an environment that says what it was asked to run, with the package installed from `source`."""
    site = folder / "site"
    if source is not None:
        record = site / "forget_callback-0.1.0.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: forget-callback\nVersion: 0.1.0\n")
        record.joinpath("direct_url.json").write_text(json.dumps({"url": source, "dir_info": {"editable": True}}))
    stub = folder / "python3"
    folder.mkdir(exist_ok=True)
    stub.write_text(
        f'#!/bin/sh\ncase "$1" in .ci/*) PYTHONPATH="{site}" exec "{sys.executable}" -S "$@";; '
        '*) echo "ran: $0 $*";; esac\n'
    )
    stub.chmod(0o755)
    return stub


def demo(clone, stub):
    own = {**os.environ, "PATH": f"{stub.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of the make that runs these tests
        own.pop(name, None)
    return subprocess.run(["make", "demo", "BIN=/nowhere"], cwd=clone, env=own, capture_output=True, text=True)


def test_the_environment_that_has_this_clone_is_used(clone, tmp_path):
    found = demo(clone, python(tmp_path / "env", source=clone.as_uri()))
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith("python3 -m forget_callback demo --out demo-run")
    assert not (clone / ".venv").exists(), "nothing is installed twice"


@pytest.mark.parametrize("installed", ["another clone", "from an index", "not at all"])
def test_any_other_gets_an_environment_of_its_own(clone, tmp_path, installed):
    (tmp_path / "other").mkdir()
    stub = python(tmp_path / "env", source=(tmp_path / "other").as_uri() if installed == "another clone" else None)
    if installed == "from an index":
        record = tmp_path / "env" / "site" / "forget_callback-0.1.0.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: forget-callback\nVersion: 0.1.0\n")
    found = demo(clone, stub)
    assert "-m venv .venv" in found.stdout and "-m forget_callback" not in found.stdout
