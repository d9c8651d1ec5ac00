"""The next token against independent definitions: the inverse cumulative distribution, and transformers' nucleus."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.special import softmax
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from forget_callback.scoring.generation.sampling import draws, next_tokens

VOCABULARIES = [1, 2, 90, 1024, 1025, 3000]
JUST_BELOW_ONE = float(np.nextafter(1.0, 0.0))


def logits_of(rows, vocabulary, *, seed=0, scale=3.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (rows, vocabulary))).float()


def probabilities(logits, temperature, top_p):
    """The distribution that transformers would sample from, float64, ``(rows, vocabulary)``."""
    scores = logits / temperature
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    return softmax(scores.double().numpy(), axis=1)


def inverse(p, at):
    """The first token up to which the probability is larger than `at`, and the distance to the nearest boundary."""
    upto = np.cumsum(p)
    upto /= upto[-1]
    token = int(np.searchsorted(upto, at, side="right"))
    return min(token, int(np.flatnonzero(p)[-1])), np.abs(upto - at).min()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_greedy_is_the_argmax(vocabulary):
    logits = logits_of(20, vocabulary)
    found = next_tokens(logits, None, temperature=0.0, top_p=1.0)
    assert found.tolist() == logits.numpy().argmax(axis=1).tolist()
    assert next_tokens(logits, torch.rand(20), temperature=0.0, top_p=0.3).tolist() == found.tolist()
    tie = torch.zeros(3, vocabulary)
    assert next_tokens(tie, None, temperature=0.0, top_p=1.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5])
def test_a_draw_inverts_the_cumulative_distribution(vocabulary, temperature, top_p):
    n = 60
    logits = logits_of(n, vocabulary, seed=vocabulary)
    at = np.random.default_rng(1).random(n)
    found = next_tokens(logits, torch.from_numpy(at), temperature=temperature, top_p=top_p).tolist()
    p = probabilities(logits, temperature, top_p)
    clear = 0
    for row in range(n):
        expected, distance = inverse(p[row], at[row])
        if distance > 1e-5:  # closer than that, rounding decides
            assert found[row] == expected
            clear += 1
    assert clear > 0.9 * n


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("top_p", [0.999, 0.9, 0.5, 0.05, 1e-6])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_the_nucleus_is_that_of_transformers(vocabulary, top_p, scale):
    """Nearly flat distributions have nuclei of more than 1,024 tokens."""
    logits = logits_of(4, vocabulary, scale=scale, seed=5)
    allowed = probabilities(logits, 1.0, top_p) > 0
    at = torch.linspace(0, JUST_BELOW_ONE, 400, dtype=torch.float64)
    for row in range(4):
        drawn = next_tokens(logits[row].expand(400, -1), at, temperature=1.0, top_p=top_p)
        outside = set(drawn.tolist()) - set(np.flatnonzero(allowed[row]))
        # Where the sum reaches top_p within rounding, one token more or less is in it.
        p = np.sort(probabilities(logits, 1.0, 1.0)[row])[::-1]
        assert not outside or (len(outside) == 1 and np.abs(np.cumsum(p) - top_p).min() < 1e-5)
        # All of a small nucleus is drawn, at a grid as fine as its least likely token.
        inside = probabilities(logits, 1.0, top_p)[row]
        if inside[inside > 0].min() > 2 / 400:
            assert set(np.flatnonzero(allowed[row])) <= set(drawn.tolist())


def test_frequencies_follow_the_distribution():
    logits = logits_of(1, 12, scale=1.0)
    n = 20_000
    for temperature, top_p in [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8)]:
        at = torch.from_numpy(draws(n, "frequencies", temperature, top_p))
        found = np.bincount(
            next_tokens(logits.expand(n, -1), at, temperature=temperature, top_p=top_p).numpy(), minlength=12
        )
        p = probabilities(logits, temperature, top_p)[0]
        assert (found[p == 0] == 0).all()
        assert stats.chisquare(found[p > 0], n * p[p > 0]).pvalue > 1e-3


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("top_p", [1.0, 0.9, 1e-9])
def test_the_ends_of_the_unit_interval(vocabulary, top_p):
    """A draw of 0 is the first token that can be drawn, one just below 1 the last."""
    logits = logits_of(30, vocabulary, seed=2)
    p = probabilities(logits, 1.0, top_p)
    for at, end in ((0.0, 0), (JUST_BELOW_ONE, -1)):
        found = next_tokens(logits, torch.full((30,), at, dtype=torch.float64), temperature=1.0, top_p=top_p).tolist()
        for row, token in enumerate(found):
            possible = np.flatnonzero(p[row])
            assert token == possible[end] or (p[row][token] > 0 and p[row][possible[end]] < 1e-6)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_minus_infinity_is_never_chosen(top_p):
    """Nor is a probability that underflows: rounding would most likely hit the ends of the vocabulary."""
    logits = logits_of(200, 50)
    closed = [0, 1, 20, 48, 49]
    logits[:, closed] = -torch.inf
    for at in (torch.zeros(200), torch.full((200,), JUST_BELOW_ONE, dtype=torch.float64), torch.rand(200)):
        found = next_tokens(logits, at, temperature=1.0, top_p=top_p)
        assert not set(found.tolist()) & set(closed)
    single = torch.full((1, 50), -torch.inf)
    single[0, 33] = -5.0
    assert next_tokens(single, torch.tensor([JUST_BELOW_ONE]), temperature=1.0, top_p=top_p).tolist() == [33]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_nucleus_of_one_token_is_greedy_in_every_dtype(dtype):
    logits = logits_of(50, 300).to(dtype)
    at = torch.from_numpy(np.random.default_rng(0).random(50))
    assert next_tokens(logits, at, temperature=1.0, top_p=1e-9).tolist() == logits.argmax(dim=1).tolist()
    assert next_tokens(logits, at, temperature=1e-4, top_p=1.0).tolist() == logits.float().argmax(dim=1).tolist() or (
        dtype != torch.float32
    )


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30),
    at=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0.05, 10),
    top_p=st.floats(0.01, 1),
)
def test_a_token_that_can_be_drawn_is_drawn(values, at, temperature, top_p):
    logits = torch.tensor([values], dtype=torch.float32)
    (token,) = next_tokens(
        logits, torch.tensor([at], dtype=torch.float64), temperature=temperature, top_p=top_p
    ).tolist()
    assert 0 <= token < len(values)
    p = torch.softmax(logits / temperature, dim=1)[0]
    assert p[token] > 0
    # Everything that is likelier than what was drawn has less than top_p together.
    assert float(p[p > p[token]].double().sum()) < top_p + 1e-5


def test_a_row_does_not_depend_on_the_others():
    logits, at = logits_of(40, 2000, scale=0.2), torch.from_numpy(np.random.default_rng(0).random(40))
    logits[::2] *= 30  # nuclei of a few tokens beside nuclei of more than a thousand
    together = next_tokens(logits, at, temperature=1.0, top_p=0.9).tolist()
    alone = [int(next_tokens(logits[i : i + 1], at[i : i + 1], temperature=1.0, top_p=0.9)) for i in range(40)]
    assert together == alone


def test_no_generator_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    next_tokens(logits_of(5, 90), torch.from_numpy(draws(5, 1)), temperature=1.0, top_p=0.9)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


def test_draws_follow_from_their_key():
    keys = [(0, 0, 0, "a"), (1, 0, 0, "a"), (0, 1, 0, "a"), (0, 0, 1, "a"), (0, 0, 0, "b"), (0, 0, 0, "a ")]
    found = [draws(50, *key) for key in keys]
    assert all((draws(50, *key) == one).all() for key, one in zip(keys, found))
    assert len({one[0] for one in found}) == len(keys)
    # The first draws do not depend on how many there are: a longer limit samples alike.
    assert (draws(10, *keys[0]) == found[0][:10]).all()
    assert all(((one >= 0) & (one < 1)).all() for one in found)


def test_draws_are_uniform_within_a_key_and_over_keys():
    assert stats.kstest(draws(5000, "one key"), "uniform").pvalue > 1e-3
    assert stats.kstest([draws(1, 0, 0, 0, f"item {i}")[0] for i in range(2000)], "uniform").pvalue > 1e-3


def test_a_known_draw_stays_what_it_was():
    """Stored samples are compared over the years: the numbers behind a key are part of the format."""
    assert draws(2, 0, 0, 0, "x").tolist() == [0.46610600337360264, 0.6270241643826912]
