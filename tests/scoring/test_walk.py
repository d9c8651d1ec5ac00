"""A part of the walk over transformers' architectures, another one every day, and that the walk can fail."""

import pytest
import torch

from forget_callback import score_probe
from tests.in_turn import of_the_day
from tests.scoring import walk
from tests.scoring.architectures import skip_before

PARTS = 12


@pytest.fixture(scope="module")
def words():
    return walk.tokenizer()


@pytest.mark.filterwarnings("ignore")  # of architectures that are old, slow or unusual
@pytest.mark.parametrize("name", of_the_day([walk.NAMES[part::PARTS] for part in range(PARTS)]))
def test_an_architecture_is_scored_as_it_forwards_or_refused_in_words(name, words):
    skip_before("5.23", "the walk is over the architectures of a version")
    walked = walk.walk(name, words)
    assert walked.outcome in ("equal", "refused", "unbuilt"), walked


def test_the_walk_sees_what_differs(words):
    model = walk.tiny("llama", len(words))
    snapshot = score_probe(model, words, walk.probe())
    assert walk.differences(model, words, snapshot) == []
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    assert len(walk.differences(model, words, snapshot)) >= len(walk.probe()) // 2
    assert walk.of_generate(model, words) != [None] * len(walk.probe())


def test_what_cannot_be_built_is_named_with_a_reason():
    skip_before("5.23", "the walk is over the architectures of a version")
    assert set(walk.UNBUILT) <= set(walk.NAMES) and all(len(reason) > 20 for reason in walk.UNBUILT.values())
