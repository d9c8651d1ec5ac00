"""What stop rules promise: the bound or the point, patience in a row, and a reason in one line."""

from math import isnan, nan

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from forget_callback.metrics.transitions import METRICS
from forget_callback.probes.items import Generation, MultipleChoice
from forget_callback.probes.probe import Probe
from forget_callback.runs.history import History
from forget_callback.runs.series import OVER_TIME
from forget_callback.runs.stop_rules import LOSSES, StopRule, check_targets, stop_rules
from forget_callback.runs.stopping import can_fire, decide
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.snapshot import Snapshot

N = 200


def rows(*lost, n=N):
    """A history in which `lost` of `n` items, all right at the baseline, are wrong; None is a step without scores."""
    history = History()
    for step, count in enumerate((0, *lost)):
        correct = [nan] * n if count is None else [0] * count + [1] * (n - count)
        history.append([Snapshot("p", "f", 10 * step, ids=list(range(n)), correct=correct)])
    return history.select("p")


def fired(rule, *lost):
    return [decide(rule, rows(*lost)[: i + 2]).fired for i in range(len(lost))]


POINT = {"confidence": None}


@pytest.mark.parametrize(
    "options, lost, expected",
    [
        ({"patience": 1, **POINT}, [20, 21, 0, 30], [False, True, False, True]),
        ({"patience": 2, **POINT}, [30, 0, 30, 30, 30, 0], [False, False, False, True, True, False]),
        ({"patience": 2, **POINT}, [30, None, 30, 30], [False, False, False, True]),  # unscored is not forgotten
        ({"patience": 3, **POINT}, [30, 30, 30], [False, False, True]),
        ({"patience": 1}, [21, 26, 27, 40], [False, False, True, True]),
        ({}, [40, 40], [False, True]),
    ],
)
def test_a_rule_fires_after_enough_snapshots_in_a_row(options, lost, expected):
    assert fired(StopRule("forgetting", 0.10, **options), *lost) == expected


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_bound_is_one_sided(confidence):
    decision = decide(StopRule("forgetting", 0.1, confidence=confidence), rows(30))
    expected = proportion_confint(30, N, alpha=2 * (1 - confidence), method="wilson")[0]
    assert decision.bound == pytest.approx(expected, abs=1e-12)
    assert decision.value == 0.15 and decision.confidence == confidence and decision.n == N


def test_above_means_above():
    assert fired(StopRule("forgetting", 0.15, patience=1, confidence=None), 30, 31) == [False, True]


def strictly(rule, *lost, planned):
    """The decision of a strict rule, with the scores that show how the looks vary together."""
    scores = [[0.0] * N] + [[1.0] * count + [0.0] * (N - count) for count in lost]
    return decide(rule, rows(*lost), planned=planned, scores=scores)


def test_strict_spends_the_error_rate_over_the_planned_snapshots():
    rule = StopRule("forgetting", 0.05, strict=True, patience=1)
    decision = strictly(rule, 30, planned=50)
    assert decision.confidence > 1 - 0.05 / 50  # the first looks get least
    z = norm.ppf(decision.confidence)
    p = 0.15
    half = z / (1 + z**2 / N) * (p * (1 - p) / N + z**2 / (4 * N**2)) ** 0.5
    assert decision.bound == pytest.approx((p + z**2 / (2 * N)) / (1 + z**2 / N) - half, abs=1e-12)
    assert decide(StopRule("forgetting", 0.05), rows(30)).bound > decision.bound
    last = strictly(rule, *[30] * 50, planned=50)  # the same items each time are one look
    assert last.confidence == pytest.approx(0.95, abs=0.012)
    with pytest.raises(ValueError, match="pass planned= and scores="):
        decide(rule, rows(30), planned=50)


def test_a_strict_rule_needs_more_evidence_than_a_plain_one():
    plain, strict = (StopRule("forgetting", 0.10, patience=1, strict=strict) for strict in (False, True))
    assert decide(plain, rows(33)).fired and not strictly(strict, 33, planned=100).fired
    assert strictly(strict, *[33] * 100, planned=100).fired


def test_the_baseline_alone_never_fires():
    decision = decide(StopRule("forgetting", -1.0, patience=1, confidence=None), rows())
    assert not decision.fired and decision.consecutive == 0


def test_a_metric_over_time_has_a_point_rule_only():
    rule = StopRule("ever_forgotten", 0.1, confidence=None, patience=1)
    decision = decide(rule, rows(30, 0))
    assert decision.fired and decision.value == 0.15 and isnan(decision.bound)
    with pytest.raises(ValueError, match="metric 'ever_forgotten' has no interval, so confidence must be None"):
        StopRule("ever_forgotten", 0.1)


@pytest.mark.parametrize("action, stop", [("stop", True), ("warn", False)])
def test_only_the_stop_action_stops(action, stop):
    decision = decide(StopRule("forgetting", 0.1, patience=1, confidence=None, action=action), rows(30))
    assert decision.fired and decision.stop is stop


@pytest.mark.parametrize(
    "options, lost, reason",
    [
        (
            {},
            [40, 40],
            "p/forgetting 20.0%, 95% lower bound 15.8%, above 10% at 2 snapshots in a row up to step 20 (200 items)",
        ),
        (POINT, [30], "p/forgetting 15.0%, above 10% at step 10 (200 items)"),
        (POINT, [30, 5], "p/forgetting 2.5%, not above 10% at step 20 (200 items)"),
        (
            {"metric": "forgetting_events", "above": 1, **POINT},  # a number and no share
            [30, 0, 30],
            "p/forgetting_events 0.3, not above 1 at step 30 (200 items)",
        ),
    ],
)
def test_the_reason_is_one_line(options, lost, reason):
    assert decide(StopRule(**{"metric": "forgetting", "above": 0.1, **options}), rows(*lost)).reason == reason


@pytest.mark.parametrize(
    "options, probes, target",
    [
        ({}, ["x"], ("x", "")),
        ({}, ["x", "y"], ("all", "")),
        ({"probe": "y"}, ["x", "y"], ("y", "")),
        ({"category": "geo"}, ["x"], ("x", "geo")),
        ({"probe": "y", "category": "geo"}, ["x", "y"], ("y", "geo")),
    ],
)
def test_which_rows_a_rule_reads(options, probes, target):
    assert StopRule("forgetting", 0.1, **options).target(probes) == target


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"metric": "bleu"}, "no metric is called 'bleu'; there are n, .*, drift, "),
        *[({"above": bad}, "above must be a number") for bad in (nan, "0.1", True, None)],
        *[({"patience": bad}, "patience must be a whole number of 1 or more") for bad in (0, -1, 1.0, True)],
        *[({"confidence": bad}, r"confidence must lie in \[0.5, 1\)") for bad in (0.4, 1, 95, nan)],
        ({"strict": True, "confidence": None}, "strict needs a confidence to spend"),
        ({"action": "alert"}, "action must be 'stop' or 'warn', got 'alert'"),
    ],
)
def test_a_bad_rule_is_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        StopRule(**{"metric": "forgetting", "above": 0.1, **options})


@pytest.mark.parametrize(
    "text, expected",
    [
        ("knowledge_lost>0.05", StopRule("knowledge_lost", 0.05)),
        (" mini/forgetting > 1e-1 ", StopRule("forgetting", 0.1, probe="mini")),
        ("mini/TCP/IP/knowledge_lost>.5", StopRule("knowledge_lost", 0.5, probe="mini", category="TCP/IP")),
        ("churn>-1", StopRule("churn", -1.0, confidence=None)),  # has no interval, so only a point rule is possible
    ],
)
def test_a_rule_in_text(text, expected):
    assert StopRule.parse(text) == expected


def test_one_rule_or_several_in_either_form():
    rule, text = StopRule("forgetting", 0.1), "knowledge_lost>0.05"
    both = (rule, StopRule("knowledge_lost", 0.05))
    assert stop_rules(()) == ()
    assert stop_rules(rule) == (rule,)
    assert stop_rules(text) == both[1:]
    assert stop_rules([rule, text]) == stop_rules(iter((rule, text))) == both


@pytest.mark.parametrize(
    "text", ["knowledge_lost", "0.05", "", "forgetting>", "forgetting>much", "forgetting<0.1", ">0.1"]
)
def test_a_text_that_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match=r"expected METRIC>VALUE, .* such as 'knowledge_lost>0.05'"):
        stop_rules(text)


def test_a_text_with_a_misspelled_metric_says_which_one_was_meant():
    with pytest.raises(ValueError, match=r"'knowlege_lost'; did you mean knowledge_lost\? docs/metrics.md lists all$"):
        stop_rules("knowlege_lost>0.05")


@pytest.mark.parametrize(
    "metric", ["p_value", "n11", "accuracy_after", "net_change", "backward_transfer", "knowledge_gained", "recovered"]
)
def test_a_text_on_what_is_no_loss_is_refused(metric):
    with pytest.raises(ValueError, match=rf"stop rule on '{metric}': .*use a loss, such as 'knowledge_lost>0.05'"):
        stop_rules(f"p/{metric}>0.1")


@pytest.mark.parametrize(
    "text, hint", [("forgetting>5", r"; did you mean 0\.05\?$"), ("p/knowledge_lost>100", "$"), ("churn>1e999", "$")]
)
def test_a_text_with_a_threshold_that_no_share_can_exceed_is_refused(text, hint):
    with pytest.raises(ValueError, match=f"stop rule '{text}': a share cannot exceed 1{hint}"):
        stop_rules(text)


def test_every_loss_can_be_a_rule_in_text():
    assert set(LOSSES) <= {*METRICS, *OVER_TIME}
    assert [StopRule.parse(f"{name}>0.1").metric for name in LOSSES] == list(LOSSES)


@pytest.mark.parametrize("given", [0.05, None, [None], ["forgetting>0.1", 3]])
def test_what_is_neither_rule_nor_text_is_refused(given):
    with pytest.raises(ValueError, match=r"stop takes StopRules and texts such as .*; got (0.05|None|3)$"):
        stop_rules(given)


def in_two(*lost, n=N):
    """A history of an open-ended probe in two prompts; None in a pair is a prompt that was not asked."""
    history = History()
    for step, (first, second) in enumerate([(0, 0), *lost]):
        further = () if second is None else (Answers("second", np.arange(n) >= second),)
        ids, right = [str(i) for i in range(n)], (np.arange(n) >= first).astype(float)
        history.append([Snapshot("p", "f", 10 * step, ids=ids, correct=right, further=further)])
    return history.select("p")


@pytest.mark.parametrize(
    "lost, fired, triggered",
    [
        ([(60, None), (60, None)], False, True),  # by one prompt alone
        ([(60, None), (60, 60)], True, True),  # confirmed where it would act
        ([(60, None), (60, 5)], False, False),  # form, not knowledge
        ([(60, None), (60, 5), (60, None)], False, False),  # that it was not counts
        ([(60, None), (60, 5), (60, None), (60, 60)], True, True),
        ([(60, 60), (60, 60)], True, True),
    ],
)
@pytest.mark.parametrize("confidence", [0.95, None])
def test_a_rule_is_triggered_by_one_prompt_and_acts_on_both(lost, fired, triggered, confidence):
    decision = decide(StopRule("knowledge_lost", 0.1, confidence=confidence), in_two(*lost))
    assert (decision.fired, decision.triggered) == (fired, triggered)
    assert ("first prompts only" in decision.reason) == (triggered and not fired)


def test_a_rule_on_answers_as_they_are_needs_no_further_prompt():
    decision = decide(StopRule("forgetting", 0.1), in_two((60, None), (60, None)))
    assert decision.fired and decision.triggered


@pytest.mark.parametrize("metric", ["known_lost", "spurious_forgetting", "knowledge_lost_range_high"])
def test_what_one_prompt_has_no_number_for_is_asked_where_it_shows_a_loss(metric):
    rule = StopRule(metric, 0.9, confidence=None, patience=1)
    assert not decide(rule, in_two((60, None))).fired and decide(rule, in_two((60, None))).triggered
    assert not decide(rule, in_two((0, None))).triggered


@pytest.mark.parametrize("n, possible", [(4, False), (200, True)])
def test_whether_a_rule_can_fire_is_asked_of_all_prompts(n, possible):
    choice = np.zeros(n, int)
    further = (Answers("second", np.ones(n), choice=choice),)
    one = Snapshot(
        "p", "f", 0, [str(i) for i in range(n)], np.ones(n), choice=choice, answer=choice, n_choices=np.full(n, 4.0),
        further=further,
    )  # fmt: skip
    assert can_fire(StopRule("knowledge_lost", 0.9), [one]) is possible


def half_known(*lost, n=N):
    """A history of which every second item is right at the baseline, and so many of these are wrong later."""
    history, known = History(), np.arange(n) % 2 == 0
    for step, count in enumerate((0, *lost)):
        right = known & (np.arange(n) >= 2 * count)
        history.append([Snapshot("p", "f", 10 * step, ids=list(range(n)), correct=right.astype(float))])
    return history.select("p")


@pytest.mark.parametrize("rule", [StopRule("known_lost", above=0.05), StopRule.parse("known_lost>0.05")])
def test_a_rule_on_the_share_of_what_was_known(rule):
    """15 of 100 known items are 15% of what was known and 7.5% of all 200, of which the lower bound is below 5%."""
    decision = decide(rule, half_known(15, 15))
    assert decision.fired and decision.value == pytest.approx(0.15) and 0.05 < decision.bound < 0.12
    assert decision.reason.startswith("p/known_lost 15.0%, 95% lower bound ")
    assert decision.reason.endswith(
        ": about 15 of the 100 items it answered are no longer answered in this prompt, between 8 and 24"
    )
    assert not decide(rule, half_known(6, 6)).fired
    assert not decide(StopRule("knowledge_lost", above=0.05), half_known(15, 15)).fired


@pytest.mark.parametrize("confidence", [0.95, None])
def test_a_share_of_nothing_stops_no_run_and_is_said_to_be_idle(confidence):
    history = History()
    for step in range(3):
        history.append([Snapshot("p", "f", step, ids=list(range(N)), correct=np.zeros(N))])
    rule = StopRule("known_lost", 0.05, confidence=confidence)
    decision = decide(rule, history.select("p"))
    assert not decision.fired and not decision.triggered and decision.consecutive == 0
    assert decision.reason.startswith("p/known_lost missing, ")
    assert not can_fire(rule, [history.baseline("p")])
    assert can_fire(rule, [Snapshot("p", "f", 0, ids=list(range(N)), correct=np.ones(N))])


def test_what_the_first_prompts_alone_show_of_a_share_of_what_was_known_is_not_said_to_be_above():
    rule = StopRule("known_lost", 0.9, patience=1)
    decision = decide(rule, in_two((60, None)))
    assert decision.triggered and decision.value == pytest.approx(0.3) and decision.bound < 0.3
    assert ", not yet known to be above 90% at step 10 (200 items, first prompts only)" in decision.reason


def sampled(samples, temperature=1.0, name="essays"):
    items = [Generation(f"g{i}", "Q", "A", samples=samples) for i in range(40)]
    return Probe(name, items, temperature=temperature)


CHOICES = Probe("choices", [MultipleChoice("m", "Q", [" a", " b", " c"], 0)])


@pytest.mark.parametrize("metric", ["knowledge_lost", "forgetting", "churn"])
@pytest.mark.parametrize(
    "probes, target", [([sampled(1)], None), ([CHOICES, sampled(3)], None), ([CHOICES, sampled(2)], "essays")]
)
def test_a_rule_on_too_few_sampled_answers_is_refused_with_what_to_do(metric, probes, target):
    rule = StopRule(metric, 0.05, probe=target, confidence=None)
    remedy = r"probe 'essays' are sampled, \d an item.*draw 4 or more .*samples=4.*or set temperature=0"
    with pytest.raises(ValueError, match=remedy):
        check_targets([rule], probes)


def test_enough_samples_greedy_answers_and_other_probes_may_have_rules():
    check_targets([StopRule("knowledge_lost", 0.05)], [sampled(4)])
    check_targets([StopRule("knowledge_lost", 0.05)], [sampled(1, temperature=0.0)])
    check_targets([StopRule("knowledge_lost", 0.05, probe="choices")], [CHOICES, sampled(1)])


def test_an_unchanged_model_whose_answers_are_sampled_four_times_stops_nothing():
    """20 looks at items of every difficulty; by one sample an item a rule at 0.05 would stop nearly every run."""
    rng, n, stopped, by_one = np.random.default_rng(0), 200, [], []
    rule, raw = StopRule("knowledge_lost", 0.05), StopRule("forgetting", 0.05)
    for _ in range(25):
        chance, history, one = rng.random(n), History(), History()
        fired = [False, False]
        for step in range(21):
            share = rng.binomial(4, chance) / 4
            ids = [str(i) for i in range(n)]
            history.append([Snapshot("p", "f", step, ids, share, samples=np.full(n, 4))])
            one.append([Snapshot("p", "f", step, ids, rng.binomial(1, chance) * 1.0)])
            if step:
                fired[0] |= decide(rule, history.select("p")).fired
                fired[1] |= decide(raw, one.select("p")).fired
        row = history.select("p")[-1]
        assert row.value("knowledge_lost") == row.value("knowledge_lost_net")
        assert row.transitions.knowledge_method == "net"
        stopped.append(fired[0])
        by_one.append(fired[1])
    assert sum(stopped) == 0 and sum(by_one) > 20
