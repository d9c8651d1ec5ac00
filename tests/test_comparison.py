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


def test_the_z_test_is_the_comparators(shown):
    """Its formula, with the standard errors that lm-eval prints, against scipy's normal distribution."""
    row = "|items|Yaml   |none  |     0|acc   |↑  |{}|±  |{}|"
    said = {"lm_eval-base": {"printed": row.format("0.4500", "0.0288")}}
    said["lm_eval-light"] = {"printed": row.format("0.5200", "0.0289")}
    one = shown.read_lm_eval(said, "light")
    z = (0.45 - 0.52) / (0.0288**2 + 0.0289**2) ** 0.5
    assert one["z"] == pytest.approx(z) and one["p_value"] == pytest.approx(2 * stats.norm.cdf(z))
    assert one["verdict"] == "✓"


def test_a_tool_that_prints_something_else_is_an_error_that_shows_it(shown):
    with pytest.raises(ValueError, match="out of disk"):
        shown.read_ftcheck({"ftcheck-light": {"printed": "out of disk"}}, "light")
