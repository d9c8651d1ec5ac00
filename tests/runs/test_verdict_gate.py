"""A gate on the verdict fails where anything was lost, and where there is no verdict."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.runs.comparison import compare_checkpoints
from forget_callback.runs.gate import junit
from forget_callback.runs.gates import read_gate
from forget_callback.runs.stop_rules import StopRule, stop_rules


def look(ability, right, *, n=100, unscored=0, category=""):
    """The first `right` of `n` items right; the last ones not scored."""
    correct = (np.arange(n) < right).astype(float)
    correct[n - unscored :] = np.nan
    named = {"category": np.array([category] * n, object)} if category else {}
    return Snapshot(ability, "f", 0, [f"i{i}" for i in range(n)], correct, ability=[ability] * n, **named)


def documents(rise=0.0, *, n=60, ability="text"):
    bits = 1 + np.random.default_rng(0).random(n)
    names, kind = [f"d{i}" for i in range(n)], ["text"] * n
    columns = {"bits_per_byte": bits + rise, "kind": kind, "ability": [ability] * n}
    return Snapshot(ability, "f", 0, names, np.ones(n), **columns)


def judged(text, before, after, **options):
    """The result on snapshots, a probe each that is called as its ability."""
    named = [{one.probe: one for one in side} for side in (before, after)]
    return read_gate(text, bound="value", **options).judge(compare_checkpoints(*named), before=before)


KEPT = [look("knowledge", 60), look("behaviour", 80), documents()]
# Half of the right answers are other ones: accuracy is what it was, and that is no loss.
SWAPPED = Snapshot("knowledge", "f", 0, KEPT[0].ids, np.arange(100) >= 40, ability=["knowledge"] * 100)


@pytest.mark.parametrize(
    "after, verdict",
    [
        (KEPT, "none"),
        ([look("knowledge", 60), look("behaviour", 20), documents()], "lost"),  # every fact is kept
        ([look("knowledge", 60), look("behaviour", 80), documents(0.2)], "lost"),
        ([look("knowledge", 20), look("behaviour", 80), documents()], "lost"),
        ([SWAPPED, look("behaviour", 80), documents()], "moved"),
    ],
)
def test_without_a_probe_it_reads_what_all_abilities_lost(after, verdict):
    """It fails on its word and on what is worse."""
    failing = {"none": (), "moved": ("moved", "unclear"), "lost": ("lost", "moved", "unclear")}[verdict]
    for word in ("lost", "moved", "unclear"):
        found = judged(f"verdict={word}", KEPT, after)
        assert found.failed is (word in failing), found
        assert found.message.startswith(f"verdict is {verdict}, 200 items and 60 documents of all, 100.0% scored, ")
        assert found.too_few == ""
    # With --inconclusive what moved does not pass: a loss is neither shown nor excluded.
    asked = judged("verdict=lost", KEPT, after, inconclusive=True)
    assert asked.outcome == {"none": "passed", "moved": "inconclusive", "lost": "failed"}[verdict]


def test_of_one_probe_and_of_a_category_it_reads_theirs():
    before = [look("knowledge", 60, category="years"), look("behaviour", 80, category="refusal")]
    after = [look("knowledge", 60, category="years"), look("behaviour", 20, category="refusal")]
    said = {
        where: judged(f"{where}verdict=lost", before, after).failed
        for where in ("", "all/", "knowledge/", "knowledge/years/", "behaviour/", "behaviour/refusal/")
    }
    assert [where for where, failed in said.items() if failed] == ["", "all/", "behaviour/", "behaviour/refusal/"]
    with pytest.raises(ValueError, match=r"no such probe or category; .*; did you mean 'behaviour'"):
        judged("behavior/verdict=lost", before, after)


@pytest.mark.parametrize(
    "before, after, said",
    [
        (look("knowledge", 20, n=29), look("knowledge", 20, n=29), "29 scored items are too few"),
        (look("knowledge", 0), look("knowledge", 0), "too little known at the baseline"),
        (documents(n=29), documents(n=29), "too few"),
    ],
)
@pytest.mark.parametrize("word", ["lost", "moved"])
def test_where_there_is_no_verdict_it_does_not_pass(before, after, said, word):
    found = judged(f"verdict={word}", [before], [after])
    assert found.failed and said in found.message and found.message.endswith("that is no verdict, which is no pass")
    assert judged(f"verdict={word}", [before], [after], inconclusive=True).outcome == "inconclusive"


@pytest.mark.parametrize("inconclusive", [False, True])
def test_what_was_not_scored_fails_it(inconclusive):
    """Also where the pool or the probe would hide it: of 1,000 facts the few items of behaviour are no 5%."""
    facts, mixed = look("knowledge", 600, n=1000), ["knowledge"] * 1000 + ["behaviour"] * 40
    gone = [facts, look("behaviour", 30, n=40, unscored=40)]
    found = judged("verdict=lost", [facts, look("behaviour", 30, n=40)], gone, inconclusive=inconclusive)
    assert found.failed and "no item of behaviour was scored both times" in found.message
    assert not judged("knowledge/verdict=lost", [facts, look("behaviour", 30, n=40)], gone).failed
    correct = np.r_[facts.correct, np.ones(40)]
    one = Snapshot("mixed", "f", 0, list(range(1040)), correct, ability=mixed)
    other = Snapshot("mixed", "f", 0, list(range(1040)), np.r_[facts.correct, [np.nan] * 40], ability=mixed)
    found = judged("verdict=lost", [one], [other], inconclusive=inconclusive)
    assert found.failed and "no item of mixed on behaviour was scored both times" in found.message
    assert not judged("verdict=lost", [one], [other], min_scored=0).message.startswith("verdict is lost")
    half = [look("knowledge", 60, unscored=6)]
    assert "only 0.94 of the items of knowledge" in judged("verdict=lost", half, half).message
    assert not judged("verdict=lost", half, half, min_scored=0.9).failed


def test_a_probe_that_was_not_measured_fails_it_without_a_probe():
    rows = compare_checkpoints({"knowledge": KEPT[0]}, {"knowledge": KEPT[0]})
    for text, failed in (("verdict=lost", True), ("all/verdict=lost", True), ("knowledge/verdict=lost", False)):
        if text.startswith("all"):
            rows = compare_checkpoints(*[{one.probe: one for one in KEPT}] * 2)
        found = read_gate(text, bound="value").judge(rows, not_measured=["b was not measured: it broke"])
        assert found.failed is failed and ("it broke" in found.message) is failed


def test_an_ability_without_a_verdict_is_named_where_the_others_have_one():
    sides = [[look("knowledge", 60), look("behaviour", right, n=10)] for right in (8, 6)]
    found = judged("verdict=lost", *sides)
    assert found.outcome == "passed" and found.too_few == "passes, though there is no verdict on behaviour"
    found = judged("verdict=lost", *sides, inconclusive=True)
    assert found.outcome == "inconclusive" and found.message.endswith("there is no verdict on behaviour")


def test_an_ability_too_small_for_a_verdict_that_fell_by_more_than_chance_does_not_pass():
    for after, failed in ((4, False), (3, True)):  # McNemar's mid-p of 4 changes is .063, of 5 .031
        found = judged("verdict=lost", *[[look("knowledge", 60), look("behaviour", n, n=10)] for n in (8, after)])
        assert found.failed is failed
    assert "in behaviour, too small for a verdict, 5 got worse and 0 better" in found.message


def test_what_the_table_shows_as_lost_does_not_pass_beside_a_probe_that_hides_it():
    large, small = look("knowledge", 1000, n=2000), look("knowledge", 100)
    before = {"large": replace(large, probe="large"), "small": replace(small, probe="small")}
    after = {"large": replace(look("knowledge", 1030, n=2000), probe="large")}
    after["small"] = replace(look("knowledge", 75), probe="small")
    rows = compare_checkpoints(before, after)
    found = {where: read_gate(f"{where}verdict=lost", bound="value").judge(rows) for where in ("", "large/", "small/")}
    assert [where for where, one in found.items() if one.failed] == ["", "small/"]
    assert found[""].message.startswith("verdict is none, ") and "; small is lost" in found[""].message
    # And a category beside the others of its probe.
    named = {"category": np.repeat(["a", "b"], [1800, 200]).astype(object)}
    half = np.arange(2000) % 2.0
    one = replace(large, correct=half, outcome=None, **named)
    now = np.r_[np.ones(60), half[60:1940], np.zeros(60)]
    found = judged("verdict=lost", [one], [replace(one, correct=now, outcome=None)])
    assert found.failed and found.message.startswith("verdict is none, ") and "; knowledge/b is lost" in found.message


@pytest.mark.parametrize("right", range(1, 9))
def test_a_verdict_that_no_loss_can_bring_is_said(right):
    before = [look("knowledge", right)]
    found = judged("verdict=lost", before, before)
    worst = judged("verdict=lost", before, [look("knowledge", 0)])
    assert found.too_few.startswith(f"can never fail: even if all {right} of 100") is (not worst.failed)
    assert worst.failed is (right > 4), "McNemar's mid-p of 5 is .031, of 4 it is .063"


def test_of_the_training_data_there_is_no_verdict():
    before, after = documents(ability="training"), documents(0.5, ability="training")
    with pytest.raises(ValueError, match=r"of texts of the training data there is no verdict; .* name another probe"):
        judged("verdict=lost", [before], [after])
    beside = judged("verdict=lost", [KEPT[0], before], [KEPT[0], after], inconclusive=True)
    assert beside.outcome == "passed", "and it does not take that of others away"


@pytest.mark.parametrize(
    "text, meant",
    [
        ("verdict=los", "verdict=lost"),
        ("p/c/verdict=mooved", "p/c/verdict=moved"),
        ("verdict=forgotten", "verdict=lost"),
        ("verdict=", "verdict=lost"),
        ("verdict", "verdict=lost"),
        ("verdict==lost", "verdict=lost"),
        ("p/verdict!=none", "p/verdict=lost"),
        ("verdict>0.05", "verdict=lost"),
        ("Verdict=Unclear", "verdict=unclear"),
        ("p/verdict=none", "p/verdict=lost"),
    ],
)
def test_another_word_or_relation_is_an_error_that_names_what_is_known(text, meant):
    with pytest.raises(ValueError, match="--fail-if") as caught:
        read_gate(text, bound="value")
    assert str(caught.value).endswith((f"did you mean '{meant}'?", f"to fail what lost something: '{meant}'"))
    assert "fails what lost nothing" in str(caught.value) or "one of lost, moved, unclear, none" in str(caught.value)


def test_what_only_looks_like_it_is_another_gate():
    assert read_gate("verdict/forgetting>0.1", bound="value").probe == "verdict"
    assert read_gate("p/verdict=lost/forgetting>0.1", bound="value").category == "verdict=lost"
    spaced = read_gate(" p/a/b/verdict = lost ", bound="value")
    assert (spaced.probe, spaced.category, spaced.verdict) == ("p", "a/b", "lost")


def test_a_verdict_has_no_interval():
    with pytest.raises(ValueError, match="'verdict=lost' with --bound lower: a verdict has no interval"):
        read_gate("verdict=lost", bound="lower")


def test_a_rule_is_no_verdict_and_says_what_works():
    with pytest.raises(
        ValueError, match=r"'p/verdict=lost': .* a verdict is a word; .* --fail-if verdict=lost"
    ) as caught:
        stop_rules(["p/verdict=lost"])
    for rule in ("knowledge_lost>0.05", "bits_per_byte_change>0.05", "behaviour/forgetting>0.1"):
        assert StopRule.parse(rule).metric in str(caught.value)


def test_junit_has_it_as_any_other_gate():
    lost = [look("knowledge", 20), look("behaviour", 80), documents()]
    results = [judged("verdict=lost", KEPT, after) for after in (lost, KEPT)]
    first, second = ElementTree.fromstring(junit(results, title="t").encode())[0]
    assert first.find("failure").get("message").startswith("verdict is lost, ") and second.find("failure") is None
    assert first.get("name") == "verdict=lost" and "verdict is none" in second.find("system-out").text
