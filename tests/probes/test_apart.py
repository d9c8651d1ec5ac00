"""Judging comes back whatever was written: with what judging at leisure gives, or with "unparsed", and says so."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forget_callback import Generation, load_probe
from forget_callback.probes import apart, judge_process
from forget_callback.probes.answers import by_text
from forget_callback.probes.apart import Patience
from forget_callback.probes.judging import judge, judge_all

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SCRIPT = Path(__file__).with_name("judging_script.py")
NESTED = "{" * 40 + "1" + "}" * 40
# Texts that math-verify does not finish, and such as take it long or much.
ENDLESS = {
    "tower": "$10^{10^{10}}$",
    "braces": f"$2^{'{2^' * 8}2{'}' * 8}$",
    "box": rf"\boxed{{{NESTED}}}",
    "deep box": rf"\boxed{{{NESTED.replace('{', '{' * 100).replace('}', '}' * 100)}}}",
    "deep parentheses": rf"\boxed{{{'(' * 4000}1{')' * 4000}}}",
    "factorial": "$(100!)!$",
    "double factorial": "$100000!!$",
    "fractions": "$" + r"\frac{1}{" * 30 + "2" + "}" * 30 + "$",
    "binomial": r"$\binom{100000000}{50000000}$",
    "words": "1 " * 100_000,
}
HARD = {
    "million": "$1000000!$",
    "twos": "$2^2^2^2^2^2^2^2$",
    "open boxes": r"\boxed{" * 40,
    "matrix": r"$\begin{pmatrix}" + r"\\".join(["&".join(["1"] * 60)] * 60) + r"\end{pmatrix}$",
    "roots": "$" + r"\sqrt{" * 300 + "2" + "}" * 300 + "$",
    "digits": "$" + "9" * 200_000 + "$",
    "boxes": r"\boxed{1} " * 20_000,
    "slashes": "1/" * 100_000,
    "bits": "$2^{10000000000}$",
    "power": r"$(1+\sqrt{2})^{100000000}$",
}
BACKTRACKING = [("(a+)+$", "a" * 50 + "b"), (r"(a|aa)+\d", "a" * 100), (r"(?:.|\n|[^\d])*\d{9}", "How are you? " * 9)]


def question(answer, match="math", key="q", **more):
    return Generation(key, "Q", answer, match, **more)


def ordinary():
    """A hundred answers as models give them, right ones and wrong ones."""
    rng = random.Random(0)
    forms = [
        r"\frac{%d}{%d}",
        "x^2+%dx-%d",
        r"\sqrt{%d}+\pi/%d",
        "[%d,%d)",
        "(%d,-%d)",
        r"%d\cdot 10^{%d}",
        r"\{%d,%d\}",
    ]
    forms += ["x=%d,y=%d", "%d.%d", r"%d%d\%%"]
    found = []
    for i in range(100):
        right, wrong = (forms[i % 10] % (rng.randint(1, 99), rng.randint(1, 9)) for _ in range(2))
        said = rng.choice(
            [rf"So, $a+b={i}$, and thus \[ {wrong} \] it is $\boxed{{{right}}}$.", f"It is ${right}$.", right]
        )
        found.append((question(rng.choice([right, right, wrong]), key=f"q{i}"), said, rng.random() < 0.9))
    return found


@pytest.fixture
def hasty(monkeypatch):
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    monkeypatch.setattr(apart, "LONG_SECONDS", 0.3)


@pytest.fixture
def anew():
    """A process that was started under the circumstances of this test, and is not kept."""
    judge_process.end()
    yield
    judge_process.end()


def test_ordinary_answers_are_judged_as_they_are_in_this_process():
    texts = ordinary()
    found = judge_all(texts)
    expected = [by_text(item, text, finished=finished) for item, text, finished in texts]
    assert found.judgements == expected and not found.overdue and not found.unjudged
    assert {"correct", "wrong", "truncated"} <= {one.outcome for one in expected}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real items are not at hand: {DATA} is missing")
def test_real_answers_are_judged_as_they_are_in_this_process():
    rows = [json.loads(line) for line in (DATA / "gsm8k.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [(question(row["answer"], key=row["id"]), f"{row['prompt']} {row['answer']}", True) for row in rows]
    texts += [(question(r"\d+", "regex", row["id"]), row["prompt"], True) for row in rows]
    assert judge_all(texts).judgements == [by_text(item, text, finished=True) for item, text, _ in texts]


def test_what_never_ends_is_unparsed_and_the_others_are_judged(hasty):
    right = question("5")
    texts = [(right, "It is $5$.", True)]
    for name, text in ENDLESS.items():
        texts += [(question("5", key=name), text, True), (right, "It is $5$.", True)]
    for i, (pattern, text) in enumerate(BACKTRACKING):
        texts += [(question(pattern, "regex", f"r{i}"), text, True), (question("a", "regex"), "a", True)]
    found = judge_all(texts, Patience(retries=1))
    assert sorted(found.overdue) == list(range(1, len(texts), 2)) and not found.unjudged
    assert sorted(set(found.overdue.values())) == [0.2, 0.3]
    assert [one.outcome for one in found.judgements] == ["correct", *["unparsed", "correct"] * (len(texts) // 2)]
    assert judge(question("5"), ENDLESS["tower"], finished=False).outcome == "unparsed"  # it is counted as such


def test_what_is_hard_comes_back(hasty):
    texts = [(question("5", key=name), text, True) for name, text in HARD.items()]
    found = judge_all([*texts, (question("5"), "It is $5$.", True)], Patience(retries=0))
    assert {one.outcome for one in found.judgements[:-1]} <= {"unparsed", "wrong"} and not found.unjudged
    assert found.judgements[-1].outcome == "correct"


def test_what_is_slow_gets_the_long_deadline(monkeypatch):
    """One that ends in time is judged, and takes nothing from the patience for the others."""
    monkeypatch.setattr(apart, "SECONDS", 0.02)
    pattern = r"(?:a|a)*b"
    slow = next(n for n in range(10, 30) if _takes(pattern, "a" * n) > 0.1)
    monkeypatch.setattr(apart, "LONG_SECONDS", 20.0)
    patience = Patience(retries=1)
    found = judge_all([(question(pattern, "regex", f"{i}"), "a" * slow, True) for i in range(2)], patience)
    assert [one.outcome for one in found.judgements] == ["wrong", "wrong"] and not found.overdue
    assert patience == Patience(retries=1, texts=98)


def _takes(pattern, text):
    begun = time.process_time()
    by_text(question(pattern, "regex"), text, finished=True)
    return time.process_time() - begun


def test_patience_ends(hasty):
    """So that a model that writes nothing else does not stop training; what is not judged is not scored."""
    text, pattern = "a" * 60, "(a|a)+b"
    items = [question("a", "regex", "first"), *(question(pattern, "regex", f"{i}") for i in range(4))]
    patience = Patience(texts=2, retries=1)
    found = judge_all([(item, text, True) for item in items], patience)
    assert [one and one.outcome for one in found.judgements] == ["correct", "unparsed", "unparsed", None, None]
    assert found.overdue == {1: 0.3, 2: 0.2} and set(found.unjudged) == {3, 4} and not found.failed
    assert "took too long to judge" in found.unjudged[3]


def test_samples_that_are_alike_are_judged_once(hasty):
    item = question("(a|a)+b", "regex", samples=3)
    patience = Patience(retries=0)
    found = judge_all([(item, "a" * 60, True)] * 3, patience)
    assert found.overdue == dict.fromkeys(range(3), 0.2) and patience.texts == 99


def test_threads_share_one_process():
    texts = ordinary()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda one: judge(one[0], one[1], finished=one[2]), texts))
    assert found == judge_all(texts).judgements


@pytest.mark.parametrize(
    "python, problem",
    [
        ("", "there is no Python to start"),
        ("/no/such/python", "could not be started"),
        ("/bin/true", "ended with status 0"),
        ("/bin/sleep", "ended with status"),
    ],
)
def test_where_no_process_starts_the_answers_are_not_scored(monkeypatch, anew, python, problem):
    monkeypatch.setattr(sys, "executable", python)
    found = judge_all([(question("5"), "$5$", True), (question("5", "number"), "5", True)])
    assert found.judgements[0] is None and found.judgements[1].outcome == "correct"
    assert problem in found.unjudged[0] and not found.failed
    with pytest.raises(ValueError, match=problem):
        judge(question("5"), "$5$", finished=True)
    monkeypatch.undo()
    assert judge(question("5"), "$5$", finished=True).outcome == "correct"


@pytest.mark.parametrize(
    "does, problem", [("sleep 60", "not ready after 0.3 seconds"), ("exec cat", "is no Python that can judge")]
)
def test_what_is_no_python_is_given_up(monkeypatch, anew, tmp_path, does, problem):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(judge_process, "START_SECONDS", 0.3)
    found = judge_all([(question("5", key=f"{i}"), "$5$", True) for i in range(3)])
    assert len(found.unjudged) == 3 and all(problem in why for why in found.unjudged.values())


def test_without_forks_the_process_itself_is_replaced(monkeypatch, anew, hasty):
    monkeypatch.setattr(judge_process, "_CODE", judge_process._CODE.replace("serve()", "serve(False)"))
    texts = [(question("5"), text, True) for text in ("$5$", ENDLESS["tower"], "It is $5$.", "$6$")]
    found = judge_all([*texts, (question("(a+)+$", "regex"), "a" * 50 + "b", True)], Patience(retries=1))
    assert [one.outcome for one in found.judgements] == ["correct", "unparsed", "correct", "wrong", "unparsed"]


def test_a_process_that_is_killed_is_replaced(anew):
    assert judge(question("5"), "$5$", finished=True).outcome == "correct"
    os.killpg(judge_process._current._process.pid, signal.SIGKILL)
    assert judge(question("5"), "$6$", finished=True).outcome == "wrong"


WILD = """import os, signal, sys, time
def judge(doc, results):
    what = results[0]
    if what == "hungry":
        bytearray(2**31)
    if what == "asleep":
        time.sleep(600)
    if what == "crash":
        os.abort()
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "endless":
        while True:
            pass
    if what == "noisy":
        print("noise", flush=True); sys.stdin.read(); os.system("echo noise; echo noise >&2")
    if what == "broken":
        raise KeyError("no such thing")
    ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(os.environ)
    return {"mine": what != "wrong" and not ranks and not os.environ.get("CUDA_VISIBLE_DEVICES")}
"""


@pytest.fixture
def wild(tmp_path):
    pytest.importorskip("lm_eval")
    from tests.probes.test_lm_eval import GENERATION, METRIC, write_task

    (tmp_path / "wild.py").write_text(WILD)
    text = GENERATION + "process_results: !function wild.judge\n" + METRIC % "mine"
    write_task(tmp_path, "tiny_wild", text, [{"prompt": "Say", "gold": "x"}])
    return load_probe(f"lm-eval:tiny_wild?include_path={tmp_path}").items[0]


def test_rules_of_lm_evals_tasks_run_there_too(wild, anew, hasty, monkeypatch, capfd):
    for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(key, "1")
    said = ["x", "hungry", "wrong", "asleep", "crash", "endless", "noisy", "broken", "killed", "x"]
    found = judge_all([(wild, text, True) for text in said], Patience(retries=0))
    overdue = {1, 3, 4, 5}
    expected = [*"xuwuuux", None, None, "x"]
    names = {"x": "correct", "w": "wrong", "u": "unparsed", None: None}
    assert [one and one.outcome for one in found.judgements] == [names[one] for one in expected]
    assert set(found.overdue) == overdue and set(found.unjudged) == {7, 8} and found.failed == {7}
    assert "could not judge 'broken': KeyError" in found.unjudged[7] and "failed twice" in found.unjudged[8]
    assert "noise" not in "".join(capfd.readouterr())


def test_a_rule_that_cannot_be_loaded_there_runs_here_and_is_said(wild, anew, tmp_path, caplog):
    (tmp_path / "wild.py").write_text("import no_such_package\n")
    for _ in range(2):
        assert judge(wild, "wrong", finished=True).outcome == "wrong"
    assert caplog.text.count("judged without a deadline, in this process") == 1


def session(leader):
    """The processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
            found += [stat.parent.name] if own == str(leader) and state != "Z" else []
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_process_ends_with_the_one_that_started_it(tmp_path, number):
    """Killed, or by Ctrl-C in its terminal, which is no traceback of another process."""
    err, file = tmp_path / "err", tmp_path / "pid"
    with err.open("w") as said:
        parent = subprocess.Popen([sys.executable, str(SCRIPT), str(file)], stderr=said, start_new_session=True)
    try:
        wait_for(lambda: file.exists() and file.read_text(), parent)
        leader = int(file.read_text())
        assert len(session(leader)) == 2  # it and the copy of it that judges
        (os.kill if number == signal.SIGKILL else os.killpg)(parent.pid, number)
        assert parent.wait(60) != 0
        wait_for(lambda: not session(leader))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert err.read_text().count("Traceback") == (0 if number == signal.SIGKILL else 1)


def wait_for(condition, process=None):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.05)
