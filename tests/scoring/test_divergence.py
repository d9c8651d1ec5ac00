"""KL divergence from a baseline on documents, of which the likeliest tokens are kept: against torch's whole KL."""

import copy
import dataclasses
import logging

import numpy as np
import pytest
import torch

from forget_callback import Probe, Text
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood.fallbacks import PATHS
from forget_callback.scoring.likelihood.tokens import encode_items
from forget_callback.snapshots.reference import KEPT, Reference
from forget_callback.snapshots.snapshot import Snapshot
from tests.scoring.architectures import MODELS, tiny
from tests.scoring.test_text import DOCUMENTS, MIXED, PROBE, LargestLogits, document


def later(model, *, by=0.05, seed=0):
    """The model with weights that moved a little."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in moved.parameters():
            weight += by * weight.std() * torch.randn(weight.shape, generator=generator)
    return moved


def whole(model, other, tokenizer, item, limit=256):
    """Mean KL per token with the whole vocabulary, and share of equal argmax, of torch in float64."""
    kl, same, n = 0.0, 0, 0
    for row in encode_items(Probe("p", [item]), tokenizer, limit=limit).rows:
        ids = torch.tensor([row.tokens[:-1]])
        with torch.no_grad():
            p, q = (
                torch.log_softmax(m(input_ids=ids).logits[0, row.n_context - 1 :].double(), -1) for m in (model, other)
            )
        kl += float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum"))
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        n += len(p)
    return kl / n, same / n


def both(model, other, tokenizer, probe=PROBE, **options):
    scorer = Scorer(tokenizer, [probe], **options)
    (first,) = scorer.score(model, keep=True)
    (second,) = scorer.score(other)
    return first, second


def check(model, other, tokenizer, found, probe=PROBE, limit=256):
    expected = np.array([whole(model, other, tokenizer, item, limit) for item in probe.items])
    rounding = 2e-5 + 1e-3 * expected[:, 0]  # of float16, in which log-probabilities are kept
    assert (found.kl <= expected[:, 0] + rounding).all()
    assert (expected[:, 0] <= found.kl + found.kl_error + rounding).all()
    np.testing.assert_allclose(found.top1, expected[:, 1], atol=1e-12)
    return expected[:, 0]


@pytest.mark.parametrize("by", [0.02, 0.3, 2.0])
def test_the_whole_kl_lies_between_what_is_shown_and_that_plus_its_error(make_model, tokenizer, by):
    model = make_model()
    other = later(model, by=by)
    first, second = both(model, other, tokenizer)
    expected = check(model, other, tokenizer, second)
    assert (second.kl > 0.02 * expected).all() and (second.kl_error > 0).all(), "the vocabulary is larger than KEPT"
    assert set(first.kl) == set(first.kl_error) == {0.0} and set(first.top1) == {1.0}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "RecurrentGemma"][::3])
def test_of_a_small_vocabulary_nothing_is_missing(name, tokenizer, monkeypatch):
    monkeypatch.setattr("forget_callback.scoring.group.KEPT", 5000)  # more than there are
    model = tiny(name, vocab_size=len(tokenizer))
    other = later(model)
    probe = Probe("p", PROBE.items[:8])
    _, second = both(model, other, tokenizer, probe)
    limit = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", 2048)
    limit = 2048 if name in ("Mamba", "Mamba2", "Bloom", "Falcon, ALiBi") else limit
    expected = check(model, other, tokenizer, second, probe, limit)
    np.testing.assert_allclose(second.kl, expected, atol=5e-5, rtol=2e-3)
    assert set(second.kl_error) == {0.0}


def test_the_same_model_has_no_divergence(make_model, tokenizer):
    first, second = both(make_model(), make_model(), tokenizer)
    assert second.kl.max() < 1e-6 and set(second.top1) == {1.0}
    np.testing.assert_allclose(second.bits_per_byte, first.bits_per_byte, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_every_path_and_batch_gives_the_same(make_model, tokenizer, path):
    model = make_model()
    other = later(model)
    _, usual = both(model, other, tokenizer)
    scorer = Scorer(tokenizer, [MIXED], batch_tokens=60)
    scorer._prepared(model, False)[0]._scorer.path = path
    scorer.score(model, keep=True)
    (mixed,) = scorer.score(other)
    np.testing.assert_allclose(mixed.kl[1:-2], usual.kl, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(mixed.kl_error[1:-2], usual.kl_error, atol=1e-3, rtol=1e-3)
    np.testing.assert_array_equal(mixed.top1[1:-2], usual.top1)
    assert np.isnan(mixed.kl[[0, -2, -1]]).all(), "choices, recall and generation have none"


def test_logits_far_apart_are_compared_as_well(make_model, tokenizer):
    model = make_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight *= 3000  # exp of the logits overflows: each tile is read with care
    other = later(model, by=0.01)
    _, second = both(model, other, tokenizer)
    expected = check(model, other, tokenizer, second)
    assert np.isfinite(second.kl).all() and expected.max() > 1


def test_a_token_of_probability_zero_leaves_no_bound(make_model, tokenizer):
    model = make_model()
    model.lm_head = torch.nn.Linear(64, len(tokenizer))
    other = copy.deepcopy(model)
    token = tokenizer.encode("🙂")[0]
    with torch.no_grad():
        other.lm_head.bias.zero_()[token] = -torch.inf
        model.lm_head.bias.zero_()[token] = -10  # never among the likely ones, whatever the head is
    _, second = both(model, other, tokenizer, Probe("p", [Text("a", "the fox ran")]))
    assert np.isfinite(second.kl[0]) and np.isnan(second.kl_error[0])


def test_a_snapshot_without_a_reference_has_no_kl(make_model, tokenizer):
    (snapshot,) = Scorer(tokenizer, [PROBE]).score(make_model())
    assert np.isnan(snapshot.kl).all() and np.isnan(snapshot.kl_error).all() and np.isnan(snapshot.top1).all()


def test_looks_are_the_same_with_and_without_a_reference(make_model, tokenizer):
    model = later(make_model())
    (without,) = Scorer(tokenizer, [MIXED]).score(model)
    _, with_it = both(make_model(), model, tokenizer, MIXED)
    for column in ("correct", "choice", "margin", "bits_per_byte"):
        np.testing.assert_array_equal(getattr(with_it, column), getattr(without, column))


def test_logits_of_all_tokens_are_never_held(make_model, tokenizer):
    vocabulary = 5000
    model = make_model(vocab_size=vocabulary, max_position_embeddings=512)
    probe = Probe("p", [Text(f"d{i}", document(160, i)) for i in range(12)])
    n_tokens = sum(len(row.tokens) for row in encode_items(probe, tokenizer, limit=512).rows)
    scorer = Scorer(tokenizer, [probe])
    scorer.score(model, keep=True)
    for keep in (True, False):
        with LargestLogits({1024, vocabulary % 1024, vocabulary}) as seen:
            scorer.score(model, keep=keep)
        # A tile of the rows of a chunk: fewer than 1,024 that wait for the head, and a batch of 2,048 tokens.
        assert 0 < seen.most <= (1024 + 2048) * 1024 < n_tokens * vocabulary / 5


@pytest.fixture
def reference(make_model, tokenizer):
    scorer = Scorer(tokenizer, [PROBE])
    (snapshot,) = scorer.score(make_model(), keep=True)
    return scorer.references["docs"], snapshot


def test_what_was_kept_is_read_back_and_gives_the_same_numbers(reference, make_model, tokenizer, tmp_path):
    kept, snapshot = reference
    kept.save(tmp_path / "r.parquet")
    snapshot.save(tmp_path / "s.parquet")
    read = Reference.load(tmp_path / "r.parquet").require_of(Snapshot.load(tmp_path / "s.parquet"), "it")
    found = [
        Scorer(tokenizer, [PROBE], references={"docs": one}).score(later(make_model()))[0].kl for one in (kept, read)
    ]
    np.testing.assert_array_equal(*found)
    assert [len(windows) for windows in read.documents.values()] == [
        -(-len(tokenizer.encode(text)) // 256) for text in DOCUMENTS
    ]


def test_a_token_takes_less_than_two_hundred_bytes(make_model, make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    model = make_model(vocab_size=8_000)
    probe = Probe("docs", [Text(f"d{i}", document(60, i)) for i in range(20)])
    scorer = Scorer(tokenizer, [probe])
    scorer.score(model, keep=True)
    scorer.references["docs"].save(tmp_path / "r.parquet")
    tops = [window.top for windows in scorer.references["docs"].documents.values() for window in windows]
    n_tokens = sum(len(top.rest) for top in tops)
    assert {top.tokens.shape[1] for top in tops} == {KEPT}
    assert (tmp_path / "r.parquet").stat().st_size < 200 * n_tokens


@pytest.mark.parametrize("part", [0.2, 0.7, 0.99])
def test_a_cut_file_is_said_to_be_damaged(reference, tmp_path, part):
    reference[0].save(tmp_path / "r.parquet")
    content = (tmp_path / "r.parquet").read_bytes()
    (tmp_path / "r.parquet").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"r.parquet is damaged"):
        Reference.load(tmp_path / "r.parquet")


def test_a_reference_of_another_model_or_probe_is_refused(reference, make_model, tokenizer):
    kept, snapshot = reference
    (other,) = Scorer(tokenizer, [PROBE]).score(later(make_model()))
    with pytest.raises(ValueError, match="it is of another model than the snapshot of step 0"):
        kept.require_of(other, "it")
    with pytest.raises(ValueError, match="it is of another probe"):
        dataclasses.replace(kept, fingerprint="x").require_of(snapshot, "it")


def test_documents_that_are_tokenized_otherwise_are_not_compared(reference, make_model, make_tokenizer, caplog):
    with_bos = make_tokenizer(bos_token="<|bos|>")
    model = make_model(vocab_size=len(with_bos))
    with caplog.at_level(logging.WARNING):
        (found,) = Scorer(with_bos, [PROBE], references={"docs": reference[0]}).score(model)
    assert np.isnan(found.kl).all() and np.isfinite(found.bits_per_byte).all()
    assert "10 of 10 documents have no KL: they are tokenized otherwise than at the baseline" in caplog.text
