"""One answer to everything is said, at the baseline and where training makes it so; ordinary answers are not."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest

from forget_callback import ForgetMonitor, Generation, MultipleChoice, Probe, Recall, Snapshot
from forget_callback.metrics.collapse import collapse, one_answer
from forget_callback.metrics.diagnostics import advice
from forget_callback.runs.comparison import compare_checkpoints
from forget_callback.runs.headline import headline
from forget_callback.snapshots.answers import Answers

LETTERS = np.array([" A", " B", " C", " D"], object)


def chosen(choice, answer, *, k=4, texts=None, step=0, **columns):
    """A snapshot of choice items; `texts` are what the options say, none where a log has only their indices."""
    choice, answer = np.asarray(choice), np.asarray(answer)
    prediction = [None] * len(choice) if texts is None else [texts[c] for c in choice]
    given = {"choice": choice, "answer": answer, "n_choices": [k] * len(choice), "prediction": prediction}
    return Snapshot("p", "f", step, [f"i{i}" for i in range(len(choice))], choice == answer, **given, **columns)


def said(texts, right=(), *, kind="recall", step=0):
    """A snapshot of open-ended items; `right` are indices."""
    correct = np.isin(np.arange(len(texts)), list(right)).astype(float)
    return Snapshot(
        "p", "f", step, [f"i{i}" for i in range(len(texts))], correct, prediction=texts, kind=[kind] * len(texts)
    )


def found(snapshot, before=None):
    one = one_answer(snapshot, before)
    return "" if one is None else str(one)


def test_letters_that_measure_position():
    """As SmolLM2-135M-Instruct answers lettered CommonsenseQA, plain and through its chat template."""
    key = np.arange(300) % 4
    always = chosen(np.zeros(300, int), key, texts=LETTERS)
    assert found(always) == "300 of 300 answers are ' A'"
    one, *others = advice(always, always)
    assert one.key == "one_answer" and "little_known" not in [other.key for other in others]
    assert "right for 75 of them" in one.text and "options as text" in one.text and "in place of letters" in one.text
    chat = chosen(np.where(np.arange(150) < 112, 1, 0), np.random.default_rng(0).integers(4, size=150), texts=LETTERS)
    assert found(chat) == "112 of 150 answers are ' B'"


def test_where_only_the_position_is_known():
    assert found(chosen(np.full(200, 2), np.arange(200) % 4)) == "200 of 200 answers are option 3"


@pytest.mark.parametrize("texts", [None, LETTERS])
def test_a_key_that_is_always_at_one_place_is_known_and_not_preferred(texts):
    """As TruthfulQA stores its items: the right option comes first in all."""
    rng = np.random.default_rng(0)
    choice = np.where(rng.random(400) < 0.8, 0, rng.integers(1, 4, 400))
    assert found(chosen(choice, np.zeros(400, int), texts=texts)) == ""
    assert found(said([" yes"] * 400, range(360))) == ""  # so may be an answer that is the same in all
    assert found(said([" yes"] * 400, range(359))) == "400 of 400 answers begin with ' yes'"


def test_yes_to_everything():
    key = np.arange(200) % 2
    yes = np.array([" yes", " no"], object)
    assert found(chosen(np.zeros(200, int), key, k=2, texts=yes)) == "200 of 200 answers are ' yes'"
    (text,) = [
        one.text for one in advice(*[chosen(np.zeros(200, int), key, k=2, texts=yes)] * 2) if one.key == "one_answer"
    ]
    assert "in place of letters" not in text and "differs from item to item" in text
    leaning = np.where(np.arange(200) % 10 < 9, 0, key)  # nine in ten are "yes" whatever is asked
    assert found(chosen(leaning, key, k=2, texts=yes)) == "180 of 200 answers are ' yes'"
    knows = np.where(np.arange(200) % 20 < 9, 0, key)
    assert found(chosen(knows, key, k=2, texts=yes)) == ""


@pytest.mark.parametrize("k", [2, 3, 4, 5, 10])
def test_guessing_is_silent_in_all_of_thousands_of_looks(k):
    rng, letters = np.random.default_rng(k), np.array(list("ABCDEFGHIJ"), object)
    for n in (30, 100):
        for _ in range(400):
            assert not found(chosen(rng.integers(k, size=n), rng.integers(k, size=n), k=k, texts=letters))


def test_few_items_say_nothing():
    assert found(chosen([0] * 29, [1] * 29, texts=LETTERS)) == ""
    assert found(chosen([0] * 30, [1] * 30, texts=LETTERS)) == "30 of 30 answers are ' A'"


STATES = ("base", "light", "qa2", "heavy", "mid", "qa1", "heaviest", "qa3")


def recorded():
    """Every look at the recorded answers of a real model with options as text: items, state, frame, snapshot."""
    with np.load(Path(__file__).parents[1] / "data" / "smollm2_answers.npz") as file:
        for items in ("arc", "csqa", "obqa", "facts"):
            answer = file[f"{items}_answer"].astype(int)
            for state, frame in itertools.product(*map(range, file[items].shape[:2])):
                yield items, state, frame, chosen(file[items][state, frame].astype(int), answer, step=state)


def test_a_real_model_with_options_as_text_is_silent_in_every_frame_and_after_every_training():
    looks = {(items, state, frame): one for items, state, frame, one in recorded()}
    assert len(looks) == 8 * 5 + 4 * 5 + 4 * 5 + 8 * 3
    for (items, _, frame), one in looks.items():
        assert found(one) == "" and collapse(looks[items, 0, frame], one) == ""


VARIED = [f" word{i}" for i in range(865)]


def test_recalled_answers_that_became_one():
    before = said([" a" if i < 80 else VARIED[i] for i in range(865)], range(100, 500))
    after = said([" a" if i < 676 else VARIED[i] for i in range(865)], range(700, 800), step=40)
    assert found(after, before) == "676 of 865 answers begin with ' a'"
    assert (
        collapse(before, after) == "the answers have collapsed: 676 of 865 answers begin with ' a' (80 at the baseline)"
    )
    keys = [one.key for one in advice(before, after)]
    assert "answers_collapsed" in keys and "one_answer" not in keys


def test_what_was_one_at_the_baseline_is_said_of_the_baseline_alone():
    one = said([" The"] * 700 + VARIED[:165])
    assert found(one) and not collapse(one, said([" The"] * 800 + VARIED[:65], step=3))
    assert [a.key for a in advice(one, one) if "answer" in a.key] == ["one_answer"]


@pytest.mark.parametrize(
    "share, then, is_one", [(0.45, 0.0, False), (0.55, 0.0, True), (0.7, 0.45, False), (0.8, 0.45, True)]
)
def test_more_than_half_of_the_way_from_what_it_was(share, then, is_one):
    n = 400
    looks = [
        said([" the" if i < part * n else VARIED[i] for i in range(n)], step=s) for s, part in enumerate((then, share))
    ]
    assert bool(collapse(*looks)) == is_one


def test_empty_answers_and_generated_ones():
    before = said(["7", *VARIED[:199]], range(150), kind="generation")
    empty = said(["\n", "", " "] * 60 + VARIED[:20], kind="generation", step=9)
    assert collapse(before, empty).startswith("the answers have collapsed: 180 of 200 answers are empty (0 at")
    unread = Snapshot("p", "f", 9, before.ids, [0.0] * 200, kind=["generation"] * 200, text=["I cannot help."] * 200)
    assert found(unread, before) == "200 of 200 answers are 'I cannot help.'"


def test_letters_that_training_made_one():
    rng = np.random.default_rng(1)
    key, choice = np.arange(300) % 4, rng.integers(4, size=300)
    before = chosen(np.where(rng.random(300) < 0.5, key, choice), key, texts=LETTERS)
    after = chosen(np.where(rng.random(300) < 0.9, 2, choice), key, texts=LETTERS, step=5)
    assert collapse(before, after).endswith("at the baseline)") and "answers are ' C'" in collapse(before, after)


def test_one_kind_of_a_mixed_probe():
    n = 100
    kind = ["multiple_choice"] * n + ["recall"] * n
    columns = {"kind": kind, "n_choices": [4.0] * n + [np.inf] * n, "answer": [0] * n + [-1] * n}
    right = np.arange(2 * n) % 2 == 0

    def look(step, recalled):
        choice = np.where(right, 0, 1 + np.arange(2 * n) % 3)[:n].tolist() + [-1] * n
        texts = [f" option{i}" for i in range(n)] + recalled
        correct = right & ~((step > 0) & (np.arange(2 * n) >= n))
        return Snapshot(
            "p", "f", step, [f"i{i}" for i in range(2 * n)], correct, choice=choice, prediction=texts, **columns
        )

    now = look(4, [" a"] * 70 + VARIED[:30])
    assert collapse(look(0, VARIED[:n]), now).startswith("the answers have collapsed: 70 of 100 recalled answers begin")


def test_a_second_prompt_with_letters():
    n, key = 200, np.arange(200) % 4
    first = np.where(np.arange(n) % 3 > 0, key, (key + 1) % 4)
    further = Answers("v", correct=(key == 0).astype(float), choice=np.zeros(n, int), prediction=[" A"] * n)
    look = chosen(first, key, texts=LETTERS, further=(further,))
    (text,) = [one.text for one in advice(look, look) if one.key == "one_answer"]
    assert text.startswith("200 of 200 answers are ' A' in variant 2, which is right for 50")


def test_the_headline_and_the_console_say_it_once(tmp_path, caplog):
    n = 60
    probe = Probe("facts", [Recall(f"r{i}", f"The word of {i} is", f" word{i}") for i in range(n)])

    def look(step, texts, right):
        return Snapshot("facts", probe.fingerprint, step, list(probe.ids), right, prediction=texts, kind=["recall"] * n)

    good = look(0, VARIED[:n], [1.0] * n)
    bad = look(1, [" a"] * n, [0.0] * n)
    (row,) = compare_checkpoints({"facts": good}, {"facts": bad})
    assert (
        headline(row).notes[0] == f"the answers have collapsed: {n} of {n} answers begin with ' a' (0 at the baseline)"
    )
    monitor = ForgetMonitor(probe, tmp_path)
    with caplog.at_level(logging.WARNING):
        monitor.observe(0, good)
        assert "begin with" not in caplog.text
        for step in (1, 2, 3):
            monitor.observe(step, bad)
    told = [message for message in caplog.messages if f"{n} of {n} answers begin with ' a' at step" in message]
    assert len(told) == 1 and "0 were at the baseline" in told[0] and "learning rate" in told[0]


def test_a_lettered_probe_is_said_at_the_baseline_with_the_remedy(tmp_path, caplog):
    key = np.arange(60) % 4
    items = [
        MultipleChoice(f"m{i}", "Question: ?\nA. x\nB. y\nC. z\nD. w\nAnswer:", list(LETTERS), int(a))
        for i, a in enumerate(key)
    ]
    probe = Probe("csqa", items)
    with caplog.at_level(logging.WARNING):
        ForgetMonitor(probe, tmp_path).observe(
            0,
            Snapshot("csqa", probe.fingerprint, 0, list(probe.ids), key == 0, choice=[0] * 60, prediction=[" A"] * 60),
        )
    (told,) = [message for message in caplog.messages if "60 of 60 answers are ' A'" in message]
    assert "what the model prefers to say and not what it knows" in told and "give the options as text" in told


def test_generated_letters(tmp_path):
    """A lettered question that is answered in words: the letter that was read, and its place."""
    items = [Generation(f"g{i}", "?", "ABCD"[i % 4], "choice", options=4) for i in range(40)]
    probe = Probe("gen", items)
    right = [float(i % 4 == 1) for i in range(40)]
    look = Snapshot("gen", probe.fingerprint, 0, list(probe.ids), right, choice=[1] * 40, prediction=["B"] * 40,
                    n_choices=probe.n_choices, answer=probe.answer, kind=["generation"] * 40)  # fmt: skip
    assert found(look) == "40 of 40 answers are 'B'"
