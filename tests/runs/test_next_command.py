"""The next command that is printed is one that a shell, there and then, can run."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "from forget_callback.runs.next_command import next_command; print(next_command('compare', 'a run', 'b;c'))"
ARGUMENTS = ["compare", "a run", "b;c"]
PACKAGE = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path):
    """A virtual environment as pip leaves it: a link to Python, and the program beside it, which says what it got."""
    folder = tmp_path / "my project" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    (folder.parent / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    return folder


def program(folder, name="forget-callback"):
    path = folder / name
    text = f"#!/bin/sh\nexec '{folder}/python' -S -c 'import sys; print(sys.argv[1:])' \"$@\"\n"
    path.write_text(text)
    path.chmod(0o755)
    return path


def printed(command, *, cwd, path=()):
    """What is printed as the next command."""
    paths = [PACKAGE, *map(Path, sys.path[1:])]
    own = {
        "PATH": os.pathsep.join([*map(str, path), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    return subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True, check=True).stdout.strip()


def runs(line, *, cwd, path=()):
    """Whether a shell in that directory finds it and passes the arguments on."""
    own = {"PATH": os.pathsep.join([*map(str, path), "/usr/bin", "/bin"])}
    found = subprocess.run(line, shell=True, cwd=cwd, env=own, capture_output=True, text=True)
    return found.stdout.strip() == repr(ARGUMENTS)


def test_an_environment_that_is_active_needs_the_name_alone(environment, tmp_path):
    program(environment)
    line = printed([environment / "python", "-c", CODE], cwd=tmp_path, path=[environment])
    assert line == "forget-callback compare 'a run' 'b;c'"
    assert runs(line, cwd=tmp_path, path=[environment])


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_one_that_is_not_active_is_named_by_its_path(environment, tmp_path, where):
    program(environment)
    cwd = environment.parents[1] if where == "here" else tmp_path / "other"
    cwd.mkdir(exist_ok=True)
    line = printed([environment / "python", "-c", CODE], cwd=cwd)
    named = ".venv/bin/forget-callback" if where == "here" else str(environment / "forget-callback")
    assert shlex.split(line) == [named, *ARGUMENTS]
    assert runs(line, cwd=cwd)


def test_another_installation_on_the_path_is_not_taken_for_this_one(environment, tmp_path):
    program(environment)
    other = tmp_path / "other"
    other.mkdir()
    (other / "python").symlink_to(sys.executable)
    program(other)
    line = printed([environment / "python", "-c", CODE], cwd=environment.parents[1], path=[other])
    assert shlex.split(line)[0] == ".venv/bin/forget-callback"


def test_a_link_on_the_path_is_this_one(environment, tmp_path):
    """As pipx makes it."""
    links = tmp_path / "links"
    links.mkdir()
    (links / "forget-callback").symlink_to(program(environment))
    line = printed([environment / "python", "-c", CODE], cwd=tmp_path, path=[links])
    assert line.startswith("forget-callback ")
    assert runs(line, cwd=tmp_path, path=[links])


@pytest.mark.parametrize("active", [True, False])
def test_without_the_program_it_is_the_module(environment, active):
    """As in a clone that was not installed."""
    path = [environment] if active else []
    line = printed([environment / "python", "-c", CODE], cwd=environment.parents[1], path=path)
    assert shlex.split(line) == ["python" if active else ".venv/bin/python", "-m", "forget_callback", *ARGUMENTS]


def test_a_directory_that_was_deleted_meanwhile_costs_nothing(environment, tmp_path):
    code = f"import os, shutil, tempfile; d = tempfile.mkdtemp(); os.chdir(d); shutil.rmtree(d); {CODE}"
    own = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(map(str, [PACKAGE, *map(Path, sys.path[1:])]))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own, check=True)
    assert "compare" in shlex.split(done.stdout)
