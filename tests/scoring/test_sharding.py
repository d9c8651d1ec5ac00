"""Ranks share work by what it costs: every item on one of them, none with much more to do than another."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from forget_callback import Generation, MultipleChoice, Probe, Recall
from forget_callback.scoring.generation.generate import TextGenerator
from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
from forget_callback.scoring.likelihood.forward import likelihoods
from forget_callback.scoring.likelihood.plan import Chunk, plan
from forget_callback.scoring.likelihood.tokens import encode_items
from forget_callback.scoring.models import head_cost
from forget_callback.scoring.sharding import RankShard
from tests.scoring.architectures import tiny

WORDS = ["over", "the", "hill", "and", "through", "a", "forest", "until", "rain", "which", "fox", "ran", "sang"]


def shares(items, count, *args):
    """What each rank does."""
    return [RankShard(rank, count).select(items, *args) for rank in range(count)]


def imbalance(loads):
    """The largest over the mean."""
    return max(loads) * len(loads) / sum(loads)


@settings(max_examples=50, deadline=None)
@given(costs=st.lists(st.integers(1, 50), max_size=40), count=st.integers(1, 8))
def test_every_item_is_on_one_rank_and_none_has_more_than_a_small_item_more(costs, count):
    items = list(range(len(costs)))
    found = shares(items, count, costs.__getitem__)
    assert all(own == sorted(own) for own in found)
    if len(items) < count:  # a rank without an item takes the first, redundantly
        assert sorted(map(tuple, found)) == sorted([(i,) for i in items] + [tuple(items[:1])] * (count - len(items)))
        return
    assert sorted(at for own in found for at in own) == items
    loads = [sum(costs[at] for at in own) for own in found]
    # What is given out last is no larger than any that is given out before, and goes where there is least.
    largest = sorted(costs, reverse=True)
    assert max(loads) <= max(largest[0], sum(costs) / count + max([0, *largest[count:]]))


def test_what_items_share_is_done_by_few_ranks():
    """Two prefixes of 100 tokens on two ranks: each forwards one."""
    items = [(prefix, n) for n in range(20) for prefix in "ab"]
    found = shares(items, 2, lambda item: 10, lambda item: {item[0]: 100})
    assert [{prefix for prefix, _ in own} for own in found] == [{"a"}, {"b"}]


def questions(n, words):
    """Choices after passages of these many words, each another one."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, int(size)).tolist()) for size in np.linspace(*words, n)]
    return [
        MultipleChoice(f"{i}-{words}", f"{i} {text} which of the", [" fox", " sun"], 0) for i, text in enumerate(texts)
    ]


def recalls(n):
    return [Recall(f"r{i}", f"{i}: Once upon a", " time there was a fox") for i in range(n)]


PROBES = {
    "mixed": [*questions(500, (30, 60)), *recalls(400), *questions(60, (80, 200))],
    "long": questions(60, (60, 800)),
    "passages": questions(60, (80, 200)),
    "recall": recalls(400),
    "few-shot": [
        MultipleChoice(f"{i}", f"{' '.join(WORDS * 8)}\n{i} which of the", [" fox", " hill over"], 0)
        for i in range(300)
    ],
}


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", PROBES)
def test_ranks_have_the_same_work_down_to_small_probes(tokenizer, name, count):
    chunks = plan(encode_items(Probe("p", PROBES[name]), tokenizer).rows, 2048)
    loads = []
    for own in shares(chunks, count, partial(Chunk.cost, head=0.3), lambda chunk: chunk.prefixes):
        batches = [batch for chunk in own for batch in chunk.batches]
        prefixes = sum(map(len, {batch.prefix for batch in batches}))
        loads.append(sum(batch.ids.size + 0.3 * len(batch.scored) for batch in batches) + prefixes)
    assert imbalance(loads) <= {"mixed": 1.1}.get(name, 1.3)


def test_a_chunk_is_larger_where_the_head_is_large(tokenizer):
    """Each chunk reads all weights of the head."""
    rows = encode_items(Probe("p", PROBES["recall"]), tokenizer).rows
    sizes = [
        [sum(b.ids.size for b in chunk.batches) for chunk in plan(rows, 2048, head=head)] for head in (0.0, 0.3, 1.5)
    ]
    assert sizes[0] == sizes[1] and max(sizes[0]) <= 1000
    assert len(sizes[2]) < len(sizes[0]) and min(sizes[2][:-1]) >= 1500


@torch.no_grad()
@pytest.mark.parametrize("count", [2, 8])
def test_ranks_together_find_what_one_finds_bit_for_bit(tokenizer, count):
    model, rows = tiny("Llama", vocab_size=len(tokenizer)), encode_items(Probe("p", PROBES["passages"]), tokenizer).rows
    scorer = LikelihoodScorer(rows)
    expected = [one.logprob for one in scorer.score(model, budget=2048)]
    head, found = head_cost(model), {}
    chunks = plan(rows, 2048, head=head)
    for own in shares(chunks, count, partial(Chunk.cost, head=head), lambda chunk: chunk.prefixes):
        found |= likelihoods(model, own, scorer.path, scorer.dtype)
    assert [found[i].logprob for i in range(len(rows))] == expected


def test_a_head_costs_what_its_weights_are_to_the_decoders():
    for tied in (True, False):
        model = tiny("Llama", tie_word_embeddings=tied)
        decoder = sum(
            p.numel() for name, p in model.named_parameters() if "embed" not in name and "lm_head" not in name
        )
        assert head_cost(model) == pytest.approx(90 * 32 / decoder)


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_generate_as_much_whatever_their_prompts_limits_and_samples_are(tokenizer, count):
    items = [
        Generation(
            f"{i}", " ".join(WORDS[: i % 9 + 1] * (i % 5 + 1)), "x", max_new_tokens=5 + i * i % 40, samples=i % 4 + 1
        )
        for i in range(60)
    ]
    prompts = [tuple(tokenizer.encode(item.prompt)) for item in items]
    generator = TextGenerator(Probe("p", items, temperature=1.0), items, prompts)
    found = [generator._share(range(len(items)), RankShard(rank, count), "loop") for rank in range(count)]
    assert sorted(at for own in found for at in own) == list(range(len(items)))
    loads = [sum(len(prompts[at]) + items[at].samples * items[at].max_new_tokens for at in own) for own in found]
    assert imbalance(loads) <= 1.1


@pytest.mark.parametrize("shard, backend", [((3, True), "loop"), ((3, False), "vllm")])
def test_ranks_that_keep_step_get_as_many_items(tokenizer, shard, backend):
    items = [Generation(f"{i}", "Once upon", "x", max_new_tokens=5 + 90 * (i == 0)) for i in range(10)]
    generator = TextGenerator(Probe("p", items), items, [(5, 6)] * len(items))
    count, lockstep = shard
    found = [len(generator._share(range(10), RankShard(rank, count, lockstep), backend)) for rank in range(count)]
    assert found == [4, 3, 3]
