"""What extraction and matching promise: right, wrong, not an answer at all, and cut short are told apart."""

import sys
import time
from typing import get_args

import pytest
from hypothesis import given, settings, strategies as st

from forget_callback.probes.answers import Judgement, extract, matches
from forget_callback.probes.items import Generation, Match
from forget_callback.probes.judges.rules import RULES
from forget_callback.probes.judging import judge
from tests.probes.phrasings import PHRASINGS

# The judges have tests of their own, in judges/.
READ = [match for match in get_args(Match) if match != "task" and match not in RULES]


@pytest.mark.parametrize(
    "match, text, expected",
    [
        *[(match, "  \n\t", None) for match in READ],
        ("exact", "\n Paris \nis the capital", "Paris"),
        ("prefix", "Paris, France\nmore", "Paris, France"),
        ("contains", " It is Paris.\nYes. ", "It is Paris.\nYes."),
        ("regex", " a\nb ", "a\nb"),
        ("math", " $x^2$ ", "$x^2$"),
        ("number", "He has 3 apples and pays $1,200.50.", "1200.50"),
        ("number", "from 7 to -2", "-2"),
        ("number", "that is -$5", "-5"),
        ("number", "about .5", ".5"),
        ("number", "50%", "50"),
        ("number", "I do not know", None),
        ("choice", "The answer is (b).", "B"),
        ("choice", "Answer: C because A is wrong", "C"),
        ("choice", "option d", "D"),
        ("choice", "B) Rome", "B"),
        ("choice", "b", "B"),
        ("choice", "(c) Rome", "C"),
        ("choice", "e.g. Rome", None),
        ("choice", "(C) Rome, not (D)", "C"),
        ("choice", "It must be (A), not B", "A"),
        ("choice", "It is D", "D"),
        ("choice", "I", "I"),
        ("choice", "I) iodine", "I"),
        ("choice", "I would say B.", "B"),
        ("choice", "I'm not sure.", None),
        ("choice", "Rome, of course", None),
        ("choice", "The answer may be (A). No.\nAnswer: B", "B"),
        ("choice", "**Answer: C**", "C"),
        ("choice", r"So it is $\boxed{\text{D}}$, not A.", "D"),
        ("choice", "A train leaves at 7.\nIt must be (D).", "D"),
        ("choice", "A train leaves at 7 and (B) is late.\nWho knows?", None),
        ("choice", "<think>B? No, surely (A).</think>\nC", "C"),
        ("choice", "<think>surely (A).", None),
        ("choice", "surely (A) ... </think> (B)", "B"),
        ("choice", "[THINK]surely (A)[/THINK](B)", "B"),
        ("number", r"\boxed{1,200} apples, of which 3 are red", "1200"),
        ("number", "<think>7 or 8?</think>It is 12.", "12"),
        ("number", "<thinking>7 or 8?", None),
        ("exact", "<think>\nRome?\n</think>\n\nParis\nmore", "Paris"),
        ("contains", "<think>Rome?</think>Paris.", "Paris."),
        ("math", "<think>$x$</think> no", None),
    ],
)
def test_extract_finds_the_answer_in_its_form(match, text, expected):
    assert extract(text, match) == expected


@pytest.mark.parametrize(
    "match, prediction, answer, right",
    [
        ("exact", "PARIS.", " Paris", True),
        ("exact", "Paris, France", "Paris", False),
        ("prefix", "paris, France", "Paris", True),
        ("prefix", "Parisian", "Paris", False),
        ("prefix", "In Paris", "Paris", False),
        ("contains", "It is paris!", "Paris", True),
        ("contains", "a comparison", "paris", False),
        ("contains", "cost: $5.", "$5", True),
        ("contains", "a.c", "abc", False),
        ("stated", "The symbol is In.", "In", True),
        ("stated", "In\n\nIndium is a metal.", "In", True),
        ("stated", 'The symbol of indium is "In".', "In", True),
        ("stated", "In chemistry, the symbol is I.", "In", False),
        ("stated", "Its symbol, I think, is in the table.", "In", False),
        ("stated", "The `all()` function is used.", "all", True),
        ("stated", "It is called **all**", "all", True),
        ("stated", "It tells whether all are true", "all", False),
        ("stated", "`all_of`, which is allowed", "all", False),
        ("stated", "Cold.", "cold", True),
        ("stated", "It is not cold", "cold", False),
        ("stated", "It is known as a kitten", "kitten", True),
        ("stated", "It is the keyword `def`", "def", True),
        ("named", "It is paris!", "Paris", True),
        ("named", "a comparison", "paris", False),
        ("named", "Lyon, not Paris", "Paris", False),
        ("named", "Not Paris, I thought; but it is Paris", "Paris", True),
        ("contains", "if x is not None:", "None", True),
        ("number", "1200", "$1,200.00", True),
        ("number", "50", "50%", True),
        ("number", "-5", "5", False),
        ("choice", "B", "(b)", True),
        ("choice", "B", "C", False),
        ("regex", "It took 42 days", r"\b4\d\b", True),
        ("regex", "PARIS", "Paris", False),
        ("math", r"The result is $\frac{1}{2}$.", "0.5", True),
        ("math", "$x + 1$", "x + 2", False),
    ],
)
def test_matches(match, prediction, answer, right):
    assert matches(prediction, answer, match) is right


@pytest.mark.parametrize(
    "text, finished, expected",
    [
        ("So 7 + 5 = 12", True, Judgement("correct", "12")),
        ("So 7 + 5 = 12", False, Judgement("correct", "12")),
        ("thirteen: 13", True, Judgement("correct", "13")),
        ("14", True, Judgement("wrong", "14")),
        ("First, 7", False, Judgement("truncated", "7")),
        ("Let me think", False, Judgement("truncated", None)),
        ("no idea", True, Judgement("unparsed", None)),
        ("", True, Judgement("unparsed", None)),
        ("", False, Judgement("truncated", None)),
        ("<think>12, I think", False, Judgement("truncated", None)),
        ("<think>12</think>14", True, Judgement("wrong", "14")),
    ],
)
def test_judge_tells_the_four_outcomes_apart(text, finished, expected):
    assert judge(Generation("q", "Q", ["12", "13"], "number"), text, finished=finished) == expected


line = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)
ANSWERS = {
    "exact": line,
    "prefix": line,
    "contains": line,
    "named": line,
    "stated": line,
    "number": st.from_regex(r"[-+]?[$€£]?([1-9]\d{0,2}(,\d{3})*|\d{1,9})(\.\d{1,3})?%?", fullmatch=True),
    "choice": st.from_regex(r"\(?[A-Za-z]\)?", fullmatch=True),
}


@pytest.mark.parametrize("match", ANSWERS)
def test_an_answer_given_word_for_word_is_right(match):
    @settings(deadline=None, derandomize=True, database=None, max_examples=200)
    @given(ANSWERS[match])
    def check(answer):
        item = Generation("q", "Q", answer, match)
        assert judge(item, f"\n {answer} \n", finished=True).outcome == "correct"

    check()


@pytest.mark.parametrize("answer, same, other", PHRASINGS["exact"])
def test_exact_compares_words_not_their_dress(answer, same, other):
    item = Generation("q", "Q", answer)
    found = {text: judge(item, text, finished=True).outcome for text in (*same, *other)}
    assert found == dict.fromkeys(same, "correct") | dict.fromkeys(other, "wrong") | (
        {"```": "unparsed"} if "```" in found else {}
    )


@pytest.mark.parametrize("answer, first, later, without", PHRASINGS["within"])
def test_prefix_and_contains_compare_words_not_their_dress(answer, first, later, without):
    for match, right, wrong in (("prefix", first, later + without), ("contains", first + later, without)):
        item = Generation("q", "Q", answer, match)
        assert {judge(item, text, finished=True).outcome for text in right} == {"correct"}
        assert {judge(item, text, finished=True).outcome for text in wrong} == {"wrong"}


@pytest.mark.parametrize("match", READ)
@pytest.mark.parametrize(
    "text", ["", " \n\t ", "<think></think>", "<think>\n\n</think>\n", "```\n```", "\u200b", "\ufeff\n", "\xa0"]
)
def test_an_empty_answer_is_unparsed_where_it_ended_and_truncated_where_it_was_cut(match, text):
    answer = {"choice": "A", "number": "0"}.get(match, "x?")
    item = Generation("q", "Q", answer, match)
    assert judge(item, text, finished=True) == Judgement("unparsed", None)
    assert judge(item, text, finished=False) == Judgement("truncated", None)


REPEATED = [
    *(
        "A ",
        "(A) ",
        "A or ",
        "A, ",
        "A) x ",
        "A. x\n",
        "A is the ",
        "B is not ",
        "so the ",
        "answer ",
        "answer: A ",
        "I ",
        "not ",
    ),
    *(
        "the correct answer is the ",
        "\n",
        " ",
        "1",
        "1,",
        "1,234,",
        "1.234.",
        "1 ",
        "1/",
        "10^",
        "-",
        "\\boxed{",
        "\\boxed{A}",
    ),
    *(
        "{",
        "}",
        "*",
        "**",
        "*a ",
        "_a ",
        "`",
        "'",
        "<answer>",
        "answer: 1 + 1 ",
        "答案",
        "\u3000",
        "A (",
        "“",
        "\\frac{1}{",
    ),
]


@pytest.mark.parametrize("match", ["exact", "contains", "named", "stated", "number", "choice"])
def test_reading_takes_time_linear_in_what_a_collapsed_model_repeats(match):
    def seconds(unit, length):
        text, start = unit * (length // len(unit)), time.process_time()
        found = extract(text, match)
        if found is not None:
            matches(found, "1", match)
        return time.process_time() - start

    for unit in REPEATED:
        # Four times the text: 4 times the time if it is linear, 16 if it is quadratic. What is short is no measure.
        if seconds(unit, 20_000) > 0.05:
            short, long = (min(seconds(unit, length) for _ in range(3)) for length in (5_000, 20_000))
            assert long < 10 * short, unit


def test_math_without_math_verify_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ImportError, match=r"pip install 'forget-callback\[math\]'"):
        extract("1", "math")
