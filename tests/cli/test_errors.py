"""What a newcomer meets first: the help, the version, and errors that say what was given and what to do."""

import re
import subprocess
import sys
from importlib import metadata

import pytest
import typer

from forget_callback import MultipleChoice, Probe, Snapshot, Store
from forget_callback.cli import GROUPS
from forget_callback.cli.app import app

PROBE = Probe("p", [MultipleChoice(f"i{i}", f"{i} is", list("abcd"), i % 4) for i in range(8)])
COMMANDS = list(typer.main.get_command(app).commands)


@pytest.fixture
def run(tmp_path):
    """A run with two snapshots, in the current directory."""
    store = Store(tmp_path / "run")
    store.begin([PROBE])
    for step in (0, 10):
        right = [float(i > step / 5) for i in range(8)]
        store.write(Snapshot("p", PROBE.fingerprint, step, list(PROBE.ids), right, n_choices=PROBE.n_choices))
    return tmp_path / "run"


def refused(run_cli, *arguments):
    """The error of a command that does nothing: one or two lines, exit status 2, nothing on standard output."""
    code, out, err = run_cli(*arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and len(err.splitlines()) <= 2 and "Traceback" not in err
    return err


def test_the_version(run_cli):
    assert run_cli("--version") == (0, f"forget-callback {metadata.version('forget-callback')}\n", "")


def test_the_help_begins_with_the_demo_and_has_every_command_in_a_line(run_cli):
    code, out, _ = run_cli("--help")
    assert code == 0 and run_cli()[1] == out and run_cli()[0] == 2
    places = [re.search(rf"^\W*{name} +[A-Z].*\.\W*$", out, re.MULTILINE) for name in COMMANDS]
    assert all(places), "a summary that is broken into lines"
    assert [place.start() for place in places] == sorted(place.start() for place in places)
    assert [name for names in GROUPS.values() for name in names] == COMMANDS and COMMANDS[0] == "demo"
    assert all(title in out for title in GROUPS)
    assert "bool" not in out, "a flag takes no value"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_shows_what_it_takes(run_cli, name):
    code, out, _ = run_cli(name, "--help")
    takes = [one for one in typer.main.get_command(app).commands[name].params if one.param_type_name == "argument"]
    assert code == 0 and all(one.metavar and one.metavar.isupper() and one.metavar in out for one in takes)
    assert "bool" not in out, "a flag takes no value"


@pytest.mark.parametrize(
    "line, problem",
    [
        ("compare one", "'AFTER'"),
        ("compar a b", "compare"),
        ("compare a b --formt json", "--format"),
        ("compare a b --format xml", "'xml'"),
        ("compare a b --n-choices 1", "got '1'"),
        ("compare a b --n-choices=1", "got '1'"),
        ("plan builtin:facts --limit many", "'many'"),
        ("snapshot model --out x --probe", "--probe"),
        ("dial a b --task t", "--probe"),
        ("report", "RUN"),
        ("--vers", "--version"),
    ],
)
def test_wrong_usage_names_the_argument_and_what_came(run_cli, line, problem):
    err = refused(run_cli, *line.split())
    assert problem in err
    assert "--help tells more" in err or "requires an argument" in err


def test_a_reader_that_has_seen_enough_is_no_error():
    line = [sys.executable, "-m", "forget_callback", "probes", "builtin:facts", "--show", "2000"]
    command = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command.stdout.readline()
    command.stdout.close()
    assert command.stderr.read() == ""
    command.wait()
    command.stderr.close()


# ---- where results go


def test_a_result_that_nobody_can_get_is_an_error(run):
    line = [sys.executable, "-m", "forget_callback", "compare", str(run), str(run), "--format", "json"]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *line], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "standard output, which is closed" in done.stderr


OUTPUTS = [
    ("snapshot no/model --probe builtin:facts --out", "--out"),
    ("report RUN --out", "--out"),
    ("replay RUN --pool pool.jsonl --out", "--out"),
    ("compare RUN RUN --fail-if n10>1 --junit", "--junit"),
    ("dial a b --probe builtin:facts --task x.jsonl --save", "--save"),
    ("workspace --entity e --project p --save-json", "--save-json"),
]


@pytest.mark.parametrize("line, option", OUTPUTS)
def test_a_place_that_cannot_be_written_is_said_before_the_work(run_cli, run, tmp_path, line, option, monkeypatch):
    (tmp_path / "file").write_text("kept")
    arguments = line.replace("RUN", str(run)).split()
    err = refused(run_cli, *arguments, tmp_path / "file" / "below" / "out")
    assert f"{option} '{tmp_path}/file/below/out' cannot be made: '{tmp_path}/file' is a file" in err
    wants_directory = option == "--save" or line.startswith("snapshot")
    wrong = tmp_path / "file" if wants_directory else tmp_path
    err = refused(run_cli, *arguments, wrong)
    assert f"{option} '{wrong}' is a {'file' if wants_directory else 'directory'}; expected a " in err
    monkeypatch.setattr("shutil.disk_usage", lambda place: _Full)
    err = refused(run_cli, *arguments, tmp_path / "new" / "out")
    assert "0.1 MB are free there" in err and not (tmp_path / "new").exists()
    assert (tmp_path / "file").read_text() == "kept"


class _Full:
    free = 100_000


def test_one_model_more_does_not_get_into_the_record_of_a_training(
    run_cli, run, make_model, tokenizer, tmp_path, capsys
):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()  # refused before there is a model to score
    Store(run).set_run(status="ended", steps=10)
    capsys.readouterr()
    err = refused(run_cli, "snapshot", tmp_path / "model", "--probe", "builtin:facts?limit=4", "--out", run)
    assert "is the record of a training" in err and "give another --out" in err
    assert Store(run).steps("p") == [0, 10] and len(Store(run).probes()) == 1


# ---- what is not there


@pytest.mark.parametrize("command", ["snapshot", "plan", "dial before", "dial after"])
@pytest.mark.parametrize(
    "name, problem",
    [
        ("org/name", "no model at 'org/name': cannot reach the hub for 'org/name'"),
        ("./modell", "no model at './modell': no such directory; did you mean 'model'?"),
        ("run", "no model at 'run': it has no config.json"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(run_cli, run, tmp_path, monkeypatch, command, name, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    line = {
        "snapshot": ["snapshot", name, "--probe", "builtin:facts", "--out", "out"],
        "plan": ["plan", "builtin:facts", "--model", name],
        "dial before": ["dial", name, "model", "--probe", "builtin:facts", "--task", "x.jsonl"],
        "dial after": ["dial", "model", name, "--probe", "builtin:facts", "--task", "x.jsonl"],
    }[command]
    assert problem in refused(run_cli, *line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line, problem",
    [
        ("compare base.jsonl tuned.jsonl", "base.jsonl: no such file"),
        ("compare run tuned.jsonl", "tuned.jsonl: no such file"),
        ("compare base.eval run", "base.eval: no such file"),
        ("report base.jsonl tuned.jsonl", "base.jsonl: no such file"),
        ("compare runn run", "runn is not a run: no such file or directory; expected a directory that holds forget/"),
        ("compare runn run", "inspect; did you mean 'run'?"),
        ("compare runn@3 run", "runn@3 is not a run: no such file or directory as 'runn'; expected"),
        (
            "compare nosuch/base nosuch/new",
            "RUN@STEP, a snapshot file, a file with id and score, or logs of lm-eval, lighteval or inspect",
        ),
        ("compare run run@7", "no snapshot of probe 'p' at step 7; has [0, 10]"),
        ("report runn", "runn is not a run: no such file or directory; expected"),
        ("report runn", "RUN or RUN@STEP; did you mean 'run'?"),
        (
            "compare a.parquet run",
            "a.parquet is not a run: no such file or directory; expected a directory that holds forget/, RUN or",
        ),
        ("compare logs logs", "logs is not a run: expected a directory that holds forget/"),
        ("compare all all", "all is not a run: expected a directory that holds forget/, RUN or RUN@STEP, a snapshot"),
        ("compare all all", "inspect; did you mean 'all/one'?"),
        ("replay runn --pool q.jsonl --out o", "runn is not a run"),
        ("replay run --pool p.jsonl --out o", "pool 'p.jsonl': no such file"),
        ("replay run --pool ./p --out o", "pool './p': no such file or directory"),
        ("replay run --pool org/p --out o", "pool 'org/p': cannot reach the hub for 'org/p'"),
        ("probes p.jsonl", "no probe file at p.jsonl"),
        ("probes hub:mmlu", "cannot reach the hub for 'cais/mmlu'"),
        ("verify r.yaml", "'r.yaml': no such file"),
    ],
)
def test_what_is_not_there_is_named_with_what_was_expected(run_cli, run, tmp_path, monkeypatch, line, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "q.jsonl").write_text('{"text": "a"}\n')
    Store(tmp_path / "all" / "one").begin([PROBE])
    assert problem in refused(run_cli, *line.split())


@pytest.mark.parametrize(
    "text, problem",
    [
        ("learning_rte: 1e-4", "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        ("probs: [a]", "unknown key 'probs'; did you mean 'probes'?"),
        ("trainer: grpo\nnum_generation: 8", "unknown key 'num_generation'; did you mean 'num_generations'?"),
        ("zzz: 1", "unknown key 'zzz'; keys are the fields of"),
        ("- a", "expected keys with values, such as 'trainer: sft'"),
        ("a: [", "is no YAML: "),
        ("learning_rate: much", "learning_rate"),
        ("trainer: sgd", "trainer must be one of sft, grpo, got 'sgd'"),
    ],
)
def test_a_recipe_that_is_none_is_named(run_cli, tmp_path, text, problem):
    (tmp_path / "recipe.yaml").write_text(text)
    err = refused(run_cli, "verify", tmp_path / "recipe.yaml")
    assert f"{tmp_path / 'recipe.yaml'}" in err and problem in err
