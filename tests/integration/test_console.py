"""The console of a run without a terminal, in a process of its own: what a stranger reads in a log file."""

import os
import re
from pathlib import Path

import pytest

from forget_callback.scoring import progress
from tests.forked import finish, start

SCRIPT = Path(__file__).with_name("train_script.py")


def announce_all():
    """As if everything took long."""
    progress.LONG = progress._ENOUGH = 0.0


def console(out, *options):
    """Standard error of a run of six steps with a look at each, line by line."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "COLUMNS": "80"}
    err = out.with_name(f"{out.name}-{len(options)}.err")
    status = finish(start(SCRIPT, out, *options, environment=environment, err=err, before=announce_all))
    assert status == 0, err.read_text()
    return err.read_text().splitlines()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The lines of a run, and of the same one resumed in its middle."""
    out = tmp_path_factory.mktemp("run")
    first = console(out, "--save-steps", "2")
    return out, first, console(out, "--save-steps", "2", "--resume", str(out / "checkpoint-4"))


def test_before_each_look_it_is_said_what_is_scored_and_how_long_that_takes(runs):
    _, lines, _ = runs
    looks = [i for i, line in enumerate(lines) if line.startswith(("baseline", "forgetting at step"))]
    assert len(looks) == 7
    announced = [
        i for i, line in enumerate(lines) if line.startswith("scoring 6 items of 'mini' in two variants: about ")
    ]
    assert len(announced) == len(looks) and all(i < look for i, look in zip(announced, looks))


def test_every_warning_says_whose_it_is_and_every_line_is_whole(runs):
    _, lines, _ = runs
    warned = [line for line in lines if "probe 'mini'" in line]
    assert warned and all(line.startswith("forget_callback: ") for line in warned)
    ours = ("forget_callback", "scoring", "baseline", "forgetting at", "From the baseline", "page: ")
    assert all(line.startswith(ours) for line in lines if re.search("|".join(ours[1:]), line)), lines


def test_the_end_is_one_table_of_80_columns_the_verdict_and_where_the_page_is(runs):
    out, lines, _ = runs
    at = lines.index(next(line for line in lines if line.startswith("From the baseline to step 6")))
    assert lines[at:][-1] == f"page: {out / 'forget' / 'report.html'}"
    assert max(map(len, lines[at:-1])) <= 80
    assert sum(line.startswith("From the baseline") for line in lines) == 1


def test_a_resumed_run_says_nothing_again_that_its_first_part_said(runs):
    _, first, resumed = runs
    said = {line for line in first if line.startswith("forget_callback: probe")}
    assert said and not said & set(resumed)
    assert not [line for line in resumed if line.startswith("baseline")]
    assert [line.split(",")[0] for line in resumed if line.startswith("forgetting")] == [
        "forgetting at step 5",
        "forgetting at step 6",
    ]
