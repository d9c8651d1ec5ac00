"""A real `transformers serve` on CPU: its greedy answers are those of the model here."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from forget_callback import Generation, MultipleChoice, Probe, Store, score_probe
from forget_callback.probes.records import item_record

pytestmark = pytest.mark.in_turn(0)

PROBE = Probe(
    "asked",
    [
        *[Generation(f"g{i}", f"Question: what is {i}?", "42", "number", max_new_tokens=10) for i in range(4)],
        *[Generation(f"p{i}", f"The opposite of {i} is", "hot", "prefix", max_new_tokens=10) for i in range(4)],
        *[Generation(f"s{i}", f"{i} apples", "fox", "contains", max_new_tokens=10, stop=["e"]) for i in range(4)],
    ],
)


@pytest.fixture(scope="module")
def served(make_tokenizer, tmp_path_factory):
    """A model, its tokenizer, where they are saved, and the address of their server."""
    out, tokenizer = tmp_path_factory.mktemp("served"), make_tokenizer()
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **sizes, **ids)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Without a model of its own it loads those that it is asked for.
    command = [Path(sys.executable).with_name("transformers"), "serve", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (out / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=environment
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, out / "log")
        yield model, tokenizer, out / "model", f"http://127.0.0.1:{port}/v1#{out / 'model'}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url, process, log):
    """Until the server answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("chat", [False, True])
def test_greedy_answers_of_a_server_are_those_of_the_model_here(served, run_cli, tmp_path, chat):
    model, tokenizer, _, address = served
    spec = tmp_path / "asked.jsonl"
    spec.write_text("".join(json.dumps(item_record(item)) + "\n" for item in PROBE.items))
    code, out, err = run_cli("snapshot", address, "--probe", f"{spec}?chat={chat}", "--out", tmp_path / "out")
    assert code == 0, err
    expected = score_probe(model, tokenizer, Probe("asked", PROBE.items, chat=chat))
    found = Store(tmp_path / "out").read("asked", 0)
    for column in ("ids", "correct", "outcome", "prediction"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column), err_msg=column)
    line = np.char.startswith(found.ids.astype(str), "p")  # here the text ends with the line; there it is cut before
    assert found.text[~line].tolist() == expected.text[~line].tolist()
    assert len(set(found.text)) > 6 and "truncated" in found.outcome
    assert (found.fingerprint == expected.fingerprint) is not chat
    assert f"of {len(PROBE)} items right" in out


def test_what_this_server_cannot_give_is_refused(served, run_cli, tmp_path):
    _, _, model, address = served
    spec = tmp_path / "scored.jsonl"
    item = MultipleChoice("c", "The capital of France is", [" Paris", " Rome"], 0)
    spec.write_text(json.dumps(item_record(item)) + "\n")
    code, out, err = run_cli("snapshot", address, "--probe", spec, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "gave no log-probabilities of the prompt" in err and "?cot=true" in err
    assert len(err.strip().splitlines()) == 1
    code, out, err = run_cli("snapshot", address + "x", "--probe", spec, "--out", tmp_path / "other")
    assert code == 2 and str(model) in err


def test_checkpoints_of_a_run_are_scored_by_a_server_that_loads_them(served, run_cli, tmp_path):
    """This one loads what it is asked for; a command that would tell it so runs before each, and one of them fails."""
    model, tokenizer, place, address = served
    spec = tmp_path / "asked.jsonl"
    spec.write_text("".join(json.dumps(item_record(item)) + "\n" for item in PROBE.items))
    models = {}
    for step in (1, 2, 3):
        models[step] = copy.deepcopy(model)
        with torch.no_grad():
            models[step].lm_head.weight.add_(0.1 * step * torch.randn_like(model.lm_head.weight))
        models[step].save_pretrained(tmp_path / "run" / f"step {step}")
        tokenizer.save_pretrained(tmp_path / "run" / f"step {step}")
    load = tmp_path / "load.sh"
    load.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/loaded\ncase "$1" in *2) exit 3;; esac\n')
    load.chmod(0o755)
    server = address.partition("#")[0]
    code, out, err = run_cli(
        *("watch", tmp_path / "run", "--pattern", "step *", "--probe", spec, "--baseline", place),
        *(
            "--served",
            f"{server}#{{checkpoint}}",
            "--load",
            f"{load} {{checkpoint}}",
            "--interval",
            0.1,
            "--patience",
            2,
        ),
    )
    assert code == 0, err
    store = Store(tmp_path / "run")
    assert store.steps("asked") == [0, 1, 3] and len(out.splitlines()) == 3
    assert "step 2 is left out: it could not be scored: RuntimeError: --load ended with status 3" in err
    assert (tmp_path / "loaded").read_text().splitlines() == [
        str(place),
        *(str(tmp_path / "run" / f"step {step}") for step in (1, 2, 3)),
    ]
    for step, local in ((0, model), (1, models[1]), (3, models[3])):
        expected = score_probe(local, tokenizer, PROBE)
        np.testing.assert_array_equal(store.read("asked", step).prediction, expected.prediction)
