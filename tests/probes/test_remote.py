"""A model or data set that cannot be had is named, with what kept it away: a path, the network, the hub."""

import itertools
import json
import subprocess
import sys
import urllib.error

import huggingface_hub.errors as hub
import pytest
import requests

from forget_callback.probes.remote import file_problem, hub_problem, looks_like_path, model_problem, require_model


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with one model, one of its adapters, and a run that holds a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("smol/config.json", "run/forget/manifest.json", "run/model/config.json", "tokens/tokenizer.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "file.bin").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def adapter(here, base):
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return "adapter"


@pytest.mark.parametrize("name", ["smol", "./smol", "run/model", "tokens"])
def test_a_directory_with_a_model_or_its_tokenizer_is_no_problem(here, name):
    assert model_problem(name) is None and model_problem(str(here / name)) is None
    require_model(name)


@pytest.mark.parametrize(
    "name, problem",
    [
        ("./smoll", "no such directory; did you mean 'smol'?"),
        ("run/modle/", "no such directory; did you mean 'run/model'?"),
        ("a/b/c", "no such directory"),
        ("~/smol", "no such directory"),
        ("run", "it has no config.json; did you mean 'run/model'?"),
        ("empty", "it has no config.json"),
        ("file.bin", "that is a file; give the directory that holds it"),
        ("two words", "neither a directory here nor a hub id, such as org/name"),
        ("smoll", "cannot reach the hub for 'smoll': it is switched off, unset HF_HUB_OFFLINE; did you mean 'smol'?"),
        ("org/name", "cannot reach the hub for 'org/name': it is switched off, unset HF_HUB_OFFLINE; and there is no"),
    ],
)
def test_what_is_no_model_is_told_apart(here, name, problem):
    assert model_problem(name).startswith(problem)
    with pytest.raises(ValueError, match=f"^no model at '{name}': "):
        require_model(name)


def test_an_adapter_is_as_good_as_its_base_model(here):
    assert model_problem(adapter(here, str(here / "smol"))) is None
    (here / "adapter" / "adapter_config.json").unlink()
    (here / "adapter").rmdir()
    problem = model_problem(adapter(here, "org/base"))
    assert problem.startswith("the base model of this adapter, 'org/base': cannot reach the hub for 'org/base': ")
    # The tokenizer that training saved beside it is one, but no model.
    (here / "adapter" / "tokenizer.json").touch()
    assert model_problem(str(here / "adapter")) is None
    with pytest.raises(ValueError, match="the base model of this adapter, 'org/base': cannot reach"):
        require_model(str(here / "adapter"))


@pytest.mark.parametrize("content", [b"[1]", b"null", b"5", b"{", b"", b"\xff\xfe"])
@pytest.mark.parametrize("tokenizer", [False, True])
def test_an_adapter_whose_config_cannot_be_read_is_said(here, content, tokenizer):
    adapter(here, "x")
    (here / "adapter" / "adapter_config.json").write_bytes(content)
    if tokenizer:
        (here / "adapter" / "tokenizer.json").touch()
    with pytest.raises(ValueError, match=r"no model at 'adapter': .*adapter_config.json' is no JSON object"):
        require_model("adapter")


@pytest.mark.parametrize("names", [["adapter"], ["other", "adapter"]])
def test_an_adapter_that_is_its_own_base_is_said(here, names):
    """Itself, or by way of another adapter."""
    adapter(here, names[0])
    for name, base in itertools.pairwise(names):
        (here / name).mkdir()
        (here / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(ValueError, match=r"no model at 'adapter': its adapter_config.json leads back to 'adapter'"):
        require_model("adapter")


def test_without_a_network_it_is_known_at_once(tmp_path):
    """Nobody listens at this address; the layers below try for a minute."""
    code = "from forget_callback.probes.remote import model_problem; print(model_problem('org/name'))"
    own = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=60)
    assert found.stdout.startswith("cannot reach the hub for 'org/name': ") and "refused" in found.stdout
    assert found.stderr == "", "and without a line on each try"


def raised(cause, error):
    """The error as it comes out of a layer that raised it from another."""
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error, problem",
    [
        (requests.exceptions.ConnectionError("no route"), "cannot reach the hub for 'org/x': no route"),
        (requests.exceptions.ProxyError("407"), "cannot reach the hub for 'org/x': 407"),
        (raised(requests.exceptions.ReadTimeout("late"), OSError("files")), "cannot reach the hub for 'org/x': files"),
        (
            raised(urllib.error.URLError("x"), ConnectionRefusedError("refused")),
            "cannot reach the hub for 'org/x': ref",
        ),
        (
            ValueError("Couldn't reach 'org/x' on the Hub (OfflineModeIsEnabled)"),
            "cannot reach the hub for 'org/x': it",
        ),
        (hub.OfflineModeIsEnabled("off"), "cannot reach the hub for 'org/x': it is switched off, unset HF_HUB_OFFLINE"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files."), "cannot reach the hub for"),
        (FileNotFoundError("x"), None),
        (ValueError("another split"), None),
    ],
)
def test_errors_of_every_layer_are_read(error, problem):
    found = hub_problem("org/x", error)
    assert found is None if problem is None else found.startswith(problem)


@pytest.mark.parametrize(
    "kind, problem",
    [
        ("RepositoryNotFoundError", "the hub has no 'org/x' that you may read; check the spelling, or log in with"),
        ("GatedRepoError", "'org/x' is gated on the hub; accept its terms there and log in with 'hf auth login'"),
        ("DatasetNotFoundError", "the hub has no 'org/x' that you may read"),
    ],
)
def test_what_is_not_there_is_no_matter_of_the_network(kind, problem):
    cls = getattr(hub, kind, None) or type(kind, (FileNotFoundError,), {})
    assert hub_problem("org/x", raised(cls.__new__(cls), OSError("not there"))).startswith(problem)


@pytest.mark.parametrize("name", ["mine.jsonl", "org/mine.JSON", "a.csv", "a.parquet", "a.txt", "./a", "a/b/c"])
def test_data_that_can_only_be_a_file_are_missed_at_once(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert file_problem(name) == "no such file or directory"
    (tmp_path / "main.jsonl").touch()
    assert file_problem("mian.jsonl") == "no such file or directory; did you mean 'main.jsonl'?"
    assert file_problem("main.jsonl") is file_problem("org/name") is file_problem("gsm8k") is None


def test_paths_and_hub_ids():
    assert all(map(looks_like_path, ["./a", "../a", "/a", "~/a", "a/b/c", "a/"]))
    assert not any(map(looks_like_path, ["gpt2", "org/name", "org/name-1.5"]))
