"""Where a text stops: by its end alone, as by the definition on the whole text."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from forget_callback.scoring.generation.text import GenerationRequest, StopChecker, find_stop

WORDS = [
    "the ",
    "fox",
    ".",
    " .",
    "\n",
    "\n\n",
    " ",
    "é",
    "東京",
    "🦊",
    "</think>",
    "</",
    "think>",
    "<think>",
    "x" * 20,
    "Q:",
]
STOPS = ["\n\n", "Q:", "fox.", "🦊", "京\n", " .", " ", "the fox", "x" * 30, "�", "</think>\n"]


def metaspace():
    """As of Llama 2: bytes for what it does not know, and the first space of a text is dropped."""
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"thefoxnikQ:.<>/é", "▁the", "▁fox", "京"]
    bpe = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=["bytes", "metaspace"])
def checker(request, make_tokenizer):
    return StopChecker(None, make_tokenizer() if request.param == "bytes" else metaspace())


def request_of(prompt=(), *, first_line=False, stop=(), marks=False):
    return GenerationRequest(tuple(prompt), 2**20, first_line, tuple(stop), np.empty(0), marks=marks)


def by_definition(checker, request, tokens, begin=1):
    """How many tokens are generated: up to the first at which the whole text has a stop, or the model's end."""
    for n in range(begin, len(tokens) + 1):
        text = checker.tokenizer.decode(tokens[:n], skip_special_tokens=not request.marks)
        if tokens[n - 1] in checker.eos_ids or find_stop(request, text) is not None:
            return n
    return None


def stopped(checker, request, tokens, begin=1):
    return next((n for n in range(begin, len(tokens) + 1) if checker.should_stop(request, tokens[:n])), None)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_text_stops_where_its_whole_says(checker, data):
    size = len(checker.tokenizer)
    words = data.draw(st.lists(st.sampled_from(WORDS), max_size=40))
    encode = partial(checker.tokenizer.encode, add_special_tokens=False)
    tokens = encode("".join(words)) if data.draw(st.booleans()) else [t for word in words for t in encode(word)]
    for token in data.draw(st.lists(st.integers(0, size - 1), max_size=5)):  # parts of characters, special tokens
        tokens.insert(data.draw(st.integers(0, len(tokens))), token)
    stops = data.draw(st.lists(st.sampled_from(STOPS), max_size=2))
    request = request_of(first_line=data.draw(st.booleans()), stop=stops, marks=data.draw(st.booleans()))
    assert stopped(checker, request, tokens) == by_definition(checker, request, tokens)


@pytest.mark.parametrize("stop", [(), ("fox.",)])
@pytest.mark.parametrize("end", ["</think>\n\nthe fox\n", "fox.</think>", "the\nfox."])
@pytest.mark.parametrize("length", [254, 256, 400])
def test_a_long_thought_stops_where_its_whole_says(checker, stop, end, length):
    encode = partial(checker.tokenizer.encode, add_special_tokens=False)
    begin, end = encode("<think>"), encode(end)
    thought = encode("the fox\n" * length)[: length - len(begin)]
    request, after = request_of(first_line=True, stop=stop), length - 20
    for cut in range(0, len(end), 2):  # the tag lies before, across and after where the state was seen
        tokens = [*begin, *thought[cut:], *end]
        assert stopped(checker, request, tokens, after) == by_definition(checker, request, tokens, after)


@pytest.mark.parametrize(
    "request_", [request_of(stop=["\n\n\n", "Q:"]), request_of(first_line=True)], ids=["stops", "line"]
)
def test_a_long_text_is_not_decoded_again_at_every_line(checker, request_):
    tokens = checker.tokenizer.encode("<think>" + "the fox\n" * 300, add_special_tokens=False)
    decoded, decode = [], checker.tokenizer.decode
    checker.tokenizer.decode = lambda ids, **how: decoded.append(len(ids)) or decode(ids, **how)
    assert stopped(checker, request_, tokens) is None
    del checker.tokenizer.decode
    assert sum(decoded) < 350 * 300 + len(tokens) ** 2 / 256
