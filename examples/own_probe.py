"""Your own probe: items in Python or JSON Lines, asked of one model.

python examples/own_probe.py MODEL --out runs/own-probe
"""

import argparse
from pathlib import Path

from forget_callback import (
    Generation,
    MultipleChoice,
    Probe,
    Recall,
    dump_items,
    load_model,
    load_probe,
    load_tokenizer,
    score_probe,
)

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--out", type=Path, default=Path("runs/own-probe"))
given = parser.parse_args()

items: list[MultipleChoice | Recall | Generation] = [
    # Right when the right option is the most likely one. Options carry their leading space.
    MultipleChoice("paris", "The capital of France is", [" Paris", " Lyon", " Nice"], 0, category="capitals"),
    # Right when greedy decoding would write exactly this, found out in one forward.
    Recall("water", "The chemical symbol of the element oxygen is", " O", category="elements"),
    # Right when the answer found in the generated text matches.
    Generation("sum", "What is 6 times 7?", "42", match="number", category="sums", max_new_tokens=16),
]
probe = Probe("mine", items)
given.out.mkdir(parents=True, exist_ok=True)
(given.out / "mine.jsonl").write_text(dump_items(items), encoding="utf-8")
assert load_probe(str(given.out / "mine.jsonl")).fingerprint == probe.fingerprint

snapshot = score_probe(load_model(given.model), load_tokenizer(given.model), probe)
snapshot.save(given.out / "snapshot.parquet")
print(snapshot.to_pandas()[["id", "category", "outcome", "prediction", "margin"]].to_string(index=False))
print(f"{snapshot.accuracy:.0%} right; in a run: ForgetCallback('{given.out / 'mine.jsonl'}')")
