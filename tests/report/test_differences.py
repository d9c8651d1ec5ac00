"""Runs against each other: the first sentence of a page of several, and how seldom it claims what is not so."""

import re
from dataclasses import replace

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.report.data import report_data
from forget_callback.report.differences import difference, pair_sentence, runs_sentence
from forget_callback.report.page import write_report
from forget_callback.runs.history import History
from tests.recorded import make_probe, make_run
from tests.worlds import World


def trained(world_seed, *, lost, seed, gained=0.0, other=False, **how):
    """History and last snapshot of a run; runs of one `world_seed` begin with the same model, and go on by `seed`.

    Args:
        other: Begin with another model.
    """
    world, history = World(seed=world_seed, **how), History()
    if other:
        world.guess = world._guesses(world.guess, 0.0)
    history.append([world.snapshot()])
    world.rng = np.random.default_rng([world_seed, seed])
    known = np.flatnonzero(world.known)
    gone = world.rng.permutation(known)[: round(lost * world.n)]
    come = world.rng.permutation(np.flatnonzero(~world.known))[: round(gained * world.n)]
    world.known = world.known.copy()
    world.known[gone], world.known[come] = False, True
    world.guess = world._guesses(world.guess, 0.6)
    last = world.snapshot().at(10)
    history.append([last])
    return history, last


def said(*runs, names="abcdef"):
    histories, last = zip(*runs)
    return runs_sentence(histories, names[: len(runs)], "p", last)


def test_the_run_that_lost_more_is_named_first_with_how_many_items_more():
    """60 and 160 of 1,000 items are lost; what is lost into a right guess is not seen."""
    mild, hard = (trained(1, lost=lost, seed=i, known=0.6) for i, lost in enumerate((0.06, 0.16)))
    for runs, finding in (((mild, hard), "lost more"), ((hard, mild), "lost less")):
        names = "ab" if runs[0] is mild else "ba"
        text, found = said(*runs, names=names)
        numbers = re.fullmatch(r"b lost more than a: about (\d+) items more, between (\d+) and (\d+)", text)
        about, low, high = map(int, numbers.groups())
        assert found == finding and 30 < low < about < high < 150 and low < 100 < high


@pytest.mark.parametrize("prompts", [1, 2])
def test_runs_that_lost_as_much_are_seldom_told_apart(prompts):
    claims = 0
    for seed in range(80):
        runs = [trained(seed, lost=0.1, seed=i, n=400, known=0.6, prompts=prompts) for i in range(2)]
        text, finding = said(*runs)
        claims += finding != "no difference shown"
        if finding == "no difference shown":
            assert text.startswith("no difference shown between a and b")
    assert claims <= 0.07 * 80


def test_of_many_runs_the_most_and_the_least_are_told_apart_as_seldom():
    claims = sum(
        said(*(trained(seed, lost=0.1, seed=i, n=300, known=0.6) for i in range(5)))[1].startswith("lost")
        for seed in range(40)
    )
    assert claims <= 2


def test_of_many_runs_the_most_and_the_least_are_named():
    runs = [trained(3, lost=lost, seed=i, known=0.6) for i, lost in enumerate((0.1, 0.02, 0.3, 0.12))]
    text, finding = said(*runs)
    assert re.fullmatch(
        r"c lost more than b: about \d+ items more, between \d+ and \d+; of 4 runs these lost most and least", text
    )
    assert finding == "lost more"


def test_with_one_prompt_accuracy_must_tell_the_same():
    """One run's guesses move and the other's stay; both lost as many, and one gained what it lost."""
    mild, hard = (trained(4, lost=lost, seed=i, known=0.6, prompts=1) for i, lost in enumerate((0.03, 0.2)))
    text, _ = said(mild, hard)
    assert text.startswith("b lost more than a in this prompt: about ")
    both_ways = trained(4, lost=0.2, gained=0.2, seed=2, known=0.6, prompts=1)
    gap = difference(mild[0], both_ways[0], "p", (mild[1], both_ways[1]))
    assert gap.interval.low > 0 and not gap.sure
    assert "accuracy does not tell" in pair_sentence(gap, "a", "b")
    two = [trained(4, seed=i, known=0.6, **how) for i, how in enumerate(({"lost": 0.03}, {"lost": 0.2, "gained": 0.2}))]
    assert said(*two)[1] == "lost more", "two prompts tell a loss from a gain"


@pytest.mark.parametrize("prompts", [1, 2])
def test_of_runs_that_did_not_begin_alike_it_is_said(prompts):
    how = {"known": 0.6, "prompts": prompts}
    runs = trained(5, lost=0.02, seed=0, **how), trained(5, lost=0.3, seed=1, other=True, **how)
    text, finding = said(*runs)
    assert finding == "lost more" and text.startswith("b lost more than a")
    assert re.search(r" \(they began with different models, \d+ of 1,000 answers differ\)$", text)
    claims = 0
    for seed in range(40):
        runs = [trained(seed, lost=0.1, seed=i, n=400, other=i > 0, **how) for i in range(2)]
        claims += said(*runs)[1].startswith("lost")
    assert claims <= 3


def test_runs_of_other_items_or_variants_are_not_compared():
    one, other = trained(5, lost=0.02, seed=0, known=0.6), trained(5, lost=0.3, seed=1, known=0.6)
    history, last = other
    text, finding = said(one, (history, replace(last, fingerprint="other")))
    assert (text, finding) == ("a and b cannot be compared: they answered different items", "not compared")
    first_only, base = History(), World(seed=5, known=0.6)
    first_only.append([base.snapshot()])
    now = last.without_variants()
    first_only.append([now])
    assert "different variants" in said(one, (first_only, now))[0]
    assert said(one, other, (first_only, now))[0].startswith("the 3 runs cannot be compared: they did not answer")
    begun = History()
    begun.append([base.snapshot()])
    assert "one has no checkpoint but the baseline" in said(one, (begun, base.snapshot()))[0]


def test_a_model_that_answers_a_little_differently_on_another_machine_is_the_same_model():
    (history, last), other = trained(7, lost=0.02, seed=0, known=0.6), History()
    world = World(seed=7, known=0.6)
    base = world.snapshot()
    flipped = np.arange(len(base)) < 10
    choice = np.where(flipped, (base.choice + 1) % 4, base.choice)
    other.append([replace(base, choice=choice, correct=(choice == base.answer) * 1.0, outcome=None)])
    _, hard = trained(7, lost=0.3, seed=1, known=0.6)
    other.append([hard])
    assert said((history, last), (other, hard))[1] == "lost more"


def test_what_is_open_ended_is_no_longer_answered(tmp_path):
    probe = make_probe(n_items=300, kinds=("recall",))
    mild, hard = (make_run(tmp_path / name, [probe], lose=lose) for name, lose in (("mild", 0.1), ("hard", 0.7)))
    (first,) = report_data([mild, hard])["between"]
    assert re.fullmatch(
        r"more is no longer answered in hard than in mild in this prompt: about \d+ items more, between \d+ and \d+",
        first["sentence"],
    )


def test_compare_of_two_runs_says_what_each_lost_from_its_own_first_step(tmp_path, run_cli):
    probe = make_probe(n_items=400, kinds=("choice",), variants=True)
    for name, lose in (("mild", 0.1), ("hard", 0.7)):
        make_run(tmp_path / name, [probe], lose=lose)
    asked = ("compare", tmp_path / "mild", tmp_path / "hard", "--format", "markdown")
    (line,) = [line for line in run_cli(*asked)[1].splitlines() if "each from its own first step" in line]
    assert re.search(
        r"facts, each from its own first step to its last: .*hard lost more than .*mild: about \d+ items", line
    )
    assert "own first step" not in run_cli("compare", tmp_path / "mild", tmp_path / "mild")[1]
    assert "own first step" not in run_cli("compare", f"{tmp_path / 'mild'}@30", tmp_path / "hard")[1]


def test_a_page_of_two_runs_begins_with_which_lost_more(tmp_path):
    probe = make_probe(n_items=400, kinds=("choice",), variants=True)
    mild, hard = (make_run(tmp_path / name, [probe], lose=lose) for name, lose in (("mild", 0.1), ("hard", 0.7)))
    data = report_data([mild, hard])
    (first,) = data["between"]
    assert first["sentence"].startswith("hard lost more than mild: about ")
    text = write_report([mild, hard], tmp_path / "page.html").read_text(encoding="utf-8")
    start = text.index('<section id="verdict"')
    assert text.index(first["sentence"]) < text.index('class="verdict ', start)
    assert data["differences"][0]["probes"][0]["finding"] == "lost more"
    assert report_data([mild])["between"] == [] == report_data([mild, hard], stages=True)["between"]


@pytest.mark.parametrize("rise, finding", [(0.1, "lost more"), (0.0, "no difference shown")])
def test_text_of_two_runs_is_told_apart_in_bits_per_byte(rise, finding):
    rng = np.random.default_rng(0)
    bits, kinds = rng.normal(1.0, 0.2, 60), {"kind": ["text"] * 60, "ability": ["text"] * 60}
    histories, last = [], []
    for more in (0.0, rise):
        history = History()
        for step, now in enumerate((bits, bits + 0.05 + more + rng.normal(0, 0.01, 60))):
            last.append(Snapshot("text", "t", step, list(range(60)), np.ones(60), bits_per_byte=now, **kinds))
            history.append([last[-1]])
        histories.append(history)
    said, found = runs_sentence(histories, ["short", "long"], "text", [last[1], last[3]])
    assert found == finding and "bits per byte" in said
    claim = "text got worse by more in long than in short: 0.09" if rise else "no difference shown between short"
    assert said.startswith(claim)
