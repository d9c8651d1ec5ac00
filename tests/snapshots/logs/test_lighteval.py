"""Details of lighteval: those that its version 0.13.0 wrote of a tiny model, and the layout of older versions.

The older files are written here by hand, with the columns that `DetailsLogger.Detail` had until 0.10.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forget_callback import transitions
from tests.integration.test_logs import check
from tests.report.test_report import page_data

ARCHIVE = Path(__file__).resolve().parents[2] / "data" / "logs" / "lighteval.zip"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A directory with lighteval's own: before, after, and one-shot."""
    directory = tmp_path_factory.mktemp("lighteval")
    zipfile.ZipFile(ARCHIVE).extractall(directory)
    return directory


def file_of(directory, task):
    (found,) = directory.rglob(f"details_{task}|*.parquet")
    return found


def rows_of(directory, task):
    rows = pq.read_table(file_of(directory, task)).to_pylist()
    return {row["doc"]["id"]: row for row in rows}


def compared(run_cli, *arguments):
    code, out, err = run_cli("compare", *arguments, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def test_counts_and_the_papers_columns_are_those_of_a_plain_recount(run_cli, logs):
    found = compared(run_cli, logs / "before", logs / "after")
    assert set(found["probes"]) == {"facts", "recall"}
    facts, recall = found["probes"]["facts"], found["probes"]["recall"]
    all_of = []
    for task in ("capitals", "elements"):
        old, new = (rows_of(logs / name, f"facts:{task}") for name in ("before", "after"))
        a, b = ([rows[name]["metric"]["acc"] for name in old] for rows in (old, new))
        check(facts["categories"][f"facts_{task}"], a, b, 4)
        all_of.append((a, b))
    check(facts, *([*one, *two] for one, two in zip(*all_of)), 4)
    old, new = (rows_of(logs / name, "recall") for name in ("before", "after"))
    a, b = ([rows[name]["metric"]["em"] for name in old] for rows in (old, new))
    assert (recall["n10"], recall["n01"], recall["n00"]) == (
        sum(x > y for x, y in zip(a, b)),
        sum(x < y for x, y in zip(a, b)),
        sum(x == y == 0 for x, y in zip(a, b)),
    )
    assert recall["n10"] > 0
    assert recall["forgetting_chance"] == 0
    assert recall["knowledge_lost"] == recall["forgetting"]


def test_the_chosen_option_comes_along(run_cli, logs):
    old, new = (rows_of(logs / name, "facts:capitals") for name in ("before", "after"))
    answer = [old[name]["doc"]["gold_index"] for name in old]
    chosen = [[int(np.argmax(rows[name]["model_response"]["logprobs"])) for name in old] for rows in (old, new)]
    right = [[int(c == t) for c, t in zip(one, answer)] for one in chosen]
    expected = transitions(*right, n_choices=4, before_choice=chosen[0], after_choice=chosen[1], answer=answer)
    assert expected.knowledge_method == "choice"
    files = [file_of(logs / name, "facts:capitals") for name in ("before", "after")]
    found = compared(run_cli, *files)["probes"]["facts_capitals"]
    for name in ("knowledge_lost", "knowledge_gained", "guess_persistence"):
        assert found[name] == pytest.approx(expected.as_dict()[name], abs=1e-12), name


def test_other_few_shot_counts_and_tasks_are_refused(run_cli, logs):
    code, out, err = run_cli("compare", file_of(logs / "before", "facts:capitals"), logs / "one-shot")
    assert (code, out) == (2, "")
    assert "few-shot examples: 0 against 1; items with another number of few-shot examples: 26" in err
    code, out, err = run_cli("compare", file_of(logs / "before", "facts:elements"), logs / "one-shot")
    assert (code, out) == (2, "")
    assert "the tasks differ: facts_elements in" in err
    code, out, err = run_cli("compare", logs, logs / "after")
    assert (code, out) == (2, "")
    assert "logs of 3 models: after, before, one-shot" in err


def changed(logs, tmp_path, change):
    file = file_of(logs / "after", "facts:capitals")
    table = pq.read_table(file)
    rows = table.to_pylist()
    change(rows)
    copy = tmp_path / file.name
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), copy)
    return copy


def first_doc(**values):
    return lambda rows: rows[0]["doc"].update(values)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows.append(rows[0]), "id '16' occurs 2 times (row 1, row 27)"),
        (lambda rows: rows.pop(0), "items missing in {copy}: 1 ('16')"),
        (first_doc(query="What?"), "items with another question: 1 ('16')"),
        (first_doc(gold_index=2), "items with another right answer: 1 ('16')"),
        (lambda rows: rows[0]["model_response"].update(input_tokens=[1]), "items with another prompt: 1 ('16')"),
        (lambda rows: rows.clear(), "{copy} holds no items"),
    ],
)
def test_a_damaged_log_is_refused(run_cli, logs, tmp_path, change, message):
    copy = changed(logs, tmp_path, change)
    code, out, err = run_cli("compare", file_of(logs / "before", "facts:capitals"), copy)
    assert (code, out) == (2, "")
    assert message.format(copy=copy) in err
    assert len(err.splitlines()) <= 2


def test_a_truncated_file_is_refused(run_cli, logs, tmp_path):
    file = file_of(logs / "after", "facts:capitals")
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes()[:-100])
    code, out, err = run_cli("compare", file_of(logs / "before", "facts:capitals"), copy)
    assert (code, out) == (2, "")
    assert f"{copy} is not a Parquet file, or was cut off" in err


def test_a_report_of_details(run_cli, logs, tmp_path):
    code, _, err = run_cli("report", logs / "before", logs / "after", "--out", tmp_path / "page.html")
    assert code == 0, err
    (run,) = page_data(tmp_path / "page.html")["runs"]
    assert {probe["name"] for probe in run["probes"]} == {"all", "facts", "recall"}


def older(directory, seed, *, generative=False, as_text=False, shots=5):
    """One file in the older layout, `details/<org>/<model>/<time>/details_<task>_<time>.parquet`."""
    rng = np.random.default_rng(seed)
    time = f"2025-0{seed}-01T12-00-00.000000"
    rows = []
    for i in range(40):
        logprobs = rng.normal(-20, 3, 4).round(4).tolist()
        gold, said = i % 4, int(rng.integers(0, 5))
        row = {
            "example": f"Question {i}: which?\nA. one\nB. two\nC. three\nD. four\nAnswer:",
            "instruction": "",
            "full_prompt": f"{shots} examples\nQuestion {i}: which?",
            "num_effective_few_shots": shots,
            "num_asked_few_shots": shots,
            "predictions": [f"The answer is {'ABCD'[said]}." if said < 4 else "Well."] if generative else logprobs,
            "gold": ["ABCD"[gold]] if generative else [],
            "choices": [] if generative else [" one", " two", " three", " four"],
            "gold_index": [] if generative else [gold],
            "metrics": {"extractive_match": float(said == gold)}
            if generative
            else {"acc": int(np.argmax(logprobs) == gold), "acc_norm": 0.3},
            "specifics": None,
        }
        rows.append({name: str(value) for name, value in row.items()} if as_text else row)
    rng.shuffle(rows)  # joined by the question, not by the place
    folder = directory / "details" / "org" / "model" / time
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"details_lighteval|gpqa:diamond|{shots}_{time}.parquet")
    return rows


@pytest.mark.parametrize("as_text", [False, True])
def test_the_older_layout(run_cli, tmp_path, as_text):
    old, new = ({row["example"]: row for row in older(tmp_path / name, seed)} for name, seed in (("x", 1), ("y", 2)))
    for name, seed in (("a", 1), ("b", 2)):
        older(tmp_path / name, seed, as_text=as_text)
    found = compared(run_cli, tmp_path / "a", tmp_path / "b")["probes"]["gpqa_diamond"]
    a, b = ([rows[name]["metrics"]["acc"] for name in old] for rows in (old, new))
    check(found, a, b, 4)
    chosen = [[int(np.argmax(rows[name]["predictions"])) for name in old] for rows in (old, new)]
    expected = transitions(a, b, n_choices=4, before_choice=chosen[0], after_choice=chosen[1])
    assert found["knowledge_lost"] == pytest.approx(expected.knowledge_lost, abs=1e-12)
    assert expected.knowledge_method == "choice"
    code, out, err = run_cli("compare", tmp_path / "a", tmp_path / "b", "--metric", "acc_norm")
    assert (code, out) == (2, "")
    assert "metric 'acc_norm' is 0.3, not 0 or 1" in err


def test_the_older_layout_of_generated_answers(run_cli, tmp_path):
    """The paper's scripts read these: the options are in the prompt only, so the user says how many there are."""
    a_rows = {row["example"]: row for row in older(tmp_path / "a", 1, generative=True)}
    b_rows = {row["example"]: row for row in older(tmp_path / "b", 2, generative=True)}
    a, b = ([int(rows[name]["metrics"]["extractive_match"]) for name in a_rows] for rows in (a_rows, b_rows))
    found = compared(run_cli, tmp_path / "a", tmp_path / "b", "--n-choices", "4")["all"]
    check(found, a, b, 4)

    def places(rows):
        return ["ABCD".find(rows[name]["predictions"][0][-2]) for name in a_rows]

    expected = transitions(a, b, n_choices=4, before_choice=places(a_rows), after_choice=places(b_rows))
    assert found["knowledge_lost"] == pytest.approx(expected.knowledge_lost, abs=1e-12)
    assert found["unparsed"] == pytest.approx(np.mean([place < 0 for place in places(b_rows)]))
    assert compared(run_cli, tmp_path / "a", tmp_path / "b")["all"]["forgetting_chance"] == 0
    older(tmp_path / "c", 3, generative=True, shots=0)
    code, out, err = run_cli("compare", tmp_path / "a", tmp_path / "c")
    assert (code, out) == (2, "")
    assert "few-shot examples: 5 against 0" in err


def table(tmp_path, name, rows):
    file = tmp_path / name / "details_suite|task|0_2025-01-01T00-00-00.000000.parquet"
    file.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def answered(i, text, right, **metrics):
    """A row of a generative task, as today's versions write it."""
    doc = {"id": str(i), "query": f"Q{i}", "choices": ["x"], "gold_index": 0, "instruction": "", "fewshot_samples": []}
    response = {"input": f"Q{i}", "text": [text], "logprobs": [], "output_tokens": [[1]]}
    return {"doc": doc, "metric": metrics or {"em": right}, "model_response": response}


def test_empty_answers_are_unparsed(run_cli, tmp_path):
    a = table(tmp_path, "a", [answered(i, "x", 1.0) for i in range(4)])
    b = table(tmp_path, "b", [answered(i, text, 0.0) for i, text in enumerate(["", " ", "y", "z"])])
    assert compared(run_cli, a, b)["all"]["unparsed"] == 0.5


def test_several_metrics_of_which_none_is_known(run_cli, tmp_path):
    files = [
        table(tmp_path, name, [answered(i, "x", 0, char_norm=1.0, token_norm=float(name == "a")) for i in range(4)])
        for name in "ab"
    ]
    code, out, err = run_cli("compare", *files)
    assert (code, out) == (2, "")
    assert "2 metrics could decide what is right: char_norm, token_norm; choose one: --metric" in err
    found = compared(run_cli, *files, "--metric", "token_norm")["all"]
    assert (found["n10"], found["metric"]) == (4, "token_norm")


def test_unknown_options_are_said_to_be_open_ended(run_cli, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        older(tmp_path / name, seed, generative=True)
    code, _, err = run_cli("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert (
        "'extractive_match' decides what is right; 40 of 40 items without options in the log are treated as open" in err
    )
    assert "--n-choices" in err
    code, _, err = run_cli("compare", tmp_path / "a", tmp_path / "b", "--n-choices", "4")
    assert "gpqa_diamond: 'extractive_match' decides what is right; 4 options" in err


def test_rows_of_another_form_are_named(run_cli, tmp_path):
    good = table(tmp_path, "a", [answered(0, "x", 1.0)])
    for number, row in enumerate(({"doc": {"id": "0"}, "metric": {"em": 1.0}}, {"doc": "x", "metric": "y"})):
        bad = table(tmp_path, f"b{number}", [row])
        code, out, err = run_cli("compare", good, bad)
        assert (code, out) == (2, "")
        assert f"{bad}, row 1: not details of lighteval" in err
