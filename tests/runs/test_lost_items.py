"""Which items `compare --items` shows, in which order and with which texts; without it no text of an item is shown."""

import json
import re
import shutil

import numpy as np
import pytest
from markdown_it import MarkdownIt

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot, Store
from forget_callback.snapshots.answers import Answers

N = 60
CHOICES = Probe(
    "choices", [MultipleChoice(f"c{i}", f"secret {i} is", list("abcd"), i % 4, f"k{i % 3}") for i in range(N)]
)
OPEN = Probe("open", [Recall(f"r{i}", f"hidden {i} and", f" {i + 1}") for i in range(N)])
EVIL = "@octocat\n::set-output name=x::y\n</td>|`<img src=x>` **b** [a](http://x.y) :tada: GH-12 " + "long " * 100


def answers(probe, step, rng, right, *, further=False):
    """A snapshot of random answers, each right with probability `right`, now and then not scored."""
    correct = (rng.random((2, len(probe))) < right).astype(float)
    correct[:, rng.random(len(probe)) < 0.1] = np.nan
    said = [f"said {step} {name}" for name in probe.ids]
    margin = np.where(np.arange(len(probe)) % 7 == 0, np.nan, rng.normal(size=len(probe)))
    return Snapshot(
        probe.name,
        probe.fingerprint,
        step,
        list(probe.ids),
        correct[0],
        margin=margin,
        prediction=said,
        n_choices=probe.n_choices,
        further=(Answers(fingerprint="another", correct=correct[1]),) if further else (),
    )


def record(path, *taken, probes):
    store = Store(path)
    store.begin(probes)
    for one in taken:
        store.write(one)
    return path


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    taken = [
        answers(probe, step, rng, right, further=probe is CHOICES)
        for step, right in ((0, 0.8), (9, 0.5))
        for probe in (CHOICES, OPEN)
    ]
    return record(tmp_path / "run", *taken, probes=(CHOICES, OPEN)), taken


def lost_by_hand(taken):
    """(share of prompts lost, margin) of each lost item by id, item after item."""
    found = {}
    for before, after in ((taken[0], taken[2]), (taken[1], taken[3])):
        for i, name in enumerate(before.ids):
            if before.correct[i] == 1 and after.correct[i] == 0:
                sides = [[one.correct[i], *(more.correct[i] for more in one.further)] for one in (before, after)]
                margin = 0.0 if before.margin[i] != before.margin[i] else before.margin[i]
                found[name] = (sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1]), margin)
    return found


def test_the_items_are_those_that_went_from_right_to_wrong_the_surest_first(run_cli, run):
    path, taken = run
    expected = lost_by_hand(taken)
    code, out, _ = run_cli("compare", path, path, "--format", "json", "--items", 1000)
    items = json.loads(out)["lost_items"]
    assert code == 0 and len(items) == len(expected) > 20
    order = [expected[item["id"]] for item in items]
    assert order == sorted(order, reverse=True)
    assert {share for share, _ in order} == {0.0, 0.5, 1.0}, "some of them only changed their form"
    by_id = {item.id: item for probe in (CHOICES, OPEN) for item in probe.items}
    for item in items:
        source = by_id[item["id"]]
        right = source.choices[source.answer] if item["probe"] == "choices" else source.answer
        assert (item["prompt"], item["expected"], item["category"]) == (source.prompt, right, source.category)
        assert (item["answer_before"], item["answer_after"]) == (f"said 0 {source.id}", f"said 9 {source.id}")
    few = json.loads(run_cli("compare", path, path, "--format", "json", "--items", 3)[1])["lost_items"]
    assert few == items[:3]


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_items_are_shown_only_where_asked_for(run_cli, run, format, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path, taken = run
    _, out, err = run_cli("compare", path, path, "--format", format)
    assert not re.search("secret|hidden|said", out + err)
    _, out, _ = run_cli("compare", path, path, "--format", format, "--items", 10)
    assert out.count("said 0") == 10 and f"10 of {len(lost_by_hand(taken))} items" in out


def test_json_has_no_items_unless_asked_for(run_cli, run):
    path, _ = run
    assert "lost_items" not in json.loads(run_cli("compare", path, path, "--format", "json")[1])


def test_nothing_lost_is_said(run_cli, tmp_path):
    taken = [Snapshot("open", OPEN.fingerprint, step, list(OPEN.ids), np.ones(N)) for step in (0, 1)]
    path = record(tmp_path / "run", *taken, probes=[OPEN])
    _, out, _ = run_cli("compare", path, path, "--format", "markdown", "--items", 10)
    assert "right and are wrong now: 0" in out and "| prompt |" not in out


def test_snapshot_files_have_the_texts_of_the_run_around_them_else_the_ids(run_cli, run, tmp_path):
    path, _ = run
    files = [path / "forget" / "snapshots" / "open" / f"step-0000000{step}.parquet" for step in (0, 9)]
    _, out, _ = run_cli("compare", *files, "--format", "markdown", "--items", 5)
    assert out.count("| hidden") == 5
    alone = [shutil.copy(file, tmp_path / f"{i}.parquet") for i, file in enumerate(files)]
    _, out, _ = run_cli("compare", *alone, "--format", "markdown", "--items", 5)
    assert "hidden" not in out and len(re.findall(r"^\| open \| r\d+ \| \? \| said 0", out, re.MULTILINE)) == 5


def test_logs_show_their_items_with_the_texts_that_they_have(run_cli, tmp_path):
    for name, right in (("a", 1), ("b", 0)):
        lines = [{"id": f"q{i}", "score": right, "choice": i % 4, "answer": 2, "k": 4} for i in range(N)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for line in ("--items", 10), ():
        code, out, err = run_cli("compare", *paths, "--format", "json", *line)
        assert code == 0, err
    code, out, err = run_cli("compare", *paths, "--format", "json", "--items", 10)
    assert len(json.loads(out)["lost_items"]) == 10, err


def test_what_users_and_models_wrote_is_shown_as_it_is(run_cli, tmp_path):
    probe = Probe("p", [Generation(f"g{i}", EVIL + str(i), EVIL, match="contains") for i in range(N)])
    taken = [
        Snapshot("p", probe.fingerprint, step, list(probe.ids), np.full(N, 1.0 - step), prediction=[EVIL] * N)
        for step in (0, 1)
    ]
    path = record(tmp_path / "run", *taken, probes=[probe])
    _, out, _ = run_cli("compare", path, path, "--format", "markdown", "--items", 10)
    _, table = out.rsplit("\n\n", 1)
    assert len(table.splitlines()) == 12 and not re.search(r"^\s*::", out, re.MULTILINE)
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(table)
    assert {len(re.findall("<t[dh]", row)) for row in html.split("<tr>")[1:]} == {5}
    assert not re.search("<(img|a|strong|em|code)[ >]", html)
    assert not re.search(r"@\w|:tada:|GH-\d|https?:\w*//", table)
    assert max(map(len, table.splitlines())) < 5 * 300
