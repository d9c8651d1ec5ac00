"""KL divergence from the baseline in a run: resumed, with another baseline, from checkpoints, on several processes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from forget_callback import ForgetCallback, Probe, Store, Text
from forget_callback.probes.jsonl import dump_items
from forget_callback.runs.run_at import RunAt
from forget_callback.snapshots.reference import Reference
from tests.forked import PROGRAM, finish, start
from tests.integration.conftest import weights_hash
from tests.scoring.test_divergence import whole
from tests.scoring.test_text import document

DOCS = Probe("docs", [Text(f"d{i}", document(30 + i, i), "ab"[i % 2]) for i in range(6)])
COLUMNS = ("kl", "kl_error", "top1", "bits_per_byte")


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text(dump_items(DOCS.items))
    return path


def kl(run, step, probe="docs"):
    return Store(run).read(probe, step).kl


def same(one, other, *, steps, atol=1e-6):
    for step in steps:
        for column in COLUMNS:
            a, b = (getattr(Store(run).read("docs", step), column) for run in (one, other))
            np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5, err_msg=f"{column} at {step}")


def test_a_run_knows_how_far_it_is_from_its_start_and_trains_as_without(make_sft, make_model, tokenizer, tmp_path):
    start = make_model(attention_dropout=0.1)
    plain = make_sft([], output_dir=str(tmp_path / "plain"))
    plain.train()
    callback = ForgetCallback([DOCS], every=3, on_error="raise")
    trainer = make_sft([callback], output_dir=str(tmp_path / "run"))
    trainer.train()
    assert weights_hash(trainer.model) == weights_hash(plain.model)
    model = trainer.model.eval()
    expected = np.array([whole(start.eval(), model, tokenizer, item) for item in DOCS.items])
    last = Store(tmp_path / "run").read("docs", 6)
    assert (last.kl > 0).all() and (last.kl <= expected[:, 0] + 1e-4).all()
    assert (expected[:, 0] <= last.kl + last.kl_error + 1e-4).all()
    np.testing.assert_allclose(last.top1, expected[:, 1])
    table = callback.history.query("category == ''").set_index("step")
    assert table.kl[6] == pytest.approx(last.kl.mean()) and table.top1_agreement[6] == pytest.approx(last.top1.mean())
    assert table.kl[0] == 0 and table.kl[3] > 0
    assert set(kl(tmp_path / "run", 0)) == {0.0}


def test_a_resumed_run_compares_with_its_own_start(make_sft, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 3}
    make_sft([ForgetCallback([DOCS], every=3)], output_dir=str(tmp_path / "whole"), **saved).train()
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    checkpoint = str(tmp_path / "part" / "checkpoint-3")
    trainer = make_sft([ForgetCallback([DOCS], every=3)], output_dir=str(tmp_path / "part"), **saved)
    trainer.train(resume_from_checkpoint=checkpoint)
    same(tmp_path / "part", tmp_path / "whole", steps=[0, 3, 6])


def test_a_resumed_run_whose_reference_is_no_good_has_no_kl_and_says_so(make_sft, tmp_path, caplog):
    saved = {"save_strategy": "steps", "save_steps": 3, "max_steps": 4}
    make_sft([ForgetCallback([DOCS], every=3)], **saved).train()
    file = tmp_path / "forget" / "reference" / "docs.parquet"
    before, kept = kl(tmp_path, 3), Reference.load(file)
    content = file.read_bytes()
    file.unlink()
    assert RunAt(Store(tmp_path), None).references([DOCS]) == {}
    assert f"probe 'docs' has no KL divergence from the baseline: {file} is not there" in caplog.text
    Reference(kept.probe, kept.fingerprint, "0" * 32, kept.documents).save(file)
    assert RunAt(Store(tmp_path), None).references([DOCS]) == {}
    assert "docs.parquet is of another model than the snapshot of step 0" in caplog.text
    file.write_bytes(content)
    assert RunAt(Store(tmp_path), 0).references([DOCS])["docs"].baseline == kept.baseline
    assert RunAt(Store(tmp_path), 3).references([DOCS]) == {}, "of that model nothing was kept"

    file.write_bytes(content[:500])
    resumed = make_sft([ForgetCallback([DOCS], every=3)], **saved)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    np.testing.assert_array_equal(kl(tmp_path, 3), before)
    assert np.isnan(kl(tmp_path, 4)).all() and np.isfinite(Store(tmp_path).read("docs", 4).bits_per_byte).all()
    assert "docs.parquet is damaged" in caplog.text


def test_another_stage_compares_with_the_model_that_the_first_one_began_with(make_sft, make_model, tokenizer, tmp_path):
    first = make_sft([ForgetCallback([DOCS], every=6)], output_dir=str(tmp_path / "one"))
    first.train()
    callback = ForgetCallback([DOCS], every=3, baseline=tmp_path / "one", on_error="raise")
    second = make_sft([callback], model=first.model, output_dir=str(tmp_path / "two"))
    second.train()
    np.testing.assert_allclose(kl(tmp_path / "two", 0), kl(tmp_path / "one", 6), atol=1e-6)
    expected = [whole(make_model().eval(), second.model.eval(), tokenizer, item)[0] for item in DOCS.items]
    last = Store(tmp_path / "two").read("docs", 6)
    assert (last.kl <= np.array(expected) + 1e-4).all() and (last.kl > 0.1 * np.array(expected)).all()
    assert (tmp_path / "two" / "forget" / "reference" / "docs.parquet").is_file()


def test_a_baseline_of_adapters_switched_off_is_compared_with(make_sft, make_model, tokenizer, tmp_path):
    model = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    callback = ForgetCallback([DOCS], every=6, baseline="base", on_error="raise")
    make_sft([callback], model=model).train()
    assert (kl(tmp_path, 0) > 0).all(), "these adapters are not the identity at their start"
    expected = [whole(make_model().eval(), model.eval(), tokenizer, item)[0] for item in DOCS.items]
    assert (kl(tmp_path, 6) <= np.array(expected) + 1e-4).all() and (kl(tmp_path, 6) > 0).all()


def test_checkpoints_give_what_the_callback_measured(make_sft, make_model, tokenizer, spec, run_cli, tmp_path):
    model = make_model(attention_dropout=0.1)
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    saved = {"save_strategy": "steps", "save_steps": 3, "save_only_model": True}
    run = tmp_path / "run"
    make_sft([ForgetCallback(str(spec), every=3)], model=model, output_dir=str(run), **saved).train()
    words = ["snapshot", run, "--baseline", tmp_path / "start", "--probe", spec, "--out", tmp_path / "after"]
    code, _, err = run_cli(*words)
    assert code == 0, err
    same(tmp_path / "after", run, steps=[0, 3, 6])
    table = pd.read_parquet(tmp_path / "after" / "forget" / "history.parquet")
    assert table["kl"].iloc[-1] > 0

    # The model alone, compared with the start of the run: after the fact, and into one directory.
    last = run / "checkpoint-6"
    code, _, err = run_cli("snapshot", last, "--probe", spec, "--baseline", run, "--out", tmp_path / "one")
    assert code == 0, err
    np.testing.assert_allclose(kl(tmp_path / "one", 6), kl(run, 6), atol=1e-6)
    for one, step in ((tmp_path / "start", 0), (last, 6)):
        code, _, err = run_cli("snapshot", one, "--probe", spec, "--out", tmp_path / "two", "--step", step)
        assert code == 0, err
    same(tmp_path / "two", run, steps=[0, 6])
    # A run whose trained model was saved beside its forget/ is a run still.
    model.save_pretrained(run)
    tokenizer.save_pretrained(run)
    for name in (run, f"{run}@0"):
        out = tmp_path / f"saved-{len(str(name))}"
        code, said, err = run_cli("snapshot", last, "--probe", spec, "--baseline", name, "--out", out)
        assert code == 0 and "docs: " in said and "bits per byte in 6 documents" in said, err
        np.testing.assert_allclose(kl(out, 6), kl(run, 6), atol=1e-6)
        assert Store(out).steps("docs") == [6], "no final weights as step 0"
    for command in (("recheck", run), ("watch", run, "--probe", spec, "--out", tmp_path / "watched")):
        code, _, err = run_cli(*command, "--baseline", run)
        assert code == 2 and "is the RUN itself" in err
    # The divergence from step 0 is none from step 3.
    shown = [json.loads(run_cli("compare", f"{run}@{step}", run, "--format", "json")[1])["all"] for step in (0, 3)]
    assert shown[0]["kl"] == pytest.approx(kl(run, 6).mean()) and shown[1]["kl"] is None
    assert shown[1]["bits_per_byte_change"] is not None
    both = (run / "checkpoint-3", last)
    code, _, err = run_cli("snapshot", *both, "--probe", spec, "--baseline", run / "forget", "--out", tmp_path / "no")
    assert code == 2 and "is a RUN, which goes with one model" in err


@pytest.mark.in_turn(2)
def test_two_processes_give_what_one_gives(make_model, tokenizer, spec, run_cli, tmp_path):
    for name, by in (("start", 0.0), ("later", 0.1)):
        model = make_model()
        with torch.no_grad():
            model.model.embed_tokens.weight *= 1 + by
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "later").rename(tmp_path / "checkpoint-5")
    words = ["snapshot", tmp_path / "checkpoint-5", "--baseline", tmp_path / "start", "--probe", spec, "--out"]
    code, _, err = run_cli(*words, tmp_path / "one")
    assert code == 0, err
    err = tmp_path / "err.txt"
    assert finish(start(PROGRAM, *words, tmp_path / "two", err=err, processes=2)) == 0, err.read_text()
    same(tmp_path / "two", tmp_path / "one", steps=[0, 5])
    assert (kl(tmp_path / "one", 5) > 0).all()
    saved = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("start", "checkpoint-5")]
    assert kl(tmp_path / "one", 5)[0] <= whole(*saved, tokenizer, DOCS.items[0])[0] + 1e-4
    assert json.loads((tmp_path / "two" / "forget" / "manifest.json").read_text())["probes"]["docs"]["items"] == 6
