"""What a collapsed model repeats is judged in time that grows with it: these judges run without a deadline."""

import time

import pytest

from forget_callback import Generation
from forget_callback.probes.judging import judge_all

REPEATED = [
    "x",
    "a ",
    "J. ",
    "U.S. ",
    "no ",
    "1. ",
    "- a\n",
    '"',
    "`",
    "```",
    "I can't ",
    "but ",
    "не могу ",
    "我不能",
    "@",
    "to be ",
]
RULES = {
    "constraints": {
        "constraints": [{"kind": kind, "n": 1} for kind in ("sentences", "max_words", "lines", "paragraphs")]
    },
    "refusal": {},
    "no_refusal": {},
    "language": {"language": "es"},
}
ANSWERS = {"refusal": "I can't help with that.", "language": "No lo sé, pero voy a preguntar."}


def seconds(item, text):
    start = time.process_time()
    judge_all([(item, text, False)])
    return time.process_time() - start


@pytest.mark.parametrize("match", RULES)
def test_four_times_the_text_takes_no_sixteen_times_as_long(match):
    item = Generation("a", "Q", ANSWERS.get(match, "Word"), match, doc=RULES[match])
    seconds(item, "Una palabra.")  # what is loaded once
    short, long = (sum(seconds(item, unit * (n // len(unit))) for unit in REPEATED) for n in (5_000, 20_000))
    assert long <= 9 * short  # a quadratic rule would take 16 times
