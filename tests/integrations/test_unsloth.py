"""unsloth's generated SFT trainer under `run`, against the callback in code, its checkpoints and no callback.

On a CPU, where unsloth imports with UNSLOTH_ALLOW_CPU=1; its `FastLanguageModel` needs a GPU and is not tested.
"""

import importlib.util
from pathlib import Path

import pytest

from tests.integrations.trained import attached, from_checkpoints, require_same, train

if importlib.util.find_spec("unsloth") is None:  # importing it would change transformers in this process
    pytest.skip("unsloth is not installed; `make integrations` runs this with it", allow_module_level=True)

SCRIPT = Path(__file__).with_name("unsloth_script.py")


def trained(directory, model, *options, start=lambda *words: words):
    out = directory / "run"
    words = start("python", SCRIPT, model, out, *options)
    # its generated trainers are written where it is told
    compiled = {"UNSLOTH_COMPILE_LOCATION": str(directory / "compiled")}
    return train(out, *words, UNSLOTH_ALLOW_CPU="1", **compiled)


@pytest.fixture(scope="module")
def by_run(model, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), model, start=attached)


def test_run_attaches_the_callback_as_in_code(by_run, model, tmp_path):
    assert "watched 1 UnslothSFTTrainer" in by_run.printed
    require_same(by_run, trained(tmp_path, model, "--in-code"))


def test_its_history_is_that_of_its_checkpoints(by_run, model, tmp_path):
    require_same(by_run, from_checkpoints(by_run, model, tmp_path), margins=1e-4)


def test_training_is_the_same_without_it(by_run, model, tmp_path):
    plain = trained(tmp_path, model)
    assert not (plain.path / "forget").exists()
    assert plain.weights == by_run.weights
