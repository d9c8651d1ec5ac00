"""What only a task's documents show of its prompts: several templates, examples without a frame, shared passages.

Further prompts of all other items are made from their text (`forget_callback.probes.variants`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forget_callback.probes.item_variants import Variant
from forget_callback.probes.items import Item, MultipleChoice
from forget_callback.probes.variants import around, is_framed

# Fields that hold what several questions may be about.
_PASSAGES = ("passage", "article", "story", "narrative", "paragraph", "context", "support")


def by_question(rows: Mapping[int, Sequence[Any]]) -> dict[int, list[Sequence[Any]]]:
    """The requests of each question, by its first document: one list for each template that the task asks it in.

    lm-eval's SCORE tasks (`prompt_templates.json`) repeat every document with each template; `question_id` says which
    belong together.
    """
    first: dict[Any, int] = {}
    found: dict[int, list[Sequence[Any]]] = {}
    for doc_id, requests in rows.items():
        doc = requests[0].doc
        several = isinstance(doc, Mapping) and {"prompt_id", "question_id", "prompt"} <= doc.keys()
        place = first.setdefault(str(doc["question_id"]), doc_id) if several else doc_id
        found.setdefault(place, []).append(requests)
    return found


def templates(prompts: Sequence[str]) -> list[Variant]:
    """A task's further templates; in a chat probe one of two is plain, as chat prompts share the template's damage."""
    return [Variant(prompt, chat=None if place % 2 else False) for place, prompt in enumerate(prompts)]


def unseen(item: Item, shots: int | None) -> list[Variant]:
    """Words around a prompt whose examples no text tells from the question; nothing where the text says enough."""
    plain = isinstance(item, MultipleChoice) and not item.contexts and bool(item.prompt.strip())
    return [around(item.prompt)] if shots and plain and not is_framed(item.prompt) else []


def passage_of(doc: Any) -> str:
    """What a document's question is about, where other questions may be about the same."""
    texts = [doc.get(key) for key in _PASSAGES] if isinstance(doc, Mapping) else []
    return next((text for text in texts if isinstance(text, str)), "")
