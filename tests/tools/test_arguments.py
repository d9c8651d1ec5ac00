"""The arguments of the callback as text: what YAML and JSON may say, and what is made of it."""

import json

import pytest

from forget_callback.tools.arguments import CallbackArguments
from forget_callback.tools.recipe import ForgetArguments

GIVEN = {
    "probes": ["builtin:facts?limit=9", "builtin:facts?name=other"],
    "probe_limit": 5,
    "every": 7,
    "stop": ["facts/forgetting>0.1"],
    "max_overhead": 0.25,
    "variants": "ends",
    "probe_batch_tokens": 512,
    "log": "all",
    "upload": "none",
    "evaluation_metrics": ["margin"],
    "on_error": "refuse",
    "output_dir": "elsewhere",
}


def test_a_file_and_a_variable_make_the_callback_that_they_describe(tmp_path):
    file = tmp_path / "forget.yaml"
    file.write_text(json.dumps(GIVEN))  # JSON is YAML
    read = CallbackArguments.read(file)
    assert read == CallbackArguments.of(GIVEN) == CallbackArguments.of_json(json.dumps(GIVEN))
    assert CallbackArguments.of_json(read.as_json()) == read
    settings = read.callback().settings
    assert [(probe.name, len(probe)) for probe in settings.probes] == [("facts", 5), ("other", 5)]
    assert [(rule.probe, rule.metric, rule.above) for rule in settings.stop] == [("facts", "forgetting", 0.1)]
    assert (settings.every, settings.max_overhead, settings.variants, settings.batch_tokens) == (7, 0.25, "ends", 512)
    assert (settings.log, settings.upload, settings.evaluation_metrics) == ("all", "none", ("margin",))
    assert (settings.on_error, settings.output_dir, settings.baseline) == ("refuse", "elsewhere", "start")
    assert read.callback(on_error="raise", every=[3]).settings.every == frozenset([3])


def test_where_another_process_measures_no_probe_is_loaded():
    given = {"probes": ["no-such-file.jsonl?chat=true", "builtin:facts?limit=3"], "probe_limit": 5, "stop": "churn>0.1"}
    settings = CallbackArguments.of({**given, "remote": True}).callback().settings
    assert settings == CallbackArguments.of(given).callback(remote=True).settings
    assert settings.remote and settings.probes == ()
    assert settings.specs == ("no-such-file.jsonl?chat=true&limit=5", "builtin:facts?limit=3")


def test_what_is_left_out_is_as_the_callback_has_it():
    from forget_callback import ForgetCallback

    assert CallbackArguments.of({}).callback().settings == ForgetCallback().settings


@pytest.mark.parametrize("name", ["probes", "stop"])
def test_one_text_is_a_list_of_one(name):
    assert getattr(CallbackArguments.of({name: "a/forgetting>1"}), name) == ["a/forgetting>1"]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"probs": "builtin:facts"}, "unknown key 'probs'; did you mean 'probes'?"),
        ({"max-overhead": 0.1}, "did you mean 'max_overhead'?"),
        ({3: "x"}, "unknown key 3; known are probes, probe_limit, every, stop"),
        ({"trainer": "sft"}, "unknown key 'trainer'"),
        ({"probes": 5}, "probes must be a text or a list of texts, got 5"),
        ({"stop": [{"metric": "forgetting"}]}, "stop must be a text or a list of texts"),
        ({"probes": []}, "probes is empty"),
        ({"probe_limit": "many"}, "probe_limit must be a whole number of 1 or more, got 'many'"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_its_place(given, said):
    with pytest.raises(ValueError, match=r"^here: ") as error:
        CallbackArguments.of(given, source="here")
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", '"every"', ""])
def test_a_variable_that_is_no_object_is_refused(text):
    with pytest.raises(ValueError, match=r"^FORGET_CALLBACK "):
        CallbackArguments.of_json(text)


def test_paths_are_made_absolute_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = [
        "a.jsonl?limit=3",
        "sub/b.jsonl",
        "builtin:facts?limit=3",
        "hub:all",
        "lm-eval:x?include_path=tasks&limit=2",
    ]
    given = CallbackArguments(specs, baseline="runs/one@3", output_dir="out")
    found = given.absolute()
    assert found.probes[:4] == [f"{tmp_path}/a.jsonl?limit=3", f"{tmp_path}/sub/b.jsonl", *specs[2:4]]
    assert found.probes[4].replace("%2F", "/") == f"lm-eval:x?include_path={tmp_path}/tasks&limit=2"
    assert (found.baseline, found.output_dir) == (f"{tmp_path}/runs/one@3", f"{tmp_path}/out")
    assert found.absolute() == found
    assert CallbackArguments(baseline="base").absolute().baseline == "base"


def test_a_recipe_has_every_key_but_the_trainers_own():
    shared = CallbackArguments.of({name: value for name, value in GIVEN.items() if name != "output_dir"})
    recipe = ForgetArguments.of({name: value for name, value in GIVEN.items() if name != "output_dir"})
    assert recipe.callback().settings == shared.callback().settings
    with pytest.raises(ValueError, match="unknown key 'output_dir'"):
        ForgetArguments.of({"output_dir": "x"})
