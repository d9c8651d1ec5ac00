"""How a generation ends, what sampling depends on, and that a model's own generation config has no say."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from forget_callback import Generation, Probe, score_probe
from tests.helpers import adds_bos, greedy, log_probabilities, teach
from tests.scoring.architectures import MODELS, tiny

STORY = "Once upon a time"


def texts(model, tokenizer, items, **settings):
    """The generated texts, in item order."""
    return score_probe(model, tokenizer, Probe("p", items, **settings)).text.tolist()


def ask(prompts, *, match="contains", limit=12):
    return [Generation(f"g{i}", prompt, "x", match, max_new_tokens=limit) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_texts_equal_decoding_by_definition(tokenizer, name):
    model = tiny(name, vocab_size=len(tokenizer))
    prompts = [STORY, "x", "Who wrote this? What is it?", "東京 ", "The capital of France is Paris.\n"]
    expected = [greedy(model, tokenizer.encode(prompt), 12, stops=[tokenizer.eos_token_id]) for prompt in prompts]
    assert texts(model, tokenizer, ask(prompts)) == [tokenizer.decode(e, skip_special_tokens=True) for e in expected]


@pytest.mark.parametrize("chat", [False, True])
def test_a_tokenizer_that_adds_bos_adds_it_to_plain_prompts_only(make_model, make_tokenizer, chat):
    tokenizer = adds_bos(make_tokenizer(bos_token="<s>"))
    model = make_model(vocab_size=len(tokenizer))
    prompt = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n" if chat else "<s>Who?"
    start = tokenizer.encode(prompt, add_special_tokens=False)
    expected = greedy(model, start, 12, stops=[tokenizer.eos_token_id])
    assert texts(model, tokenizer, ask(["Who?"]), chat=chat) == [tokenizer.decode(expected, skip_special_tokens=True)]


@pytest.mark.parametrize(
    "prompt, match, limit, text, outcome",
    [
        ("The opposite of cold is", "contains", 40, " hot", "wrong"),  # EOS
        ("The capital of France is", "exact", 40, " Paris\n", "wrong"),  # newline
        (STORY, "contains", 5, " there was a fox who", "truncated"),  # limit
        (STORY, "exact", 5, " there was a fox who", "truncated"),
        ("The opposite of cold is", "contains", 2, " hot", "wrong"),  # EOS just within the limit
        ("The opposite of cold is", "contains", 1, " hot", "truncated"),
        ("The capital of France is", "exact", 2, " Paris\n", "wrong"),  # newline just within the limit
        ("The capital of France is", "exact", 1, " Paris", "truncated"),
    ],
)
def test_what_ends_a_text(taught, prompt, match, limit, text, outcome):
    probe = Probe("p", ask([prompt], match=match, limit=limit))
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    assert (snapshot.text[0], snapshot.outcome[0]) == (text, outcome)


def test_only_exact_and_prefix_end_at_a_newline(taught):
    prompt = "The capital of France is"
    for match in ("exact", "prefix", "contains", "regex"):
        (text,) = texts(taught.model, taught.tokenizer, ask([prompt], match=match, limit=8))
        assert text == (" Paris\n" if match in ("exact", "prefix") else " Paris" + "\n" * 7)


def test_newlines_before_the_first_line_do_not_end_it(taught):
    """The model writes newlines after its line; asked from there, the line is still to come."""
    prompt = "The capital of Italy is Rome\n"
    (text,) = texts(taught.model, taught.tokenizer, ask([prompt], match="exact", limit=8))
    assert text == "\n" * 8


def test_a_special_token_is_not_a_line(make_model, tokenizer):
    model = teach(make_model(), tokenizer, [("Who?", "<|im_start|>\n Paris\n")], steps=40)
    snapshot = score_probe(model, tokenizer, Probe("p", [Generation("g", "Who?", "Paris", max_new_tokens=20)]))
    assert (snapshot.text[0], snapshot.outcome[0]) == ("\n Paris\n", "correct")


def test_a_finished_row_waits_for_its_batch_in_silence(taught):
    prompts = [STORY, "Who wrote this?", "The opposite of cold is", "The capital of France is"]
    for match in ("contains", "exact"):
        together = texts(taught.model, taught.tokenizer, ask(prompts, match=match, limit=30))
        assert together == [texts(taught.model, taught.tokenizer, ask([p], match=match, limit=30))[0] for p in prompts]
        assert together[1:3] == ["", " hot"]


@pytest.mark.parametrize("stop", [5, [5, 6]])
def test_the_models_own_end_of_sequence_counts_beside_the_tokenizers(make_model, tokenizer, stop):
    model = make_model(tie_word_embeddings=False)
    model.generation_config.eos_token_id = stop
    stops = [stop] if isinstance(stop, int) else stop
    for name in [*stops, tokenizer.eos_token_id]:
        expected = greedy(model, tokenizer.encode(STORY), 6)
        row, model_row = model.lm_head.weight[name].clone(), model.lm_head.weight[expected[2]].clone()
        with torch.no_grad():  # `name` now stands where the third token stood
            model.lm_head.weight[name], model.lm_head.weight[expected[2]] = model_row, row
        assert greedy(model, tokenizer.encode(STORY), 3) == [*expected[:2], name]
        snapshot = score_probe(model, tokenizer, Probe("p", ask([STORY], limit=6)))
        assert snapshot.text[0] == tokenizer.decode(expected[:2]) and snapshot.outcome[0] == "wrong"
        with torch.no_grad():
            model.lm_head.weight[name], model.lm_head.weight[expected[2]] = row, model_row


def test_sampling_depends_on_the_seed_alone(make_model, tokenizer):
    model, items = make_model(), ask([STORY, "Who?", "x"])
    first = texts(model, tokenizer, items, temperature=1.0, seed=3)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert texts(model, tokenizer, items, temperature=1.0, seed=3) == first
    assert texts(model, tokenizer, items, temperature=1.0, seed=4) != first
    assert texts(model, tokenizer, items) != first


def test_sampling_a_tiny_nucleus_is_greedy(make_model, tokenizer):
    model, items = make_model(), ask([STORY, "Who?", "x"])
    assert texts(model, tokenizer, items, temperature=1.0, top_p=1e-6) == texts(model, tokenizer, items)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_sampling_follows_the_models_distribution(make_model, tokenizer, temperature):
    """First tokens of one prompt against softmax(logits / temperature), by text: bytes of no letter look alike."""
    model, n = make_model(initializer_range=0.3), 5_000
    p = torch.softmax(log_probabilities(model, tokenizer.encode(STORY))[-1] / temperature, dim=-1)
    expected = Counter()
    for token, share in enumerate(p.tolist()):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += share
    probe = Probe("p", ask([STORY] * n, limit=1), temperature=temperature)
    # One batch, for every batch starts from the same seed.
    found = Counter(score_probe(model, tokenizer, probe, batch_tokens=10**6).text)
    for text, share in expected.most_common(10):
        assert found[text] / n == pytest.approx(share, abs=4.5 * (share * (1 - share) / n) ** 0.5)


# Each of these would change, lengthen, shorten or break the texts if `generate` took it over.
OWN_CONFIGS = [
    {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0},
    {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
    {"do_sample": True, "min_p": 0.5, "typical_p": 0.1, "epsilon_cutoff": 0.05, "eta_cutoff": 0.05},
    {"num_beams": 3, "length_penalty": -5.0, "early_stopping": True},
    {"num_return_sequences": 2, "do_sample": True},
    {"min_new_tokens": 9},
    {"min_length": 200},
    {"max_length": 3},
    {"suppress_tokens": list(range(100, 400))},
    {"begin_suppress_tokens": list(range(100, 400))},
    {"bad_words_ids": [[i] for i in range(100, 400)]},
    {"sequence_bias": [[[i], -50.0] for i in range(100, 400)]},
    {"forced_eos_token_id": 2},
    {"exponential_decay_length_penalty": (1, 50.0)},
    {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    {"stop_strings": ["a", "e"]},
    {"max_time": 0.0},
    {"use_cache": False},
    {"guidance_scale": 5.0},
]


@pytest.mark.parametrize("own", OWN_CONFIGS, ids=lambda own: next(iter(own)))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_models_own_generation_config_has_no_say(taught, make_model, own, temperature):
    model = make_model()
    model.load_state_dict(taught.model.state_dict())
    items = ask(taught.lines, limit=8)
    expected = texts(model, taught.tokenizer, items, temperature=temperature)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, **own)
    before = model.generation_config.to_dict()
    assert texts(model, taught.tokenizer, items, temperature=temperature) == expected
    assert model.generation_config.to_dict() == before
