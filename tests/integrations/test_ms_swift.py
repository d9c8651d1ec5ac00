"""The plugin in the real `swift sft`, against checkpoints scored afterwards and no callback."""

import json
from pathlib import Path

import pytest

pytest.importorskip("swift", reason="ms-swift is not installed; `make integrations` runs this with it")

import forget_callback.integrations.ms_swift as plugin
from tests.integrations.trained import CALLBACK, attached, configured, from_checkpoints, require_same, run, train

PLUGIN = ("external_plugins", "callbacks", "ENV")


def config(directory, model, **more):
    return configured("ms_swift.yaml", directory, model=str(model), output_dir=str(directory / "run"), **more)


@pytest.fixture(scope="module")
def with_plugin(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("plugin")
    return train(directory / "run", "swift", "sft", config(directory, model))


def test_its_history_is_that_of_its_checkpoints(with_plugin, model, tmp_path):
    require_same(with_plugin, from_checkpoints(with_plugin, model, tmp_path), margins=1e-4)


def test_training_is_the_same_without_it(with_plugin, model, tmp_path):
    plain = train(tmp_path / "run", "swift", "sft", config(tmp_path, model, without=PLUGIN))
    assert not (plain.path / "forget").exists()
    assert plain.weights == with_plugin.weights


def test_run_attaches_what_the_plugin_does(with_plugin, model, tmp_path):
    by_run = train(tmp_path / "run", *attached("swift", "sft", config(tmp_path, model, without=PLUGIN)))
    require_same(with_plugin, by_run)
    assert by_run.weights == with_plugin.weights


def test_a_trainer_that_has_the_plugin_gets_no_second_callback_from_run(with_plugin, model, tmp_path):
    require_same(with_plugin, train(tmp_path / "run", *attached("swift", "sft", config(tmp_path, model))))


def test_our_own_file_as_a_plugin_with_its_arguments_in_the_environment(with_plugin, model, tmp_path):
    given = config(tmp_path, model, without=("ENV",), external_plugins=[plugin.__file__])
    require_same(with_plugin, train(tmp_path / "run", "swift", "sft", given, FORGET_CALLBACK=json.dumps(CALLBACK)))


def test_our_own_file_leaves_no_folder_on_the_path_that_hides_other_packages():
    code = f"""if True:
        import sys
        from swift.utils import import_external_file
        import_external_file({plugin.__file__!r})
        from swift.callbacks import callbacks_map
        print("forget" in callbacks_map, {str(Path(plugin.__file__).parent)!r} in sys.path)
    """
    status, printed = run("python", "-c", code)
    assert status == 0, printed
    assert printed.splitlines()[-1] == "True False" or "True False" in printed


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"FORGET_CALLBACK": '{"evry": 2}'}, "did you mean 'every'"),
        ({"FORGET_CALLBACK": {"every": 2}}, "it stands as a text: FORGET_CALLBACK: '{\"every\": 100}'"),
    ],
)
def test_a_wrong_argument_ends_the_command(model, tmp_path, arguments, said):
    status, printed = run("swift", "sft", config(tmp_path, model, ENV=arguments))
    assert status != 0
    assert said in printed
    assert not (tmp_path / "run" / "forget").exists()
