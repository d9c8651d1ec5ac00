"""`demo --model` as a user runs it, on a tiny model in a directory: each method, own data, own probe, bad input."""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch

from forget_callback import Recall, load_probe
from forget_callback.demo import tiny
from forget_callback.demo.clock import TimeLeft
from forget_callback.demo.real import require_memory
from forget_callback.demo.samples import own_samples, quiz, short_and_right
from forget_callback.probes.items import accepted
from forget_callback.runs.store import Store

pytestmark = pytest.mark.in_turn(1)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COMMON = {"the", "of", "a", "an", "is", "was", "in", "to", "and", "that", "with", "for", "as", "by", "on"}
PROBE = "builtin:facts?kind=choice&limit=40"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A causal language model as `save_pretrained` leaves it, untaught."""
    place = tmp_path_factory.mktemp("models") / "small"
    tokenizer = tiny.make_tokenizer([" ".join(pair) for pair in quiz()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny.make_model(tokenizer, hidden_size=32).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def base(directory, tmp_path_factory):
    """The same without a chat template and without a padding token, as many base models are."""
    place = tmp_path_factory.mktemp("models") / "base"
    tokenizer = tiny.make_tokenizer([" ".join(pair) for pair in quiz()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny.make_model(tokenizer, hidden_size=32).save_pretrained(place)
    tokenizer.chat_template, tokenizer.pad_token = None, None
    tokenizer.save_pretrained(place)
    return place


def forget_special_tokens(place):
    """Makes a tokenizer's configuration name no special token."""
    file = place / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if not key.endswith("_token") and key != "chat_template"}
    file.write_text(json.dumps(kept), encoding="utf-8")


@pytest.fixture
def untold(base, tmp_path):
    """A base model whose tokenizer names no special token."""
    place = shutil.copytree(base, tmp_path / "untold")
    forget_special_tokens(place)
    return place


@pytest.fixture
def demo(run_cli, monkeypatch, tmp_path, wandb_offline):
    """demo(model, *options) -> what it prints; the run is in tmp_path / "run"."""
    monkeypatch.setenv("WANDB_PROJECT", "demo")  # or the demo would set it for all that comes after

    def run(model, *options):
        status, out, err = run_cli("demo", "--model", model, "--out", tmp_path / "run", *options)
        assert status == 0, err
        return out, err

    return run


def table(directory):
    history = pd.read_parquet(directory / "forget" / "history.parquet")
    return history[history["category"] == ""].set_index("step")


TRAINED = {
    "sft": ("loss", r"on 32 samples \(", 32),
    "dpo": ("loss", r"on 32 pairs \(.*; both answers of a pair are counted: 64 samples\)", 64),
    "grpo": ("reward", r"on 32 samples \(", 32),
}


@pytest.mark.every_day
@pytest.mark.parametrize("method", TRAINED)
def test_each_method_trains_and_shows_the_task_beside_what_was_lost(demo, directory, tmp_path, method):
    metric, said, seen = TRAINED[method]
    out, err = demo(directory, "--method", method, "--samples", 32, "--probe", PROBE)
    assert re.search(said, out) and re.search(said, err)
    assert table(tmp_path / "run")["samples_seen"].iloc[-1] == seen
    history = table(tmp_path / "run")
    assert history["variants"].iloc[-1] == 2, "the last evaluation asks every prompt"
    assert history["knowledge_lost"].notna().sum() == 2, "variants='ends': the baseline and the last one"
    assert len(history) == 5
    assert re.search(rf"samples +{metric} +accuracy +1→0 +0→1 +lost", out)
    rows = re.findall(r"^ +([\d,]+) +(-?[\d.]+) +([\d.]+)% ", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(history["samples_seen"].iloc[1:].astype(int))
    for row, accuracy in zip(rows, history["accuracy_after"].iloc[1:], strict=True):
        assert float(row[2]) == pytest.approx(100 * accuracy, abs=0.051)
    assert re.search(r"step \d+ of \d+, about (\d+ seconds|a minute|\d+ minutes) left", err)


def test_a_probe_too_small_to_tell_is_called_that_in_every_table(demo, directory, tmp_path):
    out, err = demo(directory, "--samples", 32, "--probe", "builtin:facts?kind=generation&limit=20")
    curve = out[out.index("facts-generation during training") :]
    assert "too few" in curve and "too few" in err and not re.search(r"% \[[\d.]+, ", curve)


def test_the_same_probe_twice_is_an_error_before_the_model_is_loaded(run_cli, directory, tmp_path):
    status, _, err = run_cli(
        "demo", "--model", directory, "--out", tmp_path / "run", "--probe", PROBE, "--probe", PROBE
    )
    assert status == 2 and "different names" in err and "parameters" not in err and len(err.splitlines()) == 2


def test_it_shows_what_was_lost_and_gained_and_where_everything_is(demo, directory, tmp_path, monkeypatch):
    """Against a slow count in the snapshots."""
    monkeypatch.setenv("COLUMNS", "120")
    out, _ = demo(directory, "--samples", 200, "--probe", PROBE)
    store, (name,) = Store(tmp_path / "run"), table(tmp_path / "run")["probe"].unique()
    before, after = (store.read(name, store.steps(name)[i]).to_pandas() for i in (0, -1))
    for what, right, wrong in (("Lost", before, after), ("Gained", after, before)):
        moved = {
            str(right["id"][i])
            for i in range(len(right))
            if all(right[c][i] == 1 and wrong[c][i] == 0 for c in ("correct", "correct_2"))
        }
        title = re.search(rf"^{what}: .*?$", out, re.MULTILINE)
        assert (title is not None) == bool(moved)
        if moved:
            shown = re.split(r"\n *\n", out[title.start() :])[1]
            answers = {str(p).strip() for p in before["prediction"]} | {str(p).strip() for p in after["prediction"]}
            assert sum(answer in shown for answer in answers) >= 2
    for name in ("page", "run directory", "model"):
        assert tmp_path.joinpath(re.search(rf"^{name} +(\S+)", out, re.MULTILINE)[1]).exists()


def test_the_script_of_the_readmes_picture_keeps_the_numbers_that_it_draws(demo, directory, tmp_path, monkeypatch):
    demo(directory, "--samples", 32, "--probe", PROBE)
    monkeypatch.setattr(sys, "argv", ["forgetting.py", str(tmp_path / "run"), "--out", str(tmp_path)])
    script = runpy.run_path(str(EXAMPLES / "forgetting.py"), run_name="__main__")
    kept, history = json.loads((tmp_path / "forgetting.json").read_text()), table(tmp_path / "run")
    assert len(kept["loss"]) == history.index[-1] == 8
    for name in ("samples_seen", "forgetting", "backward_transfer", "accuracy_after"):
        assert [row[name] for row in kept["rows"]] == pytest.approx(list(history[name]), abs=1e-4)
    assert script["digest"](kept).encode() in (tmp_path / "forgetting.png").read_bytes()


@pytest.mark.every_day
def test_the_readme_shows_the_run_whose_numbers_are_kept():
    """The picture is drawn from them, and the text under it says them."""
    kept = json.loads((EXAMPLES / "forgetting.json").read_text(encoding="utf-8"))
    digest = runpy.run_path(str(EXAMPLES / "forgetting.py"))["digest"]
    assert digest(kept).encode() in (EXAMPLES / "forgetting.png").read_bytes()
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    caption = " ".join(readme[readme.index("forgetting.png") :].split("</sub>")[0].split())
    last = kept["rows"][-1]
    accuracy = f"{100 * last['accuracy_before']:.1f}% → {100 * last['accuracy_after']:.1f}%"
    lost, known = (round(last[name] * last["n"]) for name in ("knowledge_lost", "known_before"))
    for text in (
        f"{last['n']} facts",
        f"{last['samples_seen']:.0f} short quiz answers",
        accuracy,
        f"{lost} of the {known}",
    ):
        assert text in caption, text
    assert last["variants"] == 2 and last["knowledge_lost_low"] > 0
    guide = (EXAMPLES.parent / "docs" / "getting-started.md").read_text(encoding="utf-8")
    for row in kept["rows"]:
        shares = (f"{100 * row[name]:.1f}%" for name in ("accuracy_after", "forgetting", "backward_transfer"))
        assert re.search(rf"^ +{row['samples_seen']:.0f} .*{' +'.join(shares)}", guide, re.MULTILINE)


def test_what_it_says_to_do_next_can_be_done(demo, run_cli, directory, tmp_path):
    out, _ = demo(directory, "--samples", 32, "--probe", PROBE)
    commands = re.findall(r"(?:forget-callback|forget_callback) (\w.*)$", out[out.index("next") :], re.MULTILINE)
    assert commands
    for command in commands:
        status, _, err = run_cli(*shlex.split(command))
        assert status == 0, err


def test_lora_trains_an_adapter_and_leaves_the_model_as_it_was(demo, directory, tmp_path):
    out, err = demo(directory, "--lora", "--samples", 32, "--probe", PROBE)
    assert (tmp_path / "run" / "model" / "adapter_config.json").is_file()
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert "with LoRA" in err and "loss" in out


TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning"}]
OWN = {
    "messages": ("sft", {"messages": TALK}),
    "pairs": ("sft", {"prompt": "Hello", "completion": " Good morning"}),
    "text": ("sft", {"text": "Hello, good morning", "source": "ours"}),
    "preferences": ("dpo", {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": [{**TALK[1], "content": "Go away"}]}),
    "plain preferences": ("dpo", {"prompt": "Hello", "chosen": " Hi", "rejected": " Go away"}),
    "questions": ("grpo", {"prompt": "What is two and two?", "answer": 4}),
}


def write(rows, path):
    """Rows as a file in the form that its name says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


FORMS = [*((name, ".jsonl") for name in OWN), ("text", ".csv"), ("messages", ".parquet"), ("pairs", "")]


@pytest.mark.every_day
@pytest.mark.parametrize("name, suffix", FORMS)
def test_own_data_in_every_form_that_trl_knows(tmp_path, name, suffix):
    """Of the samples alone: which methods train is shown above."""
    method, row = OWN[name]
    data = write([{**row, "number": i} for i in range(40)], tmp_path / f"own{suffix}")
    samples = own_samples(str(data), method, count=32, seed=0)
    assert len(samples.rows) == 32 and samples.available == 40
    assert set(samples.rows.column_names) == set(row) - {"source"}
    assert samples.rows[0] == {column: row[column] for column in samples.rows.column_names}


def test_own_data_on_a_base_model_without_a_template_watched_by_a_probe_of_ones_own(demo, base, tmp_path):
    """Fewer rows than the demo would take: what there is is trained on once."""
    write([OWN["messages"][1]] * 12, tmp_path / "talk.jsonl")
    items = [{"id": f"{i}", "kind": "recall", "prompt": f"{i} plus one is", "answer": f" {i + 1}"} for i in range(30)]
    write(items, tmp_path / "sums.jsonl")
    out, err = demo(base, "--data", tmp_path / "talk.jsonl", "--probe", tmp_path / "sums.jsonl")
    assert "12 samples (talk.jsonl)" in out and "30 items of sums" in err
    assert set(table(tmp_path / "run")["probe"]) == {"sums"}
    assert table(tmp_path / "run")["samples_seen"].iloc[-1] == 12


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_a_tokenizer_that_names_neither_an_end_nor_padding(demo, untold, tmp_path, method):
    """The special tokens of its vocabulary are there, only no one says what they are for."""
    demo(untold, "--method", method, "--samples", 32, "--probe", PROBE)
    assert table(tmp_path / "run").index[-1] > 0


def test_a_tokenizer_without_any_special_token_is_an_error_that_says_what_to_do(run_cli, base, tmp_path):
    saved = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    place = shutil.copytree(base, tmp_path / "bare")
    (place / "tokenizer.json").write_text(json.dumps(saved | {"added_tokens": []}), encoding="utf-8")
    forget_special_tokens(place)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").write_text(json.dumps(config | {"eos_token_id": None}), encoding="utf-8")
    status, _, err = run_cli("demo", "--model", place, "--samples", 32, "--out", tmp_path / "run", "--probe", PROBE)
    assert status == 2 and len(err.strip().splitlines()) <= 2
    for said in ("eos_token", "pad_token", str(place), "add_special_tokens"):
        assert said in err


def test_ctrl_c_says_what_there_is_and_what_can_be_done_with_it(demo, run_cli, directory, tmp_path, monkeypatch):
    """After the second of five evaluations; then the two commands that it names."""
    arguments = ["demo", "--model", directory, "--samples", 32, "--probe", PROBE, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        step_end = TimeLeft.on_step_end

        def stop(self, args, state, control, **kwargs):
            step_end(self, args, state, control, **kwargs)
            if state.global_step == 3:
                raise KeyboardInterrupt  # what Python makes of SIGINT; a process in the background may ignore that

        patch.setattr(TimeLeft, "on_step_end", stop)
        status, _, err = run_cli(*arguments)
    assert status == 130 and "Traceback" not in err
    assert f"the run up to the evaluation at step 2 is in {tmp_path / 'run'}" in err and "starts again" in err
    command = re.search(r"and \S*forget.callback (report .*) writes its page", err)[1]
    monkeypatch.chdir(tmp_path)
    status, out, err = run_cli(*shlex.split(command))
    assert status == 0 and Path(out.strip()).is_file(), err
    status, _, err = run_cli(*arguments)
    assert status == 0 and table(tmp_path / "run").index[-1] == 8, err


def test_ctrl_c_before_the_first_scoring_does_not_speak_of_the_run_before(
    demo, run_cli, directory, tmp_path, monkeypatch
):
    demo(directory, "--samples", 32, "--probe", PROBE)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("forget_callback.demo.real.load_model", stop)
    status, _, err = run_cli("demo", "--model", directory, "--out", tmp_path / "run", "--probe", PROBE)
    assert status == 130 and "stopped before anything was scored" in err and "is in" not in err


def test_the_same_seed_gives_the_same_run_and_another_seed_another_order(demo, run_cli, directory, tmp_path):
    demo(directory, "--samples", 32, "--probe", PROBE)
    first = table(tmp_path / "run")
    losses = [first["margin"].iloc[-1]]
    for seed in (0, 1):
        demo(directory, "--samples", 32, "--probe", PROBE, "--seed", seed)
        losses.append(table(tmp_path / "run")["margin"].iloc[-1])
    assert losses[0] == losses[1] != losses[2]


BAD = {
    "lora": (["--lora"], "--lora needs --model"),
    "data": (["--data", "x.jsonl"], "--data needs --model"),
    "probe": (["--probe", "builtin:facts"], "--probe needs --model"),
    "dpo": (["--method", "dpo"], "--method dpo needs --model"),
    "several": (["--lora", "--data", "x"], "--data and --lora need --model"),
}


@pytest.mark.every_day
@pytest.mark.parametrize("options, said", BAD.values(), ids=BAD)
def test_options_of_a_real_model_without_one_are_an_error(run_cli, tmp_path, options, said):
    status, _, err = run_cli("demo", "--out", tmp_path / "run", *options)
    assert status == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_made_is_an_error_before_the_work(run_cli, tmp_path):
    (tmp_path / "file").touch()
    for options in ([], ["--model", "no/model"]):
        status, _, err = run_cli("demo", "--out", tmp_path / "file", *options)
        assert status == 2 and "--out" in err and "is a file; expected a directory" in err


BAD_DATA = {
    "columns": ("sft", [{"question": "a", "answer": "b"}], "'messages' or 'prompt' and 'completion' or 'text'"),
    "of dpo": ("dpo", [OWN["messages"][1]], "'chosen' and 'rejected'"),
    "without a reward": ("grpo", [{"prompt": "a"}], "a reward of your own"),
    "a number": ("sft", [{"text": 3}], "column 'text'"),
    "empty text": ("sft", [{"text": " "}], "column 'text'"),
    "no conversation": ("sft", [{"messages": [{"from": "human", "value": "a"}]}], "column 'messages'"),
}


@pytest.mark.parametrize("method, rows, said", BAD_DATA.values(), ids=BAD_DATA)
def test_data_that_cannot_be_trained_on_are_an_error_in_words(run_cli, directory, tmp_path, method, rows, said):
    data = write(rows, tmp_path / "own.jsonl")
    options = ["--data", data, "--method", method, "--probe", PROBE, "--out", tmp_path / "run"]
    status, _, err = run_cli("demo", "--model", directory, *options)
    assert status == 2 and said in err and "own.jsonl" in err and len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "run" / "forget").exists()


@pytest.mark.parametrize("name", ["missing.jsonl", "notes.txt", "empty.jsonl", "broken.jsonl", "no/such-set"])
def test_a_file_that_holds_no_samples_is_an_error_in_words(run_cli, directory, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file, text in {"notes.txt": "hello", "empty.jsonl": "", "broken.jsonl": '{"text": \n'}.items():
        (tmp_path / file).write_text(text)
    status, _, err = run_cli("demo", "--model", directory, "--data", name, "--out", tmp_path / "run")
    assert status == 2 and name in err and len(err.strip().splitlines()) <= 2
    assert ("no such file or directory" in err) == (name == "missing.jsonl")


BAD_MODELS = {
    "no/such-model": "no such directory here",
    "nowhere": "no such directory here",
    "/nonexistent/x": "no such directory",
    "": "expected a directory or a hub id, such as org/name",
    " ": "expected a directory or a hub id, such as org/name",
}


@pytest.mark.parametrize("model, said", BAD_MODELS.items())
def test_a_model_that_cannot_be_had_is_an_error_in_words_at_once(run_cli, tmp_path, model, said):
    status, _, err = run_cli("demo", "--model", model, "--out", tmp_path / "run")
    assert status == 2 and f"no model at '{model}': " in err and said in err
    assert len(err.strip().splitlines()) == 1 and "tokenizer" not in err
    assert "hub" not in err or "/" not in model[:1]


def test_a_directory_without_a_tokenizer_is_told_by_what_the_demo_can_do(run_cli, directory, tmp_path):
    place = shutil.copytree(directory, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    status, _, err = run_cli("demo", "--model", place, "--out", tmp_path / "run", "--probe", PROBE)
    assert status == 2 and "no tokenizer at" in err and "save_pretrained" in err and "--tokenizer" not in err


def test_replay_is_of_the_tiny_model(run_cli, directory, tmp_path):
    status, _, err = run_cli("demo", "--model", directory, "--replay", 0.2, "--out", tmp_path / "run")
    assert status == 2 and "--replay" in err and "--data" in err


def test_a_model_that_no_memory_holds_is_refused_with_a_way_out():
    require_memory(135_000_000, memory=4e9)
    with pytest.raises(ValueError, match=r"7\.0B parameters .* 112 GB .* 24 GB: pass --lora"):
        require_memory(7_000_000_000, memory=24e9)


def test_the_quiz_teaches_no_fact_of_the_probe():
    """No answer is the answer of a fact, and no sample holds both the subject and the answer of one."""
    samples = quiz()
    assert len(samples) > 300 and len({question for question, _ in samples}) == len(samples)

    def bare(text):
        return re.sub(r"^(the|an?) ", "", text.strip().casefold())

    recalls = [item for item in load_probe("builtin:facts?kind=recall").items if isinstance(item, Recall)]
    facts = [(item, bare(answer)) for item in recalls for answer in accepted(item)]
    assert {bare(answer) for _, answer in samples} & {answer for _, answer in facts} == set()
    for question, answer in samples:
        words = set(re.findall(r"\w+", f"{question} {answer}".casefold()))
        for item, right in facts:
            subject = set(re.findall(r"\w+", item.prompt.casefold())) - COMMON
            assert not (subject and subject <= words and set(right.split()) <= words), (question, item.prompt)


def test_the_reward_is_for_short_answers_that_are_right():
    texts = ["Rice", "the rice.", "prices", "", "Well, that is rice as far as I know about it"]
    rewards = short_and_right([[{"role": "assistant", "content": text}] for text in texts], answer=["rice"] * 5)
    assert rewards == pytest.approx([1, 1, 0.5, 0, 0.5 + 2 / 11])
