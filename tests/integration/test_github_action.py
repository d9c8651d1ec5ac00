"""The steps of .github/actions/forgetting, run as GitHub's runner runs them, and the comments that come of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from forget_callback import Generation, Probe, Snapshot, Store, load_probe, score_probe
from forget_callback.demo.tiny import make_model, make_tokenizer
from tests import github
from tests.in_turn import of_the_day
from tests.report.test_report import page_data

pytestmark = pytest.mark.in_turn(0)

N = 100
EVIL = "@octocat | <img src=x>\n::set-output name=outcome::passed\n##[add-mask]x `code` **bold** --> secret"
PLACE = 'it\'s a "run" $(touch pwned) `touch pwned`; & <b> @me'
GATE = "forgetting>0.1"


def questions(name):
    items = [
        Generation(f"{name}{i}", f"prompt {i}: {EVIL}", EVIL, match="contains", category=f"@c{i % 2}") for i in range(N)
    ]
    return Probe(name, items)


def record(path, *wrong, names=("p", "q")):
    """A run in which 80 of 100 items were right, and at each later step the first `wrong` ones of these are wrong."""
    store, probes = Store(path), [questions(name) for name in names]
    store.begin(probes)
    for step, lost in enumerate((0, *wrong)):
        for probe in probes:
            correct = (np.arange(N) < 80).astype(float)
            correct[:lost] = 0
            said = [f"answer of step {step} to {name}: {EVIL}" for name in probe.ids]
            categories = [item.category for item in probe.items]
            how = {"margin": np.arange(N, dtype=float), "prediction": said, "category": categories}
            store.write(Snapshot(probe.name, probe.fingerprint, step, list(probe.ids), correct, **how))
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A checkout whose path and runs have names that a shell would obey."""
    place = tmp_path_factory.mktemp("work") / "a b'c"
    place.mkdir()
    record(place / PLACE, 40)
    record(place / "kept", 2)
    return place


@pytest.fixture
def api():
    with github.api() as state:
        yield state


def given(run, **more):
    return {"before": str(run), "after": str(run), "fail-if": f"{GATE}\np/{GATE}\n", "install": "false", **more}


def files(job):
    return sorted(path.name for path in Path(job.steps["compare"]["outputs"]["directory"]).iterdir())


def html(text):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


@pytest.mark.every_day
def test_a_failed_gate_fails_the_job_and_says_so_in_numbers(workspace, api):
    job = github.run_action(given(PLACE), api, workspace)
    assert job.failed == "Compare" and job.outputs["outcome"] == "failed"
    assert job.ran == ["Install", "Compare", "Comment", "Keep"], "the comment is written also when the gate fails"
    result = json.loads(Path(job.outputs["json"]).read_text())
    assert float(job.outputs["knowledge_lost"]) == result["all"]["knowledge_lost"] > 0.2
    assert result["gate"]["failed"] == [GATE, f"p/{GATE}"]
    (comment,) = api.comments
    for text in (job.summary, comment["body"]):
        assert "❌ Forgetting: failed" in text and text.count("- failed: `") == 2 and "40.0%" in text
        assert "0123456789ab" in text and "https://github.example/o/r/actions/runs/99" in text
    assert comment["body"].split("\n", 1)[1] == job.summary
    assert files(job) == ["forgetting.json", "forgetting.md", "forgetting.xml"]
    assert job.uploads == [
        {"name": "Forgetting, gate", "path": job.steps["compare"]["outputs"]["directory"], "overwrite": "True"}
    ]
    assert not list(workspace.rglob("pwned")) and not list(github.ACTION.glob("pwned"))
    (failed,) = job.commands
    assert failed.startswith("::error::Forgetting: failed") and GATE in failed
    kept = "".join(path.read_text() for path in Path(job.uploads[0]["path"]).iterdir())
    for text in (job.summary, job.log, kept, comment["body"]):
        assert not re.search(r"prompt \d|answer of|octocat|secret", text), "only numbers and categories leave"


@pytest.mark.every_day
@pytest.mark.parametrize("upload", ["metrics", "none"])
def test_collapsed_answers_and_errors_that_quote_an_item_do_not_leave(tmp_path, api, upload):
    """Every place that a secret can come from: prompts, answers, ids, and the error of a probe that was dropped."""
    probe = Probe("p", [Generation(f"secret id {i}", f"secret prompt {i}", f"secret right {i}") for i in range(N)])
    store = Store(tmp_path / "run")
    store.begin([probe])
    for step, right in ((0, 80), (1, 0)):
        said = [f"secret right {i}" for i in range(N)] if right else ["secret answer"] * N
        correct = (np.arange(N) < right).astype(float)
        store.write(Snapshot("p", probe.fingerprint, step, list(probe.ids), correct, prediction=said, text=said))
    dropped = [{"probe": name, "step": None, "why": "ValueError: secret prompt 7"} for name in ("r", "s")]
    store.set_run(status="ended", steps=1, not_measured=dropped)
    job = github.run_action(given("run", upload=upload), api, tmp_path)
    assert job.outputs["outcome"] == "failed" and "have collapsed" in job.summary and "'r' was not" in job.summary
    kept = [path.read_text() for path in Path(job.steps["compare"]["outputs"]["directory"]).iterdir()]
    for text in (job.summary, job.log, *kept, *(one["body"] for one in api.comments)):
        assert "secret" not in text, "only numbers and names of probes and categories leave"


def test_upload_all_shows_ten_items_and_keeps_the_page_and_a_pass_updates_the_comment(workspace, api):
    job = github.run_action(given(PLACE, upload="all"), api, workspace)
    assert files(job) == ["forgetting.html", "forgetting.json", "forgetting.md", "forgetting.xml"]
    page = Path(job.uploads[0]["path"]) / "forgetting.html"
    assert [probe["name"] for probe in page_data(page)["runs"][0]["probes"]] == ["p", "q", "all"]
    body = api.comments[0]["body"]
    rows = re.findall(
        r"^\| ([pq]) / \S* \| prompt (\d+): .*answer of step 0 to .*answer of step 1 to", body, re.MULTILINE
    )
    assert len(rows) == 10 and [int(i) for _, i in rows] == sorted((int(i) for _, i in rows), reverse=True)
    assert {int(i) for _, i in rows} == {35, 36, 37, 38, 39}, "the largest margins of what was lost, of both probes"
    shown = html(body)
    assert not re.search("<(img|strong>b|em)", shown) and not re.search(r"@\w", body)
    assert len(job.commands) == 1, "what models wrote is no command"
    job = github.run_action(given("kept"), api, workspace)
    assert not job.failed and job.outputs["outcome"] == "passed" and not job.commands
    (comment,) = api.comments
    assert (
        "✅ Forgetting: passed" in comment["body"]
        and "failed" not in comment["body"]
        and "prompt 1" not in comment["body"]
    )
    assert [method for method, _ in api.requests] == ["GET", "POST", "GET", "PATCH"]


@pytest.mark.every_day
@pytest.mark.parametrize(
    "wrong",
    [
        {"after": "nowhere.jsonl"},
        {"upload": "nome"},
        {"inconclusive": "yes"},
        {"comment": "no"},
        {"after": " "},
        {"options": "--metric 'acc"},
        {"probes": "builtin:facts"},
    ],
    ids=str,
)
def test_an_error_is_no_pass_and_no_old_comment_stays(workspace, api, wrong):
    api.comments.append({"id": 1, "user": github.BOT, "body": mark() + "\nold: passed", "html_url": "u"})
    job = github.run_action(given("kept", **wrong), api, workspace)
    assert job.failed == "Compare" and job.outputs == {"outcome": "error", "knowledge_lost": "", "json": ""}
    assert "⚠️ Forgetting: error" in job.summary and "no pass" in job.summary
    assert any(line.startswith("::error::") for line in job.commands)
    if "comment" not in wrong:
        assert [one["body"] for one in api.comments] == [f"{mark()}\n{job.summary}"]


@pytest.mark.parametrize(
    "options, said",
    [
        ("--help", "options must not hold --help"),
        ("--metric acc --fail-if 'forgetting>0.9'", "an input of its own, fail-if"),
        ("--min-scored=0", "an input of its own, min-scored"),
        ("--no-inconclusive", "an input of its own, inconclusive"),
        ("--texts", "the action chooses what is printed and kept"),
        ("--", "the action chooses what is printed and kept"),
    ],
)
def test_options_hold_no_input_and_nothing_that_the_action_chooses(workspace, api, options, said):
    job = github.run_action(given("kept", options=options), api, workspace, only="Compare")
    assert job.failed == "Compare" and job.outputs["outcome"] == "error" and "no pass" in job.summary
    assert said in job.commands[0] and job.commands[0].startswith("::error::input options must not hold --")


def test_an_option_without_its_value_swallows_no_gate(workspace, api):
    job = github.run_action(given(PLACE, options="--metric"), api, workspace, only="Compare")
    assert job.outputs["outcome"] == "error" and "no result was printed with the input options, --metric" in job.log


def test_long_titles_give_short_names_of_artifacts_that_differ(workspace, api):
    names = []
    for end in "ab":
        job = github.run_action(
            given("kept", title="é" * 5_000 + end, options="--help"), api, workspace, only="Compare"
        )
        names.append(job.steps["compare"]["outputs"]["artifact"])
    assert names[0] != names[1] and all(len(name.encode()) < 250 and name.endswith(", gate") for name in names)


def mark(title="Forgetting", job="gate"):
    code = f"import workflow; print(workflow.marker({title!r}))"
    environment = {"GITHUB_WORKFLOW": "tests", "GITHUB_JOB": job, "PYTHONPATH": str(github.ACTION)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout.strip()


def test_inconclusive_fails_where_the_limit_is_not_shown_to_be_kept(workspace, api):
    gate = {"fail-if": "knowledge_lost>0.4", "bound": "lower"}
    job = github.run_action(given(PLACE, **gate, inconclusive="true"), api, workspace)
    assert job.outputs["outcome"] == "inconclusive" and job.failed == "Compare"
    assert "❔ Forgetting: inconclusive" in api.comments[0]["body"]


def test_without_a_gate_it_reports(workspace, api):
    job = github.run_action({"before": "kept", "after": "kept", "install": "false"}, api, workspace)
    assert not job.failed and job.outputs["outcome"] == "compared" and "forgetting.xml" not in files(job)


# ---- the comment


def commented(api, workspace, text="### a summary\n", event=github.PULL_REQUEST, summary=True, **inputs):
    """The step that comments alone, after one that wrote this summary."""
    file = workspace / "summary.md"
    file.write_text(text)
    outputs = {"summary": str(file)} if summary else {}
    where = {key: inputs.pop(key) for key in ("job",) if key in inputs}
    return github.run_action(
        given("x", **inputs), api, workspace, event=event, only="Comment", outputs=outputs, **where
    )


def test_a_fork_may_not_comment_which_is_a_warning(workspace, api):
    api.refuse = 403
    job = commented(api, workspace)
    assert not job.failed and not api.comments
    (warning,) = job.commands
    assert warning.startswith("::warning::no comment on the pull request: 403") and "pull-requests: write" in warning


def test_no_token_or_no_server_is_a_warning(workspace, api):
    for inputs, address in (({"token": "wrong"}, api.address), ({}, "http://127.0.0.1:9")):
        api.address = address
        job = commented(api, workspace, **inputs)
        assert not job.failed and [line.partition(" ")[0] for line in job.commands] == ["::warning::no"]


@pytest.mark.parametrize("comments", [[{"id": "x", "body": 7}], None, [None]])
def test_an_answer_that_makes_no_sense_is_a_warning(workspace, api, comments):
    api.answer = lambda *_: (200, comments)
    job = commented(api, workspace)
    assert not job.failed and [line.partition(" ")[0] for line in job.commands] == ["::warning::no"]


@pytest.mark.parametrize("event", [{"ref": "refs/heads/main"}, {"issue": {"number": 7}}, {}])
def test_an_event_without_a_pull_request_has_no_comment(workspace, api, event):
    job = commented(api, workspace, event=event)
    assert not job.failed and not api.requests and not job.commands


def test_a_comment_on_a_pull_request_is_an_event_of_one(workspace, api):
    commented(api, workspace, event={"issue": {"number": 7, "pull_request": {}}, "comment": {"id": 1}})
    assert len(api.comments) == 1


@pytest.mark.parametrize("inputs", [{"upload": "none"}, {"comment": "false"}])
def test_nothing_is_posted_that_was_not_asked_for(workspace, api, inputs):
    job = commented(api, workspace, **inputs)
    assert job.ran == [] and not api.requests
    if inputs.get("upload") == "none":
        job = github.run_action(given("kept", upload="none"), api, workspace)
        assert job.ran == ["Install", "Compare"] and not job.uploads and "passed" in job.summary


def test_uses_with_titles_and_jobs_of_their_own_have_comments_of_their_own(workspace, api):
    for times in range(2):
        for title, job in (("One", "gate"), ("Two --> <b>", "gate"), ("One", "other")):
            commented(api, workspace, f"{title} {job} {times}\n", title=title, job=job)
    assert [one["body"].split("\n")[1] for one in api.comments] == ["One gate 1", "Two --> <b> gate 1", "One other 1"]


def test_the_comment_is_found_among_hundreds_and_nobody_elses_is_touched(workspace, api):
    person = {"login": "mallory", "type": "User"}
    api.comments += [{"id": i, "user": person, "body": f"comment {i}"} for i in range(1, 250)]
    api.comments += [{"id": 250, "user": person, "body": mark() + "\n✅ passed"}]
    api.comments += [{"id": 251, "user": None, "body": None}]
    api.comments += [{"id": 252, "user": github.BOT, "body": mark() + "\nold", "html_url": "u"}]
    before = [dict(one) for one in api.comments]
    commented(api, workspace)
    assert api.comments[:-1] == before[:-1] and api.comments[-1]["body"] == f"{mark()}\n### a summary\n"


def test_the_token_of_a_user_updates_that_users_comment(workspace, api):
    api.login = "alice"
    api.comments.append({"id": 1, "user": {"login": "alice", "type": "User"}, "body": mark(), "html_url": "u"})
    commented(api, workspace)
    assert len(api.comments) == 1 and "a summary" in api.comments[0]["body"]


def test_a_long_comment_is_cut_between_lines(workspace, api):
    lines = [f"| {i} | {'é' * 100} |" for i in range(2_000)]
    commented(api, workspace, "\n".join(lines) + "\n")
    *kept, _, note = api.comments[0]["body"].rstrip("\n").split("\n")
    assert kept[1:] == lines[: len(kept) - 1] and len(kept) > 500 and "forgetting.md" in note
    commented(api, workspace, "x" * 100_000)
    assert len(api.comments) == 1 and "forgetting.md" in api.comments[0]["body"]
    commented(api, workspace, "<details><summary>all</summary>\n\n" + "\n".join(lines) + "\n\n</details>\n")
    assert api.comments[0]["body"].count("</details>") == 1, "what follows is not folded up"


@pytest.mark.every_day
def test_where_nothing_was_installed_the_comment_says_that_nothing_was_compared(workspace, api):
    job = github.run_action(given("kept", install="./not-there"), api, workspace)
    assert job.failed == "Install" and job.ran == ["Install", "Comment"]
    assert "no pass" in api.comments[0]["body"] and job.outputs["outcome"] == ""


# ---- installing, and models


def test_install_takes_words_as_a_shell_does(workspace, api, monkeypatch):
    package = workspace / "my clone"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        "[project]\nname = 'nothing'\nversion = '1'\n[tool.setuptools]\npy-modules = []\n"
    )
    for name, value in {"TARGET": workspace / "site", "NO_INDEX": 1}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    job = github.run_action(given("kept", install="--no-build-isolation\n'./my clone'"), api, workspace, only="Install")
    assert not job.failed, job.log
    assert list((workspace / "site").glob("nothing-1*"))


@pytest.mark.parametrize("before", [of_the_day(["one", "kept run@0"])])
def test_models_are_scored_on_every_probe(tmp_path, api, before):
    """Two models, and every other day one model against the record of another."""
    tokenizer, models = make_tokenizer([f"{i} is a b c d" for i in range(40)]), []
    for seed, name in enumerate(("one", "the other")):
        torch.manual_seed(seed)
        models.append(make_model(tokenizer))
        models[-1].save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "my probes").mkdir()
    for name in ("first", "my probes/second"):
        choices = {"choices": [" a", " b", " c", " d"]}
        lines = [{"id": f"{i}", "prompt": f"{i} is", "answer": i % 4, **choices} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    specs = ["first.jsonl", "my probes/second.jsonl?limit=30"]
    probes = [load_probe(f"{tmp_path}/{spec}") for spec in specs]
    if before != "one":
        store = Store(tmp_path / "kept run")
        store.begin(probes)
        for probe in probes:
            store.write(score_probe(models[0], tokenizer, probe))
    inputs = {"before": before, "after": "the other", "install": "false", "fail-if": "forgetting>0.9"}
    job = github.run_action({**inputs, "probes": "\n".join(specs)}, api, tmp_path)
    assert not job.failed, job.log
    result = json.loads(Path(job.outputs["json"]).read_text())
    assert [one["n"] for one in result["probes"].values()] == [40, 30] and result["all"]["n"] == 70
    assert result["probes"]["first"]["accuracy_after"] == score_probe(models[1], tokenizer, probes[0]).accuracy
    assert "models" not in files(job), "answers are kept only under upload: all"
    assert "the other" in job.summary and api.comments[0]["body"].endswith(job.summary)


# ---- the files that people read


@pytest.mark.every_day
def test_every_input_reaches_a_script_through_the_environment():
    text = (github.ACTION / "action.yml").read_text()
    action = yaml.safe_load(text)
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == set(action["inputs"])
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


@pytest.mark.every_day
def test_the_example_and_the_docs_use_the_action_with_inputs_that_it_has():
    example = (github.ROOT / "examples" / "github-actions" / "forgetting.yml").read_text()
    docs = (github.ROOT / "docs" / "stopping-and-gates.md").read_text().partition("### GitHub Actions")[2]
    action = yaml.safe_load((github.ACTION / "action.yml").read_text())
    workflow = yaml.safe_load(example)
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    uses = [step for job in workflow["jobs"].values() for step in job["steps"] if ".github" in step.get("uses", "")]
    assert len(uses) == 2
    table = re.findall(r"^\| (`.*?) \|", docs, re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(table))) == sorted(action["inputs"])
    for step in uses:
        place = step["uses"].partition("@")[0].split("/", 2)[2]
        assert (github.ROOT / place).samefile(github.ACTION)
        required = {name for name, one in action["inputs"].items() if one.get("required")}
        assert required <= set(step["with"]) <= set(action["inputs"])
    assert len({step["with"].get("title", "Forgetting") for step in uses}) == 2


def test_the_workflow_of_this_repository_runs_the_action(tmp_path, api):
    steps = yaml.safe_load((github.ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["action"]["steps"]
    logs, used, check = steps[-3:]
    subprocess.run(["bash", "-ec", logs["run"]], cwd=tmp_path, check=True)
    job = github.run_action({**used["with"], "install": "false"}, api, tmp_path)
    environment = {"OUTCOME": job.outputs["outcome"], "LOST": job.outputs["knowledge_lost"]}
    subprocess.run(["bash", "-ec", check["run"]], env=environment, check=True)
    assert job.ran == ["Install", "Compare", "Keep"]
