"""A space that is missing before answers, or that stands twice or on the wrong side; ordinary probes are silent."""

import logging

import pytest

from forget_callback import ForgetMonitor, Generation, MultipleChoice, Probe, Recall, load_probe, score_probe
from forget_callback.probes.jsonl import dump_items
from forget_callback.probes.spacing import spacing_problem


def problem(prompt, *answers, **settings):
    item = MultipleChoice("a", prompt, answers, 0) if len(answers) > 1 else Recall("a", prompt, answers[0])
    return spacing_problem(Probe("p", [item], **settings))


@pytest.mark.parametrize(
    "prompt, answers",
    [
        ("Question: What is the capital of France?\nAnswer:", ("Paris", "Rome")),
        ("The capital of France is", ("Paris",)),
        ("The capital of France is", (" Rome", "Paris")),  # one option alone is as bad, or worse
        ("What is 2 + 2?", ("4", "5")),
        ("Die Hauptstadt ist", ("Köln", "Ärzte")),
        ("Столица Франции —", ("Париж",)),
        ("한국의 수도는", ("서울", "부산")),
        ("What is it? Answer:", ("(A)", "(B)")),
        ("It costs", ("$5", "$6")),
    ],
)
def test_a_missing_space_is_said_with_the_remedy(prompt, answers):
    found = problem(prompt, *answers)
    bad = next(answer for answer in answers if answer[0] != " ")
    assert found.startswith(f"1 of 1 item has no space before the answer, such as {bad!r} after {prompt[-20:]!r}")
    assert found.endswith(f"begin each choice and each recalled answer with a space: {' ' + bad!r}")


@pytest.mark.parametrize(
    "prompt, answers",
    [
        ("Question: What is the capital of France?\nAnswer:", (" Paris", " Rome")),
        ("Answer: ", ("Paris", "Rome")),  # scored as if the space were the options' own, as in lm-eval
        ("Question: ...\nAnswer:", ("\nParis", "\nRome")),
        ("Question: ...\nAnswer:\n", ("Paris", "Rome")),
        ("答案：", ("北京", "上海")),
        ("答案:", ("A", "B")),
        ("中国的首都是", ("北京",)),
        ("日本の首都は", ("東京", "ロンドン")),
        ("เมืองหลวงคือ", ("กรุงเทพ", "เชียงใหม่")),
        ("2 + 2 =", ("4", "5")),
        ("The answer is (", ("A", "B")),
        ("She is well-", ("known", "read")),
        ("In the year 19", ("45", "46")),
        ("", ("Paris", "Rome")),
        ("un", ("do", "tie")),
        ("He said", (", and left", ". Then he left")),
    ],
)
def test_what_is_written_so_on_purpose_is_not(prompt, answers):
    assert problem(prompt, *answers) == ""


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("x = np.", "zeros"),
        ("Then import numpy as np and call np.", "zeros"),
        ("pi is 3.", "14159"),
        ("We meet at 12:", "30"),
        ("It sold 1,", "000 copies"),
        ("The war of 1914–", "1918"),
        ("She won in the 20", "th century"),
        ("It weighs 5", "kg"),
        ("y = foo[1:", "2]"),
        ("Write to joe@example.", "com"),
        ("Go to www.", "example.com"),
        ("See https://example.com?", "q"),
        ("We print(len", "(x))"),
        ("We print(a,", "b)"),
        ("call std::", "sort"),
        ("The plural of cat is cat", "s"),
        ("He is a photo", "grapher"),
        ("They rowed to the is", "land"),
        ("Steve Jobs showed the i", "Phone"),
        ("the server on localhost:", "8080"),
        ("He left—", "and never came back"),
    ],
)
def test_a_recalled_answer_may_end_a_word_a_number_or_code(prompt, answer):
    assert problem(prompt, answer) == ""


@pytest.mark.parametrize(
    "prompt, answers",
    [
        ("x = np.", ("zeros", "ones")),
        ("pi is 3.", ("14", "15")),
        ("We meet at 12:", ("30", "45")),
        ("y = foo[1:", ("2]", "3]")),
        ("Write to joe@example.", ("com", "org")),
        ("We print(len", ("(x))", "(y))")),
    ],
)
def test_nor_do_options_need_a_space_inside_numbers_and_code(prompt, answers):
    assert problem(prompt, *answers) == ""


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("The capital of France is", "Paris"),
        ("Its symbol is", "silicon"),
        ("The war was won by", "Wellington and Blücher"),
        ("Question: Which city?\nAnswer:", "paris"),
        ("Question: What is 2 + 2?\nA:", "4"),
        ("What is the capital of France?", "Paris"),
        ("He was born in London. She was born in the city of.", "Paris"),
        ("Столица Франции —", "Париж"),
        ("It costs", "$5"),
    ],
)
def test_a_recalled_word_after_prose_is_not_one_of_these(prompt, answer):
    assert "no space before the answer" in problem(prompt, answer)


def test_two_spaces_and_one_on_the_wrong_side():
    assert "two spaces before the answer" in problem("Answer: ", " Paris", " Rome")
    found = problem("The capital of France is ", "Paris")
    assert "at the end of the prompt" in found and found.endswith("begin the answers with one, ' Paris'")


def test_the_tokens_are_why(make_tokenizer):
    """A space at the end of the prompt costs options nothing and recalled answers their tokens."""
    from forget_callback.scoring.likelihood.tokens import encode_items

    def rows(item):
        return [row.tokens for row in encode_items(Probe("p", [item]), make_tokenizer()).rows]

    options = [(" Paris", " Rome"), ("Paris", "Rome")]
    own, prompts = (rows(MultipleChoice("a", p, o, 0)) for p, o in zip(("Answer:", "Answer: "), options))
    assert own == prompts
    assert rows(MultipleChoice("a", "Answer:", options[1], 0)) != own


def test_a_chat_template_stands_between_prompt_and_answer():
    assert problem("What is the capital of France?", "Paris", "Rome", chat=True) == ""
    item = MultipleChoice("a", "What is it?", ["Paris", "Rome"], 0, variants=[{"prompt": "It is", "chat": False}])
    assert "after 'It is'" in spacing_problem(Probe("p", [item], chat=True))


def test_one_accepted_answer_with_its_space_is_enough():
    assert spacing_problem(Probe("p", [Recall("a", "Its symbol is", ["Si", " Si", " silicon"])])) == ""
    assert spacing_problem(Probe("p", [Recall("a", "Its symbol is", ["Si", "silicon"])]))


def test_the_text_before_each_option_counts():
    def asked(*contexts):
        item = MultipleChoice("a", "", [" was small.", " was small.."], 0, contexts=contexts)
        return spacing_problem(Probe("p", [item]))

    assert asked("The trophy", "The suitcase") == ""
    assert "two spaces" in asked("The trophy ", "The suitcase ")


@pytest.mark.parametrize("bad, is_said", [(0, False), (9, False), (10, True), (100, True)])
def test_a_tenth_of_the_items(bad, is_said):
    items = [MultipleChoice(f"m{i}", "Which?\nAnswer:", ["x", "y"] if i < bad else [" x", " y"], 0) for i in range(100)]
    items += [Generation(f"g{i}", "Answer:", "x") for i in range(200)]
    found = spacing_problem(Probe("p", items))
    assert found.startswith(f"{bad} of 100 items") if is_said else not found


@pytest.mark.parametrize("spec", ["builtin:facts", "builtin:facts?chat=true", "builtin:facts?kind=recall"])
def test_our_own_probes_are_silent(spec):
    assert spacing_problem(load_probe(spec)) == ""


@pytest.fixture
def glued(tmp_path):
    items = [
        MultipleChoice(f"m{i}", f"Question: which is {i}?\nAnswer:", ["Paris", "Rome", "Tokyo"], i % 3)
        for i in range(30)
    ]
    path = tmp_path / "glued.jsonl"
    path.write_text(dump_items(items))
    return path


def test_the_commands_say_it_when_they_load_a_probe(glued, run_cli):
    for command in (["probes", glued], ["plan", glued]):
        status, out, err = run_cli(*command)
        assert status == 0 and "have no space before the answer" not in out
        assert "probe 'glued': 30 of 30 items have no space before the answer" in " ".join(err.split())


def test_a_run_says_it_at_the_baseline_once(glued, tmp_path, make_model, make_tokenizer, caplog):
    probe, model, tokenizer = load_probe(glued), make_model().eval(), make_tokenizer()
    monitor = ForgetMonitor(probe, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        for step in (0, 1):
            monitor.observe(step, score_probe(model, tokenizer, probe))
    told = [message for message in caplog.messages if "no space before the answer" in message]
    assert len(told) == 1 and told[0].startswith("probe 'glued': 30 of 30 items")
