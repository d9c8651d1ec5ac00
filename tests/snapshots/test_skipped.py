"""Further prompts that are skipped change no number of the history, whatever the answers are, or are a real model's."""

import base64
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from forget_callback import MultipleChoice, Probe, Snapshot, compare, retention
from forget_callback.metrics.pairs import paired
from forget_callback.metrics.variants import at_most, lost, net
from forget_callback.report.items import STATES, Paths
from forget_callback.runs.history import History
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.skipped import can_count, skip

PROMPTS = 3


def skipping(history, snapshots):
    """The snapshots as they are where only what is worth asking was asked."""
    wanted = history.worth_asking([one.without_variants() for one in snapshots])
    found = []
    for one in snapshots:
        marked = skip(one, wanted[one.probe])
        further = [
            replace(
                own,
                correct=np.where(own.skipped, np.nan, own.correct),
                choice=np.where(own.skipped, -1, own.choice),
                outcome=np.where(own.skipped, None, own.outcome),
            )
            for own in marked.further
        ]
        found.append(replace(marked, further=further))
    return found


def histories(path, start=()):
    """What two runs show, of which the second skips what cannot count, but not at its end; and its snapshots."""
    full, less, taken = History(start), History(start), []
    for i, snapshots in enumerate(path):
        taken.append(skipping(less, snapshots) if 0 < i < len(path) - 1 else snapshots)
        full.append(snapshots)
        less.append(taken[-1])
    return full, less, taken


def assert_same(full, less):
    pd.testing.assert_frame_equal(less.table, full.table, check_exact=True)
    for name in full.probes:
        np.testing.assert_array_equal(less.lost_scores(name), full.lost_scores(name))


@st.composite
def paths(draw):
    """Four snapshots of two probes: items of every kind, answers that stay, move, are unparsed or not scored.

    A further prompt that cannot be scored, such as one that is too long, never can.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stays, unparsed, unscored = draw(st.sampled_from([(0.5, 0.1, 0.0), (0.8, 0.0, 0.05), (0.2, 0.3, 0.1)]))
    path = [[] for _ in range(4)]
    for probe in ("one", "two"):
        n = draw(st.integers(1, 40))
        k = rng.choice([2, 3, 4, 5, np.inf], n)
        kind = np.where(np.isinf(k), np.where(rng.random(n) < 0.7, "recall", "generation"), "multiple_choice")
        samples = np.where((kind == "generation") & draw(st.booleans()), 4, 1)
        asked = rng.integers(1, PROMPTS + 1, n)
        fixed = {"fact": np.array([f"f{i}" if i else "" for i in rng.integers(0, 9, n)], object)}
        fixed |= {
            "kind": kind.astype(object),
            "n_choices": k,
            "answer": np.where(np.isinf(k), -1, 0),
            "samples": samples,
        }
        fixed["cluster"] = np.array([f"c{i}" if i < 5 else "" for i in rng.integers(0, 20, n)], object)
        fixed["category"] = rng.choice(["a", "b"], n).astype(object)
        answers, never = None, rng.random((PROMPTS, n)) < unscored
        for step in range(4):
            drawn = np.where(
                rng.random((PROMPTS, n)) < unparsed, -1, rng.integers(0, np.where(np.isinf(k), 2, k), (PROMPTS, n))
            )
            answers = drawn if answers is None else np.where(rng.random((PROMPTS, n)) < stays, answers, drawn)
            right = (answers == 0).astype(float)
            right = np.where(samples > 1, rng.integers(0, 5, (PROMPTS, n)) / 4, right)
            never[0] = rng.random(n) < unscored
            right[never] = np.nan
            choice = np.where(np.isinf(k), -1, answers)
            choice[np.isnan(right)] = -1
            has = np.arange(2, PROMPTS + 1)[:, None] <= asked
            further = [
                Answers(
                    f"v{j}",
                    np.where(has[j - 1], right[j], np.nan),
                    choice=np.where(has[j - 1], choice[j], -1),
                    asked=has[j - 1],
                )
                for j in range(1, PROMPTS)
            ]
            ids = np.array([f"{i}" for i in range(n)], object)
            path[step].append(
                Snapshot(
                    probe, "f", step, ids, right[0], choice=choice[0], further=further, samples_seen=8.0 * step, **fixed
                )
            )
    return path


@settings(max_examples=15, deadline=None)
@given(paths())
def test_no_number_of_the_history_depends_on_what_is_skipped(path):
    full, less, taken = histories(path)
    assert_same(full, less)
    for place in range(2):
        ours, theirs = (retention([one[place] for one in run]) for run in (taken, path))
        np.testing.assert_array_equal(ours.survival, theirs.survival)


@settings(max_examples=8, deadline=None)
@given(paths())
def test_nor_does_it_where_the_baseline_is_another_model(path):
    full, less, _ = histories(path[1:], start=[one.at(0) for one in path[0]])
    assert_same(full, less)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("n_prompts", [2, 3])
def test_whatever_is_answered_an_item_with_the_same_first_answer_scores_nothing(k, n_prompts):
    """All answers that there are, by the definition of the estimate."""
    answers = np.array(list(itertools.product(range(-1, k), repeat=2 * n_prompts))).T
    before, after = answers[:n_prompts], answers[n_prompts:]
    same, answer = before[0] == after[0], np.zeros(answers.shape[1], int)
    right = [(side == 0).astype(float) for side in (before, after)]
    pairs = paired(*right, k, before_choice=before, after_choice=after, answer=answer)
    for estimate in (lost, net, at_most):
        for side in (pairs, pairs.swapped()):
            assert not estimate(side).scores[same].any() and estimate(side).scores[~same].any()


TRAINED = ("base", "light", "qa2", "heavy", "mid", "qa1", "heaviest", "qa3")


def test_a_real_models_numbers_are_those_of_all_prompts_and_cost_a_third_less():
    """SmolLM2-135M-Instruct trained in seven ways, on the built-in facts as questions and exam questions."""
    with np.load(Path(__file__).parents[1] / "data" / "smollm2_answers.npz") as file:
        choices, answer = file["facts"][:, 1:].astype(int), file["facts_answer"].astype(int)
    n, shares = len(answer), {}
    fixed = {"n_choices": np.full(n, 4.0), "answer": answer, "kind": np.full(n, "multiple_choice", object)}
    shots = []
    for step, (first, second) in enumerate(choices):
        further = [Answers("exam", (second == answer).astype(float), choice=second)]
        right = (first == answer).astype(float)
        shots.append(
            Snapshot("facts", "f", step, np.arange(n).astype(str), right, choice=first, further=further, **fixed)
        )
    for name, shot in zip(TRAINED[1:], shots[1:]):
        full, less, taken = histories([[shots[0]], [shot.at(1)], [shot.at(2)]])
        assert_same(full, less)
        shares[name] = 1 - taken[1][0].further[0].skipped.mean()
    asked = {name: round(100 * share) for name, share in shares.items()}
    assert asked == {"light": 18, "qa2": 35, "heavy": 58, "mid": 39, "qa1": 31, "heaviest": 63, "qa3": 45}


def of(first, second, step=0, skipped=(), **more):
    """Two-prompt answers to items of three options, whose right one is 0."""
    first, second = np.array(first), np.array(second)
    right = np.where(np.isin(np.arange(len(first)), skipped), np.nan, second == 0)
    other = Answers("v", right, choice=np.where(np.isnan(right), -1, second), skipped=np.isnan(right))
    fixed = {"n_choices": np.full(len(first), 3.0), "answer": np.zeros(len(first), int), **more}
    ids = [str(i) for i in range(len(first))]
    return Snapshot("p", "f", step, ids, (first == 0).astype(float), choice=first, further=[other], **fixed)


def test_beside_a_snapshot_that_skipped_what_counts_one_prompt_is_compared():
    base, some = of([0, 0, 1], [0, 0, 1]), of([0, 1, 1], [9, 2, 9], 1, skipped=[0, 2])
    assert compare(base, some).variants == 2
    assert compare(of([0, 0, 2], [0, 0, 1]), some).variants == 1  # item 2 changed, beside this one
    assert (
        compare(some, of([0, 1, 1], [0, 1, 1], 2)).variants == 1
    )  # and nothing stands in for what was not asked before
    assert compare(some, some).variants == 1


def test_a_choice_is_asked_where_its_fact_is_recalled_no_more():
    """Whether it is still chosen in every prompt is a number of its own."""
    kinds = {"kind": np.array(["recall", "mc", "mc"], object), "fact": np.array(["x", "x", "y"], object)}
    kinds["n_choices"] = np.array([np.inf, 3, 3])
    kinds["answer"] = np.array([-1, 0, 0])
    before = of([0, 0, 0], [0, 0, 0], **kinds)
    for first, expected in ((0, [False, False, False]), (1, [True, True, False])):
        assert can_count(before, of([first, 0, 0], [0, 0, 0], **kinds)).tolist() == expected


def test_what_was_skipped_is_told_from_what_was_not_scored(tmp_path):
    some = of([0, 1, 1], [0, 2, 2], 1, skipped=[0])
    some.save(tmp_path / "some.parquet")
    read = Snapshot.load(tmp_path / "some.parquet")
    assert read.further[0].skipped.tolist() == [True, False, False] == read.to_pandas()["skipped_2"].tolist()
    with pytest.raises(ValueError, match="was not asked, but has correct 1"):
        Answers("v", [1.0], skipped=[True])


def test_the_page_tells_them_apart_too():
    items = [MultipleChoice(f"{i}", f"{i}?", [" a", " b", " c"], 0, variants=[f"{i}, say?"]) for i in range(3)]
    probe = Probe("p", items)
    page = Paths(probe)
    for one in (of([0, 0, 1], [0, 0, 1]), of([0, 1, 1], [0, 2, 2], 1, skipped=[0])):
        further = [replace(answers, fingerprint=probe.variant_fingerprints[0]) for answers in one.further]
        page.add(replace(one, fingerprint=probe.fingerprint, further=further))
    sides = page.pack()["variants"]["sides"]
    states = [list(base64.b64decode(side["answers"][0]["state"])) for side in sides]
    wrong = STATES.index("wrong")
    assert states == [[1, 1, wrong], [len(STATES), wrong, wrong]]
    right, asked = ([list(base64.b64decode(side[name])) for side in sides] for name in ("right", "asked"))
    assert right == [[2, 2, 0], [1, 0, 0]] and asked == [[2, 2, 2], [1, 2, 2]]
