"""Scoring has no side effects, whatever happens inside: the next training step is bit for bit the same."""

import contextlib
import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, Qwen2Config

from forget_callback import Generation, MultipleChoice, Probe, Recall, score_probe
from forget_callback.scoring.guard import no_side_effects
from forget_callback.scoring.likelihood.tokens import encode_items
from tests.helpers import digest, generators, greedy, log_probabilities
from tests.scoring.architectures import tiny

ITEMS = [
    MultipleChoice("a", "The capital of France is", [" Paris", " Rome"], 0),
    Recall("b", "Once upon a time", " there was"),
    Generation("c", "Who?", "me", max_new_tokens=4),
    Generation("d", "x", "1", "number", max_new_tokens=3),
]
PROBES = {
    "greedy": Probe("p", ITEMS),
    "sampled": Probe("p", ITEMS, temperature=1.0),
    "chat": Probe("p", ITEMS, chat=True, temperature=1.0, normalization="length"),
}


@pytest.fixture(params=["full", "PEFT"])
def model(request, make_model):
    """In train mode but for one layer and one module in a layer that trains."""
    model = make_model(attention_dropout=0.5)
    if request.param == "PEFT":
        with torch.random.fork_rng(devices=[]):
            model = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.5, task_type="CAUSAL_LM"))
    model.train()
    layers = model.get_base_model().model.layers if request.param == "PEFT" else model.model.layers
    layers[0].eval()
    layers[1].mlp.training = False
    return model


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def backend(tokenizer):
    return tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding


def everything(model, tokenizer):
    """All state that training depends on."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {
        "weights": digest(model.state_dict()),
        "gradients": digest(gradients),
        "flags": flags(model),
        "generators": generators(),
        "grad mode": torch.is_grad_enabled(),
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "config": repr(sorted(vars(model.config).items(), key=str)),
        "generation config": repr(sorted(vars(model.generation_config).items(), key=str)),
        "generation config object": id(model.generation_config),
        "tokenizer": repr(sorted(vars(tokenizer).items(), key=str)),
        "special tokens": tokenizer.special_tokens_map,
        "backend": backend(tokenizer),
    }


def step(model, ids, optimizer):
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_changes_nothing(model, tokenizer, name):
    ids = torch.tensor([tokenizer.encode("The capital of Italy is Rome")])
    model(input_ids=ids, labels=ids).loss.backward()  # a probe between two steps of gradient accumulation
    tokenizer(["a", "b c d e f"], padding=True, truncation=True, max_length=3)
    assert tokenizer.backend_tokenizer.padding and len(set(flags(model).values())) == 2
    before = everything(model, tokenizer)
    score_probe(model, tokenizer, PROBES[name])
    assert everything(model, tokenizer) == before


@pytest.mark.parametrize("name", PROBES)
def test_training_with_dropout_continues_bit_for_bit(make_model, tokenizer, name):
    def train(probe):
        model = make_model(attention_dropout=0.5).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        digests = []
        for _ in range(3):
            ids = torch.randint(3, len(tokenizer), (4, 12))
            step(model, ids, optimizer)
            digests.append(digest(model.state_dict()))
            if probe is not None:
                score_probe(model, tokenizer, probe)
        return digests, random.random(), np.random.rand(), float(torch.rand(()))

    with torch.random.fork_rng(devices=[]):
        assert train(PROBES[name]) == train(None)


def test_dropout_is_what_makes_the_test_above_hard(make_model, tokenizer):
    """Two forward passes in train mode differ, so a generator that is not restored would show."""
    model = make_model(attention_dropout=0.5).train()
    ids = torch.tensor([tokenizer.encode("The capital of Italy is Rome")])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def meddle(model, tokenizer):
    """What a careless evaluation does."""
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    model.train()
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = "another"
    tokenizer.new_attribute = 1
    tokenizer(["a", "b c d e"], padding="max_length", truncation=True, max_length=2)
    model.config.use_cache = not model.config.use_cache
    model.config.layer_types.append("another")
    model.config.nested.hidden_size = 7
    model.config.nested.new_attribute = [1]
    model.config.new_attribute = {"a": 1}
    del model.config.vocab_size
    model.generation_config.temperature = 9.0
    model.generation_config.new_attribute = True


@pytest.mark.parametrize("exit_by", [None, ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("padded_before", [False, True])
def test_everything_is_restored(model, tokenizer, exit_by, padded_before):
    model.config.nested = Qwen2Config(hidden_size=32)
    if padded_before:
        tokenizer(["a", "b c d e f"], padding="max_length", truncation=True, max_length=5)
    assert (backend(tokenizer) == (None, None)) != padded_before

    def state():
        return {**everything(model, tokenizer), "nested": repr(sorted(vars(model.config.nested).items(), key=str))}

    before = state()
    with torch.random.fork_rng(devices=[]):
        outcome = pytest.raises(exit_by) if exit_by else contextlib.nullcontext()
        with outcome, no_side_effects(model, tokenizer):
            meddle(model, tokenizer)
            if exit_by is not None:
                raise exit_by
        assert state() == before


def test_side_effects_show_without_the_guard(model, tokenizer):
    """Otherwise the test above could not fail."""
    model.config.nested = Qwen2Config(hidden_size=32)
    before, nested, state = everything(model, tokenizer), vars(model.config.nested).copy(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        numpy_state = np.random.get_state()
        meddle(model, tokenizer)
        after = everything(model, tokenizer)
    random.setstate(state), np.random.set_state(numpy_state)
    touched = {"flags", "generators", "config", "generation config", "tokenizer", "special tokens", "backend"}
    assert {name for name in before if before[name] != after[name]} == touched
    assert nested != vars(model.config.nested)


def test_inside_the_model_is_in_eval_mode_without_gradients(model, tokenizer):
    ids = torch.tensor([[5, 6, 7]])
    with no_side_effects(model, tokenizer):
        assert not any(flags(model).values())
        logits = model(input_ids=ids).logits
        assert not logits.requires_grad and not logits.is_inference()
        torch.testing.assert_close(logits, model(input_ids=ids).logits, rtol=0, atol=0)
    assert model(input_ids=ids).logits.requires_grad


def test_a_guard_within_a_guard(model, tokenizer):
    before = everything(model, tokenizer)
    with no_side_effects(model, tokenizer):
        score_probe(model, tokenizer, PROBES["sampled"])
        assert not any(flags(model).values()) and not torch.is_grad_enabled()
    assert everything(model, tokenizer) == before


def raising(error):
    """A forward pass in which the user presses Ctrl-C, or which fails."""

    def forward(*args, **kwargs):
        raise error

    return forward


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("items", [ITEMS[:1], ITEMS[2:]], ids=["likelihood", "generation"])
def test_a_probe_that_fails_changes_nothing_either(make_model, tokenizer, error, items):
    model = make_model().train()
    model.generation_config = GenerationConfig(repetition_penalty=3.0)
    model.model.layers[1].forward = raising(error)
    before = everything(model, tokenizer)
    with pytest.raises(error):
        score_probe(model, tokenizer, Probe("p", items, temperature=1.0))
    assert everything(model, tokenizer) == before


def test_a_tokenizer_that_cannot_render_changes_nothing(make_model, tokenizer):
    model = make_model().train()
    tokenizer.chat_template = None
    before = everything(model, tokenizer)
    with pytest.raises(ValueError, match="no chat template"):
        score_probe(model, tokenizer, PROBES["chat"])
    assert everything(model, tokenizer) == before


def test_a_model_without_generation_config_and_a_plain_tokenizer(make_model):
    """Only what is there is guarded: any module and any object will do."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()

    class Plain:
        side = "right"

    tokenizer = Plain()
    with no_side_effects(module, tokenizer):
        assert not module.training
        tokenizer.side = "left"
    assert module.training and module[1].training and tokenizer.side == "right"


# --- buffers and attributes of modules --------------------------------------------------------------------------


class Counting(torch.nn.Module):
    """State of every kind that a forward pass may change."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.attention_type = getattr(layer, "attention_type", None)  # transformers 5.0 reads it off the layer
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(3), persistent=False)
        self.register_buffer("made_late", None)
        self.calls, self.plain, self.kind = 0, torch.zeros(2), "first"
        self.loads, self.by_expert, self.lengths = [1], {0: torch.zeros(1)}, {3}
        self.norm, self.observer = torch.nn.BatchNorm1d(2), torch.nn.Identity()

    def forward(self, *args, **kwargs):
        self.seen += 1
        self.replaced, self.made_late = self.replaced + 1, torch.ones(2)
        self.calls += 1
        self.plain.add_(1)
        self.kind = "second"
        self.loads.append(2)
        self.by_expert[0], self.by_expert[1] = torch.ones(1), 5
        self.lengths.clear()
        self.observer = torch.nn.ReLU()
        torch.nn.functional.batch_norm(torch.randn(4, 2), self.norm.running_mean, self.norm.running_var, training=True)
        return self.layer(*args, **kwargs)


def held(module):
    """All of it, objects and values."""
    names = ("seen", "replaced", "made_late", "calls", "plain", "kind", "loads", "by_expert", "lengths", "observer")
    values = [getattr(module, name) for name in names] + [module.norm.running_mean, module.norm.running_var]
    return repr([(id(value), value) for value in values])


def test_buffers_and_attributes_that_a_forward_pass_changes_are_restored(make_model, tokenizer):
    model = make_model().train()
    model.model.layers[0] = counting = Counting(model.model.layers[0]).train()
    before = held(counting)
    score_probe(model, tokenizer, PROBES["sampled"])
    assert held(counting) == before
    model(input_ids=torch.tensor([[5, 6, 7]]))
    assert held(counting) != before


def test_a_large_buffer_that_is_changed_in_place_is_said(make_model, tokenizer, caplog):
    """Copies of quantized weights would need their memory twice."""

    class Large(Counting):
        def __init__(self, layer):
            super().__init__(layer)
            self.register_buffer("wide", torch.zeros(2**19))

        def forward(self, *args, **kwargs):
            self.wide[0] += 1
            return self.layer(*args, **kwargs)

    model = make_model()
    model.model.layers[0] = Large(model.model.layers[0])
    score_probe(model, tokenizer, Probe("p", ITEMS[:1]))
    assert "changed the buffer 'wide' of 2 MB in place: it is left so" in caplog.text


# --- rotary embeddings that depend on the sequences that they see ---------------------------------------------------

_BY_TYPE = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
ROTARY = {
    "dynamic": ("Qwen2", {"rope_parameters": _BY_TYPE}),
    "dynamic by layer type": (
        "Gemma3, window",
        {
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": _BY_TYPE, "sliding_attention": _BY_TYPE},
        },
    ),
    "longrope": (
        "Phi3, window",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 100.0,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
            },
        },
    ),
}


def rotary(name, tokenizer, **more):
    architecture, settings = ROTARY[name]
    limit = 64 if name == "longrope" else 16
    return tiny(architecture, **{**settings, "vocab_size": len(tokenizer), "max_position_embeddings": limit, **more})


def rotary_probe(tokenizer):
    """Items shorter and longer than 16 tokens, and some of just 16."""
    story = tokenizer.encode("The capital of France is Paris. Once upon a time there was a fox who ran over the hill. ")
    items = []
    for i, n in enumerate((3, 9, 14, 15, 16, 22, 30)):
        prompt = tokenizer.decode(story[:n])
        items += [MultipleChoice(f"c{i}", prompt, ["x", "y", "z"], 0), Recall(f"r{i}", prompt, "xy")]
        items.append(Generation(f"g{i}", prompt, "x", "contains", max_new_tokens=2 if n < 15 else 8))
    return Probe("p", items)


def rotary_state(model):
    names = [f"{name}.{own}" for name, module in model.named_modules() for own in vars(module) if "seq_len" in own]
    values = [model.get_submodule(name.rpartition(".")[0]).__dict__[name.rpartition(".")[2]] for name in names]
    return repr(values), digest(dict(model.named_buffers()))


@pytest.mark.parametrize("name", ROTARY)
def test_training_with_dynamic_rotary_embeddings_continues_bit_for_bit(tokenizer, name):
    def train(probe):
        model = rotary(name, tokenizer).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        states = []
        for length in (30, 20, 40, 18, 10, 25):
            ids = torch.arange(5, 5 + 2 * length).reshape(2, length) % len(tokenizer)
            step(model, ids, optimizer)
            states.append((digest(model.state_dict()), rotary_state(model)))
            if probe is not None:
                score_probe(model, tokenizer, probe)
        return states

    assert train(rotary_probe(tokenizer)) == train(None)


@pytest.mark.parametrize("name", ROTARY)
def test_answers_do_not_depend_on_what_training_saw(tokenizer, name):
    model, probe = rotary(name, tokenizer), rotary_probe(tokenizer)
    fresh = score_probe(model, tokenizer, probe)
    for length in (40, 17, 16, 60):
        with torch.no_grad():
            model(input_ids=torch.arange(5, 5 + length)[None])
        again = score_probe(model, tokenizer, probe)
        assert [list(scores) for scores in again.scores] == [list(scores) for scores in fresh.scores]
        assert again.text.tolist() == fresh.text.tolist()


@pytest.mark.parametrize("name", ROTARY)
def test_every_answer_is_that_of_a_model_that_has_seen_nothing(tokenizer, name):
    """Rows of a batch share their frequencies, and so do cached keys and new ones: neither may change an answer."""
    probe = rotary_probe(tokenizer)
    snapshot = score_probe(rotary(name, tokenizer), tokenizer, probe)
    scored = {probe.items[row.item].id: [] for row in encode_items(probe, tokenizer).rows}
    for row in encode_items(probe, tokenizer).rows:
        model = rotary(name, tokenizer)
        table = log_probabilities(model, row.tokens[:-1])[row.n_context - 1 :]
        own = table.gather(1, torch.tensor(row.tokens[row.n_context :])[:, None])
        scored[probe.items[row.item].id].append(float(own.sum()))
    for i, item in enumerate(probe.items):
        if np.isnan(snapshot.correct[i]):
            assert len(tokenizer.encode(item.prompt)) > 8 and name != "longrope"
        elif isinstance(item, MultipleChoice):
            np.testing.assert_allclose(snapshot.scores[i], scored[item.id], atol=1e-4)
        elif isinstance(item, Generation):
            expected = greedy(rotary(name, tokenizer), tokenizer.encode(item.prompt), item.max_new_tokens, [2])
            assert snapshot.text[i] == tokenizer.decode(expected, skip_special_tokens=True)
    if name == "longrope":
        assert not np.isnan(snapshot.correct).any()
        assert (snapshot.metadata["likelihood"], snapshot.metadata["generation"]) == ("unpadded, all", "forward passes")
