"""Items from mappings, such as a line of JSON or a row of a table, and back.

`parse_item` says which field is wrong, the loaders add the file and the line. Custom kinds (`register_item`) become one
of the kinds here, so nothing downstream ever meets them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, get_args

from forget_callback.probes.checks import is_whole
from forget_callback.probes.exits import exits_as_errors
from forget_callback.probes.item_variants import Variant
from forget_callback.probes.items import Generation, Item, MultipleChoice, Recall, Text
from forget_callback.probes.quoting import quoted
from forget_callback.probes.suggest import did_you_mean

_KINDS: dict[str, type[Item]] = {cls.kind: cls for cls in (MultipleChoice, Recall, Generation, Text)}
_OWN_KINDS: dict[str, Callable[[Mapping[str, Any]], Item]] = {}
# What a record has to hold, where its kind has it; `messages` may stand in place of the prompt.
_REQUIRED = ("id", "prompt", "choices", "answer", "text")
_REMEDIES = {
    "id": "; give each item an id of its own, by which snapshots are joined",
    "prompt": "; give a prompt, or a conversation as `messages`",
}
# Of all kinds: who misspells `choices` has an item without choices.
_FIELDS = ["kind", *dict.fromkeys(f.name for cls in _KINDS.values() for f in fields(cls))]


def register_item(kind: str, make: Callable[[Mapping[str, Any]], Item]) -> None:
    """Adds a kind of item for JSON Lines files, tables and lists of dicts: what `make` makes of a record is scored.

    A probe, and so a run on disk, holds the item that was made: it can be read where the kind is not registered.

    Args:
        kind: What a record's `kind` says; registered again it is replaced.
        make: From the record, with all of its fields, to a `MultipleChoice`, `Recall`, `Generation` or `Text`.

    Raises:
        ValueError: If the kind is a built-in one, or `make` cannot be called.
    """
    if not isinstance(kind, str) or not kind or kind in _KINDS:
        raise ValueError(f"kind must be a name other than {', '.join(_KINDS)}, got {quoted(kind)}")
    if not callable(make):
        raise ValueError(f"make must be a function from a record to an item, got {quoted(make)}")
    _OWN_KINDS[kind] = make


def parse_item(record: object) -> Item:
    """One item from a mapping such as a line of JSON or a row of a table; without `kind`, `choices` decides.

    A whole number as `id` stands for its text, and so does a number as `answer` where `match` is "number".

    Raises:
        ValueError: Naming the item and the field that is missing, unknown or wrong.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object with the fields of an item, got {type(record).__name__}")
    name = record.get("id")
    kind = record.get("kind", "multiple_choice" if "choices" in record else "generation")
    if isinstance(kind, str) and kind in _OWN_KINDS:
        try:
            with exits_as_errors():
                item: Any = _OWN_KINDS[kind](record)
        except Exception as error:  # other people's code
            raise ValueError(f"item {quoted(name)}, kind {quoted(kind)}: {type(error).__name__}: {error}") from error
        if not isinstance(item, get_args(Item)):
            raise ValueError(
                f"item {quoted(name)}, kind {quoted(kind)}: its function must return a MultipleChoice, Recall, "
                f"Generation or Text, got {quoted(item)}"
            )
        return item  # type: ignore[no-any-return]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"item {quoted(name)}, field 'kind': expected one of {', '.join([*_KINDS, *_OWN_KINDS])}, got "
            f"{quoted(kind)}; a kind of your own needs register_item in this process first"
            f"{did_you_mean(kind, [*_KINDS, *_OWN_KINDS])}"
        )
    cls = _KINDS[kind]
    known = [f.name for f in fields(cls)]
    given = {key: value for key, value in record.items() if key != "kind"}
    for key in given:
        if key not in known:
            remedy = "; drop it, or put it in `doc`" if "doc" in known else "; drop it"
            remedy = "; a document has kind 'text'" if key == "text" else remedy
            remedy += "" if key in _FIELDS else did_you_mean(key, _FIELDS)  # a field of another kind is no slip
            raise ValueError(
                f"item {quoted(name)}, field {quoted(key)}: unknown for {kind}; known are {', '.join(known)}{remedy}"
            )
    for key in _REQUIRED:
        if key in known and key not in given and not (key == "prompt" and "messages" in given):
            remedy = _REMEDIES.get(key, "")
            raise ValueError(f"item {quoted(name)}, field {key!r}: missing for {kind}{remedy}")
    if is_whole(name):
        given["id"] = str(name)
    answer = given.get("answer")
    if given.get("match") == "number" and (is_whole(answer) or isinstance(answer, float)):
        given["answer"] = str(answer).removesuffix(".0")
    return cls(**given)


def item_record(item: Item) -> dict[str, Any]:
    """The mapping that `parse_item` reads back into an equal item; optional fields that hold nothing are left out."""
    required = [name for name in _REQUIRED if name != "prompt" or not item.messages]
    record = {"kind": item.kind} | {k: value for k, value in asdict(item).items() if value or k in required}
    if record.get("samples") == 1:  # what an item says by leaving it out: fingerprints are of what it does say
        del record["samples"]
    if item.variants:
        record["variants"] = [variant_record(variant) for variant in item.variants]
    return record


def variant_record(variant: Variant) -> str | dict[str, Any]:
    """The prompt alone where a variant is nothing else, else the mapping of what it holds."""
    record = {k: value for k, value in asdict(variant).items() if k == "prompt" or value not in ((), None)}
    if not record["weak"]:
        del record["weak"]
    return record if len(record) > 1 else str(record["prompt"])
