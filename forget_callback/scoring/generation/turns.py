"""Where a chat template ends the assistant's turn: there an answer ends, as it does for every chat server.

The tokenizer's end of sequence is often another token (a base model after fine-tuning on conversations), so the end is
read off conversations that the template renders itself. Knows templates and added tokens, but no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forget_callback.probes.probe import Probe
from forget_callback.scoring.likelihood.rendering import messages_of, render
from forget_callback.scoring.prefixes import common_length

# Words that end, and begin, with different letters: what stays the same around them is the template's.
_ANSWERS, _QUESTIONS, _THOUGHT = ("Seven", "Table"), ("Why", "How"), "Umbrella"

Message = Mapping[str, str]


@dataclass(frozen=True)
class TurnEnd:
    """What ends an assistant's turn beside the model's own end of sequence.

    Attributes:
        ids: Special tokens, each of which ends it.
        texts: Stop strings, where the template ends a turn with plain text, such as the next user's header.
        names: The special tokens as texts, sorted.
    """

    ids: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def end_of_turn(probe: Probe, tokenizer: Any) -> TurnEnd:
    """What follows an assistant's text in the conversations of a probe, between turns and at the end.

    The first special token there ends the turn, and so does plain text before it. Nothing does where the template puts
    nothing there, leaves out the assistant's text, or renders no such conversation at all. A token that also separates
    thinking from the answer within one turn (as `<|end|>` in gpt-oss) does not end it.
    """
    if not probe.chat:
        return TurnEnd()
    added = {text: number for text, number in tokenizer.get_added_vocab().items() if text.strip()}
    for opening in ([{"role": "user", "content": "Hello."}], messages_of(probe.items[0], probe)):
        between, last, inner = _rendered(opening, probe, tokenizer)
        if between or last:
            break
    marks = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")
    names: set[str] = set()
    texts: list[str] = []
    for after in (between, last):
        found = marks.search(after)
        names |= {found[0]} if found else set()
        texts += _stop_texts(after[: found.start()] if found else after)
    # Of one mark with and without the next header after it, the mark.
    texts = [text for text in texts if not any(text.startswith(other) and text != other for other in texts)]
    names -= set(marks.findall(inner))
    return TurnEnd(frozenset(added[name] for name in names), tuple(dict.fromkeys(texts)), tuple(sorted(names)))


def _rendered(opening: Sequence[Message], probe: Probe, tokenizer: Any) -> tuple[str, str, str]:
    """The template's text after an answer and before the next question, after the last answer, and around thinking."""

    def conversation(*texts: str, **more: str) -> str:
        roles = ("assistant", "user")
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts)]
        turns[0] |= more
        try:
            return render([*opening, *turns], probe, tokenizer, generation_prompt=False)
        except Exception:  # templates refuse what they do not expect, each in its own way
            return ""

    whole, other = (conversation(_ANSWERS[0], question) for question in _QUESTIONS)
    rest = _after_answer(lambda answer: conversation(answer, _QUESTIONS[0]))
    between = whole[len(whole) - len(rest) : common_length(whole, other)] if rest else ""
    thought = conversation(_ANSWERS[0], thinking=_THOUGHT, reasoning_content=_THOUGHT)
    inner = thought.rpartition(_THOUGHT)[2] if _THOUGHT in thought else ""
    return between, _after_answer(conversation), inner.partition(_ANSWERS[0])[0]


def _after_answer(conversation: Callable[[str], str]) -> str:
    """What a conversation has after its answer, however the template changes that: it is alike for two answers."""
    one, other = map(conversation, _ANSWERS)
    alike = common_length(one[::-1], other[::-1])
    return one[len(one) - alike :] if alike < len(one) else ""


def _stop_texts(plain: str) -> list[str]:
    """The stop strings for plain text after an answer: its first line that is not empty, with the line breaks before.

    Text of a single character is no mark: it could as well be part of an answer.
    """
    line = re.match(r"(\s*)(\S[^\n]*)", plain)
    if line is None or len(line[2].rstrip()) < 2:
        return []
    mark = line[2].rstrip()
    # A model may leave out one of several line breaks.
    return [line[1] + mark, *(["\n" + mark] if line[1].count("\n") > 1 else [])]
