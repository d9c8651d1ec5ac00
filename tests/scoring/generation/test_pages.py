"""Attention to a shared prefix and to pages equals that to one row of all keys, by definition."""

import pytest
import torch

from forget_callback.scoring.generation.pages import PagedCache, attend
from forget_callback.scoring.generation.schedule import PAGE
from forget_callback.scoring.generation.tables import PrefillTable, StepTable

HEADS, KV_HEADS, SIZE, VALUE = 6, 2, 8, 5


def by_definition(query, keys, values, *, scaling=SIZE**-0.5, sliding_window=None, softcap=None, s_aux=None):
    """Attention of the last queries of one row to all its keys, ``(width, heads, size)``, in float64."""
    width, n = query.shape[1], keys.shape[1]
    out = torch.zeros(width, HEADS, VALUE)
    for head in range(HEADS):
        for at in range(width):
            own, position = head * KV_HEADS // HEADS, n - width + at
            low = 0 if sliding_window is None else max(position - sliding_window + 1, 0)
            scores = keys[own, low : position + 1].double() @ query[head, at].double() * scaling
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            scores = scores if s_aux is None else torch.cat([scores, s_aux[head : head + 1].double()])
            weights = torch.softmax(scores, dim=0)[: position + 1 - low]
            out[at, head] = weights @ values[own, low : position + 1].double()
    return out


@pytest.mark.parametrize("depth", [0, 5, 70])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"sliding_window": 40},
        {"sliding_window": 3},
        {"softcap": 1.5},
        {"scaling": 1.0},
        {"s_aux": torch.arange(6.0)},
    ],
    ids=str,
)
def test_attention_is_that_of_the_definition(depth, how):
    make = torch.Generator().manual_seed(depth)
    randn = lambda *shape: torch.randn(shape, generator=make)  # noqa: E731
    prefix = randn(1, KV_HEADS, depth, SIZE), randn(1, KV_HEADS, depth, VALUE)
    cache = PagedCache([prefix], 9)
    cache.layers[0].pools[1].fill_(torch.inf)  # of pages that no row holds
    module, lengths, pages = torch.nn.Module(), [2 * PAGE + 1, 1, PAGE], [[6, 2, 0], [4], [1, 8]]
    width = max(lengths)
    cache.clear([page for own in pages for page in own])
    keys, values = randn(3, KV_HEADS, width, SIZE), randn(3, KV_HEADS, width, VALUE)
    rows = [[torch.cat([first[0], own[row]], dim=1) for first, own in zip(prefix, (keys, values))] for row in range(3)]

    # A prefill: the rows behind one another.
    table = PrefillTable.of([[row] * n for row, n in enumerate(lengths)], torch.device("cpu"))
    assert table.ids.tolist() == [row for row, n in enumerate(lengths) for _ in range(n)]
    cache.use(table)
    packed = lambda parts: torch.cat([own[:, :n] for own, n in zip(parts, lengths)], dim=1)[None]  # noqa: E731
    query = randn(3, HEADS, width, SIZE)
    found, _ = attend(module, packed(query), *cache.update(packed(keys), packed(values), 0), None, **how)
    cache.require_attended()
    for row, own in enumerate(found[0].split(lengths)):
        n = lengths[row]
        expected = by_definition(query[row, :, :n], *(part[:, : depth + n] for part in rows[row]), **how)
        torch.testing.assert_close(own, expected)
    cache.store(cache.prefilled(), range(3), [own[: -(-n // PAGE)] for own, n in zip(pages, lengths)])

    for step in range(1, 4):
        if step == 3:  # pages change places
            cache.move({6: 3, 8: 5})
            pages = [[3, 2, 0], [4], [1, 5]]
        table = StepTable.of(pages, [n + step for n in lengths], [7, 8, 9], torch.device("cpu"))
        assert table.ids.tolist() == [7, 8, 9]
        cache.use(table)
        new, query = (randn(3, KV_HEADS, 1, SIZE), randn(3, KV_HEADS, 1, VALUE)), randn(3, HEADS, 1, SIZE)
        found, _ = attend(module, query, *cache.update(*new, 0), None, **how)
        cache.require_attended()
        for row, n in enumerate(lengths):
            before = [part[:, : depth + n + step - 1] for part in rows[row]]
            rows[row] = [torch.cat([part, own[row]], dim=1) for part, own in zip(before, new)]
            torch.testing.assert_close(found[row], by_definition(query[row], *rows[row], **how))


def test_other_keys_are_refused():
    one = torch.zeros(1, HEADS, 1, SIZE)
    with pytest.raises(TypeError, match="more than queries, keys and values"):
        attend(torch.nn.Module(), one, one, one, None)
    cache = PagedCache([(one, one)], 1)
    cache.use(PrefillTable.of([[0]], torch.device("cpu")))
    with pytest.raises(TypeError, match="does not attend through"):
        cache.require_attended()
