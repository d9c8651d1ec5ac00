"""The examples' configurations say of the callback what it takes; that they train is tested with each trainer."""

import dataclasses

import yaml

from forget_callback.tools.arguments import CallbackArguments
from tests.integrations.trained import CALLBACK, EXAMPLES


def test_all_examples_say_the_same_of_the_callback():
    axolotl, swift = (yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()) for name in ("axolotl", "ms_swift"))
    expected = CallbackArguments.of(CALLBACK)
    assert dataclasses.asdict(expected) != dataclasses.asdict(CallbackArguments())
    assert CallbackArguments.of(axolotl["forget"]) == expected
    assert CallbackArguments.of_json(swift["ENV"]["FORGET_CALLBACK"]) == expected
    assert CallbackArguments.read(EXAMPLES / "forget.yaml") == expected
