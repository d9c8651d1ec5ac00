"""The saved W&B workspace, as the JSON that a server would get."""

import json
import re
import sys

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.runs.history import History
from forget_callback.training.trackers import scalars

# Of wandb-workspaces itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Pydantic V1.*:DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20"
)


def logged():
    """Every scalar of a run of two probes with categories, as W&B gets it."""
    history, n = History(), 40
    for step in range(3):
        correct = (np.arange(n) >= 4 * step).astype(float)
        common = (step, np.array([f"{i}" for i in range(n)]), correct)
        category = np.array(["a", "b / c"] * (n // 2), object)
        more = {"category": category, "margin": correct - 0.5}
        history.append([Snapshot(name, "f", *common, **more) for name in ("facts", "my probe")])
    return scalars(history.rows)


def panels(spec):
    """(section, panel) of everything that a workspace shows."""
    for section in spec["section"]["panelBankConfig"]["sections"]:
        yield from ((section["name"], panel) for panel in section["panels"])


def test_every_section_and_panel_reads_what_is_logged(run_cli, tmp_path):
    target = tmp_path / "workspace.json"
    code, out, err = run_cli("workspace", "--entity", "us", "--project", "forgetting", "--save-json", str(target))
    assert (code, out.strip()) == (0, str(target)), err
    view = json.loads(target.read_text(encoding="utf-8"))
    assert (view["entity"], view["project"]) == ("us", "forgetting")
    found = list(panels(view["spec"]))
    assert {name for name, _ in found} == {
        f"Forgetting: {part}" for part in ("overview", "per category", "items", "cost")
    }
    names, drawn = logged(), 0
    for section, panel in found:
        config = panel["config"]
        if "metricRegex" in config:
            drawn += 1
            assert config["xAxis"] == "forget/samples_seen"
            chosen = [name for name in names if re.search(config["metricRegex"], name)]
            of_category = section.endswith("per category")
            assert all((name.count("/") > 2) == of_category for name in chosen)
            # "recovered", "format_loss" and "noise_floor" may have no number in a run.
            assert chosen or "noise_floor" in config["metricRegex"], config["metricRegex"]
    assert drawn >= 10
    text = json.dumps(view)
    assert all(key in text for key in ("forget/items", "forget/map", "forget/probe_seconds", "forget/overhead"))


def test_without_the_package_it_says_what_to_install(run_cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    target = tmp_path / "workspace.json"
    code, out, err = run_cli("workspace", "--entity", "us", "--project", "p", "--save-json", str(target))
    assert (code, out) == (2, "") and not target.exists()
    assert "pip install 'forget-callback[workspace]'" in err and len(err.strip().splitlines()) <= 2
