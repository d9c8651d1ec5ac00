"""What is said of a comparison: never more than its verdict allows, and the same of the same numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.runs.comparison import compare_checkpoints, left_out, overall
from forget_callback.runs.formatting import in_words, percent
from forget_callback.runs.gate import Gate
from forget_callback.runs.headline import headline
from forget_callback.runs.history import History
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import pool
from tests.worlds import World, row_of, trained


def test_a_loss_is_said_with_its_range_and_never_as_a_bare_share():
    said = headline(trained(lost=0.1))
    assert said.verdict == "lost"
    lost, known, low, high = (round(1000 * share) for share in (said.number, said.known_before, *said.range))
    assert said.sentence == f"lost about {lost} of the {known} items it knew, between {low} and {high}"
    assert said.range.low <= 0.1 <= said.range.high and abs(said.number - 0.1) < 0.04
    assert "2 variants" in said.detail and "from the chosen options" in said.detail
    assert "in this prompt" not in said.sentence and "are no longer" not in said.sentence
    assert said.detail.startswith(f"lost {percent(said.number)} [") and " of 1,000 items in 2 variants" in said.detail


def test_one_prompt_claims_only_in_this_prompt():
    said = headline(trained(lost=0.1, prompts=1))
    assert said.verdict == "lost" and said.in_this_prompt
    assert re.fullmatch(r"lost about \d+ of the \d+ items it knew in this prompt, between \d+ and \d+", said.sentence)


def test_a_weak_second_variant_is_one_prompt():
    world = World()
    sides = [world.snapshot(), world.train(lost=0.15).snapshot()]
    weak = [replace(s, further=(replace(s.further[0], weak=np.ones(len(s), bool)),)) for s in sides]
    assert "items it knew in this prompt" in headline(row_of(weak)).sentence


def test_lost_and_gained_stand_side_by_side_where_answers_moved_both_ways():
    said = headline(trained(lost=0.1, gained=0.12, persistence=0.9))
    assert said.verdict == "lost"
    assert said.sentence.endswith(f", and gained about {round(1000 * said.gained)}") and said.gained > 0.05
    moved = headline(trained(gained=0.0, persistence=0.3))
    assert moved.verdict == "moved"
    assert re.fullmatch(
        r"answers moved both ways, \d+ of 1,000 items right to wrong, \d+ wrong to right; a loss is not established "
        r"\(at most \d+ of the \d+ items it knew\)",
        moved.sentence,
    )


def test_nothing_moved_is_no_loss_shown_with_what_it_may_be_at_most():
    said = headline(trained(persistence=1.0))
    assert said.verdict == "none"
    assert said.sentence == "no loss shown (at most 7 of the 397 items it knew)"
    assert 0 < said.range.high < 0.01


def test_a_significant_fall_of_accuracy_is_never_nothing_lost():
    """22 to 18%, below chance: moved wrong answers overcorrect, and the estimate is negative."""
    n, k = 500, 4
    before, after = np.ones(n, int), np.ones(n, int)
    before[:110] = 0  # right
    after[:80] = 0
    after[80:110] = 2
    after[110:120] = 0
    after[120:420] = 3  # wrong answers move too
    shared = {"n_choices": np.full(n, k), "answer": np.zeros(n, int)}
    sides = [
        Snapshot("p", "f", 0, [f"i{i}" for i in range(n)], (c == 0).astype(float), choice=c, **shared)
        for c in (before, after)
    ]
    row = row_of(sides)
    assert row.transitions.p_value < 0.05 and row.transitions.knowledge_lost < 0
    said = headline(row)
    assert said.verdict == "lost" and said.in_this_prompt
    assert "accuracy 22.0% → 18.0% (p = 0.00" in said.sentence
    assert said.sentence.startswith("lost between ") and " of the 500 items in this prompt" in said.sentence
    assert "no loss" not in said.sentence and "nothing" not in said.sentence
    several = [replace(s, further=(Answers("v", s.correct, choice=s.choice),)) for s in sides]
    said = headline(row_of(several))
    assert said.sentence.startswith("accuracy 22.0% → 18.0%") or said.verdict == "lost"


@pytest.mark.parametrize("prompts", [1, 2])
def test_two_options_have_no_point_but_the_net_and_the_range(prompts):
    said = headline(trained(n=1500, k=2, known=0.6, lost=0.12, prompts=prompts))
    assert said.method == "net" and said.verdict == "lost"
    low, high, known = (round(1500 * share) for share in (*said.range, said.known_before))
    assert said.sentence.startswith(f"lost between {low} and {high} of the {known} items it knew")
    assert "about" not in said.sentence
    assert said.range.low <= 0.12 <= said.range.high


def test_a_gate_on_two_options_fails_where_a_fifth_is_lost_and_passes_the_baseline_itself():
    gate = Gate.parse("knowledge_lost>0.05")
    for seed in range(40):
        row = trained(k=2, known=0.6, lost=0.2, prompts=1 + seed % 2, seed=seed)
        judged = gate.judge([row])
        assert judged.failed, judged.message
        assert "range " in judged.message and headline(row).sentence in judged.message
    same = World(k=2).snapshot()
    judged = gate.judge([row_of((same, same))])
    assert not judged.failed and judged.message.startswith("knowledge_lost is 0.0%")


def test_two_options_in_a_mixed_pool_of_which_nothing_is_lost():
    claims = 0
    for seed in range(20):
        worlds = [World(n=500, k=k, seed=seed) for k in (2, 4)]
        before = [world.snapshot(f"p{world.k}") for world in worlds]
        after = [world.train(persistence=0.5).snapshot(f"p{world.k}") for world in worlds]
        said = headline(row_of(*zip(before, after)))
        claims += said.verdict == "lost"
        assert said.range.low == 0.0
    assert claims <= 2


@pytest.mark.parametrize("metric", ["knowledge_lost", "known_before", "known_lost", "net_change", "forgetting"])
def test_no_interval_reaches_beyond_what_a_share_can_be(metric):
    """Of 2, 4, 10 and 30 items estimates and intervals do; what is shown of them ends at 0 and 100%."""
    for n in (2, 4, 10, 30):
        for seed in range(20):
            row = trained(n=n, known=0.5, lost=0.2, prompts=1 + seed % 2, seed=seed)
            text = in_words(row, metric).replace("−", "-")
            if found := re.fullmatch(r"(-?[\d.]+)% \[(-?[\d.]+), (-?[\d.]+)\]", text):
                value, low, high = map(float, found.groups())
                assert (-100 if metric == "net_change" else 0) <= low <= value <= high <= 100


@pytest.mark.parametrize("n", [1, 2, 5, 10, 29])
@pytest.mark.parametrize("prompts", [1, 2])
def test_of_two_options_all_lost_no_share_shown_is_above_100_percent(n, prompts):
    """Twice as much as was there is lost less gained, if all was right before and all is wrong now."""
    world = World(n=n, k=2, known=1.0, prompts=prompts)
    before = world.snapshot()
    world.train(lost=1.0)
    world.guess = np.tile(1 - world.answer, (prompts, 1))
    row = row_of((before, world.snapshot()))
    assert row.value("knowledge_lost") == 2.0, "kept as it is"
    said = headline(row)
    texts = [said.detail, *said.notes, Gate.parse("knowledge_lost>0.05").judge([row]).whole_message]
    shares = [float(share.replace("−", "-")) for text in texts for share in re.findall(r"[−\d.]+(?=[%,\]])", text)]
    assert "lost 100.0%" in said.detail and all(-100 <= share <= 100 for share in shares), texts
    assert row_of((world.snapshot(), before)).value("knowledge_lost") == -2.0
    assert headline(row_of((world.snapshot(), before))).detail.startswith("lost −100.0%")


def test_a_negative_estimate_is_shown_as_none_with_its_real_upper_end():
    row = next(row for seed in range(20) if (row := trained(n=300, seed=seed)).value("knowledge_lost") < 0)
    assert in_words(row, "knowledge_lost") == f"0.0% [0.0, {percent(row.value('knowledge_lost_high'))[:-1]}]"


def test_all_that_is_no_longer_answered_is_all():
    facts = [f"f{i}" for i in range(300)]
    said = headline(row_of((recalled("r", [1] * 300, facts), recalled("r", [0] * 300, facts))))
    assert said.sentence == "all of the 300 facts it answered are no longer answered in this prompt"


def test_everything_overwritten_is_not_more_than_was_known():
    world = World(known=1.0)
    before = world.snapshot()
    world.train(lost=1.0)
    world.guess = np.tile((world.answer + 1) % world.k, (world.prompts, 1))
    said = headline(row_of((before, world.snapshot())))
    assert said.verdict == "lost" and said.number <= said.known_before == 1.0
    assert said.range.high <= 1.0
    assert said.sentence == "lost nearly all of the 1,000 items it knew"


def recalled(name, right, facts, **more):
    correct = np.asarray(right, float)
    return Snapshot(name, name, 0, [f"{name}{i}" for i in range(len(correct))], correct, fact=facts, **more)


def test_open_ended_items_are_no_longer_answered():
    facts = [f"f{i}" for i in range(200)]
    row = row_of((recalled("r", [1] * 150 + [0] * 50, facts), recalled("r", [0] * 40 + [1] * 110 + [0] * 50, facts)))
    said = headline(row)
    assert said.method == "exact" and said.verdict == "lost"
    of = "of the 150 facts it answered are no longer answered in this prompt"
    assert said.sentence == f"about 40 {of}, between 29 and 52"
    assert " lost" not in said.sentence


@pytest.mark.parametrize("count, shown", [(49, "12.3%"), (-49, "−12.3%"), (261, "65.3%"), (0, "0.0%"), (400, "100.0%")])
def test_a_tie_is_rounded_as_the_page_rounds_it(count, shown):
    assert percent(count / 400) == shown  # what toFixed of JavaScript makes of it


def test_a_gate_counts_the_items_that_enter_its_number():
    world = World(n=200)
    before, was = world.snapshot("c"), recalled("r", np.ones(300), [""] * 300)
    after, now = world.train(lost=0.2).snapshot("c"), recalled("r", np.zeros(300), [""] * 300)
    rows = [row_of((before, after), (was, now))]
    assert "200 of 500 items of all" in Gate.parse("knowledge_lost>0.05").judge(rows).message
    assert "500 items of all" in Gate.parse("forgetting>0.05").judge(rows).message


def choices(world, facts):
    return replace(world.snapshot(), fact=np.array(facts, object))


def test_items_are_facts_where_each_asks_for_one_of_its_own():
    n = 600
    for facts, called in (
        ([f"f{i}" for i in range(n)], "facts"),
        ([f"f{i // 2}" for i in range(n)], "items"),  # a fact that is asked twice is no two facts
        (["", *(f"f{i}" for i in range(1, n))], "items"),
        ([""] * n, "items"),
    ):
        world = World(n=n, known=0.6)
        before = choices(world, facts)
        said = headline(row_of((before, choices(world.train(lost=0.15, persistence=0.9), facts))))
        assert re.search(rf"of the \d+ {called} it knew, ", said.sentence)
        assert f" of 600 {called} in 2 variants" in said.detail


def test_no_count_is_above_what_was_known_and_the_estimate_is_between_its_ends():
    form = (
        r"lost about (\d+) of the (\d+) items it knew(?: in this prompt)?, between (\d+) and (\d+)(?:, and gained .*)?"
    )
    rng, counted = np.random.default_rng(0), 0
    for seed in range(60):
        n, known = int(rng.integers(60, 400)), rng.uniform(0.3, 1.0)
        lost = known * rng.uniform(0.3, 1.0)
        said = headline(
            trained(n=n, k=3 + seed % 3, known=known, lost=lost, prompts=1 + seed % 2, persistence=0.9, seed=seed)
        )
        if found := re.fullmatch(form, said.sentence):
            about, of, low, high = map(int, found.groups())
            assert 0 < low <= about <= high <= of <= n
            counted += 1
    assert counted > 30


def test_a_loss_is_not_counted_in_what_was_known_where_that_may_be_next_to_nothing():
    """Of 400 items some 5% are known, give or take as much: a share of these is noise, a share of all items is not."""
    n = 400
    before = np.r_[np.zeros(120, int), np.arange(n - 120) % 3 + 1]  # 120 right of 400, 100 by chance
    after = np.r_[np.ones(60, int), np.zeros(60, int), before[120:]]
    shared = {"n_choices": np.full(n, 4), "answer": np.zeros(n, int)}
    ids = [str(i) for i in range(n)]
    row = row_of([Snapshot("p", "f", 0, ids, (c == 0) * 1.0, choice=c, **shared) for c in (before, after)])
    t, said = row.transitions, headline(row)
    assert 0 < t.known_before < 0.08 and said.verdict == "lost"
    assert " of the 400 items in this prompt" in said.sentence and "knew" not in said.sentence
    assert " of what it knew" not in said.detail


def test_recall_stands_beside_knowledge_as_access():
    """Heavy fine-tuning: nothing is recalled any more, and half of it is still right in every choice frame."""
    n = 400
    world = World(n=n, known=0.5)
    facts = [f"f{i}" for i in range(n)]
    kinds = {"kind": ["recall"] * n}
    before = replace(world.snapshot("c"), fact=np.array(facts, object))
    was = recalled("r", world.known, facts, **kinds)
    world.train(lost=0.25, persistence=0.9)
    after = replace(world.snapshot("c"), fact=np.array(facts, object))
    said = headline(row_of((before, after), (was, recalled("r", np.zeros(n), facts, **kinds))))
    assert said.verdict == "lost" and said.method == "choice"
    (recall,) = [note for note in said.notes if "recalled" in note]
    assert re.fullmatch(r"50.0% no longer recalled, 5\d% of them still chosen right in every variant", recall)
    assert "no longer answered" not in said.sentence
    assert not any("mean over" in note for note in said.notes), "one probe tells of knowledge: there is no mean of two"


def test_what_is_lost_in_the_first_prompt_alone_is_form_and_not_knowledge():
    world = World(known=0.6)
    before = world.snapshot()
    after = world.train(persistence=1.0).snapshot()
    spoiled = np.where(np.arange(len(after)) < 100, (after.answer + 1) % 4, after.choice)
    after = replace(after, choice=spoiled, correct=(spoiled == after.answer).astype(float), outcome=None)
    said = headline(row_of((before, after)))
    assert said.verdict == "moved", "accuracy in the first prompt fell, and no loss is claimed"
    assert "a loss is not established" in said.sentence
    (spurious,) = [note for note in said.notes if "alone" in note]
    assert re.fullmatch(r"another 1\d\.\d% \[[\d., ]+\] lost in this prompt alone \(form, access\)", spurious)


@pytest.mark.parametrize("n, known, why", [(20, 0.8, "too few"), (400, 0.0, "too little known")])
def test_unclear_says_why(n, known, why):
    world = World(n=n, known=known, seed=3)
    before = world.snapshot()
    said = headline(row_of((before, world.train(persistence=1.0).snapshot())))
    assert said.verdict == "unclear" and said.sentence.startswith("unclear, ") and why in said.sentence


def test_a_look_at_the_first_prompts_alone_says_so_and_shows_the_raw_numbers():
    world, history = World(), History()
    history.append([world.snapshot()])
    looks = [replace(world.train(lost=0.1).snapshot(), step=1), replace(world.train(lost=0.0).snapshot(), step=2)]
    (row,) = history.append([looks[0].without_variants()])
    said, t = headline(row), row.transitions
    assert np.isnan(said.number) and np.isnan(said.range.high) and said.verdict == "unclear"
    assert " in the first prompt alone, " in said.sentence
    assert said.sentence.endswith(": what was lost is measured where all prompts are asked")
    for text in (f"{t.n10} of 1,000 items went from right to wrong", f"{t.n01} from wrong to right"):
        assert text in said.sentence
    assert f"accuracy {percent(t.accuracy_before)} → {percent(t.accuracy_after)}" in said.sentence
    assert Gate.parse("knowledge_lost>0.9").judge([row]).failed, "no number is no pass"
    assert headline(history.append([looks[1]])[0]).verdict == "lost"


def test_a_comparison_is_over_the_variants_that_both_sides_have():
    world = World(prompts=3)
    before = world.snapshot()
    after = world.train(lost=0.15).snapshot()
    fewer = replace(after, further=after.further[1:])
    row = row_of((before, fewer))
    assert row.transitions.variants == 2 and headline(row).verdict == "lost"
    (line,) = left_out({"p": before}, {"p": fewer})
    assert "compared over 2 of its variants" in line and "3 before and 2 after" in line
    assert left_out({"p": before}, {"p": after}) == []


def test_the_pool_has_the_words_of_its_own_items():
    worlds = [World(seed=1), World(seed=2)]
    before = [world.snapshot(f"p{i}") for i, world in enumerate(worlds)]
    after = [world.train(lost=0.1).snapshot(f"p{i}") for i, world in enumerate(worlds)]
    rows = compare_checkpoints({s.probe: s for s in before}, {s.probe: s for s in after})
    alone = row_of(tuple(replace(pool(side), probe="both") for side in (before, after)))
    assert headline(overall(rows)).sentence == headline(alone).sentence
