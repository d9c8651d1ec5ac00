"""Logs that lm-eval itself writes of a tiny model that forgets: what `compare` and `report` make of them.

Every count is taken again from the raw lines, and the paper's formulas (arXiv 2510.17776) are written out here.
"""

import json
import random
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml

from forget_callback import load_probe, transitions
from forget_callback.demo.tiny import make_model, make_tokenizer
from forget_callback.probes.items import Recall, accepted
from tests import github
from tests.helpers import teach
from tests.report.test_report import page_data

ITEMS = 40
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "github-actions" / "forgetting.yml"
CHOOSE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}},
              {{metric: acc_norm, aggregation: mean, higher_is_better: true}}]
"""
SAY = """
task: say
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: answer
repeats: 2
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - {{name: word, filter: [{{function: regex, regex_pattern: "([a-z]+)"}}, {{function: take_first}}]}}
  - {{name: capital, filter: [{{function: regex, regex_pattern: "([A-Z][a-z]+)"}}, {{function: take_first}}]}}
"""
GROUP = "group: facts\ntask: [capitals, elements]\naggregate_metric_list: [{metric: acc}]\n"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Directories that lm-eval wrote: before and after training on, and before with one example a question."""
    pytest.importorskip("lm_eval")
    directory = tmp_path_factory.mktemp("lm-eval")
    specs = {"capitals": "capitals&kind=choice", "elements": "elements&kind=choice", "say": "us_states&kind=recall"}
    sets = {name: load_probe(f"builtin:facts?category={spec}", limit=ITEMS).items for name, spec in specs.items()}
    (directory / "tasks").mkdir()
    (directory / "tasks" / "facts.yaml").write_text(GROUP)
    for name, items in sets.items():
        lines = [
            {"prompt": i.prompt, "choices": [c.strip() for c in i.choices], "answer": i.answer}
            if name != "say"
            else {"prompt": i.prompt, "answer": accepted(i)[0].strip()}
            for i in items
        ]
        file = directory / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        template = SAY if name == "say" else CHOOSE
        (directory / "tasks" / f"{name}.yaml").write_text(template.format(name=name, file=file))
    facts = [
        (i.prompt, accepted(i)[0] if isinstance(i, Recall) else i.choices[i.answer]) for s in sets.values() for i in s
    ]
    random.Random(0).shuffle(facts)
    tokenizer = make_tokenizer([prompt + answer for prompt, answer in facts])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what it forgets must not depend on the tests before
        model = make_model(tokenizer)
    lines = [(prompt, answer + "\n") for prompt, answer in facts]
    teach(model, tokenizer, lines[:80], steps=80, lr=3e-3)
    found = SimpleNamespace(before=directory / "before", after=directory / "after", shot=directory / "shot")
    evaluate(model, tokenizer, directory, found.before, ["facts", "say"])
    evaluate(model, tokenizer, directory, found.shot, ["capitals"], num_fewshot=1)
    teach(model, tokenizer, lines[70:], steps=40, lr=3e-3)
    evaluate(model, tokenizer, directory, found.after, ["facts", "say"])
    return found


def evaluate(model, tokenizer, directory, out, tasks, **how):
    """What the command line does with --output_path and --log_samples, for a model that is already here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval import simple_evaluate
        from lm_eval.loggers import EvaluationTracker
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        tracker = EvaluationTracker(output_path=str(out))
        results = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32),
            model_args="pretrained=tiny",
            tasks=tasks,
            task_manager=TaskManager(include_path=str(directory / "tasks"), include_defaults=False),
            evaluation_tracker=tracker,
            log_samples=True,
            bootstrap_iters=0,
            **how,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)


def file_of(directory, task):
    (found,) = Path(directory).rglob(f"samples_{task}_*.jsonl")
    return found


def lines_of(directory, task, *, filter="none"):
    rows = [json.loads(line) for line in file_of(directory, task).read_text().splitlines()]
    return {row["doc_id"]: row for row in rows if row["filter"] == filter}


def compared(run_cli, *arguments):
    code, out, err = run_cli("compare", *arguments, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def papers(a, b, k):
    """The columns of the paper from 0/1 vectors, as its equations have them."""
    n = len(a)
    forgotten = sum(x == 1 and y == 0 for x, y in zip(a, b)) / n
    gained = sum(x == 0 and y == 1 for x, y in zip(a, b)) / n
    before, after = sum(a) / n, sum(b) / n
    chance = (1 - before) * (1 - after) / (k - 1)
    return {
        "forgetting": forgotten,
        "backward_transfer": gained,
        "forgetting_chance": chance,
        "forgetting_adjusted": max(forgotten - chance, 0),
        "backward_transfer_adjusted": max(gained - chance, 0),
        "forgetting_max": max((k * before - 1) / (k - 1), 0),
        "backward_transfer_max": max((k * after - 1) / (k - 1), 0),
    }


def check(numbers, a, b, k):
    """Counts and the paper's columns against a plain recount."""
    cells = {"n11": (1, 1), "n10": (1, 0), "n01": (0, 1), "n00": (0, 0)}
    for name, cell in cells.items():
        assert numbers[name] == sum((x, y) == cell for x, y in zip(a, b)), name
    assert numbers["n"] == len(a)
    for name, value in papers(a, b, k).items():
        assert abs(numbers[name] - value) < 1e-12, name


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
@pytest.mark.parametrize("task", ["capitals", "elements"])
def test_counts_and_the_papers_columns_are_those_of_a_plain_recount(run_cli, logs, task, metric):
    old, new = lines_of(logs.before, task), lines_of(logs.after, task)
    found = compared(run_cli, file_of(logs.before, task), file_of(logs.after, task), "--metric", metric)
    numbers = found["probes"][task]
    a, b = ([int(rows[i][metric]) for i in sorted(old)] for rows in (old, new))
    assert any(x > y for x, y in zip(a, b)) and any(b), "the model forgot something, not all"
    check(numbers, a, b, 4)


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_the_chosen_option_comes_along(run_cli, logs, metric):
    chosen = []
    for rows in (lines_of(logs.before, "capitals"), lines_of(logs.after, "capitals")):
        scores = [[float(answer[0]) for answer in rows[i]["filtered_resps"]] for i in sorted(rows)]
        if metric == "acc_norm":
            lengths = [[len(choice) for choice in rows[i]["doc"]["choices"]] for i in sorted(rows)]
            scores = [[s / n for s, n in zip(*one)] for one in zip(scores, lengths)]
        chosen.append([int(np.argmax(one)) for one in scores])
    answer = [rows[i]["doc"]["answer"] for i in sorted(rows)]
    right = [[int(c == t) for c, t in zip(one, answer)] for one in chosen]
    expected = transitions(*right, n_choices=4, before_choice=chosen[0], after_choice=chosen[1], answer=answer)
    assert expected.knowledge_method == "choice"
    files = (file_of(logs.before, "capitals"), file_of(logs.after, "capitals"))
    numbers = compared(run_cli, *files, "--metric", metric)["all"]
    for name in ("knowledge_lost", "knowledge_gained", "guess_persistence", "knowledge_lost_low"):
        assert numbers[name] == pytest.approx(expected.as_dict()[name], abs=1e-12), name
    assert numbers["drift"] > 0
    assert numbers["margin"] is not None


def test_a_directory_with_a_group_and_several_filters(run_cli, logs):
    code, out, err = run_cli("compare", logs.before, logs.after)
    assert (code, out) == (2, "")
    assert "2 filters: word, capital; choose one: --filter" in err
    found = compared(run_cli, logs.before, logs.after, "--filter", "word")
    assert set(found["probes"]) == {"facts", "say"}
    facts = found["probes"]["facts"]
    assert set(facts["categories"]) == {"capitals", "elements"}
    assert facts["n10"] == sum(part["n10"] for part in facts["categories"].values())
    for name in ("word", "capital"):
        say = compared(run_cli, logs.before, logs.after, "--filter", name)["probes"]["say"]
        old, new = (lines_of(own, "say", filter=name) for own in (logs.before, logs.after))
        assert len(old[0]["resps"][0]) == 2, "the task asks twice"
        a, b = ([int(rows[i]["exact_match"]) for i in sorted(old)] for rows in (old, new))
        assert (say["n10"], say["n01"], say["n"]) == (
            sum(x > y for x, y in zip(a, b)),
            sum(x < y for x, y in zip(a, b)),
            ITEMS,
        )
        unread = np.mean([new[i]["filtered_resps"] == ["[invalid]"] for i in new])
        assert say["unparsed"] == pytest.approx(unread)
        assert say["knowledge_lost"] == say["forgetting"], "open-ended: nothing can be guessed"
    code, out, err = run_cli("compare", logs.before, logs.after, "--filter", "sentence")
    assert (code, out) == (2, "")


def test_gates_on_a_group_and_its_tasks(run_cli, logs, tmp_path):
    base = ("compare", logs.before, logs.after, "--filter", "word")
    lost = compared(run_cli, *base[1:])["probes"]["facts"]["categories"]["capitals"]["knowledge_lost"]
    gates = [f"facts/capitals/knowledge_lost>{lost - 0.01}", f"facts/capitals/knowledge_lost>{lost + 0.01}"]
    code, _, err = run_cli(
        *base, *(word for gate in gates for word in ("--fail-if", gate)), "--junit", tmp_path / "g.xml"
    )
    assert code == 1
    assert f"gate failed: {gates[0]}: knowledge_lost is" in err
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()[0]
    assert [case.get("name") for case in suite] == gates
    assert [case.find("failure") is not None for case in suite] == [True, False]
    assert run_cli(*base, "--fail-if", gates[0], "--bound", "lower")[0] == 0, "40 items are not sure to 1%"


def copied(logs, tmp_path, change, task="capitals"):
    """The later log of one task with its lines changed, alone in a directory."""
    file = file_of(logs.after, task)
    copy = tmp_path / "changed" / "tiny" / file.name
    copy.parent.mkdir(parents=True)
    copy.write_text(change(file.read_text()))
    return copy


def edit(number, change):
    """A function that changes one line's object."""

    def changed(text):
        lines = text.splitlines(keepends=True)
        row = json.loads(lines[number])
        change(row)
        lines[number] = json.dumps(row) + "\n"
        return "".join(lines)

    return changed


BROKEN = {
    "a duplicated id": (
        lambda text: text + text.splitlines(keepends=True)[3],
        "id '3' occurs 2 times (line 4, line 41)",
    ),
    "a missing item": (lambda text: "".join(text.splitlines(keepends=True)[1:]), "items missing in {copy}: 1 ('0')"),
    "a truncated last line": (lambda text: text[:-40], "{copy}, line 40: the file ends within this line"),
    "a line that is no JSON": (lambda text: "x" + text, "{copy}, line 1: not JSON"),
    "a changed prompt": (edit(5, lambda row: row.update(prompt_hash="0" * 64)), "items with another prompt: 1 ('5')"),
    "a changed question": (edit(5, lambda row: row.update(doc_hash="0" * 64)), "items with another document: 1 ('5')"),
    "another answer": (
        edit(5, lambda row: row.update(target_hash="0" * 64)),
        "items with another right answer: 1 ('5')",
    ),
    "half a right": (edit(5, lambda row: row.update(acc=0.5, acc_norm=0.5)), "no metric is 0 or 1 for all items"),
    "an empty file": (lambda text: "", "{copy} holds no items"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_log_is_refused_and_nothing_is_written(run_cli, logs, tmp_path, case, monkeypatch):
    change, message = BROKEN[case]
    copy = copied(logs, tmp_path, change)
    monkeypatch.chdir(tmp_path)
    gate = ("--fail-if", "knowledge_lost>0.9", "--junit", "gate.xml")
    status, out, err = run_cli("compare", file_of(logs.before, "capitals"), copy, *gate)
    assert (status, out) == (2, "")
    assert message.format(copy=copy) in err
    assert len(err.strip().splitlines()) <= 2
    assert "Traceback" not in err
    status, out, _ = run_cli("report", file_of(logs.before, "capitals"), copy, "--out", "page.html")
    assert (status, out) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["changed"], "nothing was written"


def test_two_filters_and_other_few_shot_counts_are_refused(run_cli, logs):
    status, out, err = run_cli("compare", file_of(logs.before, "say"), file_of(logs.after, "say"))
    assert (status, out) == (2, "")
    assert "word, capital" in err
    status, out, err = run_cli("compare", file_of(logs.before, "capitals"), logs.shot)
    assert (status, out) == (2, "")
    assert "few-shot examples: 0 against 1; items with another prompt: 40 ('0', '1', '2', ...)" in err
    status, out, err = run_cli("compare", file_of(logs.before, "capitals"), logs.shot, "--allow-partial")
    assert (status, out) == (2, "")
    assert "nothing to compare" in err


def test_allow_partial_leaves_out_what_does_not_compare_and_says_so(run_cli, logs, tmp_path):
    def change(text):
        lines = edit(5, lambda row: row.update(prompt_hash="0" * 64))(text).splitlines(keepends=True)
        return "".join(lines[2:] + lines[7:8])

    copy = copied(logs, tmp_path, change)
    old = file_of(logs.before, "capitals")
    code, out, err = run_cli("compare", old, copy, "--allow-partial", "--format", "json")
    assert code == 0
    assert "id '7' occurs 2 times" in err
    assert "items with another prompt: 1 ('5')" in err
    assert f"items missing in {copy}: 2 ('0', '1')" in err
    assert "36 items are left" in err
    kept = [i for i in range(ITEMS) if i not in (0, 1, 5, 7)]
    a, b = (
        [int(rows[i]["acc"]) for i in kept]
        for rows in (lines_of(logs.before, "capitals"), lines_of(logs.after, "capitals"))
    )
    check(json.loads(out)["all"], a, b, 4)


def test_the_newest_log_of_a_task_counts_and_two_models_are_refused(run_cli, logs, tmp_path):
    old, new = file_of(logs.before, "capitals"), file_of(logs.after, "capitals")
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / old.name).write_bytes(old.read_bytes())
    (folder / new.name).write_bytes(new.read_bytes())
    code, out, err = run_cli("compare", old, folder, "--format", "json")
    assert code == 0
    assert f"{new.name} is newer than {old.name} and is used" in err
    found, direct = json.loads(out), compared(run_cli, old, new)
    assert any(f"{new.name} is newer" in note for note in found.pop("notes"))
    assert found == {name: value for name, value in direct.items() if name != "notes"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / new.name).write_bytes(new.read_bytes())
    code, out, err = run_cli("compare", old, tmp_path)
    assert (code, out) == (2, "")
    assert "logs of 2 models: other, tiny; name one" in err


def test_a_log_that_lost_lines_is_known_by_its_results(run_cli, logs, tmp_path):
    for name, own in (("a", logs.before), ("b", logs.after)):
        (tmp_path / name).mkdir()
        for file in own.rglob("*.json*"):
            lines = file.read_text().splitlines(keepends=True)
            (tmp_path / name / file.name).write_text("".join(lines[:-2] if file.suffix == ".jsonl" else lines))
    code, out, err = run_cli("compare", tmp_path / "a", tmp_path / "b", "--filter", "word")
    assert (code, out) == (2, "")
    assert "has 38 of 40 evaluated items" in err


def test_logs_and_runs_do_not_mix(run_cli, logs, tmp_path):
    (tmp_path / "empty").mkdir()
    for other, message in ((tmp_path / "nowhere", "and"), (tmp_path / "empty", "is a log of another tool")):
        code, out, err = run_cli("compare", logs.before, other, "--filter", "word")
        assert (code, out) == (2, "")
        assert message in err
    code, out, err = run_cli("compare", tmp_path / "empty", tmp_path / "empty")
    assert (code, out) == (2, "")
    assert "is not a run" in err


def test_a_report_of_logs_shows_every_item(run_cli, logs, tmp_path):
    page = tmp_path / "page.html"
    paths = (logs.before, logs.after, logs.before)
    code, out, err = run_cli("report", *paths, "--filter", "word", "--out", page)
    assert code == 0, err
    assert out.strip() == str(page)
    data = page_data(page)
    (run,) = data["runs"]
    assert run["steps"] == [0, 1, 2]
    assert run["path"] == ", ".join(map(str, paths))
    texts = next(texts for name, texts in data["items"].items() if name.startswith("facts "))
    rows = lines_of(logs.before, "capitals")
    place = texts["ids"].index("capitals/0")
    assert texts["prompts"][place] == rows[0]["doc"]["prompt"]
    assert texts["choices"][place] == [f" {choice}" for choice in rows[0]["doc"]["choices"]]
    assert texts["expected"][place] == [f" {rows[0]['doc']['choices'][rows[0]['doc']['answer']]}"]
    facts = next(probe for probe in run["probes"] if probe["name"] == "facts")
    again = compared(run_cli, logs.before, logs.after, "--filter", "word")["probes"]["facts"]
    series = facts["series"][""]
    assert series["knowledge_lost"] == pytest.approx([0, again["knowledge_lost"], 0], abs=1e-12)
    assert series["forgetting"][1] == again["forgetting"]
    code, out, err = run_cli("report", logs.before, "--out", page)
    assert (code, out) == (2, "")
    assert "two or more" in err


def test_the_github_actions_example_fails_on_what_lm_eval_logged(logs, tmp_path):
    job = yaml.safe_load(EXAMPLE.read_text())["jobs"]["benchmarks"]
    for name, own in (("base", logs.before), ("candidate", logs.after)):
        assert f"--output_path logs/{name} --log_samples" in str(job), "where the action looks"
        target = tmp_path / "logs" / name / "tiny"
        target.mkdir(parents=True)
        for file in own.rglob("*.json*"):
            if "samples_say" not in file.name:
                (target / file.name).write_bytes(file.read_bytes())
    with github.api() as api:
        ran = github.run_action({**job["steps"][-1]["with"], "install": "false"}, api, tmp_path, event={})
    assert ran.failed == "Compare" and ran.outputs["outcome"] == "failed", ran.log
    assert re.search(r"^\| facts \|", ran.summary, re.MULTILINE)
    assert re.search(r"- failed: `known_lost>0.05`: known_lost is [\d.]+% \[.*\], ", ran.summary)
    assert re.search(r"^\*\*10 of \d+ items", ran.summary, re.MULTILINE)
    kept = Path(ran.uploads[0]["path"])
    (failure,) = ElementTree.parse(kept / "forgetting.xml").getroot().iter("failure")
    assert failure.get("message") in ran.summary, "the JUnit file says what the comment says"
    assert len(page_data(kept / "forgetting.html")["runs"]) == 1


def test_a_gate_sees_lines_that_both_logs_lost(run_cli, logs, tmp_path):
    for name, own in (("a", logs.before), ("b", logs.after)):
        (tmp_path / name).mkdir()
        for file in own.rglob("*.json*"):
            lines = file.read_text().splitlines(keepends=True)
            cut = file.suffix == ".jsonl" and "say" not in file.name
            if "say" not in file.name:
                (tmp_path / name / file.name).write_text("".join(lines[:10] if cut else lines))
    gate = ("--allow-partial", "--fail-if", "knowledge_lost>0.9")
    code, _, err = run_cli("compare", tmp_path / "a", tmp_path / "b", *gate)
    assert code == 1, "10 of 40 items are no evidence"
    assert "has 10 of 40 evaluated items; the others count as not scored" in err
    found = compared(run_cli, tmp_path / "a", tmp_path / "b", "--allow-partial")["all"]
    assert (found["n"], found["n_unscored"], found["scored"]) == (20, 60, 0.25)
    assert run_cli("compare", tmp_path / "a", tmp_path / "b", *gate, "--min-scored", "0.2")[0] == 0
