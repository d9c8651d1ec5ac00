"""Every scoring path equals one unpadded forward pass per row, on many architectures, and lm-eval."""

import logging
from functools import cache

import numpy as np
import pytest
import torch

from forget_callback.scoring.likelihood import plan as planning
from forget_callback.scoring.likelihood.fallbacks import PATHS, LikelihoodScorer
from forget_callback.scoring.likelihood.forward import ScoringPath, likelihoods
from forget_callback.scoring.likelihood.plan import plan
from forget_callback.scoring.likelihood.tokens import Continuation, split
from tests.helpers import log_probabilities
from tests.scoring.architectures import EXPECTED_PATHS, MODELS, TREE, tiny
from tests.scoring.rows import by_definition, check, is_greedy, mixed_rows, random_rows, rejected, shared_rows

ROWS = mixed_rows(90)


@cache
def with_definition(name):
    """A model and its likelihoods of ROWS by definition."""
    model = tiny(name)
    return model, [by_definition(model, row) for row in ROWS]


@torch.no_grad()
def score(model, rows, *, budget=2048, path=None):
    """Likelihoods on a given path, or on the one that is found."""
    scorer = LikelihoodScorer(rows)
    scorer.path = path
    return scorer.score(model, budget=budget)


@pytest.mark.parametrize("name", MODELS)
def test_equals_one_unpadded_forward_a_row(name, caplog):
    """On the expected path, at any batch size."""
    model, expected = with_definition(name)
    scorer = LikelihoodScorer(ROWS)
    caplog.set_level(logging.INFO)
    for budget in (10**6, 100, *((1,) if EXPECTED_PATHS.get(name, TREE).startswith("tree") else ())):
        with torch.no_grad():
            check(ROWS, scorer.score(model, budget=budget), expected)
        assert str(scorer.path) == EXPECTED_PATHS.get(name, TREE)
    # Only a tree was tried and rejected, where the config does not show that the layers are not plain attention.
    assert all(tried.startswith("tree") for tried in rejected(caplog))


@pytest.mark.parametrize("name", MODELS)
def test_every_fallback_gives_the_same(name):
    """Each slower path is correct by itself, so a fallback costs only time."""
    model, expected = with_definition(name)
    best = EXPECTED_PATHS.get(name, TREE)
    at = [str(path) for path in PATHS].index(best)
    for path in PATHS[at + 1 :]:
        if path.head != "tiles" or best.endswith("tiles"):
            check(ROWS, score(model, ROWS, budget=200, path=path), expected)


def test_the_window_of_the_window_models_matters():
    """Otherwise the rows above would be too short to tell a right mask from a wrong one."""
    narrow, wide = tiny("Mistral, window"), tiny("Mistral, window")
    wide.config.sliding_window = None
    tokens = random_rows(20, 90)[0].tokens
    assert len(tokens) > 10
    assert not torch.allclose(log_probabilities(narrow, tokens), log_probabilities(wide, tokens), atol=1e-2)


def test_the_prefix_that_is_shared_is_cached():
    """Otherwise no test above would have used the KV cache."""
    prefixes = {batch.prefix for chunk in plan(ROWS, 2048) for batch in chunk.batches}
    assert sorted(map(len, prefixes)) == [0, 35]


@pytest.mark.parametrize("window", [36, 38, 43, 60])
@pytest.mark.parametrize("name", ["Mistral, window", "Mistral, window, eager", "Gemma3, window", "Phi3, window"])
def test_a_window_that_ends_within_or_behind_the_prefix(name, window):
    model, rows = tiny(name, sliding_window=window), shared_rows(9, 90)
    check(rows, score(model, rows), [by_definition(model, row) for row in rows])


@pytest.mark.parametrize("budget", [2048, 20])
@pytest.mark.parametrize("name", ["Llama", "Mistral, window", "Gemma3, window", "GPT-2"])
def test_long_contexts_are_cached_by_themselves(name, budget, monkeypatch):
    monkeypatch.setattr(planning, "_LONG", 4)
    prefixes = {batch.prefix for chunk in planning.plan(ROWS, budget) for batch in chunk.batches}
    assert len(prefixes) > 8 and max(map(len, prefixes)) > 38
    model, expected = with_definition(name)
    check(ROWS, score(model, ROWS, budget=budget, path=PATHS[0]), expected)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_greedy_rows_are_told_from_others(path):
    """Continuations that greedy decoding would generate, and the same with one token changed."""
    model = tiny("Llama")
    rows = []
    for row in random_rows(8, 90, seed=1):
        head = list(row.tokens[: row.n_context])
        for _ in range(4):
            head.append(int(log_probabilities(model, head)[-1].argmax()))
        changed = [*head[:-2], (head[-2] + 1) % 90, head[-1]]
        rows += [Continuation(0, tuple(tokens), row.n_context, True) for tokens in (head, changed)]
    found = score(model, rows, budget=200, path=path)
    check(rows, found, [by_definition(model, row) for row in rows])
    assert list(map(is_greedy, rows, found)) == [likelihood.margin > 0 for likelihood in found] == [True, False] * 8


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("vocabulary", [2048, 2049, 5000])
def test_vocabularies_of_several_tiles(vocabulary, path):
    model = tiny("Llama", vocab_size=vocabulary)
    rows = [*random_rows(12, vocabulary), *shared_rows(8, vocabulary)]
    edges = [Continuation(50 + i, (7, 8, token), 2, True) for i, token in enumerate((3, 2046, vocabulary - 1))]
    rows += edges
    check(rows, score(model, rows, path=path), [by_definition(model, row) for row in rows])


@pytest.mark.parametrize("path", [PATHS[0], PATHS[4]], ids=str)
@pytest.mark.parametrize("first, last", [(0, 300), (300, 0), (60, 0), (-60, 0), (-300, -200), (0, -300)])
def test_logits_that_lie_far_apart(first, last, path):
    """In the first and in the last tile: without the right maximum, exponentials overflow or underflow."""
    model = tiny("Llama", vocab_size=5000)
    biased = torch.nn.Linear(model.lm_head.in_features, 5000)
    with torch.no_grad():
        biased.weight.copy_(model.lm_head.weight)
        biased.bias.zero_()
        biased.bias[:1024], biased.bias[4096:] = first, last
    model.lm_head = biased.eval()
    rows = [*random_rows(8, 5000), *shared_rows(8, 5000)]
    rows += [Continuation(50 + i, (7, 8, token), 2, True) for i, token in enumerate((3, 2000, 4999))]
    expected = [by_definition(model, row) for row in rows]
    assert np.isfinite([one.logprob for one in expected]).all()
    check(rows, score(model, rows, path=path), expected, tolerance=1e-3)


@pytest.mark.parametrize("path", [PATHS[0], PATHS[1], PATHS[4]], ids=str)
@pytest.mark.parametrize("twins", [(10, 11), (10, 2500), (2100, 4999)])
def test_in_a_tie_the_lower_token_is_the_argmax(twins, path):
    """As `torch.argmax` has it, and so what greedy decoding would generate; both margins are 0."""
    model = tiny("Llama", vocab_size=5000)
    likely = [int(log_probabilities(model, (7, 8, 9))[-1].argmax()), *twins]
    with torch.no_grad():
        for twin in twins:
            model.lm_head.weight[twin] = 1.5 * model.lm_head.weight[likely[0]]
    rows = [Continuation(i, (7, 8, 9, twin), 3, True) for i, twin in enumerate(twins)]
    low, high = score(model, rows, path=path)
    assert (low.margin, high.margin) == (0, 0) and low.logprob == high.logprob
    assert (is_greedy(rows[0], low), is_greedy(rows[1], high)) == (True, False)
    assert low.argmax.tolist() == high.argmax.tolist() == [min(twins)]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_logits_of_minus_infinity_are_no_nan(path):
    """A vocabulary padded with -inf, with a whole tile of it in the middle."""
    model = tiny("Llama", vocab_size=5000)
    head = model.lm_head
    biased = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        biased.weight.copy_(head.weight)
        biased.bias.zero_()
        biased.bias[2048:4096] = biased.bias[4900:] = -torch.inf
    model.lm_head = biased.eval()
    inside = [row for row in random_rows(8, 2000) if len(row.tokens) < 30]
    outside = [Continuation(60, (7, 8, 3000), 2), Continuation(61, (7, 8, 4950, 5), 2, True)]
    rows = [*inside, *outside]
    found = score(model, rows, path=path)
    check(inside, found[:-2], [by_definition(model, row) for row in inside])
    assert [f.logprob for f in found[-2:]] == [-np.inf, -np.inf]
    assert found[-1].margin == -np.inf and not is_greedy(rows[-1], found[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Llama", "Mistral, window", "GPT-2", "Granite, scaled"])
def test_half_precision_is_read_in_float32(name, dtype):
    """Rounding differs with the batch, so the float64 definition is met within a tolerance."""
    model = tiny(name, initializer_range=0.1).to(dtype)
    scorer = LikelihoodScorer(ROWS)
    with torch.no_grad():
        found = scorer.score(model, budget=200)
    assert str(scorer.path) == EXPECTED_PATHS.get(name, TREE)
    exact = tiny(name, initializer_range=0.1).to(dtype).double()
    for row, likelihood in zip(ROWS, found, strict=True):
        n = len(row.tokens) - row.n_context
        assert likelihood.logprob == pytest.approx(by_definition(exact, row).logprob, abs=0.05 * n)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_one_nan_token_affects_its_own_rows_only(path):
    """Rows with it in the context, in the continuation, or as the last token, which is not forwarded."""
    model, bad = tiny("Llama"), 88
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    clean = [row for row in mixed_rows(88) if bad not in row.tokens]
    poisoned = [
        Continuation(70, (bad, 8, 7), 1, True),
        Continuation(71, (9, bad, 7), 2),
        Continuation(72, (9, 8, bad, 7), 2, True),
        Continuation(73, (*clean[20].tokens, bad, 7), 10),
    ]
    last = [Continuation(74, (9, 8, bad), 1), Continuation(75, (*clean[20].tokens, bad), 5, True)]
    rows = [*clean, *last, *poisoned]
    order = np.random.default_rng(0).permutation(len(rows))
    found = score(model, [rows[i] for i in order], budget=200, path=path)
    found = [found[at] for at in np.argsort(order)]
    n = len(rows) - len(poisoned)
    check(rows[:n], found[:n], [by_definition(model, row) for row in rows[:n]])
    assert all(np.isnan(likelihood.logprob) for likelihood in found[n:])


@pytest.mark.parametrize("path", [None, *PATHS], ids=str)
def test_a_model_of_nan_gives_nan(path):
    model = tiny("Llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    assert all(np.isnan(likelihood.logprob) for likelihood in score(model, ROWS, path=path))


def test_no_rows_need_no_forward_pass():
    model = tiny("Llama")
    model.register_forward_pre_hook(lambda *args: pytest.fail("an unneeded forward pass"))
    assert score(model, []) == []
    assert likelihoods(model, [], ScoringPath("tree", "tiles"), torch.float32) == {}


@pytest.mark.parametrize("path", [None, *PATHS], ids=str)
def test_advance_counts_the_tokens_of_every_row_once(path):
    seen = []
    scorer = LikelihoodScorer(ROWS)
    scorer.path = path
    with torch.no_grad():
        scorer.score(tiny("Llama"), budget=100, advance=seen.append)
        first = sum(seen)
        scorer.score(tiny("Llama"), budget=100, advance=seen.append)
    every = sum(len(row.tokens) for row in ROWS)
    assert first == every and sum(seen) == 2 * every


@pytest.mark.parametrize("path", [None, PATHS[-1]], ids=str)
def test_equals_lm_eval(tokenizer, taught, make_hflm, path):
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    contexts = [*taught.lines, "The capital of France is ", "", "Größe 東京"]
    answers = [answer for answer in taught.lines.values() if answer != "<|im_end|>"]
    pairs = [(context, answer) for context in contexts for answer in [*answers, " é", "Who"]]
    requests = [instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    expected = make_hflm(taught.model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    rows = []
    for i, pair in enumerate(pairs):
        head, tail = split(*pair, tokenizer, chat=False)
        rows.append(Continuation(i, (*head, *tail), len(head), True))
    found = score(taught.model, rows, budget=500, path=path)
    np.testing.assert_allclose([f.logprob for f in found], [sum_ for sum_, _ in expected], rtol=1e-6, atol=1e-4)
    right = list(map(is_greedy, rows, found))
    assert right == [greedy for _, greedy in expected]
    assert sum(right) >= len(answers)
