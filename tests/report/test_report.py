"""The report's numbers and files, against the snapshots; the page in a browser is in integration/test_page.py."""

import base64
import csv
import gzip
import html
import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from forget_callback import MultipleChoice, Probe, Recall, Snapshot, Store, fit_data_scale, transitions
from forget_callback.metrics.diagnostics import advice
from forget_callback.metrics.intervals import Interval, wilson
from forget_callback.report import items as packing, report_data, write_report
from forget_callback.report.differences import correlation, mover_difference
from forget_callback.report.items import STATES, TRAJECTORIES, Paths, first_lost, trajectories
from forget_callback.runs.categories import significant_categories
from forget_callback.runs.comparison import compare_checkpoints
from forget_callback.runs.headline import headline, worst_first
from forget_callback.runs.training import Training
from forget_callback.snapshots.joined import complete
from tests.recorded import OPTIONS, log_task, make_probe, make_run, make_snapshots, page_data
from tests.worlds import World


def vector(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def read_back(probe, items, path):
    """(state, choice, answer, whole text) of every item and column, by going through the changes one by one."""
    counts, answers = vector(path["counts"], "<u2"), []
    at, state, choice = vector(path["at"], "<u2"), vector(path["state"], "u1"), vector(path["choice"], "<i2")
    said, whole = vector(path["said"], "<i4"), vector(path["whole"], "<i4")
    k = 0
    for i in range(len(probe)):
        row = [None] * path["columns"]
        for _ in range(counts[i]):
            text = path["texts"][said[k]] if said[k] >= 0 else None
            if said[k] < 0 and items["choices"][i] and choice[k] >= 0:
                text = items["choices"][i][choice[k]]
            answer = (STATES[state[k]], choice[k], text, path["texts"][whole[k]] if whole[k] >= 0 else None)
            row[at[k] :] = [answer] * (path["columns"] - at[k])
            k += 1
        answers.append(row)
    assert k == len(at)
    return answers


def test_numbers_are_those_of_transitions_between_the_answers(tmp_path):
    probe = make_probe()
    store = make_run(tmp_path / "run", [probe])
    (run,) = report_data([store])["runs"]
    (own,) = run["probes"]
    taken, run_columns = make_snapshots(probe), report_data([store])["columns"]
    assert set(own["series"]) == {"", "topic-0", "topic-1", "topic-2", "topic-3"}
    for category, series in own["series"].items():
        rows = np.array([category in ("", item.category) for item in probe.items])
        for t, now in enumerate(taken):
            expected = transitions(
                taken[0].correct[rows],
                now.correct[rows],
                n_choices=probe.n_choices[rows],
                before_choice=taken[0].choice[rows],
                after_choice=now.choice[rows],
                answer=probe.answer[rows],
            ).as_dict()
            for name, value in expected.items():
                if name.startswith("recall_") or name not in run_columns:
                    continue  # arrays alone do not say which items are recalled
                mine = series[name][t] if name in series else None
                if isinstance(value, str):
                    assert mine == value
                else:
                    assert mine == (None if value != value else pytest.approx(value, abs=1e-12)), (category, name, t)
    assert run["axes"] == {"samples": [0, 160, 320, 480], "steps": [0, 10, 20, 30], "tokens": [0, 1000, 2000, 3000]}
    assert run["seconds"] == [1.5, 2.5, 3.5, 4.5]


def test_the_cost_of_a_step_is_that_of_all_probes(tmp_path):
    probes = [make_probe("a", 8), make_probe("b", 8), make_probe("c", 8)]
    store = Store(tmp_path)
    store.begin(probes)
    shares = {"a": [1.5, 0.5, None], "b": [0.25, None, None], "c": [2.0, 4.0, None]}
    for probe in probes:
        for taken, share in zip(make_snapshots(probe, steps=(0, 5, 9)), shares[probe.name]):
            store.write(replace(taken, metadata={} if share is None else {"seconds": share}))
    assert report_data([store])["runs"][0]["seconds"] == [3.75, 4.5, None]


def test_history_advice_and_fit_are_taken_as_they_are(tmp_path):
    probes = [make_probe("a", 150, kinds=("choice",)), make_probe("b", 40, kinds=("recall",))]
    store = make_run(tmp_path / "run", probes, steps=tuple(range(0, 80, 10)))
    (run,) = report_data([tmp_path / "run"])["runs"]
    history = store.history()
    assert [probe["name"] for probe in run["probes"]][-1] == "all"
    for own in run["probes"]:
        for category, series in own["series"].items():
            table = history.table[(history.table["probe"] == own["name"]) & (history.table["category"] == category)]
            for name, values in series.items():
                assert values == [None if v != v else v for v in table[name].tolist()], name
            left_out = set(table.columns) - set(series) - {"probe", "category"}
            assert table[sorted(left_out)].isna().all(axis=None), "only what has no number at all is left out"
            fit = fit_data_scale(history, probe=own["name"], category=category)
            mine = own["fits"][category]
            assert mine["reason"] == fit.reason
            if fit.fitted:
                at = fit.forecast(np.array(mine["samples"]))
                np.testing.assert_allclose(mine["knowledge_lost"], at.knowledge_lost)
                np.testing.assert_allclose(mine["low"], at.low)
                assert mine["samples"][-1] == pytest.approx(2 * 16 * 70)
        if own["name"] != "all":
            last = store.read(own["name"], 70)
            expected = advice(history.baseline(own["name"]), last)
            assert [(one["key"], one["text"]) for one in own["advice"]] == [(a.key, a.text) for a in expected]
            assert own["advice"]
    assert any(not fit["reason"] for own in run["probes"] for fit in own["fits"].values())


def test_answers_read_back_are_the_snapshots(tmp_path):
    probe = make_probe(n_items=120)
    store = make_run(tmp_path / "run", [probe], steps=tuple(range(12)))
    data = report_data([store])
    own = data["runs"][0]["probes"][0]
    path, items = own["path"], data["items"][own["items"]]
    answers = read_back(probe, items, path)
    margins = vector(path["margin"], "<i2").reshape(len(probe), 12)
    for t in range(12):
        now = store.read("facts", t)
        for i in range(len(probe)):
            state, choice, said, _ = answers[i][t]
            assert state == (now.outcome[i] or "not scored")
            assert (choice, said) == (now.choice[i], now.prediction[i])
        known = ~np.isnan(now.margin)
        np.testing.assert_allclose(margins[known, t] * path["margin_unit"], now.margin[known], atol=0.00501)
        assert (margins[~known, t] == packing.NO_MARGIN).all()
    assert len(vector(path["at"], "<u2")) < 12 * len(probe) / 2, "only changes are kept"
    assert items["ids"] == list(probe.ids)
    assert [items["category_names"][c] for c in vector(items["category"], "<u2")] == [i.category for i in probe.items]
    whole = [(answers[i][-1][3], store.read("facts", 11).text[i]) for i in range(len(probe))]
    generated = [pair for pair, item in zip(whole, probe.items) if item.kind == "generation"]
    assert generated and all(mine.startswith("I say") for mine, _ in generated)


def slow_trajectory(states):
    """In words, for one item."""
    first, last = states[0], states[-1]
    if "not scored" in (first, last):
        return "not scored"
    if first == "correct":
        if last == "correct":
            return "recovered" if set(states) & {"wrong", "unparsed", "truncated"} else "kept"
        return "format loss" if last == "unparsed" else "lost"
    if last == "correct":
        return "gained"
    return "came and went" if "correct" in states else "never known"


def test_trajectories_by_the_definition_and_by_the_counts(tmp_path):
    rng = np.random.default_rng(0)
    for columns in (1, 2, 5):
        states = rng.integers(0, len(STATES), (400, columns)).astype(np.uint8)
        words = [[STATES[s] for s in row] for row in states]
        assert [TRAJECTORIES[f] for f in trajectories(states)] == [slow_trajectory(row) for row in words]
        for row, at in zip(words, first_lost(states)):
            bad = [c for c, s in enumerate(row) if s in ("wrong", "unparsed", "truncated")]
            assert at == (bad[0] if row[0] == "correct" and bad else -1)
    store = make_run(tmp_path / "run", [make_probe(n_items=300)])
    own = report_data([store])["runs"][0]["probes"][0]
    found = Counter(TRAJECTORIES[f] for f in vector(own["path"]["trajectory"], "u1"))
    last = {name: own["series"][""][name][-1] for name in ("n11", "n10", "n01", "n00", "n_unscored")}
    assert found["kept"] + found["recovered"] == last["n11"]
    assert found["lost"] + found["format loss"] == last["n10"] > 0
    assert found["gained"] == last["n01"] > 0
    assert found["came and went"] + found["never known"] == last["n00"]
    assert found["not scored"] == last["n_unscored"]
    order, at = vector(own["path"]["order"], "<u4"), vector(own["path"]["lost_at"], "<i2")
    assert sorted(order) == list(range(300))
    lost = at[order][: (at >= 0).sum()]
    assert (np.diff(lost) >= 0).all() and (lost >= 0).all(), "first losses are on top"


def test_generated_texts_are_cut_before_the_page_swells(monkeypatch):
    monkeypatch.setattr(packing, "TEXT_BUDGET", 10_000)
    probe = make_probe("talk", 50, kinds=("generation",))
    path = Paths(probe)
    for step in range(2):
        text = np.array([f"{i} {step} " + "x" * 1_000 for i in range(50)], object)
        prediction = np.array([f"{step}"] * 50, object)
        path.add(Snapshot("talk", probe.fingerprint, step, probe.ids, np.zeros(50), prediction=prediction, text=text))
    packed = path.pack()
    whole = [packed["texts"][i] for i in vector(packed["whole"], "<i4")]
    assert {len(text) for text in whole} == {201}
    assert sum(map(len, packed["texts"])) < 25_000


def test_the_file_holds_the_data_and_no_text_of_it_as_markup(tmp_path):
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    probe = Probe("facts", [MultipleChoice("<b>id</b>", bad, [bad, " b", " c"], 0, bad), Recall("r", bad, bad, "<i>c")])
    directory = tmp_path / "<img src=x onerror=alert(3)>"
    directory.mkdir()
    correct = [np.array([1.0, 1.0]), np.array([0.0, 0.0])]
    store = Store(directory)
    store.begin([probe])
    for step, values in enumerate(correct):
        choice, said = np.array([0 if values[0] else 1, -1]), np.array([bad, bad], object)
        row = Snapshot("facts", probe.fingerprint, step, probe.ids, values, choice=choice, prediction=said)
        store.write(replace(row, samples_seen=8.0 * step))
    page = write_report(store, tmp_path / "out" / "report.html")
    text = page.read_text(encoding="utf-8")
    assert [p.name for p in page.parent.iterdir()] == ["report.html"], "written whole, nothing left beside it"
    assert "alert(" not in text.replace("onerror=alert(3)", ""), "texts of items are packed"
    assert "<img" not in text
    assert html.escape(directory.name) in text
    assert text.count("</script>") == 4
    data = page_data(page)
    assert json.loads(json.dumps(report_data([store]) | {"made": data["made"]})) == data
    (items,) = data["items"].values()
    assert items["prompts"] == [bad, bad]
    assert "49" not in html.unescape(
        re.sub(r'id="packed-\w+">[^<]*<', "", text).split("<script>")[0].split("</style>")[1]
    )


def test_every_script_of_the_file_is_allowed_by_its_hash_and_nothing_else_is(tmp_path):
    import hashlib

    text = write_report(make_run(tmp_path / "run"), tmp_path / "r.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    packed = re.search(r'id="packed-plotly">([^<]*)<', text)[1]
    scripts.append(gzip.decompress(base64.b64decode(packed)).decode())
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert len(hashes) == 3
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", re.sub(r'id="packed-\w+">[^<]*<', "", text))


def test_the_json_is_what_compare_prints(tmp_path, run_cli):
    store = make_run(tmp_path / "run", [make_probe("a"), make_probe("b", 30)])
    printed = run_cli("compare", tmp_path / "run", tmp_path / "run", "--format", "json")
    assert report_data([store])["runs"][0]["compare"] + "\n" == printed[1]
    passed = json.loads(printed[1])
    assert passed["gate"] == {"passed": True, "failed": []}
    assert passed["all"]["n"] > passed["probes"]["b"]["n"]


def test_several_runs_side_by_side(tmp_path):
    probe, other = make_probe(n_items=200), make_probe("other", 50)
    mild = make_run(tmp_path / "x" / "mild", [probe], lose=0.2)
    hard = make_run(tmp_path / "x" / "hard", [probe, other], lose=0.8)
    data = report_data([mild, tmp_path / "x" / "hard"])
    assert [run["name"] for run in data["runs"]] == ["mild", "hard"]
    assert not data["pipeline"]
    assert [run["stage"]["samples_before"] for run in data["runs"]] == [0.0, 0.0]
    assert len(data["items"]) == 2, "texts of a probe that both have are there once"
    (pair,) = data["differences"]
    (gap,) = pair["probes"]
    a, b = (store.history([probe]).select("facts")[-1].transitions.knowledge_lost for store in (mild, hard))
    assert gap["lost"] == pytest.approx(b - a)
    assert 0 < gap["low"] < gap["lost"] < gap["high"]
    one, two = (store.read("facts", 30) for store in (mild, hard))
    assert gap["paired"] is True
    assert gap["between"]["n10"] == int(((one.correct == 1) & (two.correct == 0)).sum())
    assert gap["between"]["n01"] == int(((one.correct == 0) & (two.correct == 1)).sum())
    assert gap["between"]["net_change_high"] < 0
    again = make_run(tmp_path / "y" / "mild", [Probe("facts", probe.items[:150])], lose=0.2)
    data = report_data([mild, again])
    assert [run["name"] for run in data["runs"]] == ["x/mild", "y/mild"]
    (gap,) = data["differences"][0]["probes"]
    assert (gap["paired"], gap["between"]) == (False, None), "other items: not paired"
    assert gap["low"] < gap["high"]


@pytest.mark.parametrize("runs, per_run", [(3, 2), (4, 1)])
def test_of_many_runs_the_page_begins_with_the_worst_probe_of_each(tmp_path, runs, per_run):
    probes = [make_probe(n_items=40), make_probe("other", 40)]
    made = [make_run(tmp_path / f"run-{i}", probes, steps=(0, 10), seed=i, again=False) for i in range(runs)]
    text = write_report(made, tmp_path / "page.html").read_text(encoding="utf-8")
    named = re.findall(r'class="verdict[^>]* data-run="(\d)" data-probe="(\w+)"', text)
    assert [int(place) for place, _ in named] == [i for i in range(runs) for _ in range(per_run)]
    for store, (_, name) in zip(made, named[::per_run]):
        history = store.history()
        lost = {probe.name: history.select(probe.name)[-1].transitions.knowledge_lost for probe in probes}
        assert name == max(lost, key=lost.__getitem__)


def test_the_interval_of_a_difference_is_newcombes_for_two_groups():
    low, high = mover_difference(48 / 80, wilson(48, 80), 56 / 70, wilson(56, 70), 0.0)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)  # Newcombe 1998, table II, method 10


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    n, hits, widths = 300, 0, []
    for _ in range(400):
        shared = rng.random(n) < 0.08  # lost in both runs: what both have in common
        x, y = (shared | (rng.random(n) < p) for p in (0.03, 0.07))
        ends = [wilson(int(one.sum()), n) for one in (x, y)]
        low, high = mover_difference(x.mean(), ends[0], y.mean(), ends[1], correlation(x, y))
        hits += low <= 0.92 * 0.04 <= high
        widths.append(high - low)
    assert 0.92 <= hits / 400 <= 0.985
    free = mover_difference(0.11, wilson(33, n), 0.15, wilson(45, n), 0.0)
    assert np.mean(widths) < 0.8 * (free.high - free.low), "pairing makes it narrower"
    assert np.isnan(mover_difference(np.nan, Interval(0, 1), 0.1, Interval(0, 1), 0.0).low)


def test_stages_stand_one_behind_the_other(tmp_path):
    probe = make_probe()
    first = make_run(tmp_path / "sft", [probe])
    base = make_snapshots(probe)[:1]
    second = make_run(tmp_path / "grpo", [probe], stage=(2, 480.0), baseline=base, seed=3)
    data = report_data([second, first])
    assert data["pipeline"], "the manifests say so"
    assert [run["name"] for run in data["runs"]] == ["sft", "grpo"]
    assert [run["stage"]["samples_before"] for run in data["runs"]] == [0.0, 480.0]
    later = data["runs"][1]
    assert later["other_baseline"] and later["probes"][0]["path"]["columns"] == 5
    answers = read_back(probe, data["items"][later["probes"][0]["items"]], later["probes"][0]["path"])
    assert [row[0][0] for row in answers] == [outcome or "not scored" for outcome in base[0].outcome]
    assert later["probes"][0]["series"][""]["n10"] == [
        int(((base[0].correct == 1) & (now.correct == 0)).sum()) for now in make_snapshots(probe, seed=3)
    ]
    assert not report_data([second, first], stages=False)["pipeline"]
    plain = [make_run(tmp_path / name, [probe]) for name in ("one", "two", "three")]
    assert not report_data(plain)["pipeline"]
    told = report_data(plain, stages=True)
    assert [run["stage"]["samples_before"] for run in told["runs"]] == [0.0, 480.0, 960.0]


def test_one_snapshot_and_unscored_and_uncounted_runs(tmp_path):
    one = make_run(tmp_path / "one", steps=(0,), again=False, samples=0)
    (run,) = report_data([one])["runs"]
    assert run["probes"][0]["headline"]["verdict"] == "baseline"
    assert run["axes"]["samples"] == [0.0], "nothing was trained before the first step"
    assert run["probes"][0]["flips"] is None
    probe = make_probe("silent", 8, categories=0)
    store = Store(tmp_path / "silent")
    store.begin([probe])
    for step in (0, 5):
        store.write(Snapshot("silent", probe.fingerprint, step, probe.ids, np.full(8, np.nan)))
    (run,) = report_data([store])["runs"]
    own = run["probes"][0]
    assert own["headline"]["verdict"] == "unclear"
    assert own["series"][""]["n"] == [0, 0]
    assert "forgetting" not in own["series"][""], "no number is no 0"
    assert run["axes"]["samples"] == [0.0, None]
    assert {TRAJECTORIES[f] for f in vector(own["path"]["trajectory"], "u1")} == {"not scored"}
    for directory in ("one", "silent"):
        write_report([tmp_path / directory], tmp_path / f"{directory}.html")


def test_the_largest_loss_comes_first_and_the_pool_last():
    worlds = {name: World(n=200, seed=i) for i, name in enumerate(("some", "most", "silent"))}
    before = {name: world.snapshot(name) for name, world in worlds.items()}
    after = {name: worlds[name].train(lost=lost).snapshot(name) for name, lost in (("some", 0.1), ("most", 0.3))}
    after["silent"] = replace(before["silent"], correct=np.full(200, np.nan), outcome=np.full(200, None))
    rows = [row for row in compare_checkpoints(before, after) if not row.category]
    assert [one.probe for one in worst_first([headline(row) for row in rows])] == ["most", "some", "silent", "all"]


def test_the_page_says_how_much_that_is_no_longer_recalled_is_still_known(tmp_path):
    n, facts = 100, [f"fact {i}" for i in range(100)]
    choices = [MultipleChoice(f"c{i}", f"Q{i}", OPTIONS, i % 4, fact=fact) for i, fact in enumerate(facts)]
    probes = [
        Probe("choices", choices),
        Probe("recalled", [Recall(f"r{i}", f"P{i}", f" {i}", fact=fact) for i, fact in enumerate(facts)]),
    ]
    store = Store(tmp_path)
    store.begin(probes)
    for step in (0, 5):
        choice = np.where((np.arange(n) < 10) & (step > 0), (probes[0].answer + 1) % 4, probes[0].answer)
        right, recall = (choice == probes[0].answer) * 1.0, (np.arange(n) >= 40 * (step > 0)) * 1.0
        store.write(
            complete(Snapshot("choices", probes[0].fingerprint, step, probes[0].ids, right, choice=choice), probes[0])
        )
        store.write(complete(Snapshot("recalled", probes[1].fingerprint, step, probes[1].ids, recall), probes[1]))
    text = write_report(store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "all probes: 40.0% no longer recalled, 75% of them still chosen right in this prompt" in text


def test_significant_categories_are_marked_checkpoint_by_checkpoint(tmp_path):
    store = make_run(tmp_path / "run", [make_probe("facts", 400, kinds=("choice",), variants=True)], lose=0.6)
    own = report_data([store])["runs"][0]["probes"][0]
    history = store.history()
    for t, step in enumerate((0, 10, 20, 30)):
        found = {row.category for row in significant_categories([r for r in history.rows if r.step == step])}
        assert {name for name, marks in own["significant"].items() if marks[t]} == found
    assert found and not any(marks[0] for marks in own["significant"].values())


def test_items_carry_their_further_prompts_and_the_answers_to_them(tmp_path):
    probe = make_probe("facts", 80, variants=True)
    taken = make_snapshots(probe)
    store = make_run(tmp_path / "run", [probe])
    data = report_data([store])
    own = data["runs"][0]["probes"][0]
    items, packed = data["items"][own["items"]], own["path"]["variants"]
    for item, texts in zip(probe.items, items["variants"], strict=True):
        assert [one["prompt"] for one in texts] == [variant.prompt for variant in item.variants]
        if item.variants:
            assert texts[0]["choices"] == [item.choices[i] for i in (1, 0, 3, 2)]
    asked = taken[0].further[0].asked
    assert vector(packed["asked"], "u1").tolist() == (1 + asked).tolist()
    assert [side["column"] for side in packed["sides"]] == [0, 3]
    for side, now in zip(packed["sides"], (taken[0], taken[-1])):
        (answers,), second = side["answers"], now.further[0]
        choice, state = vector(answers["choice"], "<i2"), vector(answers["state"], "u1")
        assert choice[asked].tolist() == second.choice[asked].tolist()
        assert [STATES[code] for code in state] == [outcome or "not scored" for outcome in second.outcome]
        right = (now.correct == 1).astype(int) + (second.correct == 1)
        assert vector(side["right"], "u1").tolist() == right.tolist()


def test_the_command_writes_the_page_and_says_where(tmp_path, run_cli):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=5)
    out = tmp_path / "pages" / "both.html"
    assert run_cli("report", tmp_path / "a", tmp_path / "b", "--out", out) == (0, f"{out}\n", "")
    assert [run["name"] for run in page_data(out)["runs"]] == ["a", "b"]
    before = out.read_bytes()
    code, _, _ = run_cli("report", tmp_path / "a", tmp_path / "nowhere", "--out", out)
    assert code == 2 and out.read_bytes() == before, "an error leaves the old page alone"
    assert run_cli("report", tmp_path / "a", tmp_path / "b", "--out", out, "--stages")[0] == 0
    assert page_data(out)["pipeline"]


def test_errors_of_the_command_are_short_and_exit_with_2(tmp_path, run_cli):
    empty = Store(tmp_path / "empty")
    empty.begin([make_probe()])
    make_run(tmp_path / "run")
    folder = tmp_path / "folder"
    folder.mkdir()
    for run, message in (
        ("nowhere", "nowhere is not a run"),
        (tmp_path / "empty", "nothing to report yet"),
        (f"{tmp_path / 'run'}@10", "leave @10 out"),
    ):
        code, out, err = run_cli("report", run, "--out", tmp_path / "r.html")
        assert (code, out) == (2, "")
        assert message in err
        assert err.startswith("error: ") and len(err.strip().splitlines()) <= 2
        assert not (tmp_path / "r.html").exists()
    code, _, err = run_cli("report", tmp_path / "run", "--out", folder)
    assert code == 2 and "Traceback" not in err
    assert run_cli("report")[0] == 2


def test_the_csv_columns_are_the_history(tmp_path):
    store = make_run(tmp_path / "run")
    store.history().table.to_csv(tmp_path / "h.csv", index=False)
    with open(tmp_path / "h.csv", newline="") as file:
        header = next(csv.reader(file))
    data = report_data([store])
    assert data["columns"] == header
    assert data["runs"][0]["order"] == [["facts", c] for c in ("", "topic-0", "topic-1", "topic-2", "topic-3")]


def test_the_tasks_metrics_and_the_training_stand_beside_what_was_forgotten(tmp_path):
    store = make_run(tmp_path / "sft", steps=(0, 10, 20))
    store.write_training(Training("org/small", trainer="SFTTrainer", data="quiz", rows=300, learning_rate=3e-4))
    many = {step: 1 / step for step in range(1, 1001)}
    log_task(store, loss=many, eval_loss={10: 2.0, 20: 1.0, 30: math.nan})
    run = page_data(write_report(tmp_path / "sft", tmp_path / "page.html"))["runs"][0]
    assert run["task"]["metric"] == "eval_loss" and list(run["task"]["metrics"]) == ["loss", "eval_loss"]
    evaluation, loss = run["task"]["metrics"]["eval_loss"], run["task"]["metrics"]["loss"]
    assert evaluation["samples"] == [160, 320, 480] and evaluation["values"] == [2.0, 1.0, None]
    assert evaluation["at"] == [None, 2.0, 1.0] and loss["at"] == [None, 1 / 10, 1 / 20]
    assert loss["steps"][0] == 1 and loss["steps"][-1] == 1000 and len(loss["steps"]) == 400
    assert all(value == 1 / step for step, value in zip(loss["steps"], loss["values"]))
    assert run["training"]["sentence"] == "org/small, SFTTrainer on quiz (300 rows), learning rate 3e-4"
    assert ["learning rate", "3e-4"] in run["training"]["described"]
    assert run["training"]["sentence"] in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_run_without_them_has_neither(tmp_path):
    make_run(tmp_path / "sft")
    data = page_data(write_report(tmp_path / "sft", tmp_path / "page.html"))
    assert data["runs"][0]["task"] == {"metric": None, "metrics": {}}
    assert data["runs"][0]["training"] == {"sentence": "", "described": []}
    assert '"note trained"' not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_of_two_runs_the_page_says_in_what_their_trainings_differ(tmp_path):
    for name, rate in (("a", 3e-4), ("b", 1e-5)):
        make_run(tmp_path / name).write_training(Training("org/<small>", learning_rate=rate, batch_size=4))
    page = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    assert page_data(page)["trainings"] == {
        "differ": [["learning rate", ["3e-4", "1e-5"]]],
        "same": [["model", "org/<small>"], ["samples a step", "4"]],
    }
    text = page.read_text(encoding="utf-8")
    assert text.index("learning rate <b>3e-4</b>") < text.index("learning rate <b>1e-5</b>")
    assert "Same in all runs: model org/&lt;small&gt; · samples a step 4" in text


def test_a_damaged_log_of_the_task_is_an_error_of_the_report(tmp_path):
    store = make_run(tmp_path / "sft")
    (store.path / "task.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"task\.parquet is damaged"):
        write_report(tmp_path / "sft", tmp_path / "page.html")


def test_the_page_says_of_each_run_in_which_ways_its_record_is_not_whole(tmp_path):
    made = {name: make_run(tmp_path / name) for name in ("cut", "whole", "late")}
    made["cut"].set_run(status="training", planned_steps=60)
    made["whole"].set_run(status="ended", planned_steps=30, steps=30)
    made["late"].set_run(status="ended", planned_steps=45, steps=45)
    cut = "training has not ended: its last snapshot is of step 30 of 60 planned"
    late = "the model was trained to step 45 and last measured at step 30"
    for names, said in (
        (["cut"], [("cut", cut)]),
        (["whole"], []),
        (["whole", "cut", "late"], [("cut", cut), ("late", late)]),
    ):
        page = write_report([made[name] for name in names], tmp_path / "page.html")
        shown = re.search(r'<section id="verdict".*?</section>', page.read_text(encoding="utf-8"), re.DOTALL)[0]
        parts = [shown] if len(names) == 1 else re.split(r'<h2 class="run-title">', shown)[1:]
        found = [
            (name, html.unescape(text))
            for name, part in zip(names, parts, strict=True)
            for text in re.findall(r"<b>Not a whole run:</b> (.*?)</p>", part)
        ]
        assert found == said
        assert all(part.startswith(name) for name, part in zip(names, parts) if len(names) > 1), "runs are named"
        assert [run["incomplete"] for run in page_data(page)["runs"]] == [
            [text for name, text in said if name == own] for own in names
        ]
