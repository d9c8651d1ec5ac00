"""The decoding loop: correct whatever shares a batch, with few wasted rows and little padding."""

import logging
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from transformers import PhimoeConfig, PhimoeForCausalLM, RwkvConfig, RwkvForCausalLM

from forget_callback import Generation, Probe
from forget_callback.scoring import cache as kv
from forget_callback.scoring.generation.generate import BACKENDS, TextGenerator
from forget_callback.scoring.generation.schedule import Schedule
from forget_callback.scoring.progress import PROMPTS, TEXTS
from tests.helpers import greedy
from tests.scoring.architectures import lively, tiny
from tests.scoring.rows import rejected

PREFIX = "Question: which of the following is the opposite of cold? Answer: hot, because the answer is not cold.\n" * 2
WORDS = ["The sun", " fox", "12 apples and 30", "Who?", "over the hill and through the forest", "東京 é", "x y z"]


def items_of(n, *, prefix="", limits=(5, 9, 40, 3, 7, 2, 6, 1), stop=(), match="contains"):
    """Prompts of different lengths, and token limits with a long tail."""
    return [
        Generation(f"{i}", f"{prefix}{WORDS[i % 7]}{i}", "x", match, max_new_tokens=limits[i % len(limits)], stop=stop)
        for i in range(n)
    ]


def make_generator(items, tokenizer, *, samples=1, **settings):
    items = [replace(item, samples=samples) for item in items]
    probe = Probe("p", items, **settings)
    return TextGenerator(probe, items, [tokenizer.encode(item.prompt) for item in items])


@torch.no_grad()
def answers(model, tokenizer, items, *, backend=None, budget=2048, samples=1, **settings):
    """The generated texts of a given backend, or of the one that is found."""
    generator = make_generator(items, tokenizer, samples=samples, **settings)
    generator.backend = backend
    return generator.generate(model, tokenizer, budget=budget)


@pytest.fixture(params=["Llama", "GPT-2", "Mistral, window"])
def model(request, tokenizer):
    longer = {"n_positions": 256} if request.param == "GPT-2" else {"max_position_embeddings": 256}
    return lively(request.param, vocab_size=len(tokenizer), **longer)


@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["", "shared prefix"])
def test_tokens_are_those_of_the_definition_at_every_budget(model, tokenizer, prefix):
    items = items_of(18, prefix=prefix)
    assert not prefix or len(tokenizer.encode(prefix)) >= 32
    expected = [greedy(model, tokenizer.encode(i.prompt), i.max_new_tokens, stops=[2]) for i in items]
    for budget in (1, 300):
        found = answers(model, tokenizer, items, backend="loop", budget=budget)
        assert [list(text.tokens) for (text,) in found] == expected
    for (text,), tokens, item in zip(found, expected, items):
        assert text.finish == ("token" if tokens[-1] == 2 else "length")
        assert text.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert len(tokens) == item.max_new_tokens or tokens[-1] == 2


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}], ids=str)
@pytest.mark.parametrize("stop", [(), ("e", " the")], ids=["", "stops"])
def test_generate_of_the_model_draws_the_same(model, tokenizer, settings, stop):
    items = items_of(14, stop=stop)
    settings = {"budget": 300, "samples": 3, **settings}
    loop, own = (answers(model, tokenizer, items, backend=backend, **settings) for backend in ("loop", "generate"))
    assert [[(text.text, text.finish) for text in s] for s in loop] == [[(t.text, t.finish) for t in s] for s in own]
    for one, other in zip(chain(*loop), chain(*own), strict=True):
        assert other.tokens[: len(one.tokens)] == one.tokens
    finishes = {text.finish for several in loop for text in several}
    assert ("text" in finishes) <= bool(stop) and "length" in finishes
    assert {len(several) for several in loop} == {3 if "temperature" in settings else 1}
    assert all((len({t.tokens for t in s}) > 1) == ("temperature" in settings) for s in loop if len(s[0].tokens) > 6)


def test_generate_of_the_model_has_the_same_tokens_where_a_text_ends_them(tokenizer):
    model, items = lively("Llama", vocab_size=len(tokenizer)), items_of(14, stop=("e", " the"))
    loop, own = (answers(model, tokenizer, items, backend=backend) for backend in ("loop", "generate"))
    assert [text.tokens for (text,) in loop] == [text.tokens for (text,) in own]


@pytest.mark.parametrize("name", ["Mamba", "Qwen3Next", "Lfm2"])
def test_generate_is_the_fallback_where_the_loop_does_not_work(tokenizer, name, caplog):
    caplog.set_level(logging.INFO)
    model, items = lively(name, vocab_size=len(tokenizer)), items_of(6, limits=(5, 9))
    generator = make_generator(items, tokenizer)
    with torch.no_grad():
        first = generator.generate(model, tokenizer, budget=200)
        second = generator.generate(model, tokenizer, budget=200)
    assert generator.backend == "generate" and list(rejected(caplog)) == ["loop"]
    expected = [tuple(greedy(model, tokenizer.encode(i.prompt), i.max_new_tokens, stops=[2])) for i in items]
    for found in (first, second):
        assert [text.tokens for (text,) in found] == expected


@torch.no_grad()
@pytest.mark.parametrize("limit, backend", [(4, "loop"), (60, "generate")])
def test_a_sliding_window_that_is_in_the_masks_alone_is_seen_before_texts_outgrow_it(tokenizer, limit, backend):
    """At first use all texts end with their first token; the next model's are long."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "sliding_window": 48,
        "initializer_range": 0.2,
        "max_position_embeddings": 128,
    }
    model = PhimoeForCausalLM(PhimoeConfig(vocab_size=len(tokenizer), eos_token_id=2, **sizes)).eval()
    items = items_of(6, limits=(limit,))
    generator, eos = make_generator(items, tokenizer), torch.tensor([2])
    hook = model.lm_head.register_forward_hook(lambda module, args, output: output.index_fill(-1, eos, 99.0))
    assert {text.tokens for (text,) in generator.generate(model, tokenizer, budget=2048)} == {(2,)}
    hook.remove()
    found = generator.generate(model, tokenizer, budget=2048)
    expected = [tuple(greedy(model, tokenizer.encode(i.prompt), i.max_new_tokens, stops=[2])) for i in items]
    assert [text.tokens for (text,) in found] == expected and generator.backend == backend


@torch.no_grad()
def test_a_model_that_is_wrong_only_where_rows_share_a_batch_is_found_out(tokenizer):
    """RWKV's state of one row is added to all. Rows of one length are neither shortest, median nor longest."""
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, eos_token_id=2)
    model = RwkvForCausalLM(config).eval()
    for weight in (p for p in model.parameters() if p.ndim == 2):
        weight.add_(0.2 * torch.randn(weight.shape))
    texts = ["a", "The fox ran", "The sun ran", *(f"{'so ' * n}{n}" for n in range(4, 9))]
    items = [Generation(text, text, "x", "contains", max_new_tokens=9) for text in texts]
    generator = make_generator(items, tokenizer)
    found = generator.generate(model, tokenizer, budget=2048)
    expected = [tuple(greedy(model, tokenizer.encode(i.prompt), i.max_new_tokens, stops=[2])) for i in items]
    assert [text.tokens for (text,) in found] == expected and generator.backend == BACKENDS[-1]


@torch.no_grad()
def test_the_loop_is_checked_at_first_use_only(tokenizer):
    model, items, seen = lively("Llama", vocab_size=len(tokenizer)), items_of(14), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    generator = make_generator(items, tokenizer)
    generator.generate(model, tokenizer, budget=2048)
    first, seen[:] = list(seen), []
    generator.generate(model, tokenizer, budget=2048)
    # One token for the dtype, two texts for causality, then the loop on the first 8 tokens of three texts and on all,
    # and three plain forward passes after each.
    before = first[3 : -3 - len(seen)]
    assert generator.backend == "loop" and first[-3 - len(seen) : -3] == seen and len(before) <= 4 + 3 + 7 + 3


def ending(tokenizer, share):
    """A model that generates EOS with about this probability at each token."""
    model = lively("Llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    head = torch.nn.Linear(32, len(tokenizer))
    with torch.no_grad():
        head.weight.copy_(0.02 * model.lm_head.weight)
        head.bias.zero_()
        head.bias[2] = float(np.log(share * len(tokenizer)))
    model.lm_head = head.eval()
    return model


def counted(model, generator, tokenizer, budget):
    """What the loop forwards: tokens of each prefill, rows of each step, and rows through the LM head."""
    prefills, steps, head_rows = [], [], []

    def record(module, args, kwargs):
        ids, cache = kwargs["input_ids"], kwargs.get("cache", kwargs.get("past_key_values"))
        step = cache is not None and cache.get_seq_length() > 0 and ids.shape[1] == 1
        (steps if step else prefills).append(ids.numel())

    head = model.get_output_embeddings()
    own = head.forward  # a head with hooks on its output may be any module, which gets a token more
    head.forward = lambda rows: head_rows.append(rows.shape[:-1].numel()) or own(rows)
    with torch.no_grad(), model.register_forward_pre_hook(record, with_kwargs=True):
        found = generator.generate(model, tokenizer, budget=budget)
    del head.forward
    return found, prefills, steps, head_rows


@pytest.mark.parametrize("budget", [300, 2048])
@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["", "shared prefix"])
def test_decoding_wastes_few_rows(tokenizer, prefix, budget):
    """At most 1.15 times the rows that a long tail of generated lengths needs."""
    model, items = ending(tokenizer, 0.08), items_of(48, prefix=prefix, limits=(120,))
    generator = make_generator(items, tokenizer, temperature=1.0)
    generator.backend = "loop"
    found, prefills, steps, head_rows = counted(model, generator, tokenizer, budget)
    lengths = sorted(len(text.tokens) for (text,) in found)
    assert lengths[-1] > 3 * lengths[len(lengths) // 2]  # a long tail
    least = sum(lengths) - len(lengths)
    assert least <= sum(steps) <= 1.15 * least
    # Prefills: each prompt once, in rows of similar length; the prefix once; the LM head on last tokens only.
    depth = len(tokenizer.encode(prefix))
    bare = sum(len(tokenizer.encode(item.prompt)) - depth for item in items)
    assert sum(prefills) <= depth + (1.15 if budget == 300 else 1.6) * bare + 16
    assert sum(head_rows) <= sum(steps) + len(items) + len(prefills)


def test_prompts_after_a_shared_prefix_are_prefilled_together_without_padding(tokenizer):
    model, items = lively("Llama", vocab_size=len(tokenizer), max_position_embeddings=256), items_of(12, prefix=PREFIX)
    generator = make_generator(items, tokenizer)
    generator.backend = "loop"
    _, prefills, steps, head_rows = counted(model, generator, tokenizer, 2048)
    prompts = [tokenizer.encode(item.prompt) for item in items]
    depth = next(n for n, tokens in enumerate(zip(*prompts)) if len(set(tokens)) > 1)
    assert len({len(prompt) for prompt in prompts}) > 3
    assert prefills == [depth, sum(len(prompt) - depth for prompt in prompts)]
    assert sum(head_rows) == len(items) + sum(steps), "none of the prefix"


def test_rows_that_leave_make_room_for_others(tokenizer, monkeypatch):
    """With a KV cache for a few rows only, there are far fewer steps than batch by batch."""
    model, items = ending(tokenizer, 0.08), items_of(48, limits=(120,))
    monkeypatch.setattr(
        kv, "_BYTES", 2 * 300 * kv._BYTES // kv.max_tokens(kv.of_prefix(model, (0,)), 300)
    )  # 600 tokens
    generator = make_generator(items, tokenizer, temperature=1.0)
    generator.backend = "loop"
    found, _, steps, _ = counted(model, generator, tokenizer, 300)
    lengths = [len(text.tokens) for (text,) in found]
    rows = max(steps)
    assert rows < 24
    in_turn = sum(max(lengths[at : at + rows]) for at in range(0, len(lengths), rows))
    assert len(steps) < 0.8 * in_turn


@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["", "shared prefix"])
def test_rows_that_lose_their_place_generate_the_same(model, tokenizer, prefix, monkeypatch):
    """With pages for a few rows only, the youngest are prefilled again with what they have generated."""
    items, left = items_of(18, prefix=prefix, limits=(90, 40, 60)), []
    expected = answers(model, tokenizer, items, backend="loop")
    monkeypatch.setattr(kv, "_BYTES", 450 * kv._BYTES // kv.max_tokens(kv.of_prefix(model, (0,)), 300))
    grow = Schedule.grow
    monkeypatch.setattr(Schedule, "grow", lambda self: left.extend(found := grow(self)) or found)
    assert answers(model, tokenizer, items, backend="loop", budget=300) == expected
    assert left


def test_samples_of_a_prompt_are_prefilled_once(tokenizer):
    model, items = lively("Llama", vocab_size=len(tokenizer)), items_of(4, limits=(4,))
    generator = make_generator(items, tokenizer, temperature=1.0, samples=8)
    generator.backend = "loop"
    _, prefills, _, _ = counted(model, generator, tokenizer, 2048)
    once = make_generator(items, tokenizer, temperature=1.0)
    once.backend = "loop"
    assert sum(prefills) <= 1.5 * sum(counted(model, once, tokenizer, 2048)[1])


def test_prefills_are_the_same_at_every_run(tokenizer):
    """Whatever is generated, so that a flip is never an artefact of a prefill's batch."""
    seen = []
    for share in (0.02, 0.3):
        generator = make_generator(items_of(30, limits=(40,)), tokenizer, temperature=1.0)
        generator.backend = "loop"
        seen.append(sorted(counted(ending(tokenizer, share), generator, tokenizer, 300)[1]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("backend", ["loop", "generate"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_nan_in_one_row_does_not_change_the_others(tokenizer, backend, settings):
    model, items = lively("Llama", vocab_size=len(tokenizer)), items_of(14, limits=(6, 3))
    usual = answers(model, tokenizer, items, backend=backend, **settings)
    (bad,) = tokenizer.encode("!")
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    broken = [Generation("bad", "x!x", "x", "contains", max_new_tokens=5)]
    found = answers(model, tokenizer, [*items[:7], *broken, *items[7:]], backend=backend, **settings)
    assert found.pop(7) == [None]
    for (text,), (before,) in zip(found, usual, strict=True):
        assert (text is None and bad in before.tokens) or text == before


@pytest.mark.parametrize("backend", [None, "loop", "generate"])
def test_advance_counts_every_answer_once(tokenizer, backend):
    seen = []
    generator = make_generator(items_of(14), tokenizer, samples=2, temperature=1.0)
    generator.backend = backend
    with torch.no_grad():
        generator.generate(tiny("Llama", vocab_size=len(tokenizer)), tokenizer, budget=200, advance=seen.append)
    assert sum(seen) == 28


@pytest.mark.parametrize("backend", [None, *BACKENDS[1:]])
def test_every_token_that_a_text_may_have_is_counted_once_and_most_while_texts_are_generated(tokenizer, backend):
    model = lively("Llama", vocab_size=len(tokenizer))
    generator = make_generator(items_of(14, limits=(6, 3)), tokenizer)
    generator.backend, seen = backend, []
    with torch.no_grad():
        generator.generate(model, tokenizer, budget=200, count=lambda kind, n: seen.append((kind, n)))
    for kind, size in ((TEXTS, lambda q: q.max_new_tokens), (PROMPTS, lambda q: len(q.prompt))):
        assert sum(n for own, n in seen if own == kind) == sum(map(size, generator.requests))
    assert len([n for kind, n in seen if kind == TEXTS]) >= 6, "at least once for each token of the longest"


def test_no_items_need_no_forward_pass(tokenizer):
    model = tiny("Llama", vocab_size=len(tokenizer))
    model.register_forward_pre_hook(lambda *args: pytest.fail("an unneeded forward pass"))
    generator = TextGenerator(Probe("p", items_of(1)), [], [])
    assert generator.generate(model, tokenizer, budget=10) == []


def test_the_head_and_the_config_are_restored_after_an_error(tokenizer):
    model = tiny("Llama", vocab_size=len(tokenizer))
    generator = make_generator(items_of(3), tokenizer)
    generator.backend = "loop"
    config = model.generation_config

    def fail(*args):
        raise KeyError("broken")

    handle = model.model.register_forward_pre_hook(fail)
    for backend in ("loop", "generate"):
        generator.backend = backend
        with pytest.raises(KeyError, match="broken"), torch.no_grad():
            generator.generate(model, tokenizer, budget=100)
    handle.remove()
    assert not model.lm_head._forward_pre_hooks and model.generation_config is config
