"""Workloads of `scoring.py` and `memory.py`: models with random weights, a tokenizer trained on the fly, and probes.

S has 6 layers of hidden size 256 and Llama's proportion of intermediate size, 688; M has the shape of Qwen2.5-0.5B.
Items are real ones where `../shared/data` exists, else the built-in facts. Nothing is downloaded or written to disk.
"""

from __future__ import annotations

import json
import re
import sysconfig
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from forget_callback import load_probe
from forget_callback.probes.items import Generation, MultipleChoice
from forget_callback.probes.probe import Probe
from forget_callback.probes.records import parse_item

SIZES = {
    "S": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 688, "num_attention_heads": 4},
    "M": {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14},
}
VOCABULARIES = {"32k": 32_000, "152k": 151_936}
FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
EOS, PAD = "<|im_end|>", "<pad>"
BITS, DEPTH, PUSH = 8, 2.0**-4, 640.0  # of `count_down`: powers of two and a small multiple are exact in bfloat16
LONGEST = 2**BITS - 1


def load_items(*names: str) -> list[Any]:
    """Items of several files, interleaved; the built-in facts where the files do not exist."""
    files = [FOLDER / f"{name}.jsonl" for name in names]
    if not all(file.is_file() for file in files):
        return list(load_probe("builtin:facts").items)
    columns = [parse_lines(file.read_text(encoding="utf-8")) for file in files]
    return [item for items in zip(*columns) for item in items]


def parse_lines(text: str) -> list[Any]:
    """The items of a file."""
    return [parse_item(json.loads(line)) for line in text.splitlines()]


def source() -> str:
    """Where the items come from, human-readable."""
    return f"items of {FOLDER}" if FOLDER.is_dir() else "built-in facts"


def make_tokenizer(size: int = 32_000) -> Any:
    """A byte-level BPE of at most `size` tokens, from the items and the Python standard library; no BOS, like Qwen."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    code = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    items = sorted(FOLDER.glob("*.jsonl")) * 4
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


def right(item: Any) -> str:
    """The right answer's text."""
    if isinstance(item, MultipleChoice):
        return item.choices[item.answer]
    return " " + (item.answer if isinstance(item.answer, str) else item.answer[0]).strip()


def few_shot(items: list[Any], n: int = 5) -> tuple[str, list[Any]]:
    """The first `n` items with their answers, and the others."""
    return "".join(f"{item.prompt}{right(item)}\n\n" for item in items[:n]), items[n:]


def choices(kind: str, n: int) -> Probe:
    """`n` multiple-choice items: "text", "letters" or "5shot"."""
    names = {"text": ("arc_easy", "openbook_qa"), "letters": ("commonsense_qa",), "5shot": ("arc_easy",)}[kind]
    items = [item for item in load_items(*names) if isinstance(item, MultipleChoice)]
    prefix, items = few_shot(items) if kind == "5shot" else ("", items)
    shown = [MultipleChoice(item.id, prefix + item.prompt, item.choices, item.answer) for item in items[:n]]
    return Probe(kind, shown)


def generation(kind: str, n: int, tokenizer: Any, *, longest: int = 200) -> Probe:
    """`n` generation items whose generated length is set by the prompt's last word (see `count_down`).

    "equal": prompts of 32 tokens, generated texts of 64. "tail": one text in eight has `longest` tokens, the others
    8 to 20. "fewshot": five examples before each prompt, texts of 6 to 16 tokens.
    """
    items = load_items("jeopardy" if kind == "fewshot" else "gsm8k")
    prefix, items = few_shot(items) if kind == "fewshot" else ("", items)
    prompts = [item.prompt for item in items]
    if kind == "equal":
        prompts = [text for text in (_cut(prompt, 31, tokenizer) for prompt in prompts) if text]
    lengths = {
        "equal": [64],
        "tail": [8, 14, 11, longest, 20, 9, 17, 12],
        "fewshot": [6, 12, 16, 9],
    }[kind]
    words = {length: _word(length, tokenizer) for length in set(lengths)}
    limit = {"equal": 64, "tail": LONGEST, "fewshot": 16}[kind]
    made = [
        Generation(f"{i}", f"{prefix}{prompt}{words[length]}", "42", max_new_tokens=limit)
        for i, (prompt, length) in enumerate(zip(islice(cycle(prompts), n), cycle(lengths)))
    ]
    return Probe(kind, made)


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
