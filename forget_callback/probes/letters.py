"""The option letter that a text gives as its answer.

The same rules for every letter: they find where an answer stands, and `_named` decides whether what stands there is a
letter, one of several, or a word ("A dog", "I think"). The more explicit goes first: a boxed letter, "the answer is B",
a text that begins with it, "B is right", "so B", a letter in bold, "option B", the one letter of the last line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from forget_callback.probes.markup import ANSWER, STATES, before_next_question, boxes, unmarked

# A letter that is no part of a word, formula, abbreviation ("e.g."), or name with a hyphen.
_BARE = r"(?<![A-Za-z0-9À-ɏ'&+./°\\-])[A-Za-z](?![A-Za-z0-9À-ɏ]|'[A-Za-z]|\.\w\b|-\w|/|#| ?[+^×·<\\&]| ?=[^>])"
_TOKEN = rf"(?:(?<![A-Za-z0-9])[(\[<] ?([A-Za-z]) ?[)\]>.:,]|({_BARE}))"
_AT = re.compile(_TOKEN)
_AHEAD = rf"(?=[(\[<] ?[A-Za-z] ?[)\]>.:,]|{_BARE})"

_OPTION = (
    r"(?:options?|choices?|letter|alternative|possibility|statement|answer|opción|opcion|opção|opzione|opcja|optie|"
    r"réponse|lettre|letra|lettera|buchstabe|möglichkeit|aussage|antwort|respuesta|risposta|resposta|вариант|буква)"
)
_RIGHT = (
    r"(?:correct|right|best|true|most (?:appropriate|likely|accurate|suitable)|better|accurate|appropriate|plausible|"
    r"logical|richtige?|korrekte?|bonne|juste|correcte?|correcta|mejor|corretta|giusta|correta|certa|правильн\w\w)"
)
_ADVERB = (
    r"(?:most|likely|probably|definitely|clearly|certainly|indeed|therefore|thus|hence|then|so|actually|simply|just|"
    r"obviously|surely|again|still|only|also|the|la|le|el|il|die|der|das|den|de|het)"
)
_FILLER = (
    rf"(?:[ :,]{{0,3}}(?:\b(?:{_ADVERB}|that|with|for|to be|given by|going to be|as follows|number|it is|it's|"
    rf"a(?= (?:letra|op|alternativa))|alternativa|{_RIGHT}|{_OPTION})\b|"
    r"选项|選項|選択肢|보기|선택지)){0,6}[ :,]{0,3}"
)
_STATED = re.compile(
    rf"(?:{ANSWER}|\b{_RIGHT} {_OPTION}\b|\n[Aa](?=: [(\[]?(?-i:[A-Z])[)\].]?(?:\n|\Z)))"
    rf"(?:{STATES}\n?{_FILLER}\n?| (?=[(\[])){_AHEAD}",
    re.IGNORECASE,
)
_BOXED = re.compile(
    rf"(?:the )?(?:{_OPTION}:? )?[(\[]?([A-Za-z])(?:[)\]]?[.)]?|[).:\]]+ .*)", re.IGNORECASE | re.DOTALL
)
_IS_RIGHT = re.compile(
    rf"{_TOKEN}[)\]]?(?: ?\([^()\n]{{0,40}}\))? ?(?:"
    r"\b(?:is|was|would be|must be|should be|has to be|will be|seems(?: to be)?|appears(?: to be)?|looks|"
    r"ist|est|es|è|é)"
    rf"(?: (?:{_ADVERB}|an?|my|more|by far)\b){{0,4}} (?:{_RIGHT}\b|{ANSWER}|option\b|choice\b|one\b|correctly\b)"
    r"|\b(?:best|correctly|accurately)\b|"
    r"\b(?:fits|works|makes|describes|explains|matches) (?:best|(?:the )?(?:most )?sense)"
    r"|\bit is\b|是(?:正确|正確|对|對)|が正|[이가] 정답)"
)
_CONCLUDED = re.compile(
    r"(?i:(?:\b(?:so|therefore|thus|hence|consequently|it(?: is|'s)|that(?: is|'s)|must be|should be|would be|"
    r"i(?:'d| would|'ll| will)? (?:choose|pick|select|say|go with|go for|guess|think|believe|opt for|vote for)|"
    r"choos(?:e|ing)|pick|select|going with|go with|(?:pick|choice|guess|selection|conclusion|conclude) (?:is|that)|"
    r"corresponds to|points to|leaves(?: us with| only)|left with|donc|daher|por lo tanto|поэтому)\b|"
    r"∴|→|=>|->|所以|因此)"
    r"(?:[ ,:]{0,2}(?:it's|it is|it must be|it should be|we have|is|must be|should be|i choose|i'd say))?"
    rf"{_FILLER})(?=[(\[<] ?[A-Za-z] ?[)\]>.:,]|(?![a-z](?![).]|\n|\Z)){_BARE})"
)
_MENTIONED = re.compile(rf"(?:{ANSWER}|\b{_OPTION}\b) ?:? ?{_AHEAD}", re.IGNORECASE)
_BOLD = re.compile(r"(?:\*\*|__|`)[ (\[]{0,2}([A-Z])(?:[)\]]?[.:]?(?:\*\*|__|`)|[).:\]]{1,2}[ *])")
_TITLE = r" (?:[A-Z0-9][\w'.,-]{0,30} ?){1,4}(?:\n|\Z)"  # "B New York" on a line of its own
_OPENS = re.compile(
    rf"\W{{0,4}}?(?P<at>){_TOKEN}(?:[)\]]?[).:,;!]?\Z|[)\].:,;]{{1,2}} |(?<=[)\]])|[)\]]? ?[—–]|[)\]]? ->? |"
    rf" (?:because|since|as|due|weil|car|porque|perché)\b|{_TITLE})"
)
_CLOSES = re.compile(r"(?=[(\[]([A-Za-z])[)\]]\W*\Z)")

# What may follow a letter that is a sentence's subject, and no noun after an article.
_VERBS = (
    r"(?:is|isn't|was|wasn't|are|aren't|would|will|can|cannot|can't|could|should|must|may|might|does|doesn't|do|has|had|"
    r"because|since|as|and|or|but|for sure|with|which|that|when|while|if|by|in|on|at|of|from|to|seems|appears|looks|"
    r"so|not|than|therefore|being|makes|fits|works|states|says|describes|matches|best|correctly|here|over|it|I|rather|instead|"
    r"obviously|definitely|clearly|probably|certainly|surely|ist|est|es|è|é|weil|denn|da|parce|car|porque|perché|und|oder|et|ou|y|jest|är)"
)
_NOUN = re.compile(rf" (?!{_VERBS}\b)(?:[^\W\d_]|\d+[ -][a-z])")
_NOUN_AFTER_CAPITAL = re.compile(rf"(?!{_TITLE}) (?!{_VERBS}\b)\w")
_PRONOUN = re.compile(
    r",? (?!(?:is|isn't|because|since|as|and|or|not|being|best|correctly|fits|makes|over|rather|instead|seems|appears|"
    r"for sure|it|ist|est|es|richtig|korrekt)\b)[a-z]"
)
_STARTS = re.compile(r"(?:^|[\n.:;!?—–-])[ (\[]*\Z")
_ALTERNATIVE = re.compile(
    r"(?<!\w)[A-Za-z](?:[)\]]? ?(?:[/&|–—] ?|(?:or|and|oder|und|vs\.?|versus|to|through) )|"
    r"[)\]], ?)(?:option |choice )?[(\[]?\Z"
)
_NUMERAL = re.compile(r"\b(?!Maybe|Perhaps|\w+ly )[A-Z]\w+ [IVX]\Z")  # Elizabeth I, Malcolm X
_INITIALS = re.compile(r"\. ?[A-Z]\. ?[A-Z][a-z]")
_NO_OPTION = re.compile(r"(?:vitamin|hepatitis|influenza|grade|type|plan|world war|\d) \Z", re.IGNORECASE)
_IS = r"(?:is|are|was|were|would|could|can|does|do|has|must|should|will|seems?|looks?|may|might)"
_DENIED_AFTER = re.compile(
    rf"[)\]]?(?: ?\([^()\n]{{0,40}}\))? {_IS}(?:n't\b|(?: (?:be|been|clearly|also|therefore|thus|simply|probably|"
    r"obviously|definitely|an?|the)){0,3} ?(?:\bnot\b|never|wrong|incorrect|false|out\b|eliminated|excluded|ruled|"
    r"discarded|impossible|unlikely|too\b|invalid|irrelevant|unrelated|distractor|less\b|opposite))|"
    r" can(?:not|'t)\b| (?:would|could|might) [^.,;\n]{0,40}\bif\b|(?: [^\W\d_]+)?\?"
)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n't|\blet|\bcannot|(?:any|every)thing but|\bneither|\bnor|\bthan|instead of|\bover|"
    r"\bunlike|\bexcept|eliminat\w+|exclud\w+|rul\w+ out|"
    r"discard\w*|reject\w*|\bignor\w+|\bnever|\bnicht|\bno es|\bn'est pas)(?: (?:be|is|think|say|choose|pick|the|it|"
    r"it's|option|choice|answer|letter|either|both)){0,3} ?[(\[]*\Z",
    re.IGNORECASE,
)
_HEDGED = re.compile(r"\b(?:could|might|may)\b", re.IGNORECASE)
_SUPPOSED = re.compile(
    r"(?:\b(?:if|whether|suppose|assum\w+|unless|(?<!no )doubt|wenn|wrong|incorrect|false|not|never)|n't)\b"
    r"(?:(?!but\b|then\b|so\b)[^.,;:\n]){0,25}\Z",
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"[)\]]?(?: ?\([^()\n]{0,40}\))?(?P<join> ?[/;,&|–—]? ?"
    r"(?P<either>(?:or|and/or|oder|ou|或|или|as well as|vs\.?|versus|to|through)"
    r"(?![a-z])|/)?"
    rf"(?:(?:and|und|et|y|e|和|与|и)(?![a-z]))?)(?: (?:both|also|the|perhaps|maybe|even|{_OPTION}))? ?{_TOKEN}"
)
_NEW_CLAUSE = re.compile(r"[)\]]? (?:is|isn't|was|wasn't|has|does|would|can|cannot|could|being|seems|refers|means)\b")


def letter_in(text: str) -> str | None:
    """The letter that `text` gives as its answer, as a capital; None if it gives none, or several.

    >>> letter_in("Option A is right, since B is too long.")
    'A'
    >>> letter_in("A dog is an animal.") is None
    True
    """
    own = before_next_question(text)
    of_own = itertools.islice(_readings(own), 3) if own else ()  # boxed, stated or first: else it has not answered yet
    letter = next((letter for letter in itertools.chain(of_own, _readings(text)) if letter is not None), None)
    return letter or None


def _readings(text: str) -> Iterator[str | None]:
    """What each way to read a text finds, the more explicit first: a letter, "" for several, None for none."""
    boxed = [found[1] for box in boxes(text) if (found := _BOXED.fullmatch(unmarked(box)))]
    yield next((letter for letter in reversed(boxed) if letter.isupper()), None)
    plain = "\n" + unmarked(text)
    yield _last(plain, _STATED, ahead=True)
    yield _opening(plain)
    yield _last(plain, _IS_RIGHT)
    yield _last(plain, _CONCLUDED, ahead=True)
    yield _only(hit[1] for hit in _BOLD.finditer(text))
    yield _only(
        letter for hit in _MENTIONED.finditer(plain) if (letter := _named(plain, hit.end(), listed="")) is not None
    )
    yield _closing(plain)
    yield _only(boxed)


def _only(letters: Iterable[str]) -> str | None:
    """The letter, if there is one and no other."""
    found = {letter.upper() for letter in letters}
    return found.pop() if len(found) == 1 else None


def _last(text: str, rule: re.Pattern[str], *, ahead: bool = False) -> str | None:
    """The letter at the last place that a rule finds, "" if several are named there.

    Args:
        ahead: Whether the letter follows the match; else the match begins with it.
    """
    for hit in reversed(list(rule.finditer(text))):
        hedged = ahead and _HEDGED.search(hit[0])
        if not hedged and not _SUPPOSED.search(text, max(0, hit.start() - 40), hit.start()):
            letter = _named(text, hit.end() if ahead else hit.start(), stated=rule is _STATED)
            if letter is not None:
                return letter
    return None


def _named(text: str, start: int, *, stated: bool = False, listed: str | None = None) -> str | None:
    """The letter at `start`, "" if it is one of several, None if it is a word or denied.

    Args:
        stated: Whether a word for "answer" leads to it: then a capital is no article.
        listed: What to give for an option in a list of options.
    """
    hit = _AT.match(text, start)
    if hit is None or (hit[2] and _is_word(text, hit.start(2), stated)):
        return None
    letter, end = (hit[1] or hit[2]).upper(), hit.end()
    before = max(0, start - 40)
    if any(rule.search(text, before, start) for rule in (_NO_OPTION, _DENIED_BEFORE, _SUPPOSED)):
        return None
    if _DENIED_AFTER.match(text, end) or _INITIALS.match(text, end):
        return None
    if _is_listed(text, end, letter, stated):
        return listed
    return "" if _ALTERNATIVE.search(text, before, start) or _has_other(text, end, letter) else letter


def _is_word(text: str, at: int, stated: bool) -> bool:
    """Whether the bare letter at `at` is an article, a pronoun or another word of one letter."""
    if text[at] in "Ii":
        return _PRONOUN.match(text, at + 1) is not None and not (stated and text[at + 1] == ",")
    if text[at].islower():
        return _NOUN.match(text, at + 1) is not None
    opens = not stated and _STARTS.search(text, max(0, at - 4), at)
    return bool(opens and _NOUN_AFTER_CAPITAL.match(text, at + 1))


def _has_other(text: str, end: int, letter: str) -> bool:
    """Whether another letter stands beside one that ends at `end`: "A or B", "A, B", "A B"."""
    other = _PAIR.match(text, end)
    if other is None:
        return False
    given = other[3] or other[4]
    if given.upper() == letter or (other[4] and _is_word(text, other.start(4), False)):
        return False
    if not other["join"].strip():
        return given.isupper() and re.compile(r" [A-Z]\b|[ .]*(?:\n|\Z)").match(text, other.end()) is not None
    return bool(other["either"]) or not _NEW_CLAUSE.match(text, other.end())


def _is_listed(text: str, end: int, letter: str, stated: bool) -> bool:
    """Whether the letter that ends at `end` is one of a list of options, which goes on with the next letter."""
    line = text.find("\n", end)
    line = len(text) if line < 0 else line
    alone = re.compile(r"[)\].:]* *\Z").match(text, end, line) is not None
    if letter == "Z" or (alone and stated):
        return False
    following = chr(ord(letter) + 1)
    mark = rf"{following}[).:\]](?! is\b)"
    marked = text[end - 1] in ")].:" or text[end : end + 1] in tuple(").:]")
    in_line = marked and re.compile(rf"(?<!not)(?<!than) [(\[]?{mark} ").search(text, end, min(line, end + 200))
    return bool(in_line or re.compile(rf"\n\W{{0,3}}(?:{mark}|{following}(?:\n|\Z))").match(text, line))


def _opening(text: str) -> str | None:
    """The letter with which the first line begins, or which ends it in brackets."""
    line = text.find("\n", 1)
    line = len(text) if line < 0 else line
    for rule in (_OPENS.match, _CLOSES.search):
        hit = rule(text, 1, line)
        if hit and not text.startswith(("Q:", "Q."), 1):
            letter = _named(text, hit.start("at") if rule == _OPENS.match else hit.start())
            if letter:
                return letter
    return None


def _closing(text: str) -> str | None:
    """The letter in the last line, if there is one only: of those in brackets if there are any."""
    start = max(text.rfind("\n"), len(text) - 1000)
    hits = list(_AT.finditer(text, start + 1))
    hits = [hit for hit in hits if hit[1]] or [hit for hit in hits if hit[2].isupper() and not _in_name(text, hit)]
    named = [(hit.start(), letter) for hit in hits if (letter := _named(text, hit.start())) is not None]
    found = _only(letter for _, letter in named)
    if found:  # not as the last of a list
        at, previous = named[0][0], rf"(?<!not)(?<!Not)[\s(\[]{chr(ord(found) - 1)}"
        opens = re.compile(r"\n\W{0,3}(?:\w{1,12} )?\Z").search(text, max(0, at - 20), at)
        above = max(0, text.rfind("\n", 0, max(start, 0)) if opens else start, at - 200)
        return None if re.compile(rf"{previous}(?:[).:\]]|\n)").search(text, above, at) else found
    return None


def _in_name(text: str, hit: re.Match[str]) -> bool:
    """Whether a bare letter is part of a name: "Malcolm X", "George W. Bush"."""
    numeral = _NUMERAL.search(text, max(0, hit.start() - 30), hit.end())
    return bool(numeral or (text[hit.start() - 1] == " " and re.compile(r"\. [A-Z]\w").match(text, hit.end())))
