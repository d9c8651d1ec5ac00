"""A section and evaluation results merged into a model card, and nothing else of it touched.

huggingface_hub writes a card's metadata anew, which loses comments and the way values were written; here the text is
changed where our part begins and ends. What comes out is read back, and has to be what went in with our part replaced.
Knows nothing of what the section says.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import DatasetCard, EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from forget_callback.probes.quoting import printable, quoted
from forget_callback.tools.card_metadata import require_keys, require_results

BEGIN = "<!-- forget-callback card: begin. What stands between these two comments is replaced by its next run. -->"
END = "<!-- forget-callback card: end -->"
SOURCE = "forget-callback"  # of our results in a model-index, by which they are found again
_MARKER = re.compile(r"<!-- forget-callback card: (begin|end)\b[^>]*-->")
# Of Markdown: the line that begins or ends a block of code, also in a quotation or a list, and code within a line.
_FENCE = re.compile(r"([ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]*)*)(`{3,}|~{3,})(.*)")
_SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")
_KEY = "model-index"
# As newer huggingface_hub finds metadata; to older ones a fence has all line breaks beside it, or half of a \r\n.
_METADATA = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$))")
_EMPTY = re.compile(r"^(\s*---(\r\n|\n))---[ \t]*(?=\r\n|\n|$)")  # metadata of no line, which the hub does not see


@dataclass(frozen=True)
class Merged:
    """A card with our part in it.

    Attributes:
        text: All of it.
        notes: What of the user's could not be kept as it was written.
    """

    text: str
    notes: tuple[str, ...] = ()


def merged(card: str, section: str, results: Sequence[EvalResult], *, name: str, file: str = "README.md") -> Merged:
    """The card with this section and these results in the place of those that an earlier run put there.

    Args:
        card: The whole card, with its line endings as they are; "" for a new one.
        section: Markdown, put between `BEGIN` and `END` at the end of the card where there is none yet.
        results: Their source is `SOURCE`.
        name: Of the model, where the card has no model-index that names it.
        file: What the card is called in errors.

    Raises:
        ValueError: If the card's metadata are none, its markers are not one pair, or its last block of code has no end.
    """
    newline = "\r\n" if 0 < card.count("\n") == card.count("\r\n") else "\n"
    bom, card = ("\ufeff", card[1:]) if card.startswith("\ufeff") else ("", card)
    card = _EMPTY.sub(lambda m: f"{m[1]}{m[2]}---", card)
    found = _METADATA.search(card)
    block, body = (found[2], card[found.end() :]) if found else ("", card)
    own = eval_results_to_model_index(name, list(results))[0]
    try:
        metadata, notes = _with_results(block, own, newline)
        if found:
            text = card[: found.start(2)] + metadata + card[found.end(2) : found.end()]
        else:
            text = f"---{newline}{metadata}{newline}---{newline}" + newline * bool(body)
        text += _with_section(body, section.replace("\n", newline), newline)
        check_card(text, results)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        deep = "its metadata are nested too deeply, or hold themselves"
        said = deep if isinstance(error, RecursionError) else printable(" ".join(str(error).split()))
        raise ValueError(f"{file}: {said}; mend it, or give another card") from None
    return Merged(bom + text, notes)


def name_in(card: str) -> str:
    """What a card's metadata call the model, as TRL writes `model_name`; "" where they do not, or are none."""
    found = _METADATA.search(card)
    try:
        data = yaml.safe_load(found[2]) if found else None
    except yaml.YAMLError:  # `merged` says what is wrong
        return ""
    name = data.get("model_name") if isinstance(data, dict) else None
    return name if isinstance(name, str) else ""


def check_card(text: str, results: Sequence[EvalResult]) -> None:
    """What huggingface_hub checks of a model card without the hub: its metadata, and that it reads our results back.

    Raises:
        ValueError: If it does not.
    """
    data: Any = ModelCard(text).data
    read = [one for one in data.eval_results or [] if one.source_name == SOURCE]
    again = model_index_to_eval_results(eval_results_to_model_index(data.model_name or "", read))[1] if read else []
    if read != list(results) or again != read:
        raise ValueError(f"huggingface_hub reads other results than were written: {quoted(read, 200)}")


def check_dataset_card(text: str) -> None:
    """That huggingface_hub reads the metadata of a dataset's card.

    Raises:
        ValueError: If it does not.
    """
    data: Any = DatasetCard(text).data
    if not data.get("configs"):
        raise ValueError("the dataset's card has no configs")


def _with_section(body: str, section: str, newline: str) -> str:
    text, unclosed = _without_code(body)
    markers = list(_MARKER.finditer(text))
    ours = newline.join([BEGIN, section.rstrip("\r\n"), END])
    if not markers and unclosed:
        raise ValueError(
            f"the block of code that begins in line {unclosed} after the metadata is never closed, and the section "
            "would be a part of it; close it"
        )
    if not markers:
        gap = "" if not body else newline * (2 - body.endswith(("\n", "\r")))
        return f"{body}{gap}{ours}{newline}"
    if [marker[1] for marker in markers] != ["begin", "end"]:
        lines = [body.count("\n", 0, marker.start()) + 1 for marker in markers]
        raise ValueError(
            f"expected one comment 'forget-callback card: begin' and one 'end' after it, got "
            f"{', '.join(marker[1] for marker in markers)} (lines {', '.join(map(str, lines))} after the metadata); "
            "remove what is left of the section by hand"
        )
    return body[: markers[0].start()] + ours + body[markers[1].end() :]


def _without_code(body: str) -> tuple[str, int]:
    """Markdown with blanks where it has code, whose comments are text; the line of a block of code that has no end."""
    lines: list[str] = []
    fence: re.Match[str] | None = None
    begun = 0
    for number, line in enumerate(body.split("\n"), 1):
        if fence is not None and ">" in fence[1] and not line.lstrip().startswith(">"):
            fence = None  # it ends with its quotation
        found, inside = _FENCE.match(line), fence is not None
        if fence is None and found and not (found[2][0] == "`" and "`" in found[3]):
            fence, begun = found, number
        elif fence is not None and found and found[2].startswith(fence[2]) and not found[3].strip():
            fence = None
        if inside or fence is not None or line.startswith(("    ", "\t")):
            lines.append(" " * len(line))
        else:
            lines.append(_SPAN.sub(lambda span: " " * len(span[0]), line))
    return "\n".join(lines), begun if fence is not None and not fence[1].strip() else 0


def _with_results(block: str, own: dict[str, Any], newline: str) -> tuple[str, tuple[str, ...]]:
    """The metadata with our results; by text where that gives what it has to, else written anew."""
    block += newline * bool(block)  # a text that goes on to the last line ends with it
    data = yaml.safe_load(block) or {}
    if not isinstance(data, dict):
        raise ValueError(f"its metadata must be keys with values, got {quoted(data)}")
    require_keys(data)
    edit = _Edit(block, data, own, _expected(data, own), newline)
    lost = "comments may be lost, for it is written in a way that cannot be added to"
    for way, note in (
        (edit.added, ""),
        (edit.index_anew, f"its {_KEY} is written anew: {lost}"),
        (edit.all_anew, f"all of its metadata are written anew: {lost}"),
    ):
        text = way()
        if text is not None and _same(text, edit.expected):
            return text.removesuffix(newline), (note,) if note else ()
    raise ValueError("its metadata cannot be read back as they were written")


def _expected(data: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(data)
    index = found.get(_KEY)
    if index is None:
        found[_KEY] = [own]
        return found
    usual = isinstance(index, list) and index and all(isinstance(one, dict) for one in index)
    if not usual or any(not isinstance(one.get("results") or [], list) for one in index):
        raise ValueError(f"its {_KEY} must be a list of models with a name and results each, got {quoted(index)}")
    require_results(index, key=_KEY)
    first, place = index[0].get("results") or [], 0
    place = next((i for i, one in enumerate(first) if _is_own(one)), len(first))
    for model in index:
        model["results"] = [one for one in model.get("results") or [] if not _is_own(one)]
    index[0]["results"][place:place] = own["results"]
    index[0].setdefault("name", own["name"])
    return found


def _is_own(result: Any) -> bool:
    return isinstance(result, dict) and (result.get("source") or {}).get("name") == SOURCE


def _same(text: str, expected: dict[str, Any]) -> bool:
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return bool(read == expected) and list(read) == list(expected)


@dataclass(frozen=True)
class _Edit:
    """Metadata as text, to be changed; each way gives None where the form of the text does not allow it.

    Attributes:
        text: The metadata, whose last line is ended.
        data: What they hold.
        own: Our model, with its results.
        expected: What they have to hold afterwards.
        newline: Of the card.
    """

    text: str
    data: dict[str, Any]
    own: dict[str, Any]
    expected: dict[str, Any]
    newline: str

    def added(self) -> str | None:
        """Our results put in, and earlier ones cut out; all else is as it was."""
        text, root = self.text, yaml.compose(self.text, Loader=yaml.SafeLoader)
        if _KEY not in self.data:
            indent = " " * (root.start_mark.column if root is not None else 0)
            return text + self._dumped({_KEY: [self.own]}, indent)
        models = _value_in(root, _KEY)
        lists = [_value_in(model, "results") for model in models.value] if self.data[_KEY] else []
        if not lists or any(not isinstance(node, yaml.SequenceNode) or node.flow_style for node in lists):
            return None
        ours = [
            _span(text, node)
            for model, listed in zip(self.data[_KEY], lists)
            for result, node in zip(model.get("results") or [], listed.value)
            if _is_own(result)
        ]
        at = ours[0][0] if ours else _end(text, lists[0])
        for begin, end in reversed(ours):
            text = text[:begin] + text[end:]
        return text[:at] + self._dumped(self.own["results"], " " * lists[0].start_mark.column) + text[at:]

    def index_anew(self) -> str | None:
        """The model-index alone written anew, in its place."""
        root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        found = [(key, value) for key, value in root.value if key.value == _KEY]
        if root.flow_style or len(found) != 1:
            return None
        begin = self.text.rfind("\n", 0, found[0][0].start_mark.index) + 1
        anew = self._dumped({_KEY: self.expected[_KEY]}, " " * root.start_mark.column)
        return self.text[:begin] + anew + self.text[_end(self.text, found[0][1]) :]

    def all_anew(self) -> str:
        """What huggingface_hub would write."""
        return self._dumped(self.expected)

    def _dumped(self, value: Any, indent: str = "") -> str:
        lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).splitlines()
        return "".join(f"{indent}{line}{self.newline}" for line in lines)


def _value_in(node: Any, name: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _span(text: str, node: yaml.Node) -> tuple[int, int]:
    """Where the lines of an item of a list begin, with its dash, and where they end."""
    dash = text.rfind("-", 0, node.start_mark.index)
    return text.rfind("\n", 0, dash) + 1, _end(text, node)


def _end(text: str, node: yaml.Node) -> int:
    """Where the last line of a node ends: that of its last value, for a node itself goes on to what comes next."""
    last: int = max(leaf.end_mark.index for leaf in _leaves(node))
    if text[last - 1 : last] == "\n":  # a block of text ends with its line
        return last
    line = text.find("\n", last)
    return len(text) if line < 0 else line + 1


def _leaves(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        yield node
        return
    for one in node.value:
        for part in one if isinstance(one, tuple) else (one,):
            yield from _leaves(part)
