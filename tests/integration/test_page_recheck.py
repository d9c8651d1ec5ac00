"""The page of a run that was rechecked: each lost item says whether it is gone, or there and not said."""

from forget_callback.report import write_report
from forget_callback.runs.recheck_summary import summarize
from forget_callback.runs.rechecked import write_summary
from tests.pages import see
from tests.recorded import make_probe, make_run
from tests.runs.test_recheck_summary import ABOUT, rows


def test_lost_items_are_marked_and_can_be_filtered(show, tmp_path):
    probe = make_probe("facts", 40, kinds=("recall",), categories=0)
    store = make_run(tmp_path / "sft", [probe])
    first, last = (store.read("facts", step) for step in (0, 30))
    lost = [str(id) for id in first.ids[(first.correct == 1) & (last.correct == 0)]]
    told = [(id, "lost", "chat", 0, float(i < 3), float("nan")) for i, id in enumerate(lost)]
    write_summary(
        store.path, summarize(rows(*told), {**ABOUT, "run": store.run.id, "probes": {"facts": probe.fingerprint}})
    )
    page = show(write_report(tmp_path / "sft", tmp_path / "page.html"))
    assert f"{len(lost)} lost items at step 30, 3 came back with help" in page.locator(".note.recheck").inner_text()
    see(page, "items")
    page.get_by_label("Trajectory").select_option("there, but not said")
    assert {row.get_attribute("data-item") for row in page.locator("#item-table tbody tr").all()} == set(lost[:3])
    assert page.locator("#item-table tbody small.recheck").all_inner_texts() == ["there, but not said"] * 3
    page.get_by_label("Trajectory").select_option("gone")
    assert f"{len(lost) - 3} of 40" in page.locator("#item-count").inner_text()
    page.locator("#item-table tbody tr").first.click()
    assert page.locator("#detail small.recheck").inner_text() == "gone"
