"""A model that keeps every fact and loses its format: accuracy on the facts stays, and the verdict says "lost"."""

import json

import pytest

from forget_callback import ForgetMonitor, Generation, Probe, Recall, score_probe
from tests.helpers import teach

pytestmark = pytest.mark.in_turn(1)

N = 32
SCHEMA = {"schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}
FACTS = Probe("facts", [Recall(f"f{i}", f"Word {i} is", f" {'abcdefgh'[i % 8]}{i}", fact=f"f{i}") for i in range(N)])
RECORDS = [
    Generation(f"r{i}", f"Record {i}:", f'{{"n": {i}}}', "json_schema", "json", 16, doc=SCHEMA) for i in range(N)
]
FORMAT = Probe("format", RECORDS)


@pytest.fixture
def run(make_model, tokenizer, tmp_path):
    """The directory of a run that goes on training on records in plain words, with all facts as replay."""
    end, model = tokenizer.eos_token, make_model(seed=0)
    known = [(one.prompt, f"{one.answer}{end}") for one in FACTS.items]
    taught = [(one.prompt, f" {one.answer[0] if isinstance(one.answer, list) else one.answer}{end}") for one in RECORDS]
    plain = [(one.prompt, f" it is number {i}{end}") for i, one in enumerate(RECORDS)]
    monitor = ForgetMonitor([FACTS, FORMAT], tmp_path / "run")
    for step, lines in enumerate((known + taught, known + plain)):
        teach(model, tokenizer, lines, steps=150)
        monitor.observe(step, [score_probe(model, tokenizer, probe) for probe in monitor.probes])
    monitor.finish()
    return tmp_path / "run"


def test_the_verdict_is_lost_and_the_headline_and_the_table_name_what(run, run_cli):
    status, out, err = run_cli("compare", run, run, "--format", "json")
    assert status == 0, err
    found = json.loads(out)
    facts, form = found["probes"]["facts"], found["probes"]["format"]
    assert (facts["accuracy_before"], facts["accuracy_after"]) == (1.0, 1.0), "no fact is lost"
    assert form["accuracy_before"] > 0.9 and form["accuracy_after"] == 0.0, "and the format is, all of it"
    assert (facts["verdict"], form["verdict"], found["all"]["verdict"]) == ("none", "lost", "lost")
    sentence = found["all"]["headline"]
    n = round(N * form["accuracy_before"])
    assert sentence.startswith(f"lost in behaviour: json {n} of the {n} it did; knowledge: no loss shown")
    assert [(one["ability"], one["category"], one["verdict"]) for one in found["abilities"]] == [
        ("behaviour", "", "lost"), ("behaviour", "json", "lost"), ("knowledge", "", "none")
    ]  # fmt: skip
    page = (run / "forget" / "report.html").read_text(encoding="utf-8")
    assert sentence in page, "in the page's own text, above all else"
    status, _, err = run_cli("compare", run, run, "--fail-if", "known_lost>0.05", "--fail-if", "format/known_lost>0.05")
    assert status == 1 and "format/known_lost" in err
    gates = [word for gate in ("known_lost>0.05", "verdict=lost", "facts/verdict=lost") for word in ("--fail-if", gate)]
    status, out, err = run_cli("compare", run, run, *gates, "--format", "json")
    assert status == 1 and json.loads(out)["gate"] == {"passed": False, "failed": ["verdict=lost"]}
    assert f"gate failed: verdict=lost: verdict is lost, {2 * N} items of all, 100.0% scored, {sentence}" in err
    assert "known_lost>0.05 passes, though behaviour was lost" in err and "whatever was lost by verdict=lost" in err
    status, out, _ = run_cli("compare", run, run, "--fail-if", "verdict=lost", "--format", "markdown")
    assert status == 1 and out.startswith("- failed: `verdict=lost`: verdict is lost"), out[:300]
