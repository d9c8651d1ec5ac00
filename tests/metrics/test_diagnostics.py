"""What the warnings promise: each comes where its condition holds, with its numbers, and not where it does not."""

import logging
from math import nan

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from forget_callback import ForgetMonitor, Generation, MultipleChoice, Probe, Recall, Snapshot, compare, load_probe
from forget_callback.metrics import diagnostics
from forget_callback.metrics.diagnostics import FEW_ITEMS, SIGNIFICANT
from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.snapshots.answers import Answers

N = 400


def snapshot(step, correct, **columns):
    ids = [f"i{i}" for i in range(len(correct))]
    return Snapshot("p", "f", step, ids=ids, correct=correct, **columns)


def choices(step, right, *, k=4, n=N, answer=None, wrong=1, **columns):
    """A snapshot of `n` items with `k` options, the first `right` of them right; others `wrong` positions further."""
    answer = np.arange(n) % k if answer is None else answer
    correct = (np.arange(n) < right).astype(float)
    choice = np.where(correct == 1, answer, (answer + wrong) % k)
    given = {"choice": choice, "answer": answer, "n_choices": np.full(n, k), **columns}
    return snapshot(step, correct, **given)


def advice(*given, **options):
    """All but that these items have one prompt."""
    found = diagnostics.advice(*given, **options)
    assert sum(one.key == "one_prompt" for one in found) == 1
    return tuple(one for one in found if one.key != "one_prompt")


def keys(*given, **options):
    return [one.key for one in advice(*given, **options)]


def only(found):
    (one,) = found
    return one


def test_a_good_probe_gets_no_advice():
    assert keys(choices(0, 300), choices(1, 280)) == []
    assert keys(snapshot(0, [1.0] * N), snapshot(1, [0.0] * N)) == []


@pytest.mark.parametrize(
    "ability, n, expected", [("text", 60, []), ("text", 15, ["few_items"]), ("training", 64, []), ("training", 9, [])]
)
def test_documents_have_one_form_and_those_of_the_training_data_claim_nothing(ability, n, expected):
    kinds = {"kind": ["text"] * n, "ability": [ability] * n, "bits_per_byte": np.ones(n)}
    found = diagnostics.advice(*(snapshot(step, np.ones(n), **kinds) for step in (0, 1)))
    assert [one.key for one in found] == expected


def test_the_builtin_facts_get_none():
    facts = load_probe("builtin:facts?kind=choice")
    answer, k, n = facts.answer, facts.n_choices, len(facts)
    right = np.random.default_rng(0).random(n) < 0.6
    choice = np.where(right, answer, (answer + 1) % k.astype(int))
    category = [item.category for item in facts.items]
    given = {"choice": choice, "answer": answer, "n_choices": k, "category": category}
    assert keys(*(snapshot(step, right.astype(float), **given) for step in (0, 1))) == []


@pytest.mark.parametrize("n, few", [(1, True), (MIN_ITEMS, True), (FEW_ITEMS - 1, True), (FEW_ITEMS, False)])
def test_few_items(n, few):
    found = advice(snapshot(0, [1.0] * n), snapshot(1, [1.0] * n))
    assert [one.key for one in found] == ["few_items"] * few
    if few:
        items, least = "item is" if n == 1 else "items are", 30 if n < MIN_ITEMS else 200
        assert str(found[0]).startswith(f"probe 'p': {n} {items} fewer than {least}") and "add items" in found[0].text
        assert ("nothing can be claimed" in found[0].text) == (n < MIN_ITEMS)


def test_two_options():
    path = [choices(step, 300, k=2) for step in (0, 0)]
    found = only(advice(*path)).text
    assert found.startswith(f"{N} of {N} items have two options") and "lost less gained" in found
    assert "knowledge_lost_range_low" in found
    mixed = [choices(s, 300, n_choices=np.where(np.arange(N) < 10, 2, 4), answer=np.arange(N) % 2) for s in (0, 1)]
    (found,) = (one.text for one in advice(*mixed) if one.key == "two_choices")
    assert found.startswith(f"10 of {N} items") and "they count in knowledge_lost_net, not in knowledge_lost" in found


@pytest.mark.parametrize(
    "strong, weak, said",
    [
        (400, 0, ""),
        (360, 0, ""),
        (359, 0, "41 items have one prompt, so"),
        (100, 250, "50 items have one prompt and 250 a second that is only words around the first"),
    ],
)
def test_items_without_a_second_prompt_of_other_structure(strong, weak, said):
    correct, at = np.ones(N), np.arange(N)
    asked = at < strong + weak
    further = Answers("v2", correct=np.where(asked, 1.0, nan), asked=asked, weak=asked & (at >= strong))
    found = diagnostics.advice(*(snapshot(step, correct, further=(further,)) for step in (0, 1)))
    assert [one.key for one in found] == ["one_prompt"] * bool(said)
    assert all(one.text.startswith(said) and "in this prompt only" in one.text for one in found)


@pytest.mark.parametrize("texts, said", [(0, ""), (1, "items have one prompt, so"), (N, "items have one prompt, so")])
def test_recall_alone_needs_no_second_prompt_and_a_generated_text_does(texts, said):
    kind = np.where(np.arange(N) < texts, "generation", "recall")
    found = diagnostics.advice(*(snapshot(step, np.ones(N), kind=kind) for step in (0, 1)))
    assert [one.text.startswith(said) for one in found if one.key == "one_prompt"] == [True] * bool(said)


def test_recall_beside_choices_needs_no_second_prompt():
    """Knowledge is read from the choices; half of the built-in facts are recall."""
    right, k = np.ones(N), np.where(np.arange(N) < N // 2, 4, np.inf)
    columns = {"n_choices": k, "choice": np.where(np.isfinite(k), 0, -1), "answer": np.where(np.isfinite(k), 0, -1)}
    further = Answers("v2", correct=np.where(np.isfinite(k), 1.0, nan), asked=np.isfinite(k), choice=columns["choice"])
    found = diagnostics.advice(*(snapshot(step, right, further=(further,), **columns) for step in (0, 1)))
    assert "one_prompt" not in [one.key for one in found]


@pytest.mark.parametrize("side", [0, 1])
def test_choices_that_were_not_stored(side):
    path = [choices(step, 390, **({"choice": [-1] * N} if step == side else {})) for step in (0, 1)]
    found = [one for one in advice(*path) if one.key == "no_choices"]
    assert "not stored for 390 of" in only(found).text and "store `choice`" in only(found).text


def test_an_unread_option_is_no_choice_that_was_not_stored():
    now = choices(1, 300, choice=np.where(np.arange(N) < 300, np.arange(N) % 4, -1))
    assert "no_choices" not in keys(choices(0, 300), now)


@pytest.mark.parametrize("right, little", [(100, True), (144, True), (146, False), (400, False)])
def test_little_known_at_the_baseline(right, little):
    """K_before = (r - (N - r)/3)/N is .15 at r = 145 of 400 items with four options."""
    found = advice(choices(0, right), choices(1, right))
    assert [one.key for one in found] == ["little_known"] * little


def test_what_only_the_first_prompts_show_is_said():
    right = np.arange(N) < 380
    further = Answers("v2", correct=np.zeros(N), choice=1 + np.arange(N) % 3, asked=np.ones(N, bool))
    said = {"answer": np.zeros(N, int), "choice": np.where(right, 0, 1), "further": (further,)}
    found = diagnostics.advice(choices(0, 380, **said), choices(1, 380, **said))
    text = only([one for one in found if one.key == "little_known"]).text
    assert "right in their first prompts" in text and "?variants=off" in text


def test_little_known_of_open_ended_items():
    assert keys(snapshot(0, [1.0] * 59 + [0.0] * 341), snapshot(1, [0.0] * N)) == ["little_known"]
    assert keys(snapshot(0, [1.0] * 60 + [0.0] * 340), snapshot(1, [0.0] * N)) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_key_is_held_against_the_chi_square_of_scipy(seed):
    rng = np.random.default_rng(seed)
    answer = rng.choice(4, N, p=np.array([1 + 0.05 * seed, 1, 1, 1]) / (4 + 0.05 * seed))
    unbalanced = bool(chisquare(np.bincount(answer, minlength=4)).pvalue < SIGNIFICANT)
    path = [choices(step, 300, answer=answer) for step in (0, 1)]
    assert keys(*path) == ["key_unbalanced"] * unbalanced


def test_a_key_of_several_sizes_is_tested_within_each():
    k = np.repeat([2, 5], 200)
    balanced = np.arange(N) % k  # over all items, positions 0 and 1 are right most often, and must be
    path = [choices(step, 300, n_choices=k, answer=balanced, k=k) for step in (0, 1)]
    assert "key_unbalanced" not in keys(*path)
    path = [choices(step, 300, n_choices=k, answer=np.where(k == 5, 0, balanced), k=k) for step in (0, 1)]
    assert "key_unbalanced" in keys(*path)


def test_a_key_of_few_items_cannot_be_tested():
    assert keys(*(choices(step, 12, n=12, answer=np.zeros(12, int)) for step in (0, 1))) == ["few_items"]


def test_knowledge_lost_below_zero_with_its_interval():
    """Every wrong item moves to another wrong option, and none comes from a right one: guessing does not do that."""
    found = only(advice(choices(0, 200), choices(7, 200, wrong=2)))
    assert found.key == "below_zero" and "step 7" in found.text and "equally familiar" in found.text
    stored = {"choice": [-1] * N}
    found = advice(choices(0, 200, **stored), choices(7, 200, **stored))
    assert [one.key for one in found] == ["no_choices", "below_zero"] and "guesses repeat" in found[1].text


def test_the_baseline_against_itself_says_nothing_about_change():
    stored = {"choice": [-1] * N}
    assert keys(choices(0, 200, **stored), choices(0, 200, **stored)) == ["no_choices"]


@pytest.mark.parametrize("unread, changed", [(0, False), (3, False), (9, False), (10, True), (60, True)])
def test_unreadable_answers_that_became_more(unread, changed):
    """All of 10 pairs that differ go one way: mid-p is 2 (1/2)^10 - (1/2)^10 = .00098; of 9, .002."""
    outcome = ["unparsed"] * unread + ["correct"] * (N - unread)
    now = snapshot(3, [0.0] * unread + [1.0] * (N - unread), outcome=outcome)
    found = advice(snapshot(0, [1.0] * N), now)
    assert [one.key for one in found] == ["format_changed"] * changed
    back = advice(now, snapshot(4, [1.0] * N))
    assert [one.key for one in back] == ["format_changed"] * changed
    if unread == 60:
        assert "from 0.0% at the baseline to 15.0% at step 3" in found[0].text and "format_loss" in found[0].text


def test_as_many_unreadable_answers_as_before_are_no_change():
    outcome = ["unparsed"] * 100 + ["correct"] * 300
    path = [snapshot(step, [0.0] * 100 + [1.0] * 300, outcome=outcome) for step in (0, 1)]
    assert keys(*path) == []


@pytest.mark.parametrize("right", [60, 70, 72, 73, 74, 75, 80, 100])
def test_below_chance_is_the_binomial_test_of_scipy(right):
    below = binomtest(right, N, 0.25, alternative="less").pvalue < SIGNIFICANT
    path = [choices(step, right) for step in (0, 1)]
    assert ("below_chance" in keys(*path)) == below


def test_below_chance_in_one_category_only():
    """Half of the items were taught, and their answers are the distractors of the other half."""
    category = ["taught"] * 200 + ["unseen"] * 200
    found = only(advice(*(choices(step, 210, category=category) for step in (0, 1))))
    assert found.key == "below_chance" and "in category 'unseen' (0.050 of 200 items, chance 0.250)" in found.text
    assert "as familiar as the answers" in found.text


def test_below_chance_with_several_numbers_of_options():
    k = np.repeat([3, 5], 200)
    path = [choices(step, 30, n_choices=k, answer=np.arange(N) % k, k=k) for step in (0, 1)]
    assert "below_chance" in keys(*path)
    path = [choices(step, 100, n_choices=k, answer=np.arange(N) % k, k=k) for step in (0, 1)]
    assert "below_chance" not in keys(*path)


@pytest.mark.parametrize("sampled, samples, said", [(0, 1, 0), (1, 1, 1), (1, 3, 1), (1, 4, 0)])
def test_sampled_answers_need_several_samples(sampled, samples, said):
    path = [snapshot(step, [1.0] * N, samples=[samples] * N) for step in (0, 1)]
    found = advice(*path, sampled=bool(sampled))
    assert [one.key for one in found] == ["few_samples"] * said
    assert all(f"sampled, {samples} an item" in one.text and "draw 4 or more" in one.text for one in found)
    recall = [snapshot(step, [1.0] * N, kind=["recall"] * N) for step in (0, 1)]
    assert diagnostics.advice(*recall, sampled=True) == ()  # it is never sampled


@pytest.mark.parametrize("correct", [[nan], [nan] * N, [1.0], [0.0]])
def test_nothing_scored_and_one_item_do_not_fail(correct):
    for step in (0, 1):
        found = keys(snapshot(0, correct), snapshot(step, correct))
        expected = ["few_items"] * (len(correct) < FEW_ITEMS) + ["little_known"] * (correct == [0.0])
        assert found == expected
        k = {"n_choices": [4] * len(correct), "answer": [0] * len(correct)}
        assert "below_chance" not in keys(snapshot(0, correct, **k), snapshot(step, correct, **k))


def test_another_probe_is_refused():
    with pytest.raises(ValueError, match="different probes"):
        advice(snapshot(0, [1.0]), Snapshot("q", "g", 1, ids=["i0"], correct=[1.0]))


# In a run each advice is said once.


def all_right(probe):
    choice = probe.answer if isinstance(probe.items[0], MultipleChoice) else [-1] * len(probe)
    return Snapshot(probe.name, probe.fingerprint, 0, list(probe.ids), np.ones(len(probe)), choice=choice)


def told(caplog):
    """What was logged but for items with one prompt."""
    return [message for message in caplog.messages if "in this prompt only" not in message]


def test_the_monitor_says_each_advice_once_per_probe(tmp_path, caplog):
    few = [MultipleChoice(f"m{i}", "Q", [" a", " b", " c"], i % 3) for i in range(30)]
    probes = [Probe("small", few), Probe("tiny", few[:9]), Probe("fine", [Recall(f"r{i}", "Q", "A") for i in range(N)])]
    monitor = ForgetMonitor(probes, tmp_path)
    with caplog.at_level(logging.WARNING):
        monitor.observe(0, [all_right(probe) for probe in probes])
        assert [m.split(":")[0] for m in told(caplog)] == ["probe 'small'", "probe 'tiny'"]
        for step in (1, 2, 3):
            monitor.observe(step, [all_right(probe) for probe in probes])
    assert len(told(caplog)) == 2 and len(caplog.messages) == 4, "that two have one prompt is said once as well"


def test_the_monitor_knows_that_answers_are_sampled(tmp_path, caplog):
    items = [Generation(f"g{i}", "Q", "A") for i in range(N)]
    with caplog.at_level(logging.WARNING):
        greedy, sampled = Probe("greedy", items), Probe("sampled", items, temperature=0.7)
        ForgetMonitor(greedy, tmp_path / "a").observe(0, all_right(greedy))
        assert not told(caplog)
        ForgetMonitor(sampled, tmp_path / "b").observe(0, all_right(sampled))
    assert "probe 'sampled': answers are sampled" in caplog.text


def test_what_appears_later_is_said_when_it_appears(tmp_path, caplog):
    probe = Probe("p", [Generation(f"g{i}", "Q", "A") for i in range(N)])
    monitor = ForgetMonitor(probe, tmp_path)
    outcome = np.array(["unparsed"] * 50 + ["correct"] * (N - 50), object)
    correct = (outcome == "correct").astype(float)
    broken = Snapshot("p", probe.fingerprint, 0, list(probe.ids), correct, outcome=outcome)
    with caplog.at_level(logging.WARNING):
        monitor.observe(0, all_right(probe))
        assert not told(caplog)
        for step in (1, 2):
            monitor.observe(step, broken)
    assert len(told(caplog)) == 1 and "that is a change of format" in caplog.text


@pytest.mark.parametrize("ability, kind", [("behaviour", "generation"), ("text", "text"), ("task", "generation")])
def test_behaviour_and_documents_need_no_second_prompt(ability, kind):
    before = Snapshot("p", "f", 0, list(range(40)), np.ones(40), ability=[ability] * 40, kind=[kind] * 40)
    found = diagnostics.advice(before, before.at(1), changed=compare(before, before.at(1)), sampled=False)
    said = {one.key for one in found}
    assert ("one_prompt" in said) == (ability == "task")
