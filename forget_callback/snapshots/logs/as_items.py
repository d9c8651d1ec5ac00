"""Items of a log as items of a probe, for whoever shows them: they are not there to be asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forget_callback.probes.items import Generation, Item, MultipleChoice, Text

if TYPE_CHECKING:
    from forget_callback.snapshots.logs.log import LoggedItem

NOT_IN_LOG = "(not in the log)"


def document_of(item: LoggedItem) -> Item:
    """A document of a log."""
    text = item.prompt if item.prompt.strip() else NOT_IN_LOG
    return Text(item.id, text, item.category, item.cluster)


def item_of(item: LoggedItem, task: str) -> Item:
    """A question of a log; what it does not have is said in its place."""
    prompt = item.prompt if item.prompt.strip() or item.options else NOT_IN_LOG
    asked: dict[str, Any] = {"messages": item.messages} if item.messages else {"prompt": prompt}
    asked |= {"category": item.category, "cluster": item.cluster, "fact": item.fact}
    if not item.options:
        answers = tuple(text for text in item.expected if text.strip()) or (NOT_IN_LOG,)
        return Generation(item.id, answer=answers, match="task", task=task, **asked)
    place, texts = item.answer, list(item.options)
    if place < 0:  # which one is right is not known; it is not one that was chosen and wrong
        place = int(item.choice == 0)
        texts[place] = f"the right one, {NOT_IN_LOG}"
    right = texts[place].strip()
    texts = [
        f"{text} (option {i + 1})" if not text.strip() or (i != place and text.strip() == right) else text
        for i, text in enumerate(texts)  # benchmarks have options that equal the right one
    ]
    return MultipleChoice(item.id, choices=texts, answer=place, **asked)
