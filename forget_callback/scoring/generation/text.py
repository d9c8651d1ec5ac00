"""Generation requests, generated text and stop conditions.

Knows the tokenizer and the end-of-sequence ids, but runs no model: any backend may generate the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback.probes.answers import after_thinking, ends_thinking
from forget_callback.probes.items import Generation, Recall, accepted
from forget_callback.probes.judges.rules import RULES
from forget_callback.probes.probe import Probe
from forget_callback.scoring.generation.sampling import draws
from forget_callback.scoring.generation.turns import TurnEnd
from forget_callback.scoring.likelihood.tokens import spoken

# Last tokens of a prompt in which a chat template may open a thinking block.
_OPENING = 16
# Characters that the beginning of a text may differ by from the same in the middle of a text: lost spaces, a part of a
# character. Longer than a tag that ends a thinking block.
_SLACK = 16
# Tokens after which it is seen anew whether a thinking block is still open.
_THINKING = 256


@dataclass(frozen=True)
class GeneratedText:
    """The generated text of one request.

    Attributes:
        text: Up to the stop string, which is not part of it.
        tokens: All generated token ids, including a final stop token.
        finish: "token" at an end-of-sequence token, "text" at a stop string, "length" at the token limit.
        logits: The model's logit of each token, none where the backend does not say it.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str
    logits: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt to generate from.

    Attributes:
        prompt: Token ids.
        max_new_tokens: Limit of the generated text, in tokens.
        first_line: Whether to stop after the first line that is not empty: "exact" and "prefix" match no further.
        stop: Stop strings.
        draws: A uniform number for each token to sample (see `sampling`), ``(max_new_tokens,)``; none if greedy.
        expected: Of a recall item the accepted answers: its text is all text, special tokens too, and ends as soon as
            it begins with one of them, or can no longer.
        marks: Whether special tokens are part of the text: in some templates they alone say that a tool is called.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    first_line: bool
    stop: tuple[str, ...]
    draws: NDArray[np.float64]
    expected: tuple[str, ...] = ()
    marks: bool = False

    @classmethod
    def of(
        cls,
        item: Generation,
        prompt: Sequence[int],
        probe: Probe,
        turn: TurnEnd = TurnEnd(),  # noqa: B008 - it is frozen
        *,
        sample: int = 0,
        replicate: int = 0,
    ) -> GenerationRequest:
        """The request for one of an item's samples, with the probe's sampling settings and its chat template's end."""
        first_line = not probe.scorer and item.match in ("exact", "prefix")  # a scorer reads the whole text
        limit, sampled = item.max_new_tokens, np.empty(0)
        if probe.temperature > 0:
            sampled = draws(limit, probe.seed, replicate, sample, item.id)
        return cls(tuple(prompt), limit, first_line, (*item.stop, *turn.texts), sampled, marks=shows_marks(item, probe))

    @classmethod
    def of_recall(cls, item: Recall, prompt: Sequence[int], probe: Probe, *, room: int = 2**62) -> GenerationRequest:
        """The request that decides whether greedy decoding generates an accepted answer of an item.

        Args:
            room: Tokens that the model's context has left after the prompt.
        """
        expected = tuple(spoken(text, probe) for text in accepted(item))
        longest = max(len(text.encode()) for text in expected)  # a token has a byte or more
        return cls(tuple(prompt), min(longest, room), False, (), np.empty(0), expected)


def shows_marks(item: Generation, probe: Probe) -> bool:
    """Whether an item's text is judged with the special tokens in it."""
    return not probe.scorer and item.match in RULES and RULES[item.match].marks


def find_stop(request: GenerationRequest, text: str) -> int | None:
    """Where the first stop string begins in a generated text, None if there is none."""
    found = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    answer = after_thinking(text).lstrip()
    if request.first_line and "\n" in answer:
        found.append(len(text) - len(answer) + answer.index("\n"))
    return min(found, default=None)


def recalls(text: str, expected: Sequence[str]) -> bool | None:
    """Whether a generated text begins with one of these answers, None if it is too short to tell."""
    if any(text.startswith(answer) for answer in expected):
        return True
    known = text.rstrip("�")  # part of a character, which the next token may complete
    return None if any(answer.startswith(known) for answer in expected) else False


def open_thinking(prompt: Sequence[int], tokenizer: Any) -> str:
    """The tag of a thinking block that the end of a prompt leaves open, "" if there is none."""
    tail = tokenizer.decode(prompt[-_OPENING:], skip_special_tokens=False)
    found = re.search(r"<(?:think|thinking|reasoning)>\s*$|\[THINK\]\s*$", tail)
    return found[0] if found else ""


class StopChecker:
    """Decodes generated tokens and decides where they stop.

    Attributes:
        eos_ids: End-of-sequence ids of the model's generation config and of the tokenizer, and those that end the
            assistant's turn, ascending.
        pad: Padding id; any end-of-sequence id, or 0, where the tokenizer has none.
    """

    def __init__(self, model: Any, tokenizer: Any, turn: TurnEnd = TurnEnd()) -> None:  # noqa: B008 - it is frozen
        self.tokenizer = tokenizer
        own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        ids = own if isinstance(own, (list, tuple)) else [own]
        known = sorted({*ids, tokenizer.eos_token_id} - {None})
        self.eos_ids = sorted({*known, *turn.ids})
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(known), 0)
        added: dict[str, int] = tokenizer.get_added_vocab()
        self._piece = cache(lambda token: tokenizer.decode([token, token]))  # the first of a text may lose its space
        how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        self._verbatim = lru_cache(64)(lambda tokens: str(tokenizer.decode(tokens, **how)))
        self._opened = cache(lambda prompt: open_thinking(prompt, tokenizer))
        self._thinks = lru_cache(512)(self._is_thinking)
        # End of sequence, and stop strings that are a special token, which no text shows.
        self._stop_ids = cache(
            lambda stop: frozenset([*self.eos_ids, *(added[text] for text in stop if text in added)])
        )

    def should_stop(self, request: GenerationRequest, tokens: Sequence[int]) -> bool:
        """Whether generation stops with the last token. The row is decoded only if that token may complete a stop."""
        if tokens[-1] in self._stop_ids(request.stop):
            return True
        if request.expected:
            return recalls(self._all_text(request, tokens), request.expected) is not None
        if not (request.first_line or request.stop):
            return False
        piece = self._piece(tokens[-1])
        # Part of a character decodes to the replacement character, and may complete any stop string.
        if not any(stop[-1] in piece or "�" in piece for stop in (*request.stop, *("\n",) * request.first_line)):
            return False
        if not self._may_have_stopped(request, tokens, len(piece)):
            return False
        return find_stop(request, self._full_text(request, tokens)) is not None

    def _may_have_stopped(self, request: GenerationRequest, tokens: Sequence[int], n: int) -> bool:
        """False where the end of a text, whose last token has up to `n` characters, shows that it goes on."""
        if any("�" in stop for stop in request.stop):
            return True
        if request.first_line:
            known = len(tokens) // _THINKING * _THINKING
            if not self._thinks(self._opened(request.prompt), tuple(tokens[:known]), request.marks):
                return True
            # Characters that are cut in two do not matter here: tags have none of several tokens.
            if ends_thinking(self._end(request, tokens[:known], _SLACK) + self._decoded(request, tokens[known:])):
                return True
        longest = max(map(len, request.stop), default=0)
        end = self._end(request, tokens, longest + n + _SLACK) if request.stop else ""
        return any(stop in end for stop in request.stop)

    def _end(self, request: GenerationRequest, tokens: Sequence[int], least: int) -> str:
        """The end of a text: `least` characters or more."""
        n, text = least, ""
        while n < len(tokens) and len(text) < least:
            text, n = self._decoded(request, tokens[-n:]), 2 * n
        return text if len(text) >= least else self._full_text(request, tokens)

    def generated(self, request: GenerationRequest, tokens: Sequence[int]) -> GeneratedText:
        """The generated text of tokens that end with a stop or at the limit."""
        at = len(tokens) - 1 if tokens and tokens[-1] in self._stop_ids(request.stop) else None
        if request.expected:
            return GeneratedText(self._all_text(request, tokens), tuple(tokens), "text" if at is None else "token")
        text = self._full_text(request, tokens[:at])
        end = find_stop(request, text)
        if end is not None and request.stop:
            text = text[:end]
        finish = "text" if end is not None else "length" if at is None else "token"
        return GeneratedText(text, tuple(tokens), finish)

    def truncate(self, request: GenerationRequest, tokens: Sequence[int]) -> GeneratedText:
        """The generated text of tokens that may continue, or be padded, after a stop or the limit."""
        tokens = tokens[: request.max_new_tokens]
        end = next((n for n in range(1, len(tokens)) if self.should_stop(request, tokens[:n])), len(tokens))
        return self.generated(request, tokens[:end])

    def _all_text(self, request: GenerationRequest, tokens: Sequence[int]) -> str:
        """What the tokens add to the prompt as text: by themselves, some tokenizers drop a leading space."""
        before, after = self._verbatim(request.prompt), self._verbatim((*request.prompt, *tokens))
        return after[len(before) :] if after.startswith(before) else self._verbatim(tuple(tokens))

    def _is_thinking(self, opened: str, tokens: tuple[int, ...], marks: bool) -> bool:
        """Whether a text is still within the thinking block that it, or its prompt, opens."""
        text = opened + str(self.tokenizer.decode(tokens, skip_special_tokens=not marks))
        return text != "" and not after_thinking(text) and not ends_thinking(text)

    def _full_text(self, request: GenerationRequest, tokens: Sequence[int]) -> str:
        """The decoded tokens, after the opening tag of a thinking block that the prompt leaves open."""
        return self._opened(request.prompt) + self._decoded(request, tokens)

    def _decoded(self, request: GenerationRequest, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=not request.marks))
