"""What the rules ask of an item: what `doc` holds is what they read, and example answers pass their own rule."""

import gc
import json
import re
import sys
import time

import pytest

from forget_callback import Generation, load_probe
from forget_callback.probes import apart
from forget_callback.probes.answers import by_text
from forget_callback.probes.judges.calls import calls_in
from forget_callback.probes.judges.json_text import NotJSON, load, values
from forget_callback.probes.judging import judge, judge_all
from forget_callback.probes.records import item_record, parse_item

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
PARAMETERS = {"type": "object", "properties": {"minutes": {"type": "integer"}, "name": {}}, "required": ["minutes"]}
TOOL = {"type": "function", "function": {"name": "set_timer", "parameters": PARAMETERS}}
CALL = '{"name": "set_timer", "arguments": {"minutes": 10}}'


def item(match, answer, doc=None, **more):
    messages = [{"role": "user", "content": "Q"}]
    return Generation("q", messages=messages, match=match, answer=answer, doc=doc or {}, **more)


def tool_item(answer, doc=None, match="tool_call"):
    return item(match, answer, doc, tools=[TOOL])


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: item("json_schema", "{}"), "field 'doc.schema': missing; match 'json_schema' reads schema, equals"),
        (
            lambda: item("json_schema", "{}", {"shema": {}}),
            "field 'doc': unknown key 'shema'; match 'json_schema' reads sc",
        ),
        (lambda: item("json_schema", "{}", {"shema": {}}), "did you mean 'schema'?"),
        (
            lambda: item("json_schema", "{}", {"schema": "object"}),
            "field 'doc.schema': expected a JSON Schema, got 'object'",
        ),
        (
            lambda: item("json_schema", "{}", {"schema": {"type": "text"}}),
            "field 'doc.schema': is no JSON Schema: 'text'",
        ),
        (
            lambda: item("json_schema", "{}", {"schema": SCHEMA}),
            "its own rule fails it ($: 'age' is a required property)",
        ),
        (lambda: item("json_schema", "Ana", {"schema": SCHEMA}), "its own rule fails it (no JSON in it): 'Ana'"),
        (
            lambda: item("json_schema", '{"age": 3}', {"schema": SCHEMA, "equals": {"age": 4}}),
            "field 'answer': its own rule fails it ('age' is 3, not 4)",
        ),
        (
            lambda: item("json_schema", "{}", {"schema": {"$ref": "https://example.org/person.json"}}),
            "field 'doc.schema': refers to what is not in it",
        ),
        *(
            (lambda schema=schema: item("json_schema", "{}", {"schema": schema}), f"field 'doc.schema': {problem}")
            for schema, problem in [
                ({"$ref": "#"}, "cannot be checked against the schema (RecursionError: "),
                ({"allOf": [{"$ref": "#"}]}, "cannot be checked against the schema (RecursionError: "),
                ({"$schema": 3}, "is no JSON Schema: AttributeError: "),
                ({"$schema": ["a"]}, "is no JSON Schema: TypeError: "),
                ({"$schema": "http://[x"}, "is no JSON Schema: ValueError: "),
                ({"properties": {"b": {"$ref": "#/a"}}, "a": 5}, "is no JSON Schema: 5 is not of type 'object'"),
                ({"properties": {"b": {"$ref": "#/a"}}}, "refers to what is not in it: PointerToNowhere: "),
                ({"$dynamicRef": "#q"}, "refers to what is not in it: NoSuchAnchor: "),
                ({"patternProperties": {"(": {}}}, "is no JSON Schema: '(' is not a 'regex'"),
                ({"enum": {1}}, "expected what JSON can hold, got {'enum': {1}}"),
                ({"minimum": float("nan")}, "expected what JSON can hold, got {'minimum': nan}"),
            ]
        ),
        (lambda: item("json_schema", "{}", {"schema": {}, "equals": {"a": {1}}}), "field 'doc.equals': expected what"),
        (lambda: item("json_schema", "{}", {"schema": {}, "equals": []}), "field 'doc.equals': expected an object"),
        (lambda: tool_item("set_timer"), 'field \'answer\': expected a call as JSON text, {"name": ..., "arguments"'),
        (lambda: tool_item('{"name": "set_timer"}'), "(not an object with just these two)"),
        (lambda: tool_item("[]"), "(an empty list)"),
        (lambda: tool_item(CALL.replace("set_timer", "start")), "calls 'start', which is not in `tools`"),
        (lambda: tool_item(CALL.replace("minutes", "min")), "'set_timer' has no parameter ['min']"),
        (lambda: tool_item('{"name": "set_timer", "arguments": {}}'), "'set_timer' needs ['minutes']"),
        (
            lambda: tool_item(CALL, {"ignored": ["name"]}),
            "field 'doc': unknown key 'ignored'; match 'tool_call' reads igno",
        ),
        (
            lambda: tool_item(CALL, {"ignore": "name"}),
            "field 'doc.ignore': expected a list of names of arguments, got 'na",
        ),
        (lambda: tool_item(CALL, match="no_tool_call"), "field 'answer': its own rule fails it (calls 'set_timer')"),
        (
            lambda: tool_item("Hi", {"x": 1}, "no_tool_call"),
            "unknown key 'x'; match 'no_tool_call' reads nothing; drop",
        ),
    ],
)
def test_an_item_that_its_rule_cannot_judge_is_refused(make, problem):
    with pytest.raises(ValueError, match=rf"item 'q', .*{re.escape(problem)}"):
        make()


def test_a_file_names_the_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    good = item_record(item("json_schema", '{"age": 3}', {"schema": SCHEMA}))
    path.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'id': 'b', 'answer': '{}'})}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine.jsonl, line 2: item 'b', field 'answer': its own rule fails it"):
        load_probe(path)
    assert parse_item(good) == item("json_schema", '{"age": 3}', {"schema": SCHEMA})


def test_a_run_can_be_read_where_jsonschema_is_not_installed(monkeypatch):
    """And whoever scores there is told what is missing."""
    for name in [name for name in sys.modules if name.split(".")[0] == "jsonschema"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    read = item("json_schema", "{}", {"schema": {**SCHEMA, "title": "read elsewhere"}})
    with pytest.raises(ImportError, match="match 'json_schema' needs jsonschema: pip install"):
        by_text(read, "{}", finished=True)


def test_a_schema_whose_pattern_backtracks_is_over_after_its_deadline(monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    monkeypatch.setattr(apart, "LONG_SECONDS", 0.3)
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    slow, quick = json.dumps({"a": "a" * 60 + "b"}), '{"a": "aa"}'
    one = item("json_schema", quick, {"schema": schema})
    found = judge_all([(one, slow, True), (one, quick, True)])
    assert [judgement.outcome for judgement in found.judgements] == ["unparsed", "correct"]
    assert list(found.overdue) == [0]


def test_what_a_validator_fails_on_is_wrong_and_scored():
    """As a model that collapsed writes it: digits without end, numbers beyond a float."""
    prices = {"type": "array", "items": {"multipleOf": 0.1, "minimum": 0}}
    one = item("json_schema", "[1, 0.5]", {"schema": prices})
    texts = ["9" * 4000, "1e999", "-1e999", f"-{'7' * 400}", "1, 2, " * 200 + "8" * 350]
    found = judge_all([(one, f"[{text}]", finished) for finished in (True, False) for text in texts])
    assert [judgement and judgement.outcome for judgement in found.judgements] == ["wrong"] * 5 + ["truncated"] * 5
    assert not found.unjudged and not found.failed
    assert "OverflowError" in found.judgements[0].why


def test_the_reason_comes_with_the_judgement():
    found = judge(tool_item(CALL), CALL.replace("10", "12"), finished=True)
    assert (found.outcome, found.why) == ("wrong", "'minutes' is 12, not 10")
    assert judge(tool_item(CALL), CALL, finished=True).why == ""
    hostile = '{"name": "\\u001b[2J", "arguments": {"a\\nb": 1}}'
    assert judge(tool_item(CALL), hostile, finished=True).why == "calls '\\x1b[2J', not 'set_timer'"


@pytest.mark.parametrize("cut", range(1, len(CALL) + 19))
def test_a_call_that_is_cut_anywhere_is_truncated_and_never_wrong(cut):
    whole = f"<tool_call>{CALL}</tool_call>"
    found = judge(tool_item(CALL), whole[:cut], finished=False)
    assert found.outcome == ("correct" if cut >= len("<tool_call>" + CALL) else "truncated")


@pytest.mark.parametrize("text", ["[1, 2", '{"a": 1', '{"a": [1], "b": ', '{"a": {"b": 1}, ', "[[1], [2]"])
def test_a_part_of_what_is_broken_is_not_read(text):
    assert values(text) == []
    with pytest.raises(NotJSON):
        load(text)


@pytest.mark.parametrize("depth", [100, 900, 3000, 50_000])
def test_what_is_nested_deep_comes_back(depth):
    deep = "[" * depth + "]" * depth
    texts = [
        deep,
        f'{{"name": "set_timer", "arguments": {{"minutes": {deep}}}}}',
        '{"function": ' * depth + "1" + "}" * depth,
    ]
    texts += [f"set_timer(minutes={deep})", "-" * depth + "1", f"set_timer(minutes={'-' * depth}1)"]
    items = [
        tool_item(CALL),
        tool_item("Hi", match="no_tool_call"),
        item("json_schema", '{"age": 3}', {"schema": SCHEMA}),
    ]
    found = judge_all([(one, text, True) for one in items for text in texts])
    assert not found.unjudged and {one.outcome for one in found.judgements[: len(texts)]} <= {"unparsed", "wrong"}


UNITS = [
    "<tool_call>",
    '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
    'f{"a": 1}',
    '[TOOL_CALLS]f[ARGS]{"a": 1}',
]
UNITS += ["<function=f>", "<parameter=a>1</parameter>", "<arg_key>", "to=functions.f ", "```\n", "[", "{", "}", "[x] "]
UNITS += ['{"name": "f"', "f(a=1)\n", "[ARGS]", '{"a":"', "f(" * 20, '"name": "f", ']


@pytest.mark.parametrize("unit", UNITS)
def test_reading_calls_takes_no_longer_than_a_text_is_long(unit):
    """Ten times the text at most thirty times as long, where each further one could cost all the others."""

    def seconds(size):
        text = unit * (size // len(unit))
        began = time.process_time()
        for names in (["f"], []):
            calls_in(text, names)
        return time.process_time() - began

    gc.disable()  # which looks at all that other tests have left
    try:
        short = min(seconds(10_000) for _ in range(3))
        assert min(seconds(100_000) for _ in range(2)) < 30 * max(short, 0.002)
    finally:
        gc.enable()
