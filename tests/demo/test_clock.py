"""What the demo says of its progress where no bar can be shown, by a clock of its own."""

import io
import random

import pytest
from rich.console import Console

from forget_callback.demo import clock as module
from forget_callback.demo.clock import Stages
from forget_callback.demo.tiny import invented_facts, known_facts, make_taught_model
from forget_callback.probes.load import load_probe


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, to be moved on."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def said(clock, *, seconds, terminal=False):
    """What is said of 50 steps that take so many seconds each."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    with Stages(console, pause=15.0) as stages:
        for _ in stages.track(range(50), description="fine-tuning"):
            clock[0] += seconds
    return console.file.getvalue()


def test_a_log_gets_a_line_now_and_then_with_the_time_left(clock):
    lines = said(clock, seconds=1.0).splitlines()
    assert lines[0] == "fine-tuning: 3 of 50 steps, about 45 seconds left"
    assert lines[1:] == [
        "fine-tuning: 18 of 50 steps, about 30 seconds left",
        "fine-tuning: 33 of 50 steps, about 15 seconds left",
        "fine-tuning: 48 of 50 steps, about 5 seconds left",
    ]


def test_what_is_quick_is_not_announced(clock):
    assert said(clock, seconds=0.05) == ""


def test_a_terminal_gets_a_bar_and_no_lines(clock):
    shown = said(clock, seconds=1.0, terminal=True)
    assert "50/50" in shown and "left" not in shown


def test_the_facts_that_a_tiny_model_is_taught_are_counted_as_facts():
    facts = known_facts(*(load_probe(f"builtin:facts?kind={kind}", limit=30) for kind in ("choice", "recall")))
    console = Console(file=io.StringIO())
    texts = [" ".join(pair) for pair in invented_facts(5, random.Random(0))]
    with Stages(console, pause=0.0) as stages:
        make_taught_model(facts, texts, seed=0, progress=stages, steps=3, hidden_size=16)
    first = console.file.getvalue().splitlines()[0]
    assert first.startswith("teaching 30 facts to a tiny model: 1 of 3 steps, about ")
