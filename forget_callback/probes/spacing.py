"""Whether a probe's answers lack the space that parts them from their prompts, or have one too many.

A model reads prompt and answer as one text. "Answer:" and "Paris" make "Answer:Paris", which nobody writes: on the same
items a pretrained model then seems to know a third less. Knows texts only, and which scripts part words by spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from forget_callback.probes.items import Generation, Item, MultipleChoice, Text, accepted, in_variant
from forget_callback.probes.plurals import counted, have
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted

# Of the items; fewer may be meant so: an ending as in "cat" + "s", a name in brackets.
LEAST = 0.1
# Scripts without spaces between words, as their characters' names begin.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI ", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE")
# After these a word has a space before it, as after a letter; not after an opening bracket, a hyphen or "=".
_ENDS = frozenset(":;,.?!)]%—–…")
_OPEN = re.compile(r"\w[(\[][^)\]]*$")  # a bracket that is still open and stands at a word: code, print(len
_CODE = re.compile(r"\w *=|^\s*(import|from|return|def|print)\b")
_WORD = re.compile(r"[(\"“«]?[^\W\d_]+(['’.-][^\W\d_]+)*[.,;:!?…\"”»)]*")
_COPULAS = ("is", "are", "was", "were", "ist", "est", "called", "named")
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
    '1 of 1 item has no space before the answer'
    >>> spacing_problem(Probe("p", [Recall("a", "The capital of France is", " Paris")]))
    ''
    """
    items = [item for item in probe.items if not isinstance(item, (Generation, Text))]
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
            return f"{len(own)} of {counted(len(items))} {have(len(own))} {remedy.format(**texts)}"
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
    checks = {"missing": _is_glued if closed else _is_word_after_prose, "double": _is_double}
    checks |= {} if closed else {"parted": _is_parted}
    for kind, check in checks.items():
        wrong = [answer for answer in answers if check(prompt, answer)]
        # All choices are read; of accepted answers one that is right is enough.
        if wrong and (closed or len(wrong) == len(answers)):
            return kind, prompt, wrong[0]
    return None


def _is_glued(prompt: str, answer: str) -> bool:
    """Whether a space is missing between the two, however an item reads them."""
    end, start = prompt[-1:], answer[:1]
    if len(prompt.split()) < 2:  # a word that the answer ends, "un" + "do", or no sentence at all
        return False
    if not (end.isalnum() or end in _ENDS) or _goes_on(prompt, answer):
        return False
    return (start.isalnum() or start in "($£€") and _is_spaced(reversed(prompt)) and _is_spaced(answer)


def _goes_on(prompt: str, answer: str) -> bool:
    """Whether the answer goes on in a number, an address or code, which has no spaces there, or after a long dash."""
    line, end, start = prompt.rsplit("\n", 1)[-1], prompt[-1:], answer[:1]
    last = line.split()[-1] if line.split() else ""
    if end.isdigit() or (
        start.isdigit() and re.search(r"\d[.,:;–—]$", last)
    ):  # 19|45, 19|th, 3.|14, 12:|30, 1914–|1918
        return True
    if end in "–—" and last != end:
        return True
    if re.search(r"[@_/\\=<>{}\[\]#|~^*&$`]|\w[.:]\w|::|^\w\.$|^\W*[\"']\w+[\"']:$", last) or _OPEN.search(line):
        return True
    return end == "." and not last.endswith("..") and bool(_CODE.search(line) or start.islower())


def _is_word_after_prose(prompt: str, answer: str) -> bool:
    """Whether a recalled answer, which may end a word of the prompt, is plainly a word of its own after another."""
    line = prompt.rsplit("\n", 1)[-1]
    *before, last = [""] * 2 + line.split()
    word = (answer.split() or [""])[0]
    if not _is_glued(prompt, answer) or prompt[-1:] == "…" or prompt.endswith(".."):
        return False
    if word[0] in "$£€":
        return last.isalpha() and last.islower() and word[1:2].isdigit()
    if word[0].isdigit():  # Answer:|4, but not localhost:|8080
        return (
            bool(re.fullmatch(r"[\d.,]+%?", word))
            and bool(re.fullmatch(r"[^\W\d_]+[:?]", last))
            and (last[0].isupper() or last[-1] == "?")
        )
    if not _WORD.fullmatch(word):
        return False
    if not last[-1].isalnum():
        return True
    if last in _COPULAS and before[-1].lower() not in ("a", "an", "the"):  # not "the is|land"
        return True
    # A capital after a small letter begins a word; "i|Phone" and "mac|OS" are no prose.
    title = word[0].isupper() and (word[1:2].islower() or len(word) > 2)
    return len(last) > 1 and last.isalpha() and last.islower() and title


def _is_double(prompt: str, answer: str) -> bool:
    return prompt[-1:] == " " == answer[:1]


def _is_parted(prompt: str, answer: str) -> bool:
    return prompt[-1:] == " " and not answer[:1].isspace() and bool(prompt.strip()) and _is_spaced(answer)


def _is_spaced(text: Sequence[str] | Iterator[str]) -> bool:
    """Whether the first letter is of a script that parts words by spaces; where there is none, so it is."""
    letter = next((character for character in text if character.isalpha()), "")
    return not unicodedata.name(letter, "").startswith(_UNSPACED) if letter else True
