"""Misspelled names of every kind get the one that was meant: in specs, categories, fields, rules."""

import json
import re

import pytest

from forget_callback import MultipleChoice, Probe, StopRule, load_probe
from forget_callback.probes.records import parse_item
from forget_callback.probes.suggest import closest, did_you_mean
from forget_callback.runs.gate import Gate
from forget_callback.runs.rows import ALL_METRICS
from forget_callback.runs.stop_rules import LOSSES, check_targets

NAMES = ["knowledge_lost", "known_lost", "forgetting", "accuracy_after", "drift"]


@pytest.mark.parametrize(
    "given, meant",
    [
        ("knowlege_lost", "knowledge_lost"),
        ("Knowledge-Lost", "knowledge_lost"),
        ("knowledge lost", "knowledge_lost"),
        ("forgeting", "forgetting"),
        ("fogretting", "forgetting"),
        ("drif", "drift"),
        ("accuracy", "accuracy_after"),
        ("quiz", None),
        ("", None),
        (3, None),
        ("x" * 100_000, None),
    ],
)
def test_the_name_that_is_most_alike(given, meant):
    assert closest(given, NAMES) == meant
    assert did_you_mean(given, NAMES) == ("" if meant is None else f"; did you mean {meant!r}?")
    assert closest(given, []) is None


@pytest.mark.parametrize(
    "given, meant",
    [
        ("us states", "us_states"),
        ("world capitals", "capitals"),
        ("capitals of the world", "capitals"),
        ("chemical elemnts", "elements"),
        ("first names", None),
        ("what is all this", None),
    ],
)
def test_a_phrase_is_taken_for_the_category_in_it(given, meant):
    with pytest.raises(ValueError, match="category must be one or more of") as caught:
        load_probe(f"builtin:facts?category={given}")
    assert str(caught.value).endswith(f"did you mean {meant!r}?") if meant else "did you mean" not in str(caught.value)


def test_a_rule_with_spaces_around_its_slashes_is_understood():
    with pytest.raises(ValueError, match=r"did you mean 'facts/first names/forgetting>0\.1'\?$"):
        Gate.parse("facts / first names / forgetting > 0.1")


def test_a_letter_less_or_in_another_place_is_found_for_every_metric():
    for name in ALL_METRICS:
        if len(name) > 5:
            for given in (name[:3] + name[4:], name[:2] + name[3] + name[2] + name[4:]):
                assert closest(given, ALL_METRICS) is not None, given
    for name in LOSSES:
        assert closest(name[:4] + name[5:], LOSSES) == name


@pytest.mark.parametrize(
    "spec, meant",
    [
        ("builtin:fact", "builtin:facts"),
        ("bultin:facts", "builtin:facts"),
        ("builtin/facts", "builtin:facts"),
        ("facts", "builtin:facts"),
        ("mmlu", "hub:mmlu"),
        ("hub:hellaswg", "hellaswag"),
        ("lm_eval:arc_easy", "lm-eval:arc_easy"),
        ("builtin:facts?categry=capitals", "category"),
        ("builtin:facts?category=capitls", "capitals"),
        ("builtin:facts?category=capitals,elments", "elements"),
        ("quiz.jsnl", "quiz.jsonl"),
        ("quizz.jsonl", "quiz.jsonl"),
        ("quiz", "quiz.jsonl"),
    ],
)
def test_specs(spec, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiz.jsonl").write_text('{"id": "a", "prompt": "2 + 2 =", "answer": "4"}\n')
    with pytest.raises(ValueError, match=rf"did you mean '{meant}'\?"):
        load_probe(spec)


@pytest.mark.parametrize(
    "record, field, meant",
    [
        ({"promt": "Q", "answer": "a"}, "promt", "prompt"),
        ({"prompt": "Q", "anwser": "a"}, "anwser", "answer"),
        ({"prompt": "Q", "choises": [" a", " b"], "answer": 0}, "choises", "choices"),
        ({"prompt": "Q", "answer": "a", "Category": "c"}, "Category", "category"),
        ({"prompt": "Q", "answer": "a", "max-new-tokens": 3}, "max-new-tokens", "max_new_tokens"),
        ({"prompt": "Q", "answer": "a", "knd": "recall"}, "knd", "kind"),
        ({"prompt": "Q", "answer": "a", "kind": "recal"}, "kind", "recall"),
        ({"prompt": "Q", "answer": "a", "match": "contain"}, "match", "contains"),
        ({"prompt": "Q", "answer": "a", "variants": [{"promt": "R"}]}, "variants[0].promt", "prompt"),
    ],
)
def test_fields_of_items(record, field, meant, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "i", **record}))
    for read in (lambda: parse_item({"id": "i", **record}), lambda: load_probe(tmp_path / "x.jsonl")):
        with pytest.raises(ValueError, match=rf"item 'i', field '{re.escape(field)}': .*did you mean '{meant}'\?"):
            read()


def test_rules():
    for above in ("5%", "0.05", "0,05", " 5 % "):
        with pytest.raises(ValueError, match=r"above must be a number.*; did you mean 0\.05\?$"):
            StopRule("knowledge_lost", above)
    with pytest.raises(ValueError, match=r"did you mean knowledge_lost\?"):
        StopRule("knowlege_lost", 0.05)
    for text in ("knowledge_lost>5%", "knowledge_lost>5 %", "knowlege_lost > 5%", "knowledge_lost=0.05"):
        with pytest.raises(ValueError, match=r"did you mean 'knowledge_lost>0\.05'\?$"):
            StopRule.parse(text)
    with pytest.raises(ValueError, match="a rule fires above VALUE"):
        StopRule.parse("knowledge_lost<0.05")
    probe = Probe("facts", [MultipleChoice("a", "Q", [" x", " y"], 0, "capitals")])
    with pytest.raises(ValueError, match=r"'fact' is not among \['facts'\]; did you mean 'facts'\?"):
        check_targets([StopRule("knowledge_lost", 0.05, probe="fact")], [probe])
    with pytest.raises(ValueError, match=r"no category 'capital'; did you mean 'capitals'\?"):
        check_targets([StopRule("knowledge_lost", 0.05, category="capital")], [probe])
