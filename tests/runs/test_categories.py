"""What `significant_categories` promises: claims about many categories are wrong no more often than one is."""

import numpy as np
import pytest

from forget_callback.runs.categories import significant_categories
from forget_callback.runs.history import History
from forget_callback.snapshots.snapshot import Snapshot

N_CATEGORIES, EACH = 14, 120


def looks(rng, n_looks, *, lose=0.0, categories=N_CATEGORIES):
    """Snapshots of a model that knows 40% of the items and guesses the rest anew at each look.

    A share `lose` of the first category's known items is guessed from the first look on.
    """
    n = categories * EACH
    category = np.repeat([f"c{i:02}" for i in range(categories)], EACH)
    known, answer = rng.random(n) < 0.4, rng.integers(0, 4, n)
    for step in range(n_looks + 1):
        if step == 1:
            known = known & ~((category == "c00") & (rng.random(n) < lose))
        choice = np.where(known, answer, rng.integers(0, 4, n))
        yield Snapshot(
            "p", "f", step, [str(i) for i in range(n)], (choice == answer).astype(float), choice=choice,
            category=category, n_choices=np.full(n, 4.0), answer=answer,
        )  # fmt: skip


def rows_of(rng, n_looks, **world):
    """For each look after the baseline, the rows of the history."""
    history = History()
    for snapshot in looks(rng, n_looks, **world):
        history.append([snapshot])
        if snapshot.step:
            yield history.last_rows


def test_of_fourteen_categories_that_lost_nothing_one_is_named_as_often_as_a_single_claim_errs():
    rng = np.random.default_rng(0)
    last_looks = [list(rows_of(rng, 1))[-1] for _ in range(150)]
    assert np.mean([bool(significant_categories(look)) for look in last_looks]) <= 0.05


def test_over_twenty_looks_few_of_them_name_a_category_where_by_their_own_intervals_most_runs_would():
    rng = np.random.default_rng(0)
    runs = [list(rows_of(rng, 20)) for _ in range(10)]
    alone = np.array(
        [
            [any(row.category and row.transitions.interval("knowledge_lost").low > 0 for row in look) for look in run]
            for run in runs
        ]
    )
    named = np.array([[bool(significant_categories(look)) for look in run] for run in runs])
    assert alone.any(axis=1).mean() > 0.7 and named.mean() < alone.mean() / 4


def test_a_category_that_lost_most_of_what_it_knew_is_the_one_named():
    (look,) = rows_of(np.random.default_rng(1), 1, lose=0.9)
    assert [row.category for row in significant_categories(look)] == ["c00"]


def test_each_probe_is_a_family_of_its_own_and_whole_probes_are_passed_over():
    rng = np.random.default_rng(2)
    history = History()
    for pair in zip(looks(rng, 1, lose=0.9, categories=3), looks(rng, 1, categories=40)):
        one, many = pair
        named = Snapshot(
            "many", "g", many.step, many.ids, many.correct, choice=many.choice, category=many.category,
            n_choices=many.n_choices, answer=many.answer,
        )  # fmt: skip
        rows = history.append([one, named])
    assert [(row.probe, row.category) for row in significant_categories(rows)] == [("p", "c00")]


@pytest.mark.parametrize("rows", [[], ["whole"]])
def test_without_categories_there_is_nothing_to_name(rows):
    history = History()
    for step, correct in enumerate(([1.0] * 40, [0.0] * 40)):
        found = history.append([Snapshot("p", "f", step, [str(i) for i in range(40)], correct)])
    assert significant_categories(found if rows else []) == []
