"""Further prompts for the items of a probe: the same question and answer in a frame of other structure.

One frame cannot tell what is gone from what is no longer said in that frame, and a prompt that only puts words around
it shares its damage. So an item in the frame "Question: ... Answer:" is also asked as an exam question, outside the
chat template: of two prompts one stays near the form of training or use, and one goes far from it. Where a text's
question cannot be found there is a weak variant, or none. Knows texts only: what no text shows, such as examples
without a frame, its loader has to say.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from forget_callback.probes.abilities import ability_of
from forget_callback.probes.conversation import question_of
from forget_callback.probes.item_variants import Variant
from forget_callback.probes.items import Generation, Item, MultipleChoice, Recall, Text, accepted, n_options
from forget_callback.probes.plurals import counted, have
from forget_callback.probes.probe import Probe
from forget_callback.probes.reasoning import ENDINGS, LETTERS, OTHER_ENDINGS

logger = logging.getLogger(__name__)


class Frame(NamedTuple):
    """What stands before a question and after it."""

    opening: str
    closing: str


_EXAM = "Here is an exam question."
QUESTION = Frame("Question: ", "\nAnswer:")
EXAM = Frame(f"{_EXAM}\n\n", "\n\nThe answer is")
WORKED = Frame(f"{_EXAM}\n\n", "\n\nThe solution is as follows.")

_LABEL = re.compile(rf"^(?:(?:Question|Q|Problem) ?:|{re.escape(_EXAM)})\s*", re.MULTILINE)
# How a framed prompt ends: asking for the answer, or beginning to state it.
_STEPS = "Let's think step by step."
_ASKS = re.compile(rf"(?:^|\s)((?:Answer|A|Solution|Response) ?:(?: {_STEPS})?)$")
_STATES = re.compile(r"(?:^|\s)((?:A: )?(?:Among A through [A-Z], )?[Tt]he (?:correct |right |best )?answer is:?)$")
_OPTION = r"^[ \t]*(?:\({0}\)|{0}[.:)])[ \t]+"
_OPTIONS = re.compile(rf"{_OPTION.format('[A1]')}|1? ?- ")
# Options that mean other options by where they stand.
_REFERS = re.compile(
    r"(?i:\b(?:above|below|previous|preceding|both|neither|either|all of|none of|options?|choices?)\b)"
    r"|\b[A-Z]\)?(?:,| and| or| &) \(?[A-Z]\b"
)
# From this length on an expected answer is not only said but worked out.
_WORKED_OUT = 60


def with_variants(probe: Probe) -> Probe:
    """The probe with further prompts for items that have none; those that have some keep theirs.

    Recall gets none: another frame asks for another form of answer, and not for what was recalled (access), so a
    recall item has the variants that are given to it. Options that differ in what stands before them (`contexts`, as
    in WinoGrande) get none either, since words after the prompt would stand inside their sentence; nor do items of
    behaviour, such as IFEval's, which ask for an answer of a form, and conversations of more than one message.
    """
    chat = bool(probe.chat)
    items = [item if item.variants else replace(item, variants=further(item, chat=chat)) for item in probe.items]
    askable = [item for item in items if not isinstance(item, Recall) and ability_of(item) in ("knowledge", "task")]
    none = sum(not item.variants for item in askable)
    weak = sum(bool(item.variants) and all(variant.weak for variant in item.variants) for item in askable)
    if none or weak:
        logger.warning(
            "probe %s: of %s %d %s no second prompt and %d only words around the first: what is said of these "
            "holds in this prompt; give them `variants`",
            probe.name,
            counted(len(items)),
            none,
            have(none),
            weak,
        )
    return replace(probe, items=items)


def further(item: Item, *, chat: bool) -> tuple[Variant, ...]:
    r"""The variants of an item, by the frame that its prompt is in.

    Args:
        chat: Whether the item's own prompt goes through a chat template; no variant does.

    >>> item = Generation("a", "Question: 2 + 2?\nAnswer:", "4", "number")
    >>> [variant.prompt for variant in further(item, chat=False)]
    ['Here is an exam question.\n\n2 + 2?\n\nThe answer is']
    """
    if isinstance(item, (Recall, Text)):
        return ()
    if item.messages:  # what was said before the question has no place in a plain prompt
        alone = len(item.messages) == 1 and item.messages[0]["role"] == "user" and not item.tools
        return further(replace(item, prompt=question_of(item), messages=()), chat=True) if alone else ()
    prompt = item.prompt.rstrip()
    if not prompt or (isinstance(item, MultipleChoice) and item.contexts):
        return ()
    # It asks for an answer of a form, which other words would change.
    if ability_of(item) == "behaviour" or getattr(item, "match", "") == "code":
        return ()
    end = _end(prompt)
    if end:
        frame = QUESTION if _STATES.fullmatch(end) else _exam(item, end)
        parsed = _reframed(prompt, end, frame)
        if parsed is not None:
            return (_variant(item, *parsed, frame, chat=chat, moved=True),)
    for kind, ending in ENDINGS.items():
        if prompt.endswith(ending):
            before, question = _parted(prompt.removesuffix(ending).rstrip(), first=True)
            frame = Frame(EXAM.opening, f"\n\n{OTHER_ENDINGS[kind]}")
            return (_variant(item, before, question, frame, chat=chat, moved=True),)
    if isinstance(item, Generation) and item.task:  # it may judge the form of the whole answer
        return ()
    before, question = _parted(prompt, first=True)
    # A label that is not known, such as "Output:", or a question after another that was answered, as in RACE.
    if end or re.search(r"\n[^\n]{1,40}:$", prompt) or re.search(r"^Answer ?:", question, re.MULTILINE):
        return (around(item.prompt, weak=not chat),)
    exam = _variant(item, before, question, EXAM, chat=chat, moved=True)
    return (exam,) if chat else (_variant(item, before, question, QUESTION, chat=chat, moved=False), exam)


def around(prompt: str, *, weak: bool = True) -> Variant:
    """Words on both sides of a prompt whose question cannot be found."""
    text = prompt.rstrip()
    after = " The answer is" if text.endswith(":") else EXAM.closing
    return Variant(EXAM.opening + text + after + prompt[len(text) :], chat=False, weak=weak)


class Found(NamedTuple):
    """A prompt taken apart: what stands before its question, the question, and whether that was in a frame."""

    before: str
    question: str
    framed: bool


def question_in(prompt: str) -> Found | None:
    r"""The question of a prompt, out of its frame; None where it cannot be found.

    >>> question_in("Question: 2 + 2?\nAnswer:")
    Found(before='', question='2 + 2?', framed=True)
    """
    text = prompt.rstrip()
    if end := _end(text):
        parsed = _reframed(text, end, EXAM)
        return None if parsed is None else Found(*parsed, framed=True)
    if any(text.endswith(ending) for ending in ENDINGS.values()) or re.search(r"\n[^\n]{1,40}:$", text):
        return None
    before, question = _parted(text, first=True)
    return Found(before, question, framed=False) if question else None


def is_framed(prompt: str) -> bool:
    """Whether the question of a prompt, and of examples before it, can be found."""
    end = _end(prompt.rstrip())
    return bool(end) and _reframed(prompt.rstrip(), end, EXAM) is not None


def _end(prompt: str) -> str:
    """The words with which a framed prompt ends, "" if it does not end so."""
    found = _ASKS.search(prompt) or _STATES.search(prompt)
    if found is None or (found[1] == "A:" and re.search(r"^B ?:", prompt, re.MULTILINE)):  # "A: ..." is an option there
        return ""
    return found[1]


def _exam(item: Item, end: str) -> Frame:
    """An exam question that asks for the same kind of answer."""
    if end.endswith(_STEPS):
        return Frame(EXAM.opening, f"\n\n{_STEPS}")
    worked = isinstance(item, Generation) and min(map(len, accepted(item))) >= _WORKED_OUT
    return WORKED if worked or (isinstance(item, Generation) and end.startswith("Solution")) else EXAM


def _reframed(prompt: str, end: str, frame: Frame) -> tuple[str, str] | None:
    """What stands before the last question, with the examples in another frame, and that question; None if unclear."""
    own_line = prompt.removesuffix(end).endswith("\n")
    pieces = re.split((r"\n+" if own_line else " ") + re.escape(end), prompt)
    before = ""
    for place, piece in enumerate(pieces[:-1]):
        parted = _parted(piece, first=place == 0)
        if not parted[1] or (place > 0 and not parted[0].strip()):
            return None
        before += parted[0]
        if place < len(pieces) - 2:
            before += frame.opening + parted[1] + frame.closing
    return (before, parted[1]) if len(pieces) > 1 else None


def _parted(text: str, *, first: bool) -> tuple[str, str]:
    """What stands before a question (passage, description, the answer to the question before it), and the question."""
    if labels := list(_LABEL.finditer(text)):
        start, stop = labels[-1].span()
    elif first:
        start = stop = text.rfind("\n\n") + 2 if "\n\n" in text else 0
        while start and _OPTIONS.match(text[start:]):  # a blank line between question and options
            start = stop = text.rfind("\n\n", 0, start - 2) + 2 if "\n\n" in text[: start - 2] else 0
    else:
        gap = "\n\n" if "\n\n" in text else "\n"
        start = stop = text.find(gap) + len(gap) if gap in text else 0
    before = text[:start]
    if before.strip() and not before.endswith("\n\n"):
        before = before.rstrip("\n") + "\n\n"
    return before, text[stop:].strip()


def _variant(item: Item, before: str, question: str, frame: Frame, *, chat: bool, moved: bool) -> Variant:
    """A plain prompt; with `moved`, and where the question lists its options by letters, they are in another order."""
    space = item.prompt[len(item.prompt.rstrip()) :]
    order: Sequence[int] = ()
    if moved and (listed := _relisted(item, question)):
        question, order = listed
    choices: Sequence[str] = ()
    if isinstance(item, MultipleChoice):
        choices = item.choices if order else ()
        if chat and not space and not any(choice[:1].isspace() for choice in item.choices):
            choices = [
                f" {choice}" for choice in item.choices
            ]  # a turn begins without a space, a text goes on with one
    stop: Sequence[str] = ()
    if isinstance(item, Generation) and item.stop and not any(text.strip("\n") == "" for text in item.stop):
        stop = (frame.opening.strip(),)  # with which a further example would begin
    return Variant(before + frame.opening + question + frame.closing + space, choices, order, chat=False, stop=stop)


def _relisted(item: Item, question: str) -> tuple[str, tuple[int, ...]] | None:
    """The question with each option under another letter, and the order; None where options are not listed so.

    The shift depends on the item's id alone, so it is the same on every machine.
    """
    k = n_options(item)
    if not 2 <= k <= len(LETTERS):
        return None
    if isinstance(item, MultipleChoice) and [c.strip(" ().:") for c in item.choices] != list(LETTERS[:k]):
        return None
    for start in [found.start() for found in re.finditer(_OPTION.format("A"), question, re.MULTILINE)][::-1]:
        lines = question[start:].split("\n")
        marks = [re.match(_OPTION.format(letter), line) for letter, line in zip(LETTERS[:k], lines)]
        if len(marks) < k or not all(marks):
            continue
        heads = [mark[0] for mark in marks if mark]
        texts = [line[len(head) :] for head, line in zip(heads, lines)]
        if any(_REFERS.search(text) for text in texts):
            return None
        shift = random.Random(item.id).randrange(1, k)
        order = tuple((place + shift) % k for place in range(k))
        moved = [head + texts[i] for head, i in zip(heads, order)]
        return question[:start] + "\n".join([*moved, *lines[k:]]), order
    return None
