"""Probes of a GRPO run with `use_vllm`: TRL's own code around a stand-in for vLLM's engine, which needs an accelerator.

The stand-in has what vLLM has: weights of its own that only a sync brings up to date, a context of a fixed length, and
settings that the trainer set for its own samples.
"""

import gc
import importlib
import os
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig

from forget_callback import ForgetCallback, Generation, Probe, score_probe
from forget_callback.runs.store import Store

from .conftest import weights_hash

BACKEND = "trl.generation.vllm_generation"


class Engine:
    """`vllm.LLM`, as far as TRL uses it."""

    context = 64
    scale = 1.0

    def __init__(self, model):
        self.model = model
        self.calls = []
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=self.context),
            model_executor=SimpleNamespace(driver_worker=SimpleNamespace(model_runner=SimpleNamespace(model=self))),
        )

    def load_weights(self, pairs):
        for name, tensor in pairs:
            self.model.get_parameter(name).data.copy_(tensor * self.scale)

    def reset_prefix_cache(self):
        pass

    def generate(self, prompts, sampling_params, use_tqdm):
        self.calls.append((len(prompts), sampling_params))
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    @torch.no_grad()
    def _answer(self, prompt, wanted):
        tokens, logprobs = [], []
        ends = {2, *getattr(wanted, "stop_token_ids", ())}  # the tokenizer's end of sequence
        while len(tokens) < wanted.max_tokens and not (tokens and tokens[-1] in ends):
            logits = self.model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1].float()
            shares = (logits / (wanted.temperature or 1)).log_softmax(-1)
            token = int(torch.multinomial(shares.exp(), 1)) if wanted.temperature else int(shares.argmax())
            tokens.append(token)
            logprobs.append({token: SimpleNamespace(rank=1, logprob=float(shares[token]))})
        one = SimpleNamespace(token_ids=tokens, logprobs=logprobs)
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[one])


@pytest.fixture
def make_vllm_grpo(make_grpo, make_model, monkeypatch):
    """make_vllm_grpo(callbacks) -> a GRPOTrainer that writes with an `Engine`."""
    backend = importlib.import_module(BACKEND)
    monkeypatch.setattr(backend, "is_vllm_available", lambda: True)
    monkeypatch.setattr(backend, "LLM", lambda **_: Engine(make_model()), raising=False)
    monkeypatch.setattr(backend, "SamplingParams", SimpleNamespace, raising=False)

    def make(callbacks, **config):
        trainer = make_grpo(callbacks, use_vllm=True, vllm_mode="colocate", top_p=0.9, **config)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)  # TRL sets them for vLLM
        return trainer

    return make


@pytest.fixture
def texts():
    """Greedy answers of different lengths."""
    wanted = {"match": "contains", "stop": (" sun",)}
    items = [Generation(f"g{i}", f"The fox {i} is", str(i), max_new_tokens=3 + i, **wanted) for i in range(5)]
    return Probe("texts", items)


def test_greedy_answers_come_from_the_trainers_vllm_with_the_weights_of_the_step(
    make_vllm_grpo, texts, tokenizer, tmp_path
):
    again = [replace(item, variants=[f"Which fox is {item.id}?"]) for item in texts.items[:2]]
    texts, runs = Probe("texts", [*again, *texts.items[2:]]), []
    for callbacks in ([], [ForgetCallback(texts, every=2, on_error="raise")]):
        trainer = make_vllm_grpo(callbacks)
        trainer.train()
        runs.append(trainer)
    without, watched = runs
    assert weights_hash(without.model) == weights_hash(watched.model)
    store = Store(tmp_path)
    assert store.steps("texts") == [0, 2, 4]
    last = store.read("texts", 4)
    assert last.metadata["generation"] == "vllm"
    own = score_probe(watched.model, tokenizer, texts)
    assert own.metadata["generation"] == "loop"
    assert last.text.tolist() == own.text.tolist()
    assert last.text_2.tolist() == own.text_2.tolist() and last.asked_2.sum() == 2
    assert store.read("texts", 0).text.tolist() != own.text.tolist()
    engine = watched.vllm_generation.llm
    ours = [(count, wanted) for count, wanted in engine.calls if wanted.temperature == 0]
    # All first prompts of a snapshot in one call, then the others; four of the first to check vLLM, before all.
    assert [count for count, _ in ours] == [4, *[5, 2] * 3]
    settings = {(count, wanted.max_tokens, *wanted.stop, *wanted.stop_token_ids) for count, wanted in ours}
    assert settings == {(4, 7, " sun", 2), (5, 7, " sun", 2), (2, 4, " sun", 2)}
    # And the trainer's own settings are as they were.
    theirs = [vars(wanted) for _, wanted in engine.calls if wanted.temperature > 0]
    before = [vars(wanted) for _, wanted in without.vllm_generation.llm.calls]
    assert theirs == before


def test_samples_are_written_by_the_model_itself(make_vllm_grpo, texts, tmp_path):
    """They would be drawn from vLLM's own generator."""
    sampled = Probe("sampled", texts.items, temperature=1.0)
    plain = make_vllm_grpo([])
    plain.train()
    trainer = make_vllm_grpo([ForgetCallback([texts, sampled], every=4, on_error="raise")])
    trainer.train()
    calls, before = trainer.vllm_generation.llm.calls, plain.vllm_generation.llm.calls
    assert [vars(wanted) for _, wanted in calls if wanted.temperature] == [vars(wanted) for _, wanted in before]
    # The greedy probe once at the baseline, after a check of four texts, and at the end: in float32 it is not scored
    # again for what flips by itself. The sampled one never.
    assert [count for count, wanted in calls if not wanted.temperature] == [4, len(texts), len(texts)]
    assert Store(tmp_path).read("sampled", 4).metadata["generation"] == "loop"
    assert Store(tmp_path).read("texts", 4).metadata["generation"] == "vllm"


@pytest.mark.parametrize(("name", "value"), [("context", 8), ("scale", -1.0)])
def test_a_vllm_that_fails_or_disagrees_is_rejected(make_vllm_grpo, texts, tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(Engine, name, value)
    make_vllm_grpo([ForgetCallback(texts, every=4, on_error="raise")]).train()
    assert Store(tmp_path).read("texts", 4).metadata["generation"] == "loop"


def test_adapters_are_never_merged_for_a_probe(make_vllm_grpo, texts, tmp_path):
    """Merged into the weights and taken out again they would leave them rounded."""
    adapters = LoraConfig(target_modules=["q_proj", "v_proj"])
    make_vllm_grpo([ForgetCallback(texts, every=4, on_error="raise")], peft_config=adapters).train()
    assert Store(tmp_path).read("texts", 4).metadata["generation"] == "loop"


def test_a_callback_that_is_kept_does_not_keep_vllm(make_vllm_grpo, texts):
    callback = ForgetCallback(texts, every=2, on_error="raise")
    trainer = make_vllm_grpo([callback])
    engine = weakref.ref(trainer.vllm_generation.llm)
    trainer.train()
    assert engine().calls and callback.last_step == 4
    del trainer
    gc.collect()
    assert engine() is None and callback.last_step == 4
