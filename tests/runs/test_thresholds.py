"""Thresholds that nothing can pass are told apart from those that something can, in gates and in stop rules."""

import math

import numpy as np
import pytest

from forget_callback.runs.gate import Gate
from forget_callback.runs.history import History
from forget_callback.runs.rows import ALL_METRICS
from forget_callback.runs.stop_rules import LOSSES, StopRule
from forget_callback.runs.thresholds import range_of
from forget_callback.snapshots.snapshot import Snapshot
from tests.worlds import World

SHARES = [name for name in ALL_METRICS if range_of(name).high == 1]
BOUNDED = [name for name in SHARES if math.isfinite(range_of(name).low)]


@pytest.mark.parametrize("metric", ["forgetting", "knowledge_lost", "churn", "p_value", "scored", "forgetting_low"])
@pytest.mark.parametrize("relation", [">", "<", ">=", "<="])
def test_a_percentage_is_taken_for_one(metric, relation):
    for given, meant in (("5", r"0\.05"), ("50.0", r"0\.5"), ("2e0", r"0\.02")):
        with pytest.raises(ValueError, match=rf"--fail-if .*: a share cannot exceed 1; did you mean {meant}\?$"):
            Gate.parse(f"{metric}{relation}{given}")


@pytest.mark.parametrize("metric", BOUNDED)
@pytest.mark.parametrize("threshold", ["1e999", "-1e999", "100", "1.0001", "-1.5", "1" + "0" * 400])
def test_no_share_takes_a_threshold_that_no_share_can_have(metric, threshold):
    with pytest.raises(ValueError, match=r"a share cannot (exceed 1|be below -?[01]); .*0\.0[0-9]*"):
        Gate.parse(f"{metric}>{threshold}")


@pytest.mark.parametrize("metric", ["drift", "margin", "n10", "variants"])
def test_what_has_no_upper_end_takes_any_finite_threshold(metric):
    assert Gate.parse(f"{metric}>5").threshold == 5
    with pytest.raises(ValueError, match="a threshold must be finite"):
        Gate.parse(f"{metric}>1e999")


def test_a_drop_of_accuracy_in_percent_is_seen_as_well():
    with pytest.raises(ValueError, match=r"a share cannot be below -1; did you mean -0\.05\?$"):
        Gate.parse("net_change<-5")
    assert Gate.parse("net_change<-0.05").threshold == -0.05


@pytest.fixture(scope="module")
def rows():
    return numbers(World(n=60, seed=1), lost=0.2)


def numbers(world, **how):
    history = History()
    history.append([world.snapshot(categories=2)])
    return history.append([world.train(**how).snapshot(categories=2).at(1)])


@pytest.mark.parametrize(
    "text, problem",
    [
        ("forgetting>1", r"can never fail: .*; did you mean 0\.01\?"),
        ("known_lost>1", "can never fail"),
        ("accuracy_after<0", "can never fail: accuracy_after is 0 to 1 here"),
        ("p/c0/churn>1", "can never fail"),
        ("n10>60", "can never fail: n10 is 0 to 60 here"),
        ("p/c0/n10>=31", "can never fail: n10 is 0 to 30 here"),
        ("n10>=0", "always fails"),
        ("forgetting>=0", "always fails"),
        ("accuracy_after<=1", "always fails"),
    ],
)
def test_a_gate_whose_outcome_is_known_beforehand_is_an_error(rows, text, problem):
    with pytest.raises(ValueError, match=f"--fail-if '{text}' {problem}"):
        Gate.parse(text).judge(rows)


@pytest.mark.parametrize(
    "text", ["forgetting>0", "forgetting>=1", "accuracy_after<1", "n10>59", "n<1000", "n_unscored>0"]
)
def test_what_can_go_either_way_is_judged(rows, text):
    assert Gate.parse(text).judge(rows).outcome in ("passed", "failed")


def test_every_number_lies_in_the_range_of_its_metric():
    """Of worlds with few and many items, options and prompts, known and not, in which nothing or much changes."""
    for seed, (n, k, known, prompts) in enumerate(
        [(40, 4, 0.4, 2), (400, 2, 0.0, 1), (90, 5, 0.9, 1), (200, 3, 0.2, 3)]
    ):
        for lost, gained in ((0.0, 0.0), (0.2, 0.0), (0.0, 0.3)):
            for row in numbers(World(n, k=k, known=known, prompts=prompts, seed=seed), lost=lost, gained=gained):
                for metric in ALL_METRICS:
                    limits, end = range_of(metric), metric.endswith(("_low", "_high"))
                    slack = 1.0 if end else 0.0  # an interval may reach out of what a share can be
                    value = row.value(metric)
                    assert math.isnan(value) or limits.low - slack <= value <= limits.high + slack, (metric, value)


@pytest.mark.parametrize("metric", [name for name in LOSSES if range_of(name).high == 1])
def test_a_rule_that_never_fires_is_refused(metric):
    for make in (
        lambda above: StopRule(metric, above, confidence=None),
        lambda above: StopRule.parse(f"{metric}>{above}"),
    ):
        with pytest.raises(ValueError, match=r"a share cannot exceed 1; did you mean 0\.05\?$"):
            make(5)
        with pytest.raises(ValueError, match=r"a share cannot exceed 1; did you mean 0\.01\?$"):
            make(1)
        assert make(0.99).above == 0.99


def test_a_rule_needs_a_finite_threshold():
    for above in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=r"above must be a number, and finite, such as 0\.05"):
            StopRule("drift", above, confidence=None)
    assert StopRule("forgetting_events", 3.0, confidence=None).above == 3.0


def test_between_two_snapshots_an_item_is_forgotten_once_at_most():
    before, after = (Snapshot("p", "f", i, list("ab"), np.array(correct)) for i, correct in enumerate([[1, 1], [0, 0]]))
    history = History()
    history.append([before])
    assert history.append([after])[0].value("forgetting_events") == 1
    with pytest.raises(ValueError, match=r"did you mean 0\.05\?$"):
        Gate.parse("forgetting_events>5")


def test_a_long_or_hostile_text_is_quoted_short():
    text = "x" * 200_000 + "\x1b[2J"
    for make in (
        StopRule.parse,
        Gate.parse,
        lambda text: StopRule(text, 0.1),
        lambda text: Gate.parse(f"{text[:-4]}>1"),
    ):
        with pytest.raises(ValueError, match="xxx…xxx") as caught:
            make(text)
        assert len(str(caught.value)) < 4000 and str(caught.value).isprintable()
