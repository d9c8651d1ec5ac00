"""Files that anyone writes: JSON Lines, CSV and Parquet with a row an item, through `compare` and `report`."""

import gzip
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forget_callback import transitions
from forget_callback.snapshots.logs import LogOptions, match, read_logs
from tests.report.test_report import page_data

N, K = 200, 4


@pytest.fixture
def answers():
    """(before, after): columns of 200 questions with four options, of which the later model forgot some."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, K, N)
    chosen = np.where(rng.random(N) < 0.8, right, rng.integers(0, K, N))
    later = np.where(rng.random(N) < 0.3, rng.integers(0, K, N), chosen)
    return [
        {
            "id": [f"q{i}" for i in range(N)],
            "score": (picks == right).astype(int).tolist(),
            "category": [f"c{i % 3}" for i in range(N)],
            "cluster": [f"p{i // 2}" for i in range(N)],
            "choice": picks.tolist(),
            "answer": right.tolist(),
            "k": [K] * N,
        }
        for picks in (chosen, later)
    ]


def write(file, columns):
    """The same table as any of the forms, by the file's suffix."""
    frame = pd.DataFrame(columns)
    if file.suffix == ".parquet":
        frame.to_parquet(file)
    elif file.suffix in (".csv", ".tsv"):
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    else:
        frame.to_json(file, orient="records", lines=file.suffix != ".json")
    return file


def lines(file, *rows):
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def compared(run_cli, *arguments):
    code, out, err = run_cli("compare", *arguments, "--format", "json")
    assert code == 0, err
    return json.loads(out), err


def refused(run_cli, *arguments):
    code, out, err = run_cli("compare", *arguments, "--fail-if", "forgetting>0.9")
    assert (code, out) == (2, ""), "a damaged file is never a pass"
    assert len(err.splitlines()) <= 2
    assert len(err) < 1500
    assert "Traceback" not in err
    assert "RecursionError" not in err
    return err


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_form_gives_the_numbers_of_the_arrays(run_cli, answers, tmp_path, suffix):
    files = [write(tmp_path / f"{name}.{suffix}", own) for name, own in zip(("base", "tuned"), answers)]
    found, err = compared(run_cli, *files)
    (name,) = found["probes"]
    numbers = found["probes"][name]
    before, after = answers
    expected = transitions(
        before["score"],
        after["score"],
        n_choices=K,
        before_choice=before["choice"],
        after_choice=after["choice"],
        answer=before["answer"],
    )
    assert name == "base"
    assert expected.knowledge_method == "choice"
    for part in ("n", "n10", "n01", "forgetting", "forgetting_adjusted", "knowledge_lost", "knowledge_gained"):
        assert numbers[part] == pytest.approx(expected.as_dict()[part], abs=1e-12), part
    assert set(numbers["categories"]) == {"c0", "c1", "c2"}
    assert (numbers["metric"], numbers["k"]) == ("score", K)
    assert f"base: 'score' decides what is right; {K} options" in err


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_facts_join_the_items_of_a_file(answers, tmp_path, suffix):
    columns = {**answers[0], "fact": [f"f{i // 2}" for i in range(N)]}
    (log,) = read_logs(write(tmp_path / f"base.{suffix}", columns), LogOptions(note=str)).values()
    assert log.snapshot().fact.tolist() == columns["fact"]
    assert [item.fact for item in log.to_probe().items] == columns["fact"]


def test_clusters_widen_the_interval(run_cli, answers, tmp_path):
    both = [{**own, "cluster": [f"p{i // 20}" for i in range(N)]} for own in answers]
    rng = np.random.default_rng(1)
    lost = np.repeat(rng.random(N // 20) < 0.4, 20)  # whole passages are lost
    both[0]["score"] = [1] * N
    both[1]["score"] = (~lost).astype(int).tolist()
    for own in both:
        del own["choice"], own["answer"], own["k"]
    spread = {}
    for name in ("with", "without"):
        files = [write(tmp_path / f"{name}-{side}.csv", own) for side, own in zip("ab", both)]
        numbers = compared(run_cli, *files)[0]["all"]
        spread[name] = numbers["forgetting_high"] - numbers["forgetting_low"]
        both = [{column: own[column] for column in own if column != "cluster"} for own in both]
    assert spread["with"] > 1.5 * spread["without"]


@pytest.mark.parametrize(
    "wrong, right",
    [
        (False, True),
        (0, 1),
        ("0", "1"),
        ("false", "true"),
        ("FALSE", "TRUE"),
        (0.0, 1.0),
        ("0.0", "1.0"),
        ("no", "yes"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_right_and_wrong_in_any_notation(run_cli, tmp_path, wrong, right, suffix):
    a = write(tmp_path / f"a.{suffix}", {"id": [1, 2, 3, 4], "correct": [right, right, wrong, right]})
    b = write(tmp_path / f"b.{suffix}", {"id": [4, 3, 2, 1], "correct": [right, wrong, wrong, right]})
    numbers = compared(run_cli, a, b)[0]["all"]
    assert (numbers["n11"], numbers["n10"], numbers["n01"], numbers["n00"]) == (2, 1, 0, 1)


@pytest.mark.parametrize("missing", [None, "", "null", "NaN", "nan", float("nan"), "n/a"])
def test_what_has_no_score_is_unscored_and_seen_by_gates(run_cli, tmp_path, missing):
    a = lines(tmp_path / "a.jsonl", *({"id": i, "score": 1} for i in range(20)))
    b = lines(tmp_path / "b.jsonl", *({"id": i, "score": 1 if i < 5 else missing} for i in range(20)))
    numbers = compared(run_cli, a, b)[0]["all"]
    assert (numbers["n"], numbers["n_unscored"], numbers["scored"]) == (5, 15, 0.25)


def test_a_share_is_right_from_one_half_and_a_note_says_so(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", *({"id": i, "score": 1} for i in range(4)))
    b = lines(tmp_path / "b.jsonl", *({"id": i, "score": s} for i, s in enumerate([0.49, 0.5, "0.7", 1])))
    found, err = compared(run_cli, a, b)
    assert found["all"]["n10"] == 1
    assert f"{b}: 'score' is neither 0 nor 1 in 3 of 4 rows, such as 0.49; 0.5 or more is taken as right" in err


def test_ids_as_numbers_and_as_texts_are_the_same(run_cli, tmp_path):
    forms = [
        lines(tmp_path / "number.jsonl", *({"id": i, "score": 1} for i in range(3))),
        lines(tmp_path / "text.jsonl", *({"id": str(i), "score": 1} for i in range(3))),
        write(tmp_path / "table.csv", {"id": range(3), "score": [1, 1, 1]}),
        write(tmp_path / "float.parquet", {"id": [0.0, 1.0, 2.0], "score": [1, 1, 1]}),
        write(tmp_path / "float.csv", {"id": [0.0, 1.0, 2.0], "score": [1, 1, 1]}),
    ]
    for other in forms[1:]:
        assert compared(run_cli, forms[0], other)[0]["all"]["n11"] == 3


def test_the_columns_tell_whose_file_it_is_and_not_the_name(run_cli, tmp_path):
    rows = [{"id": i, "score": 1, "input": "x", "output": "y", "gts": "z"} for i in range(3)]
    a = lines(tmp_path / "samples_a_2026-01-01T00-00-00.000000.jsonl", *rows)
    b = write(tmp_path / "b.csv", {"id": range(3), "score": [1, 0, 0]})
    assert compared(run_cli, a, b)[0]["all"]["n10"] == 2


def test_score_here_and_correct_there(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", {"id": 1, "score": 1}, {"id": 2, "score": 1})
    b = lines(tmp_path / "b.jsonl", {"id": 1, "correct": True}, {"id": 2, "correct": False})
    assert compared(run_cli, a, b)[0]["all"]["n10"] == 1


def test_where_both_are_there_it_says_which_decides(run_cli, tmp_path):
    files = [
        lines(tmp_path / f"{n}.jsonl", {"id": 1, "score": 0.1, "correct": 1}, {"id": 2, "score": 0, "correct": c})
        for n, c in (("a", 1), ("b", 0))
    ]
    found, err = compared(run_cli, *files)
    assert (found["all"]["n10"], found["all"]["metric"]) == (1, "correct")
    assert "'correct' decides what is right, and not score: --metric" in err
    found, err = compared(run_cli, *files, "--metric", "score")
    assert (found["all"]["n00"], found["all"]["metric"]) == (2, "score")


def test_any_column_decides_if_the_user_names_it(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", {"id": 1, "f1": 0.9}, {"id": 2, "f1": 1})
    b = lines(tmp_path / "b.jsonl", {"id": 1, "f1": 0.2}, {"id": 2, "f1": 1})
    assert "expected the columns id and correct or score or the column that --metric names" in refused(run_cli, a, b)
    found, _ = compared(run_cli, a, b, "--metric", "f1")
    assert (found["all"]["n10"], found["all"]["metric"]) == (1, "f1")


def test_the_columns_of_a_spreadsheet(run_cli, tmp_path):
    """A byte order mark, semicolons, capitals, carriage returns, line breaks within a cell, and Excel's first line."""
    text = 'ID;Score;Prompt\r\n1;1;"a; b"\r\n2;0;"two\r\nlines"\r\n'
    a = tmp_path / "a.csv"
    a.write_bytes(b"\xef\xbb\xbf" + text.encode())
    b = tmp_path / "b.csv"
    b.write_text("sep=;\n" + text.replace("\r\n1;1", "\n1;0"), encoding="utf-16")
    assert compared(run_cli, a, b)[0]["all"]["n10"] == 1


@pytest.mark.parametrize("how", ["gz", "bz2", "xz", "zst", "zip"])
def test_packed_files(run_cli, tmp_path, how):
    import bz2
    import lzma

    import pyarrow as pa

    plain = lines(tmp_path / "a.jsonl", {"id": 1, "score": 1}, {"id": 2, "score": 1})
    text = plain.read_bytes().replace(b'2, "score": 1', b'2, "score": 0')
    data = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
        "zip": zipped,
    }[how](text)
    packed = tmp_path / f"b.jsonl.{how}"
    packed.write_bytes(data)
    found, _ = compared(run_cli, plain, packed)
    assert found["all"]["n10"] == 1
    cut = tmp_path / f"c.jsonl.{how}"
    cut.write_bytes(data[: len(data) // 2])
    assert f"{cut} is damaged, or was cut off" in refused(run_cli, plain, cut)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(run_cli, tmp_path, encoding):
    rows = "".join(json.dumps({"id": f"é{i}", "score": i % 2}, ensure_ascii=False) + "\r\n" for i in range(4))
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(rows, encoding=encoding)
    assert compared(run_cli, tmp_path / "a.jsonl", tmp_path / "b.jsonl")[0]["all"]["n"] == 4


def zipped(raw):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("b.jsonl", raw)
    return data.getvalue()


def test_a_file_that_is_not_there_is_named(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", {"id": 1, "score": 1})
    for name in ("b.jsonl", "b.csv", "b.jsonl.gz"):
        assert f"{tmp_path / name}: no such file" in refused(run_cli, a, tmp_path / name)


def deep(n):
    return '{"id": 1, "score": ' + "[" * n + "]" * n + "}"


DAMAGED = {
    "a line that is a list": (
        '[1, 2]\n{"id": 1, "score": 1}\n',
        "line 1: expected a JSON object with an item, got [1, 2]",
    ),
    "a later line that is a list": ('{"id": 1, "score": 1}\n[1, 2]\n', "line 2: expected a JSON object"),
    "a line that is a number": ('{"id": 1, "score": 1}\n7\n', "line 2: expected a JSON object with an item, got 7"),
    "an array that was cut off": ('[{"id": 1, "score": 1}, {"id":', "a JSON array that is damaged, or was cut off"),
    "a line that was cut off": ('{"id": 1, "score": 1}\n{"id": 2, "sco', "line 2: the file ends within this line"),
    "an empty file": ("", "holds no items"),
    "blank lines": ("\n \n", "holds no items"),
    "a score in words": ('{"id": 1, "score": "good"}\n', "line 1: 'score' is 'good'; expected true or false"),
    "percent": ('{"id": 1, "score": 93.5}\n', "line 1: 'score' is 93.5; expected"),
    "a negative score": ('{"id": 1, "score": -1}\n', "line 1: 'score' is -1"),
    "an infinite score": ('{"id": 1, "score": Infinity}\n', "line 1: 'score' is inf"),
    "a score of 400 digits": ('{"id": 1, "score": 1' + "0" * 400 + "}\n", "line 1: 'score' is 1000"),
    "a score that is an object": ('{"id": 1, "score": {"value": 1}}\n', "line 1: 'score' is {'value': 1}"),
    "no score": ('{"id": 1, "answer": 1}\n', "expected the columns id and correct or score"),
    "no id": ('{"score": 1}\n', "expected the columns id and correct or score"),
    "an id that is a list": ('{"id": [1], "score": 1}\n', "line 1: expected a text or number as id, got [1]"),
    "an id that is null": ('{"id": null, "score": 1}\n', "line 1: expected a text or number as id, got None"),
    "an id that is missing in a row": (
        '{"id": 1, "score": 1}\n{"score": 1}\n',
        "line 2: expected a text or number as id",
    ),
    "an id twice": ('{"id": 1, "score": 1}\n{"id": "1", "score": 0}\n', "id '1' occurs 2 times (line 1, line 2)"),
    "one option": ('{"id": 1, "score": 1, "k": 1}\n', "expected a whole number from 2 to 1000 as k, got 1"),
    "a choice that there is not": ('{"id": 1, "score": 1, "k": 4, "choice": 4}\n', "from -1 to 3 as choice, got 4"),
    "a choice in words": ('{"id": 1, "score": 1, "k": 4, "choice": "B"}\n', "as choice, got 'B'"),
    "deep nesting": (deep(100_000), "nested too deep"),
    "control characters": ('{"id": "\\u001b[2J", "score": 1}\n' * 2, "id '\\x1b[2J' occurs 2 times"),
    "a long id": (f'{{"id": "{"x" * 200_000}", "score": 1}}\n' * 2, "characters) occurs 2 times"),
    "a long score": (f'{{"id": 1, "score": "{"x" * 200_000}"}}\n', "(200002 characters); expected true or false"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_item_is_refused_by_name(run_cli, tmp_path, case):
    text, message = DAMAGED[case]
    good, bad = lines(tmp_path / "good.jsonl", {"id": 1, "score": 1}), tmp_path / "bad.jsonl"
    bad.write_text(text)
    assert message in refused(run_cli, good, bad)
    assert message in refused(run_cli, bad, good)


CUT = {
    "a row that was cut off": ("id,score,category\n1,1,a\n2,1\n", "row 3: expected 3 cells as in the first row, got 2"),
    "a quote that was cut off": ('id,score,prompt\n1,1,"a long', "not CSV (unexpected end of data), or was cut off"),
    "no header": ("1,1\n2,0\n", "expected the columns id and correct or score"),
    "only a header": ("id,score\n", "holds no items"),
    "a decimal comma": ("id;score\n1;0,5\n", "row 2: 'score' is '0,5'"),
}


@pytest.mark.parametrize("case", CUT)
def test_a_damaged_table_is_refused_by_name(run_cli, tmp_path, case):
    text, message = CUT[case]
    good, bad = lines(tmp_path / "good.jsonl", {"id": 1, "score": 1}), tmp_path / "bad.csv"
    bad.write_text(text)
    assert message in refused(run_cli, good, bad)


def test_other_parquet_files_are_refused_by_name(run_cli, tmp_path):
    good, bad = lines(tmp_path / "good.jsonl", {"id": 1, "score": 1}), tmp_path / "bad.parquet"
    write(bad, {"ID": [1], " Score": [1]})
    assert compared(run_cli, good, bad)[0]["all"]["n11"] == 1
    write(bad, {"question": ["a"], "reply": ["b"]})
    assert "expected the columns id and correct or score" in refused(run_cli, good, bad)
    bad.write_bytes(bad.read_bytes()[:-9])
    assert f"{bad} is not a Parquet file, or was cut off" in refused(run_cli, good, bad)


def test_long_lines_are_read(run_cli, tmp_path):
    rows = [{"id": 1, "score": 1, "prompt": "x" * 10_000_000}]
    a = lines(tmp_path / "a.jsonl", *rows)
    b = write(tmp_path / "b.csv", {name: [row[name] for row in rows] for name in rows[0]})
    assert compared(run_cli, a, b)[0]["all"]["n11"] == 1


def test_other_items_answers_and_numbers_of_options_do_not_compare(run_cli, tmp_path):
    one = {"id": 1, "score": 0, "k": 4, "answer": 2, "prompt": "Q"}
    a = lines(tmp_path / "a.jsonl", one, {**one, "id": 2})
    for change, message in (
        ({"k": 5}, "items with another number of options: 1 ('1')"),
        ({"answer": 3}, "items with another right answer: 1 ('1')"),
        ({"prompt": "q"}, "items with another prompt: 1 ('1')"),
        ({"id": 3}, "items missing in"),
    ):
        b = lines(tmp_path / "b.jsonl", {**one, **change}, {**one, "id": 2})
        assert message in refused(run_cli, a, b)
        found, err = compared(run_cli, a, b, "--allow-partial")
        left = 2 if "id" not in change else 3
        assert (found["all"]["n"], found["all"]["n_unscored"]) == (1, left - 1), "what is left out stays, unscored"
        assert "1 item is left" in err


def test_a_choice_that_contradicts_the_score_is_not_used(run_cli, answers, tmp_path):
    answers[1]["choice"][0] = (answers[1]["answer"][0] + 1) % K
    answers[1]["score"][0] = 1
    files = [write(tmp_path / f"{name}.jsonl", own) for name, own in zip("ab", answers)]
    log = match([read_logs(file, LogOptions(note=lambda text: None)) for file in files], LogOptions(note=str))[1]["a"]
    assert log.items[0].choice == -1
    _, err = compared(run_cli, *files)
    assert f"{files[1]}: choice and answer contradict right or wrong in 1 rows; not used there" in err


def test_the_number_of_options_from_the_command_line(run_cli, answers, tmp_path):
    without = [{name: own[name] for name in own if name != "k"} for own in answers]
    files = [write(tmp_path / f"{name}.csv", own) for name, own in zip("ab", without)]
    full = [write(tmp_path / f"{name}k.csv", own) for name, own in zip("ab", answers)]
    found, err = compared(run_cli, *files)
    assert found["all"]["forgetting_chance"] == 0
    assert f"{N} of {N} items without options in the log are treated as open-ended" in err
    assert "--n-choices" in err
    again, err = compared(run_cli, *files, "--n-choices", str(K))
    assert again["all"] == compared(run_cli, *full)[0]["all"]
    assert "open-ended" not in err


@pytest.mark.parametrize("turned", [False, True])
def test_an_item_asked_in_several_prompts(run_cli, answers, tmp_path, turned):
    """A row for each prompt, of which the first that stands in the file is the first; the later file in any order."""
    rng = np.random.default_rng(3)
    right = np.array(answers[0]["answer"])
    sides, files = [], []
    for number, own in enumerate(answers):
        again = np.where(rng.random(N) < 0.2, rng.integers(0, K, N), own["choice"])
        sides.append(np.array([own["choice"], again]))
        rows = [
            {"id": own["id"][i], "variant": name, "score": int(c[i] == right[i]), "choice": int(c[i]), "k": K,
             "answer": int(right[i])}
            for name, c in zip(("plain", "exam"), sides[-1]) for i in range(N)
        ]  # fmt: skip
        if turned and number:
            rng.shuffle(rows)
        files.append(lines(tmp_path / f"{'ab'[number]}.jsonl", *rows))
    numbers = compared(run_cli, *files)[0]["all"]
    before, after = ((side == right).astype(float) for side in sides)
    choices = {"before_choice": sides[0], "after_choice": sides[1], "answer": right}
    expected = transitions(before, after, n_choices=np.full(N, K), **choices).as_dict()
    assert numbers["variants"] == 2
    for name in ("n10", "forgetting", "knowledge_lost", "knowledge_lost_low", "knowledge_gained", "known_lost"):
        assert numbers[name] == pytest.approx(expected[name], abs=1e-12), name


def test_a_prompt_that_one_side_was_not_asked_in_is_left_out_and_said(run_cli, tmp_path):
    rows = [{"id": i, "variant": v, "score": 1} for i in range(9) for v in ("plain", "exam")]
    a, b = lines(tmp_path / "a.jsonl", *rows), lines(tmp_path / "b.jsonl", *rows[::2])
    found, err = compared(run_cli, a, b)
    assert found["all"]["variants"] == 1
    assert "compared over 1 of its variants" in err
    c = lines(tmp_path / "c.jsonl", *(row | {"variant": f"new {row['variant']}"} for row in rows))
    assert "the first prompt of" in refused(run_cli, a, c)
    twice = lines(tmp_path / "d.jsonl", *rows, rows[1])
    assert "variant 'exam': id '0' occurs 2 times (line 2, line 19)" in refused(run_cli, a, twice)


def test_an_empty_answer_is_unparsed(run_cli, tmp_path):
    a = lines(tmp_path / "a.jsonl", *({"id": i, "score": 1, "prediction": "x"} for i in range(4)))
    said = ["", " \n", "y", "x"]
    b = lines(tmp_path / "b.jsonl", *({"id": i, "score": int(t == "x"), "prediction": t} for i, t in enumerate(said)))
    assert compared(run_cli, a, b)[0]["all"]["unparsed"] == 0.5


def test_a_report_of_several_files(run_cli, answers, tmp_path):
    files = [write(tmp_path / f"step-{step}.csv", own) for step, own in enumerate([*answers, answers[0]])]
    code, _, err = run_cli("report", *files, "--out", tmp_path / "page.html")
    assert code == 0, err
    (run,) = page_data(tmp_path / "page.html")["runs"]
    assert run["steps"] == [0, 1, 2]
    numbers = compared(run_cli, *files[:2])[0]["all"]
    (probe,) = run["probes"]
    for name in ("forgetting", "knowledge_lost"):
        assert probe["series"][""][name] == pytest.approx([0, numbers[name], 0], abs=1e-12)


def test_a_report_without_the_right_answers_or_choices(run_cli, answers, tmp_path):
    files = []
    for step, own in enumerate(answers):
        del own["answer"], own["choice"]
        files.append(write(tmp_path / f"step-{step}.csv", own))
    code, _, err = run_cli("report", *files, "--out", tmp_path / "page.html")
    assert code == 0, err
    (run,) = page_data(tmp_path / "page.html")["runs"]
    numbers = compared(run_cli, *files)[0]["all"]
    (probe,) = run["probes"]
    assert probe["series"][""]["knowledge_lost"][1] == pytest.approx(numbers["knowledge_lost"], abs=1e-12)


def test_a_report_of_files_with_variants(run_cli, tmp_path):
    rows = [{"id": i, "variant": v, "score": 1, "k": 4} for i in range(30) for v in ("plain", "exam")]
    a = lines(tmp_path / "a.jsonl", *rows)
    b = lines(tmp_path / "b.jsonl", *({**row, "score": int(row["id"] > 9)} for row in rows))
    code, _, err = run_cli("report", a, b, "--out", tmp_path / "page.html")
    assert code == 0, err
    (run,) = page_data(tmp_path / "page.html")["runs"]
    assert run["probes"][0]["series"][""]["forgetting"][1] == pytest.approx(1 / 3)


def test_a_snapshot_of_ours_is_no_such_file(run_cli, tmp_path):
    from forget_callback import Snapshot

    snapshot = Snapshot("own", "f", 3, np.array(["a", "b"], object), [1.0, math.nan])
    snapshot.save(tmp_path / "x.parquet")
    snapshot.to_pandas().to_csv(tmp_path / "x.csv")
    code, _, err = run_cli("compare", tmp_path / "x.parquet", tmp_path / "x.csv")
    assert code == 2
    assert "is a log of another tool" in err
    a, b = tmp_path / "y.csv", tmp_path / "z.csv"
    for file in (a, b):
        snapshot.to_pandas().to_csv(file)
    assert compared(run_cli, a, b)[0]["all"]["n_unscored"] == 1


def test_the_row_in_the_docs_is_read(run_cli, tmp_path):
    page = Path(__file__).resolve().parents[3] / "docs" / "checkpoints-and-logs.md"
    (row,) = (line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith('{"id"'))
    a, b = lines(tmp_path / "a.jsonl", row), lines(tmp_path / "b.jsonl", {**json.loads(row), "score": 0, "choice": 1})
    found = compared(run_cli, a, b)[0]["all"]
    assert (found["n10"], found["k"]) == (1, 4)
