"""The numbers on recorded answers of a real pretrained model, whose items are neither known nor guessed uniformly.

SmolLM2-135M-Instruct and what training made of it, on ARC-Easy and the built-in facts in several frames; recorded by
`tests/benchmarks/truth.py --real`, which says how. The truth is what frames show that the estimate is not given.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from forget_callback import Snapshot, compare, transitions
from forget_callback.snapshots.answers import Answers

STATES = ("base", "light", "qa2", "heavy", "mid", "qa1", "heaviest", "qa3")
FEW = ("base", "light", "qa2", "heavy")  # that the two other benchmarks were asked of
FRAMES = dict.fromkeys(("arc", "csqa", "obqa"), ("A", "A2", "Q", "C", "E")) | {"facts": ("S", "Q", "E")}


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parents[1] / "data" / "smollm2_answers.npz") as file:
        return dict(file)


def asked(recorded, items, state, frames):
    """Chosen options, a row a frame."""
    states = FEW if items in ("csqa", "obqa") else STATES
    return recorded[items][states.index(state), [FRAMES[items].index(frame) for frame in frames]].astype(int)


def change(recorded, items, before, after):
    """Transitions between two (state, frames)."""
    answer = recorded[f"{items}_answer"].astype(int)
    sides = [asked(recorded, items, *side) for side in (before, after)]
    right = [(side == answer).astype(float) for side in sides]
    return transitions(*right, before_choice=sides[0], after_choice=sides[1], answer=answer, n_choices=4)


def one(recorded, state):
    return change(recorded, "arc", ("base", "A"), (state, "A"))


def two(recorded, state):
    return change(recorded, "arc", ("base", "AE"), (state, "AE"))


def unseen(recorded, state):
    """Lost in the three frames that `two` is not shown: none left after, and at most one."""
    answer = recorded["arc_answer"]
    before, after = (asked(recorded, "arc", name, ["A2", "Q", "C"]) == answer for name in ("base", state))
    known, left = before.all(axis=0), after.sum(axis=0)
    return (known & (left == 0)).mean(), (known & (left <= 1)).mean()


def test_nothing_is_lost_by_asking_the_same_weights_in_another_frame(recorded):
    alone, both = [], []
    pairs = [pair for pair in itertools.product(("A", "A2", "Q"), repeat=2) if pair[0] != pair[1]]
    for items, states in {"arc": STATES, "csqa": FEW, "obqa": FEW}.items():
        for state, (a, b), (c, d) in itertools.product(states, pairs, (("C", "E"), ("E", "C"))):
            alone.append(change(recorded, items, (state, [a]), (state, [b])).interval("knowledge_lost").low > 0)
            both.append(change(recorded, items, (state, [a, c]), (state, [b, d])).verdict == "lost")
    assert np.mean(both) <= 0.05
    assert np.mean(alone) > 4 * np.mean(both)  # what two prompts are for


def test_of_one_prompt_a_claim_is_about_this_prompt(recorded):
    reworded = change(recorded, "arc", ("base", "A"), ("base", "C"))
    assert reworded.in_this_prompt and reworded.verdict == "lost"  # the accuracy fell, knowledge did not
    assert not two(recorded, "heavy").in_this_prompt


def test_light_training_lost_nothing_that_can_be_claimed(recorded):
    assert one(recorded, "light").interval("knowledge_lost").low > 0  # what one prompt would have claimed
    found = two(recorded, "light")
    assert found.verdict == "moved"
    assert found.knowledge_lost_range_low == 0 and found.knowledge_lost_range_high < 0.05


@pytest.mark.parametrize("state", ["mid", "heavy", "heaviest"])
def test_heavy_training_lost_what_other_frames_say_and_less_than_one_prompt_says(recorded, state):
    found, (none_left, third_left) = two(recorded, state), unseen(recorded, state)
    low, high = found.interval("knowledge_lost")
    assert found.verdict == "lost" and low <= third_left and none_left <= high
    assert found.knowledge_lost_range_low <= none_left and third_left <= found.knowledge_lost_range_high
    assert one(recorded, state).knowledge_lost > third_left
    assert found.spurious_forgetting == pytest.approx(
        one(recorded, state).knowledge_lost - found.knowledge_lost, abs=1e-12
    )
    assert found.interval("spurious_forgetting").low > 0
    assert found.knowledge_lost <= found.known_before


def test_a_loss_is_found_where_the_average_rises(recorded):
    found = two(recorded, "qa2")
    assert found.net_change > 0.05 and found.verdict == "lost"
    low, high = found.interval("knowledge_lost")
    none_left, third_left = unseen(recorded, "qa2")
    assert low <= third_left and none_left <= high


def test_a_significant_drop_of_accuracy_is_never_nothing(recorded):
    drops = {"arc": 0, "csqa": 0}
    for items in drops:
        states = STATES if items == "arc" else FEW
        for state, frame in itertools.product(states[1:], FRAMES[items]):
            found = change(recorded, items, ("base", [frame]), (state, [frame]))
            if found.p_value < 0.05 and found.net_change < 0:
                drops[items] += 1
                assert found.verdict == "lost" and found.in_this_prompt
                both = change(recorded, items, ("base", [frame, "E"]), (state, [frame, "E"]))
                assert both.verdict in ("lost", "moved")
    assert drops["arc"] >= 10 and drops["csqa"] >= 1


def test_a_drop_is_told_where_the_model_is_below_chance(recorded):
    # On OpenBookQA distractors draw so strongly that hardly anything reads as known.
    answer = recorded["obqa_answer"].astype(int)
    before = asked(recorded, "obqa", "base", "AE")
    after = before.copy()
    dropped = np.flatnonzero(before[0] == answer)[:12]
    after[0, dropped] = (answer[dropped] + 1) % 4
    sides = {"before_choice": before, "after_choice": after}
    right = [(side == answer).astype(float) for side in sides.values()]
    both = transitions(*right, **sides, answer=answer, n_choices=4)
    one = transitions(*(side[0] for side in right), answer=answer, n_choices=4)
    assert both.accuracy_before < 0.25 and both.known_before < 0.05
    assert one.p_value < 0.05 and one.verdict == "lost" and both.verdict == "moved"


def facts(recorded, state):
    """All facts, chosen in two frames and recalled, as a snapshot."""
    answer, recall = recorded["facts_answer"].astype(int), recorded["facts_recall"][STATES.index(state)].astype(float)
    n, (first, second) = len(answer), asked(recorded, "facts", state, "SE")
    right = (first == answer).astype(float)
    never = np.full(n, -1)
    further = Answers(
        "E",
        np.append(second == answer, np.full(n, np.nan)),
        choice=np.append(second, never),
        asked=np.arange(2 * n) < n,
    )
    names = [f"{i}" for i in range(n)]
    return Snapshot(
        *("facts", "S", 0, [f"{name}/choice" for name in names] + [f"{name}/recall" for name in names]),
        np.append(right, recall),
        choice=np.append(first, never),
        answer=np.append(answer, never),
        n_choices=np.append(np.full(n, 4.0), np.full(n, np.inf)),
        kind=["multiple_choice"] * n + ["recall"] * n,
        fact=names * 2,
        cluster=names * 2,
        further=(further,),
    )


def test_facts_that_are_no_longer_recalled_are_read_from_their_choices(recorded):
    light, heavy = (compare(facts(recorded, "base"), facts(recorded, state)) for state in ("light", "heavy"))
    assert light.verdict != "lost" and heavy.verdict == "lost"
    assert light.recall_lost > 0.05 and light.recall_still_chosen > 0.6
    assert heavy.recall_lost > 0.2  # nearly all that it recalled
    assert heavy.knowledge_lost < heavy.recall_lost and heavy.recall_still_chosen > 0.3
    assert heavy.knowledge_n == light.knowledge_n == len(recorded["facts_answer"])
