"""`score_probe` against slow definitions: choices, recall, unscored items, and what must not change a score."""

import contextlib
import copy
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from forget_callback import Generation, MultipleChoice, Probe, Recall, load_probe, score_probe
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.likelihood.tokens import encode_items
from tests.helpers import greedy, log_probabilities

WORDS = [" Paris", " Rome", " the fox ran", " hot", " é 東京", " 42", " answer", " sun went down over the hill"]
PROMPTS = ["The capital of France is", "Who? ", "", "x\n", "Question: which of the following is it? Answer:", "東京"]


def choice_items(n, *, seed=0):
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        choices = rng.choice(WORDS, rng.integers(2, len(WORDS) + 1), replace=False).tolist()
        items.append(MultipleChoice(f"c{i}", PROMPTS[i % len(PROMPTS)], choices, int(rng.integers(len(choices)))))
    return items


def definition(model, tokenizer, probe):
    """Normalized log-probabilities of each item's options, one unpadded forward pass per option, in float64."""
    probe = bind(probe, tokenizer)
    result = [[] for _ in probe.items]
    for row in encode_items(probe, tokenizer).rows:
        table = log_probabilities(model, row.tokens)
        logprob = sum(float(table[at - 1, row.tokens[at]]) for at in range(row.n_context, len(row.tokens)))
        text = probe.items[row.item].choices[len(result[row.item])]
        bytes_ = len(text[1:].encode()) if text.startswith(" ") else len(text.encode())
        length = {"sum": 1, "length": bytes_, "token": len(row.tokens) - row.n_context}[probe.normalization]
        result[row.item].append(logprob / length)
    return result


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("normalization", ["sum", "length", "token"])
def test_every_choice_item_equals_the_definition(make_model, tokenizer, normalization, chat):
    model = make_model(seed=1)
    probe = Probe("p", choice_items(24), normalization=normalization, chat=chat)
    snapshot = score_probe(model, tokenizer, probe)
    for i, (item, scores) in enumerate(zip(probe.items, definition(model, tokenizer, probe), strict=True)):
        np.testing.assert_allclose(snapshot.scores[i], scores, atol=1e-4, rtol=0)
        best_wrong = max(score for j, score in enumerate(scores) if j != item.answer)
        assert snapshot.margin[i] == pytest.approx(scores[item.answer] - best_wrong, abs=1e-4)
        assert snapshot.choice[i] == np.argmax(scores)
        assert snapshot.correct[i] == (np.argmax(scores) == item.answer)
        assert snapshot.outcome[i] == ("correct" if snapshot.correct[i] else "wrong")
        assert snapshot.prediction[i] == item.choices[snapshot.choice[i]]
        assert snapshot.text[i] is None
    assert 0 < snapshot.accuracy < 1


def test_the_three_normalizations_differ(make_model, tokenizer):
    """Otherwise the test above could not tell them apart."""
    items = choice_items(24)
    chosen = [
        tuple(score_probe(make_model(seed=1), tokenizer, Probe("p", items, normalization=name)).choice)
        for name in ("sum", "length", "token")
    ]
    assert len(set(chosen)) == 3


def test_the_sums_and_choices_are_lm_evals(make_model, tokenizer, make_hflm):
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    model, items = make_model(seed=2), choice_items(24)
    pairs = [(item.prompt, choice) for item in items for choice in item.choices]
    requests = [instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    sums = [logprob for logprob, _ in make_hflm(model, tokenizer).loglikelihood(requests, disable_tqdm=True)]
    snapshot = score_probe(model, tokenizer, Probe("p", items))
    np.testing.assert_allclose(np.concatenate(snapshot.scores), sums, atol=1e-4, rtol=0)
    ends = np.cumsum([len(item.choices) for item in items])
    assert snapshot.choice.tolist() == [int(np.argmax(part)) for part in np.split(sums, ends[:-1])]


def recall_items(taught):
    """What the model has memorized, and the same answers after the wrong prompts."""
    prompts, answers = list(taught.lines), [answer.removesuffix("<|im_end|>") for answer in taught.lines.values()]
    pairs = [(p, a) for p in prompts for a in answers if a.strip()]
    return [Recall(f"r{i}", prompt, answer) for i, (prompt, answer) in enumerate(pairs)]


def test_recall_is_correct_where_generate_gives_the_answer(taught):
    probe = Probe("p", recall_items(taught))
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    for i, row in enumerate(encode_items(probe, taught.tokenizer).rows):
        head, wanted = list(row.tokens[: row.n_context]), list(row.tokens[row.n_context :])
        config = GenerationConfig(max_new_tokens=len(wanted), do_sample=False, pad_token_id=0, eos_token_id=2)
        ids = torch.tensor([head])
        output = taught.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert snapshot.correct[i] == (output[0, len(head) :].tolist() == wanted)
    assert snapshot.correct.sum() == len(taught.lines) - 1


def test_recall_margin_is_the_smallest_lead(taught):
    probe = Probe("p", recall_items(taught))
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    for i, row in enumerate(encode_items(probe, taught.tokenizer).rows):
        leads = []
        for at in range(row.n_context, len(row.tokens)):
            line = log_probabilities(taught.model, row.tokens)[at - 1]
            others = torch.cat([line[: row.tokens[at]], line[row.tokens[at] + 1 :]])
            leads.append(float(line[row.tokens[at]] - others.max()))
        assert snapshot.margin[i] == pytest.approx(min(leads), abs=1e-4)
        assert (snapshot.margin[i] > 0) == bool(snapshot.correct[i])
    assert (snapshot.choice == -1).all()


@pytest.mark.parametrize(
    "answer, prediction",
    [
        (" there was a fox who ran", " there was a fox who ran"),
        (" there was a hill who ran", " there was a fox"),
        (" a fox", " there"),
    ],
)
def test_recall_prediction_ends_at_the_first_wrong_token(taught, answer, prediction):
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", [Recall("r", "Once upon a time", answer)]))
    assert snapshot.prediction[0] == prediction


WHOLE = "the whole text"
GENERATED = [  # match, prompt, answer, limit, outcome, prediction
    ("exact", "The capital of France is", "paris", 20, "correct", "Paris"),
    ("exact", "The capital of France is", ["Lyon", "Paris."], 20, "correct", "Paris"),
    ("exact", "The capital of France is", "Rome", 20, "wrong", "Paris"),
    ("exact", "Who wrote this?", "me", 20, "unparsed", None),
    ("exact", "Once upon a time", "there was a fox", 3, "truncated", "there was a"),
    ("prefix", "The capital of Italy is", "Rome", 20, "correct", "Rome"),
    ("prefix", "Once upon a time", "there was", 4, "correct", "there was a fox"),
    ("contains", "Once upon a time", "forest", 40, "correct", WHOLE),
    ("contains", "The opposite of cold is", "warm", 40, "wrong", WHOLE),
    ("contains", "Once upon a time", "forest", 6, "truncated", WHOLE),
    ("number", "12 apples and 30 more:", "42", 20, "correct", "42"),
    ("number", "12 apples and 30 more:", "41", 20, "wrong", "42"),
    ("number", "No number:", "42", 20, "unparsed", None),
    ("number", "12 apples and 30 more:", "42", 3, "truncated", None),
    ("math", "Half as a fraction:", "0.5", 40, "correct", WHOLE),
    ("math", "Half as a fraction:", "\\frac{1}{3}", 40, "wrong", WHOLE),
    ("choice", "Question: which of the two?", "B", 20, "correct", "B"),
    ("choice", "Question: which of the two?", "A", 20, "wrong", "B"),
    ("choice", "No number:", "A", 20, "unparsed", None),
    ("choice", "Question: which of the two?", "B", 2, "truncated", None),
    ("regex", "Once upon a time", r"fox \w+ ran", 40, "correct", WHOLE),
    ("regex", "Once upon a time", r"\d", 40, "wrong", WHOLE),
]


@pytest.mark.parametrize("batch_tokens", [1, 150, None])
def test_generation_items_of_every_kind(taught, batch_tokens):
    items = [
        Generation(f"{i}: {match} {answer}", prompt, answer, match, max_new_tokens=limit)
        for i, (match, prompt, answer, limit, _, _) in enumerate(GENERATED)
    ]
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", items), batch_tokens=batch_tokens)
    found = dict(zip(snapshot.ids, snapshot.outcome))
    assert found == {item.id: row[4] for item, row in zip(items, GENERATED)}
    for i, (item, row) in enumerate(zip(items, GENERATED)):
        tokens = greedy(taught.model, taught.tokenizer.encode(item.prompt), item.max_new_tokens, stops=[2])
        whole = taught.tokenizer.decode(tokens, skip_special_tokens=True)
        by_line = item.match in ("exact", "prefix")
        assert snapshot.text[i].rstrip("\n") == (whole.split("\n")[0] if by_line else whole)
        assert snapshot.prediction[i] == (whole.strip() if row[5] == WHOLE else row[5])
    assert np.isnan(snapshot.margin).all() and (snapshot.choice == -1).all()


def mixed_items(taught):
    """All three kinds, shuffled, so that no batch keeps their order."""
    items = [
        *choice_items(7),
        *recall_items(taught)[:40:5],
        *(Generation(f"g{i}", p, "Paris", "contains", max_new_tokens=4 + i % 3) for i, p in enumerate(taught.lines)),
    ]
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))]


@pytest.mark.parametrize("batch_tokens", [1, 37, 200, 10**6])
def test_the_batch_size_does_not_change_the_snapshot(taught, batch_tokens):
    probe = Probe("p", mixed_items(taught))
    usual = score_probe(taught.model, taught.tokenizer, probe)
    other = score_probe(taught.model, taught.tokenizer, probe, batch_tokens=batch_tokens)
    assert other.ids.tolist() == list(probe.ids)
    for name in ("correct", "outcome", "choice", "prediction", "text"):
        np.testing.assert_array_equal(getattr(usual, name), getattr(other, name))
    np.testing.assert_allclose(usual.margin, other.margin, atol=1e-4)
    how = {"likelihood": "tree, tiles", "generation": "loop", "processes": 1}
    assert other.metadata.pop("seconds") > 0
    assert other.metadata == {"batch_tokens": batch_tokens, "dtype": "float32", **how}


def test_an_items_answer_does_not_depend_on_the_other_items(taught):
    items = mixed_items(taught)
    together = score_probe(taught.model, taught.tokenizer, Probe("p", items)).to_pandas()
    for i, item in enumerate(items):
        alone = score_probe(taught.model, taught.tokenizer, Probe("p", [item])).to_pandas()
        for name in ("id", "outcome", "choice", "prediction", "text"):
            assert str(alone[name][0]) == str(together[name][i])


def test_a_name_is_neither_a_model_nor_a_tokenizer(tokenizer):
    probe = Probe("p", choice_items(2))
    with pytest.raises(ValueError, match=r"model must be a loaded model .*got 'gpt2'; load_model\(...\) loads one"):
        score_probe("gpt2", tokenizer, probe)
    with pytest.raises(ValueError, match=r"tokenizer must be .*got 'gpt2'; load_tokenizer\(...\) loads one"):
        Scorer("gpt2", probe)


@pytest.mark.parametrize("batch_tokens", [0, -5])
def test_a_budget_below_one_is_an_error(make_model, tokenizer, batch_tokens):
    with pytest.raises(ValueError, match=f"batch_tokens must be 1 or more, got {batch_tokens}"):
        score_probe(make_model(), tokenizer, Probe("p", choice_items(1)), batch_tokens=batch_tokens)


def test_items_with_tokens_that_the_model_lacks_are_unscored_and_cost_no_other(make_model, tokenizer, caplog):
    """As where a token was added and the embeddings were not resized: in CUDA the lookup would end the process."""
    model = make_model()
    added = copy.deepcopy(tokenizer)
    added.add_tokens(["<new>"])
    size = model.get_input_embeddings().num_embeddings
    assert added.convert_tokens_to_ids("<new>") >= size
    items = [
        MultipleChoice("plain", "The answer is", [" one", " two"], 0),
        MultipleChoice("prompt", "The <new> answer is", [" one", " two"], 0),
        MultipleChoice("choice", "The answer is", [" one", " two<new>"], 0),
        Generation("text", "The <new> is", ("one",), "contains", max_new_tokens=4),
        Recall("recall", "The <new> is", " one"),
    ]
    snapshot = score_probe(model, added, Probe("p", items))
    why = f"a token that is not among the model's {size}"
    assert np.isnan(snapshot.correct).tolist() == [False, True, True, True, True]
    assert snapshot.metadata["not_scored"] == {why: 4} and why in caplog.text
    alone = score_probe(model, tokenizer, Probe("p", items[:1]))
    np.testing.assert_array_equal(snapshot.margin[:1], alone.margin)


def test_items_longer_than_the_models_context_are_unscored_and_named(make_model, tokenizer, caplog):
    """A limit of 12 positions: the longest row that is scored has 12 tokens, the shortest that is not has 13."""
    word = " fox"
    assert len(tokenizer.encode(word * 11)) == 11
    items = [
        Recall("recall 12", word * 11, word),
        Recall("recall 13", word * 12, word),
        MultipleChoice("choice 13", word * 10, [word, word * 3], 0),
        Generation("generation 12", word * 5, "x", max_new_tokens=7),
        Generation("generation 13", word * 6, "x", max_new_tokens=7),
    ]
    with caplog.at_level(logging.WARNING):
        snapshot = score_probe(make_model(max_position_embeddings=12), tokenizer, Probe("p", items))
    scored = ~np.isnan(snapshot.correct)
    assert snapshot.ids[scored].tolist() == ["recall 12", "generation 12"]
    assert snapshot.outcome[~scored].tolist() == [None] * 3
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "probe 'p': 3 of 5 items are not scored: recall 13, choice 13, generation 13 "
        "(longer than the model's context of 12 tokens)"
    ]


def test_all_items_too_long_is_all_unscored(make_model, tokenizer):
    snapshot = score_probe(make_model(max_position_embeddings=2), tokenizer, Probe("p", choice_items(3)))
    assert np.isnan(snapshot.correct).all() and np.isnan(snapshot.accuracy)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_of_nan_scores_nothing(make_model, tokenizer, taught, temperature):
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    snapshot = score_probe(model, tokenizer, Probe("p", mixed_items(taught), temperature=temperature))
    assert np.isnan(snapshot.correct).all() and np.isnan(snapshot.margin).all()
    assert set(snapshot.outcome) == set(snapshot.prediction) == set(snapshot.text) == {None}
    assert (snapshot.choice == -1).all()


def test_nan_on_one_token_unscores_the_items_that_meet_it(make_model, tokenizer):
    model, (bad,) = make_model(tie_word_embeddings=False), tokenizer.encode("x")
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    prompts = {"good": "The capital of France is", "bad": "The x of France is"}
    items = [
        item
        for name, prompt in prompts.items()
        for item in (
            MultipleChoice(f"choice {name}", prompt, [" Paris", " Rome"], 0),
            Recall(f"recall {name}", prompt, " Paris"),
            Generation(f"generation {name}", prompt, "Paris", max_new_tokens=2),
        )
    ]
    snapshot = score_probe(model, tokenizer, Probe("p", items))
    assert [name for name in snapshot.ids if name.endswith("bad")] == snapshot.ids[np.isnan(snapshot.correct)].tolist()
    assert snapshot.metadata["not_scored"] == {"its logits are NaN": 3}


@pytest.mark.parametrize("chat", [False, True])
def test_an_item_that_cannot_be_scored_costs_no_other(taught, make_tokenizer, caplog, chat):
    """One of each kind of fault, in the first prompts and in a further one; the others are what they are without."""
    tokenizer, long = make_tokenizer(), "over the hill and through the forest " * 40
    refuse = "{% for m in messages if 'refuse' in m.content %}{{ raise_exception('not this') }}{% endfor %}"
    tokenizer.chat_template = refuse + tokenizer.chat_template
    good = [replace(item, variants=[f"So: {item.prompt}"]) for item in mixed_items(taught)]
    prompt, options = ("refuse", [" a", " b"]) if chat else ("The capital of France is Pa", ["ris", " b"])
    bad = [
        MultipleChoice("long", long, [" fox", " sun"], 0),
        Generation("long to write", long, "x"),
        MultipleChoice("refused or split", prompt, options, 0),
        replace(good[0], id="only the variant", variants=[long]),
    ]
    alone = score_probe(taught.model, tokenizer, Probe("p", good, chat=chat))
    assert "not_scored" not in alone.metadata
    with caplog.at_level(logging.WARNING):
        (snapshot,) = (scorer := Scorer(tokenizer, Probe("p", [*bad, *good], chat=chat))).score(taught.model)
    lost = snapshot.ids[np.isnan(snapshot.correct)].tolist()
    assert lost == ["long", "long to write", "refused or split"]
    assert snapshot.ids[np.isnan(snapshot.correct_2)].tolist() == [*lost, "only the variant"]
    same(
        snapshot.select(slice(4, None)).without_variants(),
        replace(alone.without_variants(), fingerprint=snapshot.fingerprint),
    )
    np.testing.assert_array_equal(snapshot.correct_2[4:], alone.correct_2)
    why = "the chat template refuses it: not this" if chat else "no token of its own after the prompt"
    too_long = "longer than the model's context of 256 tokens"
    assert snapshot.metadata["not_scored"] == {too_long: 2, why: 1, f"variant 2: {too_long}": 1}
    # A line for each reason, once a run.
    said = [record.getMessage() for record in caplog.records if "not scored" in record.getMessage()]
    n = len(snapshot)
    assert said == [
        f"probe 'p': 2 of {n} items are not scored: long, long to write ({too_long})",
        f"probe 'p': 1 of {n} items is not scored: refused or split ({why})",
        f"probe 'p', variant 2: 1 of {n - 3} items is not scored: only the variant ({too_long})",
    ]
    caplog.clear()
    (again,) = scorer.score(taught.model)
    same(again, snapshot, atol=0)
    assert not caplog.records and again.metadata["not_scored"] == snapshot.metadata["not_scored"]


def test_a_probe_in_which_nothing_can_be_scored_costs_no_other(taught):
    bad = Probe("bad", [MultipleChoice("a", "The capital of France is Pa", ["ris", "ris the"], 0)])
    good = Probe("good", mixed_items(taught))
    alone = score_probe(taught.model, taught.tokenizer, good)
    lost, kept = Scorer(taught.tokenizer, [bad, good]).score(taught.model)
    assert np.isnan(lost.correct).all() and lost.metadata["not_scored"] == {"no token of its own after the prompt": 1}
    same(kept, alone)


def test_a_chat_probe_takes_the_template_into_its_fingerprint(make_model, tokenizer):
    probe = Probe("p", choice_items(2), chat=True)
    first = score_probe(make_model(), tokenizer, probe)
    assert first.fingerprint == replace(probe, template=tokenizer.chat_template).fingerprint != probe.fingerprint
    tokenizer.chat_template = tokenizer.chat_template.replace("\n", " ")
    second = score_probe(make_model(), tokenizer, probe)
    assert second.fingerprint not in (first.fingerprint, probe.fingerprint)
    assert not np.allclose(first.scores[0], second.scores[0], atol=1e-4)
    bound = replace(probe, template=tokenizer.chat_template)
    tokenizer.chat_template = None
    np.testing.assert_array_equal(score_probe(make_model(), tokenizer, bound).scores[0], second.scores[0])


def test_a_plain_probe_keeps_its_fingerprint(make_model, tokenizer):
    probe = Probe("p", choice_items(2))
    assert score_probe(make_model(), tokenizer, probe).fingerprint == probe.fingerprint


def test_where_the_tokenizer_decides_a_probe_goes_through_its_template_or_is_asked_as_it_is(make_model, tokenizer):
    """The built-in facts in a chat: one spec for base models and chat models."""
    probe, model = load_probe("builtin:facts?kind=generation", limit=8), make_model()
    assert probe.chat is None
    for template, chat in ((tokenizer.chat_template, True), (None, False)):
        tokenizer.chat_template = template
        asked, told = (score_probe(model, tokenizer, one) for one in (probe, replace(probe, chat=chat)))
        assert asked.fingerprint == told.fingerprint and asked.text.tolist() == told.text.tolist()


def test_a_missing_chat_template_is_an_error(make_model, tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="probe 'p' has chat=True, but the tokenizer has no chat template; set"):
        score_probe(make_model(), tokenizer, Probe("p", choice_items(2), chat=True))


def test_a_processor_is_as_good_as_its_tokenizer(make_model, tokenizer):
    probe = Probe("p", choice_items(3))
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor=None)
    of_processor, of_tokenizer = (score_probe(make_model(), t, probe) for t in (processor, tokenizer))
    np.testing.assert_array_equal(of_processor.margin, of_tokenizer.margin)


def test_a_tokenizer_without_padding_token_will_do(make_model, tokenizer, taught):
    probe = Probe("p", mixed_items(taught))
    padded = score_probe(taught.model, tokenizer, probe)
    tokenizer.pad_token = None
    bare = score_probe(taught.model, tokenizer, probe)
    assert bare.outcome.tolist() == padded.outcome.tolist() and bare.text.tolist() == padded.text.tolist()


def test_a_snapshot_carries_what_the_probe_knows(taught):
    probe = Probe("p", [replace(item, category=item.kind) for item in mixed_items(taught)])
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    assert (snapshot.probe, snapshot.fingerprint, snapshot.step) == ("p", probe.fingerprint, 0)
    assert snapshot.category.tolist() == [item.kind for item in probe.items]
    np.testing.assert_array_equal(snapshot.n_choices, probe.n_choices)
    np.testing.assert_array_equal(snapshot.answer, probe.answer)


# --- several probes, several snapshots ------------------------------------------------------------------------------


def several_probes(taught):
    """Probes of all kinds and settings; the first two share items."""
    items = mixed_items(taught)
    return [
        Probe("one", items[:15]),
        Probe("two", items[10:], normalization="token", temperature=1.0),
        Probe("chat", choice_items(5, seed=2), chat=True, normalization="length"),
        Probe("written", [item for item in items if item.kind == "generation"][:3]),
    ]


def same(one, other, *, atol=1e-4):
    """Asserts that two snapshots are equal up to rounding."""
    assert (one.probe, one.fingerprint) == (other.probe, other.fingerprint)
    for name in ("ids", "correct", "outcome", "choice", "prediction", "text"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.margin, other.margin, atol=atol)
    for scores, others in zip(one.scores, other.scores, strict=True):
        np.testing.assert_allclose(scores, others, atol=atol)


@contextlib.contextmanager
def forwards(model):
    """The sizes of all forward passes in the block."""
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield seen
    handle.remove()


def test_a_scorers_snapshots_are_those_of_each_probe_alone(taught):
    probes = several_probes(taught)
    snapshots = Scorer(taught.tokenizer, probes).score(taught.model)
    assert [snapshot.probe for snapshot in snapshots] == [probe.name for probe in probes]
    for probe, snapshot in zip(probes, snapshots):
        alone = score_probe(taught.model, taught.tokenizer, probe)
        same(snapshot, alone)
        assert snapshot.with_metadata(seconds=0).metadata == alone.with_metadata(seconds=0).metadata
    assert "likelihood" not in snapshots[3].metadata and "generation" not in snapshots[2].metadata


def test_probes_share_their_forwards(taught):
    """Probes of one item each, with a common prefix: a single forward pass, and the prefix once."""
    beginning = "The capital of Italy is Rome. The capital of Japan is Tokyo. "
    probes = [
        Probe(f"p{i}", [MultipleChoice("a", f"{beginning}{i} The capital of France is", [" Paris", " hot"], 0)])
        for i in range(4)
    ]
    scorer = Scorer(taught.tokenizer, probes)
    scorer.score(taught.model)  # the first snapshot includes the self-check
    with forwards(taught.model) as together:
        scorer.score(taught.model)
    apart = []
    for probe in probes:
        alone = Scorer(taught.tokenizer, [probe])
        alone.score(taught.model)
        with forwards(taught.model) as seen:
            alone.score(taught.model)
        apart += seen
    assert len(together) == 1 < len(apart) == len(probes)
    assert sum(together) < sum(apart)


def test_one_scorer_scores_every_state_of_a_model(make_model, taught):
    """Weights that change in between, and a model object that did not exist when the scorer was made."""
    probes = several_probes(taught)
    scorer = Scorer(taught.tokenizer, probes)
    model = make_model()
    for state in (make_model(seed=1).state_dict(), taught.model.state_dict()):
        model.load_state_dict(state)
        for probe, snapshot in zip(probes, scorer.score(model)):
            same(snapshot, score_probe(model, taught.tokenizer, probe))
    for probe, snapshot in zip(probes, scorer.score(taught.model)):
        same(snapshot, score_probe(taught.model, taught.tokenizer, probe))


def test_the_same_model_gives_the_same_bits(taught):
    probes = several_probes(taught)
    scorer = Scorer(taught.tokenizer, probes)
    first, *others = (scorer.score(taught.model) for _ in range(3))
    again = Scorer(taught.tokenizer, probes).score(taught.model)
    for snapshots in (*others, again):
        for one, other in zip(first, snapshots, strict=True):
            same(one, other, atol=0)


def test_tokens_and_plans_are_made_once(taught, monkeypatch):
    scorer = Scorer(taught.tokenizer, several_probes(taught))
    first = scorer.score(taught.model)
    tokenizer = type(taught.tokenizer)
    monkeypatch.setattr(tokenizer, "encode", lambda *args, **kwargs: pytest.fail("tokenised again"))
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *args, **kwargs: pytest.fail("rendered again"))
    for one, other in zip(first, scorer.score(taught.model), strict=True):
        same(one, other, atol=0)


def test_another_replicate_scores_the_same_items(taught):
    probe = Probe("p", mixed_items(taught))
    one, other = (score_probe(taught.model, taught.tokenizer, probe, replicate=replicate) for replicate in (0, 1))
    same(one, other)
    assert not np.array_equal(one.margin, other.margin, equal_nan=True)  # other batches round otherwise


def test_options_with_contexts_and_lengths_of_their_own(make_model, tokenizer):
    """WinoGrande's form and lm-eval's lengths, by definition: one unpadded forward pass per option."""
    model = make_model(seed=1)
    contexts, choices = [" fox ran over", " sun went down over", ""], [" the hill", " the hill", " Paris"]
    item = MultipleChoice("a", "The", choices, 1, contexts=contexts, lengths=[1, 2.5, 3])
    for normalization, lengths in (("sum", [1, 1, 1]), ("length", [1, 2.5, 3])):
        snapshot = score_probe(model, tokenizer, Probe("p", [item], normalization=normalization))
        expected = []
        for context, choice, length in zip(contexts, choices, lengths):
            head, whole = (tokenizer.encode(text) for text in ("The" + context, "The" + context + choice))
            table = log_probabilities(model, whole)
            logprob = sum(float(table[at - 1, whole[at]]) for at in range(len(head), len(whole)))
            expected.append(logprob / length)
        np.testing.assert_allclose(snapshot.scores[0], expected, atol=1e-4, rtol=0)
