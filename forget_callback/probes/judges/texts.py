"""Words, sentences, lists and phrases of an answer, as a reader would count and find them.

Pure text processing, for the rules of `constraints.py` and the others; in a time that grows with the text's length.
"""

from __future__ import annotations

import re
import unicodedata

_MARKER = re.compile(r"^\s{0,12}(?:[-*•–+‣◦▪●]|\(?\d{1,3}[.)])\s+")
_BULLET = re.compile(r"^\s{0,12}[-*•–+‣◦▪●]\s+\S")
_NUMBERED = re.compile(r"^\W{0,12}?(\d{1,3})[.)][*_]{0,3}\s+\S")
_FENCE = re.compile(r"^\s*(?:`{3,}|~{3,})\s*\w*\s*$")
_STRAIGHT: dict[int, str] = {ord(c): '"' for c in "“”„‟"} | {ord(c): "'" for c in "’‘‚‛ʼ´"} | {ord("…"): "..."}
_STRAIGHT |= dict.fromkeys(map(ord, "\xa0\u2007\u2009\u202f\u3000\t"), " ")
_STRAIGHT |= dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\xad"), "")
_EMPHASIS = re.compile(r"[*_`#]")
_OPENING = " \n\"'«»‹›「『(*_`#>-"
# One character of these is about a word.
_EACH_A_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_END = re.compile(r"[.!?…]+[\"'”’»)\]*_`]*(?=\s|$)|[。！？।؟]+[」』”）]?")
# Abbreviations before a name or what they are about, and those before a number.
_TITLE = re.compile(
    r"(?:(?i:mr|mrs|ms|dr|prof|st|mt|vs|e\.g|i\.e|z\.b|d\.h|nr|approx|fig|ca)|"
    r"Gen|Rev|Hon|Lt|Col|Capt|Sgt|Maj|Gov|Sen|Rep|Pres)\Z"
)
_BEFORE_NUMBER = re.compile(
    r"(?:[Nn]o|pp?|[Vv]ol|[Cc]h|[Ss]ec|c|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu(?:rs)?|Fri|"
    r"Sat|Sun)\Z"
)
# Abbreviations that may end a sentence as well: p.m. and etc. where a capital follows; U.S., J.K., Ph.D. and Inc.
# where it is that of a word such as "The".
_AT_EITHER = re.compile(r"(?:etc|usw|bzw)\Z|[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+\Z")
_BEFORE_NAMES = re.compile(r"[A-Z][^\W\d_]{0,2}(?:\.[^\W\d_]{1,2})+\Z|(?i:jr|sr|inc|ltd|co|corp)\Z")
_DAY = re.compile(r"(?:mon|tues|wednes|thurs|fri|satur|sun)day")
_ONLY_TIME = re.compile(r"\W*(?:at|by|around|about|until|till|before|after|since|from|every|the)[\d: apm.–-]+\Z")
_NO_VOWEL = re.compile(r"[b-df-hj-np-tv-xz]{2,5}\Z")  # ft, lbs: a small letter follows
_NAMES = re.compile(r"(?:[^\W\d_]\.|by|with|like|than)\Z")  # what stands before an initial
_INITIAL = re.compile(r"[^\W\d_]\.(?!\w)")
_NEAR = 80  # characters on both sides of a stop that decide whether it ends a sentence
# What begins a sentence also after "vitamin C.": no surname.
_BEGINS = re.compile(
    r"(?:after|all|also|an?|and|any|as|at|because|before|both|but|by|each|every\w*|for|from|he|here|hers?|his|how|i|if|"
    r"in|its?|let|many|most|my|no|nobody|not|now|on|one|or|our|people|please|she|so|some\w*|that|the|their|then|there|"
    r"these|they|this|those|to|we|what|when|where|which|while|who|why|with|yes|your?)\b"
)
_WRITTEN_APART = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "DIGIT")


def words(text: str) -> list[str]:
    """The words, without markers of lists; in Chinese and Japanese each character is one.

    >>> words("1. Well-known: it's 3.5 km — far!"), len(words("我喜欢苹果。"))
    (['Well-known:', "it's", '3.5', 'km', 'far!'], 5)
    """
    found = []
    for line in text.splitlines():
        line = _EACH_A_WORD.sub(r" \g<0> ", _MARKER.sub("", line))
        found += [token for token in re.split(r"[\s—–]+", line) if _has_letter(token)]
    return found


def sentences(text: str) -> list[str]:
    """The sentences: up to a stop that ends one, or the end of a line.

    A line that ends with a colon or comma goes on, and so does one whose next line begins with a small letter.

    >>> sentences("Dr. Ross paid 3.5 euros... for it. Why?"), len(sentences('He said "Stop!" and left'))
    (['Dr. Ross paid 3.5 euros... for it.', 'Why?'], 1)
    """
    lines = [_MARKER.sub("", line).strip() for line in text.splitlines() if _has_letter(line)]
    joined: list[str] = []
    for line in lines:
        open_line = bool(joined) and (joined[-1].endswith((":", ",", ";")) or _goes_on(joined[-1], line))
        if open_line:
            joined[-1] += f" {line}"
        else:
            joined.append(line)
    return [sentence for line in joined for sentence in _in_line(line)]


def _goes_on(line: str, following: str) -> bool:
    return following[:1].islower() and not _END.search(line[-6:]) and not line.islower()


def _in_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        before, after = line[max(start, end.start() - _NEAR) : end.start()], line[end.end() : end.end() + _NEAR]
        if _ends(before, end[0], after.strip()):
            found.append(line[start : end.end()].strip())
            start = end.end()
    found.append(line[start:].strip())
    return [sentence for sentence in found if _has_letter(sentence)]


def _ends(before: str, stop: str, after: str) -> bool:
    """Whether a stop ends a sentence, by the words around it."""
    if not after:
        return True
    own = before.split()
    last = own[-1].strip("(\"'*_[") if own else ""
    small = after.lstrip("\"'“‘(*_")[:1].islower()
    if stop[0] == "…" or stop.startswith("..."):
        return not small and len(own) > 1  # "well... no", "Well... I think so"
    if stop[0] in "!?":
        return not (small and len(stop) > 1)  # "Stop!" he said
    if stop[0] != ".":
        return True
    begins = _BEGINS.match(after.casefold()) is not None
    if _TITLE.match(last) or (_BEFORE_NUMBER.match(last) and after[:1].isdigit()):
        return False
    if _BEFORE_NAMES.match(last):
        return begins and not small
    if _AT_EITHER.match(last):
        return not (small or _DAY.match(after.casefold()) or _ONLY_TIME.match(before.casefold()))
    if len(last) == 1 and last.isalpha() and last != "I":  # an initial, unless what follows is no name
        named = len(own) == 1 or own[-2][:1].isupper() or _NAMES.match(own[-2]) or _INITIAL.match(after)
        return not (named and after[:1].isupper() and not begins)
    return not (small and _NO_VOWEL.match(last))


def bullets(text: str) -> int:
    """Lines that begin with a bullet."""
    return sum(_BULLET.match(line) is not None for line in text.splitlines() if _has_letter(line))


def numbers(text: str) -> list[int]:
    """The numbers with which lines begin, as in "1." or "2)"."""
    return [int(found[1]) for line in text.splitlines() if (found := _NUMBERED.match(line))]


def lines(text: str) -> list[str]:
    """The lines that are neither empty nor a code fence."""
    return [line for line in text.splitlines() if line.strip() and not _FENCE.match(line)]


def paragraphs(text: str) -> list[str]:
    """What stands between empty lines; a divider such as *** is none."""
    return [part for part in re.split(r"\n\s*\n", text) if _has_letter(part)]


def folded(text: str) -> str:
    """A text in one case (NFC), with straight quotation marks and single spaces."""
    text = unicodedata.normalize("NFC", text).translate(_STRAIGHT)
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r" +", " ", text)).strip().casefold()


def plain(text: str) -> str:
    """`folded` without emphasis."""
    return folded(_EMPHASIS.sub("", text))


def has(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text, in any case and as whole words.

    In writing systems that do not divide words by spaces, or join small words to them as Arabic does, anywhere.

    >>> has("Parisian bread", "paris"), has("**Paris**!", "paris"), has("我喜欢苹果", "苹果"), has("run ./a.sh", "./")
    (False, True, True, True)
    """
    return _found(text, phrase, r"{0}")


def starts(text: str, phrase: str) -> bool:
    """Whether a text begins with a phrase, in any case, with or without quotation marks and emphasis before it."""
    return _found(text, phrase, r"\A{0}", opening=True)


def ends(text: str, phrase: str) -> bool:
    """Whether a text ends with a phrase, in any case; a final stop or closing quotation mark may follow or lack.

    >>> ends("Well done. Over", "Over."), ends("What am I?", "?"), ends("My crossover", "over")
    (True, True, False)
    """
    closed = phrase.rstrip(".。") if _has_letter(phrase) else phrase
    return _found(text, closed, r"{0}[.。!]?[\"'»)]*\Z")


def _found(text: str, phrase: str, pattern: str, *, opening: bool = False) -> bool:
    wanted = folded(phrase)
    before = r"(?<!\w)" if _bounded(wanted[:1]) and not opening else ""
    after = r"(?!\w)" if _bounded(wanted[-1:]) and not (opening and len(wanted) == 1) else ""
    rule = re.compile(pattern.format(before + re.escape(wanted) + after))
    forms = [folded(text), plain(text)]
    if opening:
        forms += [form.lstrip(_OPENING) for form in forms]
    return any(rule.search(form) for form in forms)


def _bounded(letter: str) -> bool:
    """Whether words that begin or end with a letter are divided from others by spaces."""
    return letter == "_" or unicodedata.name(letter, "").split(" ")[0] in _WRITTEN_APART


def _has_letter(text: str) -> bool:
    return any(map(str.isalnum, text))
