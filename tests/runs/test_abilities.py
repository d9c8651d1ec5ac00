"""Knowledge, behaviour and text side by side: what was lost first, one headline, and no claim that the numbers lack."""

import re

import numpy as np
import pytest

from forget_callback import Snapshot
from forget_callback.report.badge import badge
from forget_callback.report.terminal import changes_markdown, snapshot_line
from forget_callback.runs.abilities import is_mixed, joint_sentence, side_by_side
from forget_callback.runs.comparison import compare_checkpoints, overall, rows_result
from forget_callback.runs.headline import headline, worst_first
from forget_callback.runs.history import History
from forget_callback.runs.side_by_side import groups_of_lines


def behaviour(lost, *, name="behaviour", n=60, right=50, gained=0, ability="behaviour"):
    """Before and after of a probe whose categories have `right` of `n` done before, and lose as many as `lost` says."""
    before, after, category = [], [], []
    for one, gone in lost.items():
        own = np.arange(n) < right
        now = own.copy()
        now[:gone] = False
        now[right : right + gained] = True
        before.append(own), after.append(now), category.extend([one] * n)
    kinds = {"kind": ["generation"] * len(category), "ability": [ability] * len(category), "category": category}
    return sides(name, np.concatenate(before).astype(float), np.concatenate(after).astype(float), **kinds)


def facts(lost=0, *, n=200, known=150, name="facts"):
    """Multiple choice with four options: of 150 right answers and 50 wrong ones 133 were known and 17 guessed."""
    before = (np.arange(n) < known).astype(float)
    after = ((np.arange(n) < known) & (np.arange(n) >= lost)).astype(float)
    shared = {"n_choices": [4] * n, "answer": [0] * n, "kind": ["multiple_choice"] * n, "ability": ["knowledge"] * n}
    found = []
    for step, correct in enumerate((before, after)):
        choice = np.where(correct == 1, 0, 1 + np.arange(n) % 3)
        found.append(Snapshot(name, name, step, [f"{name}{i}" for i in range(n)], correct, choice=choice, **shared))
    return tuple(found)


def text(rise, *, n=60, name="text", seed=0):
    """Documents whose bits per byte rise by so much in each category, with noise of 0.005."""
    rng = np.random.default_rng(seed)
    category = [one for one in rise for _ in range(n)]
    before = rng.normal(1.0, 0.2, len(category))
    after = before + np.repeat(list(rise.values()), n) + rng.normal(0, 0.005, len(category))
    kinds = {"kind": ["text"] * len(category), "ability": ["text"] * len(category), "category": category}
    ids = [f"{name}{i}" for i in range(len(category))]
    return tuple(
        Snapshot(name, name, step, ids, np.ones(len(category)), bits_per_byte=bits, **kinds)
        for step, bits in enumerate((before, after))
    )


def sides(name, before, after, **columns):
    ids = [f"{name}{i}" for i in range(len(before))]
    return tuple(Snapshot(name, name, step, ids, one, **columns) for step, one in enumerate((before, after)))


def rows_of(*pairs):
    before, after = ({one.probe: one for one in side} for side in zip(*pairs))
    return compare_checkpoints(before, after)


def said(rows):
    return headline(overall(rows), among=rows)


def test_a_run_that_keeps_facts_and_loses_format_says_lost_and_names_what():
    rows = rows_of(facts(), behaviour({"json": 40, "tools": 0, "refusal": 1}), text({"prose": 0.0}))
    found = said(rows)
    assert found.verdict == "lost"
    clauses = found.sentence.split("; ")
    assert clauses[0] == "lost in behaviour: json 40 of the 50 it did"
    knowledge, plain = (next(one for one in clauses if one.startswith(name)) for name in ("knowledge: ", "text: "))
    assert "no loss shown" in knowledge and "133 items it knew" in knowledge
    assert re.fullmatch(r"text: no loss shown, .* → .* bits per byte \([+−]?0\.00\d \[.*\]\), .*", plain)
    assert found.sentence.count("lost in") == 1


def test_several_lost_abilities_come_by_the_share_of_what_it_could_do():
    rows = rows_of(facts(30), behaviour({"json": 45, "tools": 20, "language": 0}), text({"prose": 0.3, "code": 0.05}))
    clauses = said(rows).sentence.split("; ")
    assert [one.split(":")[0] for one in clauses] == ["lost in text", "lost in behaviour", "lost in knowledge"]
    assert clauses[1] == "lost in behaviour: json 45 of the 50 it did, tools 20 of 50"
    assert "about 40 of the 133 items it knew" in clauses[2] and "between" in clauses[2]
    assert re.search(r"\(\+0\.1\d \[0\.1\d, 0\.\d\d\]\), most in prose \(\+0\.30 ", clauses[0])
    order = [(group[0].ability, [part.row.category for part in group[1:]]) for group in side_by_side(rows)]
    assert order == [("text", ["prose", "code"]), ("behaviour", ["json", "tools", "language"]), ("knowledge", [])]


def test_more_lost_categories_than_a_sentence_holds_are_counted():
    rows = rows_of(facts(), behaviour({f"ability-{i}": 20 + i for i in range(6)}))
    assert said(rows).sentence.startswith("lost in behaviour: ability-5 25 of the 50 it did, ability-4 24 of 50, ")
    assert " and 3 more; knowledge:" in said(rows).sentence


def test_a_part_that_is_lost_in_a_whole_that_is_not_is_named_and_stands_before_what_lost_nothing():
    lost = {"json": 12, **{f"other-{i}": 0 for i in range(8)}}
    before, after = behaviour(lost, n=200, right=100)
    gained = np.asarray(after.correct).copy()
    gained[-30:] = 1.0  # so that as many come back elsewhere
    rows = rows_of(facts(), (before, Snapshot("behaviour", "behaviour", 1, before.ids, gained, category=before.category,
                                              kind=before.kind, ability=before.ability)))  # fmt: skip
    whole = next(row for row in rows if row.probe == "behaviour" and not row.category)
    assert whole.transitions.verdict != "lost"
    first = said(rows).sentence.split("; knowledge")[0]
    assert first.startswith("lost in a part of behaviour: json 12 of the 100 it did; overall ")
    assert said(rows).verdict != "lost"


def test_where_nothing_is_lost_no_ability_is_claimed_more_often_than_the_level():
    """Each of 100 worlds: answers waver both ways, documents by less than the floor."""
    claims = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        right = [(rng.random(200) < 0.5).astype(float) for _ in range(2)]
        kinds = {"kind": ["generation"] * 200, "ability": ["behaviour"] * 200}
        rows = rows_of(facts(), sides("behaviour", *right, **kinds), text({"prose": 0.0}, seed=seed))
        found = said(rows)
        assert (found.verdict == "lost") == ("lost in" in found.sentence)
        claims += found.verdict == "lost"
    assert claims <= 0.025 * 100 + 3 * (0.025 * 0.975 * 100) ** 0.5


def test_one_probe_of_several_abilities_is_told_apart_as_several_probes_are():
    a, b = facts(), behaviour({"json": 40})
    together = []
    for one, other in zip(a, b):
        columns = {
            name: [*getattr(one, name), *getattr(other, name)]
            for name in ("correct", "choice", "kind", "ability", "category", "n_choices", "answer")
        }
        together.append(Snapshot("mixed", "m", one.step, [*one.ids, *other.ids], **columns))
    rows = rows_of(tuple(together))
    apart = rows_of(a, b)
    assert said(rows).sentence == said(apart).sentence and said(rows).verdict == said(apart).verdict == "lost"
    assert [part.ability for part in side_by_side(rows)[0]] == ["behaviour", "behaviour"]


def test_knowledge_alone_is_said_and_shown_as_ever():
    rows = rows_of(facts(40))
    assert not is_mixed(rows) and "lost about 53 of the 133 items it knew" in said(rows).sentence
    assert "| probe | category | items |" in changes_markdown(rows)
    several = rows_of(facts(40), facts(0, name="more"))
    assert not is_mixed(several) and "most in" not in said(several).sentence


@pytest.mark.parametrize(
    "pair, words",
    [
        (behaviour({"json": 20}), "about 20 of the 50 items it did are no longer done"),
        (behaviour({"sums": 20}, ability="task"), "about 20 of the 50 items it answered are no longer answered"),
        (text({"prose": 0.2}), "text got worse, "),
    ],
)
def test_each_kind_of_ability_has_its_own_words(pair, words):
    rows = rows_of(pair)
    assert said(rows).sentence.startswith(words)
    line = snapshot_line(rows, 1.0, first=False)
    assert words in line
    assert badge(rows).tone == "lost" and words in badge(rows).title


def test_the_table_has_both_sides_the_share_of_what_it_did_and_the_verdict():
    rows = rows_of(facts(3), behaviour({"json": 40, "tools": 1}), text({"prose": 0.2, "code": 0.0}))
    lines = {(line.ability, line.category): line.cells for group in groups_of_lines(rows) for line in group}
    assert lines["behaviour", "json"][:4] == ("60", "83.3%", "16.7%", "40 of 50")
    assert lines["behaviour", "json"][4].startswith("80.0% [") and lines["behaviour", "json"][5] == "lost"
    assert lines["behaviour", "tools"][5] != "lost"
    items, before, after, lost, change, verdict = lines["text", "prose"]
    assert (items, lost, verdict) == ("60", "60 of 60", "lost") and change.startswith("+0.20 [0.")
    assert float(after) - float(before) == pytest.approx(0.2, abs=0.011)
    markdown = changes_markdown(rows)
    assert "| ability | probe | category | items | before | after | lost | share [95%] | verdict |" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(lines) and {line.count("|") for line in table} == {10}
    assert f"all: {said(rows).sentence}" in markdown.replace("\\", "")
    for probe in ("facts", "behaviour", "text"):
        assert f"- {probe}: " not in markdown.replace("\\", ""), "one headline"


def test_json_has_the_same_table_as_numbers():
    rows = rows_of(facts(3), behaviour({"json": 40, "tools": 1}), text({"prose": 0.2}))
    found = rows_result(rows)
    assert found["all"]["headline"] == said(rows).sentence and found["all"]["verdict"] == "lost"
    first = {(one["ability"], one["category"]): one for one in found["abilities"]}
    json = first["behaviour", "json"]
    assert json["lost_share"] == json["value"] == pytest.approx(0.8) and json["low"] < 0.8 < json["high"]
    assert (json["unit"], json["before"], json["after"]) == ("share", 50 / 60, 10 / 60)
    prose = first["text", "prose"]
    assert prose["unit"] == "bits_per_byte" and prose["value"] == pytest.approx(0.2, abs=0.01)
    assert prose["after"] - prose["before"] == pytest.approx(prose["value"])
    shown = [(one["ability"], one["category"], one["verdict"]) for one in found["abilities"]]
    assert shown == [
        (line.ability, line.category, line.verdict) for group in groups_of_lines(rows) for line in group
    ], "in the order of the table"


def test_of_single_probes_significant_losses_come_first_by_share():
    rows = rows_of(facts(30), behaviour({"json": 40}), behaviour({"tools": 0}, name="other"))
    order = [one.probe for one in worst_first([headline(row) for row in rows if not row.category])]
    assert order[:2] == ["behaviour", "facts"] and order[-1] == "all"


def test_while_fewer_prompts_of_the_facts_were_asked_behaviour_is_judged_all_the_same():
    from tests.worlds import World

    world, history = World(n=200), History()
    before, after = behaviour({"json": 45})
    history.append([world.snapshot("facts"), before.at(0)])
    rows = history.append([world.train().snapshot("facts").without_variants().at(1), after.at(1)])
    assert not overall(rows).confirmed
    sentence = joint_sentence(overall(rows), rows)
    assert sentence.startswith("lost in behaviour: about 45 of the 50 items it did") or "json 45 of" in sentence
    assert "in the first prompt alone" in sentence and said(rows).verdict == "lost"


def test_a_few_items_of_behaviour_with_options_do_not_hide_the_others():
    """Of knowledge those with options tell; of behaviour all items do: 6 of 60 choose an option, 54 write."""
    before, after = (np.r_[np.ones(50), np.zeros(10)], np.r_[np.zeros(40), np.ones(10), np.zeros(10)])
    kinds = {"kind": ["generation"] * 60, "ability": ["behaviour"] * 60, "n_choices": [4.0] * 6 + [np.inf] * 54}
    rows = rows_of(facts(), sides("behaviour", before, after, **kinds))
    assert said(rows).sentence.startswith("lost in behaviour: about 40 of the 50 items it did")


def training_data(*, n=16, fall=3.0, kl=0.25):
    """Documents of the training data, which are learned."""
    kinds = {"kind": ["text"] * n, "ability": ["training"] * n}
    ids = [f"row-{i}" for i in range(n)]
    bits = np.linspace(4.0, 5.0, n)
    return tuple(
        Snapshot("own", "own", step, ids, np.ones(n), bits_per_byte=bits - step * fall, kl=[step * kl] * n, **kinds)
        for step in (0, 1)
    )


def test_the_training_data_count_in_nothing_but_kl_and_hide_no_loss():
    lost = text({"": 0.4}, n=40)
    alone, rows = rows_of(lost), rows_of(lost, training_data())
    total, own = overall(rows), next(row for row in rows if row.probe == "own")
    metrics = ["n", "n10", "forgetting", "bits_per_byte_change", "bits_per_byte_after", "net_change", "ever_forgotten"]
    for metric in metrics:
        assert total.numbers[metric] == pytest.approx(overall(alone).numbers[metric]), metric
    assert total.value("bits_per_byte_change") > 0.3
    assert total.transitions.verdict == "lost" == headline(total, among=rows).verdict
    assert said(rows).sentence == said(alone).sentence
    assert total.value("kl") == pytest.approx(0.25) == own.value("kl"), "the documents have none"
    assert own.value("bits_per_byte_change") == pytest.approx(-3.0), "its own row has all of its numbers"


def test_learning_the_training_data_is_no_finding():
    for rows in (rows_of(training_data()), rows_of(facts(lost=40), training_data(fall=-3.0))):
        own = next(row for row in rows if row.probe == "own")
        one = headline(own, among=rows)
        assert own.transitions.verdict == "unclear" and np.isnan(own.transitions.loss_p_value)
        assert (
            one.sentence.startswith("the training data, which is learned: ")
            and "KL to the baseline 0.25" in one.sentence
        )
        assert not re.search("worse|better|lost|loss", one.sentence + one.detail)
    assert overall(rows).transitions.verdict == "lost" and overall(rows).value("bits_per_byte_change") != 3.0
    assert worst_first([headline(row) for row in rows if row.probe != "all"])[-1].probe == "own"
    last = groups_of_lines(rows)[-1][0]
    assert (last.ability, last.probe, last.lost, last.verdict) == ("training data", "own", "-", "-")
    assert rows_result(rows)["abilities"][-1]["ability"] == "training"
    assert "own" not in badge(rows).title and badge(rows_of(training_data())).value == "not measured"
