"""Whether a probe's answers lack the space that parts them from their prompts, or have one too many.

A model reads prompt and answer as one text. "Answer:" and "Paris" make "Answer:Paris", which nobody writes: on the same
items a pretrained model then seems to know a third less. Knows texts only, and which scripts part words by spaces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from forget_callback.probes.items import Generation, Item, MultipleChoice, accepted, in_variant
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted

# Of the items; fewer may be meant so: an ending as in "cat" + "s", a name in brackets.
LEAST = 0.1
# Scripts without spaces between words, as their characters' names begin.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI ", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE")
# After these a word has a space before it, as after a letter; not after an opening bracket, a hyphen or "=".
_ENDS = frozenset(":;,.?!)]%—–…")
_REMEDY = {
    "missing": (
        "no space before the answer, such as {answer} after {prompt}: the model reads {both}, which nobody writes, and "
        "seems to know less than it does (46.7% right instead of 66.7% on the same items of a real model); begin each "
        "choice and each recalled answer with a space: {spaced}"
    ),
    "double": (
        "two spaces before the answer, one at the end of the prompt, such as {answer} after {prompt}; end the prompts "
        "without a space: {bare}"
    ),
    "parted": (
        "the space of a recalled answer at the end of the prompt, such as {answer} after {prompt}: for most tokenizers "
        "a space belongs to the word after it, so the model cannot say it there; end the prompts without a space, "
        "{bare}, and begin the answers with one, {spaced}"
    ),
}


def spacing_problem(probe: Probe) -> str:
    """What is wrong with the spaces between prompts and answers of choice and recall items, "" if nothing is.

    Where a prompt goes through a chat template, the template's own text stands between, so that these are left out.

    >>> from forget_callback.probes.items import Recall
    >>> spacing_problem(Probe("p", [Recall("a", "The capital of France is", "Paris")])).split(", such as")[0]
    '1 of 1 items have no space before the answer'
    >>> spacing_problem(Probe("p", [Recall("a", "The capital of France is", " Paris")]))
    ''
    """
    items = [item for item in probe.items if not isinstance(item, Generation)]
    found = [next(filter(None, (_fault(item, *asked) for asked in _prompts(item, probe))), None) for item in items]
    for kind, remedy in _REMEDY.items():
        own = [fault for fault in found if fault is not None and fault[0] == kind]
        if own and len(own) >= LEAST * len(items):
            _, prompt, answer = own[0]
            texts = {
                "answer": quoted(answer, 40),
                "prompt": quoted(prompt[-20:]),
                "both": quoted((prompt + answer).rsplit("\n", 1)[-1][-40:]),
                "spaced": quoted(" " + answer.lstrip(), 40),
                "bare": quoted(prompt.rstrip()[-20:]),
            }
            return f"{len(own)} of {len(items)} items have {remedy.format(**texts)}"
    return ""


def _prompts(item: Item, probe: Probe) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each text before answers that no chat template parts from them, with the answers after it."""
    for number in range(1, 2 + len(item.variants)):
        chat = None if number == 1 else item.variants[number - 2].chat
        if probe.chat if chat is None else chat:
            continue
        one = in_variant(item, number) if item.variants else item
        if not isinstance(one, MultipleChoice):
            assert not isinstance(one, Generation)
            yield one.prompt, accepted(one)
        elif one.contexts:
            yield from ((one.prompt + own, (choice,)) for own, choice in zip(one.contexts, one.choices))
        else:
            yield one.prompt, tuple(one.choices)


def _fault(item: Item, prompt: str, answers: Sequence[str]) -> tuple[str, str, str] | None:
    """Which fault, and the prompt and an answer that show it; None if there is none."""
    closed = isinstance(item, MultipleChoice)
    checks = {"missing": _is_glued, "double": _is_double} | ({} if closed else {"parted": _is_parted})
    for kind, check in checks.items():
        wrong = [answer for answer in answers if check(prompt, answer)]
        # All choices are read; of accepted answers one that is right is enough.
        if wrong and (closed or len(wrong) == len(answers)):
            return kind, prompt, wrong[0]
    return None


def _is_glued(prompt: str, answer: str) -> bool:
    end, start = prompt[-1:], answer[:1]
    if len(prompt.split()) < 2:  # a word that the answer ends, "un" + "do", or no sentence at all
        return False
    if (end.isdigit() and start.isdigit()) or not (end.isalnum() or end in _ENDS):
        return False
    return (start.isalnum() or start in "($£€") and _is_spaced(reversed(prompt)) and _is_spaced(answer)


def _is_double(prompt: str, answer: str) -> bool:
    return prompt[-1:] == " " == answer[:1]


def _is_parted(prompt: str, answer: str) -> bool:
    return prompt[-1:] == " " and not answer[:1].isspace() and bool(prompt.strip()) and _is_spaced(answer)


def _is_spaced(text: Sequence[str] | Iterator[str]) -> bool:
    """Whether the first letter is of a script that parts words by spaces; where there is none, so it is."""
    letter = next((character for character in text if character.isalpha()), "")
    return not unicodedata.name(letter, "").startswith(_UNSPACED) if letter else True
