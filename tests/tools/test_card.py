"""The card: the user's part stays byte for byte, ours is replaced, every number is that of `compare`, no text leaks."""

import hashlib
import re
from dataclasses import replace
from importlib import metadata

import datasets
import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from markdown_it import MarkdownIt
from pyarrow import parquet

from forget_callback import MultipleChoice, Probe, Recall, Snapshot, Store, compare, dump_items, load_probe
from forget_callback.runs.manifest import RunState
from forget_callback.runs.training import Training
from forget_callback.tools.card import passport, results, section
from forget_callback.tools.card_commands import spec_of
from forget_callback.tools.card_dataset import write_dataset
from forget_callback.tools.model_card import SOURCE, merged
from tests.recorded import make_probe, make_run, make_snapshots

CARD = """\
---
# The licence of the base model
license: apache-2.0   # as upstream
tags: [sft, 'quiz']
model-index:   # measured by hand
- name: mine
  results:
  - task: {type: text-generation}
    dataset:
      name: "A benchmark"
      type: bench
    metrics:
    - type: knowledge_lost   # theirs has the same name
      value: 0.50
    source: {name: someone, url: "https://example.org"}
# after it
language: en
date: 2024-01-01
---

# A model

- text  \n
"""
RESULTS = CARD[CARD.index("  - task") : CARD.index("# after")]
PLAIN = re.sub(r"model-index:.*?(?=# after)", "", CARD, flags=re.DOTALL)
OTHERS = {
    "empty": "",
    "no metadata": "# A model",
    "metadata of no line": "---\n---\n# A model\n",
    "plain": PLAIN,
    "with results": CARD,
    "indented": "---\n  a: 1\n  b: two # c\n---\nx\n",
    "results indented": re.sub(
        r"(?<=results:\n)(.*?)(?=# after)", lambda m: re.sub("(?m)^", "  ", m[1]), CARD, flags=re.DOTALL
    ),
    "blank line before the end": "---\na: 1\n\n---\nx",
    "last line": CARD.replace("# after it\nlanguage: en\ndate: 2024-01-01\n", ""),
    "a dash of its own": "---\nmodel-index:\n  -\n    name: m # n\n    results:\n      -\n"
    + re.sub("(?m)^(  - |    )", "        ", RESULTS)
    + "        # end\na: 1\n---\n",
    "the name last": "---\nmodel-index:\n- results:\n" + RESULTS + "  # end\n  name: m\na: 1\n---\n",
    "text in the last value": CARD.replace(
        '"https://example.org"}', '"https://example.org"}\n    more: >\n      a\n\n      b\n'
    ),
    "a literal at the end": "---\na: |\n  text\n  - more\n---\nx",
}


def result(value, probe="p"):
    return EvalResult(
        task_type="text-generation", dataset_type=probe, dataset_name=probe, metric_type="knowledge_lost",
        metric_value=value, metric_args={"low": 0.0, "high": 0.2}, source_name=SOURCE, source_url="https://x.org",
    )  # fmt: skip


def require_kept(card, text):
    """That every line of the card stands in the text, byte for byte and in this order."""
    place = 0
    for line in card.splitlines(keepends=True):
        found = re.compile("(?:^|(?<=\n))" + re.escape(line)).search(text, place)
        assert found, (line, text[place:])
        place = found.end()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", OTHERS)
def test_all_but_our_part_stays_byte_for_byte(name, newline):
    card = OTHERS[name].replace("\n", newline)
    once = merged(card, "## Ours\n\ntext", [result(0.1)], name="me")
    assert once.notes == ()
    require_kept(card, once.text)
    assert ("\r\n" in once.text) == (newline in card and newline == "\r\n")
    assert bool(re.search("(?<!\r)\n", once.text)) != ("\r\n" in once.text)
    read = ModelCard(once.text)
    front = re.match(r"\s*---\r?\n(.*?\r?\n?)---", card, re.DOTALL)
    data = (yaml.safe_load(front[1]) if front else None) or {}
    assert {name: read.data.get(name) for name in data if name != "model-index"} == {
        name: value for name, value in data.items() if name != "model-index"
    }
    mine = [one for one in read.data.eval_results if one.source_name == SOURCE]
    assert mine == [result(0.1)]
    assert len(read.data.eval_results) == 1 + ("model-index" in card)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", OTHERS)
def test_the_next_run_replaces_our_part(name, newline):
    card = OTHERS[name].replace("\n", newline)
    first = merged(card, "## Ours", [result(0.1)], name="me").text
    more = merged(first, "## Other\n\nlonger", [result(0.2), result(0.3, "q")], name="me").text
    assert more.count("card: begin") == more.count("card: end") == more.count("## Other") == 1 and "## Ours" not in more
    assert [r.metric_value for r in ModelCard(more).data.eval_results if r.source_name == SOURCE] == [0.2, 0.3]
    assert merged(more, "## Ours", [result(0.1)], name="me").text == first


def test_a_section_that_was_moved_is_replaced_where_it_is():
    text = merged("# A\n", "## Ours", [result(0.1)], name="me").text
    ours = text[text.index("<!-- forget") :]
    moved = text.replace(ours, "") + ours + "\n# After\n"
    again = merged(moved, "## Theirs", [result(0.1)], name="me").text
    assert again == moved.replace("## Ours", "## Theirs")


PAIR = "<!-- forget-callback card: begin -->\nmine\n<!-- forget-callback card: end -->"
CODE = {
    "a fence": f"```markdown\n{PAIR}\n```\n",
    "tildes, with backticks inside": f"~~~~\n```\n{PAIR}\n~~~\n```\n~~~~ \n",
    "a longer fence": f"  `````md\n{PAIR}\n```\n{PAIR}\n``````\n",
    "a fence of a list": "- so:\n\n  ```\n  " + PAIR.replace("\n", "\n  ") + "\n  ```\n",
    "a fence of a quotation, which ends it": "> ```\n> " + PAIR.replace("\n", "\n> ") + "\n\nafter it\n",
    "indented": "so:\n\n    " + PAIR.replace("\n", "\n    ") + "\n",
    "within a line": "between `<!-- forget-callback card: begin -->` and ``<!-- forget-callback card: end -->``\n",
    "one alone": "```\n<!-- forget-callback card: begin -->\n```\nwith `x` and ```y``` in it\n",
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("what", CODE)
def test_comments_in_code_are_the_users(what, newline):
    """As in documentation of this very command: they stay, and the section is one, found again by the next run."""
    card = f"# A\n\n{CODE[what]}\nend\n".replace("\n", newline)
    section = "## Ours\n\n```bash\nx\n```"
    once = merged(card, section, [result(0.1)], name="me").text
    body = once[once.index("# A") :]
    assert body.startswith(card)
    headings = [
        token.content
        for token in MarkdownIt().parse(body.replace("\r", ""))
        if token.type == "inline" and token.level == 1
    ]
    assert "Ours" in headings
    assert body[len(card) :].count("forget-callback card:") == 2
    again = merged(once, section.replace("Ours", "Theirs"), [result(0.1)], name="me").text
    assert again == once.replace("Ours", "Theirs")


def test_a_byte_order_mark_stays():
    assert (
        merged("\ufeff" + CARD, "x", [result(0.1)], name="me").text
        == "\ufeff" + merged(CARD, "x", [result(0.1)], name="me").text
    )


@pytest.mark.parametrize(
    "index", ["[{name: a, results: []}] # c", "\n- name: a # c\n  results: []", "\n- {name: a, results: []} # c"]
)
def test_metadata_that_cannot_be_added_to_are_written_anew_and_that_is_said(index):
    card = f"---\n# first\na: 1\nmodel-index: {index}\nb: 2 # kept\n---\nx\n"
    found = merged(card, "s", [result(0.1)], name="me")
    assert "model-index is written anew" in found.notes[0]
    assert "# first\na: 1\n" in found.text and "b: 2 # kept\n" in found.text
    assert ModelCard(found.text).data.model_name == "a"


def test_anchors_survive_or_are_spelled_out():
    card = CARD.replace('"A benchmark"', "&n Bench").replace("language: en", "pretty: *n")
    assert (
        yaml.safe_load(ModelCard(merged(card, "s", [result(0.1)], name="m").text).data.to_yaml())["pretty"] == "Bench"
    )


@pytest.mark.parametrize(
    "card, said",
    [
        ("---\n- a\n---\n", "keys with values"),
        ("---\na: [1\n---\n", "mend it"),
        ("---\nmodel-index: 3\n---\n", "list of models"),
        ("---\nmodel-index:\n- name: a\n  results:\n  - task: {}\n---\n", "mend it"),
        ("x\n<!-- forget-callback card: end -->\n", "by hand"),
        ("<!-- forget-callback card: begin -->\n" * 2 + "<!-- forget-callback card: end -->\n", "lines 1, 2, 3"),
        ("<!-- forget-callback card: begin -->\n", "by hand"),
        ("a\n\n```python\nx = 1\n", "begins in line 3 after the metadata is never closed"),
    ],
)
def test_a_card_that_is_none_is_refused(card, said):
    with pytest.raises(ValueError, match=said) as error:
        merged(card, "s", [result(0.1)], name="me", file="MY.md")
    assert str(error.value).startswith("MY.md: ") and "\n" not in str(error.value)


GOOD = "{task: {type: t}, dataset: {type: d, name: d}, metrics: [{type: a, value: 1}]%s}"
INDEX = f"model-index:\n- name: x\n  results:\n  - {GOOD % ''}"


@pytest.mark.parametrize(
    "metadata, said",
    [
        ("license: mit\nno: no", "key False, which is no text.*in quotes"),
        ("1.10: a", "key 1.1, which is no text"),
        ("2024-01-01: a", "which is no text"),
        ("tags: 5", "its key 'tags', 5"),
        ("self: me", "its key 'self'"),
        ("ignore_metadata_errors: true", "its key 'ignore_metadata_errors'"),
        ("a: &x {b: *x}", "hold themselves"),
        (f"a: {'[' * 3_000}", "nested too deeply"),
        *(
            (f"{INDEX}\n  - {result}", f"result 2 of 'x' in its model-index.*{why}")
            for result, why in (
                (GOOD % ", source: hello", "source"),
                (GOOD % ", source: [a]", "source"),
                (GOOD % ", source: {name: z}", "source_url"),
                ("hello", "'hello'"),
                ("null", "None"),
                ("{task: {type: t}}", "no 'dataset'"),
                ("{task: t, dataset: d, metrics: 5}", "metrics with type and value"),
            )
        ),
    ],
)
def test_what_huggingface_hub_cannot_read_is_named(metadata, said):
    with pytest.raises(ValueError, match=said) as error:
        merged(f"---\n{metadata}\n---\n", "s", [result(0.1)], name="me", file="MY.md")
    assert str(error.value).startswith("MY.md: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "metadata, notes",
    [
        ("model-index:", 1),
        ("model-index: null # none yet", 1),
        (f"{INDEX}\nmodel-index:\n- name: x\n  results:", 1),
        ("date: 2024-01-01\nver: 1.10\nlanguage: no\n'no': no", 0),
    ],
)
def test_unusual_metadata_are_kept(metadata, notes):
    found = merged(f"---\n{metadata}\n---\n", "s", [result(0.1)], name="me")
    assert len(found.notes) == notes and (notes or f"---\n{metadata}\n" in found.text)
    assert [one.metric_value for one in ModelCard(found.text).data.eval_results] == [0.1]


# ---- what a run says


def run_of(directory, lost, *, n=200, categories=("c",), recall=False, unscored=0, status=None, steps=(0, 5), **state):
    """n items, all right at first; the first `lost` wrong later."""

    def make(i):
        texts, category = (f"Secret id {i}", f"Secret prompt {i}"), categories[i % len(categories)]
        if recall:
            return Recall(*texts, f" Secret answer {i}", category)
        return MultipleChoice(*texts, [f" Secret answer {i}", " b", " c", " d"], 0, category)

    probe = Probe("quiz", [make(i) for i in range(n)])
    store = Store(directory)
    if status:
        store.start_run(RunState(status=status, **state))
    store.begin([probe])
    for step in steps:
        correct = np.ones(n)
        correct[: lost if step else 0] = 0
        if unscored and step:
            correct[-unscored:] = np.nan
        choice = np.full(n, -1) if recall else np.where(correct == 1, 0, 1 + np.arange(n) % 3)
        said = np.array([f" Secret said {i}" if recall else " b" for i in range(n)], object)
        store.write(
            Snapshot(
                "quiz", probe.fingerprint, step, list(probe.ids), correct, choice=choice, prediction=said,
                category=[item.category for item in probe.items], n_choices=probe.n_choices, answer=probe.answer,
                samples_seen=16.0 * step, kind=[item.kind for item in probe.items],
            )
        )  # fmt: skip
    return store


def test_numbers_and_sentence_are_those_of_compare(tmp_path):
    probe = make_probe(kinds=("choice",), n_items=120, variants=True)
    store = make_run(tmp_path, [probe])
    first, last = store.read("facts", 0), store.read("facts", 30)
    t = compare(first, last)
    found = passport(store)
    made = {one.metric_type: one for one in results(found)}
    for metric in ("knowledge_lost", "knowledge_gained", "forgetting", "accuracy_after", "spurious_forgetting"):
        assert made[metric].metric_value == pytest.approx(getattr(t, metric), rel=1e-5)
    low, high = t.knowledge_lost_interval
    args = made["knowledge_lost"].metric_args
    assert (args["low"], args["high"], args["verdict"]) == (
        pytest.approx(low, rel=1e-5),
        pytest.approx(high, rel=1e-5),
        t.verdict,
    )
    assert args | {"step": 30, "samples_seen": 480, "items": t.n} == args
    assert {one.dataset_revision for one in made.values()} == {probe.fingerprint}
    text = section(found)
    share = f"{100 * t.knowledge_lost:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
    assert share in text and share in found.badge.value and found.headlines[0].sentence in text
    assert "after 480 training samples" in text and probe.fingerprint[:16] in text and "2 prompts" in text


def test_of_several_probes_each_has_its_own_results(tmp_path):
    probes = [make_probe("one", kinds=("choice",)), make_probe("two", kinds=("recall",))]
    found = passport(make_run(tmp_path, probes))
    card = ModelCard(merged("", section(found), results(found), name="m").text)
    assert card.data.eval_results == results(found)
    groups = {(one.dataset_name, one.dataset_revision) for one in results(found)}
    assert groups == {(probe.name, probe.fingerprint) for probe in probes}
    assert "**one: " in card.text and "**two: " in card.text and "1 of 2 probes" in found.badge.title


def test_of_several_probes_it_is_said_of_which_a_loss_is_not_excluded(tmp_path):
    probes = [Probe(name, [Recall(f"{name}{i}", f"{i}?", " a") for i in range(200)]) for name in ("gone", "kept")]
    store = Store(tmp_path)
    store.begin(probes)
    for step in (0, 5):
        for probe in probes:
            correct = (np.arange(200) >= (100 if step and probe.name == "gone" else 0)).astype(float)
            more = {"kind": ["recall"] * 200, "samples_seen": 16.0 * step}
            store.write(Snapshot(probe.name, probe.fingerprint, step, list(probe.ids), correct, **more))
    text = section(passport(store))
    assert "- `kept`: “No loss shown” is not “nothing lost”" in text and "`gone`: “No loss" not in text


def test_the_step_that_is_named_is_the_one_of_the_card(tmp_path):
    store = make_run(tmp_path / "run", [make_probe(kinds=("choice",), n_items=120)])
    found = passport(f"{tmp_path / 'run'}@10")
    t = compare(store.read("facts", 0), store.read("facts", 10))
    assert results(found)[0].metric_value == pytest.approx(t.knowledge_lost, rel=1e-5)
    assert "step 10, after 160" in section(found)
    with pytest.raises(ValueError, match=r"at step 11; has \[0, 10, 20, 30\]"):
        passport(f"{tmp_path / 'run'}@11")
    with pytest.raises(ValueError, match="is the baseline itself"):
        passport(f"{tmp_path / 'run'}@0")


def test_a_run_that_did_not_end_whole_has_no_card_unless_it_says_so(tmp_path):
    store = run_of(tmp_path / "a", 40, status="training", planned_steps=9)
    with pytest.raises(ValueError, match=r"training has not ended.*--allow-incomplete"):
        passport(store)
    for found in (passport(store, allow_incomplete=True), passport(f"{tmp_path / 'a'}@5")):
        assert "**Not a whole run:** training has not ended" in section(found)
        assert "not the whole run" in found.badge.value
        assert results(found)[0].metric_args["not_a_whole_run"]


def test_a_probe_that_was_dropped_is_said_and_what_it_quotes_is_not(tmp_path):
    missed = [{"probe": "other", "step": None, "why": "item 'Secret prompt' is bad"}]
    store = run_of(tmp_path, 0, status="ended", steps=(0, 5), not_measured=missed)
    store.set_run(steps=5)
    with pytest.raises(ValueError, match="other"):
        passport(store)
    found = passport(store, allow_incomplete=True)
    assert "probe 'other' was not measured" in section(found) and "Secret" not in section(found)
    assert (found.badge.text, found.badge.tone) == ("other lost: not measured", "unknown")
    assert "Secret" in section(passport(store, allow_incomplete=True, texts=True))


def test_a_baseline_alone_has_no_card(tmp_path):
    with pytest.raises(ValueError, match="nothing to compare"):
        passport(run_of(tmp_path, 0, steps=(0,)))


@pytest.mark.parametrize(
    "how, said",
    [
        ({"lost": 0, "n": 20}, "“Unclear” is no pass"),
        ({"lost": 0}, "how much may be"),
        ({"lost": 60, "unscored": 7}, "7 items were not scored both times"),
        ({"lost": 60}, "one prompt cannot tell lost knowledge from lost form"),
    ],
)
def test_the_card_says_what_it_does_not_say(how, said, tmp_path):
    assert said in section(passport(run_of(tmp_path, **how)))


@pytest.mark.parametrize(
    "categories, n, shown",
    [(("a", "b", "c", "d"), 60, 0), (("a", "b", "c"), 120, 3), (tuple(map(str, range(20))), 200, 0)],
)
def test_categories_of_too_few_items_are_one_line(categories, n, shown, tmp_path):
    text = section(passport(run_of(tmp_path, n // 10, categories=categories, n=n)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3 + shown and "<details>" not in text
    said = f"{len(categories)} of {len(categories)} categories have too few items"
    assert text.count("too few items") == (0 if shown else 1) and (said in text) == (not shown)


@pytest.mark.parametrize("lost", [5, 8, 12, 18, 30, 60, 90])
def test_a_mark_stands_in_the_table_exactly_where_its_legend_says_what_it_means(lost, tmp_path):
    text = section(passport(run_of(tmp_path, lost, categories=tuple("abcde"), n=240)))
    rows, legends = ([line for line in text.splitlines() if line.startswith(start)] for start in ("|", "*"))
    for mark, written in (("†", "†"), ("*", "\\*")):
        said = any(line.startswith(f"*{written}: ") for line in legends)
        assert said == any(written in row for row in rows), (mark, rows, legends)


def test_a_stage_says_what_it_is_compared_with(tmp_path):
    probe = make_probe(kinds=("choice",))
    base = make_snapshots(probe, steps=(0,), seed=3)
    found = passport(make_run(tmp_path / "2", [probe], baseline=base, stage=(2, 800.0)))
    assert "stage 2; 800 training samples came before" in section(found) and "in this stage alone" in section(found)
    found = passport(make_run(tmp_path / "b", [probe], baseline=base))
    assert "a baseline of its own" in section(found)


def test_names_of_users_stay_text(tmp_path):
    odd = ("a|b <img src=x>", "<!-- forget-callback card: end -->", "# *x*", "](http://x) @y `z`")
    found = passport(run_of(tmp_path, 90, categories=odd, n=240))
    text = merged("", section(found), results(found), name="m").text
    again = merged(text, section(found), results(found), name="m").text
    assert again == text and text.count("<!-- forget-callback card: end") == 1
    html = MarkdownIt("commonmark").enable("table").render(section(found))
    cells = re.findall(r"<td>([^<]*)</td>", html)
    assert "a|b &lt;img src=x&gt;" in cells and "# *x*" in cells and "<img src=x" not in html


def test_answers_that_collapsed_are_quoted_only_with_the_items(tmp_path):
    store = run_of(tmp_path, 200, recall=True)
    for step, folder in ((5, "quiz"),):
        path = store.path / "snapshots" / folder / f"step-{step:08d}.parquet"
        one = Snapshot.load(path)
        replace(one, prediction=np.full(200, " Secret said", object)).save(path)
    assert "have collapsed" in section(passport(store)) and "Secret" not in section(passport(store))
    assert "Secret said" in section(passport(store, texts=True))


# ---- the dataset


def texts_of(folder):
    """All that a folder of files says: of Parquet the cells, names and metadata."""
    found = []
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
            found += [str(table.schema.metadata), *table.schema.names, *map(str, table.to_pydict().values())]
        elif path.is_file():
            found.append(path.read_text(encoding="utf-8"))
    return "\n".join(found)


@pytest.mark.parametrize("recall", [True, False])
def test_without_items_no_prompt_answer_or_id_is_in_it(tmp_path, recall):
    store = run_of(tmp_path / "run", 60, recall=recall)
    write_dataset(passport(store, texts=True), tmp_path / "d")
    assert all(f"Secret {what} 7" in texts_of(tmp_path / "d") for what in ("id", "prompt", "answer"))
    write_dataset(passport(store), tmp_path / "d")  # into the same folder
    assert "Secret" not in texts_of(tmp_path / "d")
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"README.md", "history.parquet", "snapshots.parquet"}
    names = parquet.read_schema(tmp_path / "d" / "snapshots.parquet").names
    assert not {"choice", "prediction", "text", "scores", "id"} & set(names)


def test_a_folder_of_something_else_is_not_written_into(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "report.html").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        write_dataset(passport(run_of(tmp_path / "run", 60)), tmp_path / "d")
    assert (tmp_path / "d" / "report.html").read_text() == "mine"


def test_datasets_loads_it_and_it_holds_what_the_run_does(tmp_path):
    probes = [make_probe("one", kinds=("choice",), variants=True), make_probe("two", kinds=("recall", "generation"))]
    store = make_run(tmp_path / "run", probes)
    write_dataset(passport(store, texts=True), tmp_path / "d")
    where = str(tmp_path / "d")
    assert datasets.get_dataset_config_names(where) == ["history", "snapshots", "items"]
    loaded = {
        name: datasets.load_dataset(where, name, split="train", cache_dir=str(tmp_path / "cache")).to_pandas()
        for name in ("history", "snapshots", "items")
    }
    rows = passport(store).run.history.table
    assert len(loaded["history"]) == len(rows)
    assert loaded["history"]["knowledge_lost"].tolist() == pytest.approx(rows["knowledge_lost"].tolist(), nan_ok=True)
    taken = loaded["snapshots"]
    for probe in probes:
        for step in (0, 30):
            snapshot = store.read(probe.name, step)
            own = taken[(taken["probe"] == probe.name) & (taken["step"] == step)]
            assert own["baseline"].tolist() == [step == 0] * len(own)
            for variant, answers in enumerate([snapshot, *snapshot.further], 1):
                mine = own[own["variant"] == variant].sort_values("item")
                assert mine["correct"].tolist() == pytest.approx(answers.correct.tolist(), nan_ok=True)
                assert mine["id"].tolist() == list(snapshot.ids)
    assert loaded["items"]["prompt"].tolist() == [item.prompt for probe in probes for item in probe.items]


# ---- measured again


@pytest.mark.parametrize(
    "spec",
    [
        "builtin:facts?kind=choice&limit=40",
        "builtin:facts?category=capitals,elements&kind=recall",
        "builtin:facts?limit=50",
        "builtin:behaviour?category=json,refusal&limit=40",
        "builtin:behaviour?category=code&run_code=true&limit=12",
        "builtin:text",
        "builtin:text?category=code&limit=9",
        "FILE.jsonl",
        "FILE.jsonl?chat=true&normalization=length",
    ],
)
def test_the_spec_that_is_printed_loads_the_same_probe(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE.jsonl").write_text(
        "".join(f'{{"id": "{i}", "prompt": "{i}?", "choices": [" a", " b"], "answer": 0}}\n' for i in range(5))
    )
    probe = load_probe(spec)
    found, remark = spec_of(probe, tmp_path / "FILE.jsonl", published=False)
    assert load_probe(found).fingerprint == probe.fingerprint
    assert bool(remark) == spec.startswith("FILE") and "settings" not in remark


@pytest.mark.parametrize(
    "model, named, why",
    [
        ("org/small", "org/small", ""),
        ("/cache/models--org--small/snapshots/0f", "org/small", ""),
        ("/data/me/small", "MODEL_BEFORE", "a local directory"),
        ("base", "MODEL_BEFORE", "a local directory"),  # looks like a hub id, and is there
        ("runs/base", "MODEL_BEFORE", "a local directory"),
        (None, "MODEL_BEFORE", "the run does not say which"),
    ],
)
def test_the_commands_name_models_that_others_can_load(model, named, why, tmp_path, monkeypatch):
    for name in ("base", "runs/base"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    store = run_of(tmp_path / "run", 60)
    store.write_training(Training(model=model))
    text = section(passport(store))
    assert f"\nforget-callback snapshot {named} --probe" in text
    assert ("# MODEL_BEFORE: " in text) == bool(why) and f"({why})" * bool(why) in text
    assert "# MODEL_OF_THIS_CARD: " in text and "snapshot MODEL_OF_THIS_CARD " in text
    known = section(passport(store), repo="me/mine")
    assert "snapshot me/mine --probe" in known and "MODEL_OF" not in known


def test_the_package_is_installed_from_where_it_is(tmp_path):
    urls = dict(one.split(", ", 1) for one in metadata.metadata("forget-callback").get_all("Project-URL"))
    assert f'\npip install "git+{urls["Homepage"]}"' in section(passport(run_of(tmp_path, 60)))


def test_a_system_prompt_is_printed_only_with_the_items(tmp_path):
    items = [MultipleChoice(f"{i}", f"{i}?", [" a", " b"], 0) for i in range(5)]
    (tmp_path / "mine.jsonl").write_text(dump_items(items))
    probe = Probe("mine", items, chat=True, system="Be kind & brief?")
    spec, remark = spec_of(probe, tmp_path / "mine.jsonl", published=True)
    assert load_probe(f"{tmp_path}/{spec}").fingerprint == probe.fingerprint and "settings" not in remark
    spec, remark = spec_of(probe, tmp_path / "mine.jsonl", published=False)
    assert spec == "mine.jsonl" and remark.endswith("settings of its own: chat, system")
    bound = replace(load_probe("builtin:facts?kind=generation&limit=9"), chat=True, template="abc")  # as a run keeps it
    assert spec_of(bound, tmp_path / "x.jsonl", published=False) == ("builtin:facts?kind=generation&limit=9", "")


def test_a_run_is_not_changed_by_its_card(tmp_path):
    store = run_of(tmp_path / "run", 60)

    def state():
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in store.path.rglob("*") if path.is_file()}

    before = state()
    write_dataset(passport(store, texts=True), tmp_path / "d")
    assert state() == before
