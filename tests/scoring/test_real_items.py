"""On real items, correctness and summed log-probabilities are lm-eval's, item by item."""

from pathlib import Path

import numpy as np
import pytest

from forget_callback import Generation, Probe, load_probe, score_probe
from tests.helpers import teach

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real items: {DATA} does not exist"),
    pytest.mark.in_turn(2),
]
N = 300


@pytest.fixture(scope="module")
def model_and_tokenizer(make_model, make_tokenizer):
    """A tiny model that has learned some of the answers, so that right and wrong both occur."""
    tokenizer = make_tokenizer()
    recall = load_probe(str(DATA / "jeopardy.jsonl")).items[:12]
    return teach(
        make_model(max_position_embeddings=1024), tokenizer, [(item.prompt, item.answer + "\n") for item in recall]
    ), tokenizer


@pytest.fixture(scope="module")
def ask(make_hflm, model_and_tokenizer):
    """ask("loglikelihood", [arguments]) -> what lm-eval's own wrapper gives."""
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    hflm = make_hflm(*model_and_tokenizer)

    def answers(kind, arguments):
        requests = [instance(request_type=kind, doc={}, arguments=pair, idx=0) for pair in arguments]
        return getattr(hflm, kind)(requests, disable_tqdm=True)

    return answers


@pytest.mark.parametrize("name", ["arc_easy", "openbook_qa", "commonsense_qa"])
def test_choices(model_and_tokenizer, ask, name):
    probe = Probe(name, load_probe(str(DATA / f"{name}.jsonl")).items[:N])
    snapshot = score_probe(*model_and_tokenizer, probe)
    found = ask("loglikelihood", [(item.prompt, choice) for item in probe.items for choice in item.choices])
    sums = np.split([sum_ for sum_, _ in found], np.cumsum([len(item.choices) for item in probe.items])[:-1])
    assert len(probe) == N
    assert max(np.abs(ours - theirs).max() for ours, theirs in zip(snapshot.scores, sums)) < 1e-4
    assert snapshot.correct.tolist() == [float(np.argmax(s) == item.answer) for s, item in zip(sums, probe.items)]
    assert 0 < snapshot.accuracy < 1


def test_recall(model_and_tokenizer, ask):
    probe = Probe("jeopardy", load_probe(str(DATA / "jeopardy.jsonl")).items[:N])
    snapshot = score_probe(*model_and_tokenizer, probe)
    found = ask("loglikelihood", [(item.prompt, item.answer) for item in probe.items])
    assert len(probe) == N
    assert snapshot.correct.tolist() == [float(greedy) for _, greedy in found]
    assert 0 < snapshot.accuracy < 1


def test_generation(model_and_tokenizer, ask):
    """All of gsm8k, and jeopardy as generation items: the generated texts, and so their correctness."""
    numbers = load_probe(str(DATA / "gsm8k.jsonl")).items
    questions = [Generation(i.id, i.prompt, i.answer.strip()) for i in load_probe(str(DATA / "jeopardy.jsonl")).items]
    items = [
        Generation(i.id, i.prompt, i.answer, i.match, max_new_tokens=12, stop=["\n"]) for i in (*numbers, *questions)
    ][:N]
    probe = Probe("written", items)
    snapshot = score_probe(*model_and_tokenizer, probe)
    settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    assert len(probe) == N
    assert snapshot.text.tolist() == ask("generate_until", [(item.prompt, dict(settings)) for item in items])
    assert 0 < snapshot.accuracy < 1
