"""What `load_probe` promises: a spec names one probe; a limit keeps the shares of categories and is one draw a seed."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from forget_callback import load_probe
from forget_callback.probes.builtin.facts import load_facts
from forget_callback.probes.items import Generation, Recall, in_variant
from forget_callback.probes.jsonl import dump_items
from forget_callback.probes.load import as_probes
from forget_callback.probes.probe import Probe
from forget_callback.probes.records import parse_item
from forget_callback.probes.sampling import stratified
from forget_callback.probes.variants import with_variants


def items_of(sizes):
    """`sizes`: items per category."""
    items = [Recall(f"{name}-{i}", "", "x", name) for name, size in sizes.items() for i in range(size)]
    random.Random(0).shuffle(items)
    return items


def own(probe):
    """The items of a probe as their own prompts ask them."""
    return [in_variant(item, 1) for item in probe.items]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(dump_items(items_of({"geo": 60, "art": 30, "": 10})), encoding="utf-8")
    return str(path)


def test_a_file_is_named_by_its_stem(path):
    probe = load_probe(path)
    assert probe.name == "mine" and len(probe) == 100
    assert load_probe(path, limit=100).fingerprint == load_probe(path, limit=500).fingerprint == probe.fingerprint


def test_a_limit_keeps_shares_and_the_order_of_the_file(path):
    probe = load_probe(path, limit=20)
    assert Counter(item.category for item in probe.items) == {"geo": 12, "art": 6, "": 2}
    everything = load_probe(path).ids
    assert sorted(probe.ids, key=everything.index) == list(probe.ids)


def test_the_seed_decides_the_draw_and_the_order_of_the_file_does_not(path, tmp_path):
    probe = load_probe(path, limit=20, seed=3)
    assert load_probe(path, limit=20, seed=3).ids == probe.ids
    assert set(load_probe(path, limit=20, seed=4).ids) != set(probe.ids)
    turned = tmp_path / "turned.jsonl"
    turned.write_text(dump_items(load_probe(path).items[::-1]), encoding="utf-8")
    assert load_probe(str(turned), limit=20, seed=3).fingerprint == probe.fingerprint


def test_the_draw_is_the_same_on_every_machine(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(dump_items(items_of({"a": 9, "b": 3})), encoding="utf-8")
    assert load_probe(str(file), limit=4, seed=0).ids == ("a-1", "a-8", "b-1", "a-6")


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(1, 160), st.randoms(use_true_random=False))
def test_every_category_gets_its_share_rounded_up_or_down(sizes, limit, rng):
    things = [(name, i) for name, size in enumerate(sizes) for i in range(size)]
    draw = {thing: rng.random() for thing in things}
    chosen = stratified(things, limit, stratum=lambda thing: thing[0], draw=draw.__getitem__)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(limit, len(things))
    for name, size in enumerate(sizes):
        mine = [thing for thing in things if thing[0] == name]
        taken = [thing for thing in chosen if thing[0] == name]
        assert abs(len(taken) - min(limit / len(things), 1) * size) < 1
        assert sorted(taken, key=draw.__getitem__) == sorted(mine, key=draw.__getitem__)[: len(taken)]


@pytest.mark.parametrize(
    "spec, options",
    [
        ("builtin:facts", {}),
        ("builtin:facts?category=capitals", {"category": "capitals"}),
        ("builtin:facts?category=capitals,elements&kind=recall", {"category": "capitals,elements", "kind": "recall"}),
    ],
)
def test_the_builtin_facts_pass_their_options_on(spec, options):
    probe = load_probe(spec, limit=30, seed=2)
    expected = load_facts(**options, limit=30, seed=2)
    assert isinstance(probe, Probe) and (probe.name, probe.fingerprint) == (expected.name, expected.fingerprint)


@pytest.mark.parametrize(
    "spec, problem",
    [
        ("facts", "is not known; expected 'builtin:facts', 'builtin:behaviour', 'builtin:text', a .jsonl file"),
        ("builtin", "is not known"),
        ("facts.json", "is not known"),
        ("web:page", "is not known"),
        ("builtin:quiz", "expected one of builtin:facts, "),
        ("bultin:quiz", "did you mean 'builtin:quiz'"),
        ("builtin:facts?topic=geo", "unknown option 'topic'.* known are category, kind, name"),
        ("builtin:facts?limt=3", "unknown option 'limt'; did you mean 'limit'"),
        ("none.jsonl?limt=3", "unknown option 'limt'; did you mean 'limit'"),
        ("x.csv", "read it with pandas and pass the DataFrame"),
        ([{"id": "a"}], r"for rows of a table use Probe\(name, items\), or ForgetCallback\(rows\)"),
        ("builtin:facts?category=", "category must be one or more of"),
        ("builtin:facts?kind=essay", "kind must be"),
        ("none.jsonl", r"no probe file at none.jsonl"),
        (None, "spec must be a string"),
        (3, "spec must be a string"),
    ],
)
def test_an_unknown_spec_says_what_was_expected(spec, problem):
    with pytest.raises(ValueError, match=problem):
        load_probe(spec)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(path, limit):
    with pytest.raises(ValueError, match=f"limit must be 1 or more, got {limit}"):
        load_probe(path, limit=limit)


def test_a_limit_in_the_spec_is_the_limit(path):
    assert load_probe(f"{path}?limit=20").ids == load_probe(path, limit=20).ids
    assert load_probe(f"{path}?limit=20&chat=true", limit=30).ids == load_probe(path, limit=20).ids
    assert load_probe(f"{path}?limit=30", limit=20, seed=3).ids == load_probe(path, limit=20, seed=3).ids
    facts = load_probe("builtin:facts?kind=recall&limit=30")
    assert facts.fingerprint == load_probe("builtin:facts?kind=recall", limit=30).fingerprint
    for bad, problem in (("0", "limit must be 1 or more, got 0"), ("few", "limit must be a number, got 'few'")):
        with pytest.raises(ValueError, match=problem):
            load_probe(f"{path}?limit={bad}")


ROWS = [
    {"id": "c", "prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1, "category": "sums"},
    {"id": "d", "prompt": "1 + 1 =", "choices": [" 2", " 1", " 0"], "answer": 0, "category": "sums"},
]
MIXED = [
    {"kind": "recall", "id": "r", "prompt": "The capital of France is", "answer": " Paris"},
    {"id": "g", "prompt": "Name a prime.", "answer": "7", "match": "number", "max_new_tokens": 8},
    {"id": "h", "prompt": "Name a colour.", "answer": "red"},
]


def dataset(rows):
    """With every column: `from_list` takes those of the first row."""
    return Dataset.from_list([{**dict.fromkeys(key for other in rows for key in other), **row} for row in rows])


@pytest.mark.parametrize("rows", [ROWS, MIXED], ids=["choices", "mixed"])
@pytest.mark.parametrize(
    "make",
    [list, tuple, dataset, pd.DataFrame, lambda rows: [parse_item(row) for row in rows]],
    ids=["list", "tuple", "Dataset", "DataFrame", "items"],
)
def test_a_table_with_the_fields_of_an_item_is_a_probe(make, rows):
    (probe,) = as_probes(make(rows))
    assert probe == with_variants(Probe("probe", [parse_item(row) for row in rows]))


@pytest.mark.parametrize("make", [list, dataset, pd.DataFrame], ids=["list", "Dataset", "DataFrame"])
def test_whole_number_ids_and_numbers_as_answers_are_their_texts(make):
    rows = [{"id": i, "prompt": "6 * 7 =", "answer": 42, "match": "number"} for i in (1, 2)]
    (probe,) = as_probes(make(rows))
    assert own(probe) == [Generation(str(i), "6 * 7 =", "42", "number") for i in (1, 2)]


def test_numbers_of_numpy_and_fractions_are_their_texts(tmp_path):
    row = {"id": np.int64(7), "prompt": "1 / 4 =", "answer": np.float64(0.25), "match": "number"}
    (probe,) = as_probes([row])
    assert own(probe) == [Generation("7", "1 / 4 =", "0.25", "number")]
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({**row, "id": 7, "answer": 0.25}), encoding="utf-8")
    assert load_probe(path).items == probe.items


def test_one_or_several_in_any_form(path, tmp_path):
    probe = load_probe(path)
    assert as_probes(probe) == as_probes(path) == as_probes(Path(path)) == as_probes([Path(path)]) == (probe,)
    spec = "builtin:facts?limit=4"
    assert as_probes([spec, probe, ROWS]) == (load_probe(spec), probe, *as_probes(ROWS))
    named = as_probes({"sums": ROWS, "more": dataset(MIXED), "mine": path})
    assert [probe.name for probe in named] == ["sums", "more", "mine"]
    assert named[0].items == as_probes(ROWS)[0].items and named[2] == probe


@pytest.mark.parametrize(
    "given, problem",
    [
        ([ROWS, MIXED], r"several tables without a name; name each, as in probes=.* or make a Probe\(name, items\)"),
        (3, "probes must be a Probe, a spec such as 'builtin:facts', .*, got int 3"),
        ([[3]], r"probes must be .*, got list \[3\]"),
        ([*ROWS, "builtin:facts"], "row 2 of a table of items: expected an object with the fields of an item, got str"),
        (pd.DataFrame(ROWS).drop(columns="id"), "row 0 of a table of items: item None, field 'id': missing"),
        ([{**ROWS[0], "answer": 9}], "row 0 of a table of items: item 'c', field 'answer': expected an index"),
        ({"a/b": ROWS}, "name must be letters"),
        *[(empty, "probes is empty; give at least one") for empty in ([], (), {})],
        *[(one, "got one item; wrap it in a list") for one in (ROWS[0], {"a": ROWS[0]}, parse_item(ROWS[0]))],
        (["first", "second"], "spec 'first' is not known"),
    ],
)
def test_what_is_no_probe_says_what_was_expected(given, problem):
    with pytest.raises(ValueError, match=problem):
        as_probes(given)


def test_types_are_told_apart_without_loading_their_packages():
    code = (
        "import sys\nfrom forget_callback.probes.load import as_probes\n"
        f"as_probes({ROWS!r})\nassert not {{'datasets', 'pandas', 'torch'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SOURCE = """
from forget_callback import Generation, Probe

def load(name, options):
    if name == "broken":
        return options["none"]
    rows = [{"id": f"{name}/{i}", "prompt": f"{i}?", "answer": str(i)} for i in range(int(options.get("n", 5)))]
    return rows if name == "rows" else Probe("named", rows if name == "bad" else [Generation(**row) for row in rows])
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package that declares the scheme `mybench`."""
    (tmp_path / "my_bench_source.py").write_text(SOURCE, encoding="utf-8")
    info = tmp_path / "my_bench-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-bench\nVersion: 1.0\n", encoding="utf-8")
    entry = "[forget_callback.probes]\nmybench = my_bench_source:load\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_bench_source", None)


def test_a_source_of_an_installed_package_is_loaded_by_its_scheme(installed):
    assert load_probe("mybench:five").name == "named"
    assert load_probe("mybench:five?n=7&chat=true").chat and len(load_probe("mybench:five?n=7")) == 7
    assert len(load_probe("mybench:five?limit=3")) == 3
    assert load_probe("mybench:rows").name == "rows"


@pytest.mark.parametrize(
    "spec, problem",
    [
        ("mybench:broken", r"the source 'mybench' \(my_bench_source:load\) failed: KeyError: 'none'"),
        ("mybench:bad", "the source 'mybench' .* failed: ValueError: probe 'named', item 0: expected an item"),
        ("other:five", "spec 'other:five' is not known; expected .*'hub:NAME', 'mybench:NAME' or 'lm-eval:TASK'"),
    ],
)
def test_a_source_that_fails_or_is_not_there_is_named(installed, spec, problem):
    with pytest.raises(ValueError, match=problem):
        load_probe(spec)


def test_a_source_whose_module_is_missing_is_named_with_its_spec(installed, tmp_path):
    (tmp_path / "my_bench_source.py").unlink()
    with pytest.raises(
        ImportError, match=r"spec 'mybench:five': the entry point 'mybench' \(my_bench_source:load\) .*"
    ):
        load_probe("mybench:five")


def test_a_source_is_imported_when_it_is_needed_and_not_before(installed):
    load_probe("builtin:facts?limit=2")
    assert "my_bench_source" not in sys.modules
