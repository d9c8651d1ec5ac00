"""The plugin in the real `axolotl train`, against the callback in code, its checkpoints and no callback."""

import pytest

pytest.importorskip("axolotl", reason="Axolotl is not installed; `make integrations` runs this with it")

from forget_callback.integrations.axolotl import ForgetArgs, ForgetPlugin
from tests.integrations.trained import CALLBACK, attached, configured, from_checkpoints, require_same, run, train

QUIET = {"AXOLOTL_DO_NOT_TRACK": "1"}
PLUGIN = ("plugins", "forget")

IN_CODE = """
import sys
from axolotl.cli.args import TrainerCliArgs
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.train import setup_model_and_trainer
from forget_callback import ForgetCallback, load_probe

if __name__ == "__main__":  # its datasets start processes that import this file
    cfg = load_cfg(sys.argv[1])
    trainer, *_ = setup_model_and_trainer(cfg, load_datasets(cfg=cfg, cli_args=TrainerCliArgs()))
    arguments = {arguments}
    probes = [load_probe(spec, limit=arguments["probe_limit"]) for spec in arguments["probes"]]
    ForgetCallback(probes, every=arguments["every"]).attach(trainer)
    trainer.train()
"""


def config(directory, model, **more):
    out = {"output_dir": str(directory / "run"), "dataset_prepared_path": str(directory / "data")}
    tokens = {"pad_token": "<pad>"}
    return configured("axolotl.yaml", directory, base_model=str(model), special_tokens=tokens, **out, **more)


@pytest.fixture(scope="module")
def with_plugin(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("plugin")
    return train(directory / "run", "axolotl", "train", config(directory, model), **QUIET)


def test_the_plugin_is_the_callback_in_code(with_plugin, model, tmp_path):
    (tmp_path / "in_code.py").write_text(IN_CODE.format(arguments=CALLBACK))
    given = config(tmp_path, model, without=PLUGIN)
    require_same(with_plugin, train(tmp_path / "run", "python", tmp_path / "in_code.py", given, **QUIET))


def test_its_history_is_that_of_its_checkpoints(with_plugin, model, tmp_path):
    require_same(with_plugin, from_checkpoints(with_plugin, model, tmp_path), margins=1e-4)


def test_training_is_the_same_without_it(with_plugin, model, tmp_path):
    plain = train(tmp_path / "run", "axolotl", "train", config(tmp_path, model, without=PLUGIN), **QUIET)
    assert not (plain.path / "forget").exists()
    assert plain.weights == with_plugin.weights


def test_run_attaches_what_the_plugin_does(with_plugin, model, tmp_path):
    given = config(tmp_path, model, without=PLUGIN)
    by_run = train(tmp_path / "run", *attached("axolotl", "train", given), **QUIET)
    require_same(with_plugin, by_run)
    assert by_run.weights == with_plugin.weights


def test_a_trainer_that_has_the_plugin_gets_no_second_callback_from_run(with_plugin, model, tmp_path):
    both = train(tmp_path / "run", *attached("axolotl", "train", config(tmp_path, model)), **QUIET)
    require_same(with_plugin, both)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"forget": {"evry": 2}}, "did you mean 'every'"),
        ({"forget": {"probes": 3}}, "probes must be a text or a list of texts"),
        ({"forget_every": 2}, "unknown key 'forget_every'; the plugin's keys stand in a block, forget: {every: ...}"),
    ],
)
def test_a_wrong_key_ends_the_command_before_a_model_is_loaded(model, tmp_path, keys, said):
    status, printed = run("axolotl", "train", config(tmp_path, tmp_path / "no-model", **keys), **QUIET)
    assert status != 0
    assert said in printed
    assert not (tmp_path / "run" / "forget").exists()


def test_axolotl_finds_the_keys_where_the_plugin_says():
    module, _, name = ForgetPlugin().get_input_args().rpartition(".")
    assert (module, name) == (ForgetArgs.__module__, ForgetArgs.__name__)
    assert ForgetArgs.model_validate({"forget": CALLBACK}).forget == CALLBACK
    assert ForgetArgs.model_validate({}).forget is None  # the callback's defaults
