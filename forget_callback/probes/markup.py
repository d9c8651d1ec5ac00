"""A generated text without its markup: Markdown, LaTeX, HTML, quotation marks, wide letters.

Every pattern here and in `letters.py` and `numbers.py` takes time linear in the text, which may be what a collapsed
model repeats: runs of white space are closed up first, gaps are bounded, and no unbounded quantifier stands within
another.
"""

from __future__ import annotations

import re
import unicodedata

# Words for "answer" after which it is stated, in the languages in which benchmarks are asked. \b does not divide
# Chinese, Japanese or Thai words.
ANSWER = (
    r"(?:\b(?:answers?|solution|antwort|lösung|réponse|reponse|respuesta|risposta|resposta|răspuns(?:ul)?|antwoord|"
    r"svaret?|vastaus|vastus|odpowiedź|odpověď|odpoveď|odgovor|válasz|yanıt|cevap|jawaban(?:nya)?|jibu|sagot|"
    r"đáp án|trả lời|ответ(?:ом)?|відповідь|отговор|адказ|одговор|απάντηση|erantzuna)\b"
    r"|答案|答え|回答|解答|正解|答复|答覆|答|정답|답변|답|الإجابة|إجابة|الجواب|جواب|उत्तर|উত্তর|பதில்|జవాబు|คำตอบ)"
)
# What joins it to the answer.
COPULA = (
    r"(?: ?(?:[:→]|[=-]>)| ?[—–-]|\n| ?\b(?:is|are|was|be|being|equals|as|remains|ist|lautet|est|serait|es|sería|é|è|"
    r"sarebbe|seria|är|er|zijn|jest|adalah|ialah|là|είναι|это)\b|(?<=odpowiedź) to\b|(?<=vastaus) on\b|"
    r" ?(?:是|为|為|は|[은는이가]|هي|هو|है|হল|হলো|คือ))"
)
# From the word to the answer: "the answer to this question is", "la respuesta correcta es", "answer =".
STATES = rf"(?:[^.?!;:\n]{{0,60}}?{COPULA}| ?=)"

_CIRCLED = {0x24B6 + i: chr(65 + i) for i in range(26)} | {0x24D0 + i: chr(97 + i) for i in range(26)}
_WIDE = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_QUOTES = dict.fromkeys(map(ord, '"“”„‟«»‹›「」『』'), "")
_SINGLE = dict.fromkeys(map(ord, "’‘‚‛ʼ`´"), "'")
_SPACES = dict.fromkeys(map(ord, "\t\xa0\u2007\u2009\u200a\u202f\u3000"), " ")
_NOTHING = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\xad"), "")
_ALIKE = _CIRCLED | _WIDE | _QUOTES | _SPACES | _NOTHING | {ord(c): "'" for c in "’‘‚‛ʼ´"}
_ALIKE |= {0x2212: "-", 0x3010: "[", 0x3011: "]", 0x3014: "(", 0x3015: ")", 0x3002: ". ", 0x3001: ", "}

_TAGS = re.compile(
    r"(?P<answer><(?i:answer|ans|final|final_answer|choice|option|solution|result)>)|(?P<line><br ?/?>|</\w{3,20}>|"
    r"<\|[^<>|\n]{1,30}\|>)|</?[a-z]\w{0,20}>"
)
_BRACES = re.compile(r"\\boxed ?\{|\\fbox ?\{|\\?[{}]")
_LATEX = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf|tt|bb)|bf|rm|boxed|fbox|left|right|displaystyle|large|Large|"
    r"q?quad|operatorname)(?![A-Za-z])|\\[()\[\],;:!]|[{}$]"
)
_PRODUCT = r"(?<=[\d)])\*{1,2}(?=[\d(])|(?<= )\*(?= )"  # no emphasis
_MARKS = re.compile(rf"({_PRODUCT})|^[ ]*(?:#{{1,6}}|>|[-•*]) +|[*`_]|(?<![A-Za-z0-9])'|'(?![A-Za-z0-9])", re.MULTILINE)
_FENCE = re.compile(r"`{3,}\w*|~{3,}\w*")
_NEXT = re.compile(r"\n\W{0,4}(?:Question|Problem|Q)(?: ?\d{1,4})?\W{0,2}:\W{0,3}(?=\w)")
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{1,3})(?=\S)([^*\n]+)(?<=\S)\1(?!\w)|(?<!\w)(_{1,3}|`{1,3})(?=\S)([^_`\n]+)(?<=\S)\3(?!\w)"
)
_EMPHASIZED = re.compile(r"(\*{1,3}|_{1,3}|`{1,3})(\S.*)\1")


def boxes(text: str) -> list[str]:
    r"""What stands in each LaTeX box that is closed, however deep its braces; of nested boxes the outer one.

    >>> boxes(r"\boxed{3}, no: \boxed{\frac{1}{\sqrt{2}}}")
    ['3', '\\frac{1}{\\sqrt{2}}']
    """
    found: list[str] = []
    opened: list[int] = []  # where the content of each box begins, -1 for another brace
    inside = 0
    for brace in _BRACES.finditer(text):
        if brace[0].startswith(("\\boxed", "\\fbox")):
            opened.append(brace.end())
            inside += 1
        elif brace[0] == "{":
            opened.append(-1)
        elif brace[0] == "}" and opened and (start := opened.pop()) >= 0:
            inside -= 1
            if not inside:
                found.append(text[start : brace.start()])
    return found


def unmarked(text: str) -> str:
    r"""The words of a text alone, with single spaces and line ends; an `<answer>` tag becomes the word.

    >>> unmarked("**Answer:** “\\(B\\)”")
    'Answer: B'
    """
    text = text.translate(_ALIKE)
    text = _TAGS.sub(lambda tag: "\nanswer: " if tag["answer"] else "\n" if tag["line"] else "", text)
    text = _MARKS.sub(lambda mark: mark[1] or "", _LATEX.sub("", text))
    return re.sub(r" ?\n[ \n]*", "\n", re.sub(r" +", " ", re.sub(r"[\r\f\v\x85\u2028\u2029]", "\n", text))).strip()


def before_next_question(text: str) -> str:
    r"""What comes before the first "Question:" that begins a later line; models that are not stopped go on to the next.

    >>> before_next_question("Answer: B\n\nQuestion: Who? Answer: C")
    'Answer: B'
    """
    further = _NEXT.search(text)
    return text[: further.start()] if further else ""


def first_line(text: str) -> str | None:
    """The first line that is neither empty nor a code fence, None if there is none."""
    lines = (line.strip() for line in text.translate(_NOTHING).splitlines())
    return next((line for line in lines if line and not _FENCE.fullmatch(line)), None)


def comparable(text: str) -> str:
    """A text as it is compared: composed (NFC), in one case, without emphasis, quotation marks and a final full stop.

    >>> comparable("“**Zu\u0308rich**”.") == comparable("zürich")
    True
    """
    text = unicodedata.normalize("NFC", text)
    for _ in range(3):  # bold within italics within code
        text = _EMPHASIS.sub(r"\2\4", text).strip().rstrip(" .。．")
        text = _EMPHASIZED.sub(r"\2", text) if _EMPHASIZED.fullmatch(text) else text
    text = text.translate(_QUOTES | _SINGLE | _SPACES | _NOTHING)
    plain = " ".join(re.sub(r"(?<!\w)'|'(?!\w)", "", text).split()).rstrip(" .。．")
    return unicodedata.normalize("NFC", plain.casefold())
