"""Token ids of a batch are those of one text after the other, whatever the tokenizer; each text is encoded once."""

import subprocess
import sys
import tracemalloc

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from forget_callback import Generation, MultipleChoice, Probe, Recall, Scorer, Text, load_tokenizer
from forget_callback.scoring.likelihood.rendering import bind, context_of
from forget_callback.scoring.likelihood.tokens import Encodings, encode_items, rolling_windows
from tests.conftest import TEMPLATE, TEXT
from tests.helpers import adds_bos
from tests.scoring.likelihood.test_tokens import CONTEXTS, CONTINUATIONS


def trained(model, trainer, *, pre=None, normalizer=None, decoder=None, ends=""):
    """A fast tokenizer, trained on a few lines; `ends` is what it puts around a text."""
    backend = Tokenizer(model)
    if pre is not None:
        backend.pre_tokenizer = pre
    if normalizer is not None:
        backend.normalizer = normalizer
    if decoder is not None:
        backend.decoder = decoder
    backend.train_from_iterator(TEXT * 2, trainer)
    if ends:
        tokens = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
        backend.post_processor = TemplateProcessing(single=ends, special_tokens=tokens)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **names)


SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def unigram(**more):
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    space = pre_tokenizers.Metaspace(prepend_scheme="first")
    return trained(models.Unigram(), trainer, pre=space, decoder=decoders.Metaspace(), **more)


def bpe(**more):
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    return trained(models.BPE(unk_token="<unk>"), trainer, **more)


def word_pieces():
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    how = {"pre": pre_tokenizers.BertPreTokenizer(), "normalizer": normalizers.BertNormalizer()}
    return trained(models.WordPiece(unk_token="<unk>"), trainer, ends="<s> $A </s>", **how)


def words():
    """Refuses a text with a word that it does not know."""
    names = sorted({word for text in [*TEXT, *CONTEXTS, *CONTINUATIONS] for word in text.split()} - {"東京", "hot"})
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*SPECIAL, *names])}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", chat_template="{{ messages[0].content }}"
    )


class Lower(PreTrainedTokenizerFast):
    """Does something to texts that its backend knows nothing of."""

    def encode(self, text, *args, **kwargs):
        return super().encode(text.replace("P", "p"), *args, **kwargs)


def lower(make_tokenizer):
    plain = make_tokenizer()
    return Lower(tokenizer_object=plain.backend_tokenizer, chat_template=TEMPLATE, eos_token="<|im_end|>")


def by_bytes(make_tokenizer):
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def cutting(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    return tokenizer


FAMILIES = {
    "byte-level": lambda make: make(),
    "byte-level that adds BOS": lambda make: adds_bos(make(bos_token="<s>")),
    "byte-level with a BOS that it does not add": lambda make: make(bos_token="<s>"),
    "truncation and padding are on": cutting,
    "merges over spaces": lambda make: bpe(),
    "merges over spaces, adds EOS": lambda make: bpe(ends="$A </s>"),
    "SentencePiece's unigram": lambda make: unigram(),
    "SentencePiece's unigram between BOS and EOS": lambda make: unigram(ends="<s> $A </s>"),
    "composes characters": lambda make: bpe(normalizer=normalizers.NFKC(), pre=pre_tokenizers.Metaspace()),
    "word pieces": lambda make: word_pieces(),
    "refuses words": lambda make: words(),
    "bytes, slow": by_bytes,
    "a class with an encode of its own": lower,
}


@pytest.fixture(scope="module", params=FAMILIES)
def any_family(request, make_tokenizer):
    return FAMILIES[request.param](make_tokenizer)


def items():
    """Every kind with texts that merge, that begin with BOS, that have spaces at the seam or no token of their own."""
    found, texts = [], [text for text in CONTINUATIONS if text.strip()]
    for i, context in enumerate(CONTEXTS):
        found += [MultipleChoice(f"m{i}", context, texts, 2), *([Generation(f"g{i}", context, "x")] if context else [])]
        found += [Recall(f"r{i}-{j}", context, text) for j, text in enumerate(texts)]
    found += [
        MultipleChoice("own", "The", [" hill", " hill", "ris"], 0, contexts=[" fox ran over", " sun ", ""]),
        Recall("several", "The capital of France is", [" Paris", "ris", " the sun"]),
        Text("text", "The capital of France is Paris. " * 9),
        Generation("last", "The capital", "x"),
    ]
    return found


def one_by_one(probe, tokenizer, limit):
    """What `encode_items` gives, by its definition: each text is encoded where it is needed, by `tokenizer.encode`."""

    def encode(text, special=True):
        has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tokenizer.encode(text, add_special_tokens=special and not has_bos)

    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def split(context, text, chat):
        if chat:
            head, whole = encode(context, False), encode(context + text, False)
            return head, whole[len(head) :] if whole[: len(head)] == head else encode(text, False)
        if not (bare := context.rstrip()):
            tail = encode(context + text, False)
            return [first], tail[1:] if tail[:1] == [first] else tail
        head = encode(bare)
        return head, encode(context + text)[len(head) :]

    def recalled(item, context):
        prompt, rows = encode(context, not probe.chat) or [first], []
        for text in [item.answer] if isinstance(item.answer, str) else item.answer:
            text = text.lstrip() if probe.chat else text
            parts = split("", text, False)
            whole = encode(context + text, not probe.chat) if context else parts[0] + parts[1]
            if not text or (not context and len(whole) == len(prompt)):
                raise ValueError("no token of its own after the prompt")
            if len(whole) == len(prompt) or whole[: len(prompt)] != prompt:
                return [], prompt
            rows.append((tuple(whole), len(prompt), True))
        return rows, prompt

    rows, prompts, dropped = [], {}, {}
    for i, item in enumerate(probe.items):
        own, prompt = [], None
        try:
            if isinstance(item, Text):
                _, tail = split("", item.text, False)
                own = [(*window, False) for window in rolling_windows(tail, first, limit)]
            elif isinstance(item, MultipleChoice):
                context = context_of(item, probe, tokenizer)
                for before, text in zip(item.contexts or [""] * 99, item.choices):
                    head, tail = split(context + before, text.lstrip() if probe.chat else text, probe.chat)
                    if not tail:
                        raise ValueError("no token of its own after the prompt")
                    own.append((tuple(head + tail), len(head), False))
            elif isinstance(item, Recall):
                own, prompt = recalled(item, context_of(item, probe, tokenizer))
            else:
                prompt = encode(context_of(item, probe, tokenizer), not probe.chat) or [first]
        except Exception as error:
            whole = str(error).splitlines()[0]
            dropped[i] = whole if whole.startswith("no token") else f"the tokenizer refuses it: {whole}"[:108]
            continue
        rows += [(i, *one) for one in own]
        if prompt is not None and not own:
            prompts[i] = tuple(prompt)
    return rows, prompts, dropped


@pytest.mark.parametrize("size", [300, 2**21])
@pytest.mark.parametrize("chat", [False, True])
def test_batched_ids_are_those_of_one_by_one(any_family, chat, size, monkeypatch):
    monkeypatch.setattr("forget_callback.scoring.likelihood.tokens._CHARACTERS", size)
    probe = bind(Probe("p", items(), chat=chat), any_family)
    found = encode_items(probe, any_family, limit=16)
    rows, prompts, dropped = one_by_one(probe, any_family, 16)
    assert [(row.item, row.tokens, row.n_context, row.greedy) for row in found.rows] == rows
    assert found.prompts == prompts and list(found.prompts) == sorted(prompts)
    assert found.dropped.keys() == dropped.keys()
    assert all(found.dropped[i].startswith(why[:60]) for i, why in dropped.items())
    assert len(rows) > 30 and prompts


def test_batched_ids_of_a_real_tokenizer(smollm2):
    tokenizer = load_tokenizer(smollm2)
    for chat in (False, True):
        probe = bind(Probe("p", items(), chat=chat), tokenizer)
        found, (rows, prompts, _) = encode_items(probe, tokenizer, limit=16), one_by_one(probe, tokenizer, 16)
        assert [(row.item, row.tokens, row.n_context, row.greedy) for row in found.rows] == rows
        assert found.prompts == prompts


def counted(call, *names):
    """How often functions of these names are called."""
    counts = dict.fromkeys(names, 0)

    def count(frame, event, arg):
        name = {"call": frame.f_code.co_name, "c_call": getattr(arg, "__name__", "")}.get(event)
        if name in counts:
            counts[name] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return counts


def choices(n):
    return [
        MultipleChoice(f"{i}", f"Question {i}: who?\nAnswer:", [" Paris", " Rome", " me", " x"], 0) for i in range(n)
    ]


@pytest.mark.parametrize("chat", [False, True])
def test_an_item_is_no_call_of_the_tokenizer(tokenizer, chat):
    for n in (1, 50):
        probe = bind(
            Probe("p", [*choices(n), Text("t", "The capital"), Generation("g", "Who?", "x")], chat=chat), tokenizer
        )
        counts = counted(lambda probe=probe: encode_items(probe, tokenizer), "_encode_plus", "encode_batch_fast")
        assert 1 <= counts["encode_batch_fast"] <= 2
        assert counts["_encode_plus"] == counts["encode_batch_fast"]  # the first text of a batch, with which it agrees


def test_rows_take_eight_bytes_a_token(tokenizer):
    probe = Probe("p", [MultipleChoice(f"{i}", f"{i} é" * 300, [" Paris", " Rome"], 0) for i in range(40)])
    encode_items(probe, tokenizer)
    tracemalloc.start()
    found = encode_items(probe, tokenizer)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 9 * sum(len(row.tokens) for row in found.rows)


def test_truncation_and_padding_stay_as_they_were(make_model, make_tokenizer):
    tokenizer = cutting(make_tokenizer)
    before = tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding
    assert all(before)
    Scorer(tokenizer, Probe("p", choices(3))).score(make_model())
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == before


def test_another_scorer_and_another_order_of_the_items(make_model, tokenizer, monkeypatch):
    """The second baseline scores the same items: nothing is rendered or encoded again, and each item is itself."""
    probe, model = Probe("p", [*choices(4), Recall("r", "The capital of France is", " Paris")]), make_model()
    turned = Probe("p", probe.items[::-1])
    scorer = Scorer(tokenizer, probe)
    (first,) = scorer.score(model)
    again = Scorer(tokenizer, turned, encodings=scorer.encodings).score(model)[0]
    assert list(again.ids[::-1]) == list(first.ids) and again.margin[::-1] == pytest.approx(
        first.margin, abs=1e-4, nan_ok=True
    )
    monkeypatch.setattr(type(tokenizer), "_encode_plus", lambda *args, **kwargs: pytest.fail("encoded again"))
    Scorer(tokenizer, probe, encodings=scorer.encodings, replicate=1, only={"p": ["0", "r"]}).score(model)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        Scorer(tokenizer, probe).score(model)


def test_an_encoding_is_that_of_the_settings_and_of_the_limit(tokenizer):
    items = [Text("t", "The capital of France is Paris. " * 9), Recall("r", "Who?", " me")]
    plain, kept = Probe("p", items), Encodings(tokenizer)
    chat = bind(Probe("p", items, chat=True), tokenizer)
    assert kept.of(plain) is kept.of(Probe("other", items))
    assert kept.of(chat) == encode_items(chat, tokenizer) != kept.of(plain)
    assert len(kept.of(plain, limit=16).rows) > len(kept.of(plain).rows)


FORKED = """
import os, sys
from forget_callback import MultipleChoice, Probe
from forget_callback.demo.tiny import make_tokenizer
from forget_callback.scoring.likelihood.tokens import encode_items
items = [MultipleChoice(str(i), f"Who {i}?", [" me", " you"], 0) for i in range(500)]
tokenizer = make_tokenizer([item.prompt for item in items])
for how in ("one", "all"):
    sys.stderr.write("!")
    if os.fork() == 0:
        tokenizer.encode("Who?") if how == "one" else encode_items(Probe("p", items), tokenizer)
        if os.fork() == 0:
            os._exit(len(tokenizer(["Who?"] * 500)["input_ids"]) != 500)
        os._exit(os.wait()[1] != 0)
    assert os.wait()[1] == 0
"""


def test_a_process_that_is_forked_later_says_no_more_than_after_a_single_text():
    """As the workers of a data loader are; some versions of tokenizers warn then if several threads were used."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, one, batch = done.stderr.split("!")
    assert one == batch
