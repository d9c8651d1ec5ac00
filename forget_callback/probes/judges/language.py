"""Match "language": the answer is in the language asked for. Whether it is a good answer is another question.

`doc` is ``{"language": "fr"}``, with ``"contains_any"`` if wanted: words of which a right answer has at least one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forget_callback.probes.checks import require
from forget_callback.probes.conversation import asked
from forget_callback.probes.judges.finding import Finding, is_texts, require_doc, require_examples
from forget_callback.probes.judges.languages import is_in, language_code
from forget_callback.probes.judges.texts import folded, has, sentences, words

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation

_REPEATED = 4  # words


def judge(text: str, item: Generation, finished: bool) -> Finding:
    """Whether most of a text, but for what it repeats of the question, is in the item's language.

    "unparsed" where that cannot be told.
    """
    own = _without_repeating(text, asked(item))
    if not own:
        return Finding.failed(text, "only repeats what was said before")
    verdict = is_in(own, language_code(item.doc["language"]))
    if verdict is None:
        return Finding.nothing("the language cannot be told")
    if not verdict:
        return Finding.failed(text, f"not in {item.doc['language']}", settled=True)
    wanted = item.doc.get("contains_any", ())
    if wanted and not any(has(text, one) for one in wanted):
        return Finding.failed(text, "none of the words that an answer would have")
    return Finding.passed(text)


def require_judgeable(item: Generation) -> None:
    """That the language is known and the example answers are in it."""
    form = {
        "language": ("an ISO 639-1 code", lambda value: isinstance(value, str)),
        "contains_any": ("a list of texts that are not empty", is_texts),
    }
    require_doc(item, form, ("language",))
    try:
        language_code(item.doc["language"])
    except ValueError as error:
        require(False, item, "doc.language", str(error))
    require_examples(item, judge)


def _without_repeating(text: str, conversation: str) -> str:
    """A text without the sentences that stand in the conversation as they are; short ones may stand there."""
    before = f" {' '.join(_bare(conversation))} "
    said = sentences(text)
    own = [one for one in said if len(_bare(one)) < _REPEATED or f" {' '.join(_bare(one))} " not in before]
    return text if len(own) == len(said) else "\n".join(own)


def _bare(text: str) -> list[str]:
    return [word.strip("\"'.,:;!?¿¡()[]«»„“”。，？！।؟…*_") for word in words(folded(text))]
