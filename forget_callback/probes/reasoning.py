"""A probe by chain of thought: reason in words first, then the answer on a last line that can be read.

Zero-shot chain of thought as in arXiv 2510.17776. What was multiple choice becomes a generated answer whose letter is
read; how many letters there are stays with the item, so that guessing can still be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from forget_callback.probes.conversation import asks_as, question_of
from forget_callback.probes.item_variants import Variant
from forget_callback.probes.items import Generation, Item, MultipleChoice, in_variant
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ENDINGS = {
    "choice": "Think step by step. On the last line write 'Answer: X', where X is the letter of the right option.",
    "number": "Think step by step. On the last line write 'Answer: ' and the number.",
    "math": "Think step by step, and put the final answer within \\boxed{}.",
}
# The same in a text that is no conversation.
OTHER_ENDINGS = {
    "choice": "Reason first, and end with a line 'Answer: X', where X is the letter of the right option.\n\nSolution:",
    "number": "Reason first, and end with a line 'Answer: ' and the number.\n\nSolution:",
    "math": "Reason first, and end with the final answer within \\boxed{}.\n\nSolution:",
}


def by_reasoning(probe: Probe, *, max_new_tokens: int = 1024) -> Probe:
    r"""The probe with every item as a question to reason about.

    Args:
        probe: Multiple choice, and generation items that match "choice", "number" or "math".
        max_new_tokens: Room for reasoning and answer; one that is cut short counts as truncated, not as wrong.

    Raises:
        ValueError: If an item is of another kind: recall has no answer of its own after reasoning.

    >>> item = MultipleChoice("q", "Question: 2 + 2?\nAnswer:", (" 3", " 4"), 1)
    >>> print(by_reasoning(Probe("sums", [item])).items[0].prompt)
    Question: 2 + 2?
    A. 3
    B. 4
    <BLANKLINE>
    Think step by step. On the last line write 'Answer: X', where X is the letter of the right option.
    """
    return replace(probe, items=[_with_variants(item, probe, max_new_tokens) for item in probe.items])


def listed(texts: Sequence[str]) -> str:
    """Options under their letters, a line each."""
    return "\n".join(f"{letter}. {text.strip()}" for letter, text in zip(LETTERS, texts))


def _with_variants(item: Item, probe: Probe, max_new_tokens: int) -> Generation:
    """The item in each of its prompts, and letters in the order of each."""
    first, *rest = (
        _reasoned(in_variant(item, number), probe, max_new_tokens) for number in range(1, len(item.variants) + 2)
    )
    variants = [
        Variant(
            question_of(each),
            order=given.order if first.options else (),
            chat=given.chat,
            weak=given.weak,
            stop=each.stop[len(first.stop) :],
        )
        for each, given in zip(rest, item.variants)
    ]
    return replace(first, variants=variants, cluster=item.cluster, fact=item.fact, ability=item.ability)


def _reasoned(item: Item, probe: Probe, max_new_tokens: int) -> Generation:
    if isinstance(item, MultipleChoice) and len(item.choices) <= len(LETTERS):
        texts = [between + choice for between, choice in zip(item.contexts or [""] * len(item.choices), item.choices)]
        question = _question(question_of(item))
        if [text.strip(" ().") for text in texts] != list(LETTERS[: len(texts)]):  # else the prompt lists them
            question = f"{question}\n{listed(texts)}"
        return Generation(
            id=item.id,
            **_asking(item, f"{question}\n\n{ENDINGS['choice']}"),
            answer=LETTERS[item.answer],
            match="choice",
            category=item.category,
            max_new_tokens=max_new_tokens,
            options=len(texts),
        )
    if isinstance(item, Generation) and item.match in ENDINGS:
        prompt = f"{_question(question_of(item))}\n\n{ENDINGS[item.match]}"
        return replace(item, **_asking(item, prompt), max_new_tokens=max_new_tokens, stop=())
    if isinstance(item, Generation) and item.task:  # its prompt says how to answer
        return replace(item, max_new_tokens=max(item.max_new_tokens, max_new_tokens))
    raise ValueError(
        f"probe {probe.name!r}, item {quoted(item.id)}: cot=true goes with multiple choice and with generation items "
        "that "
        f"match {', '.join(ENDINGS)}; this is {item.kind}"
    )


def _asking(item: Item, prompt: str) -> dict[str, Any]:
    """The fields that ask a prompt, in the item's conversation where it has one."""
    if item.messages:
        return {"prompt": "", "messages": asks_as(item.messages, prompt), "tools": item.tools}
    return {"prompt": prompt}


def _question(prompt: str) -> str:
    return prompt.rstrip().removesuffix("Answer:").rstrip()
