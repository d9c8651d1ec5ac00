"""What a snapshot promises: unscored is not wrong, items are joined by id, and a file gives back what went in."""

from dataclasses import FrozenInstanceError
from math import inf, isnan, nan

import numpy as np
import pyarrow.parquet as pq
import pytest

from forget_callback.probes.items import MultipleChoice, Recall
from forget_callback.probes.probe import Probe
from forget_callback.snapshots.snapshot import Snapshot, align, complete, pool

FULL = {
    "ids": ["a", "ü/2", "日本", "d"],
    "correct": [1, 0, nan, 0],
    "outcome": ["correct", "unparsed", None, "truncated"],
    "choice": [2, -1, -1, 0],
    "margin": [0.25, -inf, nan, -1.5],
    "category": ["geo", "", "語", "geo"],
    "prediction": [" Zürich", None, None, ""],
    "text": [None, "I do not know\n", None, "Let me"],
    "scores": [[-0.5, -1.0, -0.1], [], [], [-1.0, -inf]],
    "n_choices": [3, inf, inf, 2],
    "answer": [2, -1, -1, 1],
}
META = {
    "samples_seen": 320.0,
    "tokens_seen": 4e12,
    "metadata": {"torch": "2.13", "notes": ["é", None, 1.5], "chat": True},
}
GIVEN = {"probe": "facts", "fingerprint": "f" * 64, "step": 12}


def snapshot(**changes):
    return Snapshot(**{**GIVEN, **FULL, **META, **changes})


def bare(ids="abc", correct=(1, 0, nan), *, probe="p", fingerprint="f", step=0, **columns):
    return Snapshot(probe, fingerprint, step, ids=list(ids), correct=list(correct), **columns)


def assert_same(one, other):
    for name in FULL:
        x, y = getattr(one, name), getattr(other, name)
        assert x.dtype == y.dtype and len(x) == len(y)
        for p, q in zip(x, y):
            np.testing.assert_array_equal(p, q)
            assert type(p) is type(q)
    for name in (*GIVEN, "metadata"):
        assert getattr(one, name) == getattr(other, name)
    np.testing.assert_array_equal([one.samples_seen, one.tokens_seen], [other.samples_seen, other.tokens_seen])


@pytest.mark.parametrize(
    "kept",
    [snapshot(), snapshot(samples_seen=nan, tokens_seen=nan, metadata={}), bare(), bare([], []), bare(["a"], [nan])],
    ids=["full", "no counts", "bare", "no items", "nothing scored"],
)
def test_a_file_gives_back_every_column(tmp_path, kept):
    kept.save(tmp_path / "s.parquet")
    assert_same(Snapshot.load(tmp_path / "s.parquet"), kept)


def test_the_file_reads_without_us_and_unscored_is_null(tmp_path):
    snapshot().save(tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names[:7] == ["id", "category", "correct", "outcome", "choice", "margin", "prediction"]
    columns = table.to_pydict()
    assert columns["id"] == FULL["ids"] and columns["category"] == FULL["category"]
    assert columns["correct"] == [1.0, 0.0, None, 0.0]
    assert columns["outcome"] == FULL["outcome"]
    assert columns["choice"] == FULL["choice"]
    assert columns["margin"] == [0.25, -inf, None, -1.5]
    assert columns["prediction"] == FULL["prediction"] and columns["text"] == FULL["text"]
    assert columns["scores"] == FULL["scores"]
    assert columns["k"] == [3, None, None, 2] and columns["answer"] == FULL["answer"]


def test_another_parquet_file_is_refused_by_name(tmp_path):
    path = tmp_path / "other.parquet"
    snapshot().to_pandas().drop(columns="correct").to_parquet(path)
    with pytest.raises(ValueError, match=r"other.parquet is not a snapshot"):
        Snapshot.load(path)


def test_the_table_has_a_row_an_item_and_the_rest_in_attrs():
    frame = snapshot().to_pandas()
    assert frame["id"].tolist() == FULL["ids"]
    assert frame["correct"].isna().tolist() == frame["outcome"].isna().tolist() == [False, False, True, False]
    assert frame.attrs == {**GIVEN, **META}
    assert bare().to_pandas().attrs["samples_seen"] is None


def test_what_is_not_given_is_unknown_and_not_zero():
    s = bare()
    assert s.outcome.tolist() == ["correct", "wrong", None]
    assert s.choice.tolist() == s.answer.tolist() == [-1, -1, -1]
    assert np.isnan(s.margin).all() and np.isinf(s.n_choices).all() and isnan(s.samples_seen)
    assert s.category.tolist() == ["", "", ""] and s.prediction.tolist() == s.text.tolist() == [None] * 3
    assert [len(scores) for scores in s.scores] == [0, 0, 0]


def test_a_snapshot_is_frozen():
    with pytest.raises(FrozenInstanceError):
        bare().step = 1


@pytest.mark.parametrize(
    "correct, accuracy", [([1, 0, nan], 0.5), ([1], 1.0), ([0, 0], 0.0), ([nan, nan], nan), ([], nan)]
)
def test_accuracy_is_over_the_scored_items(correct, accuracy):
    assert bare(range(len(correct)), correct).accuracy == pytest.approx(accuracy, nan_ok=True)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"correct": [1, 0]}, r"correct must have one value per id, shape \(4,\), got \(2,\)"),
        ({"margin": [[1], [2], [3], [4]]}, r"margin must have one value per id, shape \(4,\), got \(4, 1\)"),
        ({"category": ["geo"]}, r"category must have one value per id, shape \(4,\), got \(1,\)"),
        ({"scores": [[0.0]] * 5}, r"scores must have one value per id"),
        ({"correct": [1, 0, nan, 0.5]}, "correct must hold 1, 0 or NaN"),
        ({"ids": ["a", "b", "a", "d"]}, "ids must be unique, got 'a' 2 times"),
        ({"outcome": ["correct", "lost", None, "wrong"]}, "outcome must be one of .* or None, got 'lost'"),
        ({"outcome": ["wrong", "wrong", None, "wrong"]}, "item 'a': outcome 'wrong' contradicts correct 1.0"),
        ({"outcome": ["correct", "correct", None, "wrong"]}, "item 'ü/2': outcome 'correct' contradicts correct 0.0"),
        ({"outcome": ["correct", "wrong", "wrong", "wrong"]}, "item '日本': outcome 'wrong' contradicts correct nan"),
        ({"outcome": ["correct", "wrong", None, None]}, "item 'd': outcome None contradicts correct 0.0"),
    ],
)
def test_contradictions_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        snapshot(**changes)


@pytest.mark.parametrize(
    "rows, positions",
    [(np.array([3, 0]), [3, 0]), (np.array([True, False, False, True]), [0, 3]), (np.array([], int), [])],
)
def test_select_takes_whole_rows(rows, positions):
    s = snapshot()
    picked = s.select(rows)
    assert picked.ids.tolist() == [FULL["ids"][i] for i in positions]
    assert picked.margin.tolist() == pytest.approx([FULL["margin"][i] for i in positions])
    assert [list(x) for x in picked.scores] == [FULL["scores"][i] for i in positions]
    assert (picked.probe, picked.step, picked.metadata) == (s.probe, s.step, s.metadata)


def test_align_brings_the_later_items_into_the_earlier_order():
    later = bare("cab", [0, 1, nan], step=5, margin=[3.0, 1.0, 2.0])
    aligned = align(bare("abc"), later)
    assert aligned.ids.tolist() == ["a", "b", "c"] and aligned.margin.tolist() == [1.0, 2.0, 3.0]
    assert aligned.step == 5


def test_align_refuses_another_probe_and_shows_the_start_of_both_fingerprints():
    one, other = "1" * 64, "2" * 64
    shown = f"'p' at step 0 has fingerprint {one[:12]} and 3 items, 'q' at step 7 has {other[:12]} and 2;"
    with pytest.raises(ValueError, match=f"{shown} .*use the probe of that run, or another baseline"):
        align(bare("abc", fingerprint=one), bare("ab", (1, 0), probe="q", fingerprint=other, step=7))


@pytest.mark.parametrize(
    "ids, problem", [("abcx", r"lacks 0 .* \[\] and has 1 more \['x'\]"), ("ab", r"lacks 1 .*\['c'\]")]
)
def test_other_items_are_refused_and_both_sides_are_shown(ids, problem):
    other = bare(ids, [1] * len(ids), step=3)
    with pytest.raises(ValueError, match=rf"snapshot of step 3 {problem}"):
        align(bare("abc"), other)


def test_complete_takes_order_options_and_category_from_the_probe():
    probe = Probe("p", [MultipleChoice("m", "Q", [" a", " b"], 1, "geo"), Recall("r", "Q", "A")])
    s = complete(bare("rm", [1, 0], fingerprint=probe.fingerprint), probe)
    assert s.ids.tolist() == ["m", "r"] and s.correct.tolist() == [0, 1]
    assert s.category.tolist() == ["geo", ""] and s.n_choices.tolist() == [2, inf] and s.answer.tolist() == [1, -1]


@pytest.mark.parametrize("change", [{"probe": "q"}, {"fingerprint": "f"}, {"ids": "mx"}])
def test_complete_refuses_a_snapshot_of_another_probe(change):
    probe = Probe("p", [MultipleChoice("m", "Q", [" a", " b"], 1), Recall("r", "Q", "A")])
    given = {"ids": "mr", "fingerprint": probe.fingerprint, **change}
    with pytest.raises(ValueError, match=r"probe 'p'"):
        complete(bare(correct=[1, 0], **given), probe)


def test_pool_keeps_the_items_of_probes_apart():
    one, two = bare("ab", [1, 0], probe="x", fingerprint="f1"), bare("a", [nan], probe="y", fingerprint="f2")
    pooled = pool([one, two])
    assert pooled.probe == "all" and pooled.ids.tolist() == ["x/a", "x/b", "y/a"]
    np.testing.assert_array_equal(pooled.correct, [1, 0, nan])
    assert "f1" in pooled.fingerprint and "f2" in pooled.fingerprint
