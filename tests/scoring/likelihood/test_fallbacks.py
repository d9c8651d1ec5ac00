"""The fastest correct path is found, a wrong one is never used silently, and the model is restored."""

import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from forget_callback.scoring.likelihood.fallbacks import PATHS, LikelihoodScorer
from forget_callback.scoring.likelihood.plain import plain_passes
from forget_callback.scoring.likelihood.tokens import Continuation
from tests.scoring.architectures import SMALL, tiny
from tests.scoring.rows import by_definition, check, mixed_rows, random_rows, rejected, shared_rows

ROWS = mixed_rows(90)


def made(cls, **more):
    """A tiny Llama of another class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(LlamaConfig(**{**SMALL, **more})).eval()


@torch.no_grad()
def found_path(model, rows=ROWS, *, budget=200, tolerance=1e-4):
    """Scores twice, compares with the definition, and returns the scorer."""
    expected = [by_definition(model, row) for row in rows]
    scorer = LikelihoodScorer(rows)
    for _ in range(2):
        check(rows, scorer.score(model, budget=budget), expected, tolerance=tolerance)
    return scorer


# --- models that do not support a path ----------------------------------------------------------------------


class IgnoresMask(LlamaForCausalLM):
    """Silently ignores a 4-D mask."""

    def forward(self, attention_mask=None, **inputs):
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return super().forward(attention_mask=attention_mask, **inputs)


class NoPositions(LlamaForCausalLM):
    """Takes no position ids."""

    def forward(self, input_ids, attention_mask=None, use_cache=None, past_key_values=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, past_key_values=past_key_values
        )


class OwnPositions(LlamaForCausalLM):
    """Computes positions itself, whatever position ids it gets."""

    def forward(self, position_ids=None, **inputs):
        return super().forward(**inputs)


class NoMask(LlamaForCausalLM):
    """Takes no mask at all, like a model that was written for a batch of one."""

    def forward(self, input_ids, use_cache=None):
        return super().forward(input_ids=input_ids, use_cache=use_cache)


class NoHead(LlamaForCausalLM):
    """Has no output embeddings."""

    def get_output_embeddings(self):
        return None


class WrongHead(LlamaForCausalLM):
    """Returns output embeddings that its forward pass does not call."""

    def get_output_embeddings(self):
        if not hasattr(self, "other"):
            self.other = torch.nn.Linear(32, 90, bias=False)
        return self.other


class Capped(LlamaForCausalLM):
    """A soft cap far above the logits of the items: 30, where they are below 0.1."""

    def forward(self, *args, **inputs):
        output = super().forward(*args, **inputs)
        output.logits = 30.0 * torch.tanh(output.logits / 30.0)
        return output


class Noisy(LlamaForCausalLM):
    """Not deterministic: other logits in every forward pass."""

    def forward(self, *args, **inputs):
        output = super().forward(*args, **inputs)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output


@pytest.mark.parametrize(
    "cls, path, reason",
    [
        (IgnoresMask, "rows, tiles", "differs by"),
        (NoPositions, "rows, tiles", "TypeError"),
        (OwnPositions, "rows, tiles", "differs by"),
        (NoMask, "unpadded, all", "TypeError"),
        (NoHead, "rows, all", None),
        (WrongHead, "rows, all", None),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_falls_back_to_the_first_correct_path(cls, path, reason, caplog):
    caplog.set_level(logging.INFO)
    scorer = found_path(made(cls))
    assert str(scorer.path) == path
    assert cls is WrongHead or bool(rejected(caplog)) == (reason is not None)
    assert reason is None or reason in next(iter(rejected(caplog).values()))


def test_a_cap_that_shows_on_large_logits_only_is_left_to_the_model():
    """The untrained model's log-probabilities would be right within rounding, those of a trained one would not."""
    model = made(Capped, initializer_range=0.005)
    assert str(found_path(model).path) == "tree, own"
    with torch.no_grad():
        model.lm_head.weight *= 5000.0
    found_path(model, tolerance=1e-3)


def test_rejected_paths_are_logged(caplog):
    with caplog.at_level(logging.INFO):
        found_path(made(IgnoresMask))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all(s.startswith("scoring path 'tree, ") for s in messages)
    assert all("differs by" in s and "0.001 is allowed" in s for s in messages)


@torch.no_grad()
def test_a_model_that_is_not_deterministic_is_an_error(caplog):
    caplog.set_level(logging.INFO)
    scorer = LikelihoodScorer(ROWS)
    with pytest.raises(
        RuntimeError, match="no scoring path agrees with plain forward passes; check that the model is deterministic"
    ):
        scorer.score(made(Noisy), budget=200)
    assert scorer.path is None and list(rejected(caplog)) == [str(path) for path in PATHS if path.head != "tiles"]


# --- low precision ------------------------------------------------------------------------------------------------


def low(cls, dtype):
    """Logits as large as those of trained models, where a unit in the last place of bfloat16 is an eighth of a nat."""
    model = made(cls, initializer_range=0.1)
    with torch.no_grad():
        model.lm_head.weight *= 6 / float(model(input_ids=torch.arange(3, 60)[None]).logits.std())
    return model.to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls, path", [(LlamaForCausalLM, "tree, tiles"), (IgnoresMask, "rows, tiles")])
def test_rounding_causes_no_fallback_and_a_missing_mask_does(cls, path, dtype, caplog):
    caplog.set_level(logging.INFO)
    model = low(cls, dtype)
    scorer = LikelihoodScorer(ROWS)
    found = scorer.score(model, budget=200)
    assert str(scorer.path) == path and bool(rejected(caplog)) == (cls is IgnoresMask)
    for row, likelihood in zip(ROWS, found, strict=True):
        expected = by_definition(model, row).logprob / (len(row.tokens) - row.n_context)
        assert likelihood.logprob / (len(row.tokens) - row.n_context) == pytest.approx(expected, abs=0.8)


@torch.no_grad()
def test_on_the_plainest_path_a_difference_in_low_precision_is_a_warning(caplog):
    """On the plainest path only rounding can explain a difference."""
    model = made(Noisy).to(torch.bfloat16)
    scorer = LikelihoodScorer(ROWS)
    with caplog.at_level(logging.WARNING):
        scorer.score(model, budget=200)
    assert str(scorer.path) == "unpadded, all"
    (message,) = [record.getMessage() for record in caplog.records]
    assert "differs by" in message and "even without batching, in torch.bfloat16" in message


@torch.no_grad()
def test_an_error_on_the_plainest_path_is_raised():
    model = tiny("Llama")
    model.register_forward_pre_hook(_raise(KeyError("broken")))
    with pytest.raises(KeyError, match="broken"):
        LikelihoodScorer(ROWS).score(model, budget=200)


def _raise(error):
    def hook(*args):
        raise error

    return hook


@torch.no_grad()
def test_the_check_includes_rows_that_need_the_mask():
    """Two options per item; a check of the first options of each trie would not notice a missing mask."""
    rng = np.random.default_rng(0)
    rows = []
    for item in range(10):
        context = tuple(rng.integers(3, 90, 45).tolist())
        first, second = (5, 60) if item < 5 else (60, 5)  # the lower token comes first
        rows += [Continuation(item, (*context, t, 7), 45) for t in (first, second)]
    model = made(IgnoresMask)
    scorer = LikelihoodScorer(rows)
    # A budget for one trie a row, so that no row needs the mask against another.
    check(rows, scorer.score(model, budget=50), [by_definition(model, row) for row in rows])


# --- heads -------------------------------------------------------------------------------------------------------


def test_a_head_with_an_adapter_is_the_models_own_with_the_adapter_on_and_off(caplog):
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny("Llama"), config).eval()
    scorer = found_path(model)
    assert str(scorer.path) == "tree, own" and not rejected(caplog)
    on = [by_definition(model, row).logprob for row in ROWS]
    with model.disable_adapter(), torch.no_grad():
        off = [by_definition(model, row) for row in ROWS]
        check(ROWS, scorer.score(model, budget=200), off)
    assert not np.allclose(on, [one.logprob for one in off], atol=0.1)


def test_adapters_elsewhere_leave_the_head_a_matrix():
    torch.manual_seed(0)
    model = get_peft_model(tiny("Llama"), LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM")).eval()
    scorer = found_path(model)
    assert str(scorer.path) == "tree, tiles"
    with model.disable_adapter(), torch.no_grad():
        check(ROWS, scorer.score(model, budget=200), [by_definition(model, row) for row in ROWS])


class _Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_head_with_a_parametrization_is_the_models_own():
    model = tiny("Llama")
    torch.nn.utils.parametrize.register_parametrization(model.lm_head, "weight", _Doubled())
    assert str(found_path(model).path) == "tree, own"


def test_a_head_with_a_hook_is_the_models_own():
    model = tiny("Llama")
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)
    assert str(found_path(model).path) == "tree, own"


def test_a_head_of_another_class_is_the_models_own():
    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return 0.5 * super().forward(x)

    model = tiny("Llama")
    head = Scaled(32, 90, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    assert str(found_path(model).path) == "tree, own"


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "GPT-2"])
def test_tied_embeddings_are_a_matrix(name):
    model = tiny(name, tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert str(found_path(model).path) == "tree, tiles"


def test_a_head_of_another_dtype_than_the_body():
    """As where a trainer keeps the head in float32: the model casts, or its own code is called."""
    model = tiny("Llama", initializer_range=0.1).to(torch.bfloat16)
    model.lm_head.to(torch.float32)
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    scorer = LikelihoodScorer(ROWS)
    with torch.no_grad():
        found = scorer.score(model, budget=200)
        for row, likelihood in zip(ROWS, found, strict=True):
            n = len(row.tokens) - row.n_context
            assert likelihood.logprob == pytest.approx(by_definition(model, row).logprob, abs=0.05 * n)


# --- attention implementations without 4-D masks --------------------------------------------------------------


def picky(module, query, key, value, attention_mask, **more):
    """Stands for flash attention."""
    if attention_mask is not None and attention_mask.ndim == 4:
        raise ValueError("no 4-D mask")
    return sdpa_attention_forward(module, query, key, value, _causal(query, attention_mask), is_causal=False, **more)


def _causal(query, attention_mask):
    n = query.shape[2]
    seen = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
    return seen if attention_mask is None else seen & attention_mask[:, None, None, :].bool()


def two_dimensional(*args, attention_mask=None, **more):
    """The mask that flash attention gets."""
    return attention_mask


@pytest.fixture
def picky_attention():
    AttentionInterface.register("picky", picky)
    AttentionMaskInterface.register("picky", two_dimensional)
    yield "picky"
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop("picky")


def test_attention_without_4d_masks_is_replaced_for_a_tree(picky_attention, caplog):
    caplog.set_level(logging.INFO)
    model = tiny("Llama", attn_implementation=picky_attention)
    assert model.config._attn_implementation == "picky"
    with pytest.raises(ValueError, match="no 4-D mask"):
        model(input_ids=torch.tensor([[5, 6]]), attention_mask=torch.zeros(1, 1, 2, 2))
    scorer = found_path(model, [*random_rows(8, 90), *shared_rows(4, 90, depth=5)])
    assert str(scorer.path) == "tree, tiles" and not rejected(caplog)
    assert model.config._attn_implementation == "picky"


@pytest.mark.parametrize("name, value", [("_attn_implementation", "picky"), ("output_router_logits", True)])
def test_the_config_is_restored_after_an_error(picky_attention, name, value):
    model = tiny("Mixtral, router logits", attn_implementation=picky_attention)
    scorer = LikelihoodScorer(ROWS)
    with torch.no_grad():
        scorer.score(model, budget=200)
    assert str(scorer.path) == "tree, tiles" and getattr(model.config, name) == value
    during = []

    def fail(module, args, kwargs):
        during.append(getattr(module.config, name))
        raise KeyError("broken")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(KeyError, match="broken"), torch.no_grad():
        scorer.score(model, budget=200)
    assert getattr(model.config, name) == value and during[0] != value
    assert not model.lm_head._forward_pre_hooks and not model.lm_head._forward_hooks


# --- what runs when -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_check_runs_at_first_use_only():
    model, scorer, seen = tiny("Llama"), LikelihoodScorer(ROWS), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    scorer.score(model, budget=10**6)
    first, seen[:] = list(seen), []
    scorer.score(model, budget=10**6)
    second = list(seen)
    extra = first[: len(first) - len(second)]
    assert first[len(extra) :] == second
    # One token for the dtype, two short texts for causality, one token for what becomes of the logits; plain forward
    # passes, the same rows as a batch; one token for its size in the cache, then the batches.
    assert [*extra[:4], extra[-1]] == [(1, 1), (1, 2), (1, 2), (1, 1), (1, 1)]
    plain, few = extra[4:-2], extra[-2]
    assert 4 <= len(plain) <= 10 and max(plain) == (1, max(len(row.tokens) for row in ROWS) - 1)
    assert few.numel() <= sum(shape.numel() for shape in plain)


@torch.no_grad()
def test_the_check_includes_rows_of_contexts_that_share_a_trie():
    """Of 400 rows few have a prefix with another in common; transformers itself keeps sequences in one row apart."""
    rows = random_rows(400, 90)
    model = made(IgnoresMask)
    check(rows, LikelihoodScorer(rows).score(model, budget=200), [by_definition(model, row) for row in rows])


@torch.no_grad()
@pytest.mark.parametrize("cls, n_rejected", [(IgnoresMask, 2), (NoMask, 5)])
def test_a_rejected_path_costs_a_few_rows(cls, n_rejected, caplog):
    caplog.set_level(logging.INFO)
    model, scorer, seen = made(cls), LikelihoodScorer(random_rows(400, 90)), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scorer.score(model, budget=200)
    first = sum(seen)
    seen.clear()
    scorer.score(model, budget=200)
    assert len(rejected(caplog)) == n_rejected and first < 1.3 * sum(seen)


@torch.no_grad()
@pytest.mark.parametrize("memory", [9, 30, 58])
def test_a_smaller_row_stands_in_for_one_that_memory_does_not_hold(memory):
    rows = [Continuation(i, (*range(3, 8 + i), 5), 5 + i) for i in range(60)]
    model = tiny("Llama", max_position_embeddings=128)
    lengths = []

    def allocate(module, args, kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        if lengths[-1] > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.register_forward_pre_hook(allocate, with_kwargs=True)
    found = plain_passes(model, rows, torch.float32)
    handle.remove()
    longest = max(len(rows[i].tokens) - 1 for i in found.logprobs)
    assert memory / 2 < longest <= memory and sum(length > memory for length in lengths) <= 4
    for i, logprob in found.logprobs.items():
        assert logprob == pytest.approx(by_definition(model, rows[i]).logprob, abs=1e-4)


@torch.no_grad()
def test_plain_forward_passes_compute_logits_of_scored_tokens_only():
    model, sizes = tiny("Llama"), []
    model.lm_head.register_forward_hook(lambda module, args, output: sizes.append(output.shape[:-1].numel()))
    checked = plain_passes(model, ROWS, torch.float32).logprobs
    assert sorted(sizes) == sorted(len(ROWS[i].tokens) - ROWS[i].n_context for i in checked)


@torch.no_grad()
def test_changed_weights_change_the_scores():
    """Batches and path are kept, log-probabilities are not."""
    model, scorer = tiny("Llama"), LikelihoodScorer(ROWS)
    before = scorer.score(model, budget=200)
    for p in model.parameters():
        p.mul_(1.3)
    after = scorer.score(model, budget=200)
    check(ROWS, after, [by_definition(model, row) for row in ROWS])
    assert not np.allclose([x.logprob for x in before], [x.logprob for x in after], atol=0.1)


@torch.no_grad()
def test_a_replicate_forwards_other_batches_and_gives_the_same():
    model, seen = tiny("Llama"), []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(repr(kwargs["input_ids"].tolist())), with_kwargs=True
    )
    forwards, expected = [], [by_definition(model, row) for row in ROWS]
    for replicate in (0, 0, 1, 2):
        seen.clear()
        check(ROWS, LikelihoodScorer(ROWS, replicate=replicate).score(model, budget=200), expected)
        forwards.append(tuple(seen))
    handle.remove()
    assert forwards[0] == forwards[1] and len(set(forwards)) == 3


@torch.no_grad()
def test_every_snapshot_is_bit_for_bit_the_same():
    model, scorer = tiny("Llama"), LikelihoodScorer(ROWS)
    first, second = scorer.score(model, budget=200), scorer.score(model, budget=200)
    assert [x.logprob for x in first] == [x.logprob for x in second]


@torch.no_grad()
@pytest.mark.parametrize("name", ["Llama", "Mamba"])
def test_rows_of_one_token_of_context(name):
    rows = [Continuation(i, (5 + i, 6), 1, True) for i in range(20)]
    model = tiny(name)
    check(rows, LikelihoodScorer(rows).score(model, budget=7), [by_definition(model, row) for row in rows])
