"""Rows of lm-eval that its logs of real tasks have, one kind a test; `integration/test_logs.py` has logs of lm-eval."""

import gzip
import json
import time

import numpy as np
import pytest

from forget_callback.snapshots.logs import LogOptions, match, read_logs


def row(i, *, options=("one", "two", "three"), scores=(-1.0, -2.0, -3.0), target="0", right=1.0, **more):
    """A line of a multiple-choice task."""
    return {
        "doc_id": i,
        "doc": {"q": i},
        "target": target,
        "arguments": {f"gen_args_{j}": {"arg_0": f"Q{i}", "arg_1": f" {text}"} for j, text in enumerate(options)},
        "resps": [[[str(score), "False"]] for score in scores],
        "filtered_resps": [[str(score), "False"] for score in scores],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"d{i}",
        "prompt_hash": f"p{i}",
        "target_hash": f"t{i}",
        "acc": right,
    } | more


@pytest.fixture
def read(tmp_path):
    """read(rows, **wanted) -> the items of a log with these rows, and the notes."""

    def read(rows, **wanted):
        file = tmp_path / "samples_task_2026-01-01T00-00-00.000000.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
        notes = []
        (log,) = read_logs(file, LogOptions(**wanted, note=notes.append)).values()
        return log, notes

    return read


def test_targets_by_index_and_by_text(read):
    by_index = [row(0), row(1, target="1", right=0.0), row(2, target="2", right=0.0)]
    log, notes = read(by_index)
    assert [(item.answer, item.choice) for item in log.items] == [(0, 0), (1, 0), (2, 0)]
    assert log.items[1].margin == -1.0
    numbers = ("2", "0", "1")  # the text "0" is the option at place 1
    by_text = [
        row(i, options=numbers, target=t, right=r) for i, (t, r) in enumerate([("2", 1.0), ("0", 0.0), ("1", 0.0)])
    ]
    log, notes = read(by_text)
    assert [item.answer for item in log.items] == [0, 1, 2]
    log, notes = read([row(0, target="one"), row(1, target="two", right=0.0)])
    assert [item.answer for item in log.items] == [0, 1]
    assert notes == []


def test_options_that_contradict_the_scores_are_not_used(read):
    log, notes = read([row(0), row(1, target="1", right=1.0)])
    assert [(item.answer, item.choice, len(item.options)) for item in log.items] == [(0, -1, 3), (1, -1, 3)]
    assert "the option that 'acc' chose does not follow from" in notes[0]


@pytest.mark.parametrize("said_", ["", " \n", None])
def test_empty_answers_are_unparsed(read, said_):
    log, _ = read([said(0, said_, "x", 0.0), said(1, "y", "x", 0.0), said(2, "x", "x", 1.0)])
    assert log.snapshot().outcome.tolist() == ["unparsed" if said_ is not None else "wrong", "wrong", "correct"]


def test_several_right_options(read):
    log, _ = read([row(0, target="[0, 2]"), row(1, target="[1, 2]", right=0.0)])
    assert [(item.answer, item.choice, len(item.options)) for item in log.items] == [(0, -1, 3), (1, -1, 3)]
    assert log.items[0].expected == (" one", " three")


def test_options_that_differ_in_the_context(read):
    """As in WinoGrande: the target is the continuation, so which of the two was right follows from the score."""

    def asked(i, right):
        arguments = {
            f"gen_args_{j}": {"arg_0": f"The {name} fell, as the {name}", "arg_1": " broke"}
            for j, name in enumerate("ab")
        }
        return row(i, scores=(-1.0, -2.0), target=" broke", right=right, arguments=arguments, options=())

    log, _ = read([asked(0, 1.0), asked(1, 0.0), row(2, options=("x", "y"), scores=(-1.0, -2.0), target="0")])
    assert [(item.answer, item.choice) for item in log.items] == [(0, 0), (1, 0), (0, 0)]
    assert log.items[0].options == ("The a fell, as the a", "The b fell, as the b")


def test_mutual_information_asks_each_option_twice(read):
    def asked(i, target, right):
        one = row(i, scores=(-1.0, -2.0, -3.0, -9.0, -9.0, -9.0), target=target, right=right)
        one["arguments"] |= {
            f"gen_args_{3 + j}": {"arg_0": "", "arg_1": f" {t}"} for j, t in enumerate(("one", "two", "three"))
        }
        return one

    log, _ = read([asked(0, "0", 1.0), asked(1, "1", 0.0)])
    assert [(item.choice, len(item.options), len(item.scores)) for item in log.items] == [(0, 3, 3)] * 2


def test_rows_of_older_versions(read):
    rows = [row(0), row(1, target="1", right=0.0)]
    for one in rows:
        one["arguments"] = [[a["arg_0"], a["arg_1"]] for a in one["arguments"].values()]
        for name in ("filter", "metrics", "doc_hash", "prompt_hash", "target_hash"):
            del one[name]
    log, _ = read(rows)
    assert [item.choice for item in log.items] == [0, 0]
    assert log.how == {"tool": "lm-eval", "metric": "acc", "filter": "none"}
    rows[0]["doc"] = {"q": "another"}
    other, _ = read(rows)
    with pytest.raises(ValueError, match=r"items with another document: 1 \('0'\)"):
        match([{"task": log}, {"task": other}], LogOptions())


def said(i, text, target, right):
    arguments = {"gen_args_0": {"arg_0": f"Q{i}", "arg_1": {"until": ["\n"]}}}
    return row(i, arguments=arguments, resps=[[text]], filtered_resps=[text], target=target, right=right)


def test_letters_are_options_only_if_the_user_says_how_many(read):
    rows = [said(0, "(A)", "(A)", 1.0), said(1, "(C)", "(B)", 0.0), said(2, "[invalid]", "(D)", 0.0)]
    log, _ = read(rows)
    assert [item.options for item in log.items] == [()] * 3
    assert [item.outcome for item in log.items] == [None, None, "unparsed"]
    log, _ = read(rows, n_choices=4)
    assert [(item.answer, item.choice) for item in log.items] == [(0, 0), (1, 2), (3, -1)]


def test_a_likelihood_is_no_answer(read):
    """As in LAMBADA: one continuation a document, right if it is what greedy decoding would write."""
    arguments = {"gen_args_0": {"arg_0": "Q", "arg_1": " end"}}
    log, _ = read([row(0, arguments=arguments, scores=(-1.0,), target=" end")])
    (item,) = log.items
    assert (item.correct, item.options, item.prediction, item.text) == (1.0, (), None, None)


def test_other_settings_of_generation_do_not_compare(read):
    log, _ = read([said(0, "x", "x", 1.0)])
    other = said(0, "x", "x", 1.0)
    other["arguments"]["gen_args_0"]["arg_1"]["temperature"] = 1.0
    changed, _ = read([other])
    with pytest.raises(ValueError, match="items with another request: 1"):
        match([{"task": log}, {"task": changed}], LogOptions())


def test_metrics(read):
    rows = [row(0, metrics=["f1", "acc"], f1=0.5), row(1, target="1", metrics=["f1", "acc"], f1=1.0, right=0.0)]
    log, _ = read(rows)
    assert log.how["metric"] == "acc"
    with pytest.raises(ValueError, match=r"line 1: metric 'f1' is 0\.5, not 0 or 1"):
        read(rows, metric="f1")
    with pytest.raises(ValueError, match="no metric 'em'; task has acc"):
        read(rows, metric="em")
    rows[1]["acc"] = None
    log, _ = read(rows)
    assert str(log.items[1].correct) == "nan", "not scored, not wrong"


def test_several_metrics_could_decide(read):
    """Where none is known to be the task's main one, the user chooses; else it is said which decides."""
    rows = [row(0, metrics=["f1", "own", "other"], f1=0.5, own=1.0, other=0.0)]
    with pytest.raises(ValueError, match="2 metrics could decide what is right: own, other; choose one: --metric"):
        read(rows)
    assert read(rows, metric="other")[0].items[0].correct == 0
    assert read([row(0, metrics=["own"], own=1.0)])[0].how["metric"] == "own", "the only one"
    rows = [row(0, metrics=["acc_norm", "acc"], acc_norm=0.0)]
    log, _ = read(rows)
    said_ = []
    match([{"task": log}, {"task": log}], LogOptions(note=said_.append))
    assert "task: 'acc' decides what is right, and not acc_norm: --metric; 3 options" in said_


@pytest.mark.parametrize("value", ["x", [1], {"a": 1}, 0.5, 2, 10**400, "9" * 300])
def test_a_metric_that_is_not_right_or_wrong(read, value):
    with pytest.raises(ValueError, match="no metric is 0 or 1 for all items") as caught:
        read([row(0, right=value)])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("target", ["(" * 5000, "-" * 100_000 + "1", "[" * 300 + "]" * 300, "\\d", "[1, 2", "9" * 5000])
def test_targets_that_are_no_expressions(read, target):
    log, _ = read([row(0, target=target, right=0.0)])
    assert log.items[0].expected == (target,)


def test_a_probe_of_a_log_keeps_what_was_asked(read):
    odd = row(0, options=("same", "same", ""))
    log, _ = read([odd, row(1, target="1", right=0.0)])
    first, second = log.to_probe().items
    assert first.choices == (" same", " same (option 2)", "  (option 3)")
    assert (second.prompt, second.choices[second.answer]) == ("Q1", " two")
    log, _ = read([said(0, "x", "", 1.0)])
    (item,) = log.to_probe().items
    assert (item.prompt, item.match, item.task, item.answer) == ("Q0", "task", "lm-eval:task", ("(not in the log)",))


def test_logs_compare_in_any_order_but_not_with_another_prompt(read):
    rows = [row(0), row(1, target="1", right=0.0)]
    log, _ = read(rows)
    turned, _ = read([rows[1], rows[0]])
    one, other = match([{"task": log}, {"task": turned}], LogOptions())
    assert [item.id for item in one["task"].items] == [item.id for item in other["task"].items] == ["0", "1"]
    changed, _ = read([row(0), row(1, target="1", right=0.0, prompt_hash="x")])
    with pytest.raises(ValueError, match=r"items with another prompt: 1 \('1'\)"):
        match([{"task": log}, {"task": changed}], LogOptions())


def test_the_time_to_read_a_log_grows_with_its_rows(read):
    """Sixteen times the rows take far less than the 256 times that looking each one up among all others would."""

    def cost(n):
        rows, times = [row(i) for i in range(n)], []
        for _ in range(3):
            begun = time.process_time()
            log, _ = read(rows)
            assert len(match([{"task": log}, {"task": log}], LogOptions())[0]["task"].snapshot()) == n
            times.append(time.process_time() - begun)
        return min(times)

    assert cost(8000) < 4 * 16 * cost(500)


def old(rows):
    """The rows as versions before 0.4.7 write them."""
    new = ("filter", "metrics", "doc_hash", "prompt_hash", "target_hash")
    return [
        {name: value for name, value in one.items() if name not in new}
        | {"arguments": [list(pair.values()) for pair in one["arguments"].values()]}
        for one in rows
    ]


T = "2024-08-01T10-00-00.000000"
FILTERS = {"filter_list": [{"name": "strict"}, {"name": "flexible"}]}


@pytest.fixture
def write(tmp_path):
    """write(rows, results, name=...) -> the path of a log with a results file beside it."""

    def write(rows, results=None, *, file=f"samples_task_{T}.jsonl", beside=f"results_{T}.json", end="\n"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(one) + end for one in rows))
        if results is not None:
            (path.parent / beside).write_text(json.dumps(results))
        return path

    return write


def logs_of(path, **wanted):
    notes = []
    return read_logs(path, LogOptions(**wanted, note=notes.append)), notes


def two_readings(n, *, processes=1):
    """Documents read by two filters: wrong by the first, right by the second, as processes one after another write."""
    rows = []
    for rank in range(processes):
        own = range(rank, n, processes)
        rows += [said(i, f"It is {i}", str(i), 0.0) | {"filtered_resps": ["[invalid]"]} for i in own]
        rows += [said(i, f"It is {i}", str(i), 1.0) | {"filtered_resps": [str(i)]} for i in own]
    return old(rows)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("listed", ["configs", "results"])
def test_filters_that_the_rows_do_not_name(write, processes, listed):
    scores = {"exact_match,strict": 0.0, "exact_match_stderr,strict": 0.0, "exact_match,flexible": 1.0, "alias": "task"}
    results = {"configs": {"task": FILTERS}} if listed == "configs" else {"results": {"task": scores}}
    path = write(two_readings(20, processes=processes), results)
    with pytest.raises(ValueError, match="extracted by 2 filters: strict, flexible; choose one: --filter"):
        logs_of(path)
    for name, right in (("strict", 0.0), ("flexible", 1.0)):
        log = logs_of(path, filter=name)[0]["task"]
        assert sorted(int(item.id) for item in log.items) == list(range(20))
        assert {item.correct for item in log.items} == {right}
        assert log.how["filter"] == name
        assert {item.outcome for item in log.items} == {None if right else "unparsed"}


def test_filters_that_nothing_names(write):
    path = write(two_readings(20))
    for more in ({}, {"filter": "flexible"}, {"allow_partial": True}):
        with pytest.raises(
            ValueError, match=r"before 0\.4\.7 wrote the readings of several filters without naming them"
        ):
            logs_of(path, **more)
    path = write(old([row(0), row(1), row(1)]), {"configs": {"task": FILTERS}}, beside="other.json")
    with pytest.raises(ValueError, match=r"id '1' occurs 2 times"):
        logs_of(path)


def test_a_copy_is_no_reading_of_another_filter(write):
    one = {"configs": {"task": {"filter_list": [{"name": "none"}]}}}
    with pytest.raises(ValueError, match="id '0' occurs 2 times"):
        logs_of(write(old([row(0), row(1)] * 2), one))
    with pytest.raises(ValueError, match="id '0' occurs 3 times"):
        logs_of(write(two_readings(3) + two_readings(3)[:3], {"configs": {"task": FILTERS}}))


def test_a_cut_log_of_unnamed_filters(write):
    results = {"configs": {"task": FILTERS}, "n-samples": {"task": {"original": 20, "effective": 20}}}
    path = write(two_readings(20)[:30], results)
    assert len(logs_of(path, filter="strict")[0]["task"].items) == 20
    with pytest.raises(ValueError, match="has 10 of 20 evaluated items"):
        logs_of(path, filter="flexible")


MMLU = {
    "group_subtasks": {"mmlu": ["mmlu_a", "mmlu_b"]},
    "n-shot": {"mmlu_a": 5, "mmlu_b": 5},
    "n-samples": {name: {"original": 3, "effective": 3} for name in ("mmlu_a", "mmlu_b")},
    "configs": {},
}


@pytest.mark.parametrize("beside", [f"base_{T}.json", f"results_{T}.json", f"my_model.v2_{T}.json"])
def test_the_results_file_of_any_output_path(write, beside):
    for task in ("mmlu_a", "mmlu_b"):
        path = write([row(i) for i in range(3)], MMLU, file=f"out/samples_{task}_{T}.jsonl", beside=beside)
    for given in (path.parent, path.parent / beside):
        (name, log), *others = logs_of(given)[0].items()
        assert (name, len(log.items), log.few_shot, others) == ("mmlu", 6, 5, [])
    write([row(i) for i in range(2)], MMLU, file=f"out/samples_mmlu_a_{T}.jsonl", beside=beside)
    with pytest.raises(ValueError, match="has 2 of 3 evaluated items; to compare these: --allow-partial"):
        logs_of(path.parent)


def test_two_models_in_one_directory(write):
    """As `--output_path out/base.json` and `--output_path out/tuned.json` leave them."""
    later = T.replace("2024", "2025")
    path = write([row(0)], {"configs": {}}, file=f"out/samples_task_{T}.jsonl", beside=f"base_{T}.json")
    write([row(0, right=0.0)], {"configs": {}}, file=f"out/samples_task_{later}.jsonl", beside=f"tuned_{later}.json")
    with pytest.raises(ValueError, match="holds logs of 2 models: base, tuned; name one"):
        logs_of(path.parent)
    for name, right in ((f"base_{T}.json", 1.0), (f"tuned_{later}.json", 0.0)):
        assert logs_of(path.parent / name)[0]["task"].items[0].correct == right


def test_lost_lines_stay_as_items_without_a_score(write):
    """So that a gate sees them, whether one log was cut or both."""
    results = {"n-samples": {"task": {"original": 4, "effective": 4}}, "configs": {}}
    whole, cut = [row(i) for i in range(4)], [row(i) for i in range(2)]
    logs = []
    for name, rows in (("a", whole), ("b", cut), ("c", cut)):
        path = write(rows, results, file=f"{name}/samples_task_{T}.jsonl")
        found, notes = logs_of(path, allow_partial=True)
        assert any("has 2 of 4 evaluated items; the others count as not scored" in note for note in notes) == (
            rows is cut
        )
        logs.append(found)
    for pair in (logs[:2], logs[1:], logs[:2][::-1]):
        one, two = (own["task"].snapshot() for own in match(pair, LogOptions(allow_partial=True, note=str)))
        assert one.ids.tolist() == two.ids.tolist() == ["0", "1", "2", "3"]
        assert np.isnan(one.correct + two.correct).tolist() == [False, False, True, True]


def test_a_log_without_results_says_what_is_not_known(write):
    found, _ = logs_of(write([row(0)]))
    notes = []
    match([found, found], LogOptions(note=notes.append))
    assert f"whether lines are missing at the end of {found['task'].source} cannot be checked" in notes[-1]
    found, _ = logs_of(write([row(0)], {"n-samples": {"task": {"effective": 1}}}))
    notes.clear()
    match([found, found], LogOptions(note=notes.append))
    assert "cannot be checked" not in "".join(notes)


@pytest.mark.parametrize("packed", [False, True])
def test_files_of_0_4_0_to_0_4_2(tmp_path, packed):
    """One JSON array in <model>_<task>.jsonl, and results.json, as `lm_eval/__main__.py` of v0.4.2 writes them."""
    for name, right in (("base", 1.0), ("tuned", 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        for task in ("arc_easy", "arc_challenge"):
            text = json.dumps(old([row(i, right=right, target="0" if right else "1") for i in range(9)]), indent=2)
            file = folder / f"pretrained__org__{name}_{task}.jsonl"
            if packed:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                file.write_text(text)
    with pytest.raises(ValueError, match="the tasks differ"):
        match([logs_of(tmp_path / name)[0] for name in ("base", "tuned")], LogOptions(note=str))
    single = [logs_of(next((tmp_path / name).glob("*arc_easy*")))[0] for name in ("base", "tuned")]
    assert [len(own) for own in single] == [1, 1]
    for name in ("base", "tuned"):
        configs = {"arc_easy": {}, "arc_challenge": {}}
        results = {"results": {}, "configs": configs, "config": {"model_args": f"pretrained=org/{name}"}}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        (tmp_path / name / "broken.json").write_text("{")
    for name, right in (("base", 1.0), ("tuned", 0.0)):
        found, _ = logs_of(tmp_path / name)
        assert set(found) == {"arc_easy", "arc_challenge"}
        assert {item.correct for item in found["arc_easy"].items} == {right}
        assert {item.choice for item in found["arc_easy"].items} == {0}
        assert not found["arc_easy"].counted, "the results of these versions do not say how many"


def test_two_models_in_the_old_layout(tmp_path):
    for name in ("base", "tuned"):
        (tmp_path / f"pretrained__{name}_arc.jsonl").write_text(json.dumps(old([row(0)])))
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"configs": {"arc": {}}, "config": {"model_args": f"pretrained={name}"}})
        )
    with pytest.raises(ValueError, match="holds logs of 2 models: pretrained__base, pretrained__tuned"):
        logs_of(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
def test_packed_files_encodings_and_ends_of_lines(tmp_path, end, encoding, packed):
    raw = "".join(json.dumps(row(i, doc={"q": "é\u2028"}), ensure_ascii=False) + end for i in range(3)).encode(encoding)
    file = tmp_path / f"samples_task_{T}.jsonl{'.gz' if packed else ''}"
    file.write_bytes(gzip.compress(raw) if packed else raw)
    for given in (tmp_path, file):
        log = logs_of(given)[0]["task"]
        assert [item.id for item in log.items] == ["0", "1", "2"]
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cut off"):
        logs_of(file)


HOSTILE = {
    "a list": "[1]",
    "no sample": '{"doc_id": 1}',
    "deep nesting": '{"doc_id": 1, "doc": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "arguments that are a number": json.dumps(row(0) | {"arguments": 7}),
    "arguments that are numbers": json.dumps(row(0) | {"arguments": [1, 2]}),
    "no responses": json.dumps(row(0) | {"filtered_resps": None}),
    "metrics that are a number": json.dumps(row(0) | {"metrics": 5}),
    "metrics that are lists": json.dumps(row(0) | {"metrics": [["acc"]]}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_lines_that_are_no_samples_are_named(write, case):
    path = write([row(1)])
    path.write_text(path.read_text() + HOSTILE[case] + "\n")
    with pytest.raises(ValueError, match="line 2") as caught:
        logs_of(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("part", [None, 5, "x", [1], {"task": 5}, {"task": "x"}, {"task": [1]}])
def test_a_results_file_of_another_form(write, part):
    """Is read as far as it says something."""
    names = ("configs", "results", "n-samples", "n-shot", "group_subtasks")
    assert len(logs_of(write([row(0)], dict.fromkeys(names, part)))[0]) == 1
    assert set(logs_of(write([row(0)], part))[0]) == {"task"}


def test_a_damaged_results_file_is_named(write):
    path = write([row(0)], {})
    path.with_name(f"results_{T}.json").write_text("{")
    with pytest.raises(ValueError, match=f"results_{T}.json: not JSON"):
        logs_of(path)


def test_scores_that_are_no_numbers(read):
    log, notes = read([row(0, scores=("x", None, -3.0)), row(1)])
    assert [item.choice for item in log.items] == [-1, -1]
    assert "the option that 'acc' chose does not follow" in notes[0]
    log, _ = read([row(0, scores=("nan", -1.0, -3.0)), row(1)])
    assert [item.choice for item in log.items] == [-1, -1]


def test_a_directory_with_logs_of_several_kinds(write, tmp_path):
    write([row(0)])
    (tmp_path / "notes.csv").write_text("a,b\n")
    assert set(logs_of(tmp_path)[0]) == {"task"}, "what else lies there is not read"
    (tmp_path / "run.json").write_text(json.dumps({"version": 2, "status": "success", "eval": {}}))
    with pytest.raises(ValueError, match="has logs of lm-eval and inspect; give a path with logs of one tool"):
        logs_of(tmp_path)


def page(i, text, total, **more):
    """A line of a `loglikelihood_rolling` task, as lm-eval 0.4.13 writes it."""
    size, words = len(text.encode()), len(text.split())
    return {
        "doc_id": i,
        "doc": {"page": text},
        "target": text,
        "arguments": {"gen_args_0": {"arg_0": text}},
        "resps": [[str(total)]],
        "filtered_resps": [str(total)],
        "filter": "none",
        "metrics": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
        "doc_hash": f"d{i}",
        "prompt_hash": f"p{i}",
        "target_hash": f"p{i}",
        "word_perplexity": [total, words],
        "byte_perplexity": [total, size],
        "bits_per_byte": [total, size],
    } | more


def test_rolling_tasks_are_documents_in_bits_per_byte(read):
    text = "Señor, the tide keeps no hours."
    only_words = page(2, text, -40.0, metrics=["word_perplexity"])
    tidied = page(1, text, -40.0, bits_per_byte=[-40.0, 20], byte_perplexity=[-40.0, 20])
    broken = page(3, text, float("nan"))
    log, notes = read([page(0, text, -40.0), tidied, only_words, broken, page(4, "", 0.0)])
    bits = 40.0 / np.log(2)
    own = bits / len(text.encode())
    snapshot = log.snapshot()
    np.testing.assert_allclose(snapshot.bits_per_byte[:3], [own, bits / 20, own])
    assert np.isnan(snapshot.bits_per_byte[3:]).all() and np.isnan(snapshot.correct[3:]).all()
    assert snapshot.kind.tolist()[:3] == ["text"] * 3 and snapshot.ability.tolist()[:3] == ["text"] * 3
    assert snapshot.outcome.tolist() == ["correct"] * 3 + [None] * 2
    items = log.to_probe().items
    assert {item.kind for item in items} == {"text"} and items[0].text == text
    assert notes == [] and log.how["metric"] == "bits_per_byte"


def test_rolling_logs_of_other_documents_do_not_compare(tmp_path):
    logs = []
    for name, texts in (("a", ["One page.", "Another."]), ("b", ["One page.", "Changed."])):
        file = tmp_path / name / "samples_pages_2026-01-01T00-00-00.000000.jsonl"
        file.parent.mkdir()
        rows = [page(i, text, -9.0, doc_hash=text, prompt_hash=text) for i, text in enumerate(texts)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        logs.append(read_logs(file, LogOptions()))
    with pytest.raises(ValueError, match="document"):
        match(logs, LogOptions())
    notes = []
    one, _two = match(logs, LogOptions(allow_partial=True, note=notes.append))
    assert np.isnan(one["pages"].snapshot().bits_per_byte).tolist() == [False, True]
    assert any("pages: documents, compared in bits per byte" in note for note in notes)
