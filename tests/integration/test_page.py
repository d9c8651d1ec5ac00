"""The report in a browser: what a reader sees and clicks, in Debian's Chromium."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot, Store
from forget_callback.report import report_data, write_report
from forget_callback.snapshots.answers import Answers
from tests.pages import DESK, PHONE, see, until
from tests.recorded import log_task, make_probe, make_run, make_snapshots

pytestmark = pytest.mark.in_turn(0)

FORMULA = "=HYPERLINK(0)"
HOSTILE = "<b>bold</b></script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'> &amp; %{x} $x^2$"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with two probes, and its page."""
    directory = tmp_path_factory.mktemp("page") / "sft"
    probes = [make_probe("mixed", 120), make_probe("words", 40, kinds=("recall",), categories=0)]
    make_run(directory, probes, steps=tuple(range(0, 80, 10)))
    return directory, write_report(directory, directory / "report.html")


def chart(page, id):
    """The traces that plotly has drawn."""
    until(page, f"document.querySelector('#{id}')?.data !== undefined")
    return page.evaluate(
        f"""(() => {{ const c = document.querySelector('#{id}');
        return {{traces: c.data.map(t => ({{name: t.name, x: Array.from(t.x ?? []), y: Array.from(t.y ?? []),
        text: t.hovertext, mode: t.mode}})), x: c.layout.xaxis, y: c.layout.yaxis}}; }})()"""
    )


def curve(page):
    return next(t for t in chart(page, "curve-chart")["traces"] if t["mode"] == "lines+markers")


def percent(value):
    return f"{100 * value:.1f}%".replace("-", "−")


@pytest.mark.every_day
def test_the_numbers_of_the_page_are_those_of_compare(show, run, run_cli):
    directory, file = run
    page = show(file)
    status, printed, err = run_cli("compare", directory, directory, "--format", "json")
    assert status == 0, err
    numbers = json.loads(printed)
    first = page.locator(".verdict").first
    worst = "mixed"  # knowledge comes before what open-ended items show
    assert first.locator(".probe-name").inner_text().startswith(worst)
    for end in ("", "_low", "_high", "_range_low", "_range_high"):
        assert percent(numbers["probes"][worst][f"knowledge_lost{end}"]).rstrip("%") in first.inner_text()
    assert percent(numbers["probes"][worst]["knowledge_lost"]) in page.locator("#loss-tiles").inner_text()
    for probe in numbers["probes"]:
        page.locator("#switches").get_by_text(probe, exact=True).click()
        own = numbers["probes"][probe]
        assert curve(page)["y"][-1] == own["knowledge_lost"]
        see(page, "flow")
        counts = page.locator("#flow-counts button").all_inner_texts()
        for text, name in zip(counts, ("n11", "n10", "n01", "n00"), strict=True):
            assert f"{own[name]} item" in text and percent(own[name] / own["n"]) in text
        see(page, "category-numbers")
        rows = page.locator("#category-table tbody tr").all_inner_texts()
        for name, values in {"whole probe": own, **own["categories"]}.items():
            row = next(row for row in rows if re.match(rf"{name}( \(no longer answered\))?\t", row))
            # An estimate below 0 is kept, and shown as none.
            shown = [
                percent(max(values[m], 0))
                for m in ("accuracy_before", "accuracy_after", "forgetting", "knowledge_lost")
            ]
            assert all(number in row for number in shown), (row, shown)
    see(page, "downloads")
    with page.expect_download() as got:
        page.locator("#save-json").click()
    assert got.value.path().read_text(encoding="utf-8") == printed
    with page.expect_download() as got:
        page.locator("#save-csv").click()
    assert got.value.suggested_filename == "sft.csv"
    text = got.value.path().read_text(encoding="utf-8")
    saved, table = pd.read_csv(io.StringIO(text), keep_default_na=True), Store(directory).history().table
    assert next(csv.reader(io.StringIO(text))) == list(table.columns)
    saved["category"] = saved["category"].fillna("")
    for name in table.columns:
        if table[name].dtype.kind in "if":
            np.testing.assert_array_equal(saved[name].astype(float), table[name].astype(float))
        else:
            assert saved[name].tolist() == table[name].tolist()


def test_curves_change_metric_axis_categories_and_fit(show, tmp_path):
    directory = tmp_path / "sft"
    make_run(directory, [make_probe("mixed", 150, kinds=("choice",))], steps=tuple(range(0, 80, 10)), lose=0.8)
    page = show(write_report(directory, directory / "report.html"))
    table = Store(directory).history().table
    own = table[table["probe"] == "mixed"]
    whole = own[own["category"] == ""]
    assert curve(page)["x"] == whole["samples_seen"].tolist()
    metric, axis = page.get_by_label("Metric").first, page.get_by_label("Over", exact=True)
    for name in ("forgetting", "forgetting_adjusted", "backward_transfer", "knowledge_lost"):
        metric.select_option(name)
        until(page, "document.querySelector('#curve-chart').layout.yaxis.title.text.length > 0")
        assert curve(page)["y"] == whole[name].tolist(), name
    axis.select_option("tokens")
    until(page, "document.querySelector('#curve-chart').layout.xaxis.title.text === 'tokens seen'")
    assert curve(page)["x"] == whole["tokens_seen"].tolist()
    assert "choose that axis" in page.locator("#curve-note").inner_text()
    axis.select_option("steps")
    until(page, "document.querySelector('#curve-chart').layout.xaxis.title.text === 'steps'")
    assert curve(page)["x"] == whole["step"].tolist()
    axis.select_option("samples")
    page.get_by_label("Log axis").check()
    until(page, "document.querySelector('#curve-chart').layout.xaxis.type === 'log'")
    assert curve(page)["x"] == whole["samples_seen"].tolist()[1:], "0 has no place on a log axis"
    page.get_by_label("Log axis").uncheck()
    until(page, "document.querySelector('#curve-chart').layout.xaxis.type === 'linear'")
    fitted = "Fit: " in page.locator("#curve-note").inner_text()
    assert fitted or "No fit: " in page.locator("#fit-note").text_content()
    page.get_by_label("Fit and forecast").uncheck()
    assert "Fit: " not in page.locator("#curve-note").inner_text()
    page.locator("#curve-categories").get_by_text("topic-1").click()
    until(page, "document.querySelector('#curve-chart').data.filter(t => t.mode === 'lines+markers').length === 2")
    page.locator("#curve-categories").get_by_text("whole probe").click()
    until(page, "document.querySelector('#curve-chart').data.filter(t => t.mode === 'lines+markers').length === 1")
    assert curve(page)["y"] == own[own["category"] == "topic-1"]["knowledge_lost"].tolist()
    metric.select_option("shares")
    until(page, "document.querySelector('#curve-chart').data.length === 4")
    shares = chart(page, "curve-chart")["traces"]
    np.testing.assert_allclose(np.sum([t["y"] for t in shares], axis=0), 1.0)
    page.locator("#curves summary").get_by_text("Numbers").click()
    until(page, f"document.querySelectorAll('#curve-table tbody tr').length === {len(whole)}")


def lower(page):
    """The panel of the task's metric: its curves, whether it shares the axis above it, and its heading."""
    return page.evaluate(
        """(() => { const c = document.querySelector('#curve-chart'); const l = c._fullLayout;
        return {curves: c.data.filter(t => t.yaxis === 'y2').map(t => [t.name, Array.from(t.x), Array.from(t.y)]),
        above: l.yaxis.domain, own: l.yaxis2?.domain, anchor: l.xaxis.anchor,
        heading: l.annotations.map(a => a.text), height: l.height}; })()"""
    )


def test_the_tasks_metric_stands_under_what_was_forgotten_over_the_same_axis(show, tmp_path):
    losses = {step: 3.0 / step for step in range(1, 71)}
    for name, scale in (("a", 1.0), ("b", 2.0)):
        store = make_run(tmp_path / name, [make_probe("facts", 60)], steps=tuple(range(0, 80, 10)))
        log_task(store, loss=losses, eval_loss={step: scale / step for step in range(10, 80, 20)})
    for size, scheme in ((DESK, "light"), (PHONE, "dark")):
        page = show(write_report(tmp_path / "a", tmp_path / "one.html"), viewport=size, color_scheme=scheme)
        assert curve(page)["y"], "what was forgotten comes first"
        found = lower(page)
        assert found["curves"] == [["a", [160, 480, 800, 1120], [0.1, 1 / 30, 0.02, 1 / 70]]]
        assert found["own"][0] == 0 and found["own"][1] < found["above"][0] and found["anchor"] == "y2"
        assert "<b>Evaluation loss</b>" in found["heading"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page = show(write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "two.html"))
    assert curve(page)["y"] and [name for name, *_ in lower(page)["curves"]] == ["a", "b"]
    page.get_by_label("Task metric", exact=True).select_option("loss")
    until(page, "document.querySelector('#curve-chart').data.some(t => t.meta === 'loss')")
    assert lower(page)["curves"][1][2] == pytest.approx(list(losses.values()))
    page.get_by_label("Over", exact=True).select_option("tokens")
    until(page, "document.querySelector('#curve-chart').layout.xaxis.title.text === 'tokens seen'")
    assert lower(page)["curves"][0][1][:2] == [100, 200]
    page.get_by_label("Task metric", exact=True).select_option("none")
    until(page, "!document.querySelector('#curve-chart').data.some(t => t.yaxis === 'y2')")
    assert lower(page)["above"] == [0, 1] and "trainer" not in page.locator("#curve-note").inner_text()


def test_without_a_metric_of_the_task_there_is_no_panel(show, run):
    page = show(run[1])
    assert curve(page)["y"] and lower(page)["curves"] == [] and lower(page)["above"] == [0, 1]
    assert page.get_by_label("Task metric", exact=True).count() == 0


def test_the_map_shows_every_category(show, run):
    directory, file = run
    page = show(file)
    page.locator("#switches").get_by_text("mixed", exact=True).click()
    see(page, "map")
    chart(page, "map-chart")
    table = Store(directory).history().table
    own = table[(table["probe"] == "mixed") & (table["category"] != "")]
    pale, sure = page.evaluate("document.querySelector('#map-chart').data.map(t => t.z.map(row => Array.from(row)))")
    scales = page.evaluate("document.querySelector('#map-chart').data.map(t => [t.zmin, t.zmax])")
    assert scales == [[-0.3, 0.3]] * 2, "the colours are those of every run"
    names = page.evaluate("document.querySelector('#map-chart').layout.yaxis.ticktext")
    assert sorted(names) == sorted(own["category"].unique())
    significant = report_data([directory])["runs"][0]["probes"][0]["significant"]
    for name, weak, strong in zip(names, pale, sure):
        values = own[own["category"] == name]["knowledge_lost"].tolist()
        for value, at, noise, loss in zip(values, significant[name], weak, strong, strict=True):
            assert (loss if at else noise) == value and (noise if at else loss) is None
    page.locator("#switches").get_by_text("words", exact=True).click()
    see(page, "map")
    assert "no categories" in page.locator("#map-chart").inner_text()


def test_what_a_few_items_cannot_show_is_said_and_not_drawn(show, tmp_path):
    store = make_run(tmp_path / "few", [make_probe("facts", 10, kinds=("choice",), categories=7)])
    page = show(write_report(store, tmp_path / "few.html"))
    fit = page.get_by_label("Fit and forecast")
    assert fit.is_disabled() and not fit.is_checked()
    fit_note = page.locator("#curve-fit summary")
    assert fit_note.inner_text() == "Why no curve is fitted"
    page.locator("#curve-categories").get_by_text("topic-1").click()
    until(page, "document.querySelector('#curve-chart').data.filter(t => t.mode === 'lines+markers').length === 2")
    assert "see its fit" not in page.locator("#curve-note").inner_text(), "no category has one"
    see(page, "map")
    assert "no category has 30" in page.locator("#map-chart").inner_text()
    assert page.evaluate("document.querySelector('#map-chart').data === undefined")
    assert page.locator("#map-note").inner_text() == ""
    page.locator("#map-controls select").select_option("accuracy_after")
    assert len(chart(page, "map-chart")["traces"]) == 1, "raw answers are still there for who asks"
    note = see(page, "category-numbers").locator(".note").inner_text()
    assert note.startswith("No category's loss is significant (Holm-corrected") and "●" not in note


def test_significant_losses_have_their_legend_and_a_map_without_change_says_so(show, tmp_path):
    store = make_run(tmp_path / "lost", [make_probe("facts", 120, kinds=("choice",), categories=2)], lose=1.0)
    page = show(write_report(store, tmp_path / "lost.html"))
    assert any(any(found) for found in report_data([store])["runs"][0]["probes"][0]["significant"].values())
    see(page, "map")
    chart(page, "map-chart")
    assert "significant losses (Holm" in page.locator("#map-note").inner_text()
    assert see(page, "category-numbers").locator(".note").inner_text().startswith("●: significant loss")
    probe = make_probe("facts", 10, kinds=("choice",))
    store = Store(tmp_path / "same")
    store.begin([probe])
    for step in (0, 5):
        given = {"category": [item.category for item in probe.items], "n_choices": probe.n_choices}
        store.write(
            Snapshot(
                "facts",
                probe.fingerprint,
                step,
                probe.ids,
                np.ones(10),
                choice=probe.answer,
                answer=probe.answer,
                **given,
            )
        )
    page = show(write_report(store, tmp_path / "same.html"))
    see(page, "map")
    page.locator("#map-controls select").select_option("forgetting")
    until(page, "document.querySelector('#map-chart').innerText.includes('0% in every category')")


def ids(page):
    return page.locator("#item-table tbody .open").all_inner_texts()


@pytest.mark.every_day
def test_items_are_searched_filtered_sorted_and_show_their_details(show, run):
    page = show(run[1])
    page.locator("#switches").get_by_text("mixed", exact=True).click()
    probe = make_probe("mixed", 120)
    taken = make_snapshots(probe, tuple(range(0, 80, 10)))
    first, last = taken[0], taken[-1]
    see(page, "items")
    assert page.locator("#item-count").inner_text() == "120 items"
    page.get_by_label("Search items").fill("QUESTION 2")
    expected = set()
    for i, item in enumerate(probe.items):
        answers = [now.prediction[i] or "" for now in taken]
        text = " ".join([item.id, item.prompt, *answers]).lower()
        if "question" in text and "2" in text:
            expected.add(item.id)
    until(page, f"document.querySelectorAll('#item-table .open').length === {len(expected)}")
    assert set(ids(page)) == expected
    page.locator("#item-clear").click()
    page.get_by_label("Category", exact=True).last.select_option("topic-3")
    assert page.locator("#item-count").inner_text() == "30 of 120 items"
    page.get_by_label("Trajectory").select_option("1→0")
    lost = (first.correct == 1) & (last.correct == 0)
    expected = {str(i) for i, gone, item in zip(probe.ids, lost, probe.items) if gone and item.category == "topic-3"}
    assert expected and set(ids(page)) == expected
    page.locator("#item-clear").click()
    page.locator("#flow-counts button").nth(1).click()
    assert page.locator("#item-count").inner_text() == f"{int(lost.sum())} of 120 items"
    page.locator("#item-clear").click()
    page.locator('#item-table [data-sort="margin"]').click()
    margins = dict(zip(probe.ids, last.margin))
    shown = [margins[name] for name in ids(page)]
    assert np.diff(np.round(shown, 2)).min() >= 0
    assert shown[0] == pytest.approx(np.nanmin(last.margin))
    page.locator("#item-pager button").last.click()
    assert len(set(ids(page))) == 25
    changed = [  # a choice that was lost, with the answers that it went through
        (i, [now.choice[i] for now in taken])
        for i, item in enumerate(probe.items)
        if item.kind == "multiple_choice" and lost[i]
    ]
    at, path = max(changed, key=lambda one: len(set(one[1])))
    item = probe.items[at]
    page.get_by_label("Search items").fill(item.prompt)
    page.locator(f'#item-table tr[data-item="{item.id}"]').click()
    detail = page.locator("#detail")
    assert detail.locator("h2").inner_text() == item.id
    assert detail.locator("pre").first.inner_text() == item.prompt
    assert item.choices[item.answer].strip() in detail.locator("li.answer").inner_text()
    rows = [row.split("\t") for row in detail.locator("tbody tr").all_inner_texts()]
    turns = [
        t for t in range(8) if t == 0 or (path[t], taken[t].outcome[at]) != (path[t - 1], taken[t - 1].outcome[at])
    ]
    assert len(rows) == len(turns)
    for row, t in zip(rows, turns):
        assert f"step {10 * t}" in row[0]
        assert row[1].strip() == {"correct": "right", None: "not scored"}.get(
            taken[t].outcome[at], taken[t].outcome[at]
        )
        assert row[2].strip() == item.choices[path[t]].strip()
        assert row[3].replace("−", "-").strip() == f"{taken[t].margin[at]:.2f}"
    page.keyboard.press("Escape")
    detail.wait_for(state="hidden")


def test_the_grid_shows_states_and_opens_details_by_mouse_and_keys(show, run):
    page = show(run[1])
    page.locator("#switches").get_by_text("mixed", exact=True).click()
    see(page, "items")
    grid = page.locator("#grid-canvas")
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 1)
    tip = page.locator("#tip")
    top = tip.locator("b").inner_text()
    assert "step 70" in tip.inner_text() and "wrong" in tip.inner_text()
    assert top == ids(page)[0], "grid and table have one order"
    seen = page.evaluate(
        """(() => { const canvas = document.querySelector('#grid-canvas');
        const { data } = canvas.getContext('2d').getImageData(canvas.width - 3, 1, 1, 1);
        const wrong = getComputedStyle(document.documentElement).getPropertyValue('--wrong').trim();
        return wrong === '#' + [...data].slice(0, 3).map((v) => v.toString(16).padStart(2, '0')).join(''); })()"""
    )
    assert seen, "the colour of a wrong answer"
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + 1)
    assert page.locator("#detail h2").inner_text() == top
    page.keyboard.press("Escape")
    page.locator("#grid-controls").get_by_text("Row by row").click()
    page.locator("#grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    second = tip.locator("b").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#detail h2").inner_text() == second == ids(page)[1]


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A run directory whose choice items have a second prompt, and its page."""
    directory = tmp_path_factory.mktemp("varied") / "sft"
    make_run(directory, [make_probe("mixed", 240, variants=True)], lose=0.6)
    return directory, write_report(directory, directory / "report.html")


def test_items_show_their_answers_in_each_variant(show, varied):
    page = show(varied[1])
    probe = make_probe("mixed", 240, variants=True)
    taken = make_snapshots(probe, lose=0.6)
    (before, now), second = (taken[0], taken[-1]), [one.further[0] for one in (taken[0], taken[-1])]
    right = [(one.correct == 1).astype(int) + (two.correct == 1) for one, two in zip((before, now), second)]
    asked = second[0].asked
    see(page, "items")
    everywhere = asked & (right[0] == 2) & (right[1] == 0)
    page.get_by_label("Trajectory").select_option("lost in all")
    assert page.locator("#item-count").inner_text() == f"{int(everywhere.sum())} of 240 items"
    page.get_by_label("Trajectory").select_option("lost in this prompt alone")
    alone = asked & (before.correct == 1) & (now.correct == 0) & ~everywhere
    assert page.locator("#item-count").inner_text() == f"{int(alone.sum())} of 240 items"
    at = int(np.flatnonzero(alone & (second[1].correct == 1))[0])
    item = probe.items[at]
    page.get_by_label("Search items").fill(item.prompt)
    row = page.locator(f'#item-table tr[data-item="{item.id}"]')
    assert "right in 2 → 1 of 2" in row.inner_text()
    row.click()
    detail = page.locator("#detail")
    assert item.variants[0].prompt in [text.strip() for text in detail.locator("pre").all_inner_texts()]
    first, further = (
        detail.locator(".variant .asked").all_inner_texts()[0],
        detail.locator(".variant").last.inner_text(),
    )
    assert "right" in first and f"wrong “{item.choices[now.choice[at]].strip()}”" in first
    assert f"step 30: right “{item.choices[item.answer].strip()}”" in further
    shown = " · ".join(item.choices[i].strip() for i in (1, 0, 3, 2))
    assert f"options: {shown}" in further


@pytest.mark.every_day
def test_a_prompt_that_the_last_checkpoint_skipped_is_not_counted_as_wrong(tmp_path, show):
    items = [MultipleChoice(f"{i}", f"Is {i}?", [" a", " b", " c"], 0, variants=[f"{i}, say?"]) for i in range(3)]
    probe, store = Probe("p", items), Store(tmp_path)
    store.begin([probe])
    for step, first, skipped in ((0, [1.0, 1.0, 0.0], False), (4, [1.0, 0.0, 0.0], np.array([True, False, True]))):
        second = Answers(
            probe.variant_fingerprints[0], np.where(skipped, np.nan, first), skipped=skipped & np.ones(3, bool)
        )
        taken = Snapshot("p", probe.fingerprint, step, probe.ids, first, further=[second], samples_seen=8.0 * step)
        store.write(taken)
    page = show(write_report(tmp_path, tmp_path / "report.html"))
    see(page, "items")
    rows = [page.locator(f'#item-table tr[data-item="{i}"]').inner_text() for i in range(3)]
    assert "right in 2 of 2 → 1 of 1" in rows[0] and "right in 2 → 0 of 2" in rows[1]


def test_knowledge_form_and_access_stand_apart(show, varied):
    directory, file = varied
    page = show(file)
    last = Store(directory).history().table.query("category == ''").iloc[-1]
    tiles = dict(text.split("\n", 1) for text in page.locator("#loss-tiles .tile").all_inner_texts())
    for title, metric in (
        ("Lost", "knowledge_lost"),
        ("Gained", "knowledge_gained"),
        ("Lost in this prompt alone", "spurious_forgetting"),
        ("Forgetting (1→0)", "forgetting"),
        ("Backward transfer (0→1)", "backward_transfer"),
    ):
        assert tiles[title].startswith(percent(last[metric])), title
    assert f"to {percent(last['knowledge_lost_range_high'])}" in tiles["Lost"]


def test_light_and_dark(show, run):
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = show(run[1], color_scheme=scheme)
        ground = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(ground)
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == other
        assert page.evaluate(ground) != before
        text = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--muted').trim()")
        until(page, f"document.querySelector('#curve-chart').layout.font.color === '{text}'")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose every text is markup."""
    probe = Probe(
        "hostile",
        [MultipleChoice(f"{i}{HOSTILE}", HOSTILE, [HOSTILE, " b", " c"], 0, f"{HOSTILE} {i % 4}") for i in range(8)]
        + [Recall("r" + HOSTILE, HOSTILE, HOSTILE, FORMULA), Generation("g" + HOSTILE, HOSTILE, HOSTILE, "contains")],
    )
    store = Store(tmp_path_factory.mktemp("hostile") / "run<img src=x onerror='window.ran = 3'>")
    store.begin([probe])
    for step in range(8):
        correct = (np.arange(10) >= step).astype(float)
        choice = np.where(np.arange(10) < 8, np.where(correct == 1, 0, 1), -1)
        said = np.array([HOSTILE] * 10, object)
        columns = {
            "choice": choice,
            "prediction": said,
            "text": said,
            "n_choices": probe.n_choices,
            "answer": probe.answer,
        }
        metadata = {"model": HOSTILE}
        store.write(
            Snapshot(
                "hostile",
                probe.fingerprint,
                step,
                probe.ids,
                correct,
                **columns,
                samples_seen=8.0 * step,
                metadata=metadata,
            )
        )
    return write_report(store, store.path / "report.html")


@pytest.mark.every_day
def test_text_of_items_is_shown_as_text_and_runs_nothing(show, hostile):
    page = show(hostile)
    for section in ("curves", "map", "flow", "category-numbers", "items", "about"):
        see(page, section)
    page.locator("#map-controls select").select_option("accuracy_after")
    chart(page, "map-chart")
    page.locator("#curve-categories button").nth(1).click()
    page.locator("#curve-chart .nsewdrag").hover()
    assert HOSTILE in page.locator("#item-table tbody tr").first.inner_text()
    assert HOSTILE in page.locator("#category-table").inner_text()
    assert HOSTILE in page.locator("#facts").inner_text()
    drawn = page.locator("#map-chart .ytick text").all_text_contents()
    assert all(text.startswith(HOSTILE[:20]) or text == FORMULA for text in drawn), drawn
    legend = page.locator("#curve-chart .legendtext").all_text_contents()
    assert f"{HOSTILE} 0" in legend or any("<b>bold</b>" in text for text in legend), legend
    page.locator("#item-table tbody tr").first.click()
    assert HOSTILE in page.locator("#detail").inner_text()
    page.keyboard.press("Escape")
    grid = page.locator("#grid-canvas")
    grid.scroll_into_view_if_needed()
    grid.hover()
    assert "<img src=x onerror=" in page.locator("#tip").inner_text()
    page.locator("#map-chart").scroll_into_view_if_needed()
    page.locator("#map-chart .nsewdrag").hover()
    hover = page.locator("#map-chart .hoverlayer text").first
    hover.wait_for()
    assert "<b>bold</b>" in hover.text_content()
    assert page.evaluate("window.ran") is None
    assert page.locator("img, b:text-is('bold')").count() == 0
    assert page.evaluate("document.scripts.length") <= 4


def test_an_injected_handler_would_not_run(browser, run):
    page = browser.new_context().new_page()
    page.goto(run[1].as_uri())
    page.wait_for_selector("html[data-ready]")
    page.evaluate(
        """window.refused = [];
        document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
        document.body.insertAdjacentHTML("beforeend", `<img src=x onerror="window.ran = 1">`)"""
    )
    until(page, "refused.includes('script-src-attr')")
    assert page.evaluate("window.ran") is None, "the content security policy stops it"


def test_no_name_in_the_csv_is_a_formula(show, hostile):
    page = show(hostile)
    see(page, "downloads")
    with page.expect_download() as got:
        page.locator("#save-csv").click()
    names = pd.read_csv(got.value.path())["category"].dropna()
    assert "'" + FORMULA in set(names) and not names.str.match(r"[=+@\t\r-]").any()


@pytest.mark.parametrize("name", ["run", "hostile"])
def test_a_phone_never_scrolls_sideways(show, run, hostile, name):
    page = show({"run": run[1], "hostile": hostile}[name], viewport=PHONE)
    for section in ("curves", "map", "flow", "category-numbers", "items", "about", "downloads"):
        see(page, section)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, section
    page.locator("#item-table tbody tr").first.click()
    assert page.locator("#detail").bounding_box()["width"] <= 390
    assert page.evaluate(
        "document.querySelector('#detail').scrollWidth <= document.querySelector('#detail').clientWidth"
    )


def test_two_runs_and_stages(show, tmp_path):
    probe = make_probe("mixed", 200)
    mild = make_run(tmp_path / "mild", [probe], lose=0.1)
    hard = make_run(tmp_path / "hard", [probe], lose=0.7, seed=4)
    page = show(write_report([mild, hard], tmp_path / "two.html"))
    drawn = [t for t in chart(page, "curve-chart")["traces"] if t["mode"] == "lines+markers"]
    assert [t["name"] for t in drawn] == ["mild", "hard"]
    tables = [store.history().table for store in (mild, hard)]
    for trace, table in zip(drawn, tables):
        assert trace["y"] == table[table["category"] == ""]["knowledge_lost"].tolist()
    see(page, "runs")
    last = [table[table["category"] == ""].iloc[-1] for table in tables]
    rows = page.locator("#runs-table tbody tr").all_inner_texts()
    assert all(percent(one["knowledge_lost"]) in row for one, row in zip(last, rows))
    gap = page.locator("#differences-table tbody tr").inner_text()
    assert gap.startswith("hard minus mild")
    assert "+" + percent(last[1]["knowledge_lost"] - last[0]["knowledge_lost"]) in gap
    assert "lost more" in gap
    page.get_by_label("Run", exact=True).select_option("1")
    see(page, "flow")
    assert f"{last[1]['n10']} item" in page.locator("#flow-counts").inner_text()
    page = show(write_report([mild, hard], tmp_path / "stages.html", stages=True))
    second = [t for t in chart(page, "curve-chart")["traces"] if t["mode"] == "lines+markers"][1]
    assert second["x"] == [480 + seen for seen in tables[1][tables[1]["category"] == ""]["samples_seen"]]
    assert "all stages" in chart(page, "curve-chart")["x"]["title"]["text"]


def test_odd_runs_have_their_empty_states(show, tmp_path):
    one = make_run(tmp_path / "one", [make_probe("mixed", 30)], steps=(0,), again=False, samples=0)
    page = show(write_report(one, tmp_path / "one.html"))
    assert "only the baseline" in page.locator(".verdict").inner_text()
    beneath = page.locator("#curve-chart ~ *:visible").first
    assert "No fit" not in beneath.inner_text()
    assert not page.locator("#fit-note").is_visible()
    page.locator("#curve-fit summary").click()
    assert "No fit: " in page.locator("#fit-note").inner_text()
    see(page, "map")
    assert "one checkpoint" in page.locator("#map-chart").inner_text()
    probe = make_probe("talk", 12, kinds=("generation",), categories=0)
    store = Store(tmp_path / "silent")
    store.begin([probe])
    for step in (0, 5):
        store.write(Snapshot("talk", probe.fingerprint, step, probe.ids, np.full(12, np.nan)))
    page = show(write_report(store, tmp_path / "silent.html"))
    assert "nothing to compare" in page.locator(".verdict").inner_text()
    see(page, "flow")
    assert "No item was scored" in page.locator("#flow-chart").inner_text()
    see(page, "items")
    page.locator("#item-table tbody tr").first.click()
    assert "not scored" in page.locator("#detail").inner_text()
    page.keyboard.press("Escape")
    see(page, "about")
    assert "not recorded" in page.locator("#facts").inner_text()


@pytest.mark.parametrize("n", [1, 10])
def test_no_share_on_the_page_is_above_100_percent(show, tmp_path, n):
    """Of two options, all right before and all wrong now, twice as much as was there is lost less gained."""
    probe = Probe("pairs", [MultipleChoice(f"i{i}", f"{i}?", (" yes", " no"), i % 2, category="c") for i in range(n)])
    answer, store = np.arange(n) % 2, Store(tmp_path)
    store.begin([probe])
    for step, right in ((0, True), (5, False)):
        given = {
            "choice": answer if right else 1 - answer,
            "answer": answer,
            "n_choices": [2] * n,
            "category": ["c"] * n,
        }
        store.write(Snapshot("pairs", probe.fingerprint, step, probe.ids, np.full(n, float(right)), **given))
    page = show(write_report(store, tmp_path / "report.html"))
    for card in ("category-numbers", "map"):
        see(page, card)
    shares = [float(share) for share in re.findall(r"(\d+\.\d)(?=%|\]|, )", page.locator("main").inner_text())]
    assert 100.0 in shares and max(shares) == 100.0
    hover = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap((one) => one.data).map((one) => one.hovertext)"
    )
    assert "<b>100.0%</b>" in json.dumps(hover) and "200.0" not in json.dumps(hover)


def test_ten_thousand_items_and_fifty_checkpoints_open_at_once(browser, tmp_path, capsys):
    """Ten times the items open in less than ten times the time, and the table draws no more rows of them."""
    opened, drawn = {}, {}
    for n in (1_000, 10_000):
        probe = make_probe("big", n, kinds=("choice", "recall"), categories=12)
        make_run(tmp_path / f"{n}", [probe], steps=tuple(range(0, 500, 10)))
        file, times = write_report(tmp_path / f"{n}", tmp_path / f"{n}.html"), []
        for _ in range(3):
            page = browser.new_context(viewport=DESK).new_page()
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]")
            times.append(float(page.evaluate("document.documentElement.dataset.ready")) / 1000)
        opened[n] = min(times)
        page.locator("#items").scroll_into_view_if_needed()
        page.wait_for_selector("#item-table tbody tr")
        drawn[n] = page.locator("#item-table tbody tr").count()
    with capsys.disabled():
        size = file.stat().st_size / 1e6
        print(f"\n10,000 items x 50 checkpoints: {size:.1f} MB, opens in {opened[n]:.2f} s (of {times})")
    assert opened[10_000] < 10 * opened[1_000]
    assert 0 < drawn[10_000] == drawn[1_000] < 1_000
    assert page.locator("#item-count").inner_text() == "10,000 items"
    page.get_by_label("Search items").fill("Question 999")
    until(page, "document.querySelector('#item-count').textContent.includes(' of ')")
    found = sum("Question" in item.prompt and "999" in item.prompt for item in probe.items)
    assert page.locator("#item-count").inner_text() == f"{found} of 10,000 items"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_conversation_is_read_turn_by_turn(show, tmp_path, scheme):
    call = {"function": {"name": "look", "arguments": {"at": HOSTILE}}}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Look.\n{HOSTILE}"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": ""},
    ]
    tool = {"type": "function", "function": {"name": "look", "description": HOSTILE}}
    items = [
        Generation(f"g{i}", messages=[*talk, {"role": "user", "content": f"{i}?"}], tools=[tool], answer="no")
        for i in range(12)
    ]
    make_run(tmp_path / "run", [Probe("talks", items)])
    page = show(write_report(tmp_path / "run", tmp_path / "page.html"), color_scheme=scheme)
    page.locator("tr[data-item='g3']").click()
    turns = page.locator("#detail .turn")
    assert turns.locator("h4").all_inner_texts() == ["system", "user", "assistant", "tool", "user"]
    texts = turns.locator("pre").all_inner_texts()
    assert texts == [
        "Be brief.",
        f"Look.\n{HOSTILE}",
        f"look({json.dumps(call['function']['arguments'])})",
        "(empty)",
        "3?",
    ]
    page.locator("#detail .tools summary").click()
    assert json.loads(page.locator("#detail .tools pre").inner_text()) == tool
    assert page.evaluate("window.ran") is None
    for turn in range(5):  # every word stands out from what is behind it
        ink, paper = page.evaluate(
            f"""(() => {{ const pre = document.querySelectorAll('#detail .turn')[{turn}].querySelector('pre');
            const style = getComputedStyle(pre); return [style.color, style.backgroundColor]; }})()"""
        )
        assert ink != paper
