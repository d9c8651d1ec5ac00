"""Bits per byte of documents: against one plain forward pass a window, and against lm-eval's rolling log-likelihood."""

import logging
import math
import random

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from forget_callback import Generation, MultipleChoice, Probe, Recall, Text, score_probe
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood import plain
from forget_callback.scoring.likelihood.fallbacks import PATHS
from forget_callback.scoring.likelihood.plan import plan
from forget_callback.scoring.likelihood.tokens import Continuation, encode_items
from tests.helpers import adds_bos, log_probabilities
from tests.scoring.architectures import EXPECTED_PATHS, MODELS, TREE, tiny
from tests.scoring.test_memory import Memory

WORDS = [
    "the",
    "fox",
    "ran",
    "over",
    "a",
    "hill",
    "Once",
    "capital",
    "of",
    "France",
    "Señor",
    "数学",
    "π≈3.14",
    "🙂",
    "\n\n",
]


def document(n, seed=0):
    return " ".join(random.Random(f"{n}/{seed}").choices(WORDS, k=n))


# One token, a few, bytes of several a character, and longer than the 64 and 256 tokens of the models here.
DOCUMENTS = ["a", "x\n", "数", "🙂🙂", "The capital of France is Paris.", *(document(n) for n in (3, 9, 20, 60, 140))]
PROBE = Probe("docs", [Text(f"d{i}", text, "ab"[i % 2]) for i, text in enumerate(DOCUMENTS)])
MIXED = Probe(
    "mixed",
    [
        MultipleChoice("c", "Which of", [" fox", " hill"], 0),
        *PROBE.items,
        Recall("r", "Once upon a", " time"),
        Generation("g", "The capital", "x", max_new_tokens=3),
    ],
)


def by_definition(model, tokenizer, text, limit):
    """Bits per byte with lm-eval's own windows, and one unpadded forward pass in float64 for each."""
    utils = pytest.importorskip("lm_eval.utils")
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    tokens = tokenizer.encode(text, add_special_tokens=False)
    logprob = 0.0
    for context, continuation in map(
        utils.make_disjoint_window, utils.get_rolling_token_windows(tokens, prefix, limit, context_len=1)
    ):
        table = log_probabilities(model, [*context, *continuation][:-1])[len(context) - 1 :]
        logprob += float(table[range(len(continuation)), continuation].sum())
    return -logprob / math.log(2) / len(text.encode("utf-8"))


def of_lm_eval(lm, probe):
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    requests = [instance("loglikelihood_rolling", {}, (item.text,), 0) for item in probe.items]
    found = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    return [-total / math.log(2) / item.n_bytes for total, item in zip(found, probe.items)]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("Mamba", "Mamba2", "Bloom", "Falcon, ALiBi")])
def test_equals_plain_forward_passes_on_every_architecture(name, tokenizer):
    model = tiny(name, vocab_size=len(tokenizer))
    snapshot = score_probe(model, tokenizer, PROBE)
    limit = 2048 if name == "RecurrentGemma" else 64  # it has no limit of its own
    expected = [by_definition(model, tokenizer, text, limit) for text in DOCUMENTS]
    np.testing.assert_allclose(snapshot.bits_per_byte, expected, atol=1e-5, rtol=0)
    assert snapshot.metadata["likelihood"] == EXPECTED_PATHS.get(name, TREE)


@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "Bloom", "Falcon, ALiBi"])
def test_a_model_without_a_limit_is_read_in_windows_of_2048_tokens(name, tokenizer):
    model, long = tiny(name, vocab_size=len(tokenizer)), document(1100)
    assert 2048 < len(tokenizer.encode(long)) < 2 * 2048
    snapshot = score_probe(model, tokenizer, Probe("p", [Text("a", DOCUMENTS[7]), Text("b", long)]))
    expected = [by_definition(model, tokenizer, text, 2048) for text in (DOCUMENTS[7], long)]
    np.testing.assert_allclose(snapshot.bits_per_byte, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("budget", [40, 2048])
def test_every_path_gives_the_same(make_model, tokenizer, path, budget):
    model = make_model()
    expected = [by_definition(model, tokenizer, text, 256) for text in DOCUMENTS]
    scorer = Scorer(tokenizer, [MIXED], batch_tokens=budget)
    scorer._prepared(model, False)[0]._scorer.path = path
    (snapshot,) = scorer.score(model)
    np.testing.assert_allclose(snapshot.bits_per_byte[1:-2], expected, atol=1e-5, rtol=0)
    assert np.isnan(snapshot.bits_per_byte[[0, -2, -1]]).all()


@pytest.mark.parametrize("special", [{}, {"bos_token": "<|bos|>"}], ids=["without BOS", "with BOS"])
def test_equals_lm_evals_rolling_log_likelihood(make_tokenizer, make_model, make_hflm, special):
    tokenizer = make_tokenizer(**special)
    model = make_model(vocab_size=len(tokenizer))
    found = score_probe(model, tokenizer, PROBE).bits_per_byte
    np.testing.assert_allclose(found, of_lm_eval(make_hflm(model, tokenizer), PROBE), atol=1e-5, rtol=0)


def test_a_tokenizer_that_puts_bos_itself_gets_one(make_tokenizer, make_model):
    """lm-eval scores a second BOS after the first there, unless it is told to put none."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    tokenizer = adds_bos(make_tokenizer(bos_token="<|bos|>"))
    model = make_model(vocab_size=len(tokenizer))
    found = score_probe(model, tokenizer, PROBE).bits_per_byte
    np.testing.assert_allclose(found, [by_definition(model, tokenizer, text, 256) for text in DOCUMENTS], atol=1e-5)
    lm = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, add_bos_token=False)
    np.testing.assert_allclose(found, of_lm_eval(lm, PROBE), atol=1e-5, rtol=0)


def test_a_text_is_measured_and_has_no_answer(make_model, tokenizer, tmp_path):
    snapshot = score_probe(make_model(), tokenizer, PROBE)
    assert set(snapshot.correct) == {1.0} and set(snapshot.outcome) == {"correct"}
    assert set(snapshot.choice) == {-1} and set(snapshot.kind) == {"text"} and np.isinf(snapshot.n_choices).all()
    assert np.isnan(snapshot.margin).all() and set(snapshot.prediction) == {None} and set(snapshot.text) == {None}
    assert not any(len(scores) for scores in snapshot.scores)
    snapshot.save(tmp_path / "s.parquet")
    np.testing.assert_array_equal(type(snapshot).load(tmp_path / "s.parquet").bits_per_byte, snapshot.bits_per_byte)


def test_choices_and_recall_are_scored_as_without_documents_beside_them(make_model, tokenizer):
    others = Probe("mixed", [item for item in MIXED.items if not isinstance(item, Text)])
    alone, beside = (score_probe(make_model(), tokenizer, probe) for probe in (others, MIXED))
    rows = [0, -2, -1]
    np.testing.assert_array_equal(beside.correct[rows], alone.correct)
    np.testing.assert_allclose(beside.margin[rows], alone.margin, atol=1e-5)


def test_documents_go_through_no_chat_template(make_model, tokenizer):
    plain, chat = (
        score_probe(make_model(), tokenizer, Probe("mixed", MIXED.items, chat=value)) for value in (False, True)
    )
    np.testing.assert_allclose(plain.bits_per_byte, chat.bits_per_byte, atol=1e-6)
    assert plain.margin[0] != chat.margin[0]


@pytest.mark.parametrize("limit", [1, 2, 5, 64])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 6, 10, 11, 63, 64, 65, 129])
def test_each_token_of_a_document_is_in_one_window(make_tokenizer, n, limit):
    tokenizer = make_tokenizer(bos_token="<|bos|>")
    text = "🙂" * n
    tokens = tokenizer.encode(text)
    rows = encode_items(Probe("p", [Text("a", text)]), tokenizer, limit=limit).rows
    assert [token for row in rows for token in row.tokens[row.n_context :]] == tokens
    assert all(1 <= row.n_context < len(row.tokens) <= limit + 1 for row in rows)
    assert rows[0].tokens[0] == tokenizer.bos_token_id
    assert all(len(row.tokens) == limit + 1 for row in rows[1:]), "the last window is filled up with context"


class LargestLogits(TorchDispatchMode):
    """The most numbers in a tensor over the vocabulary, or a part of it, that was ever made."""

    def __init__(self, widths):
        super().__init__()
        self.widths, self.most = widths, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, torch.Tensor) and one.ndim and one.shape[-1] in self.widths and not one._is_view():
                self.most = max(self.most, one.numel())
        return found


def test_logits_of_all_tokens_are_never_held(make_model, tokenizer, monkeypatch):
    vocabulary, n = 5000, 20
    monkeypatch.setattr(plain, "MAX_LOGITS", 40 * vocabulary)  # so that the self-check is of parts as well
    model = make_model(vocab_size=vocabulary, max_position_embeddings=512)
    probe = Probe("p", [Text(f"d{i}", document(160, i)) for i in range(n)])
    expected = by_definition(model, tokenizer, probe.items[0].text, 512)
    n_tokens = sum(len(row.tokens) for row in encode_items(probe, tokenizer, limit=512).rows)
    with LargestLogits({1024, vocabulary % 1024, vocabulary}) as seen:
        snapshot = score_probe(model, tokenizer, probe)
    assert snapshot.metadata["likelihood"] == TREE
    assert snapshot.bits_per_byte[0] == pytest.approx(expected, abs=1e-5)
    # A tile of the scored tokens of a batch, and of less than 1,024 from before it.
    assert 0 < seen.most <= (2048 + 1024) * 1024 < n_tokens * vocabulary / 10


@pytest.mark.parametrize("name", ["Llama", "Gemma2, window, own attention", "Qwen3Next"])
def test_the_self_check_in_parts_is_that_of_the_whole(name, tokenizer, monkeypatch):
    model = tiny(name, vocab_size=len(tokenizer))
    rows = encode_items(PROBE, tokenizer, limit=64).rows
    with torch.no_grad():
        whole = [plain._plain(model, row, torch.float32) for row in rows]
        monkeypatch.setattr(plain, "MAX_LOGITS", 7 * len(tokenizer))
        parts = [plain._plain(model, row, torch.float32) for row in rows]
    np.testing.assert_allclose(parts, whole, atol=1e-4)


def test_out_of_memory_halves_the_batches_and_changes_nothing(make_model, tokenizer, caplog):
    probe = Probe("p", [*PROBE.items, *(Text(f"like {i}", f"{i:02} {document(30)}") for i in range(12))])
    usual = score_probe(make_model(), tokenizer, probe)
    model = make_model()
    memory = Memory(model, 300)
    with caplog.at_level(logging.WARNING):
        snapshot = score_probe(model, tokenizer, probe, batch_tokens=1600)
    assert max(memory.sizes) > 300 and snapshot.metadata["batch_tokens"] <= 400
    assert "out of memory while scoring a probe" in caplog.text
    np.testing.assert_allclose(snapshot.bits_per_byte, usual.bits_per_byte, atol=1e-5)


def test_a_document_that_memory_does_not_hold_costs_no_other(make_model, tokenizer, caplog):
    usual = score_probe(make_model(), tokenizer, PROBE)
    model = make_model()
    Memory(model, 200)  # windows are of 256 tokens
    snapshot = score_probe(model, tokenizer, PROBE)
    lengths = np.array([len(tokenizer.encode(text)) for text in DOCUMENTS])
    np.testing.assert_array_equal(np.isnan(snapshot.bits_per_byte), lengths > 200)
    np.testing.assert_array_equal(np.isnan(snapshot.correct), lengths > 200)
    kept = lengths <= 200
    np.testing.assert_allclose(snapshot.bits_per_byte[kept], usual.bits_per_byte[kept], atol=1e-5)
    assert "too large for memory" in caplog.text and snapshot.metadata["not_scored"] == {"too large for memory": 1}


def test_a_document_whose_logits_are_nan_leaves_the_others(make_model, tokenizer, caplog):
    probe = Probe("p", [Text("bad", "the 🙂 fox"), Text("good", "the fox")])
    usual = score_probe(make_model(), tokenizer, probe)
    model = make_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.load_state_dict({**make_model().state_dict(), "lm_head.weight": make_model().lm_head.weight})
        model.model.embed_tokens.weight[max(set(tokenizer.encode("🙂")) - set(tokenizer.encode("the fox")))] = torch.nan
    found = score_probe(model, tokenizer, probe)
    assert np.isnan(found.bits_per_byte[0]) and np.isnan(found.correct[0]) and found.outcome[0] is None
    assert found.bits_per_byte[1] == pytest.approx(usual.bits_per_byte[1], abs=1e-5)
    assert "1 of 2 items is not scored: bad (its logits are NaN)" in caplog.text


def test_a_document_with_a_token_that_the_model_does_not_have_leaves_the_others(make_model, tokenizer, caplog):
    token = max(tokenizer.encode("The capital of France"))
    assert max(tokenizer.encode("zq")) < token
    probe = Probe("p", [Text("bad", "The capital of France"), Text("good", "zq")])
    found = score_probe(make_model(vocab_size=token), tokenizer, probe)
    assert np.isnan(found.bits_per_byte[0]) and np.isfinite(found.bits_per_byte[1])
    assert f"bad (a token that is not among the model's {token})" in caplog.text


@pytest.mark.parametrize("budget", [1024, 2048])
def test_few_documents_of_unlike_length_are_padded_little(budget):
    rng = random.Random(budget)
    rows = [Continuation(i, (1, *rng.choices(range(2, 90), k=rng.randint(20, 600))), 1) for i in range(40)]
    batches = [batch for chunk in plan(rows, budget) for batch in chunk.batches]
    n_tokens = sum(len(row.tokens) - 1 for row in rows)
    assert n_tokens > 0.93 * sum(batch.ids.size for batch in batches)
    assert max(batch.ids.size for batch in batches) <= budget
    assert sorted(i for batch in batches for i in batch.continuations) == list(range(40))


def test_long_documents_need_no_mask_and_short_ones_share_rows(make_model, tokenizer):
    """A mask of a long document would take the square of its length."""
    model = make_model()
    seen = []
    model.model.register_forward_pre_hook(
        lambda module, args, given: seen.append((given["input_ids"].shape, given["attention_mask"])), with_kwargs=True
    )
    scorer = Scorer(tokenizer, [Probe("p", [Text(f"d{i}", document(90 + i, i)) for i in range(9)])])
    for _ in range(2):
        seen.clear()
        scorer.score(model)
    assert seen and all(mask is None for _, mask in seen)
    short = Probe("p", [Text(f"d{i}", document(3 + i % 30, i)) for i in range(200)])
    n_tokens = sum(len(row.tokens) - 1 for row in encode_items(short, tokenizer).rows)
    scorer = Scorer(tokenizer, [short])
    for _ in range(2):
        seen.clear()
        scorer.score(model)
    assert sum(shape.numel() for shape, _ in seen) < 1.1 * n_tokens, "batches are well filled"


def test_a_token_of_probability_zero_is_not_scored_as_infinite(make_model, tokenizer, caplog):
    model = make_model()
    model.lm_head = torch.nn.Linear(64, len(tokenizer))
    token = tokenizer.encode("x")[0]
    with torch.no_grad():
        model.lm_head.bias.zero_()[token] = -torch.inf
    snapshot = score_probe(model, tokenizer, Probe("p", [Text("a", "x"), Text("b", "the fox")]))
    assert np.isnan(snapshot.bits_per_byte[0]) and np.isfinite(snapshot.bits_per_byte[1])
    assert "a (a token of probability 0)" in caplog.text


def test_a_tokenizer_without_a_first_token_says_what_to_set(make_model, make_tokenizer, caplog):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    snapshot = score_probe(make_model(), tokenizer, MIXED)
    assert np.isnan(snapshot.bits_per_byte).all() and snapshot.correct[0] in (0.0, 1.0)
    assert "set tokenizer.bos_token" in caplog.text
