"""Token ids of a probe's items: contexts, and the continuations to score after them. No torch here.

Options are split from their context as in lm-eval (`TemplateLM._encode_pair`), so that both score the same token ids. A
recalled answer comes after the tokens of its prompt, from which greedy decoding would go on. A document is one
continuation of the BOS token, or of windows that lm-eval rolls over it. Knows tokenizers, but no model; how a
conversation is rendered is in `rendering.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forget_callback.probes.items import Generation, Item, MultipleChoice, Recall, Text, accepted
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import printable
from forget_callback.scoring.likelihood.batched import BatchedTokenizer
from forget_callback.scoring.likelihood.rendering import context_of
from forget_callback.scoring.likelihood.shown import NotScorableError

_NO_TOKEN = "no token of its own after the prompt"
# Characters that are encoded at once: some hundred MB while the tokenizer works.
_CHARACTERS = 2**21
# Tokens of a document's window where the model has no limit, as lm-eval has it.
_WINDOW = 2048


@dataclass(frozen=True)
class Continuation:
    """One text to score after its context: an option, an accepted answer of a recall item, a window of a document.

    Attributes:
        item: Index of the item in the probe.
        tokens: Context and continuation.
        n_context: How many of `tokens` are context, at least one.
        greedy: Whether the argmax is needed too, as for recall items: would greedy decoding generate it?
    """

    item: int
    tokens: tuple[int, ...]
    n_context: int
    greedy: bool = False


@dataclass(frozen=True)
class EncodedItems:
    """Token ids of a probe's items; an item that has none does not cost the others.

    Attributes:
        rows: Continuations of choice, recall and text items, in item order; options, accepted answers and windows keep
            their order.
        prompts: Prompts of the items whose answer is generated, by index: generation items, and recall items whose
            prompt is tokenized otherwise with the answer after it, so that no continuation is what greedy decoding
            would generate.
        dropped: Why an item cannot be scored, by index.
    """

    rows: list[Continuation]
    prompts: dict[int, tuple[int, ...]]
    dropped: dict[int, str]


class Encodings:
    """What a tokenizer makes of probes, each encoded once: for all who score them in one run, and for all their looks.

    Args:
        tokenizer: Of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._kept: dict[tuple[str, tuple[str, ...], int], EncodedItems] = {}

    def of(self, probe: Probe, *, limit: int = 2**62) -> EncodedItems:
        """As `encode_items`."""
        key = (probe.fingerprint, probe.ids, limit)  # the fingerprint is that of any order of the items
        if key not in self._kept:
            self._kept[key] = encode_items(probe, self.tokenizer, limit=limit)
        return self._kept[key]


def encode_items(probe: Probe, tokenizer: Any, *, limit: int = 2**62) -> EncodedItems:
    """Token ids of all items of a probe.

    Args:
        limit: Tokens of the model's context: a longer document is scored in several windows.
    """
    result = EncodedItems([], {}, {})
    batched = BatchedTokenizer(tokenizer)
    block: list[tuple[int, str]] = []
    texts: list[tuple[str, bool]] = []
    size = 0
    for index, item in enumerate(probe.items):
        try:
            context = "" if isinstance(item, Text) else context_of(item, probe, tokenizer)
        except Exception as error:  # a template refuses messages as it likes
            result.dropped[index] = _refused("chat template", error)
            continue
        block.append((index, context))
        own = list(_texts(item, context, probe, batched))
        texts += own
        size += sum(len(text) for text, _ in own)
        if size > _CHARACTERS:
            _encode_block(block, texts, probe, batched, limit, result)
            block, texts, size = [], [], 0
    _encode_block(block, texts, probe, batched, limit, result)
    return replace(result, dropped=dict(sorted(result.dropped.items())))


def _encode_block(
    block: Sequence[tuple[int, str]],
    texts: Sequence[tuple[str, bool]],
    probe: Probe,
    tokenizer: BatchedTokenizer,
    limit: int,
    result: EncodedItems,
) -> None:
    """Adds the token ids of some items, by index with their contexts, to the result."""
    tokenizer.prepare(texts)
    for index, context in block:
        item = probe.items[index]
        try:
            if isinstance(item, Text):
                result.rows.extend(_document(index, item, tokenizer, limit))
                continue
            if isinstance(item, MultipleChoice):
                result.rows.extend(_options(index, item, context, probe, tokenizer))
                continue
            prompt = prompt_tokens(context, tokenizer, chat=bool(probe.chat))
            own = _recalled(index, item, context, prompt, probe, tokenizer) if isinstance(item, Recall) else []
        except Exception as error:  # a tokenizer refuses texts as it likes
            result.dropped[index] = _refused("tokenizer", error)
        else:
            result.rows.extend(own)
            if not own:
                result.prompts[index] = tuple(prompt)


def _refused(by: str, error: Exception) -> str:
    if isinstance(error, NotScorableError):
        return str(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the {by} refuses it: {printable(lines[0])[:80]}"


def _texts(item: Item, context: str, probe: Probe, tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """The texts that an item needs the token ids of, each with or without special tokens.

    One too few is no error: it is encoded by itself.
    """
    chat = bool(probe.chat)
    pairs = [("", item.text)] if isinstance(item, Text) else []
    if isinstance(item, MultipleChoice):
        contexts = [context + own for own in item.contexts] or [context] * len(item.choices)
        pairs = [(own, spoken(text, probe)) for own, text in zip(contexts, item.choices)]
    elif isinstance(item, (Generation, Recall)):
        yield context, not chat and not _has_bos(context, tokenizer)
        pairs = [(context, spoken(text, probe)) for text in accepted(item)] if isinstance(item, Recall) else []
    for before, text in pairs:
        bare = before if chat or isinstance(item, Recall) else before.rstrip()
        special = not chat and bool(bare)
        for one in (bare, before + text) if bare else (before + text,):
            yield one, special and not _has_bos(one, tokenizer)


def _options(index: int, item: MultipleChoice, context: str, probe: Probe, tokenizer: Any) -> list[Continuation]:
    """The options of an item, split as in lm-eval.

    Raises:
        NotScorableError: If an option has no token that the context does not have.
    """
    rows = []
    for own, text in zip(item.contexts or [""] * len(item.choices), item.choices):
        head, tail = split(context + own, spoken(text, probe), tokenizer, chat=bool(probe.chat))
        if not tail:
            raise NotScorableError(_NO_TOKEN)
        rows.append(Continuation(index, (*head, *tail), len(head)))
    return rows


def _document(index: int, item: Text, tokenizer: Any, limit: int) -> list[Continuation]:
    """A document after the BOS token, or EOS where there is none.

    Raises:
        NotScorableError: If the tokenizer makes no token of it, or has neither BOS nor EOS.
    """
    head, tail = split("", item.text, tokenizer, chat=False)
    if not tail:
        raise NotScorableError("no token of its own")
    return [Continuation(index, *window) for window in rolling_windows(tail, head[0], limit)]


def rolling_windows(tokens: Sequence[int], prefix: int, limit: int) -> list[tuple[tuple[int, ...], int]]:
    """The windows in which a document is scored, each token in one: its tokens with the context, and how many that is.

    As lm-eval's `loglikelihood_rolling` (`get_rolling_token_windows` with a `context_len` of 1, and
    `make_disjoint_window`): the first window follows the prefix token, each later one the token before it; the last one
    is filled up with context from before.

    Args:
        limit: Tokens that the model reads at once; the last token of a window is predicted, not read.
    """
    limit = _WINDOW if limit >= 2**62 else limit
    whole = (prefix, *tokens)
    windows = [(whole[: limit + 1], 1)]
    for start in range(limit, len(tokens), limit):
        end = min(start + limit, len(tokens))
        windows.append((whole[end - limit : end + 1], limit + 1 - (end - start)))
    return windows


def _recalled(
    index: int, item: Recall, context: str, prompt: list[int], probe: Probe, tokenizer: Any
) -> list[Continuation]:
    """The accepted answers of an item after the tokens of its prompt; none if that is not how all are tokenized.

    Raises:
        NotScorableError: If an answer is empty.
    """
    rows = []
    for text in (spoken(text, probe) for text in accepted(item)):
        if context:
            whole = encode(context + text, tokenizer, special=not probe.chat)
        else:
            whole = [token for part in split(context, text, tokenizer, chat=False) for token in part]
        if not text or (not context and len(whole) == len(prompt)):
            raise NotScorableError(_NO_TOKEN)
        if len(whole) == len(prompt) or whole[: len(prompt)] != prompt:
            return []
        rows.append(Continuation(index, tuple(whole), len(prompt), greedy=True))
    return rows


def spoken(text: str, probe: Probe) -> str:
    """An option or an answer as it stands after the prompt.

    A chat template ends right where the answer begins, so a leading space would be one too many.
    """
    return text.lstrip() if probe.chat else text


def prompt_tokens(context: str, tokenizer: Any, *, chat: bool) -> list[int]:
    """Token ids of a prompt, from which a model generates. An empty one is the BOS token, or EOS where there is none.

    Raises:
        NotScorableError: If the prompt is empty and the tokenizer has neither BOS nor EOS.
    """
    return encode(context, tokenizer, special=not chat) or [_beginning(tokenizer)]


def _beginning(tokenizer: Any) -> int:
    prefix: int | None = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefix is None:
        raise NotScorableError(
            "the tokenizer has neither a BOS nor an EOS token to put before it; give the item a prompt, or set "
            "tokenizer.bos_token"
        )
    return prefix


def split(context: str, continuation: str, tokenizer: Any, *, chat: bool) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation.

    Plain text is split as in lm-eval: trailing white space of the context moves to the continuation, and the
    continuation's tokens are those of the whole text after as many as the context alone has. An empty context is the
    BOS token, or EOS where there is none; so is one of white space, which lm-eval rejects. A rendered conversation is
    kept as it is, exactly as for generation.

    Raises:
        NotScorableError: If the context is empty and the tokenizer has neither BOS nor EOS.
    """
    if chat:
        head = encode(context, tokenizer, special=False)
        whole = encode(context + continuation, tokenizer, special=False)
        merged = whole[: len(head)] != head
        return head, encode(continuation, tokenizer, special=False) if merged else whole[len(head) :]
    bare = context.rstrip()
    if not bare:
        prefix = _beginning(tokenizer)
        tail = encode(context + continuation, tokenizer, special=False)
        return (tail[:1], tail[1:]) if tail[:1] == [prefix] else ([prefix], tail)
    head = encode(bare, tokenizer)
    return head, encode(context + continuation, tokenizer)[len(head) :]


def encode(text: str, tokenizer: Any, *, special: bool = True) -> list[int]:
    """Token ids. `special` adds the tokenizer's special tokens, unless the text already begins with BOS."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=special and not _has_bos(text, tokenizer))
    return ids


def _has_bos(text: str, tokenizer: Any) -> bool:
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
