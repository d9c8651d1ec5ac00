"""Gates fail closed, read a bound where they are told to, and are written for CI."""

from xml.etree import ElementTree

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.metrics.transitions import INTERVALS
from forget_callback.runs.comparison import compare_checkpoints
from forget_callback.runs.gate import Gate, junit
from forget_callback.runs.headline import headline
from forget_callback.runs.stop_rules import StopRule
from forget_callback.runs.stopping import can_fire


@pytest.fixture
def rows():
    """100 open-ended items in two categories: 20 forgotten, 5 gained, all of the losses in "a"."""
    before = np.array([1] * 80 + [0] * 20, float)
    after = before.copy()
    after[:20], after[80:85] = 0, 1
    category = np.array(["a"] * 50 + ["b"] * 50, object)
    taken = [
        {"p": Snapshot("p", "f", 0, [f"i{i}" for i in range(100)], correct, category=category)}
        for correct in (before, after)
    ]
    return compare_checkpoints(*taken)


@pytest.mark.parametrize(
    "text, bound, failed",
    [
        ("forgetting>0.19", "value", True),
        ("forgetting>0.2", "value", False),
        ("forgetting>=0.2", "value", True),
        ("forgetting>0.19", "lower", False),  # its lower bound is .133
        ("forgetting>0.13", "lower", True),
        ("p/a/knowledge_lost>0.39", "value", True),
        ("p/b/knowledge_lost>0.01", "value", False),
        ("net_change<-0.14", "value", True),
        ("net_change<-0.14", "lower", False),  # the end nearer to passing is the upper one, -.053
        ("net_change<-0.06", "lower", False),
        ("net_change<-0.05", "lower", True),
        ("drift>1", "value", True),  # there are no options, so no drift: it fails closed
        ("drift<1", "value", True),
    ],
)
def test_judgements(rows, text, bound, failed):
    assert Gate.parse(text, bound=bound).judge(rows).failed is failed


def test_the_bound_is_the_end_of_the_interval(rows):
    whole = next(row for row in rows if not row.category).numbers
    for metric in INTERVALS:
        if np.isnan(whole[f"{metric}_low"]):
            continue  # such as what needs several variants of the prompt
        for relation, end in ((">", "low"), ("<", "high"), (">=", "low"), ("<=", "high")):
            gate = Gate.parse(f"{metric}{relation}{float(whole[f'{metric}_{end}'])!r}", bound="lower")
            assert gate.judge(rows).failed is ("=" in relation)  # only where both are the same number


def open_ended(known, lost, n=100):
    """The rows of a probe of which so many are right before, and so many of these are wrong after."""
    before, after = np.arange(n) < known, (np.arange(n) >= lost) & (np.arange(n) < known)
    sides = (Snapshot("p", "f", 0, list(range(n)), side.astype(float)) for side in (before, after))
    return compare_checkpoints(*({"p": side} for side in sides))


@pytest.mark.parametrize("bound", ["value", "lower"])
@pytest.mark.parametrize("lost, failed", [(2, ()), (4, ("value",)), (12, ("value", "lower"))])
def test_a_share_of_what_was_known_is_a_gate_of_its_own(lost, failed, bound):
    """40 of 100 items are known: 2 of them are 5%, not more; 4 are 10%, by its lower end 3; 12 are 30%, at least 17."""
    found = open_ended(40, lost)
    judged = Gate.parse("known_lost>0.05", bound=bound).judge(found)
    assert judged.failed == (bound in failed)
    assert judged.message.startswith(f"known_lost is {100 * lost / 40:.1f}% [")
    assert headline(found[-1]).sentence in judged.message
    assert not Gate.parse("knowledge_lost>0.13", bound=bound).judge(found).failed


@pytest.mark.parametrize("text", ["known_lost>0.05", "known_lost<0.05", "known_lost>=-3", "known_lost<=0.9"])
@pytest.mark.parametrize("bound", ["value", "lower"])
@pytest.mark.parametrize("inconclusive", [False, True])
def test_a_share_of_nothing_passes_no_gate(text, bound, inconclusive):
    judged = Gate.parse(text, bound=bound, inconclusive=inconclusive).judge(open_ended(0, 0))
    assert judged.outcome == "failed"
    assert "known_lost is not defined (next to nothing was known at the baseline)" in judged.message


@pytest.mark.parametrize(
    "text", ["forgetting", "forgetting=1", "forgeting>1", "forgetting>", "forgetting>1e", "a>b>c", ""]
)
def test_what_is_no_gate_is_an_error(text):
    with pytest.raises(ValueError, match="--fail-if"):
        Gate.parse(text)


def test_a_misspelled_metric_says_which_one_was_meant():
    with pytest.raises(ValueError, match=r"--fail-if 'forgeting>1': .*; did you mean forgetting\? docs/metrics.md"):
        Gate.parse("forgeting>1")


def test_a_bound_needs_an_interval():
    with pytest.raises(ValueError, match="'drift' has no interval; forgetting"):
        Gate.parse("drift>1", bound="lower")


def test_a_probe_that_is_not_there_is_an_error(rows):
    with pytest.raises(ValueError, match="there are p, p/a, p/b"):
        Gate.parse("q/forgetting>1").judge(rows)


def test_junit_has_a_case_a_gate(rows):
    texts = ["forgetting>0.1", "p/a/forgetting>0.5", "drift>1"]
    root = ElementTree.fromstring(junit([Gate.parse(text).judge(rows) for text in texts], title="a <&> b").encode())
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "3", "2", "0")
    (suite,) = root
    assert (suite.tag, suite.get("name"), suite.get("failures")) == ("testsuite", "a <&> b", "2")
    assert [case.get("name") for case in suite] == texts
    assert all(case.get("classname") and case.get("time") for case in suite)
    messages = [case.find("failure") for case in suite]
    assert messages[0].get("message") == "forgetting is 20.0% [13.3, 28.9], 100 items of p, 100.0% scored"
    assert messages[1] is None
    assert messages[2].text == "drift is missing, 100 items of p, 100.0% scored"
    assert "items of p/a" in suite[1].find("system-out").text
    with pytest.raises(ValueError, match="at least one --fail-if"):
        junit([], title="")


@pytest.mark.parametrize(
    "arguments", [["--fail-if", "nothing/forgetting>0"], [], ["--fail-if", "churn>0.1", "--bound", "lower"]]
)
def test_no_file_is_written_where_there_is_an_error(run_cli, rows, tmp_path, arguments):
    for name in ("a", "b"):
        Snapshot("p", "f", 0, ["x", "y"], [1.0, 0.0]).save(tmp_path / f"{name}.parquet")
    target = tmp_path / "gate.xml"
    paths = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    code, out, err = run_cli("compare", *paths, "--junit", target, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert not target.exists()
    assert run_cli("compare", *paths, "--junit", target, "--fail-if", "forgetting>0")[0] == 0
    assert ElementTree.parse(target).getroot().get("failures") == "0"


# ---- items that cannot fail a gate


def compared(n_right, n=100, *, lost=0, k=None):
    """`n_right` of `n` items right before, `lost` of these wrong after; the gates' rows, and what was before."""
    before = (np.arange(n) < n_right).astype(float)
    after = np.where(np.arange(n) < lost, 0.0, before)
    options = {} if k is None else {"answer": np.arange(n) % k, "n_choices": [k] * n}

    def look(correct):
        choice = {} if k is None else {"choice": (np.arange(n) + (correct == 0)) % k}
        return Snapshot("p", "f", 0, [f"i{i}" for i in range(n)], correct, **options, **choice)

    return compare_checkpoints({"p": look(before)}, {"p": look(after)}), [look(before)]


@pytest.mark.parametrize(
    "text, bound, n_right, n, said",
    [
        ("knowledge_lost>0.05", "lower", 2, 100, "can never fail"),
        ("knowledge_lost>0.05", "lower", 15, 100, "can hardly fail"),
        ("knowledge_lost>0.05", "lower", 70, 1000, "can hardly fail"),
        ("knowledge_lost>0.05", "lower", 900, 1000, ""),
        ("knowledge_lost>0.05", "lower", 3, 4, "can hardly fail"),
        ("knowledge_lost>0.05", "value", 5, 100, "can never fail"),
        ("knowledge_lost>0.05", "value", 6, 100, ""),
        ("knowledge_lost>=0.05", "value", 5, 100, ""),
        ("forgetting>0.5", "lower", 5, 9, "can never fail"),
        ("forgetting>0.5", "lower", 95, 100, ""),
        ("known_lost>0.95", "lower", 20, 20, "can never fail"),
        ("recall_lost>0.5", "value", 20, 40, ""),  # no recall item: it is missing, and fails
        ("net_change<-0.3", "value", 30, 100, "can never fail"),
        ("net_change<-0.3", "value", 31, 100, ""),
        ("net_change<-0.1", "lower", 12, 100, "can never fail"),
        ("accuracy_after<0.5", "value", 99, 100, ""),
        ("n10>0", "value", 1, 100, ""),
    ],
)
def test_a_gate_that_its_items_cannot_fail_says_so_and_why(text, bound, n_right, n, said):
    rows, before = compared(n_right, n)
    found = Gate.parse(text, bound=bound).judge(rows, before=before)
    assert not said or (found.outcome == "passed" and found.too_few.startswith(said))
    # What it promises: with everything lost, the same gate decides as was said.
    worst, _ = compared(n_right, n, lost=n_right)
    assert Gate.parse(text, bound=bound).judge(worst).failed is (said != "can never fail")


def test_what_may_change_without_having_been_right_has_no_such_limit():
    rows, before = compared(1)
    assert Gate.parse("churn>0.5").judge(rows, before=before).too_few == ""


def test_why_it_cannot_fail_is_in_numbers():
    rows, before = compared(5, 9)
    told = Gate.parse("forgetting>0.5", bound="lower").judge(rows, before=before).too_few
    low = compared(5, 9, lost=5)[0][0].numbers["forgetting_low"]
    assert told.startswith(
        "can never fail: even if all 5 of 9 items of p that were right before were wrong after, the "
    )
    assert f"lower end of forgetting would be {100 * low:.1f}%" in told


def test_a_gate_is_not_judged_by_a_loss_of_more_than_was_known():
    """One and a half times 0.9 would be 135% of it: a loss of all of it is what these items do not show each time."""
    rows, before = compared(300, 400, k=4)
    told = Gate.parse("known_lost>0.9", bound="lower").judge(rows, before=before).too_few
    assert told.startswith("can hardly fail: these items find a loss of all that was known, 66.7% of them, in ")


def test_of_a_category_its_own_items_count():
    category = np.array(["big"] * 380 + ["small"] * 20, object)
    look = Snapshot("p", "f", 0, [f"i{i}" for i in range(400)], np.ones(400), category=category)
    rows = compare_checkpoints({"p": look}, {"p": look})
    said = {
        name: Gate.parse(f"p/{name}forgetting>0.85", bound="lower").judge(rows, before=[look]).too_few
        for name in ("", "big/", "small/")
    }
    assert said[""] == said["big/"] == "" and "all 20 of 20 items of p/small" in said["small/"]


def test_without_the_snapshots_nothing_is_said_and_a_failed_gate_can_fail():
    rows, before = compared(2)
    assert Gate.parse("knowledge_lost>0.05").judge(rows).too_few == ""
    rows, before = compared(60, lost=60)
    assert Gate.parse("knowledge_lost>0.05").judge(rows, before=before).too_few == ""


@pytest.mark.parametrize("n", [3, 5, 8, 20, 60])
@pytest.mark.parametrize("above", [0.05, 0.3, 0.6, 0.9])
def test_rules_and_gates_are_asked_alike(n, above):
    """A gate reads the two-sided 95% interval, which is a rule at 97.5%."""
    rows, before = compared(n, n, k=4)
    rule = StopRule("forgetting", above, confidence=0.975)
    told = Gate.parse(f"forgetting>{above}", bound="lower").judge(rows, before=before).too_few
    assert told.startswith("can never fail") is not can_fire(rule, before)


def test_junit_says_it():
    rows, before = compared(2)
    text = junit([Gate.parse("knowledge_lost>0.05", bound="lower").judge(rows, before=before)], title="t")
    assert "can never fail" in ElementTree.fromstring(text).find(".//system-out").text


@pytest.mark.parametrize("text", ["known_lost>0.05", "knowledge_lost>0.05", "forgetting>0.2", "accuracy_after<0.5"])
@pytest.mark.parametrize("n", [1, 5, 29, 30])
def test_a_gate_passed_by_few_items_says_that_this_shows_little(text, n):
    rows, before = compared(n, n)
    found = Gate.parse(text).judge(rows, before=before)
    few = f"{n} scored item{' is' if n == 1 else 's are'} too few (30 at least)"
    if found.outcome == "passed":  # known_lost of one item is not defined
        assert (few in found.too_few) is (n < 30) and found.too_few in found.whole_message
    assert f" {n} item{'' if n == 1 else 's'} of p" in found.message


def test_a_limit_that_is_none_is_not_named():
    rows, _ = compared(50)
    with pytest.raises(ValueError, match="known_lost is at most 1 here"):
        Gate.parse("known_lost>1").judge(rows)
