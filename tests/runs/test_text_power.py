"""What documents can show: as often as the verdict of simulated documents says so."""

import json

import numpy as np
import pytest

from forget_callback import Snapshot, compare
from forget_callback.runs.start_lines import start_lines
from forget_callback.runs.text_power import documents_needed, sentence, share_found, smallest_rise


def documents(bits):
    n = len(bits)
    return Snapshot("docs", "f", 0, [f"d{i}" for i in range(n)], np.ones(n), bits_per_byte=bits, kind=["text"] * n)


@pytest.mark.parametrize("n, rise", [(12, 0.5), (38, 0.033), (300, 0.018), (100, 0.01)])
def test_the_verdict_is_lost_as_often(n, rise):
    rng = np.random.default_rng(n)
    before = documents(rng.normal(1, 0.2, n))
    lost = [
        compare(before, documents(before.bits_per_byte + rng.normal(rise, 0.05, n))).verdict == "lost"
        for _ in range(150)
    ]
    assert np.mean(lost) == pytest.approx(share_found(rise, n), abs=0.11)


@pytest.mark.parametrize("n", [30, 38, 300, 5000])
def test_the_smallest_rise_is_found_in_four_of_five_runs_and_needs_as_many(n):
    rise = smallest_rise(n)
    assert rise > 0.01 and share_found(rise, n) == pytest.approx(0.8, abs=1e-6)
    assert documents_needed(rise * (1 + 1e-6)) in (n, n + 1)
    assert smallest_rise(n, floor=0.05) == pytest.approx(rise + 0.04)


def test_what_no_documents_find():
    assert documents_needed(0.01) is None and documents_needed(0.005) is None
    assert np.isnan(smallest_rise(29)) and share_found(0.5, 29) == 0 and documents_needed(5.0) == 30
    assert sentence(29).startswith("29 documents: too few")


def test_at_the_start_documents_and_answers_are_said_apart():
    text = documents(np.linspace(1, 2, 40))
    answered = Snapshot("facts", "g", 0, [f"i{i}" for i in range(200)], np.arange(200) % 2.0)
    (alone,), (both,) = start_lines([text]), start_lines([answered, text])
    assert alone == sentence(40)
    assert both.startswith("200 items in one prompt") and both.endswith(f"; {sentence(40)}")


def test_plan_says_what_documents_can_show(run_cli, tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": f"Document {i}."}) + "\n" for i in range(38)), encoding="utf-8")
    code, out, _ = run_cli("plan", f"corpus:{path}", "--detect", "0.03", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["known"] is None and found["smallest_loss"] is None
    assert found["smallest_rise"] == smallest_rise(38) and found["items_needed"] == documents_needed(0.03)
    assert found["detect_power"] == share_found(0.03, 38) and found["assumptions"] == {"spread": 0.05}
    lines = run_cli("plan", f"corpus:{path}", "--detect", "0.03")[1].splitlines()
    assert lines[0] == f"docs: {sentence(38)}"
    assert lines[2].startswith(f"a rise of 0.03 bits per byte needs {documents_needed(0.03)} documents; 38 find it in ")
    assert "within the floor of 0.01" in run_cli("plan", f"corpus:{path}", "--detect", "0.005")[1]
    mixed = tmp_path / "mixed.jsonl"
    choice = {"choices": [" a", " b"], "answer": 0}
    rows = [{"id": f"c{i}", "prompt": f"After {i} comes", **choice} for i in range(60)]
    rows.append({"kind": "text", "id": "t", "text": "x"})
    mixed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    code, out, err = run_cli("plan", mixed)
    assert code == 0 and "mixed: 60 items" in out and "its document is left out" in err
