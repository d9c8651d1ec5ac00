"""`--format json`: one object whatever else prints, numbers that JSON has, and nothing after an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forget_callback.runs.results import as_json

# A command of the kind that others write: libraries print in Python, in C and in a child process.
COMMAND = """
import os, subprocess, sys, typer
from forget_callback.cli import app, main
from forget_callback.cli.output import Command, Format, print_json

@app.command("noisy", cls=Command)
def noisy(fail: str = "", format: Format = "text") -> None:
    print("of a library")
    os.write(1, b"of a library in C\\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    if format == "json":
        print_json("noisy", {"share": float("nan"), "name": "Größe"})
    if fail == "gate":
        raise typer.Exit(1)
    if fail == "error":
        raise ValueError("no such thing")
    print("the end")

sys.argv = ["forget-callback", "noisy", *sys.argv[1:]]
main()
"""


def noisy(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_standard_output_is_one_object_in_utf_8_whoever_prints(encoding):
    code, out, err = noisy("--format", "json", PYTHONIOENCODING=encoding)
    result = {"format_version": 1, "command": "noisy", "share": None, "name": "Größe"}
    assert (code, json.loads(out)) == (0, result)
    assert "Größe" in out.decode("utf-8")
    assert all(line in err for line in ("of a library", "of a library in C", "of a child", "the end"))


def test_without_json_nothing_is_moved():
    code, out, err = noisy()
    assert code == 0 and not err
    assert sorted(out.decode().split("\n")[:-1]) == ["of a child", "of a library", "of a library in C", "the end"]


def test_a_gate_that_fails_has_its_result_and_an_error_has_none():
    code, out, _ = noisy("--format", "json", "--fail", "gate")
    assert code == 1 and json.loads(out)["command"] == "noisy"
    code, out, err = noisy("--format", "json", "--fail", "error")
    assert (code, out) == (2, b"") and err.endswith("error: no such thing\n")


def test_numbers_texts_and_paths_are_what_json_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = "a\x9bb\u202ec\ud800\n😀"
    value = {"x": np.float32("nan"), "y": [np.inf, np.int64(3), (True, None)], 4: Path("run"), "odd": odd}
    text = as_json(value)
    read = json.loads(text)
    assert read == {"x": None, "y": [None, 3, [True, None]], "4": str(tmp_path / "run"), "odd": odd}
    assert text.isascii() or all(c.isprintable() or c == "\n" for c in text), "nothing that a terminal obeys"
    assert "😀" in text
    with pytest.raises(TypeError):
        as_json({"what": object()})
