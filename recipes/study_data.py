"""What the study trains on and asks: tickets to read, a domain's text, and what may be replayed. Made offline.

The new task is to name the product of a customer's ticket in one word, after two examples. Held-out tickets are about
other products, with problems in words that no training ticket has. The domain is the source of Python's standard
library, so it depends on the version of Python. Knows nothing of training.
"""

import json
import random
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from forget_callback import Probe, load_model, load_probe, load_tokenizer, score_probe
from forget_callback.demo.samples import quiz
from forget_callback.demo.tiny import conversation, known_facts
from forget_callback.probes.answers import matches
from forget_callback.probes.items import Generation

Rows = list[dict[str, Any]]

QUESTION = "Which product?"
# Without examples a small model answers in sentences, and GRPO would find no reward to begin with.
EXAMPLES = (
    ("Hello, my piano is out of tune", "piano"),
    ("Good day, where is the tractor that I ordered?", "tractor"),
)
OPENINGS = ("Hello,", "Hi there,", "Good day,", "Please help:", "It is me again:", "Sorry to write, but")
THINGS = """
kettle lamp radio bike toaster camera printer drill heater fan clock tent mixer sofa mirror helmet balloon
basket bathtub bench blanket bookcase bottle bowl bracelet broom bucket calculator candle chair charger
chessboard coat comb computer cooker cradle curtain cushion desk doorbell dress dresser earring fork
fridge grill hairdryer hammer hat hose jacket jug juicer knife laptop lawnmower mattress microwave monitor
mower mug necklace notebook oven pan pen phone plate pram projector puzzle rake razor router rug saddle
saw scale scanner scarf screwdriver shelf shirt shower skateboard sled spoon stool stove swing tablet tap
teapot television towel toy tray treadmill tripod turntable vacuum vase wallet watch wheelbarrow whistle
wrench
"""
NEW_THINGS = """
freezer guitar blender keyboard carpet ladder speaker stroller hammock microphone toothbrush umbrella
backpack cabinet dishwasher scooter suitcase trampoline pillow shovel
"""
PROBLEMS = (
    "I was charged twice for the {}",
    "the invoice for my {} shows a wrong sum",
    "you took money for a {} that I had returned",
    "the discount on the {} is missing",
    "my card was charged before I ordered the {}",
    "I want a refund for the {}",
    "the price of the {} on the receipt is too high",
    "there is a fee for the {} that I do not know",
    "the {} has not come yet",
    "the parcel with the {} went to my neighbour",
    "the courier left the {} in the rain",
    "tracking of my {} has not moved for days",
    "the {} was sent to my old street",
    "on which day does the {} arrive?",
    "the van with the {} came while I was out",
    "the driver could not find my house to bring the {}",
    "the {} does not switch on",
    "the {} broke after a week",
    "the {} makes a loud noise",
    "a part of the {} fell off",
    "the {} has a crack on one side",
    "the cable of the {} is torn",
    "the {} smells of smoke",
    "the button of the {} is stuck",
    "I cannot log in to order a {}",
    "my password is refused when I look for a {}",
    "I want to change my email address before I order a {}",
    "delete my profile, I only wanted to see a {}",
    "the code to sign in never comes, and I want a {}",
    "my user name is wrong on the page of the {}",
    "someone else uses my login to look at a {}",
    "I forgot my password and my {} is in the basket",
)
NEW_PROBLEMS = (
    "the tax on the {} is wrong",
    "I paid for the {} in two parts and you booked three",
    "please send me a receipt for the {}",
    "the payment for the {} failed but the money is gone",
    "the {} is stuck at customs",
    "the package with the {} is late",
    "I need the {} shipped to another city",
    "the {} never reached my door",
    "water comes out of the {}",
    "the {} gets too hot to touch",
    "a screw of the {} is loose",
    "the {} stopped working",
    "I am locked out of the shop and want a {}",
    "how do I register to order a {}?",
    "close my membership, I have my {}",
    "I have two profiles and only one shows my {}",
)


def tickets(count: int, seed: int, *, held_out: bool = False) -> list[tuple[list[dict[str, str]], str]]:
    """Conversations up to the ticket, each with its product, as many of each product as can be; all are different."""
    names, problems = (NEW_THINGS, NEW_PROBLEMS) if held_out else (THINGS, PROBLEMS)
    things = names.split()
    rng, found = random.Random(seed), []
    for thing in things:
        texts = [f"{first} {what.format(thing)}" for first in OPENINGS for what in problems]
        found += [(rank, text, thing) for rank, text in enumerate(rng.sample(texts, -(-count // len(things))))]
    rng.shuffle(found)
    found.sort(key=lambda one: one[0])
    shown = [turn for text, thing in EXAMPLES for turn in conversation(request(text), thing)]
    return [([*shown, {"role": "user", "content": request(text)}], thing) for _, text, thing in found[:count]]


def request(text: str) -> str:
    """A ticket with the question."""
    return f"{text}\n\n{QUESTION}"


def named(completions: list[Any], product: list[str], **columns: Any) -> list[float]:
    """The reward of GRPO: 1 for naming the product and nothing else."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(matches(text, right, "exact")) for text, right in zip(texts, product)]


def passages(count: int, seed: int, *, characters: int = 600) -> list[str]:
    """Random pieces of the standard library's source, cut at the ends of lines."""
    texts = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        piece = ""
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True):
            piece += line
            if len(piece) >= characters:
                texts.append(piece[: 2 * characters])
                piece = ""
    return random.Random(seed).sample(texts, count)


def write_task(directory: Path, tokenizer: Any, *, samples: int, items: int, seed: int) -> None:
    """Files of the task: `sft.jsonl` and `grpo.jsonl` to train on, `task.jsonl` and `tickets.jsonl` to ask.

    The held-out tickets are the same whatever the seed. `tickets.jsonl` has them as texts, with their answers.
    """
    rows = [(turns, thing, {"role": "assistant", "content": thing}) for turns, thing in tickets(samples, seed)]
    write_rows(directory / "sft.jsonl", ({"prompt": turns, "completion": [answer]} for turns, _, answer in rows))
    write_rows(directory / "grpo.jsonl", ({"prompt": turns, "product": thing} for turns, thing, _ in rows))
    asked, texts = [], []
    for number, (turns, thing) in enumerate(tickets(items, 0, held_out=True)):
        about = {"id": f"ticket-{number}"}
        asked.append({**about, "messages": turns, "answer": thing, "match": "exact", "max_new_tokens": 6})
        whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": thing}], tokenize=False)
        texts.append({**about, "text": whole})
    write_rows(directory / "task.jsonl", asked)
    write_rows(directory / "tickets.jsonl", texts)


def replay_pool(watched: Probe) -> Rows:
    """Old knowledge that no item of a probe asks for: the other built-in facts, and a quiz."""
    choice, recall = (load_probe(f"builtin:facts?kind={kind}") for kind in ("choice", "recall"))
    asked = {item.fact for item in watched.items}
    facts = [fact for item, fact in zip(choice.items, known_facts(choice, recall)) if item.fact not in asked]
    return [as_row(*pair) for pair in [*((fact.question, fact.answer) for fact in facts), *quiz()]]


def own_answers(model: str, rows: Rows, *, tokens: int = 32) -> Rows:
    """The same questions with the model's own answers, sampled at temperature 1 (arXiv 2605.26097)."""
    questions = [row["prompt"][0]["content"] for row in rows]
    items = [
        Generation(str(number), text, "-", "contains", max_new_tokens=tokens) for number, text in enumerate(questions)
    ]
    probe = Probe("own", items, chat=True, temperature=1.0)
    said = score_probe(load_model(model).float(), load_tokenizer(model), probe).text
    return [as_row(question, text.strip()) for question, text in zip(questions, said) if text and text.strip()]


def as_row(question: str, answer: str) -> dict[str, Any]:
    """A question and its answer as a row of SFT."""
    asked, said = conversation(question, answer)
    return {"prompt": [asked], "completion": [said]}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
