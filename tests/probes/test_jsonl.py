"""What probe files promise: every error names file, line, item and field, and what is written reads back."""

import json
import re

import pytest

from forget_callback import load_probe
from forget_callback.probes.items import Generation, MultipleChoice, Recall
from forget_callback.probes.jsonl import dump_items, read_items
from forget_callback.probes.probe import Probe

GOOD = '{"id": "q1", "prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1}'
ITEMS = (
    MultipleChoice("m/1", "Ü 日本\n\u2028?", (" a\t", " b\\", " 🦊"), 2, "géo"),
    Recall("r 1", "", "\x85 Paris\n", "geo"),
    Generation("g", "Wer?", ("x", '"y"'), "contains", "", 7),
)


def write(tmp_path, *lines, name="facts.jsonl"):
    path = tmp_path / name
    path.write_bytes("\n".join(lines).encode())
    return path


@pytest.mark.parametrize(
    "line, item, field, problem",
    [
        ('{"id": "q2", "prompt": "Q", "choices": [" a", " b"], "answer": 2}', "q2", "answer", "from 0 to 1, got 2"),
        ('{"id": "q2", "prompt": "Q", "choices": [" a", " b"], "answer": true}', "q2", "answer", "got True"),
        ('{"id": "q2", "prompt": "Q", "choices": [" a"], "answer": 0}', "q2", "choices", "two or more, got 1"),
        (
            '{"id": "q2", "prompt": "Q", "choices": [" a", " a"], "answer": 0}',
            "q2",
            "choices",
            "choice 1 equals the answer",
        ),
        ('{"id": "q2", "prompt": 5, "answer": "a"}', "q2", "prompt", "expected text, got int 5"),
        ('{"id": "q2", "prompt": "Q", "answer": ""}', "q2", "answer", "must not be empty"),
        ('{"id": "q2", "prompt": "Q", "answer": "(", "match": "regex"}', "q2", "answer", "not a regular expression"),
        ('{"id": "q2", "prompt": "Q", "answer": "\\ud83e"}', "q2", "answer", "not valid text"),
        ('{"id": "q2", "prompt": "Q", "answer": "a", "hint": 1}', "q2", "hint", "unknown for generation"),
        ('{"id": "q2", "prompt": "Q", "answer": "a", "kind": "quiz"}', "q2", "kind", "got 'quiz'"),
        ('{"id": "q2", "prompt": "Q"}', "q2", "answer", "missing for generation"),
        ('{"id": "q2", "prompt": "Q", "answer": "a", "prompt": "R"}', "q2", "prompt", "given twice"),
        (GOOD, "q1", "id", "already used in line 1"),
    ],
)
def test_an_error_names_file_line_item_and_field(tmp_path, line, item, field, problem):
    path = write(tmp_path, GOOD, "", line)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))}, line 3: item '{item}', field '{field}': .*{problem}"
    ):
        read_items(path)


@pytest.mark.parametrize(
    "line, problem",
    [("{'id': 1}", "Expecting property name"), ("[1]", "expected an object .* got list"), ("3", ".* got int")],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, problem):
    with pytest.raises(ValueError, match=rf"facts.jsonl, line 2: {problem}"):
        read_items(write(tmp_path, GOOD, line))


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_a_file_without_items_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"facts.jsonl holds no items"):
        read_items(write(tmp_path, content))


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ValueError, match="no probe file at"):
            read_items(path)


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_bytes(GOOD.replace("2 + 2", "Zürich").encode("latin-1"))
    with pytest.raises(ValueError, match=r"facts.jsonl is not UTF-8 text"):
        read_items(path)


@pytest.mark.parametrize("prefix, end", [("", "\n"), ("", "\r\n"), ("\ufeff", "\n"), ("\n", "\n\n")])
def test_line_ends_empty_lines_and_byte_order_marks_do_not_matter(tmp_path, prefix, end):
    other = GOOD.replace("q1", "q2")
    path = write(tmp_path, prefix + GOOD + end + other + end)
    assert load_probe(path).ids == ("q1", "q2")


def test_a_probe_is_named_by_the_stem(tmp_path):
    assert load_probe(write(tmp_path, GOOD, name="my.facts-2.jsonl")).name == "my.facts-2"
    with pytest.raises(ValueError, match="name must be letters"):
        load_probe(write(tmp_path, GOOD, name="my facts.jsonl"))


def test_what_is_written_reads_back(tmp_path):
    path = write(tmp_path, dump_items(ITEMS))
    assert tuple(read_items(path)) == ITEMS
    assert load_probe(path).fingerprint == Probe("facts", ITEMS).fingerprint
    lines = path.read_bytes().decode().rstrip("\n").split("\n")
    assert [json.loads(line)["id"] for line in lines] == ["m/1", "r 1", "g"]
