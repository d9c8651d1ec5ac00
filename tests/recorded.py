"""Runs made by hand: a model that knows most items and loses some of them on the way."""

import base64
import gzip
import json
import re

import numpy as np
import pyarrow as pa

from forget_callback import Generation, MultipleChoice, Probe, Recall, Snapshot, Store, Text
from forget_callback.runs.rows import Stage
from forget_callback.runs.task import SCHEMA
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import complete

OPTIONS = (" alpha", " beta", " gamma", " delta")


def make_probe(name="facts", n_items=60, kinds=("choice", "recall", "generation"), categories=4, variants=False):
    """Items in turn of each kind; with `variants` choice items have a second prompt, options in another order."""

    def item(i):
        category = f"topic-{i % categories}" if categories else ""
        kind = kinds[i // max(categories, 1) % len(kinds)]
        if kind == "choice":
            further = [{"prompt": f"An exam.\n\nWhich is {i}?", "order": [1, 0, 3, 2]}] if variants else []
            return MultipleChoice(f"c{i}", f"Question {i}: which?", OPTIONS, i * 7 % 4, category, variants=further)
        if kind == "recall":
            return Recall(f"r{i}", f"The word of {i} is", f" word{i}", category)
        return Generation(f"g{i}", f"Say {i}", f"{i}", "number", category)

    return Probe(name, [item(i) for i in range(n_items)])


def make_snapshots(probe, steps=(0, 10, 20, 30), *, seed=0, lose=0.4, samples=16, again=False):
    """One snapshot a step; `lose` is the share of the known items that are gone at the end. All in numpy.

    Where items have a second prompt, a quarter of those gone in the first are still right in it.
    """
    rng = np.random.default_rng(seed)
    n, is_choice = len(probe), np.isfinite(probe.n_choices)
    is_text = np.array([item.kind == "generation" for item in probe.items])
    known = rng.random(n) < 0.8
    gone = np.where(known & (rng.random(n) < lose), rng.integers(1, max(len(steps), 2), n), len(steps) + 1)
    learned = np.where(~known & (rng.random(n) < 0.1), len(steps) - 1, len(steps) + 1)
    guess = rng.integers(0, 4, n)
    begun, slope = rng.normal(2.0, 0.5, n), rng.normal(0.3, 0.1, n)
    options = np.array(OPTIONS, object)
    answers = np.array([item.answer if isinstance(item.answer, str) else "" for item in probe.items], object)
    asked = np.array([bool(item.variants) for item in probe.items])
    form = np.random.default_rng(seed + 1).random(n) < 0.25
    numbers = np.array([item.answer[0] if item.kind == "generation" else "" for item in probe.items], object)
    found = []
    for t, step in enumerate(steps):
        guess = np.where(rng.random(n) < 0.15, rng.integers(0, 4, n), guess)
        knows = (known & (t < gone)) | (t >= learned)
        choice = np.where(is_choice, np.where(knows, probe.answer, guess), -1)
        right = np.where(is_choice, choice == probe.answer, knows)
        outcome = np.where(right, "correct", "wrong").astype(object)
        spoiled = is_text & ~right
        outcome[spoiled & (np.arange(n) % 5 == 0)] = "unparsed"
        outcome[spoiled & (np.arange(n) % 5 == 1)] = "truncated"
        correct = right.astype(float)
        dropped = rng.random(n) < (0.01 if step else 0.0)
        correct[dropped], outcome[dropped] = np.nan, None
        wrong = np.where(is_text, f"{900 + t}", f" other{t // 2}")
        prediction = np.where(
            is_choice, options[np.maximum(choice, 0)], np.where(right, np.where(is_text, numbers, answers), wrong)
        )
        prediction[outcome == "unparsed"] = None
        text = np.array([f"I say {p}." if generated else None for p, generated in zip(prediction, is_text)], object)
        second = np.where(form & (known | (t >= learned)), probe.answer, choice)
        far = np.where(asked & ~dropped, (second == probe.answer).astype(float), np.nan)
        further = [Answers(name, far, choice=second, asked=asked) for name in probe.variant_fingerprints]
        margin = np.where(is_text, np.nan, np.abs(begun - slope * t) * np.where(right, 1, -1))
        found.append(
            Snapshot(
                probe.name, probe.fingerprint, step, np.array(probe.ids), correct, outcome, choice, margin,
                category=np.array([item.category for item in probe.items], object), prediction=prediction, text=text,
                kind=[item.kind for item in probe.items], n_choices=probe.n_choices, answer=probe.answer,
                samples_seen=float(samples * step) if samples else np.nan, tokens_seen=float(100 * step),
                further=tuple(further),
                metadata={"seconds": 1.5 + t, "dtype": "float32", "likelihood": "prefix", "batch_tokens": 2048},
            )
        )  # fmt: skip
    return found


def make_run(directory, probes=None, *, again=True, stage=None, baseline=(), **how):
    """A run directory with the snapshots of one or several probes; gives its store."""
    probes = [make_probe()] if probes is None else probes
    store = Store(directory)
    store.begin(probes)
    for probe in probes:
        taken = make_snapshots(probe, **how)
        for snapshot in taken:
            store.write(snapshot)
        if again and taken:
            store.write_beside("again", taken[0])
    for snapshot in baseline:
        store.write_beside("baseline", snapshot)
    if stage is not None:
        store.write_stage(Stage(*stage))
    return store


def log_task(store, **metrics):
    """Keeps the values by step of each of the task's metrics, at 16 samples and 100 tokens a step."""
    rows = [(step, 16 * step, 100 * step, name, value) for name, own in metrics.items() for step, value in own.items()]
    store.write_task(pa.table(dict(zip(SCHEMA.names, zip(*rows))), schema=SCHEMA))


def page_data(path):
    """What a page holds, read out of the file."""
    packed = re.search(r'id="packed-data">([^<]*)<', path.read_text(encoding="utf-8"))[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def make_mixed_run(directory, *, steps=(0, 10, 20, 30)):
    """A run that keeps its facts, loses its JSON and a part of its text; gives its store."""
    rng = np.random.default_rng(0)
    n = 40
    schema = {"schema": {"type": "object", "required": ["city"]}}
    shared = {"ability": "behaviour"}
    items = [
        Generation(f"json/{i}", "", '{"city": "Oslo"}', "json_schema", "json", doc=schema, **shared, messages=[
            {"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": f"Town {i}?"}])
        for i in range(n)
    ]  # fmt: skip
    items += [Generation(f"terse/{i}", f"Town {i}, in one word?", "Oslo", "exact", "terse", **shared) for i in range(n)]
    behaviour = Probe("behaviour", items, chat=True)
    kinds = ("prose", "code", "dialogue")
    documents = Probe("text", [Text(f"{kind}-{i}", f"{kind} {i} " * 30, kind) for kind in kinds for i in range(n)])
    facts = make_probe(n_items=80, kinds=("choice",))
    store = Store(directory)
    store.begin([facts, behaviour, documents])
    rise = np.repeat([0.02, 0.3, 0.0], n) * rng.normal(1, 0.2, 3 * n)
    begun = rng.normal(1.2, 0.2, 3 * n)
    lost = np.r_[rng.integers(1, 5, n), np.full(n, 9)]  # at which look
    for t, (step, known) in enumerate(zip(steps, make_snapshots(facts, steps=steps, lose=0.0))):
        right = t < lost
        said = ['{"city": "Oslo"}', "Oslo"] * 2
        text = [said[0 if i < n else 1] if ok else f"The town is Oslo ({i})." for i, ok in enumerate(right)]
        outcome = np.where(right, "correct", "unparsed")
        shared = {"samples_seen": 16.0 * step, "tokens_seen": 100.0 * step, "metadata": {"seconds": 1.0}}
        did = Snapshot("behaviour", behaviour.fingerprint, step, list(behaviour.ids), right * 1.0, outcome, text=text,
                       prediction=[one if ok else None for one, ok in zip(text, right)], **shared)  # fmt: skip
        bits = begun + rise * t / (len(steps) - 1) + rng.normal(0, 0.002, 3 * n)
        read = Snapshot("text", documents.fingerprint, step, list(documents.ids), np.ones(3 * n), bits_per_byte=bits,
                        kl=np.full(3 * n, 0.02 * t), top1=np.full(3 * n, 1 - 0.05 * t), **shared)  # fmt: skip
        for one, probe in ((known, facts), (did, behaviour), (read, documents)):
            store.write(complete(one, probe))
    return store
