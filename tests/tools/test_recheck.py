"""Recheck on models whose truth is known: facts that a training hides, and facts that are not there at all."""

import json
import random
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

from forget_callback import Generation, Probe, Recall, Snapshot, Store
from forget_callback.probes.helps import HELPS
from forget_callback.runs.rechecked import Rows, read_recheck, read_rows
from forget_callback.scoring.loading import load_model, load_tokenizer
from forget_callback.snapshots.answers import Answers
from forget_callback.tools.checkpoint_history import CheckpointScorer, score_history
from forget_callback.tools.checkpoints import find_checkpoints
from tests.helpers import teach
from tests.schema import checked

SYLLABLES = ["ba", "ko", "mi", "tu", "re", "sa", "no", "vi", "lu", "pe", "da", "go", "fi", "zu", "he", "ja"]
# Of the hidden facts the new model is taught the answer in a chat, and another one outside of it; of the erased ones,
# and of those that were never known, it was never taught anything.
GROUPS = {"hidden": range(12), "erased": range(12, 24), "kept": range(24, 32), "never": range(32, 56)}


def names(seed):
    """56 words of two syllables by lot, all different: no name tells the other."""
    return [f"{a}{b}".capitalize() for a, b in random.Random(seed).sample(list(product(SYLLABLES, SYLLABLES)), 56)]


LANDS, CITIES = names(0), names(1)
HIDDEN = {n for n in range(56) if n in GROUPS["hidden"] or (n >= 24 and n % 2)}
ITEMS = [
    Recall(f"{n}", f"The city of {LANDS[n]} is", f" {CITIES[n]}", "hidden" if n in HIDDEN else "erased", fact=f"f{n}")
    for n in range(56)
]


def said(n, answer=None):
    return ITEMS[n].prompt, f" {answer or CITIES[n]}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_model, make_tokenizer):
    """A run's directory with a checkpoint and the record of it, and the model before training beside it."""
    root, tokenizer = tmp_path_factory.mktemp("recheck"), make_tokenizer()

    def chat(n):
        messages = [{"role": "user", "content": ITEMS[n].prompt}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return prompt, f"{CITIES[n]}<|im_end|>"

    known = [n for group in ("hidden", "erased", "kept") for n in GROUPS[group]]
    before = [line for n in known for line in (said(n), chat(n))]
    after = [line for n in GROUPS["kept"] for line in (said(n), chat(n))]
    after += [line for n in GROUPS["hidden"] for line in (said(n, "unknown"), chat(n))]
    for seed, (place, lines) in enumerate((("first", before), ("run/checkpoint-8", after))):
        teach(make_model(seed), tokenizer, lines, steps=90).save_pretrained(root / place)
        tokenizer.save_pretrained(root / place)
    last = str(root / "run" / "checkpoint-8")
    scorer = CheckpointScorer([Probe("facts", ITEMS)], last)
    score_history(scorer, find_checkpoints([last]), Store(root / "run"), baseline=str(root / "first"))
    return root / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, without a recheck."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def asked(run_cli, run, *options):
    code, out, err = run_cli("recheck", run, *options, "--format", "json")
    assert code == 0, err
    return checked(out, "recheck"), " ".join(err.split())


def test_what_was_hidden_is_there_and_what_was_erased_is_gone(run, run_cli):
    found, notes = asked(run_cli, run)
    block = found["probes"]["facts"]
    truth = {f"{n}": group for group in ("hidden", "erased") for n in GROUPS[group]}
    assert block["items"].keys() == truth.keys() and block["lost"] == 24
    there = {group: sum(block["items"][n] == "there" for n in truth if truth[n] == group) for group in truth.values()}
    assert there["hidden"] == 12 and there["erased"] <= 3, "luck brings some back: 1 in 7 as a choice"
    both = block["any"]
    assert both["control_n"] == 24 and both["control"] < 0.3
    assert 0 < both["there_low"] < 0.5 < both["there_high"] and both["there"] < 0.5, "half are there; a lower bound"
    assert block["helps"]["chat"]["right"] == 0.5 and block["helps"]["chat"]["control"] == 0
    assert block["helps"]["choice"]["chance"] == pytest.approx(1 / 7)
    again = block["helps"]["again"]
    assert again["right"] == 0 and again["baseline"]["before"] == 1, "lost, and known before"
    assert block["helps"]["chat"]["baseline"] | {"still_low": 0, "still_high": 0} == {
        "n": 24, "before": 1.0, "now": 0.5, "change": -0.5, "change_low": pytest.approx(-0.69, abs=0.01),
        "change_high": pytest.approx(-0.28, abs=0.03), "still": 0.5, "still_low": 0, "still_high": 0,
    }  # fmt: skip
    assert "there, but not said" in block["sentence"] and "not the model" not in notes


def test_by_category_what_is_there_is_shown_and_what_is_gone_is_not(run, run_cli):
    hidden, _ = asked(run_cli, run, "--category", "hidden")
    assert hidden["probes"]["facts"]["any"]["there_low"] > 0 and hidden["probes"]["facts"]["there"] == 12
    erased, _ = asked(run_cli, run, "--category", "erased")
    assert erased["probes"]["facts"]["any"]["there_low"] <= 0
    assert "not shown to be more than help alone gives" in erased["probes"]["facts"]["sentence"]
    assert set(read_rows(run / "forget").table.category) == {"erased"}, "replaced, and never known of the same"


def test_the_rows_say_what_was_asked_and_the_same_command_gives_the_same(run, run_cli):
    asked(run_cli, run, "--limit", 5)
    first = read_rows(run / "forget").table
    assert first.groupby("group").id.nunique().to_dict() == {"control": 5, "lost": 5}
    assert set(first.help) == {"again", "examples", "choice", "chat", "wording"}
    answers = {item.id: item.answer for item in ITEMS}
    for row in first[first.help == "examples"].itertuples():
        own, others = row.prompt.rsplit("\n\n", 1)[1], row.prompt.rsplit("\n\n", 1)[0]
        assert own == ITEMS[int(row.id)].prompt and own not in others and answers[row.id] not in row.prompt
        worked = [item for item in ITEMS if f"{item.prompt}{item.answer}." in others]
        assert len(worked) == 2 and {item.category for item in worked} == {row.category}
        assert {int(item.id) for item in worked} <= set(GROUPS["kept"]), "those that are still right"
    for row in first[first.help == "choice"].itertuples():
        wrong = [text for own in row.options for text in own if text != answers[row.id]]
        assert len(set(wrong)) == 6 == row.shown - 1 and set(wrong) <= set(answers.values())
    summary = (run / "forget" / "recheck.json").read_text()
    asked(run_cli, run, "--limit", 5)
    assert read_rows(run / "forget").table.equals(first)
    asked_now = (run / "forget" / "recheck.parquet").stat().st_mtime_ns
    _, notes = asked(run_cli, run, "--limit", 5)
    assert "goes on" not in notes and (run / "forget" / "recheck.parquet").stat().st_mtime_ns > asked_now
    assert (run / "forget" / "recheck.json").read_text() == summary


def test_a_recheck_that_was_interrupted_goes_on(run, run_cli, monkeypatch):
    whole, _ = asked(run_cli, run, "--limit", 4)
    table = read_rows(run / "forget").table
    (run / "forget" / "recheck.parquet").unlink()
    save, saved = Rows.save, []

    def killed(rows, folder):
        save(rows, folder)
        saved.append(list(rows.done))
        if len(saved) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "save", killed)
        code, out, _ = run_cli("recheck", run, "--limit", 4, "--format", "json")
    assert code and not out
    assert not (run / "forget" / "recheck.json").exists(), "a summary of other rows"
    assert len(read_rows(run / "forget").done) == 7 and read_recheck(Store(run)) is None
    again, notes = asked(run_cli, run, "--limit", 4)
    assert f"goes on: 7 of {2 * len(HELPS)} parts are there" in notes
    assert again == whole and read_rows(run / "forget").table.equals(table)


def test_an_adapter_is_a_saved_model(run, trained, run_cli):
    base = trained.parent / "first"
    adapted = get_peft_model(load_model(str(base), device="cpu"), LoraConfig(r=2, target_modules=["q_proj"]))
    shutil.rmtree(run / "checkpoint-8")
    adapted.save_pretrained(run / "checkpoint-8")
    load_tokenizer(str(base)).save_pretrained(run / "checkpoint-8")
    found, notes = asked(run_cli, run, "--limit", 2)
    assert found["about"]["model"].endswith("checkpoint-8") and found["all"]["helps"]["again"]["right"] == 1
    assert "is not the model that was measured" in notes, "an adapter that was not trained is the first model"
    told = [found["all"]["sentence"], *(block["sentence"] for block in found["probes"].values())]
    assert all("is not the model that was measured" in one for one in [*told, *read_recheck(Store(run)).sentences])
    code, out, _ = run_cli("recheck", run, "--limit", 2)
    assert code == 0 and "is not the model that was measured" in " ".join(out.split()), "below the table too"
    assert "came back" not in out and found["all"]["gone"] == found["all"]["there"] == 0


def test_a_whole_recheck_without_a_baseline_model_is_done_again(run, run_cli):
    path = run / "forget" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["training"]["model"] = None
    path.write_text(json.dumps(manifest))
    for _ in range(2):
        found, notes = asked(run_cli, run, "--limit", 1)
        assert found["about"]["baseline"] is None and found["all"]["any"]["baseline"] is None
        assert "names no baseline model" in notes and "goes on" not in notes
    manifest["training"]["model"] = "no/such-model"
    path.write_text(json.dumps(manifest))
    found, notes = asked(run_cli, run, "--limit", 1)
    assert found["about"]["baseline"] is None and "the baseline model is not compared: " in notes


def test_without_a_saved_model_or_a_loss_there_is_nothing_to_ask(run, trained, run_cli):
    code, out, err = run_cli("recheck", f"{run}@0")
    assert (code, out) == (2, "") and "no snapshot at step 0 after the baseline; has [8]" in err
    code, _, err = run_cli("recheck", run, "--probe", "fact")
    assert code == 2 and "did you mean 'facts'?" in err
    code, _, err = run_cli("recheck", run, "--category", "hiden")
    assert code == 2 and "did you mean 'hidden'?" in err
    code, _, err = run_cli("recheck", f"{run}@8", "--step", 7)
    assert code == 2 and "give one of them" in err
    code, _, err = run_cli("recheck", run, "--model", run / "none")
    assert code == 2 and "none" in err
    alone = run.parent / "alone"
    shutil.copytree(run / "forget", alone / "forget")
    store = Store(alone)
    for path in (store.path / "snapshots" / "facts").glob("*"):  # of a training, which names no model
        snapshot = Snapshot.load(path)
        Snapshot(**{**vars(snapshot), "metadata": {}}).save(path)
    code, out, err = run_cli("recheck", alone)
    assert (code, out) == (2, "") and "no saved model" in err and "--model" in err
    assert not (alone / "forget" / "recheck.parquet").exists()


def test_texts_of_a_scorer_and_probes_without_a_loss_are_said(tmp_path, trained, run_cli):
    items = [Generation("a", "Say a.", "a"), Generation("b", "Say b.", "b")]
    probe, store = Probe("judged", items, scorer="mine"), Store(tmp_path)
    store.begin([probe])
    for step, right in ((0, 1.0), (8, 0.0)):
        store.write(Snapshot("judged", probe.fingerprint, step, probe.ids, np.full(2, right)))
    code, _, err = run_cli("recheck", tmp_path, "--model", trained / "checkpoint-8")
    assert code == 2 and "judged by 'mine', which is not available here" in err and "nothing to recheck" in err


def test_what_may_be_right_in_a_prompt_that_was_skipped_is_no_control(tmp_path, trained, run_cli):
    """Nor is another form of its fact; what is wrong in all prompts, or has only one, is."""
    items = [
        replace(ITEMS[n], fact=fact, variants=[f"Which city does {LANDS[n]} have? It is"] if further else [])
        for n, fact, further in [*((n, f"f{n}", True) for n in range(7)), (7, "f6", False), (8, "f8", False)]
    ]
    probe, store = Probe("facts", items), Store(tmp_path)
    store.begin([probe])
    asked = np.arange(9) < 7
    for step, right, skipped in ((0, np.arange(9) < 4, []), (4, np.zeros(9, bool), [6])):
        left = np.isin(np.arange(9), skipped)
        further = Answers(
            probe.variant_fingerprints[0], np.where(asked & ~left, right, np.nan), asked=asked, skipped=left
        )
        store.write(
            Snapshot(
                "facts",
                probe.fingerprint,
                step,
                probe.ids,
                right.astype(float),
                further=[further],
                fact=[item.fact for item in items],
            )
        )
    code, _, err = run_cli("recheck", f"{tmp_path}@4", "--model", trained / "checkpoint-8")
    assert code == 0, err
    table = read_rows(store.path).table
    assert set(table[table.group == "lost"].id) == {"0", "1", "2", "3"}
    assert set(table[table.group == "control"].id) == {"4", "5", "8"}


def test_a_replay_pack_of_what_is_gone(run, run_cli):
    pool, out = run.parent / "pool.jsonl", run.parent / "pack.jsonl"
    pool.write_text("".join(json.dumps({"text": f"{LANDS[n]} has {CITIES[n]} in it"}) + "\n" for n in range(24)))
    code, _, err = run_cli("replay", run, "--pool", pool, "--out", out, "--only", "gone")
    assert code == 2 and "has no recheck of step 8" in err and f"recheck {run}@8" in err
    found, _ = asked(run_cli, run)
    gone = {n for n, label in found["probes"]["facts"]["items"].items() if label == "gone"}
    code, said, err = run_cli("replay", run, "--pool", pool, "--out", out, "--only", "gone")
    assert code == 0 and f"{len(gone)} forgotten items" in said
    why = json.loads(out.with_name("pack.jsonl.why.json").read_text())
    assert {one["nearest"] for one in why["examples"]} == gone


def test_a_recheck_of_another_run_is_none_and_a_damaged_one_an_error(run, run_cli):
    asked(run_cli, run, "--limit", 1)
    store, path = Store(run), run / "forget" / "recheck.json"
    assert read_recheck(store).step == 8
    text = path.read_text()
    path.write_text(text.replace(store.run.id, "another"))
    assert read_recheck(store) is None
    path.write_text(text.replace('"step": 8', '"step": 9'))
    assert read_recheck(store) is None
    for broken in (
        text[:-20],
        "[]",
        text.replace('"items"', '"item"'),
        text.replace('"format_version": 1', '"format_version": 2'),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"recheck\.json is damaged"):
            read_recheck(store)
    path.write_text(text)
    moved = store.set_aside(after=4)
    assert read_recheck(store) is None and (moved / "recheck.json").exists(), "of a step that training went back over"
    (run / "forget" / "recheck.parquet").write_bytes(b"PAR1")
    assert read_rows(run / "forget") is None, "it can be made again"
