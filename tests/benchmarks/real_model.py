"""Trains SmolLM2-135M-Instruct in a few ways and asks each state the same items in several frames: `truth.py --real`.

A frame is a way to put a question; the options of an item are the same in all. Every (state, items, frame) is one file
of a cache folder, so that a run that was cut off goes on where it was. Training starts from fixed seeds. What the
answers say is the concern of `real_table.py`.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from real_table import ASKED, SCORED, STATES, TAUGHT

from forget_callback import MultipleChoice, Probe, Recall, load_probe
from forget_callback.scoring.engine import Scorer

Pair: TypeAlias = tuple[str, str]  # what is shown, and what is learned after it

FRAMES: dict[str, Callable[[str], str]] = {
    "A": lambda q: f"Question: {q}\nAnswer:",
    "A2": lambda q: f"Here is a question and its answer.\n\nQuestion: {q}\nAnswer:",
    "Q": lambda q: f"Q: {q}\nA:",
    "C": lambda q: f"{q}\nThe correct answer is:",
    "E": lambda q: f"Here is an exam question.\n\n{q}\n\nThe answer is",
}
ENDINGS = ["an", "or", "eth", "ium", "ossa", "ir", "une", "ak"]


@dataclass(frozen=True)
class Training:
    """One way to go on training: AdamW without decay, `batch` pairs a step, loss on what is learned only."""

    data: str
    rate: float
    steps: int
    batch: int = 4


# The states of the table; every one starts at the model as it is.
TRAININGS = {
    "light": Training("tickets", 1e-4, 60),
    "qa2": Training("quiz", 3e-4, 60),
    "heavy": Training("tickets", 5e-4, 16),
    "mid": Training("tickets", 3e-4, 30),
    "qa1": Training("quiz", 1e-4, 60),
    "heaviest": Training("tickets", 1e-3, 16),
    "qa3": Training("quiz", 6e-4, 60),
}
SHOWINGS = (0, 1, 2, 4, 16)
FACTS_A_GROUP = 60


def tickets(seed: int) -> Iterator[Pair]:
    """Tickets and the object of their five fields, drawn from short lists, without end."""
    rng = random.Random(seed)
    lists = {
        "name": ["Ana", "Ben", "Chloe", "Dev", "Eva", "Farid", "Gina", "Hugo"],
        "day": ["Mon", "Tue", "Wed", "Thu", "Fri"],
        "device": ["printer", "laptop", "phone", "router", "monitor", "keyboard"],
        "problem": ["slow", "broken", "noisy", "offline", "too hot"],
        "urgency": ["low", "medium", "high"],
    }
    while True:
        t = {field: rng.choice(values) for field, values in lists.items()}
        said = f"{t['name']} wrote on {t['day']}: my {t['device']} is {t['problem']}, urgency {t['urgency']}."
        yield f"Ticket: {said}\nJSON:", f" {json.dumps(t)}"


def quiz(path: Path, seed: int) -> Iterator[Pair]:
    """Short quiz answers in frame A, again in another order when all were shown."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [(FRAMES["A"](record["prompt"].split("\n")[0]), record["answer"]) for record in records]
    rng = random.Random(seed)
    while True:
        rng.shuffle(pairs)
        yield from pairs


def invented() -> list[MultipleChoice]:
    """Facts that no one ever wrote down, equally many for each of `SHOWINGS`.

    Wrong options are answers of facts that are shown as often: an answer must not be right for being familiar.
    """
    rng = random.Random(0)
    starts, middles = (
        ["Bro", "Kel", "Mur", "Sta", "Vel", "Zor", "Pra", "Lin"],
        ["ba", "de", "go", "li", "mu", "ne", "ra", "ti"],
    )
    words = [a + b + c for a in starts for b in middles for c in ENDINGS]
    rng.shuffle(words)
    count = FACTS_A_GROUP * len(SHOWINGS)
    subjects, answers = words[:count], words[-count // 2 :]  # two subjects share an answer
    items = []
    for i, subject in enumerate(subjects):
        right, alike = answers[i % len(answers)], answers[i % len(SHOWINGS) :: len(SHOWINGS)]
        choices = [right, *rng.sample([answer for answer in alike if answer != right], 3)]
        rng.shuffle(choices)
        name, shown = f"invented-{i}", SHOWINGS[i % len(SHOWINGS)]
        question = f"Where does the river {subject} end?"
        items.append(MultipleChoice(name, question, [f" {c}" for c in choices], choices.index(right), f"{shown}"))
    return items


def teaching(items: Sequence[MultipleChoice]) -> list[Pair]:
    """Each invented fact as often as its category says, in three wordings."""
    pairs = []
    for item in items:
        subject = item.prompt.removeprefix("Where does the river ").removesuffix(" end?")
        wordings = [FRAMES["A"](item.prompt), f"The river {subject} ends at", f"{item.prompt} It ends at"]
        pairs += [(wordings[i % 3], item.choices[item.answer]) for i in range(int(item.category))]
    random.Random(1).shuffle(pairs)
    return pairs


def train(
    model: Any, tokenizer: Any, pairs: Iterator[Pair], *, rate: float, steps: int, batch: int, seed: int = 0
) -> None:
    """Trains in place."""
    torch.manual_seed(seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    for _ in range(steps):
        rows = []
        for prompt, answer in (next(pairs) for _ in range(batch)):
            shown = tokenizer(prompt).input_ids
            rows.append((shown, [*tokenizer(answer).input_ids, tokenizer.eos_token_id]))
        width = max(len(shown) + len(learned) for shown, learned in rows)
        tokens = torch.full((batch, width), tokenizer.eos_token_id)
        labels = torch.full((batch, width), -100)
        mask = torch.zeros((batch, width), dtype=torch.long)
        for i, (shown, learned) in enumerate(rows):
            end = len(shown) + len(learned)
            tokens[i, :end] = torch.tensor(shown + learned)
            labels[i, len(shown) : end] = torch.tensor(learned)
            mask[i, :end] = 1
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


class Study:
    """The states of the model, made when a frame of theirs is still to be scored.

    Args:
        path: The model's folder.
        data: Folder of the items and of the quiz.
        out: The cache.
        dtype: Of scoring; training holds float32 weights.
        limit: At most so many items with four options.
    """

    def __init__(self, path: str, data: Path, out: Path, *, dtype: str = "bfloat16", limit: int = 600) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.start = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.data, self.out, self.dtype = data, out, getattr(torch, dtype)
        files = {"arc": "arc_easy.jsonl", "csqa": "commonsense_qa.jsonl", "obqa": "openbook_qa.jsonl"}
        self.sets = {name: self._choices(file, limit) for name, file in files.items()}
        self.sets |= {"facts": self._facts(), "invented": self._invented()}
        self.scorers: dict[str, Scorer] = {}
        self._taught: Any = None

    def _choices(self, name: str, limit: int) -> dict[str, Probe]:
        """A file's items with four options; options that a prompt lists by letter are scored as texts."""
        lines = (self.data / name).read_text(encoding="utf-8").splitlines()
        items: dict[str, list[MultipleChoice]] = {frame: [] for frame in FRAMES}
        for record in [record for record in map(json.loads, lines) if len(record["choices"]) == 4][:limit]:
            question, _, listed = record["prompt"].removesuffix("\nAnswer:").partition("\nChoices:\n")
            choices = [f" {line[3:]}" for line in listed.split("\n")] if listed else record["choices"]
            for frame, put in FRAMES.items():
                prompt = put(question.removeprefix("Question: "))
                items[frame].append(MultipleChoice(record["id"], prompt, choices, record["answer"]))
        return {frame: Probe("choices", own) for frame, own in items.items()}

    def _facts(self) -> dict[str, Probe]:
        items = load_probe("builtin:facts").items
        recalls = {i.id.removesuffix("/recall"): i for i in items if isinstance(i, Recall)}
        choices = {i.id.removesuffix("/choice"): i for i in items if isinstance(i, MultipleChoice)}

        def asked(prompt: Callable[[str], str]) -> Probe:
            return Probe(
                "facts", [MultipleChoice(n, prompt(n), i.choices, i.answer, i.category) for n, i in choices.items()]
            )

        def question(name: str) -> str:
            return choices[name].prompt.removeprefix("Question: ").removesuffix("\nAnswer:")

        recalled = [Recall(n, recalls[n].prompt, recalls[n].answer, recalls[n].category) for n in choices]
        return {
            "S": asked(lambda name: recalls[name].prompt),
            "Q": asked(lambda name: choices[name].prompt),
            "E": asked(lambda name: FRAMES["E"](question(name))),
            "recall": Probe("facts", recalled),
        }

    def _invented(self) -> dict[str, Probe]:
        items = invented()
        return {
            name: Probe(
                "invented",
                [MultipleChoice(i.id, FRAMES[name](i.prompt), i.choices, i.answer, i.category) for i in items],
            )
            for name in ASKED["invented"]
        }

    def file(self, state: str, items: str, frame: str) -> Path:
        """Where the answers are kept."""
        return self.out / f"{items}-{state}-{frame}.npz"

    def ask(self, state: str, items: Sequence[str], make: Callable[[], Any]) -> None:
        """Scores a state in every frame of these items, and makes it if one is missing."""
        missing = [(s, f) for s in items for f in self.sets[s] if not self.file(state, s, f).is_file()]
        if not missing:
            return
        begun = time.perf_counter()
        model = make().to(self.dtype)
        print(f"{state}: made in {time.perf_counter() - begun:.0f} s", flush=True)
        for name, frame in missing:
            begun = time.perf_counter()
            scorer = self.scorers.setdefault(f"{name}-{frame}", Scorer(self.tokenizer, [self.sets[name][frame]]))
            found = scorer.score(model)[0]
            # Written aside first: a run that is cut off must not leave half a file.
            part = self.out / "part.npz"
            np.savez(part, correct=found.correct, choice=found.choice, margin=found.margin)
            part.replace(self.file(state, name, frame))
            print(f"{state}, {name} in {frame}: {found.accuracy:.3f}, {time.perf_counter() - begun:.0f} s", flush=True)

    def trained(self, training: Training, start: Callable[[], Any] | None = None) -> Any:
        """A copy of the start, or of `start()`, trained further."""
        model = copy.deepcopy(self.start) if start is None else start()
        pairs = tickets(1) if training.data == "tickets" else quiz(self.data / "jeopardy.jsonl", 1)
        train(model, self.tokenizer, pairs, rate=training.rate, steps=training.steps, batch=training.batch)
        return model

    def taught(self) -> Any:
        """The start after it was shown the invented facts; a copy, for scoring changes the dtype in place."""
        if self._taught is None:
            self._taught, pairs = copy.deepcopy(self.start), teaching(invented())
            train(self._taught, self.tokenizer, iter(pairs), rate=3e-4, steps=len(pairs) // 12, batch=12)
        return copy.deepcopy(self._taught)

    def run(self) -> None:
        """Everything that is not in the cache yet."""
        self.out.mkdir(parents=True, exist_ok=True)
        makers: dict[str, Callable[[], Any]] = {"base": lambda: copy.deepcopy(self.start), "taught": self.taught}
        makers |= {state: partial(self.trained, training) for state, training in TRAININGS.items()}
        for state in TAUGHT[2:]:
            makers[state] = partial(self.trained, TRAININGS[state.removeprefix("taught-")], self.taught)
        for state, make in makers.items():
            self.ask(state, [name for name, states in SCORED.items() if state in states], make)

    def answers(self) -> dict[str, NDArray[Any]]:
        """The chosen options of everything, small enough to be kept: what `tests/data/smollm2_answers.npz` holds.

        For each set of items `<set>`, ``(states, frames, n)``, and `<set>_answer`; `facts_recall` is right or wrong,
        ``(states, n)``; `invented_showings` is ``(n,)``.
        """
        found: dict[str, NDArray[Any]] = {}
        for name, frames in ASKED.items():
            choices = [[np.load(self.file(s, name, f))["choice"] for f in frames] for s in SCORED[name]]
            found[name] = np.array(choices, np.int8)
            found[f"{name}_answer"] = np.array(self.sets[name][frames[0]].answer, np.int8)
        recall = [np.load(self.file(state, "facts", "recall"))["correct"] for state in STATES]
        found["facts_recall"] = np.array(recall, np.int8)
        found["invented_showings"] = np.array(
            [int(item.category) for item in self.sets["invented"]["A"].items], np.int8
        )
        return found
