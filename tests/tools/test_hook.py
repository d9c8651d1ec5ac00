"""The import hook in processes of their own: it waits for `transformers.trainer`, and is not there for anything else.

A package of two small files stands for transformers, whose import takes seconds; test_run.py has the real one.
"""

import json
import os
import subprocess
import sys

import pytest

from forget_callback.tools.launch import HOOK

LAZY = """
import importlib
def __getattr__(name):
    if name == "Trainer":
        return importlib.import_module(".trainer", __name__).Trainer
    raise AttributeError(name)
"""
TRAINER = """
class TrainerCallback: pass
DEFAULT_CALLBACKS = []
class CallbackHandler:
    def on_train_begin(self, args, state, control): return control
    def on_train_end(self, args, state, control): return control
class Trainer: pass
"""


@pytest.fixture
def python(tmp_path):
    """python(code, *options, hooked=True, **environment) -> the ended process, which has a small transformers."""
    package = tmp_path / "packages" / "transformers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(LAZY)
    (package / "trainer.py").write_text(TRAINER)
    (tmp_path / "reports").mkdir()

    def run(code, *options, hooked=True, **environment):
        given = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONNOUSERSITE": "1", **environment}
        if hooked:
            given["PYTHONPATH"] = f"{HOOK}{os.pathsep}{given['PYTHONPATH']}"
            given |= {"FORGET_CALLBACK": "{}", "FORGET_CALLBACK_REPORTS": str(tmp_path / "reports")}
        command = [sys.executable, *options, "-c", code]
        return subprocess.run(command, env=given, capture_output=True, text=True, cwd=tmp_path)

    return run


def said(done):
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


SEEN = "import json, sys; print(json.dumps([sys.path, sorted(sys.modules)]))"
PLACED = "[kind.__name__ for kind in sys.modules['transformers.trainer'].DEFAULT_CALLBACKS]"


def test_a_process_that_trains_nothing_has_the_modules_and_the_path_of_one_without(python):
    (path, modules), (bare_path, bare_modules) = said(python(SEEN)), said(python(SEEN, hooked=False))
    assert path == bare_path
    assert set(modules) <= set(bare_modules), "the hook must import nothing of its own"


@pytest.mark.parametrize(
    "load",
    [
        "import transformers.trainer",
        "from transformers import Trainer",
        "import importlib; importlib.import_module('transformers.trainer')",
        "import _thread as t, time; t.start_new_thread(__import__, ('transformers.trainer',)); time.sleep(0.5)",
        "import runpy; runpy.run_module('transformers.trainer')\nimport transformers.trainer",
        "import importlib.util; importlib.util.find_spec('transformers.trainer')\nimport transformers.trainer",
        "import importlib, transformers.trainer; importlib.reload(transformers.trainer)",
    ],
)
def test_every_way_to_import_the_trainer_is_seen_once(python, load):
    code = f"import json, sys\n{load}\nprint(json.dumps({PLACED}))"
    assert said(python(code)) == ["ForgetCallbackPlaceholder"]


def test_a_list_that_others_put_in_its_place_gets_it_when_a_trainer_is_built(python):
    """ms-swift, once it has imported the Trainer, gives it default callbacks of its own."""
    code = f"""
import json, sys, transformers.trainer as it
it.DEFAULT_CALLBACKS = [str]
it.Trainer(); it.Trainer()
print(json.dumps({PLACED}))
"""
    assert said(python(code)) == ["str", "ForgetCallbackPlaceholder"]


def test_the_module_is_as_without_the_hook(python):
    code = """
import inspect, json, pickle, transformers.trainer as it
spec = it.__spec__
print(json.dumps([type(it.__loader__).__name__, it.__loader__ is spec.loader, sorted(vars(spec.loader)), spec.origin,
                  spec.cached, it.__file__, inspect.getsource(it.Trainer), sorted(vars(it))]))
"""
    assert said(python(code)) == said(python(code, hooked=False))


def test_events_are_what_they_were_and_followed_once(python):
    """Also after a reload, and where what follows them fails."""
    code = """
import importlib, inspect, json, transformers.trainer as it
handler = it.CallbackHandler
importlib.reload(it)
it.CallbackHandler = handler
importlib.reload(it)
print(json.dumps([handler().on_train_begin(1, state=2, control=3), handler().on_train_end(1, 2, 3),
                  str(inspect.signature(it.CallbackHandler.on_train_begin)), handler.on_train_begin.__name__]))
"""
    assert said(python(code)) == said(python(code, hooked=False))


def test_children_inherit_it(python):
    """By the environment: subprocesses, modules that are run, and multiprocessing by spawn."""
    report = f"import sys, transformers.trainer; print(*{PLACED})"
    code = f"""
import multiprocessing, os, subprocess, sys
subprocess.run([sys.executable, "-c", {report!r}], cwd="/")
process = multiprocessing.get_context("spawn").Process(target=exec, args=({report!r},))
process.start(); process.join()
"""
    done = python(code)
    assert done.stdout.split() == ["ForgetCallbackPlaceholder"] * 2, done.stderr


@pytest.mark.parametrize(
    "own",
    [
        "import os; open('ran', 'a').write('x'); os.environ['MARK'] = '1'; value = 3",
        "raise ValueError('broken')",
        "raise ImportError('no such thing')",
        "import sys; sys.exit(4)",
    ],
)
def test_a_sitecustomize_of_the_users_own_does_what_it_did(python, tmp_path, own):
    """It is the one that a later import finds, and what it raises is reported as ever."""
    (tmp_path / "packages" / "sitecustomize.py").write_text(own)
    code = (
        "import os, sys; it = sys.modules.get('sitecustomize'); print(os.environ.get('MARK'), getattr(it, 'value', it))"
    )
    with_hook, without = python(code), python(code, hooked=False)
    assert (with_hook.returncode, with_hook.stdout) == (without.returncode, without.stdout)
    assert with_hook.stderr.splitlines()[-1:] == without.stderr.splitlines()[-1:]
    if "ran" in own:
        assert (tmp_path / "ran").read_text() == "xx", "once in each of the two processes"
        assert said(python(f"import json, sys, transformers.trainer\nprint(json.dumps({PLACED}))")) == [
            "ForgetCallbackPlaceholder"
        ]


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_isolated_processes_are_not_reached_and_work(python, tmp_path, option):
    assert said(python("print(1)", option)) == 1
    assert not (tmp_path / "reports" / "python").exists()
    assert said(python("print(1)")) == 1
    assert (tmp_path / "reports" / "python").exists()


def test_a_transformers_that_has_changed_is_said_where_it_is_imported(python, tmp_path):
    (tmp_path / "packages" / "transformers" / "trainer.py").write_text("class TrainerCallback: pass")
    done = python("import transformers.trainer; print('goes on')")
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert done.stderr.startswith("forget-callback run: NOT ATTACHED, no forgetting will be measured: ")
    assert "DEFAULT_CALLBACKS" in done.stderr and len(done.stderr.splitlines()) == 1
    assert len(list((tmp_path / "reports").glob("failed-*"))) == 1
    done = python("import transformers.trainer; print('goes on')", FORGET_CALLBACK_REQUIRE="1")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_python_without_the_package_says_so_when_a_trainer_is_built(python, tmp_path):
    """As one of another environment: nothing before, and training goes on."""
    (tmp_path / "packages" / "forget_callback.py").write_text("raise ModuleNotFoundError(\"No module named 'x'\")")
    build = "transformers.trainer.DEFAULT_CALLBACKS[0]().on_init_end(None, None, None)"
    done = python(f"import transformers.trainer; print('imported'); {build}; print('goes on')")
    assert (done.returncode, done.stdout) == (0, "imported\ngoes on\n")
    assert f"No module named 'x'; install forget-callback for {sys.executable}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
