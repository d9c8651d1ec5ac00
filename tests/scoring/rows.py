"""Continuations to score, and their log-probabilities by definition."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forget_callback.scoring.likelihood.tokens import Continuation
from tests.helpers import log_probabilities


def random_rows(n, vocabulary, *, seed=0):
    """Rows of 2 to 40 tokens, with 1 to 8 of them scored; every other row needs the argmax."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        tokens = tuple(rng.integers(3, vocabulary, rng.integers(2, 41)).tolist())
        rows.append(Continuation(i, tokens, len(tokens) - int(rng.integers(1, min(len(tokens), 9))), i % 2 == 0))
    return rows


def shared_rows(n, vocabulary, *, depth=35, options=3, seed=0):
    """Items with several options behind a prefix that all share; the first option needs the argmax."""
    rng = np.random.default_rng(seed)
    prefix = tuple(rng.integers(3, vocabulary, depth).tolist())
    rows = []
    for i in range(n):
        context = (*prefix, *rng.integers(3, vocabulary, rng.integers(1, 8)).tolist())
        for option in range(options):
            tail = tuple(rng.integers(3, vocabulary, rng.integers(1, 5)).tolist())
            rows.append(Continuation(i, context + tail, len(context), option == 0))
    return rows


def mixed_rows(vocabulary):
    """Some of both, and what must not be confused: equal rows, rows that are prefixes of others, shared contexts."""
    rows = [*random_rows(10, vocabulary), *shared_rows(9, vocabulary), *shared_rows(3, vocabulary, depth=5, seed=1)]
    long = rows[-1].tokens
    extra = [Continuation(90, long, 3, True), Continuation(91, long[:4], 3, True), Continuation(92, (5, 6), 1, True)]
    return [*rows, rows[0], *extra]


def by_definition(model, row):
    """The likelihood of a row by one unpadded forward pass, summed in float64."""
    table = log_probabilities(model, row.tokens[:-1])[row.n_context - 1 :]
    target = torch.tensor(row.tokens[row.n_context :])
    logprob = table.gather(1, target[:, None]).squeeze(1)
    best_other = table.scatter(1, target[:, None], -torch.inf).max(dim=1).values
    argmax = table.argmax(dim=1)
    return SimpleNamespace(
        logprob=float(logprob.sum()),
        margin=float((logprob - best_other).min()),
        argmax=argmax.tolist(),
    )


def rejected(caplog):
    """The ways of scoring that did not agree with plain forward passes, and why; needs the log at level INFO."""
    return {record.args[1]: record.args[2] for record in caplog.records if "rejected" in record.msg}


def is_greedy(row, likelihood):
    """Whether every token of the continuation is the argmax."""
    return likelihood.argmax.tolist() == list(row.tokens[row.n_context :])


def check(rows, found, expected, *, tolerance=1e-4):
    """Compares likelihoods with the definition, row by row."""
    for row, likelihood, wanted in zip(rows, found, expected, strict=True):
        assert likelihood.logprob == pytest.approx(wanted.logprob, abs=tolerance)
        if row.greedy:
            assert likelihood.margin == pytest.approx(wanted.margin, abs=tolerance)
            assert likelihood.argmax.tolist() == wanted.argmax
        else:
            assert np.isnan(likelihood.margin) and likelihood.argmax is None
