"""A recipe runs to its page on the tiny model and prints what its README shows: another one every day."""

import datetime
import re

from tests.smoke import PAGES, run, shown


def form(text):
    """A table without its numbers, curves and the mark of the best row: these may differ between machines."""
    lines = [re.sub(r"\b(best|-)(?=\s)|[\d▁-█][\d.,▁-█]*%?|\[\S+ \S+\]", "#", line) for line in text.splitlines()]
    return [" ".join(re.sub(r"[-#\s]+", " ", line).split()) for line in lines]


def test_the_smoke_run_of_the_day_prints_what_its_page_shows(tmp_path):
    page = PAGES[datetime.date.today().toordinal() % len(PAGES)]
    printed = run(page, tmp_path, OMP_NUM_THREADS="1")
    block = re.search(r"```text\n(.*?)```", shown(page), re.DOTALL)[1]
    assert form(printed) == form(block), page
    assert (tmp_path / re.search(r"page (\S+)", printed)[1]).stat().st_size > 100_000
