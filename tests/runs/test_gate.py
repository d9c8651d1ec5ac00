"""Gates fail closed, read a bound where they are told to, and are written for CI."""

from xml.etree import ElementTree

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.metrics.transitions import INTERVALS
from forget_callback.runs.comparison import compare_checkpoints
from forget_callback.runs.gate import Gate, junit
from forget_callback.runs.headline import headline


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
