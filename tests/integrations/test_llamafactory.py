"""The real `llamafactory-cli train` under `run`, against the callback in code, checkpoints and no callback."""

import pytest

pytest.importorskip("llamafactory", reason="LLaMA-Factory is not installed; `make integrations` runs this with it")

from tests.integrations.trained import CALLBACK, attached, configured, from_checkpoints, require_same, train

IN_CODE = """
import sys
from llamafactory.train.tuner import run_exp
from forget_callback import ForgetCallback, load_probe

arguments = {arguments}
probes = [load_probe(spec, limit=arguments["probe_limit"]) for spec in arguments["probes"]]
run_exp(callbacks=[ForgetCallback(probes, every=arguments["every"])])
"""


def config(directory, model):
    out = str(directory / "run")
    return configured("llamafactory.yaml", directory, model_name_or_path=str(model), output_dir=out)


@pytest.fixture(scope="module")
def by_run(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return train(directory / "run", *attached("llamafactory-cli", "train", config(directory, model)))


def test_run_attaches_the_callback_as_in_code(by_run, model, tmp_path):
    (tmp_path / "in_code.py").write_text(IN_CODE.format(arguments=CALLBACK))
    require_same(by_run, train(tmp_path / "run", "python", tmp_path / "in_code.py", config(tmp_path, model)))


def test_its_history_is_that_of_its_checkpoints(by_run, model, tmp_path):
    require_same(by_run, from_checkpoints(by_run, model, tmp_path), margins=1e-4)


def test_training_is_the_same_without_it(by_run, model, tmp_path):
    plain = train(tmp_path / "run", "llamafactory-cli", "train", config(tmp_path, model))
    assert not (plain.path / "forget").exists()
    assert plain.weights == by_run.weights
