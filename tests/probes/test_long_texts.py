"""What a collapsed model writes at length is read in time that grows with it: no pattern of ours backtracks."""

import random
import subprocess
import sys
from pathlib import Path

from forget_callback.probes.answers import extract, matches
from tests.probes.test_answers import REPEATED

LENGTH = 200_000
UNITS = [
    *REPEATED,
    "<think>",
    "</think>",
    "<answer>",
    "**",
    "_",
    "`",
    '"',
    "é",
    "e\u0301",
    "{",
    "}",
    r"\frac{1}{",
    "^{",
]
UNITS += [
    "e",
    "E5",
    "€",
    "...",
    "\r\n",
    "\t",
    "\u200b",
    "\x00",
    "答案",
    "是A",
    "Antwort ",
    "A",
    "z",
    "because ",
    "−",
    "1.",
]


def read_all():
    rng = random.Random(0)
    for _ in range(6):
        before, unit, after = ("".join(rng.choices(UNITS, k=rng.randint(1, 3))) for _ in range(3))
        words = ("exact", "prefix", "contains", "named", "stated", "choice")
        for match, answer in (*((match, "A") for match in words), ("number", "1")):
            found = extract(before + unit * (LENGTH // len(unit)) + after, match)
            assert found is None or matches(found, answer, match) in (True, False)


def test_long_texts_are_read():
    """In a process that can be given up; what is quadratic takes hours."""
    code = f"from {__name__} import read_all; read_all()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=300)
