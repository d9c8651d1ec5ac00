"""Padded batches give what one unpadded forward per row gives, on several architectures, and what lm-eval gives."""

import numpy as np
import pytest
import torch

from forget_callback.scoring.likelihood import likelihoods
from forget_callback.scoring.plan import Continuation, split
from tests.helpers import log_probabilities
from tests.scoring.architectures import MODELS, tiny


def random_rows(n, vocabulary, *, seed=0):
    """Rows of 2 to 40 tokens, with 1 to 8 of them scored."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        tokens = tuple(rng.integers(3, vocabulary, rng.integers(2, 41)).tolist())
        rows.append(Continuation(i, tokens, len(tokens) - int(rng.integers(1, min(len(tokens), 9)))))
    return rows


def check(model, rows, found):
    """Against the definition, one unpadded forward in float64 a row."""
    for row, likelihood in zip(rows, found, strict=True):
        table = log_probabilities(model, row.tokens[:-1])[row.n_context - 1 :]
        wanted = torch.tensor(row.tokens[row.n_context :])
        said = table.gather(1, wanted[:, None]).squeeze(1)
        best_other = table.scatter(1, wanted[:, None], -torch.inf).max(dim=1).values
        assert likelihood.logprob == pytest.approx(float(said.sum()), abs=1e-4)
        assert likelihood.margin == pytest.approx(float((said - best_other).min()), abs=1e-4)
        assert likelihood.argmax.tolist() == table.argmax(dim=1).tolist()
        assert likelihood.greedy == (table.argmax(dim=1) == wanted).all()


@pytest.mark.parametrize("batch_tokens", [1, 100, 10**6])
@pytest.mark.parametrize("name", MODELS)
def test_equals_one_unpadded_forward_per_row(name, batch_tokens):
    model = tiny(name)
    rows = random_rows(20, 90)
    with torch.no_grad():
        check(model, rows, likelihoods(model, rows, batch_tokens=batch_tokens, pad=0))


def test_the_window_of_the_window_models_matters():
    """Else the rows above would be too short to tell a right mask from a wrong one."""
    narrow, wide = tiny("Mistral, window"), tiny("Mistral, window")
    wide.config.sliding_window = None
    tokens = random_rows(20, 90)[0].tokens
    assert len(tokens) > 10
    assert not torch.allclose(log_probabilities(narrow, tokens), log_probabilities(wide, tokens), atol=1e-2)


def test_greedy_rows_are_told_from_others():
    """Continuations that the model itself would write, and the same with one token changed."""
    model = tiny("Llama")
    rows = []
    for row in random_rows(8, 90, seed=1):
        head = list(row.tokens[: row.n_context])
        for _ in range(4):
            head.append(int(log_probabilities(model, head)[-1].argmax()))
        changed = [*head[:-2], (head[-2] + 1) % 90, head[-1]]
        rows += [Continuation(0, tuple(head), row.n_context), Continuation(0, tuple(changed), row.n_context)]
    with torch.no_grad():
        found = likelihoods(model, rows, batch_tokens=200, pad=0)
    check(model, rows, found)
    assert [likelihood.greedy for likelihood in found] == [True, False] * 8
    assert all((likelihood.margin > 0) == likelihood.greedy for likelihood in found)


@pytest.mark.parametrize("pad", [0, 7])
def test_the_padding_token_has_no_effect(pad):
    model, rows = tiny("Gemma2, window, capped"), random_rows(20, 90)
    with torch.no_grad():
        check(model, rows, likelihoods(model, rows, batch_tokens=10**6, pad=pad))


def test_bfloat16_logits_are_read_in_float32():
    model = tiny("Llama").to(torch.bfloat16)
    rows = random_rows(10, 90)
    with torch.no_grad():
        check(model, rows, likelihoods(model, rows, batch_tokens=1, pad=0))


def test_a_row_of_nan_is_nan_and_its_neighbours_are_not():
    model = tiny("Llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = torch.nan
        rows = [Continuation(0, (9, 8, 7), 1), Continuation(1, (9, 5, 7), 1), Continuation(2, (9, 8), 1)]
        found = likelihoods(model, rows, batch_tokens=100, pad=0)
    assert [bool(np.isnan(likelihood.logprob)) for likelihood in found] == [False, True, False]


def test_no_rows_are_no_forward():
    assert likelihoods(tiny("Llama"), [], batch_tokens=100, pad=0) == []


def test_advance_counts_every_row_once():
    seen = []
    with torch.no_grad():
        likelihoods(tiny("Llama"), random_rows(20, 90), batch_tokens=100, pad=0, advance=seen.append)
    assert sum(seen) == 20 and len(seen) > 1


def test_equals_lm_eval(tokenizer, taught, make_hflm):
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    contexts = [*taught.lines, "The capital of France is ", "", "Größe 東京"]
    answers = [answer for answer in taught.lines.values() if answer != "<|im_end|>"]
    pairs = [(context, answer) for context in contexts for answer in [*answers, " é", "Who"]]
    requests = [instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    expected = make_hflm(taught.model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    rows = []
    for i, pair in enumerate(pairs):
        head, tail = split(*pair, tokenizer, chat=False)
        rows.append(Continuation(i, (*head, *tail), len(head)))
    with torch.no_grad():
        found = likelihoods(taught.model, rows, batch_tokens=500, pad=0)
    np.testing.assert_allclose([f.logprob for f in found], [sum_ for sum_, _ in expected], rtol=1e-6, atol=1e-4)
    assert [f.greedy for f in found] == [greedy for _, greedy in expected]
    assert sum(f.greedy for f in found) >= len(answers)
