"""The probe `train:` made: rows of the trainer's own data set, as texts in the form in which they are learned.

No random generator is touched, and rows of a stream are not taken from it: training is the same with and without.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from forget_callback.probes.abilities import TRAINING
from forget_callback.probes.generators import generators_kept
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.text_items import Text
from forget_callback.probes.training_data import TrainingRows
from forget_callback.runs.store import Store
from forget_callback.training.unmeasured import reason


def rows_of(trainer: Any, probe: TrainingRows, tokenizer: Any) -> Probe:
    """The probe with texts of rows of the trainer's data, chosen by its seed.

    Of a row that is tokenized it is the text of its tokens, with the chat template's and whatever was packed into it;
    else the field `text`, the conversation in `messages`, or the prompt with `completion` or `chosen` after it, of GRPO
    the prompt alone.

    Raises:
        ValueError: If the trainer has no data of which rows can be read, or a row has no text.
    """
    data = getattr(trainer, "train_dataset", None)
    if data is None:
        raise ValueError("train: no trainer with a train_dataset was found; pass trainer= to ForgetCallback")
    if not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
        raise ValueError(
            f"train: the training data are a stream ({type(data).__name__}), of which no row can be read without "
            "taking it from the training; give texts of it as corpus:FILE"
        )
    n = len(data)
    drawn = random.Random(f"{probe.seed}/{n}").sample(range(n), min(probe.rows, n))
    items: list[Text] = []
    texts: set[str] = set()
    with generators_kept():  # a data set may be of any class
        for i in sorted(drawn):
            text = _text(data[i], tokenizer)
            if text.strip() and text not in texts:
                texts.add(text)
                items.append(Text(f"row-{i}", text, ability=TRAINING))
    if not items:
        raise ValueError(f"train: none of {len(drawn)} rows of the training data has a text")
    return Probe(probe.name, items, seed=probe.seed)


def made(
    probes: Sequence[Probe], trainer: Any, tokenizer: Any, store: Store | None, *, strict: bool
) -> tuple[list[Probe], dict[str, str]]:
    """The probes with those made that are of rows of the training data, and why others cannot be, by name.

    Args:
        store: Of the run: one that goes on keeps its rows.

    Raises:
        ValueError: If one cannot be made, and `strict`.
    """
    found, failed = [], {}
    for probe in probes:
        if not isinstance(probe, TrainingRows):
            found.append(probe)
            continue
        try:
            kept = store.probes() if store is not None and store.steps(probe.name) else []
            known = next((one for one in kept if one.name == probe.name), None)
            found.append(rows_of(trainer, probe, tokenizer) if known is None else known)
        except Exception as error:  # data sets are other people's code
            if strict:
                raise
            failed[probe.name] = reason(error)
    return found, failed


def _text(row: Any, tokenizer: Any) -> str:
    """The text of a row, as the model learns it.

    Raises:
        ValueError: If it has none of the fields that are known.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"train: a row of the training data is a {type(row).__name__}, and no mapping of fields")
    if row.get("input_ids") is not None:
        ids = [int(token) for token in row["input_ids"]]
        # BOS is put before every document when it is scored.
        while ids and ids[0] == tokenizer.bos_token_id:
            del ids[0]
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if row.get("messages") is not None:
        return _rendered(row["messages"], tokenizer)
    if row.get("prompt") is not None:
        answer = next((row[name] for name in ("completion", "chosen") if row.get(name) is not None), None)
        return _prompted(row["prompt"], answer, tokenizer)
    if isinstance(row.get("text"), str):
        return str(row["text"])
    raise ValueError(
        f"train: a row of the training data has none of input_ids, messages, prompt and text; it has "
        f"{', '.join(map(quoted, row)) or 'nothing'}; give its texts as corpus:FILE"
    )


def _prompted(prompt: Any, answer: Any, tokenizer: Any) -> str:
    """A prompt, and the answer after it where there is one; both are texts or both are messages."""
    if isinstance(prompt, str):
        return prompt + (answer if isinstance(answer, str) else "")
    if answer is None or isinstance(answer, str):
        return _rendered(prompt, tokenizer, add_generation_prompt=True) + (answer or "")
    return _rendered([*prompt, *answer], tokenizer)


def _rendered(messages: Sequence[Mapping[str, Any]], tokenizer: Any, **how: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
    text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, **how))
    return text.removeprefix(tokenizer.bos_token or "")
