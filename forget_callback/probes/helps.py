"""Help for an item: the same question again, made easier to answer for whoever knows the answer.

What is no longer said may still be there. Each help asks an item in a way that a training on something else is less
likely to have damaged: after two worked examples, with the first words of the answer, as a choice, in or out of the
chat template, in another wording. Help also helps who knows nothing, so it is given to items that were never known too
(see `metrics/elicited.py`). Knows texts only, and nothing of models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forget_callback.probes.abilities import ability_of
from forget_callback.probes.conversation import asks_as, question_of
from forget_callback.probes.items import Generation, Item, MultipleChoice, Recall, accepted, n_options, place_of
from forget_callback.probes.peers import Peers, answer_of, follows, is_turn
from forget_callback.probes.reasoning import LETTERS
from forget_callback.probes.variants import EXAM, QUESTION, Frame, further, question_in

AGAIN = "again"  # is no help: what comes back by it was not lost in the model at hand
# What each help is called, for people.
HELPS: Mapping[str, str] = {
    AGAIN: "again, no help",
    "examples": "two examples",
    "first_words": "first words",
    "choice": "as a choice",
    "chat": "chat template",
    "wording": "other wording",
}
_FIRST_WORDS = 3  # at most, and half of the answer
_CHAT_TOKENS = 32  # of a short sentence, as chat models answer in
# Rules that find an answer among other words; the rest of the text then is no part of it.
_TEXTS = ("exact", "prefix", "contains", "named", "stated")
_FRAMES = (EXAM, QUESTION, Frame("Q: ", "\nA:"), Frame("", "\nThe correct answer is:"))
_CHAT_FRAMES = (Frame("Please answer this question: ", ""), Frame("", "\n\nWhat is the answer?"))
_STATEMENT_FRAMES = (Frame("Complete this sentence: ", ""), Frame("As an encyclopedia says: ", ""))


@dataclass(frozen=True)
class Asking:
    """An item with one help.

    Attributes:
        items: The questions that are asked, of which all must be right: one, or a choice asked twice.
        chat: Whether they go through the chat template.
        options: Different options that they show, of which a guess is right with chance 1 in so many; 0 if none.
    """

    items: tuple[Item, ...]
    chat: bool
    options: int = 0


def with_help(help: str, item: Item, peers: Peers, *, chat: bool, has_template: bool) -> Asking | None:
    """An item with a help; None where that help does not apply to it.

    Args:
        help: A key of `HELPS`.
        item: Any but a text.
        peers: The items of its probe.
        chat: Whether the item itself goes through the chat template.
        has_template: Whether the tokenizer has one.
    """
    found = _MAKERS[help](replace(item, variants=()), item, peers, chat, has_template)
    if found is None:
        return None
    numbered = tuple(replace(one, id=f"{j}:{item.id}", cluster="", fact="") for j, one in enumerate(found.items, 1))
    return replace(found, items=numbered)


def _again(plain: Any, item: Item, peers: Peers, chat: bool, has_template: bool) -> Asking:
    return Asking((plain,), chat, n_options(item))


def _examples(plain: Any, item: Item, peers: Peers, chat: bool, has_template: bool) -> Asking | None:
    worked = peers.worked(item)
    if worked is None:
        return None
    if chat:
        turns = [turn for one in worked for turn in (_user(question_of(one)), _assistant(answer_of(one)))]
        own = list(plain.messages) or [_user(plain.prompt)]
        at = next((i for i, message in enumerate(own) if message["role"] != "system"), 0)
        return Asking((replace(plain, prompt="", messages=[*own[:at], *turns, *own[at:]]),), True, n_options(item))
    before = "".join(f"{follows(one)}\n\n" for one in worked)
    changed: dict[str, Any] = {"prompt": before + plain.prompt}
    if isinstance(plain, Generation) and not any("\n" in text for text in map(answer_of, (*worked, plain))):
        changed["stop"] = (*plain.stop, "\n\n")  # with which a further example would begin
    return Asking((replace(plain, **changed),), False, n_options(item))


def _first_words(plain: Any, item: Item, peers: Peers, chat: bool, has_template: bool) -> Asking | None:
    if isinstance(plain, MultipleChoice) or n_options(plain) or not answer_of(plain):
        return None
    answers = accepted(plain)
    n = min(_FIRST_WORDS, len(answers[0].split()) // 2)
    found = re.match(rf"\s*\S+(?:\s+\S+){{{n - 1}}}", answers[0]) if n else None
    if found is None:
        return None
    lead = found[0]
    rests = tuple(text[len(lead) :] for text in answers if text.startswith(lead) and text[len(lead) :].strip())
    if not chat and (isinstance(plain, Recall) or plain.match in _TEXTS):
        return Asking((Recall(plain.id, _joined(plain, lead), rests, plain.category),), False)
    hint = f'{question_of(plain)}\n\nThe answer begins with "{lead.strip()}".'
    return Asking((_asked_as(plain, hint),), chat)


def _choice(plain: Any, item: Item, peers: Peers, chat: bool, has_template: bool) -> Asking | None:
    if isinstance(plain, MultipleChoice):
        return _by_letter(plain, chat)
    how: dict[str, Any] = {"category": plain.category, "messages": plain.messages, "tools": plain.tools}
    space = "" if chat or plain.prompt[-1:].isspace() else " "
    if n_options(plain):  # the letters that its prompt lists
        letters = [space + letter for letter in LETTERS[: n_options(plain)]]
        right = place_of(accepted(plain)[0])
        return Asking((MultipleChoice(plain.id, plain.prompt, letters, right, **how),), chat, len(letters))
    wrong = [] if ability_of(item) == "behaviour" else peers.other_answers(item)
    if len(wrong) < 3:
        return None
    # Disjoint where there are enough: who prefers some answer whatever is asked is right twice with chance 1 in 7.
    sets = (wrong[:3], wrong[-3:])
    shown = {text.casefold() for own in sets for text in own}
    asked, rng = [], random.Random(item.id)
    for own in sets:
        place = rng.randrange(4)
        texts = [*own[:place], answer_of(plain), *own[place:]]
        choices = [text if isinstance(plain, Recall) and not chat else space + text.strip() for text in texts]
        asked.append(MultipleChoice(plain.id, plain.prompt, choices, place, **how))
    return Asking(tuple(asked), chat, 1 + len(shown))


def _by_letter(plain: MultipleChoice, chat: bool) -> Asking | None:
    """The options listed by letters under the question, of which a letter is chosen."""
    k = len(plain.choices)
    texts = [choice.strip() for choice in plain.choices]
    listed = [text.strip("().:") for text in texts] == list(LETTERS[:k])
    found = None if plain.contexts or listed or k > len(LETTERS) else question_in(question_of(plain))
    if found is None:
        return None
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts))
    ask = "Answer with the letter." if chat else "Answer:"
    prompt = f"{found.before}{'' if chat else 'Question: '}{found.question}\n{lines}\n{ask}"
    choices = [("" if chat else " ") + letter for letter in LETTERS[:k]]
    return Asking((replace(_asked_as(plain, prompt), choices=choices, lengths=()),), chat, k)


def _chat(plain: Any, item: Item, peers: Peers, chat: bool, has_template: bool) -> Asking | None:
    if chat:
        if not is_turn(plain) or ability_of(item) == "behaviour":
            return None
        text = question_of(plain)
        framed = isinstance(plain, Recall) or ((found := question_in(text)) is not None and found.framed)
        prompt = text if framed else f"{QUESTION.opening}{text}{QUESTION.closing}"
        return Asking((_spaced(replace(plain, prompt=prompt, messages=(), tools=())),), False, n_options(item))
    if not has_template or not question_of(plain):
        return None
    if isinstance(plain, Recall):  # a chat model answers in a sentence
        texts = [text.strip() for text in accepted(plain)]
        said = Generation(plain.id, question_of(plain), texts, "named", plain.category, max_new_tokens=_CHAT_TOKENS)
        return Asking((said,), True)
    return Asking((_unspaced(plain),), True, n_options(item))


def _wording(plain: Any, item: Item, peers: Peers, chat: bool, has_template: bool) -> Asking | None:
    unaskable = isinstance(plain, MultipleChoice) and plain.contexts
    if unaskable or not is_turn(plain) or ability_of(item) == "behaviour" or getattr(plain, "task", ""):
        return None
    text = question_of(plain)
    found, known = question_in(text), {text, *(variant.prompt for variant in item.variants)}
    if found is None:
        return None
    frames: Sequence[Frame] = _CHAT_FRAMES if chat else _FRAMES
    if isinstance(plain, Recall) and not found.framed:
        frames = _STATEMENT_FRAMES
    elif not chat and not found.framed and not further(plain, chat=False):
        return None
    space = text[len(text.rstrip()) :]
    prompts = [found.before + frame.opening + found.question + frame.closing + space for frame in frames]
    new = next((prompt for prompt in prompts if prompt not in known), None)
    return None if new is None else Asking((_asked_as(plain, new),), chat, n_options(item))


_MAKERS: Mapping[str, Callable[[Item, Item, Peers, bool, bool], Asking | None]] = {
    AGAIN: _again,
    "examples": _examples,
    "first_words": _first_words,
    "choice": _choice,
    "chat": _chat,
    "wording": _wording,
}


def came_back(right: Mapping[str, bool], options: Mapping[str, int]) -> bool:
    """Whether an item is there, by what it answered with each help that was scored.

    By one help where its answer is open-ended: that is no guess, and a choice that it is asked as is asked twice. An
    item with options of its own may be guessed each time: by more than half of the helps. And without help: then it was
    not lost in this model.

    Args:
        right: By help, whether it was right.
        options: By help, `Asking.options`.

    >>> came_back({"again": False, "examples": False, "choice": True}, {"again": 0, "examples": 0, "choice": 7})
    True
    >>> came_back({"again": False, "examples": False, "choice": True}, {"again": 4, "examples": 4, "choice": 4})
    False
    """
    helped = [was for help, was in right.items() if help != AGAIN]
    if all(options[help] for help in right):
        return right.get(AGAIN, False) or 2 * sum(helped) > len(helped)
    return any(right.values())


def _asked_as(item: Any, prompt: str) -> Any:
    """The item with another question: as its prompt, or in place of the last user's message."""
    if item.messages:
        return replace(item, messages=asks_as(item.messages, prompt))
    return replace(item, prompt=prompt)


def _joined(item: Item, text: str) -> str:
    """The prompt with a text after it, which a generated answer begins without its space."""
    space = " " if isinstance(item, Generation) and item.prompt and not item.prompt[-1].isspace() else ""
    return item.prompt + space + text


def _spaced(item: Item) -> Item:
    """The options of a turn as a text goes on with them."""
    if not isinstance(item, MultipleChoice) or any(text[:1].isspace() for text in item.choices):
        return item
    return replace(item, choices=[f" {text}" for text in item.choices])


def _unspaced(item: Item) -> Item:
    """The options of a text as a turn begins with them."""
    if not isinstance(item, MultipleChoice) or not all(text[:1] == " " for text in item.choices):
        return item
    return replace(item, choices=[text[1:] for text in item.choices])


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text.strip()}
