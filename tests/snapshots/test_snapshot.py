"""What a snapshot promises: unscored is not wrong, items are joined by id, and a file gives back what went in."""

from dataclasses import FrozenInstanceError
from math import inf, isnan, nan

import numpy as np
import pyarrow.parquet as pq
import pytest

from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot

FULL = {
    "ids": ["a", "ü/2", "日本", "d"],
    "correct": [1, 0, nan, 0],
    "outcome": ["correct", "unparsed", None, "truncated"],
    "choice": [2, -1, -1, 0],
    "margin": [0.25, -inf, nan, -1.5],
    "score": [0.75, 0.0, nan, 0.5],
    "bits_per_byte": [nan, 0.91, nan, nan],
    "kl": [0.0, 0.25, nan, nan],
    "kl_error": [0.0, 1e-3, nan, nan],
    "top1": [1.0, 0.875, nan, nan],
    "category": ["geo", "", "語", "geo"],
    "prediction": [" Zürich", None, None, ""],
    "text": [None, "I do not know\n", None, "Let me"],
    "scores": [[-0.5, -1.0, -0.1], [], [], [-1.0, -inf]],
    "n_choices": [3, inf, inf, 2],
    "answer": [2, -1, -1, 1],
    "cluster": ["one", "", "two", "one"],
    "fact": ["", "Zürich", "", ""],
    "kind": ["multiple_choice", "generation", "", "multiple_choice"],
    "ability": ["knowledge", "behaviour", "", "task"],
    "samples": [1, 1, 1, 4],
}
SECOND = {
    "correct": [0, nan, nan, 0.25],
    "outcome": ["wrong", None, None, "unparsed"],
    "choice": [1, -1, -1, -1],
    "margin": [-0.5, nan, nan, nan],
    "prediction": [" Genève", None, None, None],
    "text": [None, None, None, "Hm"],
    "asked": [True, True, False, True],
    "weak": [False, False, False, True],
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


def asked_twice(**changes):
    third = Answers("3" * 64, [1, 0, nan, nan], asked=[True, True, False, False])
    return snapshot(further=[Answers("2" * 64, **SECOND), third], **changes)


def assert_same(one, other):
    further = [f"{name}_{number}" for number in range(2, one.n_variants + 1) for name in SECOND]
    assert [a.fingerprint for a in one.further] == [a.fingerprint for a in other.further]
    for name in (*FULL, *further):
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
    [
        snapshot(),
        asked_twice(),
        snapshot(samples_seen=nan, tokens_seen=nan, metadata={}),
        bare(),
        bare([], []),
        bare(["a"], [nan]),
    ],
    ids=["full", "variants", "no counts", "bare", "no items", "nothing scored"],
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
    assert columns["k"] == [3, None, None, 2]
    for name in ("answer", "cluster", "fact", "kind", "ability", "samples"):
        assert columns[name] == FULL[name]
    for name in ("score", "bits_per_byte", "kl", "kl_error", "top1"):
        assert columns[name] == [None if value != value else value for value in FULL[name]]


def test_further_variants_are_columns_with_their_number(tmp_path):
    asked_twice().save(tmp_path / "s.parquet")
    columns = pq.read_table(tmp_path / "s.parquet").to_pydict()
    for name, values in SECOND.items():
        assert columns[f"{name}_2"] == [None if value != value else value for value in values]
    assert columns["outcome_3"] == ["correct", "wrong", None, None] and columns["asked_3"] == [True, True, False, False]
    assert "correct_4" not in columns
    assert asked_twice().to_pandas().attrs["variants"] == ["2" * 64, "3" * 64]


def test_further_variants_are_attributes_with_their_number():
    s = asked_twice()
    assert s.n_variants == 3 and s.correct_2 is s.further[0].correct and s.choice_3 is s.further[1].choice
    for name in ("correct_1", "correct_4", "scores_2", "correct_02", "correct_"):
        with pytest.raises(AttributeError, match=name):
            getattr(s, name)
    assert snapshot().n_variants == s.without_variants().n_variants == 1
    assert_same(s.without_variants(), snapshot())


def test_another_parquet_file_is_refused_by_name(tmp_path):
    path = tmp_path / "other.parquet"
    snapshot().to_pandas().drop(columns="correct").to_parquet(path)
    with pytest.raises(ValueError, match=r"other.parquet is not a snapshot"):
        Snapshot.load(path)


@pytest.mark.parametrize("attribute", ["step", "metadata", "variants", "probe"])
def test_a_file_whose_own_data_is_of_another_type_is_refused_by_name(tmp_path, attribute):
    path = tmp_path / "odd.parquet"
    for value in ("missing", 1.5, None):
        frame = snapshot().to_pandas()
        frame.attrs = {**frame.attrs, attribute: value}
        if value == "missing":
            del frame.attrs[attribute]
        frame.to_parquet(path)
        with pytest.raises(ValueError, match=rf"odd.parquet is not what Snapshot.save wrote: .*'{attribute}'"):
            Snapshot.load(path)


def test_the_table_has_a_row_an_item_and_the_rest_in_attrs():
    frame = snapshot().to_pandas()
    assert frame["id"].tolist() == FULL["ids"]
    assert frame["correct"].isna().tolist() == frame["outcome"].isna().tolist() == [False, False, True, False]
    assert frame.attrs == {**GIVEN, **META, "variants": []}
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
        ({"correct": [0.5, 0, nan, 0]}, "correct must hold 1, 0 or NaN"),
        ({"ids": ["a", "b", "a", "d"]}, "ids must be unique, got 'a' 2 times"),
        ({"outcome": ["correct", "lost", None, "wrong"]}, "outcome must be one of .* or None, got 'lost'"),
        ({"outcome": ["wrong", "wrong", None, "wrong"]}, "item 'a': outcome 'wrong' contradicts correct 1.0"),
        ({"outcome": ["correct", "correct", None, "wrong"]}, "item 'ü/2': outcome 'correct' contradicts correct 0.0"),
        ({"outcome": ["correct", "wrong", "wrong", "wrong"]}, "item '日本': outcome 'wrong' contradicts correct nan"),
        ({"outcome": ["correct", "wrong", None, None]}, "item 'd': outcome None contradicts correct 0.0"),
        ({"correct": [1, 0, nan, 1.25]}, "correct must hold .* or a share where there are several samples, got 1.25"),
        ({"correct": [1, 0, nan, 0.75]}, "item 'd': outcome 'truncated' contradicts correct 0.75"),
        ({"further": [Answers("", [1, 0])]}, "the answers to variant 2 must be 4, one per id, got 2"),
        ({"further": [Answers("", [0.5, 1, nan, 0])]}, "correct_2 must hold 1, 0 or NaN .*, got 0.5"),
        ({"further": [Answers("", [1, 0, 0, 0], ["wrong"] * 4)]}, "'a': outcome_2 'wrong' contradicts correct_2 1.0"),
    ],
)
def test_contradictions_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        snapshot(**changes)


def test_what_was_not_asked_has_no_answer():
    with pytest.raises(ValueError, match=r"item 1 was not asked, but has correct 0.0; expected NaN"):
        Answers("2", [1, 0], asked=[True, False])


def test_of_several_samples_correct_is_a_share():
    s = bare("abcd", [0.75, 0.5, 0.25, nan], samples=[4, 4, 4, 4])
    assert s.outcome.tolist() == ["correct", "wrong", "wrong", None] and s.accuracy == 0.5


@pytest.mark.parametrize(
    "rows, positions",
    [(np.array([3, 0]), [3, 0]), (np.array([True, False, False, True]), [0, 3]), (np.array([], int), [])],
)
def test_select_takes_whole_rows(rows, positions):
    s = snapshot()
    picked = asked_twice().select(rows)
    assert picked.outcome_2.tolist() == [SECOND["outcome"][i] for i in positions]
    assert picked.asked_3.tolist() == [i < 2 for i in positions]
    assert picked.ids.tolist() == [FULL["ids"][i] for i in positions]
    assert picked.margin.tolist() == pytest.approx([FULL["margin"][i] for i in positions])
    assert [list(x) for x in picked.scores] == [FULL["scores"][i] for i in positions]
    assert (picked.probe, picked.step, picked.metadata) == (s.probe, s.step, s.metadata)
