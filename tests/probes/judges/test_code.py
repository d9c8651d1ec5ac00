"""Code runs only where that was asked for, within limits, and leaves nothing behind."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from forget_callback import Generation, Probe, load_probe, score_probe
from forget_callback.probes.apart import Patience
from forget_callback.probes.judging import judge, judge_all
from forget_callback.probes.records import item_record
from forget_callback.runs.store import Store

RIGHT = "def double(x):\n    return 2 * x"
TESTS = "assert double(3) == 6"
DOC = {"entry": "double", "tests": TESTS}


def item(**more):
    return Generation("q", "Write double(x).", **{"answer": RIGHT, "match": "code", "doc": DOC, **more})


def why(text, tests=TESTS):
    found = judge(item(doc={"entry": "double", "tests": tests}), text, finished=True, run_code=True)
    return found.why


def test_nothing_runs_unless_it_is_allowed(tmp_path):
    mark = tmp_path / "ran"
    text = f"open({str(mark)!r}, 'w')\n{RIGHT}"
    with pytest.raises(ValueError, match=r"its code is not run; Probe\(..., run_code=True\), or \?run_code=true"):
        judge(item(), text, finished=True)
    found = judge_all([(item(), text, True)])
    assert found.judgements == [None] and "not run" in found.unjudged[0] and not found.failed
    assert not mark.exists()


@pytest.mark.parametrize("spec, allowed", [("", False), ("&run_code=false", False), ("&run_code=true", True)])
def test_a_spec_allows_it_and_a_run_on_disk_does_not(tmp_path, spec, allowed):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(item_record(item())), encoding="utf-8")
    probe = load_probe(f"{path}?variants=off{spec}")
    plain = load_probe(f"{path}?variants=off")
    assert probe.run_code == allowed
    assert probe.fingerprint == plain.fingerprint and probe == plain
    store = Store(tmp_path / "run")
    store.begin([probe])
    assert [one.run_code for one in store.probes()] == [False]
    with pytest.raises(ValueError, match="run_code must be true or false, got 'yes'"):
        load_probe(f"{path}?run_code=yes")


def test_items_of_code_are_left_unscored_and_that_is_said_once(make_model, tokenizer, caplog):
    items = [item(), Generation("g", "Who?", "x", "contains", max_new_tokens=4)]
    with caplog.at_level(logging.WARNING):
        snapshot = score_probe(make_model(), tokenizer, Probe("p", items))
    assert snapshot.outcome[0] is None and snapshot.outcome[1] is not None
    said = [record.getMessage() for record in caplog.records if "run_code=True" in record.getMessage()]
    assert len(said) == 1 and "1 of 2 items is not scored: q" in said[0]
    assert "run_code" in next(iter(snapshot.metadata["not_scored"]))
    assert score_probe(make_model(), tokenizer, Probe("p", items, run_code=True)).outcome[0] is not None


def test_the_environment_files_network_and_processes_are_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    secret = tmp_path / "secret.txt"
    secret.write_text("6", encoding="utf-8")
    assert not why("import os\ndef double(x):\n    return 6 if 'HF_TOKEN' not in os.environ else 0")
    for attempt in (
        f"return int(open({str(secret)!r}).read())",
        f"import os; os.remove({str(secret)!r}); return 6",
        f"import shutil; shutil.rmtree({str(tmp_path)!r}); return 6",
        f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'new').write_text('x'); return 6",
        "import os; os.kill(os.getppid(), 9); return 6",
        "import os; return 6 if os.fork() else 6",
        "import os; os.system('true'); return 6",
        "import urllib.request; return 6",
        "import ctypes; return 6",
        "import multiprocessing; return 6",
        f"import os; os.mkfifo({str(tmp_path / 'fifo')!r}); return 6",
        f"import os; os.mknod({str(tmp_path / 'node')!r}); return 6",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return 6",
        "import posix; posix.nice(1); return 6",
        "import os; os.sched_setaffinity(os.getppid(), {0}); return 6",
        "import os; os.setsid(); return 6",
    ):
        assert "not allowed" in why(f"def double(x):\n    {attempt}"), attempt
    assert secret.read_text(encoding="utf-8") == "6" and os.listdir(tmp_path) == ["secret.txt"]


@pytest.mark.parametrize("library", ["pathlib", "timeit", "unittest", "tempfile", "shutil", "random", "statistics"])
def test_a_right_answer_may_import_what_it_does_not_use(library):
    assert not why(f"import {library}\n{RIGHT}")


def test_the_tests_of_an_item_have_no_more_rights(tmp_path):
    mark = tmp_path / "ran"
    assert "not allowed" in why(RIGHT, f"assert double(3) == 6\nopen({str(mark)!r}, 'w')")
    assert not mark.exists()
    assert why(RIGHT, "assert double(3) == 6\nraise SystemExit(0)").startswith("fails raise SystemExit(0)")


def test_a_reason_names_the_test_and_what_happened():
    assert why("def double(x):\n    return x") == "fails assert double(3) == 6"
    assert (
        why("def double(x):\n    return x / 0") == "fails assert double(3) == 6 (ZeroDivisionError: division by zero)"
    )
    assert why("def other(x):\n    return x") == "does not define double"
    assert why("import nothing\ndef double(x): pass").startswith(
        "raises ModuleNotFoundError: No module named 'nothing'"
    )


def test_what_no_pipe_can_carry_is_said():
    assert "a A cannot be passed to code that is judged" in why(RIGHT, "class A:\n    pass\nassert double(A())")
    own = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    assert not why(f"{own}def double(x):\n    return P(2 * x).x")
    assert why(f"{own}def double(x):\n    return P(2 * x)") == "fails assert double(3) == 6"


def test_the_order_of_a_set_is_one():
    """Which is another one in each process unless that is seen to: what passes once must pass again."""
    show = [sys.executable, "-c", "print(hash('red'))"]
    seen = subprocess.run(show, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert not why("def double(x):\n    return hash('red')", f"assert double(1) == {seen.stdout.strip()}")


@pytest.mark.skipif(os.name != "posix", reason="limits of memory and processor time are POSIX's")
def test_memory_and_time_are_limited():
    bodies = ["return len('a' * 10**10)", "return 10 ** 10 ** 10"]  # at once: the second one takes seconds
    found = judge_all([(item(), f"def double(x):\n    {body}", True) for body in bodies], run_code=True).judgements
    assert "MemoryError" in found[0].why and "takes too long" in found[1].why


@pytest.mark.skipif(os.name != "posix", reason="limits of processor time are POSIX's")
def test_answers_without_end_use_up_a_patience_and_what_is_not_run_is_not_wrong():
    """Of a snapshot of many such answers no more than a minute: what comes after is unscored, and that is said."""
    patience = Patience(code_seconds=0.1)
    endless = [(item(), "def double(x):\n    while True: pass", True)] * 8  # as many as run at once
    found = judge_all([*endless, (item(), RIGHT, True)], patience, run_code=True)
    assert found.judgements[0].outcome == "wrong" and "takes too long" in found.judgements[0].why
    assert found.judgements[0].ran_out
    assert (
        found.judgements[-1] is None and "not run: that of answers before it ran into its limits" in found.unjudged[8]
    )
    assert not found.failed
    assert judge_all([(item(), RIGHT, True)], patience, run_code=True).judgements == [None]
    unspent = Patience()
    assert judge_all([(item(), RIGHT, True)], unspent, run_code=True).judgements[0].outcome == "correct"
    assert unspent == Patience()


@pytest.mark.parametrize("body, said", [("return 0", ""), ("raise ValueError('takes too long')", "takes too long")])
def test_an_answer_that_is_slow_and_ends_uses_up_no_patience(body, said):
    """Whatever it says of itself."""
    patience = Patience(code_seconds=0.1)
    slow = (item(), f"import time\ntime.sleep(2.2)\ndef double(x):\n    {body}", True)
    found = judge_all([slow], patience, run_code=True).judgements[0]
    assert found.why.startswith("fails assert double(3) == 6") and said in found.why and not found.ran_out
    assert judge_all([(item(), RIGHT, True)], patience, run_code=True).judgements[0].outcome == "correct"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_no_process_is_left_where_the_trainer_is_killed():
    """Even one that sleeps."""
    script = (
        "from forget_callback import Generation\n"
        "from forget_callback.probes.judging import judge\n"
        f"item = Generation('q', 'Q', {RIGHT!r}, 'code', doc={DOC!r})\n"
        "code = 'import time\\ndef double(x):\\n    time.sleep(60)'\n"
        "judge(item, code, finished=True, run_code=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as trainer:
        own, wanted = psutil.Process(trainer.pid), time.monotonic() + 60
        while len(new := own.children(recursive=True)) < 2 and time.monotonic() < wanted:
            time.sleep(0.1)
        time.sleep(0.3)  # until the answer sleeps
        trainer.send_signal(signal.SIGKILL)
    assert len(new) == 2
    _, alive = psutil.wait_procs(new, timeout=20)
    assert not alive


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"doc": {"tests": TESTS}}, r"field 'doc.entry': missing; match 'code' reads tests, entry"),
        ({"doc": {"entry": "double"}}, r"field 'doc.tests': missing"),
        ({"doc": {**DOC, "test": ""}}, r"field 'doc': unknown key 'test'; .* did you mean 'tests'\?"),
        ({"doc": {**DOC, "tests": "double(3) == 6"}}, r"field 'doc.tests': expected Python code that asserts, got"),
        ({"doc": {**DOC, "tests": "assert double(3"}}, r"field 'doc.tests': is no Python: 'assert double\(3'"),
        ({"doc": {**DOC, "entry": "triple"}}, r"field 'doc.tests': never calls triple"),
        (
            {"doc": {**DOC, "entry": "2x"}},
            r"field 'doc.entry': expected the name of the function that it calls, got '2x'",
        ),
        ({"answer": "Two times x."}, r"field 'answer': holds no Python code: 'Two times x.'"),
        ({"answer": "def triple(x):\n    return 3 * x"}, r"field 'answer': does not define double"),
    ],
)
def test_an_item_that_cannot_be_judged_is_refused(fields, problem):
    with pytest.raises(ValueError, match=rf"item 'q', {problem}"):
        item(**fields)


def test_the_processes_load_nothing_but_the_standard_library_and_their_own_files():
    foreign = "sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    own = ["__main__", "answer", "code_limits", "code_pipe"]
    assert not why(f"import sys\ndef double(x):\n    return {foreign}", f"assert double(0) == {own}, double(0)")
