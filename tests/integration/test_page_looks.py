"""How the report looks in a browser: when it is loaded, on paper, on a phone, and what its table of items says."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot, Store
from forget_callback.report import write_report
from tests.pages import DESK, PHONE, see, until
from tests.recorded import make_probe, make_run, make_snapshots

pytestmark = pytest.mark.in_turn(1)

LONG = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft"
NAMES = (
    LONG,
    "中华人民共和国的历史与地理知识以及各省份的首都和人口统计数据的长长长长长长长长长长长的名字",
    "الجغرافيا_والتاريخ_" * 4,
    "snake_case_" * 8,
)


@pytest.fixture(scope="module")
def wordy(tmp_path_factory):
    """A page of a run with answers of each kind, whose probe, categories and ids have very long names."""
    long = "The answer is that it depends. " * 20
    items = [
        MultipleChoice(
            f"capitals/south-sudan/{i}/choice", f"Capital {i}?", [" the Blue Nile", " the White Nile"], 0, name
        )
        for i, name in enumerate(NAMES * 4)
    ]
    items += [
        Recall("elements/symbol/silicon-and-what-is-made-of-it/recall", "Its symbol is", [" Si", " silicon"], NAMES[0]),
        Recall("presidents/31st/recall", "The 31st president was", " Herbert Hoover", NAMES[0]),
        Generation("chat/river", "Name a river.", ["Nile", "the Nile"], "exact", NAMES[1]),
        Generation("chat/sum", "What is 20 + 22?", "42", "number", NAMES[1]),
        Generation("x" * 90, LONG, "Nile", "contains", NAMES[2]),
    ]
    said = [" Si", " Herbert Hoover", "the Nile", "42", "Nile"], [" a", " Herbert Hoo...", "the Danube", None, long]
    outcomes = ["correct"] * 5, ["wrong", "wrong", "wrong", "unparsed", "truncated"]
    probe = Probe(LONG, items)
    store = Store(tmp_path_factory.mktemp("wordy") / "run")
    store.begin([probe])
    for t in range(3):
        late = min(t, 1)
        right = np.array([1.0 - late * (i % 2) for i in range(16)] + [1.0 - late] * 5)
        choice = np.array([late * (i % 2) for i in range(16)] + [-1] * 5)
        answers = [items[i].choices[choice[i]] for i in range(16)] + said[late]
        outcome = ["correct" if one else "wrong" for one in right[:16]] + outcomes[late]
        text = [None] * 19 + (["20 and 22, so it is 42", long] if t == 0 else ["I am not sure.", long])
        columns = {"choice": choice, "prediction": np.array(answers, object), "text": np.array(text, object)}
        snapshot = Snapshot(LONG, probe.fingerprint, 10 * t, probe.ids, right, np.array(outcome, object), **columns)
        store.write(replace(snapshot, samples_seen=160.0 * t, answer=probe.answer, n_choices=probe.n_choices))
    return write_report(store, store.path / "report.html")


def test_the_right_answer_stands_beside_the_answer_now_with_its_wrong_part_marked(show, wordy):
    page = show(wordy)
    see(page, "items")
    heads = [text.split(" ↑")[0] for text in page.locator("#item-table th").all_inner_texts()]
    right, now = heads.index("right answer"), heads.index("answer now")
    assert now == right + 1

    def row(id):
        cells = page.locator(f'#item-table tr[data-item="{id}"] td')
        return cells.nth(right), cells.nth(now)

    for id, expected, answer, wrong in (
        ("capitals/south-sudan/1/choice", "the Blue Nile", "the White Nile", ["White"]),
        ("capitals/south-sudan/0/choice", "the Blue Nile", "the Blue Nile", []),
        ("elements/symbol/silicon-and-what-is-made-of-it/recall", "Si or silicon", "a", ["a"]),
        ("presidents/31st/recall", "Herbert Hoover", "Herbert Hoo...", ["Hoo..."]),
        ("chat/river", "Nile or the Nile", "the Danube", ["Danube"]),
        ("chat/sum", "42", "I am not sure. unparsed", []),
    ):
        wanted, given = row(id)
        assert (wanted.inner_text(), given.inner_text()) == (expected, answer), id
        assert given.locator("mark").all_inner_texts() == wrong, id
    _, given = row("x" * 90)
    assert given.locator("mark").inner_text() == "The"
    assert len(given.inner_text()) < 200 and "truncated" in given.inner_text()
    given.get_by_role("button", name="show all").focus()
    page.keyboard.press("Enter")
    assert given.inner_text().count("it depends") == 20
    assert not page.locator("#detail").is_visible(), "a button in a row is not the row"


def test_ids_break_between_words_only(show, wordy, run):
    for viewport in (DESK, PHONE):
        for file in (wordy, run):
            page = show(file, viewport=viewport)
            see(page, "items")
            broken = page.evaluate(
                """[...document.querySelectorAll('#item-table .open')].flatMap((button) => {
                const walker = document.createTreeWalker(button, NodeFilter.SHOW_TEXT), found = [];
                for (let node; (node = walker.nextNode()); ) for (const word of node.data.matchAll(/[^/_.:|-]+/g)) {
                  const range = document.createRange();
                  range.setStart(node, word.index);
                  range.setEnd(node, word.index + word[0].length);
                  if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(word[0]);
                }
                return found; })"""
            )
            assert broken == []
            assert page.locator("#item-table .open").count() > 10


def test_long_names_fit_a_phone_and_leave_the_numbers_in_sight(show, wordy):
    page = show(wordy, viewport=PHONE)
    for details in page.locator("details > summary:visible").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    outside = page.evaluate(
        """[...document.querySelectorAll('main td, main p, main h3, main button, .probe-name')].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width && (box.left < 0 || box.right > innerWidth); }).map((one) => one.textContent)"""
    )
    assert outside == []
    scrolled = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).map(one => one.id)"
    )
    assert scrolled == []
    cells = page.locator("#category-table tbody tr").nth(1).locator("td")
    assert all(cells.nth(i).is_visible() for i in range(cells.count()))
    plot = page.locator("#curve-chart .nsewdrag").bounding_box()
    assert plot["width"] > 200, "names leave the chart its room"
    page.locator("#map-controls select").select_option("accuracy_after")
    assert page.locator("#map-chart .nsewdrag").bounding_box()["width"] > 150
    for chip in page.locator("#curve-categories button").all()[1:]:
        chip.click()
    until(page, "document.querySelectorAll('#curve-chart .legend .traces').length === 5")
    chart, legend = (page.locator(f"#curve-chart {part}").bounding_box() for part in (".main-svg >> nth=0", ".legend"))
    assert legend["x"] + legend["width"] <= chart["x"] + chart["width"]
    assert page.locator("#curve-chart .nsewdrag").bounding_box()["height"] > 200, (
        "a long legend leaves the plot its room"
    )


CARDS = """[...document.querySelectorAll('main > section')].filter((one) => one.getClientRects().length).map((one) => {
  const chart = one.querySelector('.chart'), canvas = one.querySelector('canvas');
  const pixels = () => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const body = [...one.children].slice(1).map((part) => part.textContent).join('').trim();
  const drawn = !chart || chart.querySelector('.main-svg .trace, .main-svg .hm, .empty') !== null;
  return [one.id, body.length > 0 && drawn && (!canvas || new Set(pixels()).size > 3)]; })"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The page of a run of two probes."""
    directory = tmp_path_factory.mktemp("looks") / "sft"
    make_run(directory, [make_probe("mixed", 160), make_probe("words", 20, kinds=("recall",), categories=0)])
    return write_report(directory, directory / "report.html")


@pytest.mark.every_day
@pytest.mark.parametrize("name", ["run", "wordy"])
def test_every_card_is_drawn_when_the_page_is_loaded(browser, run, wordy, name):
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.add_init_script(f"addEventListener('load', () => {{ window.cards = {CARDS}; }})")
    page.goto({"run": run, "wordy": wordy}[name].as_uri(), wait_until="load")
    cards = dict(page.evaluate("window.cards"))
    assert {"curves", "map", "flow", "category-numbers", "items", "about"} <= set(cards)
    assert all(cards.values()), cards
    assert bool(page.locator("#map-chart .main-svg .hm").count()) == (name == "run"), "of 21 items no category has 30"


def test_a_page_in_a_sandbox_is_drawn_as_well(browser, run, tmp_path):
    outer, complaints = tmp_path / "outer.html", []
    outer.write_text(f'<iframe sandbox="allow-scripts" width="900" height="700" src="{run.as_uri()}"></iframe>')
    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(outer.as_uri())
    inner = page.frames[1]
    inner.wait_for_selector("html[data-ready]")
    assert all(dict(inner.evaluate(CARDS)).values())
    assert complaints == []


def test_a_page_that_is_printed_at_once_is_light_and_whole(browser, run):
    page = browser.new_context(viewport=DESK, color_scheme="dark").new_page()
    page.goto(run.as_uri())
    state = f"""({{ cards: {CARDS}, theme: document.documentElement.dataset.theme,
      ink: document.querySelector('#curve-chart').layout.font.color,
      closed: document.querySelectorAll('details:not([open])').length,
      chart: document.querySelector('#map-chart svg').clientWidth }})"""
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {state}; }})")
    before = page.evaluate(state)
    assert page.pdf(format="A4").startswith(b"%PDF")
    printed = page.evaluate("window.printed")
    assert all(drawn for _, drawn in printed["cards"])
    assert (before["theme"], printed["theme"]) == ("dark", "light")
    assert printed["ink"] != before["ink"] and printed["closed"] == 0
    assert printed["chart"] <= 703 < before["chart"], "as wide as A4 paper less its margins"
    until(page, f"JSON.stringify({state}) === {json.dumps(json.dumps(before, separators=(',', ':')))}")
    page.emulate_media(media="print")
    assert not page.locator("select:visible, input:visible, .bar:visible").count()
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every((one) => one.scrollWidth <= one.clientWidth)")


def test_headings_are_in_order_and_text_has_contrast(show, run):
    page = show(run)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    for theme in ("light", "dark"):
        if page.evaluate("document.documentElement.dataset.theme") != theme:
            page.locator("#theme").click()
        names = ("text", "muted", "faint", "accent", "lost", "gained", "page", "raised", "sunken")
        read = "name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()"
        colours = {name: page.evaluate(read, name) for name in names}
        for ink in names[:6]:
            for ground in ("page", "raised"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (theme, ink, ground)


def contrast(one, two):
    """Of two #rrggbb colours, by WCAG 2."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return np.dot(
            [0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        )

    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_checkpoints_that_asked_the_first_prompt_alone_are_in_the_curve_and_the_map(show, tmp_path):
    probe = make_probe("facts", 120, kinds=("choice",), variants=True)
    taken = make_snapshots(probe)
    store = Store(tmp_path)
    store.begin([probe])
    for t, snapshot in enumerate(taken):
        store.write(snapshot if t in (0, 3) else replace(snapshot, further=()))
    page = show(write_report(store, tmp_path / "report.html"))
    drawn = page.evaluate(
        """document.querySelector('#curve-chart').data.filter((one) => one.showlegend !== false)
        .map((one) => [one.name, [...one.x], [...one.y]])"""
    )
    rows = store.history().select("facts")
    lost = [row.numbers["knowledge_lost"] for row in rows]
    assert np.isnan(lost[1:3]).all(), "variants were asked at the ends only"
    assert [(x, y) for _, x, y in drawn] == [
        ([0, 160, 320, 480], [row.transitions.forgetting for row in rows]),
        ([0, 480], [lost[0], lost[3]]),
    ]
    assert "first prompt" in drawn[0][0]
    assert page.locator("#map-controls select").input_value() == "forgetting"
    page.locator("#map-controls select").select_option("knowledge_lost")
    assert page.locator("#map-controls select").input_value() == "knowledge_lost"


def test_a_run_that_was_cut_off_says_so_and_shows_what_it_measured(show, tmp_path):
    probe = make_probe("facts", 120, kinds=("choice",), variants=True)
    store = Store(tmp_path)
    store.begin([probe])
    for t, snapshot in enumerate(make_snapshots(probe)):
        store.write(snapshot if t == 0 else replace(snapshot, further=()))
    store.set_run(status="training", planned_steps=60)
    page = show(write_report(store, tmp_path / "report.html"))
    text = "training has not ended: its last snapshot is of step 30 of 60 planned"
    places = [page.locator(f"#{id}", has_text=text) for id in ("verdict", "warnings")]
    assert all(place.is_visible() for place in places)
    assert not page.get_by_text("No warnings.").count()
    warnings = page.locator("#warnings .advice").count()
    assert page.locator("#warning-count").inner_text().startswith(f"{warnings} warning")
    assert page.get_by_label("Metric", exact=True).first.input_value() == "forgetting"
    (curve,) = page.evaluate(
        "document.querySelector('#curve-chart').data.filter((one) => one.hoverinfo === 'text').map((one) => [...one.y])"
    )
    rows = store.history().select("facts")
    assert curve == [row.transitions.forgetting for row in rows]
    heads = page.locator("#category-table th").all_inner_texts()
    assert heads == ["category", "accuracy", "forgetting (1→0)", "backward transfer (0→1)", "items"]
    cells = page.locator("#category-table td:nth-child(3)").all_inner_texts()[1:]
    shares = [float(cell.rstrip("%")) for cell in cells]
    assert len(shares) == 4 and shares == sorted(shares, reverse=True), "most forgotten first"
    page.get_by_label("Metric", exact=True).first.select_option("knowledge_lost")
    assert page.get_by_label("Metric", exact=True).first.input_value() == "knowledge_lost", "who asks for it gets it"


@pytest.mark.parametrize("lose", [0.06, 0.3])
def test_an_interval_above_0_without_the_verdict_has_a_note_at_the_number(show, tmp_path, lose):
    probe = make_probe("facts", 400, kinds=("choice",), categories=2, variants=True)
    store = make_run(tmp_path, [probe], lose=lose, seed=8, steps=(0, 10))
    row = store.history().select("facts")[-1]
    assert row.numbers["knowledge_lost_low"] > 0
    claimed = row.transitions.verdict == "lost"
    assert claimed == (lose == 0.3)
    page = show(write_report(store, tmp_path / "report.html"))
    tiles = {text.split("\n")[0]: text for text in page.locator("#loss-tiles .tile").all_inner_texts()}
    assert ("not established" in tiles["Lost"]) is not claimed
    assert ("not established" in tiles["Share of what it knew"]) is not claimed
    assert "not established" not in tiles["Gained"] + tiles["Forgetting (1→0)"]
    whole = page.locator("#category-table tr.whole").inner_text()
    assert ("not established" in whole) is not claimed
