"""Every continuation is in the plan once, no token is forwarded twice, and there is little padding."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from forget_callback import MultipleChoice, Probe, Recall, load_probe
from forget_callback.probes.records import parse_item
from forget_callback.scoring import cache as kv
from forget_callback.scoring.likelihood import plan as planning
from forget_callback.scoring.likelihood.fallbacks import LikelihoodScorer
from forget_callback.scoring.likelihood.plan import plan
from forget_callback.scoring.likelihood.tokens import Continuation, encode_items
from forget_callback.scoring.models import head_cost
from forget_callback.scoring.prefixes import common_length

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


# --- what a plan forwards, by definition -------------------------------------------------------------------------


def paths_of(batch):
    """For each token of a batch, the tokens that it attends to and their positions, from `ends` only."""
    rows, width = batch.ids.shape
    before = list(range(len(batch.prefix)))
    result = []
    for row in range(rows):
        for at in range(width):
            seen = [i for i in range(at + 1) if batch.ends[row, i] > at]
            tokens = (*batch.prefix, *batch.ids[row, seen].tolist())
            result.append((tokens, [*before, *batch.positions[row, seen].tolist()]))
    return result


def check(rows, chunks, budget):
    """Asserts every property of a plan; returns its batches."""
    found = Counter()
    for chunk in chunks:
        paths = [paths_of(batch) for batch in chunk.batches]
        # A scored token: its batch and its place there.
        scored = [(b, at) for b, batch in enumerate(chunk.batches) for at in batch.scored.tolist()]
        assert len(set(scored)) == len(scored)
        used = set()
        targets_of = {}
        for index, low, high in zip(chunk.continuations.tolist(), [0, *chunk.ends.tolist()], chunk.ends.tolist()):
            found[index] += 1
            row = rows[index]
            assert high - low == len(row.tokens) - row.n_context
            for place, entry in enumerate(range(low, high), row.n_context):
                edge = chunk.edge_index[entry]
                node = chunk.order[chunk.edge_row[edge]]
                batch, at = scored[node]
                tokens, positions = paths[batch][at]
                assert tokens == row.tokens[:place]
                assert positions == list(range(place))
                assert chunk.edge_token[edge] == row.tokens[place]
                if row.greedy:
                    assert chunk.targets[chunk.target_index[entry]] == row.tokens[place]
                    assert chunk.order[chunk.target_index[entry]] == node
                    targets_of.setdefault(int(node), set()).add(row.tokens[place])
                else:
                    assert chunk.target_index[entry] == -1
            # The last of these paths is the whole continuation but for its last token.
            width = chunk.batches[batch].ids.shape[1]
            used |= {(batch, at // width * width + i) for i in range(at % width + 1) if sees(chunk, batch, at, i)}
        check_order(chunk, len(scored), targets_of)
        for b, batch in enumerate(chunk.batches):
            check_batch(batch, {at for own, at in used if own == b}, budget)
    assert found == Counter(range(len(rows)))
    return [batch for chunk in chunks for batch in chunk.batches]


def sees(chunk, batch, at, i):
    width = chunk.batches[batch].ids.shape[1]
    return chunk.batches[batch].ends[at // width, i] > at % width


def check_order(chunk, n_scored, targets_of):
    """A scored token is in `order` once, and once more for each further target."""
    expected = {node: max(len(targets_of.get(node, ())), 1) for node in range(n_scored)}
    assert Counter(chunk.order.tolist()) == expected
    pairs = list(zip(chunk.order[: len(chunk.targets)].tolist(), chunk.targets.tolist()))
    assert sorted(pairs) == sorted((node, token) for node, tokens in targets_of.items() for token in tokens)
    assert (np.diff(chunk.edge_token) >= 0).all()
    edges = list(zip(chunk.edge_row.tolist(), chunk.edge_token.tolist()))
    assert len(set(edges)) == len(edges) and set(chunk.edge_index.tolist()) == set(range(len(edges)))


def n_tokens(batches):
    """Tokens without padding, which is the only 0 here."""
    return sum(np.count_nonzero(batch.ids) for batch in batches)


def check_batch(batch, used, budget):
    rows, width = batch.ids.shape
    assert np.count_nonzero(batch.ids) == len(used)
    padded = set(range(rows * width)) - used
    for at in padded:
        row, column = divmod(at, width)
        seeing = [i for i in range(column + 1) if batch.ends[row, i] > column]
        assert seeing == [column] and batch.ends[row, column] == column + 1
    # Descendants follow their token directly: spans nest, and none leaves its row.
    assert (batch.ends > np.arange(width)).all() and (batch.ends <= width).all()
    for row in range(rows):
        for at in range(width):
            inside = batch.ends[row, at : batch.ends[row, at]]
            assert (inside <= batch.ends[row, at]).all()
    # Within a trie each prefix is one token: no two children of a token are equal.
    for row in range(rows):
        children = Counter()
        for at in range(width):
            if row * width + at in used:
                above = [i for i in range(at) if batch.ends[row, i] > at]
                if above:
                    children[above[-1], batch.ids[row, at]] += 1
        assert all(n == 1 for n in children.values())
    assert rows * width <= budget or rows == 1 or width > budget


# --- continuations with common prefixes ------------------------------------------------------------------------------

LONG = tuple(np.random.default_rng(0).integers(3, 90, 150).tolist())


@st.composite
def many(draw):
    """Continuations over few distinct tokens, some behind long common prefixes."""
    alphabet = st.integers(1, draw(st.integers(1, 4)))
    prefixes = [(), LONG[: draw(st.integers(30, 40))], LONG[: draw(st.integers(64, 80))], LONG[40:100]]
    rows = []
    for item in range(draw(st.integers(0, 14))):
        context = (*draw(st.sampled_from(prefixes)), *draw(st.lists(alphabet, min_size=1, max_size=6)))
        greedy = draw(st.booleans())
        for _ in range(draw(st.integers(1, 4))):
            tail = draw(st.lists(alphabet, min_size=1, max_size=5))
            rows.append(Continuation(item, (*context, *tail), len(context), greedy))
    return rows


def behind(prefix, n, *, seed=0, tail=12):
    """`n` items with three options each behind one prefix."""
    rng = np.random.default_rng(seed)
    rows = []
    for item in range(n):
        context = (*prefix, *rng.integers(3, 90, rng.integers(1, tail)).tolist())
        for option in range(3):
            more = tuple(rng.integers(3, 90, rng.integers(1, 5)).tolist())
            rows.append(Continuation(item, context + more, len(context), option == 0))
    return rows


BUDGETS = st.sampled_from([1, 7, 40, 200, 2048])


@settings(max_examples=30, deadline=None)
@given(rows=many(), budget=BUDGETS, join=st.booleans(), replicate=st.integers(0, 2))
def test_every_continuation_is_in_a_tree_once(rows, budget, join, replicate):
    check(rows, plan(rows, budget, join=join, replicate=replicate), budget)


@settings(max_examples=20, deadline=None)
@given(rows=many(), budget=BUDGETS, pad=st.booleans(), replicate=st.integers(0, 2))
def test_unshared_every_continuation_has_a_row_of_its_own(rows, budget, pad, replicate):
    batches = check(rows, plan(rows, budget, share=False, pad=pad, replicate=replicate), budget)
    assert sum(len(batch.ids) for batch in batches) == len(rows)
    for batch in batches:
        lengths = (batch.ends[:, 0]).tolist()
        assert batch.prefix == () and max(lengths) == batch.ids.shape[1]
        assert pad or set(lengths) == {batch.ids.shape[1]}


@pytest.mark.parametrize("budget", [1, 64, 300, 2048])
@pytest.mark.parametrize("depth", [0, 31, 32, 100])
def test_a_long_prefix_is_forwarded_once_and_not_in_rows(depth, budget):
    rows = behind(LONG[:depth], 40)
    batches = check(rows, plan(rows, budget), budget)
    prefixes = {batch.prefix for batch in batches}
    assert prefixes == ({LONG[:depth]} if depth >= 32 else {()})
    if depth >= 32 and budget >= 300:
        assert n_tokens(batches) == distinct_prefixes([row.tokens[depth:-1] for row in rows])


@pytest.mark.parametrize("n, cached", [(7, False), (8, True)])
def test_fewer_than_eight_contexts_are_not_cached(n, cached):
    rows = [Continuation(i, (*LONG[:80], 3 + i, 4, 5), 82) for i in range(n)]
    batches = check(rows, plan(rows, 2048), 2048)
    assert {batch.prefix for batch in batches} == ({LONG[:80]} if cached else {()})


def test_repeats_of_few_contexts_are_not_cached():
    """The same prompt in many items is one trie anyway."""
    rows = [Continuation(i, (*LONG[:60], 5, 6 + i), 61, False) for i in range(50)]
    batches = check(rows, plan(rows, 2048), 2048)
    assert {batch.prefix for batch in batches} == {()}
    assert n_tokens(batches) == 61


def test_equal_prompts_of_different_items_are_forwarded_once():
    """Recall and choice items often have the same prompt."""
    options = [Continuation(0, (7, 8, 9, n), 3) for n in (10, 11, 12)]
    rows = [*options, Continuation(1, (7, 8, 9, 10), 3, True)]
    (batch,) = check(rows, plan(rows, 2048), 2048)
    assert n_tokens([batch]) == 3 and batch.scored.tolist() == [2]


def test_a_token_with_two_targets_is_read_twice():
    rows = [Continuation(0, (7, 8, 9), 2, True), Continuation(1, (7, 8, 10), 2, True), Continuation(2, (7, 8, 9), 2)]
    (chunk,) = plan(rows, 2048)
    check(rows, [chunk], 2048)
    assert chunk.order.tolist() == [0, 0] and sorted(chunk.targets.tolist()) == [9, 10]


def test_no_continuations_are_no_batches():
    assert [batch for chunk in plan([], 100) for batch in chunk.batches] == []


def flat(chunks):
    """A plan as text, for comparison."""
    return repr([{name: getattr(chunk, name) for name in vars(chunk)} for chunk in chunks])


@pytest.mark.parametrize("settings_", [{}, {"share": False}, {"share": False, "pad": False}, {"replicate": 3}])
def test_the_same_input_is_the_same_plan(settings_):
    rows = behind(LONG[:50], 30)
    first = flat(plan(rows, 300, **settings_))
    random.seed(99), np.random.seed(99)
    plan(behind(LONG[:9], 12, seed=5), 77, replicate=9)
    assert flat(plan(list(rows), 300, **settings_)) == first


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("depth", [0, 50])
def test_another_replicate_is_the_same_continuations_in_other_batches(depth, share):
    rows = behind(LONG[:depth], 40)
    seen = set()
    for replicate in range(3):
        batches = check(rows, plan(rows, 300, share=share, replicate=replicate), 300)
        seen.add(repr([batch.ids.tolist() for batch in batches]))
    assert len(seen) == 3


def is_chain(batch):
    """Whether a batch is a single continuation."""
    return len(batch.ids) == 1 and (batch.ends == batch.ids.shape[1]).all()


@pytest.mark.parametrize("budget, depth", [(50, 0), (20, 0), (1, 0), (100, 60), (150, 400)])
def test_only_a_single_continuation_is_larger_than_the_budget(budget, depth):
    prefix = (LONG * 3)[:depth]
    context = (*prefix, *LONG[:20])
    one = [Continuation(0, (*context, 5 + n, 3, 4, 5, 6, 7, 8, 9), len(context)) for n in range(30)]
    rows = one + behind(prefix, 20)
    batches = check(rows, plan(rows, budget), budget)
    assert all(batch.ids.size <= budget or is_chain(batch) for batch in batches)


def test_a_continuation_longer_than_the_budget_is_forwarded_all_the_same():
    rows = [Continuation(0, LONG, 100)]
    (batch,) = check(rows, plan(rows, 50), 50)
    assert batch.ids.shape == (1, len(LONG) - 1)


@pytest.mark.parametrize("budget", [2048, 8192, 65_536])
@pytest.mark.parametrize("depth", [0, 40])
def test_masks_of_long_contexts_are_small(depth, budget):
    """Contexts of 16k tokens among others: their masks would have a GiB each, and they are forwarded once."""
    rng = np.random.default_rng(0)
    rows = behind(LONG[:depth], 20)
    for item, n in enumerate([16_000, 16_000, 5_000, 3_000], 20):
        context = (*LONG[:depth], *rng.integers(3, 10**6, n).tolist())
        rows += [Continuation(item, (*context, *rng.integers(3, 90, 4).tolist()), len(context)) for _ in range(4)]
    rows.append(Continuation(30, tuple(rng.integers(3, 90, 16_000).tolist()), 15_990))
    chunks = plan(rows, budget)
    batches = [batch for chunk in chunks for batch in chunk.batches]
    masks = [
        len(batch.ids) * batch.ids.shape[1] * (len(batch.prefix) + batch.ids.shape[1])
        for batch in batches
        if not batch.chains
    ]
    assert 4 * max(masks) <= 4 * 4096**2 * 2
    assert [len(prefix) for prefix in {b.prefix for b in batches if len(b.prefix) > 4096}].count(depth + 15_999) == 2
    assert all(len(batch.prefix) <= depth for chunk in plan(rows, 1) for batch in chunk.batches)  # without that memory
    if budget > 4096:
        assert planned_tokens(chunks)[1] < 3 * 16_000 + 5_000 + 3_000 + 1_000


def test_a_long_context_of_one_continuation_is_no_prefix():
    rows = [Continuation(i, tuple(range(i, i + 5000)), 4990) for i in (1, 10**4)]
    assert {batch.prefix for batch in check_chains(plan(rows, 2048))} == {()}


def check_chains(chunks):
    batches = [batch for chunk in chunks for batch in chunk.batches]
    assert all(batch.chains for batch in batches)
    return batches


# --- what is forwarded on real items --------------------------------------------------------------------


def distinct_prefixes(sequences):
    """Number of trie nodes of these sequences, by listing every prefix."""
    return len({tuple(sequence[:n]) for sequence in sequences for n in range(1, len(sequence) + 1)})


def least_work(rows):
    """The least that any plan without sharing between items needs: (distinct tokens, scored tokens).

    One trie per item, over context and options without their last token; a prefix of all items counts once.
    """
    by_item = {}
    for row in rows:
        by_item.setdefault(row.item, []).append(row)
    everyone = [row.tokens[: row.n_context - 1] for row in rows]
    shared = min(common_length(everyone[0], other) for other in everyone)
    unique = shared + sum(distinct_prefixes([r.tokens[:-1] for r in own]) - shared for own in by_item.values())
    scored = sum(
        len({r.tokens[:at] for r in own for at in range(r.n_context, len(r.tokens))}) for own in by_item.values()
    )
    return unique, scored


def further_targets(rows):
    """Where several answers are accepted, each token in which they part is compared with the argmax in its own row."""
    following = {}
    for row in rows:
        for at in range(row.n_context, len(row.tokens) if row.greedy else 0):
            following.setdefault(row.tokens[:at], set()).add(row.tokens[at])
    return sum(len(tokens) - 1 for tokens in following.values())


def planned_tokens(chunks):
    """Tokens that a plan forwards, prefixes included: (with padding, without)."""
    batches = [batch for chunk in chunks for batch in chunk.batches]
    prefixes = sum(map(len, {batch.prefix for batch in batches}))
    return sum(batch.ids.size for batch in batches) + prefixes, n_tokens(batches) + prefixes


def few_shot(items, n):
    """The first `n` items with their answers before each of the others."""
    examples = "".join(f"{item.prompt}{item.choices[item.answer]}\n\n" for item in items[:n])
    return [MultipleChoice(i.id, examples + i.prompt, i.choices, i.answer) for i in items[n:]]


def real_items(name):
    file = DATA / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"no real items: {file} does not exist")
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if len({choice.strip() for choice in record["choices"]}) == len(record["choices"]):
            found.append(parse_item(record))
    return found


def lettered(item):
    """The options in the prompt, and their letters to choose from."""
    listed = "".join(f"\n{letter}.{text}" for letter, text in zip("ABCDEFGH", item.choices))
    prompt = f"Question: {item.prompt} ...?\nChoices:{listed}\nAnswer:"
    return MultipleChoice(item.id, prompt, [f" {letter}" for letter in "ABCDEFGH"[: len(item.choices)]], item.answer)


KINDS = ["facts", "facts of one kind", "letters", "passages", "arc_easy", "commonsense_qa", "arc_easy, 5-shot"]


@pytest.fixture(params=KINDS)
def gate_rows(request, tokenizer):
    name = request.param.split(",")[0]
    if name == "passages":
        items = [
            MultipleChoice(i.id, f"Passage: {i.text}\nQuestion: is this prose\nAnswer:", [" no", " yes"], 0)
            for i in load_probe("builtin:text").items[:150]
        ]
    elif name == "letters":
        items = [lettered(i) for i in load_probe("builtin:facts").items if isinstance(i, MultipleChoice)][::3]
    elif name.startswith("facts"):
        items = [i for i in load_probe("builtin:facts").items if name == "facts" or isinstance(i, MultipleChoice)]
    else:
        items = real_items(name)
    if "5-shot" in request.param:
        items = few_shot(items, 5)[:200]
    return encode_items(Probe("p", items), tokenizer).rows


@pytest.mark.parametrize("budget", [2048, 8192])
def test_little_more_is_forwarded_than_must_be(gate_rows, budget):
    """At most 1.10 times the distinct tokens, and the LM head on scored tokens only."""
    (unique, scored), further = least_work(gate_rows), further_targets(gate_rows)
    chunks = plan(gate_rows, budget)
    batches = [batch for chunk in chunks for batch in chunk.batches]
    forwarded, _ = planned_tokens(chunks)
    # Items with equal prompts, or with a prefix of some items only, share more than this denominator counts.
    assert forwarded <= 1.10 * unique
    head_rows = sum(len(chunk.order) for chunk in chunks)
    assert head_rows == sum(len(batch.scored) for batch in batches) + further
    assert head_rows <= scored + further  # items with equal prompts share even these


@pytest.mark.parametrize("lengths", [(20, 60), (40, 44), (5, 300), (100, 130)])
@pytest.mark.parametrize("depth", [0, 100])
def test_the_width_of_rows_is_the_cheapest(depth, lengths, monkeypatch):
    """By tokens with padding, what they attend to, and forward passes."""
    rng = np.random.default_rng(0)
    rows = []
    for item, n in enumerate(rng.integers(*lengths, 90)):
        context = (*(LONG * 3)[:depth], *rng.integers(3, 10**6, n).tolist())
        rows += [Continuation(item, (*context, token), len(context)) for token in (1, 2)]

    def cost():
        batches = [batch for chunk in plan(rows, 2048) for batch in chunk.batches]
        shapes = [(*batch.ids.shape, len(batch.prefix)) for batch in batches]
        return sum(n * width * (2048 + width + prefix) + 2048 * 2048 // 64 for n, width, prefix in shapes)

    chosen, each = cost(), {}
    for width in planning._WIDTHS:
        with monkeypatch.context() as patch:
            patch.setattr(planning, "_WIDTHS", (width,))
            each[width] = cost()
    assert chosen == min(each.values()) < max(each.values())


class _HeadProducts(TorchDispatchMode):
    """Counts the logits of all matrix products with one weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight.untyped_storage().data_ptr()
        self.logits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"):
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            if any(tensor.untyped_storage().data_ptr() == self.weight for tensor in tensors):
                self.logits += output.numel()
        return output


def counted(model, scorer, budget):
    """What a snapshot really runs: tokens through the embedding, rows through the LM head, forward passes."""
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(args[0].numel())
    )
    head = model.get_output_embeddings().weight
    try:
        with torch.no_grad(), _HeadProducts(head) as products:
            scorer.score(model, budget=budget)
    finally:
        handle.remove()
    return sum(seen), products.logits / head.shape[0], len(seen)


@pytest.mark.parametrize("scaling", [1.0, 2.0])
@pytest.mark.parametrize("shots", [0, 5])
def test_what_is_planned_is_what_goes_through_the_model(tokenizer, make_model, shots, scaling):
    model = make_model(tie_word_embeddings=False, max_position_embeddings=2048)
    facts = load_probe("builtin:facts").items
    choices = [item for item in facts if isinstance(item, MultipleChoice)]
    items = few_shot(choices, shots)[:60] + [item for item in facts if isinstance(item, Recall)][:40]
    rows = encode_items(Probe("p", items), tokenizer).rows
    scorer = LikelihoodScorer(rows)
    if scaling != 1.0:  # logits of another scale: the model's own head
        model.register_forward_hook(lambda module, args, output: output.__setitem__("logits", output.logits * scaling))
    with torch.no_grad():
        scorer.score(model, budget=2048)
    assert str(scorer.path) == ("tree, tiles" if scaling == 1.0 else "tree, own")
    tokens, head_rows, forwards = counted(model, scorer, 2048)
    with torch.no_grad():
        held = kv.of_prefix(model, (0,))
    chunks = plan(rows, 2048, cached=kv.max_tokens(held, 2048), head=head_cost(model))
    forwarded, without_padding = planned_tokens(chunks)
    planned_rows = sum(len(chunk.order) for chunk in chunks)
    assert tokens == forwarded
    # One more row for each forward: the model's own code needs some input.
    assert planned_rows <= head_rows <= planned_rows + forwards
    unique, least_rows = least_work(rows)
    assert without_padding <= unique and planned_rows <= least_rows + further_targets(rows)
    assert without_padding <= forwarded <= 1.10 * unique
