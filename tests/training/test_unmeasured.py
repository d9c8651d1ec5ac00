"""What was not measured, over several starts of a run."""

from forget_callback import Snapshot
from forget_callback.training.unmeasured import Unmeasured, alarm


def look(step, probe="p", **metadata):
    return Snapshot(probe, "f", step, ids=["a"], correct=[1.0], metadata=metadata)


def miss(probe, step, why="no template"):
    return {"probe": probe, "step": step, "why": why}


def test_a_start_that_could_not_be_watched_is_no_fault_of_the_next_one_that_can():
    kept = [miss("", None), miss("p", None), miss("q", None), miss("", 4)]
    found = Unmeasured(kept, up_to=10)
    found.measured(15, [look(15)])
    assert found.entries == [miss("q", None), miss("", 4)]


def test_a_look_that_failed_stays_until_it_is_taken_after_all():
    found = Unmeasured()
    assert found.add("too large", step=5) and not found.add("too large", step=5)
    found.measured(6, [look(6, not_scored={"too long": 2})])
    assert found.entries == [miss("", 5, "too large"), {**miss("p", None, "too long"), "items": 2}]
    found.measured(5, [look(5)])
    assert found.entries == [{**miss("p", None, "too long"), "items": 2}]


def test_a_frame_begins_on_the_line_of_its_prefix(caplog):
    """On a console that line is "forget_callback: " and this."""
    alarm("NOT WATCHED: a", "b")
    line = "=" * 100
    assert caplog.messages == [f"{line}\nNOT WATCHED: a\nb\n{line}"]
