"""Workloads of the benchmarks of speed and memory: models with random weights, a tokenizer made on the fly, and probes.

S has 6 layers of hidden size 256 and Llama's proportion of intermediate size, 688; M has the shape of Qwen2.5-0.5B; XS
is only for what is counted.
Items are those of a folder with arc_easy.jsonl, openbook_qa.jsonl, commonsense_qa.jsonl, boolq.jsonl, jeopardy.jsonl
and gsm8k.jsonl, as `load_probe` reads them; a file that it lacks, or no folder, means items of the same form from the
built-in probes. Nothing is downloaded or written to disk.
"""

from __future__ import annotations

import random
import re
import sysconfig
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from forget_callback import load_probe
from forget_callback.probes.items import Generation, MultipleChoice, Recall
from forget_callback.probes.probe import Probe

SIZES = {
    "XS": {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128, "num_attention_heads": 4},
    "S": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 688, "num_attention_heads": 4},
    "M": {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14},
}
# Items of each kind: of a real model, some ten seconds a turn on one core, and of the random ones.
KINDS = {"text": 64, "letters": 64, "boolq": 32, "recall": 96, "5shot": 16, "equal": 16, "tail": 16, "fewshot": 24}
N_ITEMS = {
    "S": {"text": 300, "letters": 300, "5shot": 60, "equal": 64, "tail": 64, "fewshot": 64},
    "M": {"text": 32, "letters": 32, "equal": 8, "tail": 8, "fewshot": 16},
}
# Longest answer of the generation items of random models.
LONGEST_TAIL = {"S": {"equal": 64, "tail": 200, "fewshot": 16}, "M": {"equal": 64, "tail": 64, "fewshot": 16}}
VOCABULARIES = {"32k": 32_000, "152k": 151_936}
EOS, PAD = "<|im_end|>", "<pad>"
BITS, DEPTH, PUSH = 8, 2.0**-4, 640.0  # of `count_down`: powers of two and a small multiple are exact in bfloat16
LONGEST = 2**BITS - 1


def make_tokenizer(data: Path | None = None, size: int = 32_000) -> Any:
    """A byte-level BPE of at most `size` tokens, from the items and the Python standard library; no BOS, like Qwen."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    code = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    items = sorted(data.glob("*.jsonl")) * 4 if data else []
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((path.read_text(encoding="utf-8", errors="replace") for path in code + items), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS, pad_token=PAD)


def make_model(size: str, vocabulary: str, tokenizer: Any, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """A Qwen2 with random weights and tied embeddings, in eval mode; the weights are the same in every call."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **SIZES[size],
        vocab_size=VOCABULARIES[vocabulary],
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.05,  # wide enough that no two options tie
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval().to(device, getattr(torch, dtype))


def load_items(data: Path | None, *names: str) -> list[Any]:
    """Items of several files, interleaved; none where a file is missing."""
    if data is None or not all((data / f"{name}.jsonl").is_file() for name in names):
        return []
    columns = [load_probe(str(data / f"{name}.jsonl")).items for name in names]
    return [item for items in zip(*columns) for item in items]


def facts(kind: type) -> list[Any]:
    """The built-in facts as choices or as recall, those of one relation not in a row."""
    items = [item for item in load_probe("builtin:facts").items if isinstance(item, kind)]
    return random.Random(0).sample(items, len(items))


def documents() -> list[Any]:
    """The built-in passages of prose and dialogue."""
    return [item for item in load_probe("builtin:text").items if item.category in ("prose", "dialogue")]


def right(item: Any) -> str:
    """The right answer's text."""
    if isinstance(item, MultipleChoice):
        return item.choices[item.answer]
    return " " + (item.answer if isinstance(item.answer, str) else item.answer[0]).strip()


def few_shot(items: list[Any], n: int = 5) -> list[Any]:
    """All but the first `n` items, after these with their answers."""
    prefix = "".join(f"{item.prompt}{right(item)}\n\n" for item in items[:n])
    return [replace(item, prompt=prefix + item.prompt) for item in items[n:]]


def lettered(item: MultipleChoice) -> MultipleChoice:
    """The item with its options in the prompt."""
    letters = "ABCDEFGH"[: len(item.choices)]
    listed = "".join(f"\n{letter}.{text}" for letter, text in zip(letters, item.choices))
    prompt = f"Question: {item.prompt} ...?\nChoices:{listed}\nAnswer:"
    return MultipleChoice(item.id, prompt, [f" {letter}" for letter in letters], item.answer)


def is_about(item: Any) -> MultipleChoice:
    """A question of the form of BoolQ about a passage."""
    prompt = f"Passage: {item.text}\nQuestion: is this passage a conversation\nAnswer:"
    return MultipleChoice(item.id, prompt, [" no", " yes"], int(item.category == "dialogue"))


def make_probe(kind: str, n: int | None = None, data: Path | None = None, *, size: str = "") -> Probe:
    """The first `n` items of a kind.

    Choices as "text", as "letters", of "5shot", with a passage before them ("boolq"); "recall"; and answers to write:
    of "equal" length (what a passage goes on with), of very unequal ones ("tail"), after five examples ("fewshot").

    Args:
        size: Of the model, which decides how many items there are by default.
    """
    made: list[Any]
    if kind == "text":
        made = load_items(data, "arc_easy", "openbook_qa") or facts(MultipleChoice)
    elif kind == "letters":
        made = load_items(data, "commonsense_qa") or [lettered(item) for item in facts(MultipleChoice)]
    elif kind == "5shot":
        made = few_shot(load_items(data, "arc_easy") or facts(MultipleChoice))
    elif kind == "boolq":
        made = load_items(data, "boolq") or [is_about(item) for item in documents()]
    elif kind == "recall":
        made = load_items(data, "jeopardy") or facts(Recall)
    else:
        made = _to_generate(kind, data)
    bare = [item if isinstance(item, Generation) else replace(item, variants=()) for item in made]
    return Probe(kind, bare[: n or ({**KINDS, **N_ITEMS[size]} if size else KINDS)[kind]])


def _to_generate(kind: str, data: Path | None) -> list[Generation]:
    limit, stop = {"equal": (48, ()), "tail": (200, ("Question:",)), "fewshot": (32, ("\n",))}[kind]
    if kind == "equal":
        prompts = [" ".join(item.text.split()[:30]) for item in documents()]
    elif kind == "tail":
        asked = load_items(data, "gsm8k")
        prompts, stop = [item.prompt for item in asked or facts(Recall)], stop if asked else ("\n\n",)
    else:
        prompts = [item.prompt for item in few_shot(load_items(data, "jeopardy") or facts(Recall))]
    how: dict[str, Any] = {"match": "contains", "max_new_tokens": limit, "stop": stop}
    return [Generation(f"{i}", prompt, "42", **how) for i, prompt in enumerate(prompts)]


def long_tail(size: str, kind: str, n: int | None, tokenizer: Any, data: Path | None = None) -> Probe:
    """Items for `count_down`, which generates as many tokens as the prompt's last word says.

    "equal": prompts of 32 tokens, answers of 64. "tail": one answer in eight has 200 tokens (of M 64), the others 8 to
    20. "fewshot": five examples before each prompt, answers of 6 to 16 tokens.
    """
    if kind == "fewshot":
        prompts = [item.prompt for item in few_shot(load_items(data, "jeopardy") or facts(Recall))]
    else:
        prompts = [item.prompt for item in load_items(data, "gsm8k") or map(is_about, documents())]
    if kind == "equal":
        prompts = [text for text in (_cut(prompt, 31, tokenizer) for prompt in prompts) if text]
    longest = LONGEST_TAIL[size][kind]
    lengths = {"equal": [longest], "tail": [8, 14, 11, longest, 20, 9, 17, 12], "fewshot": [6, 12, longest, 9]}[kind]
    words = {length: _word(length, tokenizer) for length in set(lengths)}
    limit = LONGEST if kind == "tail" else longest
    how: dict[str, Any] = {"match": "contains", "max_new_tokens": limit, "stop": ("\n",)}
    return Probe(
        kind,
        [
            Generation(f"{i}", f"{prompt}{words[length]}", "42", **how)
            for i, (prompt, length) in enumerate(zip(islice(cycle(prompts), n or N_ITEMS[size][kind]), cycle(lengths)))
        ],
    )


def _cut(text: str, n: int, tokenizer: Any) -> str | None:
    """The first words of a text that are `n` tokens long; None if no cut between words gives that length."""
    words = text.split(" ")
    cuts = (" ".join(words[:k]) for k in range(1, len(words) + 1))
    return next((cut for cut in cuts if len(tokenizer.encode(cut)) == n), None)


def classes(tokenizer: Any) -> list[int]:
    """Class of each token: how many tokens are generated after it; 0 for a newline, -1 for a token never generated."""
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    found, n = [], 0
    for i, text in enumerate(texts):
        usable = bool(text.strip()) and text.isascii() and text.isprintable() and i not in tokenizer.all_special_ids
        found.append(0 if text == "\n" else 1 + n % LONGEST if usable else -1)
        n += usable
    return found


def _word(length: int, tokenizer: Any) -> str:
    """A word that is a single token at the end of any prompt, and after which `length` tokens are generated."""
    for i, follows in enumerate(classes(tokenizer)):
        text = tokenizer.decode([i])
        if follows == length and re.fullmatch(" [a-z]{2,}", text) and tokenizer.encode("x" + text)[1:] == [i]:
            return text
    raise LookupError(f"no word of the tokenizer has class {length}; train it with a larger vocabulary")


def count_down(model: Any, tokenizer: Any) -> Any:
    """Makes a model end its line after a number of tokens that the last token of the prompt determines.

    A token of class k (see `classes`) is followed by the likeliest token of class k - 1, and class 0 is the newline.
    The first features of the embeddings encode the class, and a hook overwrites the same features of the decoder's
    output with the required class. So lengths do not depend on batches, padding or KV caches, only the words do.
    """
    import torch

    embeddings = model.get_output_embeddings().weight
    table = torch.full((embeddings.shape[0],), -1)
    table[: len(tokenizer)] = torch.tensor(classes(tokenizer))
    table = table.to(embeddings.device)
    bits = ((torch.arange(2**BITS, device=table.device)[:, None] >> torch.arange(BITS, device=table.device)) & 1).bool()
    wrong = torch.cat([~bits, bits], dim=1)  # the features that must be off
    with torch.no_grad():
        embeddings[:, : 2 * BITS] = -DEPTH
        known = table >= 0
        embeddings[known, : 2 * BITS] = -DEPTH * wrong[table[known]].to(embeddings.dtype)
    wanted = (PUSH * ~wrong).to(embeddings.dtype)

    def overwrite(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        follows = table[kwargs["input_ids"] if "input_ids" in kwargs else args[0]]
        output.last_hidden_state[..., : 2 * BITS] = wanted[(follows - 1).clamp(min=0)]

    model.model.register_forward_hook(overwrite, with_kwargs=True)
    return model
