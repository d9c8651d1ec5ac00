"""The replay pack: nearest first, all that was forgotten in turn, and never the probe's own items."""

import json
import re
import sys
from collections import Counter
from itertools import pairwise
from math import log, sqrt

import numpy as np
import pytest

from forget_callback import MultipleChoice, Probe, Recall, Snapshot, Store
from forget_callback.tools.replay import replay_pack
from tests.schema import checked

FACTS = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Kenya", "Nairobi"), ("Peru", "Lima")]
ITEMS = [Recall(f"r/{land}", f"The capital of {land} is", f" {city}") for land, city in FACTS]
ITEMS += [
    MultipleChoice(f"c/{land}", f"Question: What is the capital of {land}?\nAnswer:", [f" {city}", " Bern"], 0)
    for land, city in FACTS
]
POOL = [
    {"messages": [{"role": "user", "content": "Where is Paris?"}, {"role": "assistant", "content": "In France."}]},
    {"text": "Rome has been the seat of Italy for long, and Italy likes Rome."},
    {"prompt": "Which city governs Japan?", "completion": "Tokyo"},
    {"text": "Bananas are yellow."},
    {"text": "As everybody knows, the CAPITAL of Japan, is Tokyo."},  # the probe's own, in other letters
    {"messages": [{"role": "user", "content": "What is the capital of Peru?"}]},  # the same
    {"text": "Paris, the city on the Seine, is loved by France."},
]


@pytest.fixture
def run(tmp_path):
    """A run that forgot Paris (recall), Rome (choice) and Japan (recall); Kenya was never known, Peru came back."""
    probe, store = Probe("facts", ITEMS), Store(tmp_path / "run")
    store.begin([probe])
    for step, wrong in (
        (0, {"r/Kenya"}),
        (10, {"r/Kenya", "r/Peru"}),
        (20, {"r/Kenya", "r/France", "c/Italy", "r/Japan"}),
    ):
        correct = [float(name not in wrong) for name in probe.ids]
        store.write(Snapshot("facts", probe.fingerprint, step, np.array(probe.ids, object), np.array(correct)))
    return str(tmp_path / "run")


def slow_cosines(texts):
    """Cosines of the first text with the others: (1 + log count) (1 + log((1 + n) / (1 + texts with it))), by hand."""
    words = [[re.sub(r"\W", "", word.lower()) for word in text.split()] for text in texts]
    counts = [Counter([*own, *pairwise(own)]) for own in words]
    rarity = {
        term: 1 + log((1 + len(texts)) / (1 + sum(term in own for own in counts))) for own in counts for term in own
    }
    vectors = [{term: (1 + log(n)) * rarity[term] for term, n in own.items()} for own in counts]
    lengths = [sqrt(sum(value**2 for value in vector.values())) for vector in vectors]
    first = vectors[0]
    return [
        sum(value * first.get(term, 0.0) for term, value in vector.items()) / lengths[0] / length
        for vector, length in zip(vectors[1:], lengths[1:])
    ]


def test_each_forgotten_item_selects_its_nearest_example(run):
    pack = replay_pack(run, POOL, size=3)
    assert pack.forgotten == 3
    lost = {
        "r/France": "The capital of France is Paris",
        "c/Italy": "What is the capital of Italy? Rome",
        "r/Japan": "The capital of Japan is Tokyo",
    }
    pool = [" ".join([m["content"] for m in e["messages"]] if "messages" in e else e.values()) for e in POOL]
    for name, example, similarity in zip(pack.nearest, pack.examples, pack.similarity, strict=True):
        others = [text for other, text in lost.items() if other != name]
        cosines = slow_cosines([lost[name], *others, *pool])[len(others) :]
        cosines[4] = cosines[5] = 0.0  # the probe's own
        assert similarity == pytest.approx(max(cosines)) and example is POOL[cosines.index(max(cosines))]
    assert sorted(pack.nearest) == sorted(lost)


def test_the_probes_own_items_are_never_in_it(run):
    pack = replay_pack(run, POOL, size=100)
    assert pack.refused == 2
    assert POOL[4] not in pack.examples and POOL[5] not in pack.examples
    assert POOL[3] not in pack.examples  # which is near to nothing


def test_a_pool_of_nothing_but_the_probe_is_refused(run):
    own = [{"text": item.prompt + (item.answer if isinstance(item, Recall) else item.choices[0])} for item in ITEMS]
    with pytest.raises(ValueError, match=r"nothing near to the 3 forgotten items that is not one of .* \(10 are\)"):
        replay_pack(run, own, size=5)


TICKETS = [
    f"{name} writes: the {what} is {how} since {when}. Priority: {level}."
    for name in ("Ann", "Bob", "Eve")
    for what in ("router", "laptop", "invoice")
    for how in ("broken", "late")
    for when in ("Monday", "the 3rd")
    for level in ("high", "low")
]


def test_a_pool_about_other_things_is_refused_with_how_near_it_comes(run):
    """What it shares with the items are words such as "the" and "is"."""
    pool = [{"text": text} for text in TICKETS]
    with pytest.raises(
        ValueError, match=r"72 examples has nothing near to the 3 forgotten .*similarity of 0\.0\d+ to 0\."
    ):
        replay_pack(run, pool, size=5)
    near = replay_pack(run, [*pool, {"text": "Rome is in Italy. " + " ".join(TICKETS)}], size=5)
    assert near.covered == 1 and near.forgotten == 3, "however long the text is that says it"


def test_how_many_items_the_pool_is_near_to_is_said(run, run_cli, tmp_path):
    assert replay_pack(run, POOL, size=3).covered == 3
    pool, out = tmp_path / "pool.jsonl", tmp_path / "pack.jsonl"
    pool.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TICKETS, "Italy and Rome"]))
    status, _, err = run_cli("replay", run, "--pool", pool, "--out", out)
    assert status == 0 and "only 1 of 3 forgotten items has an example in the pool that is near" in " ".join(
        err.split()
    )
    assert json.loads((tmp_path / "pack.jsonl.why.json").read_text())["covered"] == 1
    pool.write_text("".join(json.dumps({"text": text}) + "\n" for text in TICKETS))
    status, said, err = run_cli("replay", run, "--pool", pool, "--out", tmp_path / "none.jsonl")
    assert status == 2 and not said and "nothing near" in err and not (tmp_path / "none.jsonl").exists()


def test_long_items_are_known_by_any_thirteen_words_of_theirs(tmp_path):
    words = [f"word{i}" for i in range(30)]
    probe, store = Probe("long", [Recall("a", " ".join(words), " end")]), Store(tmp_path / "run")
    store.begin([probe])
    for step, correct in ((0, 1.0), (5, 0.0)):
        store.write(Snapshot("long", probe.fingerprint, step, np.array(["a"], object), np.array([correct])))
    pool = [{"text": " ".join(words[at : at + n])} for at, n in ((3, 12), (3, 13), (17, 13), (0, 30))]
    pack = replay_pack(str(tmp_path / "run"), pool, size=9)
    assert pack.examples == (pool[0],) and pack.refused == 3


def test_items_that_share_their_question_are_said_not_to_be_looked_for(tmp_path, run_cli):
    options = [[f" {city}", " Bern"] for _, city in FACTS]
    shared = [MultipleChoice(f"s/{n}", "Which of these is true?", two, 0) for n, two in enumerate(options)]
    probe, store = Probe("mixed", [*ITEMS, *shared]), Store(tmp_path / "run")
    store.begin([probe])
    for step, correct in ((0, np.ones(len(probe))), (5, np.zeros(len(probe)))):
        store.write(Snapshot("mixed", probe.fingerprint, step, np.array(probe.ids, object), correct))
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in [*POOL, {"text": "Which of these is true? Paris"}]))
    status, said, err = run_cli(
        "replay", tmp_path / "run", "--pool", pool, "--out", tmp_path / "a.jsonl", "--format", "json"
    )
    assert status == 0 and checked(said, "replay")["not_looked_for"] == len(shared)
    assert "5 items of the probe are not looked for, without words that few others have" in " ".join(err.split())
    assert json.loads((tmp_path / "a.jsonl.why.json").read_text())["not_looked_for"] == len(shared)


def test_without_scikit_learn_the_error_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install 'forget-callback\[replay\]'"):
        replay_pack(run, POOL, size=1)


def test_a_step_can_be_named_and_a_run_that_forgot_nothing_has_no_pack(run):
    assert replay_pack(f"{run}@10", [{"text": "Lima is in Peru"}], size=1).nearest == ("r/Peru",)
    with pytest.raises(ValueError, match="forgot nothing that it knew at its baseline"):
        replay_pack(f"{run}@0", POOL, size=1)


def test_the_command_writes_the_examples_as_they_are_and_why(run, run_cli, tmp_path):
    pool, out = tmp_path / "pool.jsonl", tmp_path / "pack.jsonl"
    rows = [{"prompt": row.get("prompt", row.get("text", "x")), "completion": "y"} for row in POOL]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, said, err = run_cli("replay", run, "--pool", pool, "--out", out, "--size", "2")
    chosen = [json.loads(line) for line in out.read_text().splitlines()]
    assert status == 0 and said.startswith("2 examples for 3 forgotten items")
    assert len(chosen) == 2 and all(row in rows for row in chosen)
    why = json.loads((tmp_path / "pack.jsonl.why.json").read_text())
    assert why["refused"] == 1 and len(why["examples"]) == 2 and "1 example of the pool contains" in err
    status, _, err = run_cli("replay", run, "--pool", tmp_path / "no.jsonl", "--out", out)
    assert status == 2 and "no such file" in err
