"""The page of a run that watches knowledge, behaviour and text: one headline, the table, documents and reasons."""

import html
import re

import numpy as np
import pytest

from forget_callback.report import write_report
from forget_callback.report.items import NO_BITS, TRAJECTORIES, worst_documents
from forget_callback.runs.comparison import overall
from forget_callback.runs.headline import headline
from forget_callback.tools.card import passport, section
from tests.recorded import make_mixed_run, page_data
from tests.report.test_report import vector


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """(store, path of the page)."""
    directory = tmp_path_factory.mktemp("mixed")
    store = make_mixed_run(directory / "run")
    return store, write_report(store, directory / "page.html")


def test_one_headline_stands_first_and_the_table_below_it(mixed):
    store, path = mixed
    text = html.unescape(path.read_text(encoding="utf-8"))
    (run,) = page_data(path)["runs"]
    rows = [row for row in passport(store, allow_incomplete=True).rows if row.step == 30]
    said = headline(overall(rows), among=rows)
    assert run["joint"]["sentence"] == said.sentence and run["joint"]["verdict"] == "lost"
    heads = re.findall(r'<span class="verdict-head">(.*?)</span>', text)
    assert heads[0] == said.sentence and said.sentence.startswith("lost in text: ")
    assert "lost in behaviour: json 27 of the 40 it did" in said.sentence
    assert not any("lost" in head for head in heads[1:]), "what was lost is said once"
    assert [probe["name"] for probe in run["probes"]] == ["text", "behaviour", "facts", "all"]
    table = text[text.index("<table") : text.index("</table>")]
    cells = [re.sub(r"<[^>]*>", "", cell).split() for cell in re.findall(r"<td>(.*?)</td>", table)]
    assert cells[:7] == [["text"], ["code"], ["prose"], ["dialogue"], ["behaviour"], ["json"], ["terse"]]
    assert table.count('class="is-lost"') == 5


def test_documents_are_worst_first_and_have_their_bits_per_byte(mixed):
    store, path = mixed
    probe = next(one for one in page_data(path)["runs"][0]["probes"] if one["name"] == "text")
    own, (first, last) = probe["path"], (store.read("text", step) for step in (0, 30))
    bits = vector(own["bits"], "<u2").reshape(120, 4) * own["bits_unit"]
    assert np.abs(bits[:, 0] - first.bits_per_byte).max() <= own["bits_unit"] / 2 + 1e-9
    rise = last.bits_per_byte - first.bits_per_byte
    order = vector(own["order"], "<u4")
    assert (np.diff(rise[order]) <= 2 * own["bits_unit"]).all() and rise[order[0]] > 0.4
    became = np.array(TRAJECTORIES)[vector(own["trajectory"], "u1")]
    assert (became[rise > 0.012] == "lost").all() and (became[np.abs(rise) < 0.008] != "lost").all()
    assert "knowledge_lost" not in probe["series"][""] and probe["series"][""]["bits_per_byte_change"][0] == 0.0


def test_a_document_that_was_not_measured_comes_last():
    bits = np.array([[1000, NO_BITS], [1000, 1200], [1000, 1500]], np.uint16)
    assert worst_documents(bits).tolist() == [2, 1, 0]


def test_a_wrong_answer_has_its_text_and_the_reason_of_its_rule(mixed):
    probe = next(one for one in page_data(mixed[1])["runs"][0]["probes"] if one["name"] == "behaviour")
    own = probe["path"]
    lost = np.flatnonzero(np.isin(vector(own["trajectory"], "u1"), [0, 1]))
    assert len(lost) == 27 and {int(i) for i in own["why"]} == set(lost.tolist())
    assert all("JSON" in why for why in own["why"].values())
    assert any(text.startswith("The town is Oslo") for text in own["texts"])


def test_a_card_opens_with_the_same_headline_and_table(mixed):
    found = passport(mixed[0], allow_incomplete=True)
    text = section(found)
    rows = list(found.rows)
    assert f"**{headline(overall(rows), among=rows).sentence}.**" in text.replace("\\", "")
    assert "| **behaviour** | behaviour |  | 80 | 100.0% | 66.3% | 27 of 80 |" in text
    assert found.badge.label == "text bits per byte" and found.badge.tone == "lost"
