"""What kind of ability an item is about: knowledge, behaviour, text, or a task.

A run can keep every fact and lose its refusals, its tool calls or its plain text, so these are counted apart. An item
may say it itself (`ability`); else its kind and the rule by which it is judged do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from forget_callback.probes.items import Item

Ability: TypeAlias = Literal["knowledge", "behaviour", "text", "task"]

# Of documents that the model learns: no ability that can be lost, so they count in no number but the KL divergence
# and those of their own probe.
TRAINING = "training"

# Rules that judge how a model answers, not what it knows.
BEHAVIOUR = ("tool_call", "no_tool_call", "json_schema", "constraints", "refusal", "no_refusal", "language")


def ability_of(item: Item) -> str:
    """The ability that an item is about.

    >>> from forget_callback.probes.items import Generation, Recall
    >>> ability_of(Recall("a", "Water boils at", " 100")), ability_of(Generation("b", "6 * 7?", "42", "number"))
    ('knowledge', 'task')
    """
    if item.ability:
        return item.ability
    if item.kind == "text":
        return "text"
    if item.kind != "generation":
        return "knowledge"
    if judges_form(item):
        return "behaviour"
    return "knowledge" if item.fact else "task"


def judges_form(item: Item) -> bool:
    """Whether an item is judged by the form of its whole answer, as IFEval does."""
    match, task = getattr(item, "match", ""), getattr(item, "task", "")
    return match in BEHAVIOUR or "ifeval" in task.lower()
