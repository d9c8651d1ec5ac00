"""The saved W&B workspace, as the JSON that a server would get."""

import json
import re
import sys

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot, Text
from forget_callback.runs.history import History
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import complete
from forget_callback.training.trackers import scalars
from forget_callback.training.wandb_tracker import worst

# Of wandb-workspaces itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Pydantic V1.*:DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20"
)


def logged(sampled):
    """Every key that a run gives its trackers by default: of choices in two prompts and recall, or of sampled answers.

    Beside them of documents, and of answers with a graded score.
    """
    names, category = ("facts", "my-probe"), [("a", "b / c")[i % 2] for i in range(40)]
    if sampled:
        items = [Generation(f"{i}", "Q", "A", "exact", category[i], samples=4) for i in range(40)]
    else:
        kinds = [MultipleChoice(f"{i}", "Q", ["x", "y", "z"], 0, category[i], variants=("Q?",)) for i in range(20)]
        items = [*kinds, *(Recall(f"{i}", "Q", "A", category[i]) for i in range(20, 40))]
    probes = [Probe(name, items, temperature=float(sampled)) for name in names]
    if not sampled:
        probes.append(Probe("text", [Text(f"{i}", "A text", category[i]) for i in range(40)]))
        probes.append(Probe("graded", [Generation(f"{i}", "Q", "A", "exact", category[i]) for i in range(40)]))
    history = History()
    history.append(snapshots(probes, 0))
    return scalars(history.append(snapshots(probes, 8)), sampled=(*names, "all") if sampled else ())


def snapshots(probes, step):
    right = np.arange(40) % 20 >= step
    choice = np.where(right, 0, 1)
    found = []
    for probe in probes:
        more = [
            Answers(name, np.where(np.arange(40) < 20, right, np.nan), choice=choice, asked=np.arange(40) < 20)
            for name in probe.variant_fingerprints
        ]
        kind, how = probe.items[0].kind, {"choice": choice, "further": more}
        if kind == "text":
            how = {"bits_per_byte": 1.0 + step / 10, "kl": 0.1, "top1": 0.9}
        elif probe.name == "graded":
            how = {"score": right * 0.9}
        how = {name: np.full(40, value) if isinstance(value, float) else value for name, value in how.items()}
        correct = np.ones(40) if kind == "text" else right * 1.0
        taken = Snapshot(probe.name, probe.fingerprint, step, list(probe.ids), correct, **how)
        found.append(complete(taken, probe))
    return found


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
        f"Forgetting: {part}" for part in ("overview", "text", "per category", "items", "cost")
    }
    plain, sampled = logged(False), logged(True)
    firsts, drawn = {}, 0
    for section, panel in found:
        config = panel["config"]
        firsts.setdefault(section, config)
        for one in config.get("metricRegex", "").split("|") if "metricRegex" in config else ():
            drawn += 1
            assert config["xAxis"] == "forget/samples_seen"
            chosen = [name for name in {**plain, **sampled} if re.search(one, name)]
            assert chosen, f"{one} is not logged by default"
            of_category = section.endswith("per category")
            assert all((name.count("/") > 2) == of_category for name in chosen)
    assert drawn >= 10
    # Sections open with the headline, of plain and of sampled answers.
    for section in ("Forgetting: overview", "Forgetting: per category"):
        for names in (plain, sampled):
            heads = {name.rpartition("/")[2] for name in names if re.search(firsts[section]["metricRegex"], name)}
            assert heads == {"knowledge_lost" if names is plain else "knowledge_lost_net"}
    # The task stands beside the headline, over the same axis.
    beside = [config for section, panel in found if section.endswith("overview") for config in [panel["config"]]][1]
    assert beside["metrics"] == ["forget/task/reward", "forget/task/eval_loss", "forget/task/loss"]
    assert beside["xAxis"] == "forget/samples_seen"
    text = json.dumps(view)
    assert all(
        key in text
        for key in ("forget/items", "forget/abilities", "forget/map", "forget/probe_seconds", "forget/overhead")
    )


def test_without_the_package_it_says_what_to_install(run_cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    target = tmp_path / "workspace.json"
    code, out, err = run_cli("workspace", "--entity", "us", "--project", "p", "--save-json", str(target))
    assert (code, out) == (2, "") and not target.exists()
    assert "pip install 'forget-callback[workspace]'" in err and len(err.strip().splitlines()) <= 2


def test_the_highest_losses_of_a_run_say_over_how_many_looks_they_are_the_highest():
    probes = [Probe("facts", [Recall(f"{i}", "Q", "A") for i in range(40)])]
    history = History()
    for step, lost in enumerate((0, 3, 8, 2)):
        history.append([one.at(step) for one in snapshots(probes, lost)])
    found = worst(history.rows)
    assert found == {
        f"forget/facts/worst_{metric}{end}": value
        for metric in ("knowledge_lost", "forgetting")
        for end, value in (("", 16 / 40), ("_over_looks", 3))
    }
