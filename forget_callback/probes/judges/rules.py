"""The rules, by the `match` that names them: one table, from which items are checked and texts are judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from forget_callback.probes.judges import code, constraints, json_schema, language, refusals, tool_call
from forget_callback.probes.judges.finding import Finding, Rule
from forget_callback.probes.markup import first_line

if TYPE_CHECKING:
    from forget_callback.probes.items import Generation

RULES: Mapping[str, Rule] = {
    "tool_call": Rule(tool_call.judge_call, tool_call.require_call, marks=True),
    "no_tool_call": Rule(tool_call.judge_no_call, tool_call.require_no_call, marks=True),
    "code": Rule(code.judge, code.require_judgeable),
    "json_schema": Rule(json_schema.judge, json_schema.require_judgeable, apart=True),
    "constraints": Rule(constraints.judge, constraints.require_judgeable),
    "refusal": Rule(refusals.judge_refusal, refusals.require_refusal),
    "no_refusal": Rule(refusals.judge_no_refusal, refusals.require_no_refusal),
    "language": Rule(language.judge, language.require_judgeable),
}


def require_judgeable(item: Generation) -> None:
    """That an item's rule, if it is one of these, can judge it.

    Raises:
        ValueError: Naming the item and the field.
    """
    if item.match in RULES:
        RULES[item.match].require(item)


def find(text: str, item: Generation, *, finished: bool) -> Finding:
    """What an item's rule, one of these, makes of an answer.

    Args:
        text: Without blocks of thinking.
        finished: False if generation stopped at the token limit.
    """
    if first_line(text) is None:
        return Finding.nothing("no text")
    try:
        return RULES[item.match].judge(text.strip(), item, finished)
    except RecursionError:  # lists within lists, as a collapsed model writes them
        return Finding.nothing("nested too deep")
