"""Snapshots beside each other: items are joined by id, and what a side lacks is left out or refused with both shown."""

from math import inf, nan

import numpy as np
import pytest

from forget_callback.probes.items import Generation, MultipleChoice, Recall
from forget_callback.probes.probe import Probe
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import align, align_both, complete, pool
from tests.snapshots.test_snapshot import assert_same, bare


def test_align_brings_the_later_items_into_the_earlier_order():
    later = bare("cab", [0, 1, nan], step=5, margin=[3.0, 1.0, 2.0])
    aligned = align(bare("abc"), later)
    assert aligned.ids.tolist() == ["a", "b", "c"] and aligned.margin.tolist() == [1.0, 2.0, 3.0]
    assert aligned.step == 5


def test_align_keeps_the_variants_that_both_have():
    two, three, four = (Answers(name, [1, 0, nan]) for name in ("v2", "v3", "v4"))
    before, after = bare("abc", further=[two, three]), bare("cab", further=[four, three])
    aligned = align(before, after)
    assert [a.fingerprint for a in aligned.further] == ["v3"]
    np.testing.assert_array_equal(aligned.correct_2, [0, nan, 1])
    both = align_both(before, after)
    assert_same(both[1], aligned)
    assert [a.fingerprint for a in both[0].further] == ["v3"] and both[0].ids.tolist() == list("abc")
    np.testing.assert_array_equal(both[0].correct_2, [1, 0, nan])
    assert align(before, bare("abc")).further == align_both(bare("abc"), after)[1].further == ()


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


@pytest.mark.parametrize("temperature, samples", [(0, 1), (0.5, 4)])
def test_complete_takes_what_the_probe_says_of_its_items(temperature, samples):
    items = [
        MultipleChoice("m", "Q", [" a", " b"], 1, "geo", variants=["R"], cluster="page 1", fact="f"),
        Recall("r", "Q", "A", fact="f"),
        Generation("g", "Q", "A", samples=4),
    ]
    probe = Probe("p", items, temperature=temperature)
    further = Answers(probe.variant_fingerprints[0], [nan, 1, nan], asked=[False, True, False])
    s = complete(bare("rmg", [1, 0, 0], fingerprint=probe.fingerprint, further=[further]), probe)
    assert s.ids.tolist() == ["m", "r", "g"] and s.correct.tolist() == [0, 1, 0]
    assert s.category.tolist() == ["geo", "", ""] and s.cluster.tolist() == ["page 1", "", ""]
    assert s.fact.tolist() == ["f", "f", ""] and s.kind.tolist() == ["multiple_choice", "recall", "generation"]
    assert s.n_choices.tolist() == [2, inf, inf] and s.answer.tolist() == [1, -1, -1]
    assert s.samples.tolist() == [1, 1, samples], "greedy answers are all the same"
    assert s.asked_2.tolist() == [True, False, False] and s.correct_2[0] == 1


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
    assert pooled.further == ()


def test_pool_asks_the_further_variants_of_the_probes_that_have_them():
    two, three = Answers("v2", [0, nan], weak=[True, True]), Answers("v3", [1, 1])
    one = bare("ab", [1, 0], probe="x", further=[two, three])
    pooled = pool([one, bare("c", [0], probe="y", further=[Answers("w2", [1])]), bare("d", [1], probe="z")])
    assert pooled.n_variants == 3
    np.testing.assert_array_equal(pooled.correct_2, [0, nan, 1, nan])
    assert pooled.asked_2.tolist() == [True, True, True, False] and pooled.weak_2.tolist() == [True, True, False, False]
    assert pooled.outcome_3.tolist() == ["correct", "correct", None, None]
    assert pooled.asked_3.tolist() == [True, True, False, False]
    first_only = pool([one.without_variants(), *(bare(name, [1], probe=name) for name in "yz")])
    assert [a.fingerprint for a in pooled.further] == ["v2+w2+", "v3++"] and first_only.further == ()
