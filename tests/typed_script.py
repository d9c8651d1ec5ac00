"""What a user's own script may say: `mypy --strict` reads it (`make check`), nothing runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forget_callback import (
    ForgetCallback,
    ForgetMonitor,
    Generation,
    Judge,
    Probe,
    Recall,
    Scorer,
    Snapshot,
    StopRule,
    Tracker,
    compare,
    load_model,
    load_probe,
    load_tokenizer,
    register_item,
    register_matcher,
    score_probe,
)


def reward(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float | None]:
    """A scorer."""
    return [float(len(text) > 3) for text in completions]


class Printed:
    """A tracker."""

    def log(self, row: Mapping[str, float]) -> None:
        """Takes numbers."""

    def alert(self, title: str, text: str) -> None:
        """Takes a message."""


def script() -> None:
    """Every line but the last passes; of that one mypy says so if it does."""
    rows: list[dict[str, object]] = [{"id": "a", "prompt": "2 + 2 =", "answer": "4", "match": "number"}]
    before = Snapshot("p", "f", 0, ids=["a", "b"], correct=[1, 0], outcome=["correct", None], margin=(0.5, -1.0))
    after = Snapshot("p", "f", 1, ids=np.array(["a", "b"]), correct=pd.Series([True, False]), text=[None, "b"])
    lost: float = compare(before, after).forgetting
    print(lost)
    tracker: Tracker = Printed()
    probes = [Probe("mine", [Generation("a", "Q", "A"), Recall("b", "Q", " A")]), load_probe("builtin:facts", limit=3)]
    ForgetCallback(probes, stop=[StopRule("forgetting", above=0.1)], scorer=reward, trackers=[tracker])
    ForgetCallback(rows, scorer=Judge(reward, threshold=0.7))
    ForgetCallback({"rows": rows, "table": pd.DataFrame(rows), "file": Path("mine.jsonl")})
    model, tokenizer = load_model("model"), load_tokenizer("model")
    snapshot: Snapshot = score_probe(model, tokenizer, rows, scorer=reward)
    print(snapshot.accuracy)
    ForgetMonitor(Scorer(tokenizer, rows).probes, "run", trackers=[tracker])
    register_matcher("mylab.close", lambda text, item: text == item.answer[0])
    register_item("cloze", lambda record: Recall(record["id"], record["text"], record["gap"]))
    Snapshot("p", "f", "one", ids=["a"], correct=[1])  # type: ignore[arg-type]
