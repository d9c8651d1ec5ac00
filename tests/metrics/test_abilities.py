"""Several abilities at once: each tells of itself, and the whole is lost where one is, seldom where none is."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from forget_callback import History, Snapshot, compare
from forget_callback.metrics.abilities import loss_p_value_of, lost_in, verdict_of_mix
from forget_callback.snapshots.joined import pool


class Model:
    """Facts with four options in one prompt, behaviours that are right or not, and documents."""

    def __init__(self, seed, *, facts=300, behaviour=200, texts=100):
        self.rng = rng = np.random.default_rng(seed)
        self.answer = np.arange(facts) % 4
        self.known = rng.random(facts) < 0.5
        self.guess = rng.integers(0, 4, facts)
        self.does = rng.random(behaviour) < 0.6
        self.bits = rng.gamma(9, 0.1, texts)

    def snapshots(self, step=0):
        choice = np.where(self.known, self.answer, self.guess)
        n, m, k = len(choice), len(self.does), len(self.bits)
        facts = Snapshot(
            "facts", "f", step, ids=[f"q{i}" for i in range(n)], correct=(choice == self.answer) * 1.0, choice=choice,
            n_choices=[4] * n, answer=self.answer, kind=["multiple_choice"] * n, ability=["knowledge"] * n,
        )  # fmt: skip
        behaviour = Snapshot(
            "behaviour", "b", step, ids=[f"q{i}" for i in range(m)], correct=self.does * 1.0,
            kind=["generation"] * m, ability=["behaviour"] * m,
        )  # fmt: skip
        texts = Snapshot(
            "text", "t", step, ids=[f"q{i}" for i in range(k)], correct=np.ones(k), bits_per_byte=self.bits,
            kind=["text"] * k, ability=["text"] * k,
        )  # fmt: skip
        return [facts, behaviour, texts]

    def trained(self, *, facts=0.0, behaviour=0.0, texts=0.0):
        """Answers waver, and these shares of what it could are lost, bits per byte rise."""
        rng = self.rng
        moved = rng.random(len(self.guess)) < 0.4
        self.guess = np.where(moved, rng.integers(0, 4, len(self.guess)), self.guess)
        self.known = self.known & (rng.random(len(self.known)) >= facts)
        # As many get it as lose it for no reason.
        waver = rng.random(len(self.does)) < np.where(self.does, 0.1, 0.15)
        self.does = (self.does ^ waver) & (rng.random(len(self.does)) >= behaviour)
        self.bits = self.bits + texts + rng.normal(0, 0.005, len(self.bits))
        return self


def compared(seed, **losses):
    model = Model(seed)
    before = pool(model.snapshots())
    return compare(before, pool(model.trained(**losses).snapshots()))


def test_where_nothing_is_lost_the_whole_is_seldom_claimed():
    claimed = [compared(seed).verdict == "lost" for seed in range(400)]
    assert np.mean(claimed) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 400)


@pytest.mark.parametrize("ability, loss", [("knowledge", 0.3), ("behaviour", 0.3), ("text", 0.02)])
def test_a_loss_in_one_of_three_is_found_and_named(ability, loss):
    name = {"knowledge": "facts", "text": "texts"}.get(ability, ability)
    found = [compared(seed, **{name: loss}) for seed in range(40)]
    assert np.mean([t.verdict == "lost" for t in found]) >= 0.95
    named = [t.lost_abilities for t in found if t.verdict == "lost"]
    assert np.mean([ability in one for one in named]) == 1 and np.mean([len(one) == 1 for one in named]) >= 0.9


def test_facts_kept_and_format_lost_is_lost():
    model = Model(0)
    history = History()
    history.append(model.snapshots())
    model.does &= model.rng.random(len(model.does)) > 0.7  # nothing else changes
    rows = {row.probe: row.transitions for row in history.append(model.snapshots(1)) if not row.category}
    assert {name: t.verdict for name, t in rows.items()} == {
        "facts": "none", "behaviour": "lost", "text": "none", "all": "lost",
    }  # fmt: skip
    whole = rows["all"]
    assert whole.knowledge_lost == 0 == rows["facts"].knowledge_lost and whole.lost_abilities == ("behaviour",)
    assert rows["behaviour"].knowledge_lost == rows["behaviour"].forgetting > 0.3
    assert list(whole.abilities) == ["knowledge", "behaviour", "text"] and whole.ability == ""
    assert {name: t.ability for name, t in whole.abilities.items()} == {name: name for name in whole.abilities}


def test_of_a_mix_counts_are_of_all_but_texts_and_knowledge_of_what_asks_for_it():
    model = Model(1)
    before = model.snapshots()
    after = model.trained(facts=0.2, behaviour=0.3, texts=0.1).snapshots()
    whole = compare(pool(before), pool(after))
    facts, behaviour, texts = (compare(*sides) for sides in zip(before, after))
    for name in ("n", "n11", "n10", "n01", "n00"):
        assert getattr(whole, name) == getattr(facts, name) + getattr(behaviour, name)
    assert whole.knowledge_lost == facts.knowledge_lost and whole.knowledge_n == 300
    assert whole.bits_per_byte_change == texts.bits_per_byte_change and whole.floor == texts.floor
    numbers = {"n10", "forgetting", "knowledge_lost", "verdict", "loss_p_value", "bits_per_byte_change_low"}
    for name, alone in (("knowledge", facts), ("behaviour", behaviour), ("text", texts)):
        part = whole.abilities[name].as_dict()
        assert {key: part[key] for key in numbers} == pytest.approx(
            {k: alone.as_dict()[k] for k in numbers}, nan_ok=True
        )
    assert whole.loss_p_value == pytest.approx(min(3 * min(t.loss_p_value for t in (facts, behaviour, texts)), 1))


def test_over_time_rates_of_a_mix_leave_texts_out_and_what_is_of_texts_stays():
    model = Model(2)
    history = History()
    history.append(model.snapshots())
    facts, behaviour, texts = model.trained(texts=0.2).snapshots(1)
    rows = {row.probe: row for row in history.append([facts, behaviour, replace(texts, kl=np.full(100, 0.5))])}
    right = {name: int(np.nansum(history.baseline(name).correct)) for name in ("facts", "behaviour")}
    lost = {name: rows[name].value("ever_forgotten") * right[name] for name in right}
    assert rows["all"].value("ever_forgotten") == pytest.approx(sum(lost.values()) / sum(right.values()))
    assert rows["text"].value("ever_forgotten") == 1 and rows["all"].value("kl") == 0.5


def test_unscored_texts_lower_the_share_scored_of_the_whole():
    model = Model(3)
    facts, behaviour, texts = model.snapshots()
    gone = replace(texts, correct=np.full(100, np.nan), outcome=[None] * 100, bits_per_byte=np.full(100, np.nan))
    whole = compare(pool([facts, behaviour, texts]), pool([facts, behaviour, gone]))
    assert whole.scored == pytest.approx(500 / 600) and whole.abilities["text"].verdict == "unclear"


def test_recall_alone_is_knowledge_beside_behaviour_that_is_open_ended_too():
    def side(step, recalled, done):
        n, m = len(recalled), len(done)
        return Snapshot(
            "p", "f", step, ids=[f"q{i}" for i in range(n + m)], correct=[*recalled, *done],
            kind=["recall"] * n + ["generation"] * m, ability=["knowledge"] * n + ["behaviour"] * m,
        )  # fmt: skip

    t = compare(side(0, np.ones(50), np.ones(50)), side(1, np.ones(50), np.zeros(50)))
    assert (t.knowledge_lost, t.knowledge_n, t.n10, t.verdict, t.lost_abilities) == (0, 50, 50, "lost", ("behaviour",))
    history = History()
    history.append([side(0, np.ones(50), np.ones(50))])
    history.append([side(1, np.ones(50), np.zeros(50))])
    assert np.isnan(history.lost_scores("p")[-1][50:]).all() and (history.lost_scores("p")[-1][:50] == 0).all()


def test_items_of_no_known_ability_are_one_of_their_own_and_a_single_ability_is_no_mix():
    facts, behaviour, _ = Model(4).snapshots()
    alone = compare(facts, facts)
    assert alone.ability == "knowledge" and not alone.abilities and alone.lost_abilities == ()
    unknown = replace(behaviour, ability=[""] * 200)
    assert list(compare(pool([facts, unknown]), pool([facts, unknown])).abilities) == ["", "knowledge"]
    assert compare(unknown, unknown).ability == ""


@pytest.mark.parametrize(
    "said, lost, whole",
    [
        (("none", "lost"), True, "lost"),
        (("none", "lost"), False, "moved"),
        (("unclear", "moved", "none"), False, "moved"),
        (("unclear", "none"), False, "none"),
        (("unclear", "unclear"), False, "unclear"),
    ],
)
def test_the_verdict_of_a_mix(said, lost, whole):
    assert verdict_of_mix(dict(zip("abc", said)), lost=lost) == whole


def test_holm_over_abilities_and_those_without_a_test():
    p = {"knowledge": 0.02, "behaviour": 0.001, "text": np.nan, "task": 0.01}
    assert lost_in(p, 0.025) == ("behaviour", "task", "knowledge")
    assert lost_in({**p, "task": 0.013}, 0.025) == ("behaviour",)
    assert loss_p_value_of(p) == pytest.approx(0.003) and isnan(loss_p_value_of({"text": np.nan}))
    assert loss_p_value_of({"text": 0.02}) == 0.02 and lost_in({}, 0.025) == ()
