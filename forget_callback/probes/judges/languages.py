"""Which language a text is in, as far as it can be told.

The writing system decides first: most of the letters of a Korean answer are Hangul. Where several languages share one,
a naive Bayes model over byte sequences (py3langid) decides between them, and only where it is sure: a short answer that
could be of two languages is of neither, since a wrong verdict would be shown as something forgotten.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# The languages of each writing system that the model is asked to tell apart, and so those that an item may ask for.
_LANGUAGES: dict[str, tuple[str, ...]] = {
    script: tuple(codes.split())
    for script, codes in {
        "LATIN": (
            "en de fr es it pt nl pl cs sk sl hr hu ro lt lv et fi sv da no ca tr vi id ms sq is ga cy eu gl az uz tl "
            "sw af eo mt lb ht so ha yo ig zu xh"
        ),
        "CYRILLIC": "ru uk be bg sr mk kk ky mn tg tt",
        "ARABIC": "ar fa ur ps ug",
        "DEVANAGARI": "hi mr ne",
        "HEBREW": "he",
        "GREEK": "el",
        "ARMENIAN": "hy",
        "GEORGIAN": "ka",
        "BENGALI": "bn as",
        "GURMUKHI": "pa",
        "GUJARATI": "gu",
        "TAMIL": "ta",
        "TELUGU": "te",
        "KANNADA": "kn",
        "MALAYALAM": "ml",
        "SINHALA": "si",
        "THAI": "th",
        "LAO": "lo",
        "KHMER": "km",
        "MYANMAR": "my",
        "ETHIOPIC": "am",
        "HANGUL": "ko",
        "HAN": "zh",
        "KANA": "ja",
    }.items()
}
KNOWN = tuple(sorted({code for codes in _LANGUAGES.values() for code in codes}))
_SCRIPTS = {code: {script for script, codes in _LANGUAGES.items() if code in codes} for code in KNOWN}
_SCRIPTS["sr"].add("LATIN")
# Written most in their writing system: a text is in these unless the model is sure of another.
_MAIN = {"CYRILLIC": "ru", "ARABIC": "ar", "DEVANAGARI": "hi", "BENGALI": "bn"}
# What a model of the world's languages answers in; the languages that few write would only take from these.
_COMMON = set(_LANGUAGES["LATIN"][: _LANGUAGES["LATIN"].index("id") + 1])
# Hardly told apart in a sentence: of these the likelier one counts.
_ALIKE = ("no da", "hr sl sr", "id ms", "cs sk", "es ca gl", "pt gl", "af nl", "lt lv", "zu xh")
_ALIASES = {"nb": "no", "nn": "no", "iw": "he", "in": "id", "fil": "tl", "jp": "ja", "cn": "zh", "bs": "hr"}
_NAMES = {
    "HIRAGANA": "KANA",
    "KATAKANA": "KANA",
    "KATAKANA-HIRAGANA": "KANA",
    "HALFWIDTH": "KANA",
    "CJK": "HAN",
    "FULLWIDTH": "LATIN",
}
_WEIGHT = {"HAN": 3, "KANA": 2, "HANGUL": 3}  # letters of another script that say as much
_MOST = 0.6  # share of a text that must be in one writing system
_LIKELIER = 3  # times as likely as any other language: in it
_UNLIKELY = 10  # times less likely than another: not in it
_FEW = 6  # letters, in one of several languages that share them: fewer tell nothing
_SHORT = 4  # Chinese characters, without any kana, that may be Japanese as well
_NO_WORDS = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|(?<!\S)\S{1,64}@\S{1,200}|</?\w+>", re.DOTALL)

_IN_BRACKETS = re.compile(r"[(（][^()（）]{1,400}[)）]")


def language_code(code: object) -> str:
    """A code as it stands here: "pt" for "pt-BR".

    Raises:
        ValueError: If it is none that the judge knows.
    """
    if isinstance(code, str):
        short = re.split(r"[-_]", code.strip().lower())[0]
        short = _ALIASES.get(short, short)
        if short in KNOWN:
            return short
    raise ValueError(
        f"expected a language as an ISO 639-1 code, one of {', '.join(KNOWN)}, got {quoted(code)}"
        f"{did_you_mean(code, KNOWN)}"
    )


def is_in(text: str, code: str) -> bool | None:
    """Whether most of a text is in a language; None where that cannot be told, as of a name or a number.

    Code, addresses, tags and what is added in brackets, such as how Japanese is pronounced, are no part of it.

    >>> is_in("Ich hätte gern ein Glas Wasser.", "de"), is_in("Ich hätte gern ein Glas Wasser.", "en")
    (True, False)
    >>> is_in("Paris!", "fr") is None, is_in("42", "fr") is None
    (True, True)
    """
    text = _NO_WORDS.sub(" ", text)
    own = _IN_BRACKETS.sub(" ", text)
    text = own if _scripts(own) else text
    counts = _scripts(text)
    script = _most(counts)
    if script is None:
        return None
    if script == "HAN" and code == "ja" and counts["HAN"] <= _SHORT:
        return None
    shared = len(_LANGUAGES[script]) > 1
    if shared and counts[script] < _FEW and _MAIN.get(script) != code:
        return None
    if script not in _SCRIPTS[code]:
        return False
    return _by_model(text, script, code) if shared else True


def _scripts(text: str) -> Counter[str]:
    """Letters by writing system, of those that are known here."""
    counts: Counter[str] = Counter()
    for letter in unicodedata.normalize("NFC", text):
        if letter.isalpha() or unicodedata.category(letter)[0] == "M":  # the vowels of Hindi
            name = unicodedata.name(letter, "").split(" ")[0]
            counts[_NAMES.get(name, name)] += 1
    return Counter({script: n for script, n in counts.items() if script in _LANGUAGES})


def _most(counts: Counter[str]) -> str | None:
    """The writing system of most of a text, None if there is none."""
    said = {script: _WEIGHT.get(script, 1) * n for script, n in counts.items()}
    if counts["KANA"] >= 0.1 * counts["HAN"] and counts["KANA"]:  # Japanese is written in both
        said["KANA"] += said.pop("HAN", 0)
    script = max(said, key=lambda one: said[one], default=None)
    return script if script is not None and said[script] >= _MOST * sum(said.values()) else None


def _by_model(text: str, script: str, code: str) -> bool | None:
    """What the model says of a text in one of several languages that share a writing system."""
    ranked = dict(_model().rank(" ".join(text.split())))
    others = _COMMON if script == "LATIN" else set(_LANGUAGES[script])
    other = max(others - {code}, key=lambda one: ranked.get(one, 0.0))
    times = ranked.get(code, 0.0) / max(ranked.get(other, 0.0), 1e-9)
    if times < 1 / _UNLIKELY:
        return False
    if _MAIN.get(script) == code:
        return True
    alike = any({code, other} <= set(group.split()) for group in _ALIKE)
    return True if times >= (1 if alike else _LIKELIER) else None


@lru_cache(maxsize=1)
def _model() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # takes a second, and only these rules need it

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
