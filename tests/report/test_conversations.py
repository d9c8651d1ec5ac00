"""Wherever an item's prompt is shown, a conversation is shown with its roles: of one run, every such place."""

import json

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot, Store
from forget_callback.report import report_data
from forget_callback.runs.history import History
from forget_callback.tools.replay import replay_pack

BRIEF = "Answer with a word, and with nothing else, whatever it is that you are asked by them."
SYSTEM = {"role": "system", "content": BRIEF}
CALL = {"function": {"name": "look", "arguments": {"at": "Oslo"}}}
TALK = [
    SYSTEM,
    {"role": "user", "content": "Is it warm in Oslo?"},
    {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]},
    {"role": "tool", "content": "-7"},
]
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
RIVER = [SYSTEM, {"role": "user", "content": "Which river?"}]
ITEMS = [
    Generation("talk", messages=TALK, tools=[LOOK], answer="no", match="contains", variants=["Is it cold?"]),
    MultipleChoice("choice", messages=RIVER, choices=["a", "b"], answer=0),
    Recall("plain", "The capital of Kenya is", " Nairobi"),
]
SAID = (
    f"tools: look\n\nsystem: {BRIEF}\n\nuser: Is it warm in Oslo?\n\n"
    'assistant: Wait.\nlook({"at": "Oslo"})\n\ntool: -7'
)


@pytest.fixture
def run(tmp_path):
    """A run that lost all of its items."""
    probe, store = Probe("talks", ITEMS), Store(tmp_path / "run")
    store.begin([probe])
    for step, right in ((0, 1.0), (10, 0.0)):
        store.write(Snapshot("talks", probe.fingerprint, step, list(probe.ids), np.full(3, right)))
    return tmp_path / "run"


def test_the_page_has_the_turns_and_the_tools(run):
    (items,) = report_data([Store(run)])["items"].values()
    assert items["prompts"] == [SAID, f"system: {BRIEF}\n\nuser: Which river?", "The capital of Kenya is"]
    talk, choice, plain = items["conversations"]
    assert talk["turns"] == [
        ["system", BRIEF, []],
        ["user", "Is it warm in Oslo?", []],
        ["assistant", "Wait.", ['look({"at": "Oslo"})']],
        ["tool", "-7", []],
    ]
    assert '"name": "look"' in talk["tools"][0] and choice["tools"] == [] and plain is None
    (variant,) = items["variants"][0]
    assert variant["prompt"] == SAID.replace("Is it warm in Oslo?", "Is it cold?")


def test_the_table_of_changed_items_and_what_compare_prints(run, run_cli):
    store, history = Store(run), History()
    (probe,) = store.probes()
    for step in (0, 10):
        now = store.read("talks", step)
        history.append([now])
    assert SAID in set(history.changes(probe, now)["prompt"])
    code, out, err = run_cli("compare", run, run, "--items", "3", "--format", "json")
    assert code == 0, err
    assert SAID in {one["prompt"] for one in json.loads(out)["lost_items"]}
    code, out, err = run_cli("compare", run, run, "--items", "3", "--format", "markdown")
    assert code == 0 and "| tools: look system: Answer" in out and "tool: -7 |" in out, err


def test_the_replay_pack_is_near_to_what_was_said_and_not_to_the_system_message(run):
    pool = [
        {"messages": [SYSTEM, {"role": "user", "content": "Is Oslo warm in May? It is not."}]},
        {"text": "Bananas are yellow, and rivers are wet. Which river is a?"},
        {"text": "Is it warm in Oslo? -7"},  # the probe's own
    ]
    pack = replay_pack(str(run), pool, size=2)
    assert pack.refused == 1 and pool[0] in pack.examples
