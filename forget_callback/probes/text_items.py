"""Documents as items: what is measured is how many bits a model needs for each byte of one.

A text has no right answer, so `correct` only says that it was measured; what changed is read from its bits per byte.
Knows nothing of models, tokenizers or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from forget_callback.probes.abilities import TRAINING
from forget_callback.probes.checks import is_whole, require, require_text
from forget_callback.probes.quoting import quoted


@dataclass(frozen=True)
class Text:
    """A document that is scored as it stands: the log-probability of all of its tokens, in bits per UTF-8 byte.

    Attributes:
        text: The document. It goes through no chat template.
        length: Bytes that its bits are divided by where its source counts others than its own, as lm-eval's wikitext
            does with pages that it tidies up; 0 for its own.
        ability: "training" marks a document of the training data itself, which is read by its KL divergence and counts
            in no other number of several probes. Else "text".
        variants: Always empty, as is `fact`: a document is asked nothing, so it has no other wording.
    """

    id: str
    text: str
    category: str = ""
    cluster: str = ""
    variants: Sequence[Any] = field(default=(), kw_only=True)
    fact: str = field(default="", kw_only=True)
    ability: str = field(default="", kw_only=True)
    length: int = field(default=0, kw_only=True)

    kind: ClassVar[str] = "text"
    answer: ClassVar[tuple[str, ...]] = ()
    messages: ClassVar[tuple[Any, ...]] = ()
    tools: ClassVar[tuple[Any, ...]] = ()

    def __post_init__(self) -> None:
        require_text(self, "id", self.id)
        require_text(self, "text", self.text)
        for name in ("category", "cluster", "ability"):
            require_text(self, name, getattr(self, name), empty=True)
        expected = f"a document is of 'text', or of the {TRAINING!r} data, got {quoted(self.ability)}"
        require(self.ability in ("", self.kind, TRAINING), self, "ability", expected)
        whole = is_whole(self.length) and self.length >= 0
        require(whole, self, "length", f"expected a number of bytes, got {quoted(self.length)}")
        for name, of in (("variants", "prompts"), ("fact", "questions")):
            given = getattr(self, name)
            require(not given, self, name, f"goes with {of}, and this is a document, got {quoted(given)}; drop it")
        object.__setattr__(self, "variants", ())

    @property
    def prompt(self) -> str:
        """What people are shown of the item: the document."""
        return self.text

    @property
    def n_bytes(self) -> int:
        """What bits are divided by, the length in UTF-8 if not given: no tokenizer changes it."""
        return self.length or len(self.text.encode())
