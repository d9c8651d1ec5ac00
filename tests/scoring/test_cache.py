"""The preallocated KV cache holds what transformers' own holds and truncates to a prefix."""

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from forget_callback.scoring import cache as kv
from tests.scoring.architectures import tiny

ROWS, HEADS, SIZE, LAYERS = 3, 2, 4, 2


def tokens(n, *, rows=ROWS, seed=0):
    """Keys and values of `n` new tokens, of each layer."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(rows, HEADS, n, SIZE, generator=generator) for _ in range(2)) for _ in range(LAYERS)]


def append(cache, new):
    return [cache.update(keys, values, layer) for layer, (keys, values) in enumerate(new)]


def equal(one, other):
    assert len(one) == len(other)
    for (keys, values), (other_keys, other_values) in zip(one, other):
        assert torch.equal(keys, other_keys) and torch.equal(values, other_values)


@pytest.mark.parametrize("capacity", [None, 5, 9, 100])
def test_updates_are_those_of_the_dynamic_cache(capacity):
    first, ours, theirs = tokens(5), kv.empty(), DynamicCache()
    append(theirs, first)
    if capacity is None:
        append(ours, first)
    else:
        ours = kv.from_pairs(first, capacity)
    length = 5
    for step, n in enumerate([1, 1, 3, 1, 20, 1], start=1):
        new = tokens(n, seed=step)
        equal(append(ours, new), append(theirs, new))
        length += n
        assert ours.get_seq_length() == theirs.get_seq_length() == length
    equal(kv.pairs(ours), [(layer.keys, layer.values) for layer in theirs.layers])


def test_tokens_within_the_capacity_are_not_copied():
    cache = kv.from_pairs(tokens(5), 40)
    at = [keys.data_ptr() for keys, _ in kv.pairs(cache)]
    for step in range(35):
        append(cache, tokens(1, seed=step))
    assert [keys.data_ptr() for keys, _ in kv.pairs(cache)] == at
    append(cache, tokens(1))
    assert [keys.data_ptr() for keys, _ in kv.pairs(cache)] != at


def test_it_truncates_to_its_prefix():
    prefix = tokens(6)
    cache = kv.from_pairs(prefix, 20)
    for step, rows in enumerate([3, 1, 2, 3]):
        kv.truncate(cache, rows, 6)
        equal(kv.pairs(cache), [(keys[:rows], values[:rows]) for keys, values in prefix])
        new = tokens(4, rows=rows, seed=step + 1)
        expected = [
            (torch.cat([k[:rows], more_k], dim=2), torch.cat([v[:rows], more_v], dim=2))
            for (k, v), (more_k, more_v) in zip(prefix, new)
        ]
        equal(append(cache, new), expected)


def test_from_pairs_is_a_copy_with_capacity():
    pairs = tokens(6)
    kept = [(keys.clone(), values.clone()) for keys, values in pairs]
    cache = kv.from_pairs(pairs, 10)
    equal(kv.pairs(cache), kept)
    assert cache.get_seq_length() == 6
    for keys, values in pairs:
        keys.zero_(), values.zero_()
    equal(kv.pairs(cache), kept)
    new = tokens(4, seed=1)
    append(cache, new)
    equal(kv.pairs(cache), [(torch.cat([k, a], 2), torch.cat([v, b], 2)) for (k, v), (a, b) in zip(kept, new)])


def test_from_pairs_copies_an_expanded_row():
    """An expanded prefix, whose rows share memory until they are copied."""
    one = tokens(6, rows=1)
    cache = kv.from_pairs(one, 8, rows=5)
    append(cache, tokens(2, rows=5, seed=1))
    for keys, values in kv.pairs(cache):
        assert keys.shape == values.shape == (5, HEADS, 8, SIZE)
    equal([(k[:1, :, :6], v[:1, :, :6]) for k, v in kv.pairs(cache)], one)
    assert not torch.equal(kv.pairs(cache)[0][0][0], kv.pairs(cache)[0][0][1])


def test_a_cache_with_other_layers_is_refused():
    cache = DynamicCache()
    append(cache, tokens(3))
    with pytest.raises(TypeError, match="does not keep keys and values in the cache that was passed to it"):
        kv.pairs(cache)


def test_a_cache_that_stayed_empty_is_refused():
    """A state-space model takes the cache and leaves it as it was."""
    with pytest.raises(TypeError, match="does not keep keys and values in the cache that was passed to it"):
        kv.pairs(kv.empty())


@torch.no_grad()
@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Mistral, window", "Gemma3, window", "DeepseekV3", "OPT"])
def test_a_model_writes_the_same_with_either(name):
    model = tiny(name)
    ids = torch.randint(3, 90, (2, 20), generator=torch.Generator().manual_seed(0))
    ours, theirs = kv.empty(), DynamicCache(config=model.config)
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 12), (12, 13), (13, 20)):
        logits = [model(input_ids=ids[:, start:end], **kv.argument(model, cache)).logits for cache in (ours, theirs)]
        torch.testing.assert_close(*logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["Llama", "DeepseekV3", "Gemma4, layers differ"])
def test_its_size_is_that_of_the_keys_and_values(name):
    """Latent attention keeps other heads than the config says, and layers of Gemma 4 differ."""
    model, theirs = tiny(name), DynamicCache()
    model(input_ids=torch.arange(3, 8)[None], **kv.argument(model, theirs))
    held = sum(part.nbytes for layer in theirs.layers for part in (layer.keys, layer.values)) // 5
    assert kv.max_tokens(kv.of_prefix(model, (0,)), 1000) == 1000 * 2**17 // held


class Renamed(LlamaForCausalLM):
    """Takes its cache under the name of transformers 5.24."""

    def forward(self, input_ids, cache=None, attention_mask=None, position_ids=None, use_cache=None):
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        return super().forward(input_ids=input_ids, **{OLDER: cache}, **given)


OLDER = next(iter(kv.argument(tiny("Llama"), kv.empty())))


@torch.no_grad()
def test_the_cache_is_passed_under_the_name_that_the_model_gives_it():
    inner, cache = tiny("Llama"), kv.empty()
    inner.__class__ = Renamed
    for model in (inner, torch.nn.Sequential(inner)):  # a wrapper that passes on what it gets
        assert "cache" in kv.argument(model, cache)
    inner(input_ids=torch.tensor([[5, 6, 7]]), **kv.argument(inner, cache))
    assert cache.get_seq_length() == 3


@torch.no_grad()
def test_spare_memory_makes_room_for_more_tokens_and_less_after_oom():
    model = tiny("Llama")
    per_token = 1000 * 2**17 / kv.max_tokens(kv.of_prefix(model, (0,)), 1000)
    assert kv.max_tokens(kv.of_prefix(model, (0,)), 8192, 8 * 2**30) == pytest.approx(8 * 2**30 / per_token, abs=1)
    assert kv.max_tokens(kv.of_prefix(model, (0,)), 4096, 8 * 2**30) == pytest.approx(4 * 2**30 / per_token, abs=1)
    assert kv.max_tokens(kv.of_prefix(model, (0,)), 8192, 2**29) == kv.max_tokens(
        kv.of_prefix(model, (0,)), 8192
    )  # at least the rule's
