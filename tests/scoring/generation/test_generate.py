"""Generated texts against definitions and other libraries: stops, sampling, and the model's generation config ignored.

`test_decoding.py` tests the decoding loop itself: batches, shared prefixes, and how many rows it forwards.
"""

import logging
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from forget_callback import Generation, Probe, score_probe
from forget_callback.scoring.engine import Scorer
from tests.helpers import adds_bos, greedy, log_probabilities, teach
from tests.scoring.architectures import MODELS, lively, skip_before, tiny

STORY = "Once upon a time"


def texts(model, tokenizer, items, **settings):
    """The generated texts, in item order."""
    return score_probe(model, tokenizer, Probe("p", items, **settings)).text.tolist()


def generation_items(prompts, *, match="contains", limit=12):
    return [Generation(f"g{i}", prompt, "x", match, max_new_tokens=limit) for i, prompt in enumerate(prompts)]


# The caches of these hold something else than keys and values.
GENERATE = dict.fromkeys(["Mamba", "Mamba2", "Qwen3Next", "Lfm2", "Jamba"], "generate")
# These expand what the cache keeps, add to the scores by position, or attend to chunks of the text.
GENERATE |= dict.fromkeys(["DeepseekV3", "Bloom", "Falcon, ALiBi", "Llama4, chunks"], "generate")
GENERATE["RecurrentGemma"] = "generate unpadded"  # its `generate` attends to the padding


@pytest.mark.parametrize("name", MODELS)
def test_greedy_texts_equal_decoding_by_definition(tokenizer, name):
    model = lively(name, vocab_size=len(tokenizer))
    prompts = ["x y", STORY, "Who wrote this? What is it?", "東京 "]
    expected = [greedy(model, tokenizer.encode(prompt), 9, stops=[tokenizer.eos_token_id]) for prompt in prompts]
    snapshot = score_probe(model, tokenizer, Probe("p", generation_items(prompts, limit=9)))
    assert snapshot.text.tolist() == [tokenizer.decode(e, skip_special_tokens=True) for e in expected]
    assert snapshot.metadata["generation"] == GENERATE.get(name, "loop")


def test_a_loop_that_was_correct_by_chance_is_not_kept(tokenizer):
    """Mamba ignores the KV cache, and this one generates what a model without context would, at first."""
    model, other = (make("Mamba", vocab_size=len(tokenizer)) for make in (tiny, lively))
    prompts = ["x", "Who", STORY]
    scorer = Scorer(tokenizer, [Probe("p", generation_items(prompts, limit=6))])
    scorer.score(model)
    model.load_state_dict(other.state_dict())
    expected = [greedy(model, tokenizer.encode(prompt), 6, stops=[2]) for prompt in prompts]
    assert scorer.score(model)[0].text.tolist() == [tokenizer.decode(e, skip_special_tokens=True) for e in expected]


def test_a_rejected_backend_generates_a_few_tokens(tokenizer, caplog):
    """Mamba ignores the KV cache of the loop."""
    caplog.set_level(logging.INFO)
    model, seen = lively("Mamba", vocab_size=len(tokenizer)), []
    model.register_forward_pre_hook(lambda *args: seen.append(args[-1]["input_ids"].numel()), with_kwargs=True)
    scorer = Scorer(tokenizer, [Probe("p", generation_items([f"{i} Who wrote" for i in range(40)], limit=30))])
    scorer.score(model)
    first = sum(seen)
    seen.clear()
    (snapshot,) = scorer.score(model)
    assert snapshot.metadata["generation"] == "generate" and "'loop' rejected" in caplog.text
    assert first < 1.3 * sum(seen)


@pytest.mark.parametrize("chat", [False, True])
def test_a_tokenizer_that_adds_bos_adds_it_to_plain_prompts_only(make_model, make_tokenizer, chat):
    tokenizer = adds_bos(make_tokenizer(bos_token="<s>"))
    model = make_model(vocab_size=len(tokenizer))
    prompt = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n" if chat else "<s>Who?"
    start = tokenizer.encode(prompt, add_special_tokens=False)
    expected = greedy(model, start, 12, stops=[tokenizer.eos_token_id])
    assert texts(model, tokenizer, generation_items(["Who?"]), chat=chat) == [
        tokenizer.decode(expected, skip_special_tokens=True)
    ]


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
    probe = Probe("p", generation_items([prompt], match=match, limit=limit))
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    assert (snapshot.text[0], snapshot.outcome[0]) == (text, outcome)


def test_only_exact_and_prefix_end_at_a_newline(taught):
    prompt = "The capital of France is"
    for match in ("exact", "prefix", "contains", "regex"):
        (text,) = texts(taught.model, taught.tokenizer, generation_items([prompt], match=match, limit=8))
        assert text == (" Paris\n" if match in ("exact", "prefix") else " Paris" + "\n" * 7)


def test_leading_newlines_do_not_end_the_first_line(taught):
    """The model generates newlines after its line; from there on, the first line is still to come."""
    prompt = "The capital of Italy is Rome\n"
    (text,) = texts(taught.model, taught.tokenizer, generation_items([prompt], match="exact", limit=8))
    assert text == "\n" * 8


def test_a_special_token_is_not_a_line(make_model, tokenizer):
    model = teach(make_model(), tokenizer, [("Who?", "<|im_start|>\n Paris\n")], steps=40)
    snapshot = score_probe(model, tokenizer, Probe("p", [Generation("g", "Who?", "Paris", max_new_tokens=20)]))
    assert (snapshot.text[0], snapshot.outcome[0]) == ("\n Paris\n", "correct")


def test_a_finished_row_generates_no_more(taught):
    prompts = [STORY, "Who wrote this?", "The opposite of cold is", "The capital of France is"]
    for match in ("contains", "exact"):
        together = texts(taught.model, taught.tokenizer, generation_items(prompts, match=match, limit=30))
        assert together == [
            texts(taught.model, taught.tokenizer, generation_items([p], match=match, limit=30))[0] for p in prompts
        ]
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
        snapshot = score_probe(model, tokenizer, Probe("p", generation_items([STORY], limit=6)))
        assert snapshot.text[0] == tokenizer.decode(expected[:2]) and snapshot.outcome[0] == "wrong"
        with torch.no_grad():
            model.lm_head.weight[name], model.lm_head.weight[expected[2]] = row, model_row


def test_sampling_depends_on_the_seed_only(make_model, tokenizer):
    model, items = make_model(), generation_items([STORY, "Who?", "x"])
    first = texts(model, tokenizer, items, temperature=1.0, seed=3)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert texts(model, tokenizer, items, temperature=1.0, seed=3) == first
    assert texts(model, tokenizer, items, temperature=1.0, seed=4) != first
    assert texts(model, tokenizer, items) != first


def test_sampling_a_tiny_nucleus_is_greedy(make_model, tokenizer):
    model, items = make_model(), generation_items([STORY, "Who?", "x"])
    assert texts(model, tokenizer, items, temperature=1.0, top_p=1e-6) == texts(model, tokenizer, items)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_sampling_follows_the_models_distribution(make_model, tokenizer, temperature):
    """First tokens of one prompt against softmax(logits / temperature), by decoded text."""
    model, n = make_model(initializer_range=0.3), 5_000
    p = torch.softmax(log_probabilities(model, tokenizer.encode(STORY))[-1] / temperature, dim=-1)
    expected = Counter()
    for token, share in enumerate(p.tolist()):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += share
    probe = Probe("p", generation_items([STORY] * n, limit=1), temperature=temperature)
    found = Counter(score_probe(model, tokenizer, probe).text)
    for text, share in expected.most_common(10):
        assert found[text] / n == pytest.approx(share, abs=4.5 * (share * (1 - share) / n) ** 0.5)


# --- stop strings ------------------------------------------------------------------------------------

SAYS = " there was a fox who ran over the hill and through the forest until it was gone"


def with_stop(taught, stop, *, match="contains", limit=40, prompt=STORY):
    item = Generation("g", prompt, "x", match, max_new_tokens=limit, stop=stop)
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", [item]))
    return snapshot.text[0], snapshot.outcome[0]


@pytest.mark.parametrize(
    "stop, text",
    [
        ([" who"], " there was a fox"),  # one token
        (["fox"], " there was a "),  # inside a token
        (["x w"], " there was a fo"),  # from one token into the next
        ([" ran over the hill"], " there was a fox who"),  # several tokens
        (["h"], " t"),
        ([" t"], ""),
        (["forest", "hill", " until"], " there was a fox who ran over the "),  # whatever comes first
        (["hill and", "the hill"], " there was a fox who ran over "),
        (["gone"], SAYS[: -len("gone")]),
        (["cat"], SAYS),
        (["goneX"], SAYS),
    ],
)
def test_a_stop_ends_the_text_and_is_no_part_of_it(taught, stop, text):
    assert with_stop(taught, stop) == (text, "wrong" if text else "unparsed")


def test_a_stop_that_does_not_come_leaves_a_truncated_text(taught):
    assert with_stop(taught, ["hill"], limit=3) == (" there was a", "truncated")
    n = len(taught.tokenizer.encode(" there was a fox who ran over the hill"))
    assert with_stop(taught, ["hill"], limit=n) == (" there was a fox who ran over the ", "wrong")


def test_a_stop_and_the_end_of_a_line_whichever_comes_first(taught):
    prompt = "The capital of France is"
    assert with_stop(taught, ["ris"], match="exact", prompt=prompt)[0] == " Pa"
    # With stops the line's end is no part of the text either.
    assert with_stop(taught, ["Rome"], match="exact", prompt=prompt)[0] == " Paris"


@pytest.mark.parametrize("stop, text", [("🦊", " a "), ("é 🦊 b", " a "), ("東", " a é 🦊 b "), ("京", " a é 🦊 b 東")])
def test_stops_of_letters_that_are_several_tokens(make_model, tokenizer, stop, text):
    says = " a é 🦊 b 東京 end"
    says = says.replace(" é", "") if stop == "🦊" else says
    text = text.replace(" é", "") if stop == "🦊" else text
    assert len(tokenizer.encode("🦊")) > 1 < len(tokenizer.encode("京"))
    model = teach(make_model(), tokenizer, [("Who?", says + "<|im_end|>")], steps=60)
    whole = Generation("whole", "Who?", "x", "contains", max_new_tokens=60)
    item = Generation("g", "Who?", "x", "contains", max_new_tokens=60, stop=[stop])
    assert score_probe(model, tokenizer, Probe("p", [whole, item])).text.tolist() == [says, text]


def test_a_special_token_may_be_a_stop(make_model, tokenizer):
    """As in tasks of lm-eval: `until: ["</s>", "<|im_end|>"]`."""
    model = teach(make_model(), tokenizer, [("Who?", " me<|im_start|> you<|im_end|>")], steps=60)
    item = Generation("g", "Who?", "x", "contains", max_new_tokens=20, stop=["<|im_start|>"])
    assert score_probe(model, tokenizer, Probe("p", [item])).text[0] == " me"


def test_each_item_has_its_own_stops(taught):
    stops = {"fox": " there was a ", "hill": " there was a fox who ran over the ", "cat": SAYS}
    items = [Generation(s, STORY, "x", "contains", max_new_tokens=40, stop=[s]) for s in stops]
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", items))
    assert snapshot.text.tolist() == list(stops.values())


# --- against other libraries -------------------------------------------------------------------------------------

FEW_SHOT = (
    "Question: Once upon a time? Answer: the sun went down. Question: Who? Answer: fox. Question: What is it? "
    "Answer: a number. Question: of cold? Answer: hot.\n"
)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Mistral, window", "Qwen3Moe", "Mamba"])
def test_texts_equal_generate_of_transformers(tokenizer, name, shared):
    if name == "Mamba":
        skip_before("5.4", "its own `generate` differs from its forward passes after a prompt of few tokens")
    longer = {"n_positions": 256} if name == "GPT-2" else {"max_position_embeddings": 256}
    model = lively(name, vocab_size=len(tokenizer), **longer)
    prompts = [(FEW_SHOT if shared else "") + f"{word}{i}" for i, word in enumerate(["x", STORY, " Who?", "sun"] * 3)]
    assert len(tokenizer.encode(FEW_SHOT)) >= 40
    expected = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt)])
        config = GenerationConfig(max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=2)
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        expected.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    assert texts(model, tokenizer, generation_items(prompts, limit=10)) == expected


@pytest.mark.parametrize("stop", [["\n"], ["fox", " 4"], ["the", "."]])
def test_texts_equal_lm_evals(taught, make_hflm, stop):
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    prompts = [*taught.lines, *(f"{i} {line}" for i, line in enumerate(taught.lines))]
    requests = [
        instance(
            request_type="generate_until",
            doc={},
            arguments=(prompt, {"until": stop, "max_gen_toks": 20, "do_sample": False}),
            idx=i,
        )
        for i, prompt in enumerate(prompts)
    ]
    expected = make_hflm(taught.model, taught.tokenizer).generate_until(requests, disable_tqdm=True)
    items = [Generation(f"{i}", p, "x", "contains", max_new_tokens=20, stop=stop) for i, p in enumerate(prompts)]
    assert texts(taught.model, taught.tokenizer, items) == expected


# --- several samples of an item ----------------------------------------------------------------------------------


def sampled(model, tokenizer, items, n, *, batch_tokens=None, **settings):
    """The texts of each item's `n` samples, by id, as a scorer gets them."""
    probe = Probe("p", [replace(item, samples=n) for item in items], temperature=1.0, **settings)
    texts = {}

    def keep(prompts, completions, id, **columns):
        for name, text in zip(id, completions):
            texts.setdefault(name, []).append(text)
        return [1] * len(prompts)

    score_probe(model, tokenizer, probe, batch_tokens=batch_tokens, scorer=keep)
    return texts


def test_samples_of_an_item_differ_and_the_first_is_that_of_a_single_one(make_model, tokenizer):
    model, items = make_model(), generation_items([STORY, "Who?", "x", "x"], limit=8)
    found = sampled(model, tokenizer, items, 4, seed=3)
    assert all(len(several) == len(set(several)) == 4 for several in found.values())
    assert found["g2"] != found["g3"]  # one prompt, two items
    first = texts(model, tokenizer, items, temperature=1.0, seed=3)
    assert [several[0] for several in found.values()] == first
    # Fewer samples are the first of more.
    assert {name: several[:2] for name, several in found.items()} == sampled(model, tokenizer, items, 2, seed=3)
    assert sampled(model, tokenizer, items, 2, seed=4) != sampled(model, tokenizer, items, 2, seed=3)


def test_an_items_samples_depend_neither_on_the_others_nor_on_the_batch_size(make_model, tokenizer):
    model = make_model()
    items = generation_items([STORY, "Who?", *(FEW_SHOT + f"{i}" for i in range(10)), "x"], limit=8)
    together = sampled(model, tokenizer, items, 3)
    for item in items[::4]:
        assert sampled(model, tokenizer, [item], 3) == {item.id: together[item.id]}
    assert sampled(model, tokenizer, items[::-1], 3) == dict(reversed(together.items()))
    for batch_tokens in (1, 60, 10**6):
        assert sampled(model, tokenizer, items, 3, batch_tokens=batch_tokens) == together


def test_another_replicate_is_other_samples(make_model, tokenizer):
    model, probe = make_model(), Probe("p", generation_items([STORY, "Who?"], limit=8), temperature=1.0)
    one, other = (score_probe(model, tokenizer, probe, replicate=replicate).text.tolist() for replicate in (0, 1))
    assert one[0] != other[0] and one[1] != other[1]


def unpadded(batch, tokenizer):
    return [[token for token in row if token != tokenizer.pad_token_id] for row in batch]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", FEW_SHOT])
def test_another_replicate_generates_greedily_in_other_batches(make_model, tokenizer, prefix, dtype):
    """Of the same prompts, in hardly more forward passes; in float32 the answers are the same."""
    model, forwards, texts = make_model().to(dtype), [], []
    probe = Probe("p", generation_items([f"{prefix}{'so ' * (i % 9)}{i}" for i in range(24)], limit=6))
    for replicate in (0, 0, 1, 1, 2):
        seen = []
        keep = lambda module, args, kwargs, seen=seen: seen.append(kwargs["input_ids"].tolist())  # noqa: E731
        with model.register_forward_pre_hook(keep, with_kwargs=True):
            texts.append(score_probe(model, tokenizer, probe, replicate=replicate).text.tolist())
        forwards.append(seen)
    first, same, other, repeated, another = forwards
    assert same == first and repeated == other and first != other != another != first
    assert len(other) <= len(first) + 2
    assert dtype != torch.float32 or all(one == texts[0] for one in texts)
    if dtype == torch.float32 and not prefix:  # behind a prefix prompts are packed into one row
        rows, others = ({tuple(r) for b in one for r in unpadded(b, tokenizer)} for one in (first, other))
        assert rows == others and len(rows) >= 24


def test_greedy_answers_are_not_sampled_several_times(make_model, tokenizer):
    item = Generation("g", STORY, "x", "contains", max_new_tokens=8, samples=4)
    calls = []
    snapshot = score_probe(
        make_model(), tokenizer, Probe("p", [item]), scorer=lambda prompts, **_: calls.append(len(prompts)) or [1]
    )
    assert calls == [1] and snapshot.samples.tolist() == [1] and snapshot.correct.tolist() == [1]


def test_samples_follow_the_model_given_what_was_sampled_before(make_model, tokenizer):
    """Second tokens: their distribution depends on the first one, and the draws of a row are independent."""
    model = make_model(initializer_range=0.3)
    n, start = 4000, tokenizer.encode(STORY)
    item = Generation("g", STORY, "x", "contains", max_new_tokens=2)
    found = Counter(sampled(model, tokenizer, [item], n, top_p=0.6)["g"])
    expected = Counter()
    for first, p in nucleus(log_probabilities(model, start)[-1].exp(), 0.6).items():
        if first == tokenizer.eos_token_id:
            expected[""] += p
            continue
        for second, q in nucleus(log_probabilities(model, [*start, first])[-1].exp(), 0.6).items():
            expected[tokenizer.decode([first, second], skip_special_tokens=True)] += p * q
    assert set(found) <= set(expected)
    for text, share in expected.most_common(10):
        assert found[text] / n == pytest.approx(share, abs=4.5 * (share * (1 - share) / n) ** 0.5)


def nucleus(p, top_p):
    """The fewest tokens of this probability together, by a loop, with their shares."""
    chosen, total = {}, 0.0
    for share, token in sorted(((share, token) for token, share in enumerate(p.tolist())), reverse=True):
        if total >= top_p:
            break
        chosen[token] = share
        total += share
    return {token: share / total for token, share in chosen.items()}


# --- the model's own config --------------------------------------------------------------------------------------

# Each of these would change, lengthen, shorten or break the texts if `generate` used it.
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
def test_the_models_own_generation_config_is_ignored(taught, make_model, own, temperature):
    model = make_model()
    model.load_state_dict(taught.model.state_dict())
    items = generation_items(taught.lines, limit=8)
    expected = texts(model, taught.tokenizer, items, temperature=temperature)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, **own)
    before = model.generation_config.to_dict()
    assert texts(model, taught.tokenizer, items, temperature=temperature) == expected
    assert model.generation_config.to_dict() == before


THOUGHT = "<think>\nRome?\nNo.\n</think>\n\nParis\nmore<|im_end|>"


def test_the_first_line_of_an_answer_comes_after_the_thinking(make_model, tokenizer):
    model = teach(make_model(), tokenizer, [("Who?", THOUGHT)])
    snapshot = score_probe(model, tokenizer, Probe("p", [Generation("g", "Who?", "Paris", max_new_tokens=60)]))
    assert (snapshot.outcome[0], snapshot.prediction[0]) == ("correct", "Paris")
    assert snapshot.text[0] == THOUGHT.partition("more")[0]
    cut = score_probe(model, tokenizer, Probe("p", [Generation("g", "Who?", "Paris", max_new_tokens=12)]))
    assert (cut.outcome[0], cut.prediction[0]) == ("truncated", None)


def test_a_thinking_block_that_the_template_opens_is_part_of_the_text(make_model, tokenizer):
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    prompt = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    model = teach(make_model(), tokenizer, [(prompt, THOUGHT.removeprefix("<think>\n"))])
    probe = Probe("p", [Generation("g", "Who?", "Paris", max_new_tokens=60)], chat=True)
    snapshot = score_probe(model, tokenizer, probe)
    assert (snapshot.outcome[0], snapshot.text[0]) == ("correct", THOUGHT.partition("more")[0])
    probe = Probe("p", [Generation("g", "Who?", "Rome", "contains", max_new_tokens=9)], chat=True)
    assert score_probe(model, tokenizer, probe).outcome[0] == "truncated"  # a thinking block is no answer


def test_a_letter_that_is_read_is_the_chosen_option(make_model, tokenizer):
    lines = [("Who?", " So it is (B).<|im_end|>"), ("What?", " Answer: D<|im_end|>"), ("Why?", " no<|im_end|>")]
    model = teach(make_model(), tokenizer, lines)
    items = [Generation(name, name, "B", "choice", max_new_tokens=20, options=3) for name, _ in lines]
    snapshot = score_probe(model, tokenizer, Probe("p", items))
    assert snapshot.outcome.tolist() == ["correct", "wrong", "unparsed"]
    assert snapshot.choice.tolist() == [1, -1, -1]  # there is no fourth option
    assert snapshot.n_choices.tolist() == [3, 3, 3] and snapshot.answer.tolist() == [1, 1, 1]
