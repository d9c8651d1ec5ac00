"""`score_served`: a model on an OpenAI-compatible server and a probe in, a snapshot out.

Generation items go through chat or completions. Choices and recall need the log-probabilities of the prompt: the
server gets the token ids that a local model would get, and returns one log-probability a token. What the server cannot
do is an error before anything is scored. Needs no local model, only a tokenizer where token ids are sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from forget_callback.probes.items import Generation, Recall
from forget_callback.probes.judging import not_run
from forget_callback.probes.probe import Probe
from forget_callback.probes.training_data import require_made
from forget_callback.scoring.generation.text import (
    GeneratedText,
    GenerationRequest,
    find_stop,
    open_thinking,
    shows_marks,
)
from forget_callback.scoring.generation.turns import TurnEnd, end_of_turn
from forget_callback.scoring.likelihood.forward import Likelihood
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.likelihood.tokens import Continuation, EncodedItems, Encodings
from forget_callback.scoring.loading import load_tokenizer
from forget_callback.scoring.outcomes import (
    PartAnswers,
    Recalled,
    judge_decoded,
    judge_likelihoods,
    judge_recall,
    judge_texts,
    snapshot_of,
    warn_dropped,
)
from forget_callback.scoring.parts import Part, first_part, further_parts
from forget_callback.scoring.progress import ANSWERS, ROWS, Progress, progress_of, what_is_scored
from forget_callback.scoring.served.chat import chat_body, require_tools, said
from forget_callback.scoring.served.client import Body, Server, Unanswered
from forget_callback.scoring.served.likelihoods import echo, prompt_part, recalled_of, require_likelihoods
from forget_callback.snapshots.snapshot import Snapshot

# Stands for a chat template that only the server knows: such snapshots compare with each other, not with those of a
# template that is known locally.
SERVERS_TEMPLATE = "the server's own"


def bind_served(probe: Probe, server: Server, *, tokenizer: str | None = None) -> tuple[Probe, Any]:
    """The probe bound to this server's chat template, and the tokenizer that it needs, None if it needs none.

    With a tokenizer conversations are rendered locally, and the fingerprint is that of a locally scored model. Without
    one the server renders them by its own template.

    Args:
        tokenizer: Directory or hub id; where choices or recall need one, the server's name of the model by default.

    Raises:
        ValueError: If a tokenizer is needed and cannot be loaded, or has no chat template where the probe needs one.
    """
    require_made(probe)
    if tokenizer is None and all(isinstance(item, Generation) for item in probe.items):
        return _with_template(probe, tokenizer=None), None
    loaded = load_tokenizer(tokenizer or server.model)
    return bind(probe, loaded), loaded


def score_served(
    server: Server,
    probe: Probe,
    tokenizer: Any = None,
    *,
    variants: bool = True,
    progress: Progress = False,
    encodings: Encodings | None = None,
) -> Snapshot:
    """Scores a served model on a probe.

    Items that the server rejects, such as one longer than its context, or does not answer after several attempts are
    not scored. Samples are drawn by the server, with the probe's seed; its own defaults, such as a repetition penalty,
    apply to all that a request does not set.

    Args:
        probe: As `bind_served` returns it.
        tokenizer: Likewise.
        variants: Whether to ask the further prompts of the items as well.
        progress: As in `score_probe`.
        encodings: Of this tokenizer, where another model was asked before.

    Returns:
        A snapshot at step 0.

    Raises:
        ValueError: If the server answers nothing, does not return what choices and recall need, or its token ids are
            not the tokenizer's.
        ImportError: If openai is not installed.
    """
    with_template = partial(_with_template, tokenizer=tokenizer)
    encodings = encodings or (None if tokenizer is None else Encodings(tokenizer))
    asked = [
        _Asked.of(part, encodings)
        for part in [first_part(probe), *(further_parts(probe, with_template) if variants else [])]
    ]
    if tokenizer is None:
        require_tools(server, probe)
    if asked[0].rows:
        require_likelihoods(server, probe, tokenizer)
    requests = [request for one in asked for request in one.requests]
    what = f"scoring {what_is_scored([probe], [len(probe)], variants=variants)}"
    generated = [place < len(one.written) for one in asked for place in range(len(one.requests))]
    work = {ROWS: float(len(requests)), ANSWERS: float(sum(generated))}
    coming = iter(generated)  # requests are done in their order
    with progress_of(what, work, progress, probes={probe.name: work}) as advance:

        def answer(n: int) -> None:
            advance(ANSWERS, sum(islice(coming, n)))
            advance(ROWS, n)

        answered = iter(server.request_all(requests, advance=answer))
    found = []
    for one in asked:
        own = list(islice(answered, len(one.requests)))
        found.append(_judged(one, own, server, tokenizer))
        lost = found[-1].unscored
        problems = (answer.problem for answer in own if isinstance(answer, Unanswered))
        why = next(problems, "the server names no token besides the answer's")
        if len(lost) == len(probe) and one.part.number == 1:
            why = next(iter(found[-1].dropped.values()), why)
            raise ValueError(f"{server.url} answered no item of probe {probe.name!r} for model {server.model!r}: {why}")
        for i in lost:
            found[-1].dropped.setdefault(i, f"{server.url} gave no answer: {why}")
        warn_dropped(found[-1])
    return snapshot_of(probe, found[0], found[1:], {"server": server.url, "served_model": server.model})


def _with_template(probe: Probe, *, tokenizer: Any) -> Probe:
    """The probe with its chat template: the tokenizer's, or the server's own where there is no tokenizer."""
    if tokenizer is not None:
        return bind(probe, tokenizer)
    return probe if probe.chat is False else replace(probe, chat=True, template=SERVERS_TEMPLATE)


@dataclass(frozen=True)
class _Asked:
    """What is requested for a part.

    Attributes:
        written: Index of the item of each of the first requests, whose answer is generated, once for each sample.
        rows: The continuations of the other requests.
        requests: Path and body each.
        turn: What ends an answer where conversations are rendered here; where the server does it, it knows.
        dropped: Why items cannot be asked, by index.
    """

    part: Part
    written: list[int]
    rows: list[Continuation]
    requests: list[tuple[str, Body]]
    turn: TurnEnd
    dropped: dict[int, str]

    @classmethod
    def of(cls, part: Part, encodings: Encodings | None) -> _Asked:
        probe, tokenizer = part.probe, None if encodings is None else encodings.tokenizer
        if encodings is None:  # then all are generation items, which the server renders
            encoded, turn = EncodedItems([], {}, {}), TurnEnd()
            generated = list(range(len(probe)))
        else:
            encoded, turn = encodings.of(probe), end_of_turn(probe, tokenizer)
            generated = list(encoded.prompts)
        dropped = encoded.dropped | not_run(probe)
        generated = [i for i in generated if i not in dropped]
        drawn = [(i, sample) for i in generated for sample in range(probe.samples[i])]
        requests = [
            _generation(probe.items[i], probe, encoded.prompts.get(i), turn, tokenizer, sample) for i, sample in drawn
        ]
        requests += [("completions", echo(row.tokens)) for row in encoded.rows]
        return cls(part, [i for i, _ in drawn], encoded.rows, requests, turn, dropped)


def _judged(
    asked: _Asked, answers: Sequence[dict[str, Any] | Unanswered], server: Server, tokenizer: Any
) -> PartAnswers:
    """What the responses to a part's requests say."""
    found, probe = PartAnswers(asked.part), asked.part.probe
    found.dropped = dict(asked.dropped)
    texts: dict[int, list[GeneratedText | None]] = {}
    decoded: dict[int, list[GeneratedText | None]] = {}
    for i, request, answer in zip(asked.written, asked.requests, answers):
        item = probe.items[i]
        (texts if isinstance(item, Generation) else decoded).setdefault(i, []).append(
            _text(item, asked, request, answer, tokenizer)
        )
    judge_texts(found, list(texts), list(texts.values()))
    judge_decoded(found, list(decoded), list(decoded.values()))
    options = []
    recalled: dict[int, list[Recalled | None]] = {}
    for row, answer in zip(asked.rows, answers[len(asked.written) :]):
        lost, n = isinstance(answer, Unanswered), len(row.tokens)  # then its item stays unscored
        tokens, own, top = ([], [], []) if lost else (v[row.n_context : n] for v in prompt_part(answer, n, server))
        if row.greedy:
            one = None if lost else recalled_of(row, list(zip(tokens, own, top)), tokenizer)
            recalled.setdefault(row.item, []).append(one)
        else:
            options.append((row, Likelihood(math.nan if lost else float(sum(own)))))
    judge_likelihoods(found, options, tokenizer)
    for i, several in recalled.items():
        known = [one for one in several if one is not None]
        if len(known) == len(several):
            judge_recall(found, i, known)
    return found


def _generation(
    item: Any, probe: Probe, prompt: Sequence[int] | None, turn: TurnEnd, tokenizer: Any, sample: int
) -> tuple[str, Body]:
    """The path and the body of the request for a sample of an item whose answer is generated.

    Args:
        prompt: Token ids, None where the server tokenizes.
    """
    if isinstance(item, Recall):
        assert prompt is not None
        limit = GenerationRequest.of_recall(item, prompt, probe).max_new_tokens
        return "completions", {"max_tokens": limit, "temperature": 0, "prompt": list(prompt)}
    body: dict[str, Any] = {"max_tokens": item.max_new_tokens, "temperature": probe.temperature}
    if probe.temperature > 0:
        body |= {"top_p": probe.top_p, "seed": probe.seed + sample}
    if stop := [*item.stop, *turn.texts]:
        body["stop"] = stop
    if tokenizer is not None and turn.ids - {tokenizer.eos_token_id}:
        # The server stops at the model's own end of sequence only. vLLM and SGLang read this, others ignore it.
        body["stop_token_ids"] = sorted(turn.ids)
    if prompt is not None:
        if shows_marks(item, probe):
            body["skip_special_tokens"] = False  # vLLM and SGLang read this too
        return "completions", {**body, "prompt": list(prompt)}
    if not probe.chat:
        return "completions", {**body, "prompt": item.prompt}
    if not probe.generation_prompt:
        body["add_generation_prompt"] = False
    if probe.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": probe.thinking}
    return "chat/completions", {**body, **chat_body(item, probe)}


def _text(item: Any, asked: _Asked, request: tuple[str, Body], answer: Any, tokenizer: Any) -> GeneratedText | None:
    """The generated text, up to where the answer ends; None if there is no answer."""
    if isinstance(answer, Unanswered):
        return None
    if isinstance(item, Recall):
        return GeneratedText(str(answer.get("text") or ""), (), "text")
    opened = "" if tokenizer is None else open_thinking(request[1]["prompt"], tokenizer)
    text = opened + (said(answer.get("message") or {}) or answer.get("text") or "")
    # Not in the request: the first line may be empty, or part of the thinking.
    turn = replace(asked.turn, texts=(*asked.turn.texts, *asked.turn.names))  # a server may show special tokens
    end = find_stop(GenerationRequest.of(item, (), replace(asked.part.probe, temperature=0), turn), text)
    if end is not None:
        return GeneratedText(text[:end], (), "text")
    return GeneratedText(text, (), "length" if answer.get("finish_reason") == "length" else "token")
