"""Rows of lm-eval that its logs of real tasks have, one kind a test; `integration/test_logs.py` has logs of lm-eval."""

import json
import time

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
