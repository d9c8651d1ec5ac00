"""Documents as items, and the files that they come from."""

import bz2
import gzip
import json
import logging
import lzma

import pandas as pd
import pytest

from forget_callback import Generation, Probe, Text, dump_items, load_probe
from forget_callback.probes.jsonl import read_items
from forget_callback.probes.load import as_probes
from forget_callback.probes.records import item_record, parse_item
from forget_callback.probes.spacing import spacing_problem

DOCUMENT = "Señor, el número es π ≈ 3.14.\nUn día más."


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"corpus:{path}"


def test_a_text_survives_a_file_and_says_its_length_in_bytes(tmp_path):
    items = [Text("a", DOCUMENT, "prose", cluster="one"), Text("b", "x")]
    (tmp_path / "p.jsonl").write_text(dump_items(items), encoding="utf-8")
    assert read_items(tmp_path / "p.jsonl") == items
    assert item_record(items[1]) == {"kind": "text", "id": "b", "text": "x"}
    assert items[0].n_bytes == len(DOCUMENT.encode("utf-8")) > len(DOCUMENT)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"kind": "text", "id": "a"}, "item 'a', field 'text': missing for text"),
        ({"kind": "text", "id": "a", "text": " \n"}, "item 'a', field 'text': must not be empty"),
        ({"kind": "text", "id": "a", "text": 3}, "item 'a', field 'text': expected text, got int 3"),
        ({"kind": "text", "id": "a", "text": "x", "variants": ["y"]}, "field 'variants': goes with prompts"),
        ({"kind": "text", "id": "a", "text": "x", "fact": "y"}, "field 'fact': goes with questions"),
        ({"kind": "text", "id": "a", "text": "x", "answer": "y"}, "field 'answer': unknown for text"),
        ({"kind": "text", "id": "a", "text": "\ud800"}, "field 'text': not valid text"),
    ],
)
def test_what_is_no_document_is_named(record, problem):
    with pytest.raises(ValueError, match=problem):
        parse_item(record)


@pytest.mark.parametrize(
    "setting",
    [{"chat": True}, {"normalization": "length"}, {"temperature": 0.7}, {"chat": None, "system": "Be brief."}],
)
def test_settings_of_prompts_are_refused_where_there_are_only_documents(setting):
    with pytest.raises(ValueError, match=r"documents alone, which are scored as they are: .* drop it"):
        Probe("p", [Text("a", "x")], **setting)
    Probe("p", [Text("a", "x"), Generation("b", "2 + 2 =", "4")], **setting)


def test_a_tokenizer_with_a_template_makes_no_chat_of_documents():
    assert Probe("p", [Text("a", "x")], chat=None) == Probe("p", [Text("a", "x")])


def test_a_text_file_is_one_document_or_several_parted_by_form_feeds(tmp_path):
    path = tmp_path / "My notes.txt"
    path.write_text(f"{DOCUMENT}\n", encoding="utf-8")
    (whole,) = load_probe(f"corpus:{path}").items
    assert whole.text == DOCUMENT
    path.write_text(f"One.\r\n\n\f\nTwo\n\nlines.\f\n\f{DOCUMENT}", encoding="utf-8")
    probe = load_probe(f"corpus:{path}")
    assert probe.name == "My-notes"
    assert [item.text for item in probe.items] == ["One.", "Two\n\nlines.", DOCUMENT]
    assert probe.items[2].id == whole.id, "the id of a document does not depend on what stands before it"


def test_json_lines_have_a_document_a_line_and_whatever_else(tmp_path, caplog):
    rows = [
        {"text": "One.", "meta": {"url": "x"}, "category": None},
        {"id": 7, "text": DOCUMENT, "category": "prose", "cluster": "c"},
        {"id": "e", "text": " "},
        {"text": "One."},
    ]
    with caplog.at_level(logging.WARNING):
        probe = load_probe(write(tmp_path / "docs.jsonl", *rows))
    assert "of 4 documents are left out: 1 empty, 1 the same as an earlier one" in caplog.text
    first, second = probe.items
    assert (first.text, first.category) == ("One.", "")
    assert second == Text("7", DOCUMENT, "prose", "c")
    assert probe.n_variants == 1 and not spacing_problem(probe)
    assert load_probe(write(tmp_path / "docs.jsonl", *rows[::-1])).fingerprint == probe.fingerprint


def test_a_limit_draws_each_category_in_proportion(tmp_path):
    rows = [{"text": f"Document {i}", "category": "ab"[i % 4 == 0]} for i in range(40)]
    probe = load_probe(write(tmp_path / "docs.jsonl", *rows) + "?limit=8&name=held-out")
    assert probe.name == "held-out"
    assert sorted(item.category for item in probe.items) == ["a"] * 6 + ["b"] * 2


@pytest.mark.parametrize(
    ("content", "spec", "problem"),
    [
        (None, "", "no file at .*docs.jsonl"),
        ("", "", "holds no document"),
        ('{"text": " "}', "", "holds no document"),
        ('{"text": "a"}\n{"content": "b", "url": "c"}', "", "line 2: no field 'text' .* there are 'content', 'url'"),
        ('{"text": "a"}\n["b"]', "", r"line 2: expected an object with the field 'text', got \['b'\]"),
        ('{"text": "a"', "", "line 1: "),
        ('{"text": ["a"]}', "", "line 1: item 'text-.*', field 'text': expected text, got list"),
        ('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}', "", "line 2: document 'x', field 'id': used before"),
        ('{"text": "a"}', "?max_chars=3", "unknown option 'max_chars'"),
        ('{"text": "a"}', "?chat=true", "documents alone, which are scored as they are: chat=True"),
        ('{"text": "a"}', "?cot=true", "this is text"),
        ('{"text": "a"}', "?samples=3", "needs answers that are sampled"),
    ],
)
def test_errors_name_the_line_and_what_is_wrong(tmp_path, content, spec, problem):
    path = tmp_path / "docs.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        load_probe(f"corpus:{path}{spec}")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "docs.txt"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load_probe(f"corpus:{path}")


@pytest.mark.parametrize("read", ["corpus:{}", "{}"])
def test_compressed_files_are_called_that(tmp_path, read):
    for name, packed in (("a", gzip.compress(b"{}")), ("b", bz2.compress(b"{}")), ("c", lzma.compress(b"{}"))):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(packed)
        with pytest.raises(ValueError, match=r"is compressed .*; unpack it first"):
            load_probe(read.format(path))
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}'))
    with pytest.raises(ValueError, match=r"is compressed \(gzip\); unpack it first, with gunzip"):
        load_probe(f"corpus:{path}")


def test_a_directory_is_called_that_with_what_is_in_it(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match="is a directory; name a file; it holds none") as caught:
        load_probe(f"corpus:{tmp_path / 'd'}")
    assert "did you mean" not in str(caught.value)
    write(tmp_path / "d" / "docs.jsonl", {"text": "a"})
    with pytest.raises(ValueError, match=r"is a directory; name one of its files: 'docs.jsonl'; expected"):
        load_probe(f"corpus:{tmp_path / 'd'}")


def test_rows_that_are_not_taken_yet_are_not_shown_as_a_document(run_cli):
    for more in ((), ("--show", "2"), ("--format", "json")):
        status, out, err = run_cli("probes", "train:?limit=8", *more)
        assert status == 2 and not out and "up to 8 rows" in err and "when training starts" in err


def test_the_command_line_says_what_documents_a_probe_has(tmp_path, run_cli):
    rows = [{"text": DOCUMENT * n, "category": "prose"} for n in range(1, 31)]
    status, out, err = run_cli("probes", write(tmp_path / "docs.jsonl", *rows), "--show", "1")
    size = len(DOCUMENT.encode("utf-8"))
    assert status == 0 and "prose                text                 30" in out
    assert f"documents: 30 of {size} to {30 * size:,} bytes, {size * 465:,} in all" in out
    assert "prompts:" not in out and "fewer than" not in err
    assert json.loads(out.splitlines()[-1])["text"] == DOCUMENT


def test_one_document_is_no_mapping_of_names_and_one_without_a_kind_is_told_so():
    with pytest.raises(ValueError, match="got one item; wrap it in a list"):
        as_probes({"kind": "text", "id": "a", "text": "x"})
    with pytest.raises(ValueError, match=r"field .text.: unknown for generation; .*; a document has kind 'text'"):
        as_probes([{"id": "a", "text": "x"}])
    (probe,) = as_probes(pd.DataFrame([{"kind": "text", "id": "a", "text": "x", "category": None}]))
    assert probe.items == (Text("a", "x"),)
