"""Stop rules that can never fire are said where that is known first, and no other rule is."""

import numpy as np
import pytest
from transformers import Trainer, TrainingArguments

from forget_callback import ForgetCallback, Generation, MultipleChoice, Probe, Recall, StopRule, Text
from forget_callback.probes.item_variants import Variant
from forget_callback.runs.stop_rules import LOSSES

N = 10
ASKED = (Variant("Say it:"),)
KINDS = {
    "options": [MultipleChoice(f"i{i}", f"Fact {i} is", ["a", "b", "c"], 0) for i in range(N)],
    "reworded": [MultipleChoice(f"i{i}", f"Fact {i} is", ["a", "b", "c"], 0, variants=ASKED) for i in range(N)],
    "recalls": [Recall(f"i{i}", f"Fact {i} is", f" {i}") for i in range(N)],
    "answers": [Generation(f"i{i}", f"{i}?", "no", "contains", max_new_tokens=2) for i in range(N)],
    "texts": [Text(f"i{i}", f"Document {i} is about Paris.") for i in range(N)],
    "seen": [Text(f"i{i}", f"Row {i} is about Paris.", ability="training") for i in range(N)],
}
PROBES = [Probe(name, items) for name, items in KINDS.items()]


def rule(metric, probe=None):
    return StopRule(metric, 1e-6, probe=probe, confidence=None, action="warn")


def said(caplog):
    """The rules that were said to have no number, and clears what was said."""
    found = [one.getMessage() for one in caplog.records if "these items have no such number" in one.getMessage()]
    caplog.clear()
    return {line.split()[2] for line in found}


def trained(model, tokenizer, directory, callback):
    ids = tokenizer("Paris is the capital of France")["input_ids"]
    options = {"max_steps": 2, "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    rows = [{"input_ids": ids, "labels": ids}] * 8
    arguments = TrainingArguments(directory, learning_rate=1e-3, **options)
    Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[callback]).train()
    return callback.history


def test_what_is_said_is_what_a_run_never_has_a_number_of(make_model, tokenizer, tmp_path, caplog):
    """Of every kind of items and every loss: the reference is the history of a real run, and of its second stage."""
    names = [*KINDS, "all"]
    rules = [rule(metric, name) for name in names for metric in LOSSES]
    model = make_model()
    for directory, baseline in ((tmp_path / "a", "start"), (tmp_path / "b", tmp_path / "a")):
        callback = ForgetCallback(PROBES, every=1, stop=rules, baseline=baseline, on_error="raise")
        early = said(caplog)
        table = trained(model, tokenizer, directory, callback)
        table = table[table["category"] == ""].set_index("probe")
        later = said(caplog)
        missing = {f"{name}/{one}" for name in names for one in LOSSES if np.isnan(table.loc[name, one]).all()}
        assert later == missing
        assert early <= missing and len(early) > 0.8 * len(missing)
        stage = {f"{name}/{one}" for name in names for one in ("stage_forgetting", "stage_knowledge_lost")}
        assert (
            stage <= early if baseline == "start" else not {"options/stage_forgetting", "all/stage_forgetting"} & later
        )


@pytest.mark.parametrize(
    "stop, names, why",
    [
        ("kl>0.1", ["options"], "only texts have it; add a probe of texts, such as builtin:text"),
        ("kl>0.1", ["options", "texts"], ""),
        ("options/kl>0.1", ["options", "texts"], "only texts have it"),
        ("kl>0.1", ["options", "seen"], ""),
        ("bits_per_byte_change>0.1", ["options", "seen"], "count under their probe's name alone"),
        ("seen/bits_per_byte_change>0.1", ["options", "seen"], ""),
        ("score_lost>0.1", ["options", "recalls"], "only generated answers are graded"),
        ("score_lost>0.1", ["answers"], ""),
        ("recall_lost>0.1", ["answers"], "only recall items have it"),
        ("drift>0.1", ["recalls"], "only items with options have it"),
        ("knowledge_lost>0.1", ["texts"], "texts have no right and wrong; use a rule on bits_per_byte_change"),
        ("knowledge_lost>0.1", ["texts", "options"], ""),
        ("spurious_forgetting>0.1", ["options"], "they are asked in one prompt"),
        ("spurious_forgetting>0.1", ["reworded"], ""),
        ("macro_knowledge_lost>0.1", ["options"], "it is a mean over several probes"),
        ("macro_knowledge_lost>0.1", ["options", "recalls"], ""),
        ("stage_forgetting>0.1", ["options"], "this run is no later stage of another; pass baseline=RUN"),
    ],
)
def test_what_the_items_tell_is_said_when_the_callback_is_made(caplog, monkeypatch, stop, names, why):
    ForgetCallback([Probe(name, KINDS[name]) for name in names], stop=stop)
    lines = [one.getMessage() for one in caplog.records if "never fire" in one.getMessage()]
    assert len(lines) == bool(why) and why in "".join(lines)
    assert all(line.startswith(f"stop rule {stop.replace('>', ' > ')} can never fire: ") for line in lines)
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    ForgetCallback([Probe(name, KINDS[name]) for name in names], stop=stop)
    assert not caplog.records, "one of several processes says it"


def test_prompts_that_are_not_asked_have_no_number(caplog):
    for variants, lines in (("all", 0), ("ends", 0), ("off", 1)):
        caplog.clear()
        ForgetCallback(Probe("p", KINDS["reworded"]), stop="spurious_forgetting>0.1", variants=variants)
        assert caplog.text.count("they are asked in one prompt") == lines


def test_of_a_category_its_own_items_count(caplog):
    mixed = [Recall("r", "A is", " b", "recalled"), MultipleChoice("c", "A is", ["a", "b"], 0, "chosen")]
    stop = ["p/recalled/recall_lost>0.1", "p/chosen/recall_lost>0.1"]
    ForgetCallback(Probe("p", mixed), stop=stop)
    assert said(caplog) == {"p/chosen/recall_lost"}


@pytest.mark.parametrize("metric", ["bits_per_byte_before", "scored", "n10", "p_value"])
def test_of_a_number_that_is_no_loss_texts_may_have_it(caplog, metric):
    ForgetCallback(Probe("t", KINDS["texts"]), stop=[rule(metric)])
    assert not said(caplog)
