"""`run`: what it refuses before anything is started, what the command gets, and how both end. No trainer here."""

import fcntl
import functools
import json
import os
import re
import signal
import sys
import termios
import time

import pytest
import yaml

from forget_callback.tools.arguments import CallbackArguments
from forget_callback.tools.launch import HOOK
from tests.cli.test_errors import refused
from tests.forked import finish, start

ITEM = '{"id": "a", "prompt": "2 + 2 =", "answer": "4"}\n'
SHOW = "import json, os; json.dump(dict(os.environ), open('environment.json', 'w'))"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(ITEM)
    (tmp_path / "b.jsonl").write_text(ITEM)
    for name in ("FORGET_CALLBACK", "FORGET_CALLBACK_REPORTS", "FORGET_CALLBACK_REQUIRE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "line, problem",
    [
        ("run --probes gone.jsonl -- {touch}", "gone.jsonl"),
        ("run --probes a.json -- {touch}", "spec 'a.json' is not known"),
        ("run --probes a.jsonl gone.jsonl -- {touch}", "gone.jsonl"),
        ("run --stop knowledge_losst>0.1 -- {touch}", "did you mean knowledge_lost"),
        ("run --stop facts/capitls/forgetting>0.1 -- {touch}", "capit"),
        ("run --every 0 -- {touch}", "every must be"),
        ("run --every epoch -- {touch}", "eval_strategy='epoch'"),
        ("run --config gone.yaml -- {touch}", "config 'gone.yaml': no such file"),
        ("run --config typo.yaml -- {touch}", "typo.yaml: unknown key 'probs'; did you mean 'probes'?"),
        ("run --config bad.yaml -- {touch}", "baseline must be 'start', 'base' or a RUN directory"),
        ("run --config variants.yaml -- {touch}", "variants must be 'all', 'changed', 'ends' or 'off', got 'some'"),
        ("run {touch}", "put -- before the command"),
        ("run", "put -- before the command"),
        ("run --probes -- {touch}", "--probes needs a value before --"),
        ("run --", "the command after -- is missing"),
        ("run --probs a.jsonl -- {touch}", "--probs"),
        ("run -- no-such-program --config x", "command 'no-such-program': no such program on PATH"),
        ("run -- ./a.jsonl", "./a.jsonl"),
        ("run -- ./", "command './' is a directory"),
        ("run --config twice.yaml -- {touch}", "twice.yaml: key 'every' is there twice"),
        ("run --config . -- {touch}", "config '.': is a directory"),
    ],
)
def test_what_is_wrong_is_said_before_the_command_starts(run_cli, tmp_path, line, problem):
    (tmp_path / "typo.yaml").write_text("probs: [a.jsonl]")
    (tmp_path / "twice.yaml").write_text("every: 2\nprobes: a.jsonl\nevery: 3")
    (tmp_path / "bad.yaml").write_text("baseline: gone")
    (tmp_path / "variants.yaml").write_text("variants: some")
    assert problem in refused(run_cli, *line.format(touch="touch started").split())
    assert not (tmp_path / "started").exists()


def environment(tmp_path):
    return json.loads((tmp_path / "environment.json").read_text())


def test_the_command_gets_the_arguments_and_the_hook_and_its_words_untouched(run_cli, tmp_path, monkeypatch):
    """Options override the file, paths are absolute, and what follows -- is no option of ours."""
    monkeypatch.setenv("PYTHONPATH", "/one:/two")
    (tmp_path / "forget.yaml").write_text("probes: [b.jsonl]\nevery: 7\nmax_overhead: 0.5\noutput_dir: out")
    words = [sys.executable, "-c", f"{SHOW}; import sys; json.dump(sys.argv, open('words.json', 'w'))"]
    theirs = ["--debug", "--help", "--every", "3", "--", "it's $HOME *", ""]
    code, out, err = run_cli(
        *("run", "--config", "forget.yaml", "--probes", "a.jsonl", "builtin:facts?limit=3", "--stop", "forgetting>0.1"),
        *("--stop", "churn>0.5", "--", *words, *theirs),
    )
    assert (code, out) == (0, "")
    assert json.loads((tmp_path / "words.json").read_text())[1:] == theirs
    given = json.loads(environment(tmp_path)["FORGET_CALLBACK"])
    assert given["probes"] == [str(tmp_path / "a.jsonl"), "builtin:facts?limit=3"]
    assert (given["stop"], given["every"]) == (["forgetting>0.1", "churn>0.5"], 7)
    assert (given["max_overhead"], given["output_dir"]) == (0.5, str(tmp_path / "out"))
    assert CallbackArguments.of(given).callback().settings.every == 7
    assert environment(tmp_path)["PYTHONPATH"] == os.pathsep.join([str(HOOK), "/one", "/two"])
    assert (
        err.splitlines()[-1] == "forget-callback run: nothing was watched: the command built no Trainer of transformers"
    )


def test_probes_may_be_spelled_as_other_commands_do(run_cli, tmp_path):
    words = [sys.executable, "-c", SHOW, "--probe", "c"]
    code, *_ = run_cli("run", "--probe", "a.jsonl", "builtin:facts?limit=3", "--", *words)
    given = json.loads(environment(tmp_path)["FORGET_CALLBACK"])["probes"]
    assert code == 0 and given == [str(tmp_path / "a.jsonl"), "builtin:facts?limit=3"]
    assert not re.search(r"--probe\b", run_cli("run", "--help")[1])


def test_a_file_that_is_not_named_is_not_read(run_cli, tmp_path):
    (tmp_path / "forget.yaml").write_text("this: [is no YAML of ours")
    code, _, _ = run_cli("run", "--probes", "a.jsonl", "--every", "3", "--", sys.executable, "-c", SHOW)
    assert code == 0
    given = json.loads(environment(tmp_path)["FORGET_CALLBACK"])
    assert (given["probes"], given["every"]) == ([str(tmp_path / "a.jsonl")], 3)
    assert not os.path.exists(environment(tmp_path)["FORGET_CALLBACK_REPORTS"]), "left behind"


@pytest.mark.parametrize("option, status", [([], 0), (["--require"], 2)])
def test_a_command_that_builds_no_trainer_or_that_is_not_reached(run_cli, option, status):
    for words, why in (
        ([sys.executable, "-c", "pass"], "the command built no Trainer"),
        ([sys.executable, "-I", "-c", "pass"], "no Python process of the command could be reached"),
        (["true"], "no Python process of the command could be reached"),
    ):
        code, _, err = run_cli("run", *option, "--probes", "a.jsonl", "--", *words)
        assert code == status
        assert f"forget-callback run: nothing was watched: {why}" in err


@pytest.mark.parametrize("option", [[], ["--require"]])
@pytest.mark.parametrize("script, status", [("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 0", 0)])
def test_the_exit_status_is_the_commands(run_cli, option, script, status):
    """Where watching is required, success without it is none."""
    expected = 2 if option and status == 0 else status
    assert run_cli("run", *option, "--probes", "a.jsonl", "--", "sh", "-c", script)[0] == expected


REPORTED = {
    "watched": (["attached", "watched"], 0, "watched 1 Trainer"),
    "watched, by a callback of its own": (["left out", "watched"], 0, "watched 1 Trainer"),
    "one of two never trained": (["attached", "attached", "watched"], 0, "watched 1 Trainer"),
    "one of two is not watched": (["attached", "attached", "watched", "unwatched"], 2, "watched 1 Trainer"),
    "not watched": (["attached", "unwatched"], 2, "not watched: Trainer: gone"),
    "never trained": (
        ["attached", "attached"],
        2,
        "nothing was watched: the callback was attached to 2 Trainer, and no training began",
    ),
    "left out": (["left out"], 2, "nothing was watched: Trainer: gone"),
}


@pytest.mark.parametrize("what", REPORTED)
@pytest.mark.parametrize("option", [[], ["--require"]])
def test_attached_is_not_watched(run_cli, tmp_path, option, what):
    """What processes report of their trainers; test_attaching.py has when they do."""
    found, required, last = REPORTED[what]
    for number, kind in enumerate(found):
        report = {"found": kind, "trainer": "Trainer", "why": "gone", "rank": 0}
        (tmp_path / f"{number}.json").write_text(json.dumps(report))
    command = ["sh", "-c", 'cp [0-9].json "$FORGET_CALLBACK_REPORTS"']
    code, _, err = run_cli("run", *option, "--probes", "a.jsonl", "--", *command)
    assert code == (required if option else 0)
    assert err.splitlines()[-1] == f"forget-callback run: {last}"
    assert err.count("not watched: Trainer: gone") == found.count("unwatched")


@pytest.mark.parametrize(
    "more, script, said",
    [
        ("", "exit 0", "watched 1 Trainer"),
        ("", "kill -TERM $$", "watched 1 Trainer; the command ended with status 143"),
        ("remote: true", "exit 0", "had 1 Trainer listen to forget-callback watch, which measures"),
    ],
)
def test_the_last_line_claims_no_more_than_there_is(run_cli, tmp_path, more, script, said):
    (tmp_path / "forget.yaml").write_text(f"probes: a.jsonl\n{more}")
    (tmp_path / "1.json").write_text('{"found": "watched", "trainer": "Trainer", "why": "", "rank": 0}')
    command = ["sh", "-c", f'cp 1.json "$FORGET_CALLBACK_REPORTS"; {script}']
    assert run_cli("run", "--config", "forget.yaml", "--", *command)[2] == f"forget-callback run: {said}\n"


def test_a_run_within_a_run_is_the_inner_ones(run_cli, tmp_path):
    inner = [sys.executable, "-m", "forget_callback", "run", "--probes", "b.jsonl", "--", sys.executable, "-c", SHOW]
    assert run_cli("run", "--probes", "a.jsonl", "--", *inner)[0] == 0
    assert json.loads(environment(tmp_path)["FORGET_CALLBACK"])["probes"] == [str(tmp_path / "b.jsonl")]
    paths = environment(tmp_path)["PYTHONPATH"].split(os.pathsep)
    assert (paths[0], paths.count(str(HOOK))) == (str(HOOK), 1)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signals_reach_the_command_which_decides(tmp_path, name):
    """It may save and go on for a while: `run` stays until it has ended, and ends as it does."""
    trap = f"trap 'echo $$ >> heard; sleep 0.2; exit 7' {name[3:]}; touch ready; while :; do sleep 0.05; done"
    words = ["-m", "forget_callback", "run", "--probes", "a.jsonl", "--", "sh", "-c", trap]
    process = start(*words, directory=tmp_path, err=tmp_path / "err")
    wait_for(tmp_path / "ready", process)
    os.kill(process.pid, getattr(signal, name))
    assert finish(process) == 7
    (child,) = (tmp_path / "heard").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)


def wait_for(file, process):
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.exitcode is None and time.monotonic() < deadline
        time.sleep(0.02)


SAVES = (  # at each signal, and ends a while after the first
    'for name in INT TERM USR1; do trap "echo $name >> heard" $name; done; touch ready; '
    "while [ ! -e heard ]; do sleep 0.05; done; sleep 1.2; exit 7"
)


def own_terminal(name):
    """Makes a terminal that of this process, with the process in its foreground."""
    os.setsid()
    fcntl.ioctl(os.open(name, os.O_RDWR), termios.TIOCSCTTY, 0)


def watched(tmp_path, script, before):
    """`run` with a script that is ready."""
    words = ["-m", "forget_callback", "run", "--probes", "a.jsonl", "--", "sh", "-c", script]
    process = start(*words, directory=tmp_path, err=tmp_path / "err", before=before)
    wait_for(tmp_path / "ready", process)
    return process


@pytest.fixture
def terminal():
    """The file descriptors of a keyboard and of its terminal."""
    pair = os.openpty()
    yield pair
    for one in pair:
        os.close(one)


def test_the_keys_of_a_terminal_come_once(tmp_path, terminal):
    """The terminal itself sends Ctrl-C to the command as well: twice would end one that saves at the first."""
    process = watched(tmp_path, SAVES, functools.partial(own_terminal, os.ttyname(terminal[1])))
    os.write(terminal[0], b"\x03")
    assert finish(process) == 7
    assert (tmp_path / "heard").read_text() == "INT\n"


def test_a_signal_to_the_process_alone_reaches_the_command_in_a_terminal_too(tmp_path, terminal):
    process = watched(tmp_path, SAVES, functools.partial(own_terminal, os.ttyname(terminal[1])))
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 7
    assert (tmp_path / "heard").read_text() == "INT\n"


@pytest.mark.parametrize("to_process_too", [False, True])
def test_a_signal_to_the_process_group_comes_once(tmp_path, to_process_too):
    """As schedulers and ``kill -- -PGID`` send it; `timeout` sends it to the process and then to the group."""
    process = watched(tmp_path, SAVES, os.setpgrp)
    if to_process_too:
        os.kill(process.pid, signal.SIGTERM)
    else:  # the command acts on the first one before it could get a second
        os.kill(process.pid, signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGTERM)
    wait_for(tmp_path / "heard", process)
    os.kill(process.pid, signal.SIGCONT)
    assert finish(process) == 7
    assert (tmp_path / "heard").read_text() == "TERM\n"


def test_signals_after_one_another_all_come(tmp_path):
    """To the group, to the process, and to the group again; the last one ends the command and nothing is left."""
    script = "trap 'echo TERM >> heard' TERM; trap 'echo USR1 >> heard' USR1; trap 'exit 9' INT; touch ready; "
    process = watched(tmp_path, f"{script}while :; do sleep 0.05; done", os.setpgrp)
    for send, number, heard in (
        (os.killpg, signal.SIGTERM, "TERM\n"),
        (os.kill, signal.SIGUSR1, "TERM\nUSR1\n"),
        (os.killpg, signal.SIGINT, None),
    ):
        send(process.pid, number)
        while heard is not None and (not (tmp_path / "heard").exists() or (tmp_path / "heard").read_text() != heard):
            assert process.exitcode is None
            time.sleep(0.02)
        time.sleep(0.6)
    assert finish(process) == 9
    assert (tmp_path / "heard").read_text() == "TERM\nUSR1\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_help_shows_what_would_be_attached(run_cli, tmp_path):
    """In the form of a config, which makes the same callback; nothing is started."""
    (tmp_path / "forget.yaml").write_text("probes: [b.jsonl]\nevery: 7")
    code, out, _ = run_cli(
        "run", "--config", "forget.yaml", "--stop", "forgetting>0.1", "--help", "--", "touch", "started"
    )
    assert code == 0 and not (tmp_path / "started").exists()
    assert all(option in out for option in ("COMMAND", "--probes", "--every", "--stop", "--config", "--require"))
    shown = out[out.index("\nprobes:") : out.index("\n\nprobe ")]
    assert CallbackArguments.of(yaml.safe_load(shown)) == CallbackArguments(
        ["b.jsonl"], every=7, stop=["forgetting>0.1"]
    )
    assert "probe b: 1 item, fingerprint" in out
    assert "builtin:facts" in run_cli("run", "--help")[1]
    assert "did you mean forgetting" in refused(run_cli, "run", "--stop", "forgeting>0.1", "--help")


@pytest.mark.parametrize(
    "wrong",
    [
        "max_overhead: lots",
        "max_overhead: .nan",
        "log: [main]",
        "on_error: ignore",
        "upload: everything",
        "baseline: 5",
        "variants: {}",
        "remote: 'no'",
        "output_dir: 5",
        "output_dir: ''",
        "probe_limit: 0",
        "probe_batch_tokens: many",
        "evaluation_metrics: [nope]",
        "every: epoch",
    ],
)
def test_help_refuses_what_a_run_refuses(run_cli, tmp_path, wrong):
    (tmp_path / "forget.yaml").write_text(f"probes: a.jsonl\n{wrong}")
    said = refused(run_cli, "run", "--config", "forget.yaml", "--", "touch", "started")
    assert refused(run_cli, "run", "--config", "forget.yaml", "--help") == said
    assert wrong.split(":")[0].removeprefix("probe_") in said
    assert not (tmp_path / "started").exists()


def test_help_of_a_run_that_another_process_measures_loads_no_probe(run_cli, tmp_path):
    """They may lie on the watcher's machine alone."""
    (tmp_path / "forget.yaml").write_text("probes: elsewhere.jsonl\nremote: true")
    code, out, _ = run_cli("run", "--config", "forget.yaml", "--help")
    assert code == 0 and "- elsewhere.jsonl" in out
