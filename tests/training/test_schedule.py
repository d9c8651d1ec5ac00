"""When to evaluate: what `every` accepts, what it refuses and what it says then, and the steps that follow."""

import numpy as np
import pytest

from forget_callback.training.schedule import checked, evaluations, is_due, planned


def due(every, last=20):
    return [step for step in range(1, last + 1) if is_due(checked(every), step)]


@pytest.mark.parametrize(
    "every, steps",
    [
        (None, []),
        (6, [6, 12, 18]),
        (np.int64(6), [6, 12, 18]),
        ("6", [6, 12, 18]),
        ([6], [6]),
        ({3, 5}, [3, 5]),
        (np.array([3, 5, 40]), [3, 5]),
        (range(3, 6), [3, 4, 5]),
        ("3, 5", [3, 5]),
        ("log2", [1, 2, 4, 8, 16]),
    ],
)
def test_the_steps_of_a_schedule(every, steps):
    assert due(every) == steps
    assert planned(checked(every), 20, evaluations=7) == (7 if every is None else len({*steps, 20}))


@pytest.mark.parametrize("every", [0, -3, [], [4, 0], 2.5, 100.0, [1.5], "often", "", "1,,2", {"steps": 5}, 1j])
def test_anything_else_is_refused(every):
    with pytest.raises(ValueError, match=r"every must be None .*, a number of optimizer steps of 1 or more, .*, got "):
        checked(every)


@pytest.mark.parametrize(
    "every, remedy",
    [
        (0.1, "got 0.1; for a share of the run, .*eval_strategy='steps', eval_steps=0.1 in TrainingArguments"),
        ("epoch", "got 'epoch'; leave every out and set eval_strategy='epoch' in TrainingArguments"),
        (True, "got True; for each evaluation, leave every out"),
    ],
)
def test_where_it_is_plain_what_was_meant_the_error_says_how_to_get_it(every, remedy):
    with pytest.raises(ValueError, match=remedy):
        checked(every)


@pytest.mark.parametrize(
    "strategy, options, expected",
    [
        ("no", {"steps": 5, "epochs": 3}, 0),
        ("steps", {"steps": 5, "epochs": 3}, 4),
        ("steps", {"steps": 7, "epochs": 3}, 3),
        ("epoch", {"steps": 0, "epochs": 2.5}, 3),
    ],
)
def test_evaluations_that_a_trainer_plans(strategy, options, expected):
    assert evaluations(strategy, 20, **options) == expected
