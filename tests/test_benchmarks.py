"""The benchmarks of speed, small: they run, count right, and all who are measured give the same answers."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from forget_callback import Generation, MultipleChoice, Probe, Recall, Scorer, Snapshot
from forget_callback.metrics.knowledge import knowledge_of
from forget_callback.runs.store import Store
from forget_callback.scoring.likelihood.tokens import encode_items
from forget_callback.snapshots.answers import Answers
from forget_callback.snapshots.joined import complete

BENCHMARKS = Path(__file__).parent / "benchmarks"
CHOICES = [
    MultipleChoice(f"{i}", f"{i} The capital of" + " it" * i, [" Rome", " Tokyo is", " Tokyo"], 0) for i in range(5)
]
RECALLS = [Recall(f"r{i}", f"{i} Who wrote" + " this" * i, (" hot", " cold")) for i in range(4)]
ANSWERS = [Generation(f"g{i}", f"{i} She has" + " 12" * i, "42", max_new_tokens=6, stop=("a",)) for i in range(4)]


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_gpu_check_runs_dry_and_says_what_it_promises(capsys):
    import gpu

    check = gpu.Check("tiny", 8)
    for part in gpu.PARTS.values():
        part(check)
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"(PASS|MISS)  tiny .* \(goal [<>]= [\d.]+\)", line) for line in lines)
    said = "\n".join(lines)
    for kind in ("text", "letters", "5-shot", "recall"):
        assert all(f"{kind}: {what}" in said for what in ("ours / limit", "wall / time in kernels", "peak of two"))
    assert re.search(r"items scored +9.000 \(goal >= 9\)", said) and "tree, tiles" in said
    assert check.misses == sum(line.startswith("MISS") for line in lines)


@pytest.mark.parametrize("value, above, word", [(1.2, False, "PASS"), (1.4, False, "MISS"), (1.2, True, "MISS")])
def test_a_line_passes_at_its_goal_only(value, above, word, capsys):
    import gpu

    check = gpu.Check("tiny", 1)
    check.verdict("a number", value, 1.3, above=above)
    assert capsys.readouterr().out.startswith(word) and check.misses == (word == "MISS")


def test_the_least_work_is_counted_by_hand(tokenizer):
    import limit

    probe = Probe("p", CHOICES[:2])
    found = limit.work_of(probe, tokenizer)
    texts = [[tokenizer.encode(item.prompt + text)[:-1] for text in item.choices] for item in probe.items]
    prefixes = [{tuple(own[:n]) for own in rows for n in range(1, len(own) + 1)} for rows in texts]
    assert found.tokens == sum(map(len, prefixes))
    heads = [len(tokenizer.encode(item.prompt)) for item in probe.items]
    assert found.scored == sum(sum(len(p) >= n for p in own) for own, n in zip(prefixes, heads))
    written = limit.work_of(Probe("p", ANSWERS[:3]), tokenizer, [3, 1, 2])
    prompts = [len(tokenizer.encode(item.prompt)) for item in ANSWERS[:3]]
    assert (written.tokens, written.scored) == (sum(prompts), 3)
    assert written.steps == ((2, round((prompts[0] + prompts[2]) / 2)), (1, prompts[0] + 1))


def test_the_least_work_is_of_the_tokens_that_are_scored(tokenizer):
    import limit

    probe = Probe("p", [*CHOICES, *RECALLS])
    ours = [(row.item, row.tokens, row.n_context) for row in encode_items(probe, tokenizer).rows]
    assert [tuple(row) for row in limit.rows_of(probe, tokenizer)] == ours


@pytest.mark.parametrize("items", [CHOICES, RECALLS, ANSWERS])
def test_all_give_the_same_answers(items, tokenizer, make_model):
    import contestants

    model, probe = make_model(initializer_range=0.3), Probe("p", items)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        ours, naive = (make(probe, tokenizer, model)() for make in (contestants.make_ours, contestants.make_naive))
    assert contestants.differences(ours, naive) == {"items": 0, "log-probability": pytest.approx(0, abs=1e-4)}
    assert list(ours.answers) == list(naive.answers)
    other = contestants.Found([*ours.answers[:-1], None], ours.scores)
    assert contestants.differences(ours, other)["items"] == 1


def test_steps_of_the_limit_read_the_keys_and_values_that_are_there(tokenizer, make_model):
    import limit
    from transformers.cache_utils import Cache, DynamicCache

    model, ids = make_model(), torch.tensor([tokenizer.encode("The capital of France is")])
    cache, n = DynamicCache(), ids.shape[1] - 1
    with torch.no_grad():
        model(input_ids=ids[:, :-1], past_key_values=cache)
        room = torch.zeros_like(cache.layers[0].keys[:, :, :1])
        pairs = [[torch.cat([part, room], dim=2) for part in (layer.keys, layer.values)] for layer in cache.layers]
        fixed = Cache(layers=[limit.make_layer()(*pair) for pair in pairs])
        found = model(input_ids=ids[:, -1:], past_key_values=fixed, position_ids=torch.tensor([[n]])).logits[:, -1]
        expected = model(input_ids=ids).logits[:, -1]
        (call,) = limit.decode_calls(model, [(2, n)])
        assert call().logits.shape == (2, 1, model.config.vocab_size)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("number", range(3))
def test_subsets_are_unbiased_and_say_how_sure_they_are(number):
    import subset
    from simulated_worlds import Cell, Change

    rng = np.random.default_rng(0)
    pairs, margin = subset.of_world(Cell("uniform", Change(lost=0.1), n=2_000), rng)
    own = [*subset.numbers(pairs, margin)][number]
    assert own.scores.mean() == pytest.approx(
        transitions_of(pairs, own.name), abs=1e-12
    )  # of all items: what the product says
    assert not own.scores[own.stratum == 0].any()
    for design in (subset.uniform(own, 200), subset.weighted(own, 200), subset.best(own, 200)):
        assert sum(design.sizes) == pytest.approx(200, abs=2)
        assert sorted(np.concatenate(design.rows)) == [*range(2_000)]
        found = np.array([design.draw(own, rng)[0].mean for _ in range(400)])
        assert found.mean() == pytest.approx(own.scores.mean(), abs=4 * found.std() / 20)
        assert found.var() == pytest.approx(design.variance(own), rel=0.3)
    line = subset.row("world", own, 200, 300, rng)
    best, gain = float(line[5]), float(line[6])
    assert best > 1.2 and gain > 1.2 and all(int(cell[:-1]) >= 90 for cell in line[-3:])


def transitions_of(pairs, name):
    """The number by the product's own way."""
    if name == "forgetting":
        return float(((pairs.before == 1) & (pairs.after == 0)).mean())
    return knowledge_of(pairs.first() if name.endswith("one prompt") else pairs).lost.mean


def test_subsets_of_a_run_are_of_its_baseline_and_last_snapshot(tmp_path, monkeypatch, capsys):
    import subset

    items = [MultipleChoice(f"{i}", f"{i}?", [" a", " b", " c"], 0, variants=[f"{i}, say?"]) for i in range(60)]
    probe, rng, store = Probe("p", items), np.random.default_rng(0), Store(tmp_path)
    store.begin([probe])
    for step in range(3):
        choice = rng.integers(0, 3, (2, 60)) if step else np.zeros((2, 60), int)
        further = [Answers(probe.variant_fingerprints[0], (choice[1] == 0) * 1.0, choice=choice[1])]
        more = {"choice": choice[0], "margin": rng.normal(size=60), "further": further}
        one = Snapshot("p", probe.fingerprint, step, probe.ids, (choice[0] == 0) * 1.0, **more)
        store.write(complete(one, probe))
        moved = (choice[0] != 0).mean()
    monkeypatch.setattr(sys, "argv", ["subset.py", str(tmp_path), "--draws", "20", "--items", "30"])
    subset.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6 and f"| forgetting | {100 * moved:.1f}% |" in printed[2]
    assert printed[-1].endswith(f"60 items, {moved:.0%} of the further prompts are worth asking")


def test_what_a_rank_does_is_counted(tokenizer, make_model):
    import limit
    import sharding

    model = make_model()
    recalls = [replace(item, answer=" hot") for item in RECALLS]  # each further answer takes a row of logits of its own
    for probe in (Probe("p", CHOICES), Probe("r", recalls), Probe("g", ANSWERS)):
        scorer = Scorer(tokenizer, [probe])
        scorer.score(model)
        found = sharding.counted(model, partial(scorer.score, model))
        least = limit.work_of(probe, tokenizer, [1] * len(probe) if probe.name == "g" else ())
        assert found["tokens"] >= least.tokens and (found["generated"] > 0) == (probe.name == "g")
        assert found["scored"] == least.scored


def test_a_measured_cell_is_kept(tokenizer, make_model, tmp_path):
    make_model(max_position_embeddings=512).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    kept = {"items": 3, "tokens": 9, "forwarded": 9, "generated": 0, "differ": {}}
    kept["seconds"] = {"ours": [2.0, 9.0, 1.0], "limit": [1.0], "naive": [8.0]}
    (tmp_path / "speed.json").write_text(json.dumps({"letters": kept}))
    words = f"--model {tmp_path / 'model'} --out {tmp_path / 'speed.json'} --items 3 --repeats 1 --against naive limit"
    command = [sys.executable, BENCHMARKS / "scoring.py", *words.split(), "--only", "letters", "recall"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cells = json.loads((tmp_path / "speed.json").read_text())
    assert "| 3 letters | - | 4.00 | 2.00 | 1.00 |" in printed and cells["letters"] == kept
    assert cells["recall"]["differ"]["naive"]["items"] == 0 and "| 3 recall | - |" in printed


def test_pages_need_fewer_steps_and_no_more_than_the_memory(monkeypatch, capsys):
    import decode_steps

    words = "--answers 60 --mean 80 --limit 200 --prompt 20 --gib 0.2 1 8 --budget 512"
    monkeypatch.setattr(sys, "argv", ["decode_steps.py", *words.split()])
    decode_steps.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows] == ["0.2", "1", "8"]
    for _, reserved, paged, fewest, _, _, peak in rows:
        steps = [int(n.replace(",", "")) for n in (fewest, paged, reserved)]
        assert steps == sorted(steps) and float(peak) <= 1.2
    assert steps[1] < 0.8 * int(rows[0][1].replace(",", ""))


def test_a_simulated_answer_takes_a_step_for_each_token_but_the_first():
    import decode_steps

    assert decode_steps.paged([5], [7], 9, 100, 50) == decode_steps.Simulated(6, 5, 32 + 5)
    assert decode_steps.reserved([5], [7], 9, 100).steps == 6
    assert decode_steps.least([5], [7], 10**6) == 6
