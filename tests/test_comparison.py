"""The table of what each tool says: it follows from what is kept, and is read from what the tools print."""

import json
from pathlib import Path

import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
KEPT = json.loads((ROOT / "recipes" / "study" / "comparison.json").read_text(encoding="utf-8"))


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes")
    import comparison_table

    return comparison_table


def test_the_table_that_is_shown_is_that_of_what_was_said(shown):
    assert shown.table(KEPT) in PAGE


@pytest.mark.parametrize(
    ("row", "tool"),
    [
        ("`forget_callback`", "forget_callback"),
        ("pyrecall 0.12", "pyrecall"),
        ("FineTuneCheck 2.0", "ftcheck"),
        ("lm-eval 0.4.13", "lm_eval"),
    ],
)
def test_the_readme_quotes_what_was_said_of_gentle_steps_and_of_a_rise_that_hides_losses(row, tool):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith(f"| {row} |"))
    light, rising = (KEPT["says"][tool][model]["verdict"].split(" ")[0] for model in ("light", "rising"))
    assert line.endswith(f"| `{light}`; `{rising}` |")
    assert KEPT["trainings"]["light"]["steps"] == 8
    raw = KEPT["says"]["forget_callback"]["rising"]
    assert raw["accuracy_after"] > raw["accuracy_before"] and raw["knowledge_lost_low"] > 0


def test_the_z_test_is_the_comparators(shown):
    """Its formula, with the standard errors that lm-eval prints, against scipy's normal distribution."""
    row = "|items|Yaml   |none  |     0|acc   |↑  |{}|±  |{}|"
    said = {"lm_eval-base": {"printed": row.format("0.4500", "0.0288")}}
    said["lm_eval-light"] = {"printed": row.format("0.5200", "0.0289")}
    one = shown.read_lm_eval(said, "light")
    z = (0.45 - 0.52) / (0.0288**2 + 0.0289**2) ** 0.5
    assert one["z"] == pytest.approx(z) and one["p_value"] == pytest.approx(2 * stats.norm.cdf(z))
    assert one["verdict"] == "✓"


FTCHECK = """
╭───────────────────────   Verdict: POOR  |  ROI Score: 34.0/100   ───────────────────────╮
│  Target delta unavailable. Forgetting pattern: catastrophic. Review the sample-level  │
╰──────────────────────────────────────────────────────────────────────────────────────╯
┃ Category              ┃    Base    ┃ Fine-Tuned ┃   Delta    ┃ Samples  ┃
│ classification        │   0.200    │   0.300    │   +0.100   │    10    │
│ math                  │   0.100    │   0.000    │   -0.100   │    10    │

Forgetting pattern: catastrophic
Backward transfer: -0.013
"""


def test_what_finetunecheck_prints_is_quoted(shown):
    """Lines of 2.0.2 as it printed them."""
    one = shown.read_ftcheck({"ftcheck-light": {"printed": FTCHECK}}, "light")
    assert (one["verdict"], one["pattern"], one["roi"]) == ("POOR", "catastrophic", "34.0/100")
    assert one["scores"] == {"classification": [0.2, 0.3], "math": [0.1, 0.0]} and one["backward_transfer"] == "-0.013"
    changes = "math 0.100 → 0.000, classification 0.200 → 0.300"
    assert shown.of_ftcheck(one) == f"`POOR`, pattern `catastrophic`; {changes}"


def test_what_pyrecall_prints_is_quoted(shown):
    """The end of what 0.12.0 printed, and a category of its JSON."""
    printed = "... │  CRITICAL  │\n⚠  Forgetting detected in: advanced_math, long_context\n  Run model.rollback(...)\n"
    category = {"category": "coding", "score_before": 0.2413, "score_after": 0.1527, "severity": "CRITICAL"}
    same = {"category": "safety", "score_before": 0.0401, "score_after": 0.0402, "severity": "OK"}
    said = {"pyrecall-rising": {"printed": printed, "status": 2}}
    said["pyrecall-rising-json"] = {"printed": json.dumps({"comparisons": [category, same]})}
    one = shown.read_pyrecall(said, "rising")
    assert one["severity"] == {"coding": "CRITICAL", "safety": "OK"}
    text = "`⚠ Forgetting detected in: advanced_math, long_context`, exit status 2; coding 0.241 → 0.153"
    assert shown.of_pyrecall(one) == text


def test_a_tool_that_prints_something_else_is_an_error_that_shows_it(shown):
    with pytest.raises(ValueError, match="out of disk"):
        shown.read_ftcheck({"ftcheck-light": {"printed": "out of disk"}}, "light")
