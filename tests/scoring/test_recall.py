"""Recall is right where greedy decoding writes the answer, also where the tokens of prompt and answer merge.

The reference is `generate` of transformers from the prompt's own tokens.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from forget_callback import Probe, Recall, score_probe
from forget_callback.scoring.likelihood.rendering import bind, context_of
from forget_callback.scoring.likelihood.tokens import encode, encode_items

SENTENCES = [
    "The address of the site is http://www.example.com.",
    "The capital of France is Paris. The capital of Italy is Rome.",
    "Question: which of the following is it? Answer: the opposite of cold is hot.",
    "Once upon a time there was a fox who ran over the hill, and 東京 é too.",
]


@pytest.fixture(scope="module", params=["tiny", pytest.param("SmolLM2", marks=pytest.mark.in_turn(2))])
def real(request):
    """A model with its tokenizer: a taught one, and a real one."""
    if request.param == "tiny":
        return request.getfixturevalue("taught")
    name = request.getfixturevalue("smollm2")
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    return SimpleNamespace(model=model, tokenizer=AutoTokenizer.from_pretrained(name))


def greedy_text(real, context, *, chat, n=6):
    """What `generate` writes after a context."""
    ids = torch.tensor([encode(context, real.tokenizer, special=not chat)])
    config = GenerationConfig(max_new_tokens=n, do_sample=False, pad_token_id=0, eos_token_id=2)
    out = real.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return real.tokenizer.decode(out[0, ids.shape[1] :])


@pytest.mark.parametrize("chat", [False, True])
def test_a_merged_answer_is_right_where_the_generated_text_begins_with_it(real, chat):
    """Every sentence cut at every letter, with the text that is generated there, beginnings of it, and others."""
    step = 1 if real.model.config.hidden_size < 100 else 7
    cuts = ["The address of the site is http:"]
    cuts += [sentence[:end] for sentence in SENTENCES for end in range(20, len(sentence), step)]
    if chat:
        opened = "{% for m in messages %}{{ m.content }}{% endfor %}"
        settings = {"chat": True, "template": opened}
    else:
        settings = {}
    items, expected = [], []
    for i, cut in enumerate(cuts):
        text = greedy_text(real, cut, chat=chat)
        wrong = SENTENCES[i % len(SENTENCES)][len(cut) :][:4] or "x"
        for j, answer in enumerate([text, text[:2], text[:3] + "~", wrong, ["~", text[:3]], [wrong, "~"]]):
            several = [answer] if isinstance(answer, str) else answer
            if "�" in text or any(not one.strip() or (chat and one != one.lstrip()) for one in several):
                continue
            items.append(Recall(f"{i}-{j}", cut, answer))
            expected.append(any(text.startswith(one) for one in several))
    probe = bind(Probe("p", items, **settings), real.tokenizer)
    merged = sorted(encode_items(probe, real.tokenizer).prompts)
    snapshot = score_probe(real.model, real.tokenizer, probe)
    right = sum(expected[i] for i in merged)
    assert len(merged) >= 30 and 3 <= right <= len(merged) - 3
    wrong = [
        (context_of(items[i], probe, real.tokenizer)[-12:], items[i].answer, snapshot.prediction[i])
        for i in merged
        if snapshot.correct[i] != expected[i]
    ]
    assert not wrong
    assert np.isnan(snapshot.margin[merged]).all() and (snapshot.choice == -1).all()
    # Where nothing merges, the answer's own tokens decide: a longer token that begins with the last does not count.
    for i in set(range(len(items))).difference(merged):
        assert snapshot.correct[i] <= expected[i]


def test_an_answer_of_a_probe_that_samples_is_decoded_greedily(taught):
    item = Recall("r", "The capital of France is ", "x")
    greedy = score_probe(taught.model, taught.tokenizer, Probe("p", [item]))
    drawn = score_probe(taught.model, taught.tokenizer, Probe("p", [item], temperature=5.0, seed=1))
    assert greedy.prediction[0] == drawn.prediction[0] != ""


def test_a_merged_answer_that_the_context_has_no_room_for_is_not_scored(make_model, tokenizer):
    prompt = "The capital of France is Pa"
    n = len(tokenizer.encode(prompt))
    for room, scored in ((0, False), (1, True)):
        model = make_model(max_position_embeddings=n + room)
        snapshot = score_probe(model, tokenizer, Probe("p", [Recall("r", prompt, "ris"), Recall("s", "x", " y")]))
        assert np.isfinite(snapshot.correct).tolist() == [scored, True]
        why = f"longer than the model's context of {n + room} tokens"
        assert snapshot.metadata.get("not_scored", {}) == ({} if scored else {why: 1})
