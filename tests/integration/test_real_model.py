"""A real pretrained model of 135M: its answers are lm-eval's, item by item, and watching a short SFT changes nothing.

On tiny random models all answers lie close together and no token means anything; here tokens merge, options compete and
a template is a real one.
"""

import hashlib
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from forget_callback import ForgetCallback, Generation, Probe, Snapshot, load_probe, score_probe
from forget_callback.probes.items import accepted

N = 16
PAIRS = [
    ("Which drawer holds the spare fuses?", "The second one from the top."),
    ("Who opens the workshop on Mondays?", "Tamsin does, at half past seven."),
    ("What is the colour of the visitor badges?", "They are orange."),
    ("Where do parcels go after five?", "To the porter's desk."),
]


def load(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load(smollm2)


@pytest.fixture(scope="module")
def ask(loaded):
    """ask("loglikelihood", [arguments]) -> what lm-eval's own wrapper gives."""
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    hflm = huggingface.HFLM(pretrained=loaded[0], tokenizer=loaded[1], batch_size=8)

    def answers(kind, arguments):
        requests = [instance(request_type=kind, doc={}, arguments=pair, idx=0) for pair in arguments]
        return getattr(hflm, kind)(requests, disable_tqdm=True)

    return answers


@pytest.mark.in_turn(2)
def test_choices_are_lm_evals_in_both_prompts(loaded, ask):
    probe = load_probe("builtin:facts?kind=choice", limit=N)
    snapshot = score_probe(*loaded, probe)
    asked = [(item.prompt, item.choices) for item in probe.items]
    asked += [(item.variants[0].prompt, item.choices) for item in probe.items]
    found = ask("loglikelihood", [(prompt, choice) for prompt, choices in asked for choice in choices])
    sums = np.array([sum_ for sum_, _ in found]).reshape(2, N, 4)
    assert np.abs(np.stack(list(snapshot.scores)) - sums[0]).max() < 1e-3
    assert snapshot.choice.tolist() == sums[0].argmax(1).tolist()
    assert snapshot.choice_2.tolist() == sums[1].argmax(1).tolist()
    assert 0 < snapshot.accuracy < 1


@pytest.mark.in_turn(2)
def test_recall_is_lm_evals(loaded, ask):
    probe = load_probe("builtin:facts?kind=recall", limit=2 * N)
    snapshot = score_probe(*loaded, probe)
    found = [ask("loglikelihood", [(item.prompt, answer) for answer in accepted(item)]) for item in probe.items]
    assert snapshot.correct.tolist() == [float(any(greedy for _, greedy in one)) for one in found]
    assert 0 < snapshot.accuracy < 1


@pytest.mark.in_turn(2)
def test_generated_texts_are_lm_evals(loaded, ask):
    recall = load_probe("builtin:facts?kind=recall", limit=N).items
    items = [
        Generation(i.id, i.prompt, accepted(i)[0].strip(), "prefix", max_new_tokens=8, stop=["\n"]) for i in recall
    ]
    snapshot = score_probe(*loaded, Probe("written", items))
    settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    assert snapshot.text.tolist() == ask("generate_until", [(item.prompt, dict(settings)) for item in items])


@pytest.mark.in_turn(0)  # tests/integration/test_training.py has it of tiny models every day
def test_ten_steps_of_sft_are_watched_and_stay_bit_identical(smollm2, tmp_path):
    probe = load_probe("builtin:facts?kind=choice", limit=N)

    def train(name, callbacks):
        model, tokenizer = load(smollm2)
        set_seed(0)
        rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in PAIRS]
        arguments = SFTConfig(
            output_dir=str(tmp_path / name),
            max_steps=10,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            max_length=64,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        trainer.train()
        weights = hashlib.sha256()
        for value in model.state_dict().values():
            weights.update(value.numpy().tobytes())
        return model, weights.hexdigest()

    callback = ForgetCallback(probe, every=5, variants="ends", on_error="raise")
    watched, with_callback = train("watched", [callback])
    assert train("alone", [])[1] == with_callback

    history = callback.history[callback.history.category == ""]
    assert history.step.tolist() == [0, 5, 10]
    before, now = (
        Snapshot.load(tmp_path / "watched" / "forget" / "snapshots" / probe.name / f"step-{step:08}.parquet")
        for step in (0, 10)
    )
    again = score_probe(watched.eval(), AutoTokenizer.from_pretrained(smollm2), probe)
    assert now.choice.tolist() == again.choice.tolist() and now.choice_2.tolist() == again.choice_2.tolist()
    lost = np.sum((before.correct == 1) & (now.correct == 0))
    assert history.forgetting.iloc[-1] == lost / N
    assert (before.margin != now.margin).all()


@pytest.mark.in_turn(1)
def test_the_demo_on_a_real_model_shows_a_curve_and_leaves_a_page(smollm2, tmp_path):
    out = tmp_path / "run"
    spec = f"builtin:facts?kind=choice&limit={N}"
    command = [sys.executable, "-m", "forget_callback", "demo", "--model", smollm2, "--samples", "32", "--probe", spec]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    history = pd.read_parquet(out / "forget" / "history.parquet")
    whole = history[history.category == ""].sort_values("step")
    assert whole.step.iloc[0] == 0 and whole.samples_seen.iloc[-1] == 32 and len(whole) >= 4
    # What is printed of the last step is what is on disk.
    assert f"{100 * whole.accuracy_after.iloc[-1] + 1e-9:.1f}%" in done.stdout  # people read 6.25 as 6.3
    assert str(out / "forget" / "report.html") in done.stdout.replace("\n", "")
    assert "left" in done.stderr  # how long it still takes, also without a terminal
