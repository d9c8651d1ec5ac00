"""`max_overhead` on a clock on which training and probing take what a test says: shares are arithmetic, not timings."""

import logging
import random
from types import SimpleNamespace

import pytest

from forget_callback.probes.items import MultipleChoice, Variant
from forget_callback.probes.probe import Probe
from forget_callback.scoring import once as once_module
from forget_callback.scoring.once import once
from forget_callback.training import budget as budget_module
from forget_callback.training.budget import Budget
from forget_callback.training.parts import LEAST, part_of, size_of
from forget_callback.training.schedule import checked, is_due


def probe_of(n):
    variant = [Variant("And again?")]
    items = [MultipleChoice(f"{i}", "Q?", ["a", "b"], 0, category=f"{i % 3}", variants=variant) for i in range(n)]
    return Probe("mini", items)


class Run:
    """A training with its evaluations, and how they stand to the limit.

    Args:
        prompt: Seconds of a first prompt.
        further: Of a further one.
        work: Done once, before the baseline.
        slower: How many times as slow prompts are at the end.
        rest: Of an evaluation beside its scoring.
        cold: How many times as long the baseline takes as it should.
        moved: Share of the items whose first answer changed.
        noise: Standard deviation of each time, as a share of it.

    Attributes:
        shares: Of the time after the baseline that probing took, after each evaluation.
        items: Scored in each.
    """

    def __init__(self, monkeypatch, limit, *, every=20, n=1000, step=0.25, prompt=0.0025, further=0.0025, **more):
        self.limit, self.every, self.step, self.probes = limit, checked(every), step, [probe_of(n)]
        self.prompt, self.further, self.variants = prompt, further, more.get("variants", "all")
        self.slower, self.noise, self.work = more.get("slower", 1.0), more.get("noise", 0.0), more.get("work", 30.0)
        self.rest, self.cold, self.moved = more.get("rest", 0.0), more.get("cold", 1.0), more.get("moved", 0.3)
        self.now, self.random, self.shares, self.items, self.steps = 0.0, random.Random(0), [], [], []
        self.state = SimpleNamespace(global_step=0, max_steps=400, eval_steps=0)
        for module in (budget_module, once_module):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def begin(self, kept=None):
        settings = SimpleNamespace(max_overhead=self.limit, variants=self.variants, every=self.every)
        args = SimpleNamespace(eval_strategy="no", num_train_epochs=1)
        self.budget = Budget(settings, args, self.state, kept or {})
        return self

    def baseline(self):
        with self.budget.baseline():
            with once():
                self.now += self.work
            self.budget.scored(self.probes, self.score(variants=self.variants != "off"), baseline=True)
            with self.budget.showing_baseline():
                self.takes(2 * self.rest)
        self.began, self.spent = self.now, 0.0
        return self

    def takes(self, seconds):
        taken = seconds * max(self.random.gauss(1, self.noise), 0.2)
        self.now += taken
        return taken

    def score(self, *, variants):
        n = size_of(len(self.probes[0]), self.budget.part)
        each = self.slower ** (self.state.global_step / self.state.max_steps)
        each *= 1.0 if self.state.global_step else self.cold
        seconds = {"first": self.takes(n * each * self.prompt)}
        return seconds | ({"further": self.takes(n * each * self.further)} if variants else {})

    def train(self, to=400):
        for step in range(self.state.global_step + 1, to + 1):
            self.state.global_step = step
            self.takes(self.step)
            self.budget.step_ended(self.state)
            if step == self.state.max_steps or is_due(self.every, step):
                self.evaluate(end=step == self.state.max_steps)
        return self

    def evaluate(self, *, end):
        begun = self.now
        with self.budget.spending():
            part = self.budget.choose(self.probes, self.state, end=end)
            if part is not None:
                self.budget.items(part, self.probes)
                changed = self.variants == "changed" and not end
                seconds = self.score(variants=self.variants in ("all", "changed") or (end and self.variants == "ends"))
                if changed:
                    saved = (1 - self.moved) * seconds["further"]
                    self.now -= saved
                    seconds["further"] -= saved
                self.budget.scored(self.probes, seconds, changed=changed)
                self.takes(self.rest)
        self.spent += self.now - begun
        if part is not None:
            self.steps.append(self.state.global_step)
            self.shares.append(self.spent / (self.now - self.began) / self.limit)
            self.items.append(size_of(len(self.probes[0]), part))


@pytest.mark.parametrize("limit", [0.05, 0.1, 0.2])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"noise": 0.1},
        {"slower": 2.0, "noise": 0.1},
        {"slower": 0.4, "noise": 0.1},
        {"cold": 1.6, "noise": 0.05},
        {"cold": 0.7, "noise": 0.05},
        {"every": 40, "further": 0.005},
        {"every": 40, "rest": 0.3, "noise": 0.05},
        {"variants": "ends", "further": 0.004},
        {"variants": "off", "prompt": 0.005},
    ],
)
def test_the_share_taken_is_the_share_asked_from_the_second_evaluation_on(monkeypatch, limit, more):
    run = Run(monkeypatch, limit, **more).begin().baseline().train()
    assert max(run.shares[1:]) < 1.15 and run.shares[-1] < 1.1
    if len(run.items) < 400 // more.get("every", 20):
        assert sum(n < 1.25 * LEAST for n in run.items) > len(run.items) / 2  # left out where little can be cut alone
    else:
        assert min(run.shares[1:]) > 0.85


@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_a_schedule_that_begins_dense_takes_what_is_earned_and_grows(monkeypatch, limit):
    run = Run(monkeypatch, limit, every="log2").begin().baseline().train()
    assert all(0.85 < share < 1.07 for share in run.shares[1:])
    assert run.steps[-1] == 400 and run.items[-1] > 300
    assert all(later > 0.9 * before for before, later in zip(run.items, run.items[1:]))


def test_what_is_done_once_is_not_held_against_later_evaluations(monkeypatch, caplog):
    """A baseline of 35 seconds, evaluations of 5: 20 of them fit into a third of a training of 300 seconds."""
    run = Run(monkeypatch, 0.3, step=0.75, work=30.0).begin().baseline().train()
    assert run.items == [1000] * 20 and "random part" not in caplog.text


def test_a_part_grows_back_where_evaluations_turn_out_cheaper_and_that_is_said_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    run = Run(monkeypatch, 0.2).begin().baseline().train(to=100)
    assert set(run.items) == {250}
    run.prompt, run.further = run.prompt / 20, run.further / 20  # answers that end at once
    run.train()
    assert run.items[-1] == 1000 and sorted(run.items) == run.items
    said = [record for record in caplog.records if "random part" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING", "WARNING"] + ["INFO"] * (len(said) - 2)
    assert "a fixed random part of them is scored, by category: 250 of 1000 of 'mini'" in said[0].getMessage()
    assert "a larger random part" in said[1].getMessage()
    assert caplog.text.count("all of them are scored again") == 1
    run.budget.finish()
    assert "after the baseline, 20 evaluations took" in caplog.text and ", 0 were left out" in caplog.text


def test_none_is_left_out_where_a_smaller_part_is_affordable(monkeypatch):
    run = Run(monkeypatch, 0.1).begin().baseline().train()
    assert len(run.items) == 20 and set(run.items) <= {110, 111}
    # Half of that is below what is of use: then evaluations are left out, the last one never.
    run = Run(monkeypatch, 0.05).begin().baseline().train()
    assert set(run.items) == {LEAST} and 8 <= len(run.items) < 20 and run.steps[-1] == 400


def test_what_the_first_left_because_the_baseline_was_slow_is_spent_at_once(monkeypatch):
    run = Run(monkeypatch, 0.1, cold=1.6).begin().baseline().train()
    assert run.steps == list(range(40, 401, 20))  # at step 20 even 100 items seemed too dear
    assert min(run.shares[1:]) > 0.85 and max(run.shares) < 1.07


def test_the_last_evaluation_in_all_prompts_is_paid_for_beforehand(monkeypatch):
    run = Run(monkeypatch, 0.1, variants="ends", every=80, further=0.005).begin().baseline().train()
    assert run.steps == [80, 160, 240, 320, 400]
    assert 0.95 < run.shares[-1] <= 1.0 and max(run.items) < 1.15 * min(run.items)


@pytest.mark.parametrize("limit", [0.2, 0.3])
@pytest.mark.parametrize("moved", [0.1, 0.5])
def test_items_whose_answer_stayed_make_room_for_others(monkeypatch, limit, moved):
    """The first evaluation after the baseline is planned as if every answer changed."""
    sizes = {}
    for variants in ("all", "changed"):
        run = Run(monkeypatch, limit, variants=variants, further=0.005, n=2000, moved=moved).begin().baseline().train()
        sizes[variants] = run.items[1:-1]
        assert max(run.shares) < 1.15 and 0.95 < run.shares[-1] < 1.05 and min(run.shares[1:]) > 0.85
    assert sizes["changed"][0] > 0.9 * (3 / (1 + 2 * moved)) * max(sizes["all"])


@pytest.mark.parametrize("every", [20, "log2"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(monkeypatch, every):
    whole = Run(monkeypatch, 0.1, every=every).begin().baseline().train()
    run = Run(monkeypatch, 0.1, every=every).begin().baseline().train(to=150)
    kept, part = run.budget.kept, run.budget.part
    run.now += 1000.0  # until it is resumed
    run.began += 1000.0
    run.begin(kept).budget.part = part
    run.train()
    assert (run.steps, run.items) == (whole.steps, whole.items)


def test_a_checkpoint_without_times_is_resumed_with_the_least_part(monkeypatch):
    run = Run(monkeypatch, 0.2)
    run.state.global_step = 100
    run.began, run.spent = 0.0, 0.0
    run.begin().train()
    assert run.items[0] == LEAST and min(run.items[1:]) > 2 * LEAST
    assert all(0.85 < share < 1.15 for share in run.shares[2:])


@pytest.mark.parametrize("step, level", [(0.01, "WARNING"), (1.0, "INFO")])
def test_the_baseline_is_said_as_measured_once_a_step_is_timed(monkeypatch, caplog, step, level):
    caplog.set_level(logging.INFO)
    run = Run(monkeypatch, 0.2, step=step, every=400).begin().baseline().train(to=4)
    assert not caplog.records
    run.train(to=6)
    (line,) = caplog.records
    assert line.levelname == level
    assert "took 35 s, 30 s of it for what is done once, and training takes about" in line.getMessage()
    assert ("more than max_overhead=0.2" in line.getMessage()) == (level == "WARNING")


def test_a_larger_part_holds_the_smaller_one_and_every_category_its_share():
    probe, before = probe_of(997), frozenset()
    for share in (0.0, 0.15, 0.151, 0.4, 0.63, 0.9, 1.0):
        part = part_of(probe, share)
        assert before <= part and len(part) == size_of(997, share)
        counts = [sum(int(name) % 3 == category for name in part) for category in range(3)]
        assert max(counts) - min(counts) <= 2
        before = part
    assert len(before) == 997
