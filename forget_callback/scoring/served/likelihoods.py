"""The log-probabilities of a prompt's tokens from a server: how they are asked for, read and checked.

What it cannot give is an error before anything is scored. What the numbers say of items is `score.py`'s and
`outcomes.py`'s, but for how far a model goes along with a recalled answer, which depends on how tokens are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forget_callback.probes.conversation import question_of
from forget_callback.probes.items import Generation, MultipleChoice, Text, accepted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.scoring.likelihood.tokens import Continuation, encode
from forget_callback.scoring.outcomes import Recalled
from forget_callback.scoring.served.client import Body, Server, Unanswered

_ID = "token_id:"
_SHOWN = 200  # characters of a document by which tokenizers are compared


def recalled_of(
    row: Continuation, tokens: Sequence[tuple[str, float, dict[str, float]]], tokenizer: Any
) -> Recalled | None:
    """How far the model goes along with an answer of a recall item, None if the server leaves it open.

    Args:
        tokens: Of each token of the answer its name, its log-probability, and those of the best tokens by name.
    """
    leads, best = [], []
    for name, logprob, top in tokens:
        # careful: where tokens are named by their text, two may share a name and only one entry is left. Of two
        # entries in all, one is of a better token if there is a better token.
        others = [(value, other) for other, value in top.items() if (other, value) != (name, logprob)]
        if not others:
            return None
        best.append(max(others))
        leads.append(logprob - best[-1][0])
    wrong = next((i for i, lead in enumerate(leads) if lead < 0), None)
    given, named = list(row.tokens[row.n_context :][:wrong]), "" if wrong is None else best[wrong][1]
    if named.startswith(_ID):
        given, named = [*given, int(named.removeprefix(_ID))], ""
    text = tokenizer.decode(given, skip_special_tokens=True) + named
    return Recalled(wrong is None, min(leads), len(leads) if wrong is None else wrong, text)


def echo(prompt: str | Sequence[int]) -> Body:
    """Request for the log-probability of each token of a prompt. Some servers must generate a token; it is not read.

    vLLM then names tokens by their ids; other servers ignore that field and name them by their text.
    """
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 2}
    return {**body, "return_tokens_as_token_ids": True}


def prompt_part(answer: Any, n: int, server: Server) -> list[list[Any]]:
    """Of each token in a response to `echo` its name, its log-probability, and those of the best tokens by name.

    Raises:
        ValueError: If the response has fewer than the first `n` of the prompt.
    """
    logprobs = answer.get("logprobs") or {}
    lists = [logprobs.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs")]
    # careful: a server that ignores echo returns those of the one generated token. The first token has no context.
    if any(len(values) < n or None in values[1:n] for values in lists):
        raise _no_likelihoods(server, "")
    return lists


def _no_likelihoods(server: Server, why: object) -> ValueError:
    return ValueError(
        f"{server.url} gave no log-probabilities of the prompt for model {server.model!r} (/completions with echo, "
        "logprobs and token ids, as vLLM and SGLang support it), which choices, recall and documents need; serve the "
        "model there, or score choices by generation: the spec with ?cot=true, or items of kind generation"
        f"{f' ({why})' if why else ''}"
    )


def require_likelihoods(server: Server, probe: Probe, tokenizer: Any) -> None:
    """Checks that a server returns log-probabilities, and that its token ids are the tokenizer's.

    Raises:
        ValueError: If not.
    """
    item = next(item for item in probe.items if not isinstance(item, Generation))
    if isinstance(item, Text):
        text = item.text[:_SHOWN]
    else:
        text = question_of(item) + (item.choices[0] if isinstance(item, MultipleChoice) else accepted(item)[0])
    ids = encode(text, tokenizer)
    tokens = []
    for prompt, n in ((text, 2), (ids, len(ids))):  # an item has a token before the answer and one in it
        answer = server.request("completions", echo(prompt))
        if isinstance(answer, Unanswered):
            if answer.refused:
                raise _no_likelihoods(server, answer.problem)
            raise ValueError(f"{server.url} does not answer for model {server.model!r}: {answer.problem}")
        tokens.append(prompt_part(answer, n, server)[0][: len(ids)])
    if tokens[0] != tokens[1]:
        raise ValueError(
            f"{server.url} tokenizes {quoted(text[:60])} as {tokens[0][:8]}, but the local tokenizer's ids are "
            f"{tokens[1][:8]} there: this is not the tokenizer of {server.model!r}; pass --tokenizer with the served "
            "model's"
        )
