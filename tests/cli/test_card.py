"""`card`: writes nothing unless told to, sends nothing that was not asked for, and says what it needs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from forget_callback.runs.training import Training
from tests.hub import hub
from tests.recorded import make_probe, make_run
from tests.schema import checked

USER = "---\nlicense: mit # mine\n---\n# My model\r\n"


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run", [make_probe(kinds=("choice",), n_items=120)])
    (tmp_path / "README.md").write_bytes(USER.encode())
    return tmp_path / "run"


def files_of(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path_factory):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("hf") / "token"))


def test_by_default_it_shows_and_writes_nothing(run_cli, run, tmp_path):
    before = files_of(tmp_path)
    code, out, err = run_cli("card", run, "--model-card", tmp_path / "README.md")
    assert code == 0 and files_of(tmp_path) == before
    assert (
        "+## Forgetting" in out and "+model-index:" in out and "history.parquet" in out and "badge: facts lost: " in out
    )
    assert "nothing was written" in err
    code, out, _ = run_cli("card", run, "--repo", "me/model")  # the hub is out of reach
    assert code == 0 and "+## Forgetting" in out and "me/model-forgetting" in out


def test_write_changes_the_card_once(run_cli, run, tmp_path):
    card = tmp_path / "README.md"
    assert run_cli("card", run, "--model-card", card, "--write")[0] == 0
    once = card.read_bytes()
    assert once.startswith(b"---\nlicense: mit # mine\n") and b"---\n# My model\r\n" in once
    assert (tmp_path / "forgetting.svg").read_text().startswith("<svg")
    code, out, _ = run_cli("card", run, "--model-card", card, "--write")
    assert code == 0 and card.read_bytes() == once and "the card stays as it is" in out


def test_out_leaves_the_card_alone(run_cli, run, tmp_path):
    code, *_ = run_cli("card", run, "--model-card", tmp_path / "README.md", "--out", tmp_path / "o", "--upload", "all")
    assert code == 0 and (tmp_path / "README.md").read_bytes() == USER.encode()
    made = {path.relative_to(tmp_path / "o").as_posix() for path in files_of(tmp_path / "o")}
    data = {"README.md", "history.parquet", "snapshots.parquet", "items.parquet", "report.html", "probes/facts.jsonl"}
    assert made == {"README.md", "forgetting.svg", *(f"dataset/{name}" for name in data)}
    run_cli("card", run, "--out", tmp_path / "n", "--upload", "none")
    assert {path.name for path in files_of(tmp_path / "n")} == {"README.md", "forgetting.svg"}


@pytest.mark.parametrize("card", ["missing.md", "new/README.md"])
def test_a_card_that_does_not_exist_is_made(run_cli, run, tmp_path, card):
    before = files_of(tmp_path)
    code, out, err = run_cli("card", run, "--model-card", tmp_path / card)
    assert code == 0 and files_of(tmp_path) == before and "--- /dev/null\n+++ new card\n" in out
    assert f"{tmp_path / card} does not exist: the card is a new one" in err
    code, out, _ = run_cli("card", run, "--model-card", tmp_path / card, "--write", "--format", "json")
    assert code == 0 and json.loads(out)["card"] == (tmp_path / card).read_text()
    run_cli("card", run, "--out", tmp_path / "o", "--upload", "none")  # as where none is named
    names = "".join(re.findall("(?m)^- name: .*", (tmp_path / "o" / "README.md").read_text()))
    ours = (tmp_path / card).read_text()
    assert (tmp_path / "o" / "README.md").read_text() == re.sub("(?m)^- name: .*", names, ours)
    assert (tmp_path / card).with_name("forgetting.svg").exists()


def test_what_is_written_is_not_printed_too(run_cli, run, tmp_path):
    card = tmp_path / "README.md"
    _, shown, _ = run_cli("card", run, "--model-card", card)
    assert not re.search("xa0|\u00a0", shown) and re.search(r"% → \d+\.\d% ", shown)
    for options in (["--out", tmp_path / "o"], ["--write"]):
        code, out, _ = run_cli("card", run, "--model-card", card, *options)
        lines = out.splitlines()
        assert code == 0 and {line.partition(": ")[0] for line in lines} == {"written"}
        assert len(lines) <= 9
    assert "\xa0" in card.read_text()


@pytest.mark.parametrize(
    "model, card, options, name",
    [
        ("org/small", "", ["--repo", "me/mine"], "mine"),
        ("org/small", "---\nmodel_name: sft-3\n---\n", [], "sft-3"),
        ("org/small", "---\nmodel_name: [\n---\n", [], None),
        ("org/small", "", [], "small fine-tuned"),
        ("/data/secret/small", "", [], "folder"),
        (None, "", [], "folder"),
    ],
)
def test_the_model_has_the_best_name_that_is_known(run_cli, tmp_path, model, card, options, name):
    store = make_run(tmp_path / "run", [make_probe(kinds=("choice",), n_items=60)])
    store.write_training(Training(model=model))
    file = tmp_path / "folder" / "README.md"
    file.parent.mkdir()
    file.write_text(card)
    code, _, err = run_cli("card", tmp_path / "run", "--model-card", file, *options, "--write")
    if name is None:
        assert code == 2 and "mend it" in err
    else:
        assert ModelCard(file.read_text()).data.model_name == name


def test_a_link_stays_one(run_cli, run, tmp_path):
    (tmp_path / "link.md").symlink_to(tmp_path / "README.md")
    run_cli("card", run, "--model-card", tmp_path / "link.md", "--write")
    assert (tmp_path / "link.md").is_symlink() and b"## Forgetting" in (tmp_path / "README.md").read_bytes()


def test_json_is_one_object(run_cli, run, tmp_path):
    code, out, _ = run_cli("card", run, "--model-card", tmp_path / "README.md", "--format", "json")
    found = checked(out, "card")
    assert code == 0
    assert found["step"] == 30 and found["written"] == found["pushed"] == []
    assert found["section"] in found["card"] and found["badge"]["label"] == "facts lost"
    names = [one["type"] for one in found["model_index"][0]["results"][0]["metrics"]]
    assert "knowledge_lost" in names


def test_logs_have_a_card_too(run_cli, tmp_path):
    for name, wrong in (("a", 0), ("b", 40)):
        rows = [{"id": f"Secret {i}", "correct": int(i >= wrong)} for i in range(100)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run_cli("card", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert code == 0, err
    assert "a.jsonl, b.jsonl" in out and str(tmp_path) not in out and "Secret" not in out
    code, _, err = run_cli("card", tmp_path / "a.jsonl")
    assert code == 2 and "two or more logs" in err


@pytest.mark.parametrize(
    "options, said",
    [
        (["--push"], "--push needs --repo"),
        (["--push", "--repo", "me/model"], "hf auth login"),
        (["--write"], "--write needs --model-card"),
        (["--model-card", "README.md", "--out", "."], "--write writes it there"),
        (["--upload", "some"], "--upload"),
    ],
)
def test_what_it_needs_is_said(run_cli, run, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    before = files_of(tmp_path)
    code, out, err = run_cli("card", run, *options)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) <= 2 and files_of(tmp_path) == before


COMMANDS = """
import contextlib, io, json, sys
from forget_callback.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv, out, err, status = ["forget-callback", *arguments], io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as exit:
            status = exit.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def pushed(server, *commands):
    """Commands in a process of their own: huggingface_hub reads the address of the hub when it is imported."""
    home = str(Path(commands[0][1]).parent / "home")
    ours = {"HF_ENDPOINT": server.address, "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "0", "HF_HOME": home}
    lines = json.dumps([[*map(str, one), "--repo", "me/model", "--push"] for one in commands])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, lines], env=os.environ | ours, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_push_checks_first_and_sends_no_texts_unless_asked(run, tmp_path):
    card, data = ("model", "me/model"), ("dataset", "me/model-forgetting")
    local = ("--model-card", tmp_path / "README.md")
    with hub() as server:
        server.refuse, server.by_hand = ["licence is not known"], b"\nby hand\n"
        refused, first, second, third = pushed(
            server,
            ("card", run, *local),
            ("card", run, *local, "--upload", "all", "--private"),
            ("card", run),  # on top of what is on the hub
            ("card", run, *local),  # which would undo what was changed there
        )
    assert refused[0] == 2 and "licence is not known" in refused[2] and len(refused[2].splitlines()) == 1
    assert (first[0], second[0]) == (0, 0), (first[2], second[2])
    assert second[1].count("sent: ") == 2 and "+`facts`: its items are not published" in second[1]
    assert third[0] == 2 and "differ" in third[2] and len(server.states) == 4
    validated = [i for i, one in enumerate(server.asked) if one == "POST /api/validate-yaml"]
    assert server.asked.index("POST /api/repos/create") > validated[2]  # the refused one, the card's, the dataset's
    assert server.private == {card: True, data: True} and "Bearer hf_secret" in server.tokens
    sent = server.states[1]
    assert server.checked[1:3] == [
        ("model", sent[card]["README.md"].decode()[: -len(server.by_hand)]),
        ("dataset", sent[data]["README.md"].decode()),
    ]
    assert set(sent[card]) == {"README.md", "forgetting.svg"} and "probes/facts.jsonl" in sent[data]
    read = sent[card]["README.md"].decode()
    assert ModelCard(read).data.eval_results and f"{server.address}/datasets/me/model-forgetting" in read
    assert server.states[3][card]["README.md"].count(b"by hand") == 2
    assert set(server.states[3][data]) == {"README.md", "history.parquet", "snapshots.parquet"}  # the items are gone


def test_a_hub_out_of_reach_is_an_error_of_a_push(run_cli, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out, err = run_cli("card", run, "--repo", "me/model", "--push")
    assert (code, out) == (2, "") and "the card of 'me/model' could not be read" in err and len(err.splitlines()) == 1
