"""A recipe runs to its page on the tiny model and prints what its README shows: another one every day.

The model knows no facts here; that `make_taught` teaches it some is tested beside it.
"""

import re

import pytest

from forget_callback.demo import smoke, tiny
from forget_callback.scoring.loading import load_model, load_tokenizer
from tests.smoke import PAGES, make_untaught, run, shown


def form(text):
    """A table without its numbers, curves, marks and the dial's finding: these may differ between machines."""
    text = re.sub(
        r"^[^\n]* is the best: .*?(by more than noise|would tell)$", "#", text, flags=re.MULTILINE | re.DOTALL
    )
    lines = [re.sub(r"-(?=\s)|[▸▹\d▁-█][\d.,▁-█]*%?|\[\S+ \S+\]", "#", line) for line in text.splitlines()]
    return [" ".join(re.sub(r"[-−─#\s]+", " ", line).split()) for line in lines]


IN_TURN = [pytest.param(page, marks=pytest.mark.in_turn(day, of=len(PAGES))) for day, page in enumerate(PAGES)]


@pytest.mark.parametrize("page", IN_TURN, ids=lambda page: page.parent.name)
def test_the_smoke_run_prints_what_its_page_shows(page, tmp_path):
    make_untaught(tmp_path / "smoke-runs")
    printed = run(page, tmp_path, OMP_NUM_THREADS="1")
    block = re.search(r"```text\n(.*?)```", shown(page), re.DOTALL)[1]
    assert form(printed) == form(block), page
    assert (tmp_path / re.search(r"page (\S+)", printed)[1]).stat().st_size > 100_000


def test_the_model_of_smoke_runs_is_taught_and_kept(tmp_path, monkeypatch):
    teach = tiny.teach
    monkeypatch.setattr(tiny, "teach", lambda *given, **more: teach(*given, **{**more, "steps": 15}))
    directory = smoke.make_taught(tmp_path / "model", hidden_size=64)
    make_untaught(tmp_path)
    ids = load_tokenizer(str(directory))(smoke.taught_facts()[1][0].texts[0], return_tensors="pt").input_ids
    taught, untaught = (
        load_model(str(place))(input_ids=ids, labels=ids).loss.item() for place in (directory, tmp_path / "model-64")
    )
    assert taught < 0.9 * untaught
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert smoke.make_taught(directory) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == written
