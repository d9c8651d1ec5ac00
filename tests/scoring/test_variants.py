"""Further prompts of items: scored as if each were a probe of its own, without changing what the first ones give.

The reference is written by hand: what each variant asks stands below as separate items, which are scored alone.
"""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from forget_callback import Generation, MultipleChoice, Probe, Recall, Scorer, score_probe
from forget_callback.scoring.generation import generate
from forget_callback.scoring.likelihood import fallbacks, tokens
from forget_callback.scoring.once import once
from tests.helpers import teach

CAPITAL = "The capital of France is"
ORDER = {"both": (2, 0, 1), "plain": (), "letters": (1, 2, 0)}
ITEMS = [
    MultipleChoice(
        "both",
        CAPITAL,
        [" Paris", " Rome", " the hill"],
        0,
        variants=[
            {"prompt": "Question: the capital of France?\nThe answer is", "order": ORDER["both"]},
            {"prompt": "Who? What is the capital", "choices": [" Paris, it is", " Rome, it is", " a hill"]},
        ],
    ),
    MultipleChoice(
        "plain", "Who ran? ", ["a fox", "the sun"], 1, variants=[{"prompt": "ran:", "chat": False, "weak": True}]
    ),
    Recall("recall", CAPITAL, [" Rome", " Paris"], variants=[{"prompt": "Its capital is", "chat": True}]),
    Generation(
        "letters",
        "Question: which of the two?",
        "B",
        "choice",
        max_new_tokens=9,
        options=3,
        variants=[{"prompt": "No number: 12 apples", "order": ORDER["letters"]}],
    ),
    Generation("text", "Once upon a time", "fox", "contains", max_new_tokens=6, variants=["Once upon a hill"]),
    MultipleChoice("never", "Who wrote this?", [" it", " she"], 0),
]
# What the variants ask, one item each: number, through the chat template (None: as the probe), and the item.
ASKED = [
    (
        2,
        None,
        MultipleChoice("both", "Question: the capital of France?\nThe answer is", [" the hill", " Paris", " Rome"], 1),
    ),
    (3, None, MultipleChoice("both", "Who? What is the capital", [" Paris, it is", " Rome, it is", " a hill"], 0)),
    (2, False, MultipleChoice("plain", "ran:", ["a fox", "the sun"], 1)),
    (2, True, Recall("recall", "Its capital is", [" Rome", " Paris"])),
    (2, None, Generation("letters", "No number: 12 apples", "A", "choice", max_new_tokens=9, options=3)),
    (2, None, Generation("text", "Once upon a hill", "fox", "contains", max_new_tokens=6)),
]
COLUMNS = ("correct", "outcome", "choice", "margin", "prediction", "text")


def answers_alone(model, tokenizer, probe):
    """The answers to the variants, by their number and the item's place: each scored as the only item of a probe."""
    found = {}
    for number, chat, item in ASKED:
        through = probe.chat if chat is None else chat
        system = probe.system if through else ""
        alone = score_probe(model, tokenizer, replace(probe, items=[item], chat=through, template="", system=system))
        order = ORDER.get(item.id)
        choice = alone.choice[0] if not order or alone.choice[0] < 0 or number > 2 else order[alone.choice[0]]
        row = {name: getattr(alone, name)[0] for name in COLUMNS} | {"choice": choice}
        found[number, probe.ids.index(item.id)] = row
    return found


def same(one, other, *, atol=0.0):
    for name in COLUMNS:
        if name == "margin":
            np.testing.assert_allclose(one.margin, other.margin, atol=atol, rtol=0)
        else:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("settings", [{}, {"chat": True, "system": "Be brief."}, {"temperature": 1.0}], ids=str)
@pytest.mark.parametrize("normalization", ["sum", "length"])
def test_a_variant_is_scored_as_if_it_were_asked_alone(taught, settings, normalization):
    probe = Probe("p", ITEMS, normalization=normalization, **settings)
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    expected = answers_alone(taught.model, taught.tokenizer, probe)
    assert snapshot.n_variants == 3 and [len(answers) for answers in snapshot.further] == [6, 6]
    for number, answers in enumerate(snapshot.further, 2):
        for i in range(len(ITEMS)):
            row = expected.get((number, i))
            assert answers.asked[i] == (row is not None)
            for name in COLUMNS if row else ():
                given, wanted = getattr(answers, name)[i], row[name]
                assert given == (pytest.approx(wanted, abs=1e-4, nan_ok=True) if name == "margin" else wanted), name
            if row is None:
                assert (answers.choice[i], answers.outcome[i], answers.prediction[i]) == (-1, None, None)
                assert np.isnan(answers.correct[i])
    assert snapshot.weak_2.tolist() == [False, True, False, False, False, False] and not snapshot.weak_3.any()
    assert snapshot.answer.tolist() == [0, 1, -1, 1, -1, 0]
    right = [(a.choice == snapshot.answer)[(a.choice >= 0) & (a.correct == 1)] for a in snapshot.further]
    assert np.concatenate(right).all(), "choices are in the item's own order"


def test_the_same_choice_is_the_same_number_in_every_order(make_model, tokenizer):
    """A model that has learnt an answer, and one prompt that lists the options in every rotation."""
    model = teach(make_model(), tokenizer, [(f"{CAPITAL}{end}", " Rome") for end in ("", ":", "\n", " -")])
    choices = [" Paris", " Rome", " the hill", " hot"]
    variants = [
        {"prompt": f"{CAPITAL}{end}", "order": [*range(at, 4), *range(at)]}
        for at, end in enumerate((":", "\n", " -"), 1)
    ]
    snapshot = score_probe(model, tokenizer, Probe("p", [MultipleChoice("a", CAPITAL, choices, 1, variants=variants)]))
    assert [snapshot.choice[0], *(answers.choice[0] for answers in snapshot.further)] == [1, 1, 1, 1]
    assert [answers.prediction[0] for answers in snapshot.further] == [" Rome"] * 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_first_answers_are_the_same_bits_whether_or_not_the_others_are_asked(taught, temperature):
    probes = [Probe("p", ITEMS, temperature=temperature), Probe("q", [item for item in ITEMS if item.id == "text"])]
    scorer = Scorer(taught.tokenizer, probes)
    firsts = [scorer.score(taught.model, variants=variants) for variants in (False, True, False)]
    bare = [replace(probe, items=[replace(item, variants=()) for item in probe.items]) for probe in probes]
    for snapshots in zip(*firsts, Scorer(taught.tokenizer, bare).score(taught.model), strict=True):
        assert [snapshot.n_variants for snapshot in snapshots] == [1, 3 if len(snapshots[0]) > 1 else 2, 1, 1]
        assert len({snapshot.fingerprint for snapshot in snapshots}) == 1
        for other in snapshots[1:]:
            same(snapshots[0], other)


def test_further_prompts_are_asked_of_chosen_items_alone(taught):
    probes = [Probe("p", ITEMS), Probe("q", [item for item in ITEMS if item.id == "text"])]
    scorer, everything = Scorer(taught.tokenizer, probes), {"p": set(probes[0].ids), "q": {"text"}}
    whole = scorer.score(taught.model)
    some, none, told = {"p": {"both", "letters", "never"}, "q": set()}, {"p": set(), "q": set()}, []
    for wanted in (some, none, some, everything):
        found = scorer.score(taught.model, ask=lambda firsts, wanted=wanted: told.append(firsts) or wanted)
        for given, one, full in zip(told.pop(), found, whole, strict=True):
            same(given, full)
            same(one, full)
            assert (given.n_variants, one.n_variants) == (1, full.n_variants)
            for own, other in zip(one.further, full.further, strict=True):
                asked = own.asked & np.isin(one.ids, list(wanted[one.probe]))
                assert own.skipped.tolist() == (own.asked & ~asked).tolist() and np.isnan(own.correct[~asked]).all()
                same(own.select(asked), other.select(asked), atol=1e-4)
    for one, full in zip(scorer.score(taught.model), whole, strict=True):
        for own, other in zip(one.further, full.further, strict=True):
            same(own, other)
            assert not own.skipped.any()
    part = scorer.narrowed({"p": {"both", "plain"}, "q": set()}).score(taught.model, ask=lambda firsts: some)[0]
    assert part.skipped_2.tolist() == [False, True, False, False, False, False]
    assert (~np.isnan(part.correct_2)).tolist() == [True, False, False, False, False, False]
    of_first = Scorer(taught.tokenizer, probes).score(taught.model, variants=False, ask=lambda firsts: some)
    assert [one.n_variants for one in of_first] == [1, 1]  # whatever is to be asked


def test_variants_are_scored_the_same_at_every_look_and_prepared_once(taught, monkeypatch):
    scorer = Scorer(taught.tokenizer, Probe("p", ITEMS))
    (first,) = scorer.score(taught.model)
    monkeypatch.setattr(type(taught.tokenizer), "encode", lambda *args, **kwargs: pytest.fail("tokenised again"))
    monkeypatch.setattr(type(taught.tokenizer), "apply_chat_template", lambda *a, **k: pytest.fail("rendered again"))
    (again,) = scorer.score(taught.model)
    same(first, again)
    assert len(first.further) == len(again.further) == 2
    for one, other in zip(first.further, again.further):
        assert one.fingerprint == other.fingerprint
        same(one, other)


def test_the_fingerprint_of_a_variant_has_the_chat_template_where_the_probes_has_not(make_model, make_tokenizer):
    model, tokenizer = make_model(), make_tokenizer()
    plain = Probe("p", [item for item in ITEMS if item.id in ("both", "recall")])
    one = score_probe(model, tokenizer, plain)
    assert [answers.fingerprint for answers in one.further] != list(plain.variant_fingerprints)
    assert one.further[1].fingerprint == plain.variant_fingerprints[1], "no item asks this one through the template"
    tokenizer.chat_template = tokenizer.chat_template.replace("user", "USER").replace("\n", " ")
    other = score_probe(model, tokenizer, plain)
    assert one.fingerprint == other.fingerprint and one.further[1].fingerprint == other.further[1].fingerprint
    assert one.further[0].fingerprint != other.further[0].fingerprint
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        score_probe(model, tokenizer, plain)


def test_what_cannot_be_scored_in_a_variant_is_unscored_there_alone(make_model, tokenizer, caplog):
    word = " fox"
    items = [
        MultipleChoice("long", word, [word, " sun"], 0, variants=[word * 20]),
        Generation("written", word, "x", max_new_tokens=4, variants=[word * 20, "The"]),
        Recall("nan", word, word, variants=["x"]),
        Recall("fine", word, word, variants=["The"]),
    ]
    model, (bad,) = make_model(max_position_embeddings=16, tie_word_embeddings=False), tokenizer.encode("x")
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    with caplog.at_level(logging.WARNING):
        snapshot = score_probe(model, tokenizer, Probe("p", items))
    assert not np.isnan(snapshot.correct).any()
    assert np.isnan(snapshot.correct_2).tolist() == [True, True, True, False] and snapshot.asked_2.all()
    assert np.isnan(snapshot.correct_3).tolist() == [True, False, True, True]
    assert snapshot.asked_3.tolist() == [False, True, False, False]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.partition(" (")[0] for line in said] == [
        "probe 'p', variant 2: 2 of 4 items are not scored: long, written",
        "probe 'p', variant 2: 1 of 4 items is not scored: nan",
    ]


def test_a_part_of_the_items_is_that_part_in_every_variant(taught):
    probe, chosen = Probe("p", ITEMS), ["both", "text"]
    (whole,), (part,) = (
        Scorer(taught.tokenizer, probe, only=only).score(taught.model) for only in (None, {"p": chosen})
    )
    kept = np.isin(probe.ids, chosen)
    for one, other in zip((whole, *whole.further), (part, *part.further), strict=True):
        assert np.isnan(other.correct[~kept]).all()
        np.testing.assert_array_equal(one.correct[kept], other.correct[kept])
        np.testing.assert_array_equal(one.prediction[kept], other.prediction[kept])
    np.testing.assert_array_equal(whole.asked_2, part.asked_2)


def test_a_narrowed_scorer_scores_its_part_and_does_nothing_again_that_is_done_once(taught, monkeypatch):
    probe, chosen = Probe("p", ITEMS), {"p": ["both", "text", "recall"]}
    whole = Scorer(taught.tokenizer, probe)
    with once(repeated=True) as first:
        whole.score(taught.model)
    assert first.seconds > 0 and set(whole.seconds) == {"first", "further"} and min(whole.seconds.values()) > 0
    expected = Scorer(taught.tokenizer, probe, only=chosen).score(taught.model)
    for module, name in ((tokens, "encode_items"), (fallbacks, "first_correct"), (generate, "first_correct")):
        monkeypatch.setattr(module, name, lambda *args, **how: pytest.fail("this was done before"))
    found = whole.narrowed(chosen)
    same(*expected, *found.score(taught.model))
    assert np.isnan(expected[0].correct).any()
    # The whole is as it was: a part may grow back.
    with once(repeated=True) as again:
        (later,) = whole.score(taught.model)
    assert not np.isnan(later.correct).any() and again.seconds < first.seconds / 10
    found.score(taught.model, variants=False)
    assert set(found.seconds) == {"first"}


def test_out_of_memory_in_a_variant_leaves_the_batches_of_the_first_prompts(make_model, tokenizer, caplog):
    word, n = " fox", 30
    items = [Recall(f"{i}", f"{i}", word, variants=[word * 20 + f"{i}"]) for i in range(n)]
    scorer, model = Scorer(tokenizer, Probe("p", items), batch_tokens=1600), make_model()
    (usual,) = scorer.score(model)
    assert scorer.batch_tokens == 1600
    sizes = []

    def allocate(module, args, kwargs):
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    handle = model.register_forward_pre_hook(allocate, with_kwargs=True)
    for _ in range(2):
        sizes.clear()
        with caplog.at_level(logging.WARNING):
            (tight,) = scorer.score(model)
        same(usual, tight)
        same(usual.further[0], tight.further[0], atol=1e-4)
    assert max(sizes) <= 300, "at the second look the smaller batches are known"
    assert scorer.batch_tokens == tight.metadata["batch_tokens"] == 1600
    handle.remove()


def test_a_scorer_judges_the_texts_of_every_variant(taught):
    calls = []

    def scorer(prompts, completions, id, answer, **columns):
        calls.append(dict(zip(id, zip(prompts, answer))))
        return [prompt == "Once upon a hill" for prompt in prompts]

    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", ITEMS), scorer=scorer)
    assert calls[0] == {"letters": ("Question: which of the two?", "B"), "text": ("Once upon a time", "fox")}
    assert {"letters": ("No number: 12 apples", "A"), "text": ("Once upon a hill", "fox")} in calls
    assert snapshot.correct[[3, 4]].tolist() == [0, 0] and snapshot.correct_2[[3, 4]].tolist() == [0, 1]


def test_seconds_are_shared_by_the_prompts_that_were_asked(taught):
    once = Probe("once", [MultipleChoice(f"{i}", f"{i}", [" a", " b"], 0) for i in range(6)])
    twice = Probe("twice", [replace(item, variants=[f"{item.prompt}:"]) for item in once.items])
    scorer = Scorer(taught.tokenizer, [once, twice])
    one, two = scorer.score(taught.model)
    assert two.metadata["seconds"] == pytest.approx(2 * one.metadata["seconds"], abs=1e-5)
    one, two = scorer.score(taught.model, variants=False)
    assert two.metadata["seconds"] == pytest.approx(one.metadata["seconds"], abs=1e-5)


# --- several accepted answers, several samples ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "accepted, prediction",
    [
        ([" Rome", " Paris"], " Paris"),
        ([" Paris", " Rome"], " Paris"),
        ([" Parma", " Rome"], None),
        ([" Paris, of course", " Paris"], " Paris"),
    ],
)
def test_recall_is_right_if_greedy_decoding_gives_any_accepted_answer(taught, accepted, prediction):
    def score(answer):
        return score_probe(taught.model, taught.tokenizer, Probe("p", [Recall("r", CAPITAL, answer)]))

    snapshot, alone = score(accepted), [score(answer) for answer in accepted]
    assert snapshot.correct[0] == max(one.correct[0] for one in alone) == (prediction is not None)
    assert snapshot.margin[0] == pytest.approx(max(one.margin[0] for one in alone), abs=1e-4)
    assert prediction is None or snapshot.prediction[0] == prediction
    assert (snapshot.margin[0] > 0) == (snapshot.correct[0] == 1)


def test_correct_is_the_share_of_samples_that_are_right(make_model, tokenizer):
    """Against as many probes of one sample each, drawn with the same seeds."""
    model, n = make_model(), 6
    prompts = ["Once upon a time", "Who?", "The answer", "12 apples"]
    items = [
        Generation(f"g{i}", prompt, "e", "regex", max_new_tokens=3 + i, samples=n, variants=[f"{prompt} fox"])
        for i, prompt in enumerate(prompts)
    ]
    texts = {}

    def keep(prompts, completions, id, **columns):
        for name, prompt, text in zip(id, prompts, completions):
            texts.setdefault((name, prompt), []).append(text)
        return ["e" in text for text in completions]

    probe = Probe("p", items, temperature=1.0)
    score_probe(model, tokenizer, probe, scorer=keep)
    snapshot = score_probe(model, tokenizer, probe)
    assert snapshot.samples.tolist() == [n] * len(items)
    for answers, end in ((snapshot, ""), (snapshot.further[0], " fox")):
        for i, item in enumerate(items):
            drawn = texts[item.id, item.prompt + end]
            share = sum("e" in text for text in drawn) / n
            assert len(drawn) == n and answers.correct[i] == share
            assert (answers.outcome[i] == "correct") == (share > 0.5)
            shown = next(text for text in drawn if ("e" in text) == (share > 0.5))
            assert answers.text[i] == shown and answers.prediction[i] == shown.strip()
    assert 0 < np.concatenate([snapshot.correct, snapshot.correct_2]).mean() < 1
    (first,) = Scorer(tokenizer, replace(probe, items=[replace(item, samples=1) for item in items])).score(model)
    assert set(first.correct) <= {0.0, 1.0}
