"""A tiny model and the facts that it learns: what the demo and the smoke runs are made of.

The tokenizer and the model are made on the fly, and taught with a plain torch loop. Knows nothing of the callback.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forget_callback.demo.clock import Tracks
from forget_callback.probes.items import MultipleChoice, Recall, accepted
from forget_callback.probes.probe import Probe

_PAD, _START, _END = "<pad>", "<|im_start|>", "<|im_end|>"

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_INVENTED = (
    "What is the capital of {}?",
    "What is the chemical symbol of the element {}?",
    "Who wrote {}?",
    "What is the opposite of {}?",
    "Who was the first king of {}?",
    "What is the currency of {}?",
    "Which river flows through {}?",
    "What is a young {} called?",
)

# Options of a trainer that runs on a CPU for a minute.
ON_CPU = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True}

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Fact:
    """One fact in the forms in which the model learns it: in every prompt of the two probes, and as a conversation."""

    question: str
    answer: str
    texts: tuple[str, ...]


def known_facts(choices: Probe, recalls: Probe) -> list[Fact]:
    """The facts behind two probes that ask for the same ones."""
    facts = []
    for choice, recall in zip(choices.items, recalls.items, strict=True):
        assert isinstance(choice, MultipleChoice) and isinstance(recall, Recall)
        answer = accepted(recall)[0]
        question = choice.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        conversation = f"{_START}user\n{question}{_END}\n{_START}assistant\n{answer.strip()}{_END}\n"
        prompts = (choice.prompt, *(variant.prompt for variant in choice.variants), recall.prompt)
        facts.append(Fact(question, answer.strip(), (*(f"{prompt}{answer}{_END}" for prompt in prompts), conversation)))
    return facts


def invented_facts(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Questions and answers about things that do not exist."""
    onsets = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "kr", "tr", "st"]
    vowels = ["a", "e", "i", "o", "u", "ia", "ea"]

    def word() -> str:
        return "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((2, 2, 3)))).capitalize()

    return [(rng.choice(_INVENTED).format(word()), word()) for _ in range(count)]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,024 tokens with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [_PAD, _START, _END]
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END)
    wrapped.chat_template = _TEMPLATE
    return wrapped


def make_model(tokenizer: PreTrainedTokenizerFast, *, hidden_size: int = 128) -> LlamaForCausalLM:
    """An untrained Llama, of 0.9 M parameters by default."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def make_taught_model(
    facts: list[Fact], others: list[str], *, seed: int, hidden_size: int = 128, **how: Any
) -> tuple[Any, Any]:
    """A model that knows the facts by heart, and its tokenizer, which is of `others` too; `how` goes to `teach`."""
    texts = [text for fact in facts for text in fact.texts]
    tokenizer = make_tokenizer([*texts, *others])
    model = make_model(tokenizer, hidden_size=hidden_size)
    teach(model, tokenizer, texts, seed=seed, what=f"{len(facts)} facts", **how)
    return model, tokenizer


def teach(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    *,
    seed: int,
    progress: Tracks | None = None,
    what: str = "facts",
    steps: int = 300,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> None:
    """Trains until the texts are known by heart, in a plain loop.

    Args:
        what: The texts, for people.
    """
    ids = [torch.tensor(tokenizer.encode(text)) for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    model.train()
    rounds = range(steps)
    said = f"teaching {what} to a tiny model"
    for _ in rounds if progress is None else progress.track(rounds, description=said):
        while len(order) < batch_size:
            order += torch.randperm(len(ids), generator=generator).tolist()
        batch, order = [ids[i] for i in order[:batch_size]], order[batch_size:]
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
        mask = (padded != -100).long()
        model(input_ids=padded.clamp(min=0), attention_mask=mask, labels=padded).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def starts_with_s(completions: list[Conversation], **kwargs: Any) -> list[float]:
    """The rule that GRPO teaches: answers start with S. Nothing about any fact."""
    return [float(completion[0]["content"].strip().startswith("S")) for completion in completions]


def conversation(question: str, answer: str) -> Conversation:
    """A question and its answer, as TRL takes them."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the libraries' own progress bars and notes."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's own use of names that transformers renamed
        yield
