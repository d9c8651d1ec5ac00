"""A tokenizer that encodes many texts at once, each distinct one once, with the token ids of one by one. No torch here.

Fast tokenizers encode a list on all cores, at less than what its texts cost one after the other. What they do in a
process that is forked later is what they do after a single `encode`, which is a batch of one text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class _Same(dict[int, int]):
    """One object for each number: a token id takes 8 bytes in a sequence then, not 40."""

    def __missing__(self, number: int) -> int:
        self[number] = number
        return number


class BatchedTokenizer:
    """What `tokens.py` needs of a tokenizer; texts that are `prepare`d are encoded together.

    Attributes:
        bos_token, bos_token_id, eos_token_id: Those of the tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.bos_token: str | None = tokenizer.bos_token
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.eos_token_id: int | None = tokenizer.eos_token_id
        self._tokenizer = tokenizer
        self._batches = _is_plain(tokenizer)
        self._known: dict[tuple[str, bool], list[int]] = {}
        self._same = _Same().__getitem__

    def prepare(self, texts: Iterable[tuple[str, bool]]) -> None:
        """Encodes texts, each with or without special tokens; those that were prepared before are forgotten."""
        self._known = {}
        distinct = dict.fromkeys(texts) if self._batches else {}
        for special in (True, False):
            if own := [text for text, how in distinct if how == special]:
                self._encode_all(own, special)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, encoded by itself if it is not prepared.

        Raises:
            Exception: What the tokenizer raises.
        """
        known = self._known.get((text, add_special_tokens))
        return self._one(text, add_special_tokens) if known is None else known

    def _one(self, text: str, special: bool) -> list[int]:
        return list(map(self._same, self._tokenizer.encode(text, add_special_tokens=special)))

    def _encode_all(self, texts: list[str], special: bool) -> None:
        try:
            first = self._one(texts[0], special)  # switches off truncation and padding of the backend
            found = self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=special)
        except Exception:  # it refuses one of them: then each by itself, and that one alone is refused
            return
        if found[0].ids == first:
            self._known |= {(text, special): list(map(self._same, one.ids)) for text, one in zip(texts, found)}


def _is_plain(tokenizer: Any) -> bool:
    """Whether `encode` is what the backend does, with nothing of a class of its own before or after it."""
    methods = [getattr(tokenizer, name, None) for name in ("encode", "_encode_plus")]
    own = any(not getattr(one, "__module__", "").startswith("transformers.tokenization_utils") for one in methods)
    return bool(getattr(tokenizer, "is_fast", False)) and not own
