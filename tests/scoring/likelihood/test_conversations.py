"""Items of several turns: the model gets the ids of `apply_chat_template`, and is scored as a plain forward scores it.

The references are transformers' own: `apply_chat_template(..., tools=..., tokenize=True)` and `generate`, on the chat
templates that TRL ships with the families' tools, system messages and quirks.
"""

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from packaging.version import Version

from forget_callback import Generation, MultipleChoice, Probe, Recall, score_probe
from forget_callback.scoring.likelihood import shown
from forget_callback.scoring.likelihood.rendering import bind, context_of
from forget_callback.scoring.likelihood.tokens import encode_items
from tests.helpers import greedy, log_probabilities, teach

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
ASKED = {"role": "user", "content": "Is it warm in 東京?"}
ANSWERED = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"degrees": 17}'}
CONVERSATIONS = {
    "one turn": {"messages": [ASKED]},
    "a system message": {"messages": [{"role": "system", "content": "Be very brief."}, ASKED]},
    "several turns": {
        "messages": [
            {"role": "system", "content": "Be very brief."},
            {"role": "user", "content": "Hello there."},
            {"role": "assistant", "content": "What is it?"},
            ASKED,
        ]
    },
    "tools": {"messages": [ASKED], "tools": [WEATHER]},
    "a system message and tools": {
        "messages": [{"role": "system", "content": "Be very brief."}, ASKED],
        "tools": [WEATHER],
    },
    "a call": {
        "messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, ANSWERED],
        "tools": [WEATHER],
    },
    "a call without content": {
        "messages": [
            ASKED,
            {"role": "assistant", "tool_calls": [CALL]},
            ANSWERED,
            {"role": "assistant", "content": "It has 17 degrees."},
            {"role": "user", "content": "And tomorrow?"},
        ],
        "tools": [WEATHER],
    },
}
FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
# These render everything that a conversation may have; of the others something is put in another form, and said.
WHOLE = ["gemma4", "glm4moe", "gptoss", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_instruct_2507"]


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer(bos_token="<s>")  # which some templates write


@pytest.fixture(autouse=True)
def nothing_said():
    shown._said.clear()


def template(name):
    path = FOLDER / f"{name}.jinja"
    if Version(trl.__version__) < Version("1.14") and not path.is_file():
        pytest.skip(f"TRL {trl.__version__} does not ship {path.name}")
    return path.read_text()


def prompts(tokenizer, **conversation):
    """Token ids of a generation item's prompt, and its text."""
    probe = bind(Probe("p", [Generation("a", answer="yes", **conversation)]), tokenizer)
    found = encode_items(probe, tokenizer)
    assert not found.dropped
    return list(found.prompts[0]), context_of(probe.items[0], probe, tokenizer)


def reference(tokenizer, messages, tools=None):
    return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_ids_are_apply_chat_templates(tokenizer, caplog, name):
    tokenizer.chat_template = template(name)
    for conversation in CONVERSATIONS.values():
        assert prompts(tokenizer, **conversation)[0] == reference(tokenizer, **conversation)
    assert not caplog.records


@pytest.mark.parametrize("name", NAMES)
def test_no_template_hides_anything_from_the_model(tokenizer, caplog, name):
    """The model sees tools, calls, what they gave and every message, whatever the template has no place for."""
    tokenizer.chat_template = template(name)
    for conversation in CONVERSATIONS.values():
        text = prompts(tokenizer, **conversation)[1]
        for message in conversation["messages"]:
            words = message.get("content", "").split() or ["rich"]  # of Zürich, which JSON may escape
            assert words[0].strip('{":') in text and words[-1].strip('"}') in text, (name, message)
        assert "get_weather" in text or not conversation.get("tools")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said))


def test_what_a_template_does_not_show_is_put_into_the_messages_and_said_once(tokenizer, caplog):
    """The tokenizer's template knows roles and contents alone."""
    caplog.set_level(logging.WARNING)
    conversation = CONVERSATIONS["a call"]
    for _ in range(2):
        _, text = prompts(tokenizer, **conversation)
    system, asked, called, answered, opened = text.split("<|im_start|>")[1:]
    assert system.startswith("system\nYou may call these functions:\n<tools>\n") and '"name": "get_weather"' in system
    assert called == (
        'assistant\n<tool_call>{"name": "get_weather", "arguments": {"city": "Zürich"}}</tool_call><|im_end|>\n'
    )
    assert (asked, opened) == ("user\nIs it warm in 東京?<|im_end|>\n", "assistant\n")
    assert answered == 'tool\n{"degrees": 17}<|im_end|>\n'
    assert [record.getMessage() for record in caplog.records] == [
        "probe p: the chat template does not show calls of tools to the model; they are put into the assistant's "
        "messages as <tool_call>{...}</tool_call>",
        "probe p: the chat template does not show tools to the model; they are put into the system message as JSON, "
        "with how to call one",
    ]


@pytest.mark.parametrize("name", ["a call", "a call without content"])
def test_none_in_place_of_a_call_does_not_show_it(name):
    messages = CONVERSATIONS[name]["messages"]
    text = shown.shown(messages, (), lambda asked, _: "".join(f"{one.get('content')}\n" for one in asked), owner="p")
    assert "None" not in text and text.count("get_weather") == 1


def test_a_system_message_stands_before_the_first_question_where_the_template_refuses_the_role(tokenizer):
    tokenizer.chat_template = template("gemma")
    given = CONVERSATIONS["several turns"]["messages"]
    merged = [{"role": "user", "content": "Be very brief.\n\nHello there."}, *given[2:]]
    assert prompts(tokenizer, messages=given)[0] == reference(tokenizer, merged)


def test_a_message_that_no_form_shows_leaves_the_item_unscored(tokenizer):
    """A template that renders the last message alone would ask another question."""
    tokenizer.chat_template = "{{ messages[-1].content }}"
    items = [
        Generation("one", answer="yes", messages=[ASKED]),
        Generation("two", answer="yes", **CONVERSATIONS["several turns"]),
        Generation("prompt", "Hello?", "yes"),
    ]
    found = encode_items(bind(Probe("p", items), tokenizer), tokenizer)
    assert found.dropped == {1: "the chat template leaves out a message of the system"}
    assert sorted(found.prompts) == [0, 2]


def test_the_items_own_system_message_stands_in_place_of_the_probes(tokenizer):
    own = CONVERSATIONS["a system message"]["messages"]
    items = [Generation("own", answer="a", messages=own), Generation("none", answer="a", messages=[ASKED])]
    probe = bind(Probe("p", [*items, Generation("prompt", "Hello.", "a")], system="Be wordy."), tokenizer)
    found = encode_items(probe, tokenizer)
    wordy = {"role": "system", "content": "Be wordy."}
    asked = [own, [wordy, ASKED], [wordy, {"role": "user", "content": "Hello."}]]
    assert [list(found.prompts[i]) for i in range(3)] == [reference(tokenizer, one) for one in asked]


def test_of_several_named_templates_the_one_for_tools_renders_tools(tokenizer):
    plain = tokenizer.chat_template
    tokenizer.chat_template = {"default": plain, "tool_use": "TOOLS {{ tools | tojson }}\n" + plain}
    for name in ("one turn", "tools"):
        assert prompts(tokenizer, **CONVERSATIONS[name])[0] == reference(tokenizer, **CONVERSATIONS[name])
    first, second = (
        bind(Probe("p", [Generation("a", answer="b", messages=[ASKED])]), tokenizer).fingerprint
        for tokenizer.chat_template in (tokenizer.chat_template, {"default": plain, "tool_use": plain})
    )
    assert first != second


def test_conversations_need_a_template(tokenizer):
    tokenizer.chat_template = None
    probe = Probe("p", [Generation("talk", answer="b", messages=[ASKED])], chat=None)
    with pytest.raises(ValueError, match="has conversations, such as item 'talk', but the tokenizer has no chat temp"):
        bind(probe, tokenizer)


@pytest.fixture(scope="module")
def talker(make_model, make_tokenizer):
    """A model that has learned answers after conversations, with a template that renders all of them."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template("qwen2_5").replace("You are Qwen", "You are")
    lines = {}
    for name, answer in zip(LEARNED, ("Paris<|im_end|>", "Rome, and it is hot<|im_end|>", "Tokyo<|im_end|>")):
        text = tokenizer.apply_chat_template(LEARNED[name], add_generation_prompt=True, tokenize=False)
        lines[text] = answer
    model = make_model(max_position_embeddings=1024)
    return teach(model, tokenizer, lines.items(), steps=60), tokenizer


LEARNED = {
    "a": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}],
    "b": [
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "And of Italy?"},
    ],
    "c": [
        {"role": "user", "content": "Look it up: the capital of Japan."},
        {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": {"what": "Japan"}}}]},
        {"role": "tool", "content": "capital: Tokyo"},
    ],
}
OPTIONS = ["Paris", "Rome, and it is hot", "Tokyo", "Zürich"]


def test_choices_recall_and_generation_are_a_plain_forwards(talker):
    model, tokenizer = talker
    right = {"a": 0, "b": 1, "c": 2}
    items = [
        item
        for key, messages in LEARNED.items()
        for item in (
            MultipleChoice(f"{key}/choice", messages=messages, choices=OPTIONS, answer=right[key]),
            Recall(f"{key}/recall", messages=messages, answer=OPTIONS[right[key]]),
            Recall(f"{key}/other", messages=messages, answer=OPTIONS[3]),
            Generation(
                f"{key}/text", messages=messages, answer=OPTIONS[right[key]], match="contains", max_new_tokens=9
            ),
        )
    ]
    random.Random(0).shuffle(items)
    found = score_probe(model, tokenizer, Probe("p", items))
    at = {name: i for i, name in enumerate(found.ids)}
    for key, messages in LEARNED.items():
        context = reference(tokenizer, messages)
        sums, firsts = [], []
        for option in OPTIONS:
            tail = tokenizer.encode(option, add_special_tokens=False)
            rows = log_probabilities(model, [*context, *tail])[len(context) - 1 : -1]
            sums.append(float(rows[torch.arange(len(tail)), tail].sum()))
            firsts.append(bool((rows.argmax(-1) == torch.tensor(tail)).all()))
        i = at[f"{key}/choice"]
        assert found.choice[i] == int(np.argmax(sums)) == right[key]
        best_other = max(value for place, value in enumerate(sums) if place != right[key])
        assert found.margin[i] == pytest.approx(sums[right[key]] - best_other, abs=1e-4)
        assert found.correct[at[f"{key}/recall"]] == firsts[right[key]] == 1
        assert found.correct[at[f"{key}/other"]] == firsts[3] == 0
        written = greedy(model, context, 9, stops=[tokenizer.eos_token_id])
        assert found.text[at[f"{key}/text"]] == tokenizer.decode(written, skip_special_tokens=True)
        made = model.generate(
            torch.tensor([context]), max_new_tokens=9, do_sample=False, pad_token_id=tokenizer.pad_token_id,
            attention_mask=torch.ones(1, len(context), dtype=torch.long),
        )[0, len(context) :].tolist()  # fmt: skip
        assert made == written
        assert found.correct[at[f"{key}/text"]] == 1


def test_variants_stand_for_the_last_question_or_alone(talker):
    model, tokenizer = talker
    variants = ["And Italy's?", {"prompt": "Italy's capital is", "chat": False}]
    item = Generation("b", messages=LEARNED["b"], answer="Rome", match="contains", max_new_tokens=9, variants=variants)
    found = score_probe(model, tokenizer, Probe("p", [item]))
    second = [*LEARNED["b"][:2], {"role": "user", "content": "And Italy's?"}]
    contexts = [
        reference(tokenizer, LEARNED["b"]),
        reference(tokenizer, second),
        tokenizer.encode("Italy's capital is"),
    ]
    answers = [found, *found.further]
    for context, one in zip(contexts, answers, strict=True):
        written = greedy(model, context, 9, stops=[tokenizer.eos_token_id])
        said = tokenizer.decode(written, skip_special_tokens=True)
        assert one.correct[0] == float("Rome" in said)
    assert found.correct[0] == 1
