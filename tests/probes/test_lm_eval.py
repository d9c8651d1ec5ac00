"""Tasks of lm-eval as probes: right and wrong item by item and every accuracy are those of lm-eval's own run."""

import json
import logging
import math
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from forget_callback import Generation, MultipleChoice, Recall, load_probe, score_probe
from forget_callback.probes.items import in_variant
from forget_callback.probes.judging import judge
from forget_callback.probes.lm_eval import rules
from forget_callback.runs.store import Store
from tests.helpers import generators, greedy, teach

evaluator = pytest.importorskip("lm_eval.evaluator")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WORDS = ["a", "capital", "of", "France", "Rome", "is", "fox", "hill", "größe", "été", "東京", "and", "so"]
STOP, TOKENS = "\n", 10
METRIC = "metric_list: [{metric: %s, aggregation: mean, higher_is_better: true}]"
GENERATION = """output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{gold}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 10, do_sample: false}
"""
A_WORD = """filter_list:
  - {name: first, filter: [{function: regex, regex_pattern: "([A-Za-z]+)"}, {function: take_first}]}
  - {name: whole, filter: [{function: remove_whitespace}, {function: take_first}]}
"""
KINDS = {
    "choice": """output_type: multiple_choice
doc_to_text: "Question: {{prompt}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
description: "Choose well.\\n\\n"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
""",
    "schema": """output_type: multiple_choice
doc_to_text: "{{label}}"
doc_to_choice: "{{[prompt + ' ' + one, prompt + ' ' + two]}}"
doc_to_target: "was {{end}}"
"""
    + METRIC % "acc",
    "recall": 'output_type: loglikelihood\ndoc_to_text: "{{prompt}}"\ndoc_to_target: "{{said}}"\n'
    + "metric_list:\n  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
    + "  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    "written": GENERATION + A_WORD + METRIC % "exact_match",
}

CHOICE = KINDS["choice"]
ROLLING = 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{prompt}}"\nmetric_list:\n' + "".join(
    f"  - {{metric: {name}}}\n" for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
)
TIDIED = """
def target(doc):
    return doc["prompt"].replace(" @-@ ", "-")
def results(doc, results):
    size = len(doc["prompt"].encode())
    names = "word_perplexity", "byte_perplexity", "bits_per_byte"
    return dict.fromkeys(names, (results[0], size))
"""
WRITTEN = GENERATION + METRIC % "exact_match"


def write_task(folder, name, text, docs, examples=()):
    """A YAML task with its data."""
    files = {"test": docs, **({"train": examples} if examples else {})}
    for split, rows in files.items():
        (folder / f"{name}-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    paths = ", ".join(f"{split}: {folder / f'{name}-{split}.jsonl'}" for split in files)
    train = "training_split: train\nfewshot_split: train\n" if examples else ""
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ntest_split: test\n{train}"
        f"dataset_kwargs: {{cache_dir: {folder / 'cache'}, data_files: {{{paths}}}}}\n{text}\n",
        encoding="utf-8",
    )


def run_lm_eval(hflm, folder, tasks, **settings):
    """lm-eval's own results and samples."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "add_env_info", lambda storage: None)  # asks pip for a list of everything
        return evaluator.simple_evaluate(
            model=hflm, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0, **settings
        )


def assert_lm_evals(snapshot, results, task, metric, chosen="none"):
    """Every item of a task is right where lm-eval says so, both occur, and the accuracy is its number."""
    theirs = {
        f"{task}/{row['doc_id']}": float(row[metric]) for row in results["samples"][task] if row["filter"] == chosen
    }
    ours = {key: right for key, right in zip(snapshot.ids, snapshot.correct) if key.startswith(f"{task}/")}
    assert ours == theirs and len(ours) > 0
    assert set(ours.values()) == {0.0, 1.0}
    if len(ours) == len(snapshot.ids):
        assert snapshot.accuracy == results["results"][task][f"{metric},{chosen}"]


@pytest.fixture(scope="module")
def taught(make_model, make_tokenizer):
    """A model that has learned to write words."""
    tokenizer, rng = make_tokenizer(), random.Random(0)
    lines = [(f"Say {a} and", f" {rng.choice(WORDS)} {b}\n") for a in WORDS for b in rng.sample(WORDS, 2)]
    return SimpleNamespace(model=teach(make_model(), tokenizer, lines, steps=30), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def make_hflm():
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    return lambda asked: huggingface.HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=16)


def documents(taught, n, seed=0):
    """Documents for every kind of task; of texts half are what the model itself says."""
    rng = random.Random(seed)
    docs = []
    for i in range(n):
        prompt = "Say " + " ".join(rng.choices(WORDS, k=3)) + f" {i} and"
        said = taught.tokenizer.decode(greedy(taught.model, taught.tokenizer.encode(prompt), TOKENS))
        word = re.search("[A-Za-z]+", said.split(STOP)[0])
        two = " ".join(said.split(" ")[:2]).split(STOP)[0]
        mine = rng.random() < 0.5
        choices = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(4)]
        docs.append(
            {
                "prompt": prompt,
                "choices": [f"{choice} {k}" for k, choice in enumerate(choices)],
                "gold": rng.randrange(4),
                "label": rng.randrange(2),
                "one": "größe",
                "two": rng.choice(WORDS[:8]),
                "end": "because cold",
                "said": two if mine and two.strip() else " " + rng.choice(WORDS),
                "word": word[0] if word and mine else rng.choice(WORDS),
            }
        )
    return docs


@pytest.fixture(scope="module")
def ran(taught, make_hflm, tmp_path_factory):
    """A folder of tasks, and what lm-eval says of each."""
    folder = tmp_path_factory.mktemp("tasks")
    docs, examples = documents(taught, 60), documents(taught, 8, seed=1)
    for kind, text in KINDS.items():
        rows = [{**doc, "gold": doc["word"]} for doc in docs] if kind == "written" else docs
        write_task(folder, f"tiny_{kind}", text, rows)
    write_task(folder, "tiny_shots", KINDS["choice"] + "num_fewshot: 2", docs, examples)
    write_task(folder, "tiny_free", KINDS["schema"], docs, examples)
    for half, rows in (("a", docs[:25]), ("b", docs[25:])):
        write_task(folder, f"tiny_{half}", KINDS["choice"], rows)
    both = "group: tiny_both\ntask: [tiny_a, {group: tiny_inner, task: [tiny_b]}]\n"
    aggregate = "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    (folder / "both.yaml").write_text(both + aggregate)
    names = [*(f"tiny_{kind}" for kind in KINDS), "tiny_shots", "tiny_both"]
    hflm = make_hflm(taught)
    results = run_lm_eval(hflm, folder, names)
    free = run_lm_eval(hflm, folder, ["tiny_free"], num_fewshot=3, fewshot_random_seed=7)
    return SimpleNamespace(folder=folder, results=results, free=free)


@pytest.fixture
def load(ran):
    """load(name, **options) -> the probe of one of `ran`'s tasks."""

    def load(name, **options):
        settings = {"include_path": ran.folder, **options}
        return load_probe(f"lm-eval:{name}?" + "&".join(f"{key}={value}" for key, value in settings.items()))

    return load


@pytest.mark.parametrize(
    "name, kind, options, metric, chosen",
    [
        ("tiny_choice", MultipleChoice, {}, "acc", "none"),
        ("tiny_choice", MultipleChoice, {"metric": "acc_norm"}, "acc_norm", "none"),
        ("tiny_choice", MultipleChoice, {"normalization": "length"}, "acc_norm", "none"),
        ("tiny_choice", MultipleChoice, {"metric": "acc_bytes"}, "acc_bytes", "none"),
        ("tiny_shots", MultipleChoice, {"metric": "acc"}, "acc", "none"),
        ("tiny_shots", MultipleChoice, {"metric": "acc_norm"}, "acc_norm", "none"),
        ("tiny_schema", MultipleChoice, {}, "acc", "none"),
        ("tiny_recall", Recall, {}, "acc", "none"),
        ("tiny_written", Generation, {}, "exact_match", "first"),
    ],
)
def test_right_and_wrong_are_lm_evals(taught, ran, load, name, kind, options, metric, chosen):
    probe = load(name, **options)
    assert probe.name == name and len(probe) == 60 and {type(item) for item in probe.items} == {kind}
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    assert_lm_evals(snapshot, ran.results, name, metric, chosen)


def test_examples_and_their_seed_are_options(taught, ran, load):
    snapshot = score_probe(taught.model, taught.tokenizer, load("tiny_free", num_fewshot=3, fewshot_seed=7))
    assert_lm_evals(snapshot, ran.free, "tiny_free", "acc")
    assert load("tiny_free", num_fewshot=3, fewshot_seed=8).fingerprint != snapshot.fingerprint


def test_examples_that_a_task_forbids_are_not_shown(load, caplog, ran, taught):
    write_task(ran.folder, "tiny_none", KINDS["choice"] + "num_fewshot: 0", documents(taught, 3))
    assert load("tiny_none", num_fewshot=2).items == load("tiny_none").items
    assert "sets num_fewshot to 0" in caplog.text


def test_another_filter_judges_otherwise(ran, load):
    first, whole = load("tiny_written"), load("tiny_written", filter="whole")
    assert first.fingerprint != whole.fingerprint
    theirs = {row["doc_id"]: row for row in ran.results["samples"]["tiny_written"] if row["filter"] == "whole"}
    for i, item in enumerate(whole.items):
        assert (judge(item, theirs[i]["resps"][0][0], finished=True).outcome == "correct") == theirs[i]["exact_match"]


def test_a_group_keeps_its_tasks_as_categories(taught, ran, load):
    probe = load("tiny_both")
    assert {item.category for item in probe.items} == {"tiny_a", "tiny_b"} and len(probe) == 60
    assert probe.name == "tiny_both" and set(probe.ids) >= {"tiny_a/0", "tiny_a/24", "tiny_b/0", "tiny_b/34"}
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    for task in ("tiny_a", "tiny_b"):
        assert_lm_evals(snapshot, ran.results, task, "acc")
    assert snapshot.accuracy == ran.results["results"]["tiny_both"]["acc,none"]


@pytest.mark.in_turn(2)
@pytest.mark.skipif(not DATA.is_dir(), reason=f"real items are not at hand: {DATA} is missing")
def test_real_items(make_model, make_tokenizer, make_hflm, tmp_path):
    """300 items of each type of task, from files of real benchmarks."""
    rows = {
        path.stem: list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) for path in DATA.glob("*.jsonl")
    }
    choice = [
        {**r, "choices": [c.strip() for c in r["choices"]], "gold": r["answer"]} for r in rows["commonsense_qa"][:300]
    ]
    recall = [{"prompt": row["prompt"], "said": row["answer"]} for row in rows["jeopardy"][:300]]
    written = [
        {"prompt": row["prompt"], "gold": str(row["answer"]).strip()} for row in (*rows["gsm8k"], *rows["jeopardy"])
    ][:300]
    tokenizer = make_tokenizer()
    lines = [(doc["prompt"], doc["said"] + "\n") for doc in sorted(recall, key=lambda doc: len(doc["prompt"]))[:8]]
    lines += [(doc["prompt"], f" {doc['gold']}\n") for doc in sorted(written, key=lambda doc: len(doc["prompt"]))[:8]]
    asked = SimpleNamespace(
        model=teach(make_model(max_position_embeddings=1024), tokenizer, lines), tokenizer=tokenizer
    )
    number = 'filter_list: [{name: answer, filter: [{function: regex, regex_pattern: "(\\\\S.*)"}, take_first]}]\n'
    number = number.replace("take_first", "{function: take_first}")
    write_task(tmp_path, "real_choice", KINDS["choice"], choice)
    write_task(tmp_path, "real_recall", KINDS["recall"], recall)
    write_task(tmp_path, "real_written", GENERATION + number + METRIC % "exact_match", written)
    results = run_lm_eval(make_hflm(asked), tmp_path, ["real_choice", "real_recall", "real_written"])
    for name, metric, chosen in (
        ("real_choice", "acc", "none"),
        ("real_choice", "acc_norm", "none"),
        ("real_recall", "acc", "none"),
        ("real_written", "exact_match", "answer"),
    ):
        probe = load_probe(f"lm-eval:{name}?include_path={tmp_path}&metric={metric}")
        assert len(probe) == 300
        assert_lm_evals(score_probe(asked.model, tokenizer, probe), results, name, metric, chosen)


def test_the_outcomes_of_a_written_answer(load, ran):
    item = load("tiny_written").items[0]
    gold = item.answer[0]
    for text, finished, outcome in [
        (f" {gold}", True, "correct"),
        (f" {gold}", False, "correct"),
        (" zzz", True, "wrong"),
        (" zzz", False, "truncated"),
        (" 12", True, "unparsed"),
        ("", True, "unparsed"),
        (f"<think>zzz</think> {gold}", True, "correct"),
        (f"<think>{gold}", False, "truncated"),
    ]:
        assert judge(item, text, finished=finished).outcome == outcome, text


def test_a_process_that_never_loaded_the_task_judges_without_its_data(load, ran, taught, monkeypatch):
    docs = [{**doc, "gold": doc["word"]} for doc in documents(taught, 3)]
    write_task(ran.folder, "tiny_away", KINDS["written"], docs)
    item = load("tiny_away").items[0]
    (ran.folder / "tiny_away-test.jsonl").unlink()
    monkeypatch.setattr(rules, "_KNOWN", {})
    assert judge(item, f" {item.answer[0]}", finished=True).outcome == "correct"
    assert judge(item, " zzz", finished=True).outcome == "wrong"
    monkeypatch.setattr(rules, "_KNOWN", {})
    path = ran.folder / "tiny_away.yaml"
    path.write_text(path.read_text().replace("[A-Za-z]", "[a-z]"))
    with pytest.raises(ValueError, match="not what it was when the probe was made"):
        judge(item, " zzz", finished=True)


def test_several_right_answers_stay_several(tmp_path, monkeypatch):
    text = WRITTEN.replace("{{gold}}", "{{[gold, other]}}")
    write_task(tmp_path, "tiny_either", text, [{"prompt": "Say", "gold": "x", "other": "y"}])
    item = load_probe(f"lm-eval:tiny_either?include_path={tmp_path}").items[0]
    assert item.answer == ("x", "y")
    for known in (rules._KNOWN, {}):
        monkeypatch.setattr(rules, "_KNOWN", known)
        found = [judge(item, said, finished=True).outcome for said in ("x", "y", "z")]
        assert found == ["correct", "correct", "wrong"]


def test_two_tasks_of_one_name_keep_their_rules(tmp_path):
    items = []
    for pattern in ("[a-z]+", "[0-9]+"):
        folder = tmp_path / pattern[1]
        folder.mkdir()
        text = GENERATION + A_WORD.replace("[A-Za-z]+", pattern) + METRIC % "exact_match"
        write_task(folder, "tiny_same", text, [{"prompt": "Say", "gold": "7"}])
        items += load_probe(f"lm-eval:tiny_same?include_path={folder}").items
    assert [judge(item, "x 7", finished=True).outcome for item in items] == ["wrong", "correct"]


def test_lm_evals_own_tasks_judge_without_their_data():
    doc = {"question": "?", "answer": "2 + 2 is 4\n#### 4"}
    for chosen, text, outcome in [
        ("strict-match", "so #### 4", "correct"),
        ("strict-match", "it is 4", "unparsed"),
        ("flexible-extract", "it is 4", "correct"),
        ("flexible-extract", "it is 5", "wrong"),
    ]:
        item = Generation("a", "?", "4", "task", task=f"lm-eval:gsm8k?filter={chosen}", doc=doc)
        assert judge(item, text, finished=True).outcome == outcome


def test_ifeval_judges_without_its_data():
    pytest.importorskip("langdetect")
    pytest.importorskip("immutabledict")
    doc = {"key": 1, "prompt": "?", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    item = Generation("a", "?", "see doc", "task", task="lm-eval:ifeval", doc=doc)
    assert judge(item, "none here", finished=True).outcome == "correct"
    assert judge(item, "one, here", finished=True).outcome == "wrong"


def test_loading_and_judging_leave_no_trace(tmp_path):
    (tmp_path / "noisy.py").write_text(
        "import random, numpy as np, torch\nrandom.seed(1)\nnp.random.seed(1)\ntorch.manual_seed(1)\n"
        "def judge(doc, results):\n    torch.manual_seed(2)\n    random.seed(2)\n"
        "    return {'mine': results[0] == 'x'}\n"
    )
    text = GENERATION + "process_results: !function noisy.judge\n" + METRIC % "mine"
    write_task(tmp_path, "tiny_noisy", text, [{"prompt": "Say", "gold": "x"}])
    root = logging.getLogger()
    before = generators(), list(root.handlers), root.level
    probe = load_probe(f"lm-eval:tiny_noisy?include_path={tmp_path}")
    assert judge(probe.items[0], "x", finished=True).outcome == "correct"
    assert (generators(), list(root.handlers), root.level) == before


def test_a_probe_comes_back_from_a_store(load, tmp_path):
    probes = [load(f"tiny_{kind}") for kind in KINDS]
    Store(tmp_path).begin(probes)
    kept = Store(tmp_path).probes()
    assert [probe.fingerprint for probe in kept] == [probe.fingerprint for probe in probes]


def test_the_command_line_shows_a_task(run_cli, ran):
    status, out, _ = run_cli("probes", f"lm-eval:tiny_choice?include_path={ran.folder}", "--show", 1)
    assert status == 0 and "tiny_choice" in out and "60" in out
    spec = "lm-eval:tiny_choice?metric=acc_norm"
    status, out, _ = run_cli("probes", spec, "--include-path", ran.folder, "--limit", 10)
    assert status == 0 and "tiny_choice: 10 items" in out
    status, _, err = run_cli("probes", f"lm-eval:tiny_choice?include_path={ran.folder}&shots=1")
    assert status == 2 and "num_fewshot" in err


def test_items_that_are_not_one_right_choice_are_left_out(tmp_path, caplog):
    rows = [
        {"prompt": "after", "choices": ["a", "b", "a"], "gold": 0},
        {"prompt": "before", "choices": ["a", "b", "a"], "gold": 2},
        {"prompt": "outside", "choices": ["a", "b", "c"], "gold": 3},
    ]
    write_task(tmp_path, "tiny_odd", KINDS["choice"], rows)
    probe = load_probe(f"lm-eval:tiny_odd?include_path={tmp_path}")
    assert probe.ids == ("tiny_odd/0",) and probe.items[0].choices == (" a", " b")
    assert "2 of 3 items are left out" in caplog.text
    assert "tiny_odd/1" in caplog.text and "tiny_odd/2" in caplog.text


def test_what_differs_between_contexts_begins_with_a_word(load):
    for item in load("tiny_schema").items:
        assert item.prompt.endswith(" and ") and item.contexts[0] == "größe"
        assert set(item.choices) == {" was because cold"}


def test_a_task_that_samples_says_how(tmp_path):
    text = GENERATION.replace("do_sample: false", "do_sample: true, temperature: 0.6, top_p: 0.9")
    write_task(tmp_path, "tiny_drawn", text + METRIC % "exact_match", [{"prompt": "Say", "gold": "x"}])
    probe = load_probe(f"lm-eval:tiny_drawn?include_path={tmp_path}")
    assert (probe.temperature, probe.top_p) == (0.6, 0.9)


@pytest.mark.parametrize(
    "text, options, problem",
    [
        (CHOICE, "&metric=acc_mutual_info", "metric 'acc_mutual_info' is not known for multiple choice"),
        (CHOICE, "&filter=none", "filter='none' is for generate_until"),
        (CHOICE, "&shots=3", "unknown option 'shots'; known are num_fewshot"),
        (CHOICE, "&num_fewshot=-1", "num_fewshot must be a whole number of 0 or more, got '-1'"),
        (CHOICE + "process_results: !function own.judge", "", "has rules of its own"),
        (CHOICE.replace("doc_to_target: gold", 'doc_to_target: "{{[0, 1]}}"'), "", "several right choices"),
        (CHOICE + "doc_to_image: gold", "", "shows images"),
        (KINDS["recall"], "&metric=perplexity", "less 'perplexity' is better"),
        (ROLLING, "&metric=word_perplexity", "metric='word_perplexity' does not go with documents"),
        (ROLLING, "&filter=none", "filter='none' does not go with documents"),
        (WRITTEN, "&metric=f1", "has no metric 'f1', but exact_match"),
        (WRITTEN, "&filter=strict", "has no filter 'strict', but none"),
        (WRITTEN + "\nrepeats: 5", "", "5 answers to a question together"),
        (WRITTEN + "\nunsafe_code: true", "", "runs the code that a model writes"),
        (WRITTEN.replace("do_sample: false", "num_beams: 4"), "", "num_beams=4 is not known here"),
        (WRITTEN.replace("do_sample: false", "do_sample: true"), "", "samples without a temperature"),
        (GENERATION + METRIC % "bleu", "", "metric 'bleu' .* neither right .1. nor wrong .0."),
        (GENERATION + "process_results: !function own.part\n" + METRIC % "part", "", "gives 0.5, neither right"),
        (GENERATION + "process_results: !function own.judge\n" + METRIC % "part", "", "KeyError"),
    ],
)
def test_what_cannot_be_asked_item_by_item_is_refused(tmp_path, text, options, problem):
    (tmp_path / "own.py").write_text(
        "def judge(doc, results):\n    return {'acc': 1.0}\ndef part(doc, results):\n    return {'part': 0.5}\n"
    )
    rows = [{"prompt": "Say", "said": " so", "choices": ["a", "b", "c", "d"], "gold": 1}] * 2
    write_task(tmp_path, "tiny_bad", text, rows)
    with pytest.raises(ValueError, match=problem) as refused:
        load_probe(f"lm-eval:tiny_bad?include_path={tmp_path}{options}")
    assert "tiny_bad" in str(refused.value)


def test_missing_things_are_named(tmp_path, monkeypatch):
    write_task(tmp_path, "tiny_lost", CHOICE, [{"prompt": "Say", "choices": ["a", "b"], "gold": 1}])
    (tmp_path / "tiny_lost-test.jsonl").unlink()
    with pytest.raises(OSError, match=r"'tiny_lost' needs a data set .*tiny_lost-test.jsonl"):
        load_probe(f"lm-eval:tiny_lost?include_path={tmp_path}")
    with pytest.raises(OSError, match=r"'gsm8k' needs a data set .*openai/gsm8k"):
        load_probe("lm-eval:gsm8k")
    (tmp_path / "needy.py").write_text("import package_that_nobody_has\n")
    write_task(tmp_path, "tiny_needy", CHOICE + "process_docs: !function needy.docs", [{"prompt": "x"}])
    with pytest.raises(ImportError, match=r"'tiny_needy' needs a package that is missing: .*package_that_nobody_has"):
        load_probe(f"lm-eval:tiny_needy?include_path={tmp_path}")
    with pytest.raises(ValueError, match="include_path must be a directory"):
        load_probe(f"lm-eval:tiny?include_path={tmp_path}/none")
    with pytest.raises(ValueError, match=r"expected lm-eval:TASK\?metric"):
        judge(Generation("a", "?", "x", "task", task="quiz:mine", doc={}), "x", finished=True)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"^lm-eval:TASK needs lm-eval .*: pip install 'forget-callback\[lm-eval\]'$"):
        load_probe("lm-eval:arc_easy")


def test_several_kinds_of_sampling_are_refused(tmp_path):
    for temperature in (0.5, 0.6):
        text = GENERATION.replace("do_sample: false", f"temperature: {temperature}") + METRIC % "exact_match"
        write_task(tmp_path, f"tiny_{temperature}", text, [{"prompt": "Say", "gold": "x"}])
    (tmp_path / "group.yaml").write_text("group: tiny_drawings\ntask: [tiny_0.5, tiny_0.6]\n")
    with pytest.raises(ValueError, match="sample in several ways"):
        load_probe(f"lm-eval:tiny_drawings?include_path={tmp_path}")


EXAM = "Here is an exam question.\n\n"
MMLU = """output_type: multiple_choice
doc_to_text: "{{question}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\nD. {{choices[3]}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
description: "The following are questions.\\n\\n"
fewshot_config: {sampler: first_n}
num_fewshot: 2
"""
QUIZ = [
    {
        "question": f"What is {i} + {i}?",
        "choices": [str(2 * i + j) for j in (0, 1, 2, 3)],
        "answer": 0,
        "end": f"{i} is",
    }
    for i in range(1, 9)
]


def shown(item, number=2):
    """The text behind each letter that a prompt lists last, and the right one."""
    asked = in_variant(item, number)
    listed = dict(re.findall(r"^([A-D])\. (.*)$", asked.prompt, re.MULTILINE)[-4:])
    return listed, listed[asked.choices[asked.answer].strip()]


def test_examples_are_asked_in_the_frame_of_the_question_and_options_in_another_order(tmp_path):
    write_task(tmp_path, "tiny_mmlu", MMLU + METRIC % "acc", QUIZ[2:], QUIZ[:2])
    probe = load_probe(f"lm-eval:tiny_mmlu?include_path={tmp_path}")
    for item in probe.items:
        (variant,) = item.variants
        listed, right = shown(item)
        assert right == shown(item, 1)[1] and variant.order[0] != 0 and set(listed) == set("ABCD")
        assert variant.choices == item.choices == (" A", " B", " C", " D")
        assert variant.prompt.startswith(f"The following are questions.\n\n{EXAM}What is 1 + 1?\nA. 2\n")
        assert variant.prompt.count(EXAM) == 3 and variant.prompt.count("\n\nThe answer is A\n\n") == 2
        assert variant.prompt.endswith("\n\nThe answer is") and "Answer:" not in variant.prompt
    plain = load_probe(f"lm-eval:tiny_mmlu?include_path={tmp_path}&variants=off")
    assert plain.fingerprint == probe.fingerprint and plain.n_variants == 1
    one = load_probe(f"lm-eval:tiny_mmlu?include_path={tmp_path}&num_fewshot=0").items[0]
    assert one.variants[0].prompt.startswith(f"The following are questions.\n\n{EXAM}What is 3 + 3?\n")


@pytest.mark.parametrize(
    "text, shots, prompts",
    [
        (
            '"Question: {{question}}\\nAnswer:"',
            1,
            [f"{EXAM}What is 1 + 1?\n\nThe answer is 2\n\n{EXAM}{{}}\n\nThe answer is"],
        ),
        ('"Q: {{question}}\\nA:"', 0, [f"{EXAM}{{}}\n\nThe answer is"]),
        ("question", 0, ["Question: {}\nAnswer:", f"{EXAM}{{}}\n\nThe answer is"]),
        ("question", 1, [f"{EXAM}What is 1 + 1? 2\n\n{{}}\n\nThe answer is"]),
        ('"Frage: {{question}}\\nAntwort:"', 0, [f"{EXAM}Frage: {{}}\nAntwort: The answer is"]),
    ],
)
def test_frames_of_tasks_and_what_has_none_is_said(tmp_path, caplog, text, shots, prompts):
    task = f"output_type: multiple_choice\ndoc_to_text: {text}\ndoc_to_choice: choices\ndoc_to_target: answer\n"
    task += f"fewshot_config: {{sampler: first_n}}\nnum_fewshot: {shots}\n" + METRIC % "acc"
    write_task(tmp_path, "tiny_frame", task, QUIZ[2:], QUIZ[:1])
    probe = load_probe(f"lm-eval:tiny_frame?include_path={tmp_path}")
    weak = (shots and text == "question") or "Frage" in text
    for item, doc in zip(probe.items, QUIZ[2:]):
        assert [v.prompt for v in item.variants] == [prompt.replace("{}", doc["question"]) for prompt in prompts]
        assert {v.weak for v in item.variants} == {bool(weak)}
        assert in_variant(item, 2).choices == item.choices and in_variant(item, 2).answer == item.answer
    assert ("6 only words around the first" in caplog.text) == bool(weak)


def test_questions_about_one_passage_are_a_cluster(tmp_path):
    text = '"{{passage}}\\nQuestion: {{question}}\\nAnswer:"\ndoc_to_choice: choices\ndoc_to_target: answer\n'
    rows = [{**doc, "passage": f"Story {i // 2}."} for i, doc in enumerate(QUIZ[:5])]
    write_task(tmp_path, "tiny_told", f"output_type: multiple_choice\ndoc_to_text: {text}" + METRIC % "acc", rows)
    items = load_probe(f"lm-eval:tiny_told?include_path={tmp_path}").items
    clusters = [item.cluster for item in items]
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3] and clusters[4] == ""
    assert clusters[0].startswith("tiny_told/")
    assert items[0].variants[0].prompt == f"Story 0.\n\n{EXAM}What is 1 + 1?\n\nThe answer is"


TEMPLATES = {
    "prompt_robustness": [
        {"prompt": "{question}{options}\nSay: The best answer is X.", "options_format": "\n{letter}: {option}"},
        {"prompt": "Reply with one letter.\n{question}{options}", "options_format": "\n{letter}: {option}"},
        {"prompt": "Question: {question}{options}\nThe best answer is", "options_format": "\n{letter}: {option}"},
    ]
}
SCORE = """from functools import partial
from lm_eval.tasks.score import utils
from lm_eval.tasks.score.agi_eval import utils_agieval as theirs
def more(doc, i):
    return {"question_id": i, "answer_index": doc["answer"], "options": doc["choices"]}
def numbered(docs):
    return docs.map(more, with_indices=True)
docs = partial(utils.process_docs_add_prompts, templates_key="prompt_robustness", template_file_path=r"%s",
               dataset_specific_preprocess=numbered)
ask, judge = theirs.agi_eval_robustness_doc_to_text, theirs.prompt_robustness_process_results
accuracy = theirs.per_prompt_accuracy_0
"""


def test_the_templates_of_score_tasks_are_the_prompts_of_one_item(tmp_path):
    (tmp_path / "prompt_templates.json").write_text(json.dumps(TEMPLATES))
    (tmp_path / "tiny_score.py").write_text(SCORE % (tmp_path / "prompt_templates.json"))
    text = (
        "output_type: generate_until\nprocess_docs: !function tiny_score.docs\ndoc_to_text: !function tiny_score.ask\n"
    )
    text += "doc_to_target: answer\nprocess_results: !function tiny_score.judge\ngeneration_kwargs: {until: []}\n"
    text += "metric_list: [{metric: 0_accuracy, aggregation: !function tiny_score.accuracy, higher_is_better: true}]"
    write_task(tmp_path, "tiny_score", text, QUIZ[:3])
    probe = load_probe(f"lm-eval:tiny_score?include_path={tmp_path}")
    assert len(probe) == 3 and probe.n_variants == 3 and probe.ids == ("tiny_score/0", "tiny_score/3", "tiny_score/6")
    item = probe.items[1]
    options = "\nA: 4\nB: 5\nC: 6\nD: 7"
    assert item.prompt == f"What is 2 + 2?{options}\nSay: The best answer is X."
    assert [(v.prompt, v.chat) for v in item.variants] == [
        (f"Reply with one letter.\nWhat is 2 + 2?{options}", False),
        (f"Question: What is 2 + 2?{options}\nThe best answer is", None),
    ]
    for number in (1, 2, 3):
        asked = in_variant(item, number)
        assert judge(asked, "It is 4. The best answer is A.", finished=True).outcome == "correct"
        assert judge(asked, "The best answer is B", finished=True).outcome == "wrong"
    assert load_probe(f"lm-eval:tiny_score?include_path={tmp_path}&variants=2").n_variants == 2


@pytest.mark.parametrize("tidied", [False, True])
def test_rolling_tasks_are_documents_in_lm_evals_own_bits_per_byte(tmp_path, taught, make_hflm, tidied):
    """As wikitext does, a task may tidy its pages up, and divide by the bytes that they had before."""
    docs = [{"prompt": "Say " + " ".join(WORDS[i:] + WORDS[:i]) * (1 + i % 5) + " @-@ größe"} for i in range(12)]
    (tmp_path / "own.py").write_text(TIDIED, encoding="utf-8")
    text = ROLLING
    if tidied:
        text = text.replace('"{{prompt}}"', "!function own.target") + "process_results: !function own.results\n"
    write_task(tmp_path, "tiny_pages", text, [*docs, {"prompt": " "}])
    probe = load_probe(f"lm-eval:tiny_pages?include_path={tmp_path}")
    assert probe.name == "tiny_pages" and probe.n_variants == 1
    assert [item.kind for item in probe.items] == ["text"] * 12, "an empty document is left out"
    assert ("@-@" in probe.items[0].text) != tidied
    snapshot = score_probe(taught.model, taught.tokenizer, probe)
    results = run_lm_eval(make_hflm(taught), tmp_path, ["tiny_pages"])
    rows = {f"tiny_pages/{row['doc_id']}": row["bits_per_byte"] for row in results["samples"]["tiny_pages"]}
    theirs = [-total / math.log(2) / size for total, size in map(rows.__getitem__, snapshot.ids)]
    np.testing.assert_allclose(snapshot.bits_per_byte, theirs, atol=1e-5, rtol=0)
    sizes = [item.n_bytes for item in probe.items]
    mean = float(np.average(snapshot.bits_per_byte, weights=sizes))
    if not tidied:  # lm-eval's own mean counts the empty document's byte as well
        assert mean == pytest.approx(results["results"]["tiny_pages"]["bits_per_byte,none"], abs=0.05)
