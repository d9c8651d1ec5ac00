"""What is no causal language model is refused with a sentence; what is one is scored, whatever is around it."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertLMHeadModel,
    Trainer,
    TrainingArguments,
)

from forget_callback import ForgetCallback, Generation, MultipleChoice, Probe, Recall, load_model, score_probe
from tests.helpers import log_probabilities
from tests.scoring.architectures import SMALL

CHOICE = MultipleChoice("c", "The capital of France is", [" Paris", " Rome", " hot"], 0)
RECALL = Recall("r", "Once upon a time", " there was")
GENERATION = Generation("g", "Who wrote this?", "me", max_new_tokens=3)
KINDS = {"choice": CHOICE, "recall": RECALL, "generation": GENERATION}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def made(auto, kind, vocabulary, **more):
    settings = SMALL if kind in ("llama", "gemma3_text") else {} if kind == "t5" else BERT
    config = AutoConfig.for_model(kind, **{**settings, "vocab_size": vocabulary, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (auto.from_config(config) if hasattr(auto, "from_config") else auto(config)).eval()


class ValueHead(torch.nn.Module):
    """As TRL's was: logits, loss and values in a tuple."""

    def __init__(self, model):
        super().__init__()
        self.pretrained_model, self.v_head, self.config = model, torch.nn.Linear(32, 1), model.config

    def forward(self, **inputs):
        output = self.pretrained_model(output_hidden_states=True, **inputs)
        return output.logits, None, self.v_head(output.hidden_states[-1])


class NamelessReward(torch.nn.Module):
    """A reward model whose class does not say what it is."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.device, self.dtype = model, model.config, model.device, model.dtype

    def forward(self, **inputs):
        return self.inner(**inputs)


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
REFUSED = {
    "T5": (
        lambda n: made(AutoModelForSeq2SeqLM, "t5", n, **T5),
        "T5ForConditionalGeneration, an encoder-decoder model",
    ),
    "BART": (
        lambda n: made(AutoModelForSeq2SeqLM, "bart", n, d_model=32, encoder_layers=1, decoder_layers=1, **BERT),
        "BartForConditionalGeneration, an encoder-decoder model",
    ),
    "masked": (lambda n: made(AutoModelForMaskedLM, "bert", n), "BertForMaskedLM, a masked language model"),
    "masked, as if causal": (
        lambda n: made(BertLMHeadModel, "bert", n),
        "BertLMHeadModel, whose logits depend on later",
    ),
    "RoBERTa, as if causal": (
        lambda n: made(AutoModelForCausalLM, "roberta", n),
        "whose logits depend on later tokens",
    ),
    "bidirectional Gemma": (
        lambda n: made(AutoModelForCausalLM, "gemma3_text", n, use_bidirectional_attention=True, sliding_window=8),
        "Gemma3ForCausalLM, whose logits depend on later tokens",
    ),
    "reward": (
        lambda n: made(AutoModelForSequenceClassification, "llama", n, num_labels=1),
        "LlamaForSequenceClassification, a reward model or classifier",
    ),
    "nameless reward": (
        lambda n: NamelessReward(made(AutoModelForSequenceClassification, "llama", n, num_labels=1)),
        r"NamelessReward, whose logits of \d+ tokens have shape \(1, 1\)",
    ),
    "token labels": (lambda n: made(AutoModelForTokenClassification, "llama", n), "a token classifier"),
    "nameless token labels": (
        lambda n: NamelessReward(made(AutoModelForTokenClassification, "llama", n)),
        "NamelessReward, whose logits",
    ),
    "spans": (lambda n: made(AutoModelForQuestionAnswering, "llama", n), "an extractive question-answering model"),
    "no head": (lambda n: made(AutoModel, "llama", n), "LlamaModel, which returns no logits"),
    "value head": (lambda n: ValueHead(made(AutoModelForCausalLM, "llama", n)), "ValueHead, .* with a value head"),
    **{
        config.__name__: (
            lambda n, config=config: get_peft_model(
                made(AutoModelForCausalLM, "llama", n), config(num_virtual_tokens=4, task_type="CAUSAL_LM")
            ),
            "a PEFT model with virtual tokens",
        )
        for config in (PromptTuningConfig, PromptEncoderConfig, PrefixTuningConfig)
    },
    "reward with LoRA": (
        lambda n: get_peft_model(
            made(AutoModelForSequenceClassification, "llama", n, num_labels=1), LoraConfig(task_type="SEQ_CLS")
        ),
        "LlamaForSequenceClassification, a reward model",
    ),
}

NUMBERS = ("masked, as if causal", "no head")  # what they are shows in a forward pass only


@pytest.mark.parametrize(
    "name, kind",
    [*((name, "choice") for name in REFUSED), *((name, kind) for name in NUMBERS for kind in ("recall", "generation"))],
)
@pytest.mark.filterwarnings("ignore:.*add `is_decoder=True`.*")
def test_what_is_no_causal_language_model_is_refused_with_a_sentence(tokenizer, name, kind):
    make, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=f"model must be a causal language model.* got .*{sentence}"):
        score_probe(make(len(tokenizer)), tokenizer, Probe("p", [KINDS[kind]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_masked_model_in_low_precision_is_refused_too(tokenizer, dtype):
    model = made(BertLMHeadModel, "bert", len(tokenizer), initializer_range=0.3).to(dtype)
    with pytest.raises(ValueError, match="whose logits depend on later tokens"):
        score_probe(model, tokenizer, Probe("p", [CHOICE]))


def expected(model, tokenizer):
    """Log-probabilities of the options by plain forward passes."""
    head = tokenizer.encode(CHOICE.prompt)
    result = []
    for option in CHOICE.choices:
        whole = tokenizer.encode(CHOICE.prompt + option)
        table = log_probabilities(model, whole)
        result.append(sum(float(table[at - 1, whole[at]]) for at in range(len(head), len(whole))))
    return result


WRAPPED = {
    "a decoder like BERT": lambda n: made(BertLMHeadModel, "bert", n, is_decoder=True),
    "LoRA": lambda n: get_peft_model(made(AutoModelForCausalLM, "llama", n), LoraConfig(task_type="CAUSAL_LM")),
    "compiled": lambda n: torch.compile(made(AutoModelForCausalLM, "llama", n), backend="eager"),
    "all tokens alike": lambda n: zeroed(made(AutoModelForCausalLM, "llama", n)),
    "diverged": lambda n: zeroed(made(AutoModelForCausalLM, "llama", n), torch.nan),
}


@torch.no_grad()
def zeroed(model, value=0.0):
    model.lm_head.weight.fill_(value)
    return model


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_one_is_scored(tokenizer, name):
    model = WRAPPED[name](len(tokenizer)).eval()
    snapshot = score_probe(model, tokenizer, Probe("p", [CHOICE]))
    if name == "diverged":
        assert np.isnan(snapshot.correct).all()
    else:
        np.testing.assert_allclose(snapshot.scores[0], expected(model, tokenizer), atol=1e-4, rtol=0)


SAVED = {
    "T5": r"no causal language model at '.*': transformers has none for 't5'",
    "masked": "was saved as BertForMaskedLM, a masked language model",
    "reward": "was saved as LlamaForSequenceClassification, a reward model or classifier",
    "no head": "was saved as LlamaModel, without lm_head.weight",
}


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.filterwarnings("ignore:.*add `is_decoder=True`.*")
def test_a_checkpoint_of_another_kind_is_not_given_a_head(tokenizer, tmp_path, name, run_cli):
    """AutoModelForCausalLM loads most of them, with an LM head of random weights."""
    REFUSED[name][0](len(tokenizer)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=SAVED[name]):
        load_model(str(tmp_path))
    if name == "reward":
        tokenizer.save_pretrained(tmp_path)
        probe = tmp_path / "p.jsonl"
        probe.write_text('{"id": "c", "prompt": "x", "choices": [" a", " b"], "answer": 0}\n', encoding="utf-8")
        status, _, err = run_cli("snapshot", tmp_path, "--probe", probe, "--out", tmp_path / "out")
        assert status == 2 and "a reward model or classifier" in " ".join(err.split())


def test_the_callback_says_the_sentence(tokenizer, tmp_path, capsys, caplog):
    model = REFUSED["PromptTuningConfig"][0](len(tokenizer))
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * 2)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no")
    Trainer(
        model,
        arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[ForgetCallback(Probe("p", [CHOICE]))],
    ).train()
    said = " ".join((caplog.text + capsys.readouterr().err).split())
    assert "got a PEFT model with virtual tokens (PROMPT_TUNING)" in said


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.nn.Sequential])
def test_what_wraps_a_model_is_refused_in_words(make_model, tokenizer, wrap):
    probe = Probe("p", [MultipleChoice("a", "one", [" two", " three"], 0)])
    with pytest.raises(ValueError, match=f"got {wrap.__name__}; pass the one that it wraps"):
        score_probe(wrap(make_model()), tokenizer, probe)
