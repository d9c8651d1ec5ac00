"""Texts in the numbers: who got worse, by how much it must be, and what is claimed."""

from math import isnan, nan

import numpy as np
import pytest

from forget_callback import History, Snapshot, compare
from forget_callback.metrics.texts import FLOOR, floor_of, with_noise
from forget_callback.snapshots.reference import digest_of_snapshot
from forget_callback.snapshots.snapshot import NOISE

N = 100
BITS = np.random.default_rng(0).gamma(9, 0.1, N)


def texts(bits=BITS, step=0, *, name="text", metadata=None, **columns):
    bits = np.asarray(bits, float)
    n = len(bits)
    correct = np.where(np.isnan(bits), nan, 1.0)
    return Snapshot(
        name, "f", step, ids=[f"d{i}" for i in range(n)], correct=correct, bits_per_byte=bits, kind=["text"] * n,
        ability=["text"] * n, metadata=metadata or {}, **columns,
    )  # fmt: skip


def test_a_document_is_worse_or_better_beyond_the_floor_and_else_the_same():
    change = np.array([0.5, 0.011, 0.009, 0.0, -0.009, -0.011, -0.5, nan])
    t = compare(texts(np.ones(8)), texts(1 + change))
    worse = sum(one > FLOOR for one in change)
    better = sum(one < -FLOOR for one in change)
    assert (t.n, t.n_unscored, t.n10, t.n01, t.n11, t.n00) == (7, 1, worse, better, 7 - worse - better, 0)
    assert t.forgetting == pytest.approx(2 / 7) == t.backward_transfer and t.net_change == 0
    assert t.scored == 7 / 8 == t.coverage("bits_per_byte_change")
    assert t.bits_per_byte_before == 1 and t.bits_per_byte_after == pytest.approx(1 + np.nanmean(change))
    assert (t.ability, dict(t.abilities), t.floor) == ("text", {}, FLOOR)


def test_what_needs_right_and_wrong_or_knowledge_does_not_exist_for_texts():
    t = compare(texts(), texts(BITS + 0.1))
    numbers = t.as_dict()
    missing = [
        *("accuracy_before", "accuracy_after", "forgetting_max", "backward_transfer_max", "spurious_forgetting"),
        *("knowledge_lost", "knowledge_gained", "knowledge_lost_net", "known_before", "known_lost", "recall_lost"),
        *("knowledge_lost_low", "knowledge_lost_high", "knowledge_lost_range_high", "score_change", "score_lost_low"),
    ]
    assert [name for name in missing if not isnan(numbers[name])] == []
    assert t.knowledge_n == 0 and isnan(texts().accuracy)


def test_the_floor_is_the_noise_of_the_baseline_where_that_is_more():
    again = BITS + np.where(np.arange(N) == 7, 0.5, np.where(np.arange(N) % 2, 0.02, -0.03))
    baseline = with_noise(texts(), texts(again))
    assert floor_of(texts()) == FLOOR and floor_of(with_noise(texts(), texts(BITS + 1e-4))) == FLOOR
    assert 0.03 <= floor_of(baseline) < 0.5, "one odd document makes no floor"
    assert floor_of(baseline) == pytest.approx(np.quantile(np.abs(again - BITS), 0.99))
    t = compare(texts(metadata={NOISE: 0.03}), texts(BITS + 0.025))
    assert (t.n10, t.floor, t.verdict) == (0, 0.03, "none")
    assert compare(texts(), texts(BITS + 0.025)).n10 == N
    assert "bits_per_byte_noise" not in with_noise(texts(np.full(3, nan)), texts(np.full(3, nan))).metadata


@pytest.mark.parametrize(
    "change, verdict",
    [
        (np.zeros(N), "none"),
        (np.full(N, 0.008), "none"),  # sure, and below the floor
        (np.where(np.arange(N) < 4, 0.02, 0.0), "none"),
        (np.where(np.arange(N) < 7, 0.02, 0.0), "moved"),
        (np.where(np.arange(N) < 7, -0.02, 0.0), "moved"),
        (np.linspace(-0.02, 0.04, N), "moved"),  # about the floor in the mean
        (np.linspace(0.0, 0.05, N), "lost"),
        (np.full(N, -0.5), "moved"),
    ],
)
def test_the_verdict(change, verdict):
    t = compare(texts(), texts(BITS + change))
    assert t.verdict == verdict
    assert (t.loss_p_value < 0.025) == (verdict == "lost")


def test_few_texts_are_unclear_and_none_has_no_test():
    t = compare(texts(BITS[:29]), texts(BITS[:29] + 1))
    assert (t.verdict, t.loss_p_value, t.n10) == ("unclear", 1.0, 29)
    none = compare(texts([nan, nan]), texts([1.0, 1.0]))
    assert (none.verdict, none.n, none.scored) == ("unclear", 0, 0) and isnan(none.loss_p_value)
    assert isnan(none.bits_per_byte_change) and np.isnan(none.interval("bits_per_byte_change")).all()


def test_a_rise_of_no_more_than_the_floor_is_seldom_claimed_however_skewed():
    rng, claimed, runs = np.random.default_rng(1), 0, 1000
    for _ in range(runs):
        change = rng.exponential(FLOOR, N)  # its mean is the floor
        claimed += compare(texts(), texts(BITS + change)).verdict == "lost"
    assert claimed / runs <= 0.02


def test_over_time_a_document_is_lost_while_it_is_worse_than_at_the_baseline():
    rng = np.random.default_rng(2)
    looks = [BITS, *(BITS + rng.normal(0, 0.012, N) for _ in range(4))]
    history = History()
    for step, bits in enumerate(looks):
        history.append([texts(bits, step, category=[f"c{i % 2}" for i in range(N)])])
        worse = np.array([look - BITS > FLOOR for look in looks[: step + 1]])
        row = history.select("text")[-1]
        assert row.value("ever_forgotten") == pytest.approx(worse.any(axis=0).mean())
        lost_once = worse.any(axis=0)
        expected = (~worse[-1])[lost_once].mean() if lost_once.any() else nan
        assert row.value("recovered") == pytest.approx(expected, nan_ok=True)
        assert row.value("forgetting_events") == pytest.approx((~worse[:-1] & worse[1:]).sum() / N)
        if step:
            assert row.value("churn") == pytest.approx((worse[-1] != worse[-2]).mean())
        assert isnan(row.value("unparsed")) and isnan(row.value("ever_forgotten_chance"))
    whole, one, two = (history.select("text", name)[-1].value("bits_per_byte_change") for name in ("", "c0", "c1"))
    assert whole == pytest.approx((one + two) / 2) == pytest.approx((looks[-1] - BITS).mean())
    np.testing.assert_allclose(history.lost_scores("text")[-1], looks[-1] - BITS, atol=1e-6)


def test_kl_and_agreement_are_means_of_what_was_measured():
    history = History()
    history.append([texts(kl=np.zeros(N), top1=np.ones(N))])
    kl = np.where(np.arange(N) == 3, nan, 0.25)
    history.append([texts(BITS, 1, kl=kl, kl_error=np.full(N, 0.01), top1=np.full(N, 0.9))])
    first, last = history.select("text")
    assert [first.value(name) for name in ("kl", "top1_agreement")] == [0, 1] and isnan(first.value("kl_error"))
    assert [last.value(name) for name in ("kl", "kl_error", "top1_agreement")] == pytest.approx([0.25, 0.01, 0.9])


def test_kl_to_another_model_than_the_baseline_is_not_shown():
    columns = {"kl": np.full(N, 0.25), "kl_error": np.zeros(N), "top1": np.full(N, 0.9)}
    other = texts(BITS + 0.5)
    for baseline, shown in ((texts(), True), (other, False)):
        history = History()
        history.append([baseline, texts(name="more")])
        after = texts(BITS, 1, metadata={"kl_baseline": digest_of_snapshot(texts())}, **columns)
        rows = {row.probe: row for row in history.append([after, texts(BITS, 1, name="more")])}
        for probe in ("text", "all"):
            values = [rows[probe].value(name) for name in ("kl", "kl_error", "top1_agreement")]
            assert values == pytest.approx([0.25, 0, 0.9]) if shown else np.isnan(values).all()


def test_of_a_pool_there_is_no_kl_where_one_probe_has_lost_its_own():
    kl = {"kl": np.full(N, 0.25), "kl_error": np.full(N, 0.01), "top1": np.full(N, 0.9)}
    history = History()
    history.append([texts(kl=np.zeros(N)), texts(name="more", kl=np.zeros(N))])
    last = {row.probe: row for row in history.append([texts(BITS, 1), texts(BITS, 1, name="more", **kl)])}
    for name, expected in (("kl", 0.25), ("kl_error", 0.01), ("top1_agreement", 0.9)):
        assert last["more"].value(name) == pytest.approx(expected) and isnan(last["text"].value(name))
        assert isnan(last["all"].value(name)), "the other probe's alone is not that of all"
    unscored = texts(np.full(N, nan), 2)
    later = {row.probe: row for row in history.append([unscored, texts(BITS, 2, name="more", **kl)])}
    assert later["all"].value("kl") == pytest.approx(0.25), "what was not measured is no gap"
