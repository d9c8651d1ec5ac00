"""Items with messages: what they may hold, how they are kept, read and asked in other words."""

import json
import re
from dataclasses import replace

import datasets
import pandas as pd
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Store, load_probe
from forget_callback.probes.abilities import ability_of
from forget_callback.probes.conversation import asked
from forget_callback.probes.items import in_variant
from forget_callback.probes.load import as_probes
from forget_callback.probes.records import item_record, parse_item
from forget_callback.probes.variants import further
from forget_callback.scoring.likelihood.rendering import messages_of

SYSTEM, HI = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "zwölf"}}}
ROUND = [SYSTEM, HI, {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}, {"role": "tool", "content": "13"}]
TALKS = [
    MultipleChoice(id="c", messages=[HI], choices=["a", "b"], answer=1),
    Recall("r", messages=[SYSTEM, HI], answer="Hello", ability="behaviour"),
    Generation(id="g", messages=ROUND, tools=[ADD], answer="13", match="number", variants=["Hey", {"prompt": "Ho"}]),
]


@pytest.mark.parametrize("item", TALKS, ids=lambda item: item.kind)
def test_records_come_back_through_json_and_a_run_on_disk(item, tmp_path):
    record = item_record(item)
    assert "prompt" not in record and parse_item(json.loads(json.dumps(record))) == item
    assert hash(item) == hash(parse_item(record))
    store = Store(tmp_path / "forget")
    probe = Probe("talks", [item])
    store.begin([probe])
    assert store.probes()[0] == probe and store.probes()[0].fingerprint == probe.fingerprint


def test_an_item_keeps_its_own_copy():
    messages = [{"role": "user", "content": "Hi", "more": ["x"]}]
    item = Generation("a", messages=messages, answer="b")
    messages[0]["more"].append("y")
    assert item.messages == ({"role": "user", "content": "Hi", "more": ["x"]},)


def test_tables_that_fill_gaps_with_none_give_the_same_items():
    """Arrow gives every message of a column all fields."""
    other = {"type": "function", "function": {"name": "sub", "parameters": {"type": "object", "required": ["a"]}}}
    rows = [
        {"id": "a", "messages": [HI], "answer": "x", "tools": None},
        {"id": "b", "messages": ROUND, "answer": "y", "tools": [ADD, other]},
    ]
    plain = [parse_item({k: v for k, v in row.items() if v}) for row in rows]
    filled = datasets.Dataset.from_list(rows)
    assert "tool_calls" in filled[0]["messages"][0] and "required" in filled[1]["tools"][0]["function"]["parameters"]
    for table in (rows, filled, pd.DataFrame(rows), filled.to_pandas()):
        (probe,) = as_probes({"talks": table})
        assert [replace(item, variants=()) for item in probe.items] == plain and probe.chat is True


def test_the_same_in_other_clothes():
    plain = Generation("a", messages=[HI], answer="b")
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]
    assert Generation("a", messages=parts, answer="b") == plain
    assert parse_item({"id": "a", "prompt": None, "messages": [{**HI, "tool_calls": None}], "answer": "b"}) == plain
    none = [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": ""}]
    assert "content" not in Generation("a", messages=none, answer="b").messages[1]
    assert Generation("a", messages=[HI], tools=json.dumps([ADD]), answer="b").tools == (ADD,)


def changed(i, **fields):
    messages = [dict(message) for message in ROUND]
    messages[i] |= fields
    return {"messages": [{k: v for k, v in message.items() if v is not ...} for message in messages]}


@pytest.mark.parametrize(
    "fields, field, problem",
    [
        ({}, "prompt", "missing; give a prompt, or a conversation as `messages`"),
        ({"prompt": "Hi", "messages": [HI]}, "messages", "goes in place of `prompt`, which is 'Hi'; drop one of them"),
        ({"prompt": "Hi", "tools": [ADD]}, "tools", "goes with `messages`"),
        ({"messages": "Hi"}, "messages", "expected a list of messages with role and content, got 'Hi'"),
        ({"messages": [HI, "Hi"]}, "messages[1]", "expected an object with role and content, got 'Hi'"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing; expected one of system, user"),
        ({"messages": [{"role": "usr", "content": "Hi"}]}, "messages[0].role", "got 'usr'; did you mean 'user'?"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "messages[0].role", "got ['user']"),
        ({"messages": [SYSTEM]}, "messages[0].role", "the last message must be a user's or a tool's"),
        (
            {"messages": [HI, {"role": "assistant", "content": "Yo"}]},
            "messages[1].role",
            "got 'assistant'; leave out the answer, it belongs in `answer`",
        ),
        (changed(1, content=...), "messages[1].content", "expected text, got NoneType"),
        (changed(1, content=7), "messages[1].content", "expected text, got int 7; convert it with str()"),
        (changed(1, content=[{"type": "image"}]), "messages[1].content[0]", "only text is scored"),
        (changed(1, content="\ud800"), "messages[1].content", "not valid text"),
        (changed(1, name=float("nan")), "messages[1]", "expected what JSON can hold"),
        (changed(1, tool_calls=[CALL]), "messages[1].tool_calls", "only an assistant calls tools, this is a user's"),
        (changed(2, tool_calls="add"), "messages[2].tool_calls", "expected a list of calls, got 'add'"),
        (changed(2, tool_calls=[{"name": ""}]), "messages[2].tool_calls[0]", "expected an object with function.name"),
        ({"messages": [HI], "tools": ADD}, "tools", "expected a list of tools"),
        ({"messages": [HI], "tools": "[{"}, "tools", "expected a list of tools or the JSON of one"),
        ({"messages": [HI], "tools": [print]}, "tools[0]", "get_json_schema makes one of a function"),
        ({"messages": [HI], "tools": [{"function": {}}]}, "tools[0]", "has no name"),
        ({"messages": [HI], "tools": [{**ADD, "x": {1, 2}}]}, "tools[0]", "expected what JSON can hold"),
        ({"messages": [HI], "ability": "behavior"}, "ability", "did you mean 'behaviour'?"),
        ({"messages": [HI], "variants": ["Hi"]}, "variants[0]", "asks as the item itself does, 'Hi'"),
    ],
)
def test_a_bad_field_is_refused_with_item_and_field(fields, field, problem):
    for make in (lambda: Generation(id="g", answer="b", **fields), lambda: Recall(id="g", answer="b", **fields)):
        with pytest.raises(ValueError, match=rf"^item 'g', field '{re.escape(field)}': .*{re.escape(problem)}"):
            make()


def test_a_line_of_a_file_says_where(tmp_path):
    path = tmp_path / "talks.jsonl"
    lines = [{"id": "a", "messages": [HI], "answer": "b"}, {"id": "b", "messages": [SYSTEM], "answer": "b"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"talks\.jsonl, line 2: item 'b', field 'messages\[0\]\.role'"):
        load_probe(str(path))


def test_the_fingerprint_is_of_what_is_asked():
    item = TALKS[2]
    other = [
        replace(item, messages=[*ROUND[:3], {"role": "tool", "content": "14"}]),
        replace(item, messages=[{"role": "system", "content": "Be wordy."}, *ROUND[1:]]),
        replace(item, messages=ROUND[1:]),
        replace(item, tools=()),
        replace(item, tools=[dict(reversed(ADD.items()))]),  # which a template writes in another order
        Generation("g", "Hi", "13", "number"),
    ]
    same = [
        replace(item, ability="behaviour", cluster="x", fact="y", variants=()),
        replace(item, messages=[dict(reversed(message.items())) for message in item.messages]),
    ]
    own = Probe("p", [item]).fingerprint
    assert len({own, *(Probe("p", [one], chat=True).fingerprint for one in other)}) == 1 + len(other)
    assert {Probe("p", [one]).fingerprint for one in same} == {own}


@pytest.mark.parametrize("chat", [False, True, None])
def test_a_probe_with_a_conversation_is_a_chat_probe(chat):
    items = [TALKS[0], Generation("plain", "Hi?", "b")]
    assert Probe("p", items, chat=chat).chat is True
    assert Probe("p", items[1:], chat=chat).chat is chat
    assert Probe("p", items, system="Be brief.").system == "Be brief."


def test_people_read_a_conversation_with_its_roles_calls_and_tools():
    assert asked(TALKS[2]) == (
        'tools: add\n\nsystem: Be brief.\n\nuser: Hi\n\nassistant: Wait.\nadd({"a": 1, "b": "zwölf"})\n\ntool: 13'
    )
    assert asked(TALKS[1]) == "system: Be brief.\n\nuser: Hi"
    assert asked(Recall("r", "The capital is", " Paris")) == "The capital is"


def test_a_variant_is_asked_in_place_of_the_last_question_or_alone():
    item = replace(TALKS[2], variants=["Hey", {"prompt": "Add up:", "chat": False}])
    second, plain = in_variant(item, 2), in_variant(item, 3)
    assert second.messages == (SYSTEM, {"role": "user", "content": "Hey"}, *item.messages[2:])
    assert (second.prompt, second.tools, second.variants) == ("", item.tools, ())
    assert (plain.prompt, plain.messages, plain.tools) == ("Add up:", (), ())


def test_one_question_is_also_asked_plainly_and_a_conversation_only_as_it_is_given():
    question = "Question: What is 2 + 2?\nAnswer:"
    alone = Generation("a", messages=[{"role": "user", "content": question}], answer="4", match="number")
    assert further(alone, chat=True) == further(Generation("a", question, "4", "number"), chat=True) != ()
    for more in ({"messages": [SYSTEM, *alone.messages]}, {"tools": [ADD]}, {"ability": "behaviour"}):
        assert further(replace(alone, **more), chat=True) == ()


def test_reasoning_asks_within_the_conversation(tmp_path):
    path = tmp_path / "talks.jsonl"
    item = MultipleChoice(id="c", messages=[SYSTEM, HI], choices=["a", "b"], answer=1)
    path.write_text(json.dumps(item_record(item)))
    (made,) = load_probe(f"{path}?cot=true").items
    assert made.match == "choice" and made.answer == ("B",) and made.messages[0] == SYSTEM
    assert made.messages[1]["content"].startswith("Hi\nA. a\nB. b\n\nThink step by step.")


@pytest.mark.parametrize(
    "item, ability",
    [
        (MultipleChoice("a", "Q", ["a", "b"], 0), "knowledge"),
        (Recall("a", "Q", " a"), "knowledge"),
        (Generation("a", "Q", "a", fact="x"), "knowledge"),
        (Generation("a", "Q", "a"), "task"),
        (Generation("a", "Q", "a", "task", task="lm-eval:gsm8k"), "task"),
        (Generation("a", "Q", "a", "task", task="lm-eval:ifeval"), "behaviour"),
        (Generation("a", "Q", '{"a": 1}', "json_schema", doc={"schema": {"type": "object"}}), "behaviour"),
        (Generation("a", "Q", "a", ability="knowledge"), "knowledge"),
        (Recall("a", "Q", " a", ability="behaviour"), "behaviour"),
    ],
)
def test_abilities(item, ability):
    assert ability_of(item) == ability
    assert ability_of(parse_item(item_record(item))) == ability


def test_none_inside_messages_and_tools_is_no_field_in_whatever_form_items_are_given(tmp_path):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "Paris", "unit": None}}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "18 degrees", "name": None},
    ]
    fields = {"at": {"type": "string", "default": None, "enum": ["Paris", None]}}
    tool = {"name": "look", "description": None, "parameters": {"type": "object", "properties": fields}}
    record = {"id": "a", "messages": messages, "tools": [tool], "answer": "18"}
    (path := tmp_path / "items.jsonl").write_text(json.dumps(record))
    whole = json.loads(json.dumps(record))
    del whole["messages"][1]["content"], whole["messages"][2]["name"], whole["tools"][0]["description"]
    del whole["messages"][1]["tool_calls"][0]["function"]["arguments"]["unit"]
    del whole["tools"][0]["parameters"]["properties"]["at"]["default"]
    forms = [
        [record],
        [Generation(**record)],
        pd.DataFrame([record]),
        datasets.Dataset.from_list([record]),
        str(path),
        [whole],
    ]
    probes = [as_probes(form)[0] for form in forms]
    assert len({replace(probe, name="p").fingerprint for probe in probes}) == 1
    assert probes[0].items[0].tools[0]["parameters"]["properties"]["at"]["enum"] == ["Paris", None]
    assert messages_of(probes[0].items[0], probes[0])[1]["content"] == "", "what templates put between others"


def test_docs_of_different_forms_can_stand_in_one_data_set():
    rules = [{"kind": "max_words", "n": 3}, {"kind": "contains", "text": "a"}]
    item = {"id": "a", "prompt": "Say a.", "match": "constraints", "answer": "a", "doc": {"constraints": rules}}
    (kept,) = as_probes(datasets.Dataset.from_list([item]))[0].items
    assert kept.doc == item["doc"]
