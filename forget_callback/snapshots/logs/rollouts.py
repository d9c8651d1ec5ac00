"""Validation dumps of RL trainers: a line per generated answer, with its prompt and its reward.

The forms are those that the writers' code fixes: verl, NeMo-RL, prime-rl with verifiers, and the rewards of OpenRLHF.
Where a row has no id, the id is the hash of its prompt, with a running number where a prompt was answered several
times; these are one cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forget_callback.probes.quoting import printable, quoted
from forget_callback.snapshots.logs.files import Record, parsed, read_text, records, suffix_of
from forget_callback.snapshots.logs.log import Log, LogOptions, digest
from forget_callback.snapshots.logs.per_item import log_of

# What may decide, the best first: verl's "score" may be a shaped reward, "acc" is what its reward functions call right.
PREFERRED = ("acc", "correct", "score", "reward")


@dataclass(frozen=True)
class _Answer:
    """One generated answer.

    Attributes:
        key: What makes it the same item: an id, or the prompt.
        scores: Its rewards, by name.
        messages: The prompt as a list of messages, if the row has one.
    """

    key: Any
    prompt: str
    text: str | None
    scores: Mapping[str, Any]
    expected: Any = None
    category: str = ""
    outcome: str | None = None
    messages: Any = None


def tool_of(record: Mapping[str, Any]) -> str:
    """Which trainer wrote a row, "" if none that is known."""
    return next((tool for tool, (fields, _) in _TOOLS.items() if fields <= set(record)), "")


def read(file: Path, wanted: LogOptions) -> Log:
    """One dump.

    Raises:
        ValueError: If it is damaged, or its rewards do not tell right from wrong.
    """
    rows = _records(file)
    tool = tool_of(rows[0].raw) if rows else ""
    if not tool:
        raise ValueError(f"{printable(str(file))} holds no answers of {', '.join(_TOOLS)}")
    fields, convert = _TOOLS[tool]
    answers = []
    for row in rows:
        try:
            answers.append(convert(row.raw))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            expected = ", ".join(sorted(fields))
            raise ValueError(
                f"{printable(str(file))}, {row.where}: not a row of {tool}: expected {expected} as in the first row"
            ) from None
    others = list(dict.fromkeys(name for one in answers for name in one.scores if name not in PREFERRED))
    table = [Record(row.where, raw) for row, raw in zip(rows, _table(answers))]
    return log_of(table, file, wanted, tool=tool, probe="validation", preferred=PREFERRED, others=others, indices=False)


def _records(file: Path) -> list[Record]:
    if suffix_of(file) != ".json":
        return records(file)
    content = parsed(read_text(file), printable(str(file)))  # NeMo-RL's evaluation_data.json
    entries = content["evaluation_data"]
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ValueError(
            f"{printable(str(file))}: expected a list of answers as evaluation_data, got {quoted(entries)}"
        )
    return [Record(f"entry {i}", one) for i, one in enumerate(entries, start=1)]


def _table(answers: Sequence[_Answer]) -> Iterator[dict[str, Any]]:
    """The answers as rows of a per-item file."""
    names = [one.key if isinstance(one.key, str) else digest(one.key)[:16] for one in answers]
    total, seen = Counter(names), Counter[str]()
    for one, name in zip(answers, names):
        seen[name] += 1
        yield {
            **{column: value for column, value in one.scores.items() if column not in ("k", "choice", "variant")},
            "id": name if seen[name] == 1 else f"{name}-{seen[name]}",
            "cluster": name if total[name] > 1 else "",
            "category": one.category,
            "prompt": one.prompt,
            "messages": one.messages,
            "prediction": one.text,
            "answer": None if one.expected is None else str(one.expected),
            "outcome": one.outcome,
        }


def _verl(raw: Mapping[str, Any]) -> _Answer:
    """A row of verl, or of the rewards of OpenRLHF.

    verl (volcengine/verl, verl/trainer/ppo/ray_trainer.py, `_dump_generations`) writes {step}.jsonl with input, output,
    gts (not at first), score, step and what the reward function returned beside, such as acc. OpenRLHF's trainer dumps
    no validation answers (OpenRLHF/OpenRLHF, openrlhf/trainer/ppo_trainer.py, `evaluate`); until March 2026
    openrlhf/cli/batch_inference.py (`batch_rm_inference`) wrote input, output, reward.
    """
    known = ("input", "output", "gts", "step")
    scores = {name: value for name, value in raw.items() if name not in known and not isinstance(value, (dict, list))}
    prompt = _said(raw["input"])
    return _Answer([prompt], prompt, _said(raw["output"]), scores, raw.get("gts"))


def _nemo_rl(raw: Mapping[str, Any]) -> _Answer:
    """A row of NeMo-RL's val_data_step{step}.jsonl: content (messages) and rewards, each a list of one, and idx.

    Written by NVIDIA-NeMo/RL, nemo_rl/algorithms/grpo.py (`validate`) with nemo_rl/utils/logger.py
    (`log_batched_dict_as_jsonl`).
    """
    (messages,), (reward,) = raw["content"], raw["rewards"]
    first = next((i for i, one in enumerate(messages) if one["role"] == "assistant"), len(messages))
    given, said = messages[:first], messages[first:]
    answers = [_said(one["content"]) for one in said if one["role"] == "assistant"]
    return _Answer([_said(given)], _said(given), "\n".join(answers), {"reward": reward}, messages=given)


def _nemo_rl_evaluation(raw: Mapping[str, Any]) -> _Answer:
    """An entry of NeMo-RL's evaluation_data.json (nemo_rl/evals/eval.py, `_save_evaluation_data_to_json`)."""
    prompt = _said(raw["prompt"])
    return _Answer([prompt], prompt, _said(raw["response"]), {"reward": raw["reward"]})


def _episode(raw: Mapping[str, Any]) -> _Answer:
    """An episode of prime-rl and verifiers: its task and the traces of its agents.

    Written to rollouts/step_{n}/eval/*/traces.jsonl by PrimeIntellect-ai/prime-rl, src/prime_rl/monitors/file.py
    (`log_episodes`), as PrimeIntellect-ai/verifiers, verifiers/v1/episode.py (`Episode.to_record`) has it. The reward
    is that of the trace that is trained, weighted as in verifiers/v1/trace.py (`Trace.reward`); a failed one has none.
    """
    task, traces = raw["task"], raw["traces"]
    trace = next((one for one in traces if one["agent"].get("trainable", True)), traces[0] if traces else {})
    rewards = {name: one for name, one in (trace.get("rewards") or {}).items() if one is not None}
    scores = {**(trace.get("metrics") or {}), **{name: one["score"] for name, one in rewards.items()}}
    total = sum(one["score"] * one.get("weight", 1.0) for one in rewards.values())
    failed = not raw.get("ok", True) or not rewards
    data, nodes = task.get("data") or {}, trace.get("nodes") or []
    said = [_said(node["message"].get("content")) for node in nodes if node.get("sampled")]
    name = task.get("key") or task.get("hash") or data.get("idx")
    return _Answer(
        str(data if name is None else name),
        _said(data.get("prompt")),
        "\n".join(said) if nodes else None,
        dict.fromkeys(scores, None) | {"reward": None} if failed else {**scores, "reward": total},
        category=str((raw.get("env") or {}).get("id") or ""),
        messages=data.get("prompt") if isinstance(data.get("prompt"), list) else None,
    )


def _rollout(raw: Mapping[str, Any]) -> _Answer:
    """A row of the results.jsonl of verifiers before its episodes; one with an error has no score.

    Written by PrimeIntellect-ai/verifiers, verifiers/legacy/utils/save_utils.py (`save_outputs`).
    """
    failed, scores = raw.get("error") is not None, {**(raw.get("metrics") or {}), "reward": raw["reward"]}
    return _Answer(
        str(raw["example_id"]),
        _said(raw.get("prompt")),
        _said(raw.get("completion")),
        dict.fromkeys(scores, None) if failed else scores,
        raw.get("answer"),
        str(raw.get("task") or ""),
        "truncated" if raw.get("is_truncated") else None,
        raw["prompt"] if isinstance(raw.get("prompt"), list) else None,
    )


def _said(content: Any) -> str:
    """The text of a message, of several, or of a message in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        return _said(content.get("content", content.get("text")))
    return "\n".join(_said(one) for one in content) if isinstance(content, list) else str(content)


# By trainer: the fields by which a row is known, and how it is read.
_TOOLS = {
    "verl": ({"input", "output", "score"}, _verl),
    "OpenRLHF": ({"input", "output", "reward"}, _verl),
    "NeMo-RL": ({"content", "rewards", "idx"}, _nemo_rl),
    "NeMo-RL evaluation": ({"prompt", "response", "reward", "sample_index"}, _nemo_rl_evaluation),
    "prime-rl": ({"task", "traces"}, _episode),
    "verifiers": ({"example_id", "completion", "reward"}, _rollout),
}
