"""The dial: ends are the models themselves, points between are interpolations by hand, for full weights and LoRA."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from forget_callback import MultipleChoice, Probe, Snapshot, score_probe
from forget_callback.metrics.knowledge import lost_by_item
from forget_callback.metrics.transitions import pairs_of
from forget_callback.probes.jsonl import dump_items
from forget_callback.runs.comparison import compare_checkpoints, overall
from forget_callback.scoring.loading import load_model
from forget_callback.tools.dial import Point, as_good, best_point, dial_table, finding, turn_dial
from tests.helpers import teach

WORDS = [" Paris", " Rome", " Tokyo", " hot"]
OLD = [(f"Question: which is {i}? Answer:", WORDS[i % 4]) for i in range(12)]
NEW = [(f"She has {i} apples, so the result is", WORDS[(i + 1) % 4]) for i in range(12)]


def probe(name, lines):
    asked = [(q, WORDS.index(a), ("odd" if i % 2 else "even")) for i, (q, a) in enumerate(lines)]
    return Probe(name, [MultipleChoice(f"{name}-{i}", q, WORDS, a, category=c) for i, (q, a, c) in enumerate(asked)])


KEPT, TASK = probe("kept", OLD), probe("task", NEW)


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_model, make_tokenizer):
    """Directories of a model that knows OLD, of its fine-tuning on NEW, and of a LoRA adapter for NEW."""
    root, tokenizer = tmp_path_factory.mktemp("models"), make_tokenizer()
    model = teach(make_model(), tokenizer, OLD)
    for name in ("before", "after"):
        if name == "after":
            teach(model, tokenizer, NEW, steps=60)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(load_model(str(root / "before")), config)
    teach(tuned, tokenizer, NEW, lr=2e-2).save_pretrained(root / "adapter")
    for name in ("kept", "task"):
        (root / f"{name}.jsonl").write_text(dump_items({"kept": KEPT, "task": TASK}[name].items))
    return root, tokenizer


def dial(root, after, **options):
    return turn_dial(str(root / "before"), str(root / after), [KEPT], TASK, **options)


@pytest.mark.parametrize("after", ["after", "adapter"])
def test_the_ends_are_the_models_themselves(models, after):
    root, tokenizer = models
    first, last = dial(root, after, shares=[0, 1])
    ends = [load_model(str(root / "before")), load_model(str(root / after))]
    for point, model in zip((first, last), ends):
        alone = score_probe(model.eval(), tokenizer, TASK)
        np.testing.assert_allclose(np.stack(point.task.scores), np.stack(alone.scores), atol=1e-4)
        assert point.task.accuracy == alone.accuracy
    assert first.change.transitions.n10 == 0 and first.change.transitions.accuracy_after == 1
    assert last.task.accuracy == 1 and last.change.transitions.accuracy_after < 1
    assert [point.change.transitions.n for point in (first, last)] == [len(OLD)] * 2


def test_between_them_stand_interpolated_weights(models):
    root, tokenizer = models
    middle = dial(root, "after", shares=[0.25])[1]
    by_hand, after = load_model(str(root / "before")), load_model(str(root / "after")).state_dict()
    by_hand.load_state_dict({name: 0.75 * w + 0.25 * after[name] for name, w in by_hand.state_dict().items()})
    expected = score_probe(by_hand.eval(), tokenizer, TASK)
    np.testing.assert_allclose(np.stack(middle.task.scores), np.stack(expected.scores), atol=1e-4)


def test_of_an_adapter_the_scale_is_turned(models):
    root, tokenizer = models
    middle = dial(root, "adapter", shares=[0.5])[1]
    by_hand = load_model(str(root / "before"))
    weights = dict(by_hand.named_parameters())
    adapter = load_model(str(root / "adapter"))
    modules = dict(adapter.named_modules())
    changed = 0
    with torch.no_grad():
        for name in modules:
            if name.endswith(".lora_A"):
                layer = modules[name.removesuffix(".lora_A")]
                (key,) = layer.lora_A
                delta = layer.lora_B[key].weight @ layer.lora_A[key].weight * 2.0  # alpha / r
                weights[f"{name.removesuffix('.lora_A')}.weight"] += 0.5 * delta
                changed += 1
    assert changed > 6
    expected = score_probe(by_hand.eval(), tokenizer, TASK)
    np.testing.assert_allclose(np.stack(middle.task.scores), np.stack(expected.scores), atol=1e-3)


@pytest.mark.parametrize("after", ["after", "adapter"])
def test_the_best_point_has_most_of_the_task_less_what_was_lost_and_can_be_saved(models, tmp_path, after):
    root, tokenizer = models
    points = dial(root, after, save=tmp_path / "best")
    assert [point.share for point in points] == [0, 0.25, 0.5, 0.75, 1]
    gains = [point.task.accuracy - point.change.transitions.knowledge_lost for point in points]
    best = best_point(points)
    assert best.gain == max(gains) and best.share == points[int(np.argmax(gains))].share
    saved = score_probe(load_model(str(tmp_path / "best")).eval(), tokenizer, TASK)
    np.testing.assert_allclose(np.stack(saved.scores), np.stack(best.task.scores), atol=1e-3)


def test_the_command_prints_the_points_and_the_best(models, run_cli):
    root, _ = models
    command = ["dial", root / "before", root / "after", "--probe", root / "kept.jsonl", "--task", root / "task.jsonl"]
    status, out, _ = run_cli(*command, "--points", "0,1", "--format", "json")
    told = json.loads(out)
    assert status == 0 and [row["share"] for row in told["points"]] == [0, 1]
    assert told["points"][1]["task_accuracy"] == 1 and told["points"][0]["n10"] == 0
    assert told["best"] in (0, 1) and set(told["as_good"]) <= {0, 1} - {told["best"]}
    status, out, _ = run_cli(*command)
    assert status == 0 and out.count("best") == 1 and "knowledge lost" in out


def points(rng, *, right, lost, n=300, k=4):
    """Points on a line made by hand: each item has one draw, so that what the points share cancels.

    Args:
        right: Share of the task's items that each point answers.
        lost: Share of the 70% of the probe's items that were known, that each point has lost.
    """
    key, known = rng.integers(k, size=n), rng.random(n) < 0.7
    first = np.where(known, key, rng.integers(k, size=n))
    solved, gone = rng.random(n), rng.random(n)

    def look(name, choice):
        ids = [f"{name}{i}" for i in range(n)]
        return Snapshot(name, "f", 0, ids, choice == key, choice=choice, answer=key, n_choices=[k] * n)

    before = look("kept", first)
    made = []
    for i, (a, b) in enumerate(zip(right, lost)):
        now = look("kept", np.where(known & (gone > b), key, rng.integers(k, size=n)))
        wavers = np.abs(rng.normal(0, 0.05, n))  # so that points of one accuracy differ in some items
        task = look("task", np.where(solved + wavers < a, key, (key + 1) % k))
        change = overall(compare_checkpoints({"kept": before}, {"kept": now}))
        scores = lost_by_item(pairs_of(before, now)).astype(np.float32)
        made.append(Point(i / (len(right) - 1), task, (now,), change, scores))
    return made


def test_among_points_that_are_alike_none_is_called_the_best():
    """Five points of one true gain: in at most one of twenty dials the highest is said to be higher than all others."""
    rng, claimed = np.random.default_rng(0), 0
    for _ in range(60):
        same = points(rng, right=[0.5] * 5, lost=[0.2] * 5)
        claimed += not as_good(same, best_point(same))
    assert claimed <= 6  # 3 are expected at most


def test_a_point_that_is_better_than_all_is_found():
    rng = np.random.default_rng(1)
    for _ in range(20):
        made = points(rng, right=[0.1, 0.6, 0.7], lost=[0.0, 0.05, 0.6])
        best = best_point(made)
        assert best is made[1] and as_good(made, best) == []
        assert finding(made, best) == "0.5 is the best: the others have less by more than noise"
        assert "▹" not in "".join(map(str, dial_table(made, best, task="task").columns[0].cells))


def test_points_that_overlap_are_named():
    made = points(np.random.default_rng(2), right=[0.1, 0.60, 0.62, 0.6], lost=[0.0, 0.1, 0.1, 0.6], n=200)
    best = best_point(made)
    same = as_good(made, best)
    assert best in made[1:3] and same == [point for point in made[1:3] if point is not best]
    told = finding(made, best)
    assert told.startswith("no point is the best: ") and f"but {same[0].share:g} does not differ from it" in told
    cells = list(dial_table(made, best, task="task").columns[0].cells)
    assert sorted(cell[:2] for cell in cells[1:3]) == ["▸ ", "▹ "] and cells[::3] == ["0", "1"]


def test_the_interval_of_the_gain_holds_the_true_difference():
    """Of 120 dials, the 95% interval of the difference of two points holds the truth in 110 or more, and is paired."""
    rng, held, narrower = np.random.default_rng(3), 0, 0
    truth = (0.7 - 0.5) - (0.3 - 0.1) * 0.7
    shift = 0.04  # what the wavering takes from both accuracies, which cancels
    for _ in range(120):
        low_gain, high_gain = points(rng, right=[0.5 + shift, 0.7 + shift], lost=[0.1, 0.3], n=250)
        low, high = high_gain.gain_over(low_gain)
        held += low <= truth <= high
        alone = [point.task_interval for point in (low_gain, high_gain)]
        narrower += high - low < sum(end.high - end.low for end in alone) + 0.2
    assert held >= 110 and narrower == 120


def test_one_item_decides_nothing():
    made = points(np.random.default_rng(4), right=[0.0, 1.1], lost=[0.0, 0.0], n=1)
    assert as_good(made, best_point(made)), "one item says nothing"


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--points", "0,2"], "points must be numbers from 0 (before) to 1 (after)"),
        (["--points", "half"], "--points must be numbers from 0 to 1 with commas, got 'half'"),
        (["--probe", "task.jsonl"], "with different names are needed"),
    ],
)
def test_bad_input_is_an_error(models, run_cli, monkeypatch, options, problem):
    root, _ = models
    monkeypatch.chdir(root)
    status, out, err = run_cli("dial", "before", "after", "--probe", "kept.jsonl", "--task", "task.jsonl", *options)
    assert status == 2 and not out
    assert problem in " ".join(err.split())


def test_models_of_other_shapes_do_not_fit(models, make_model, tmp_path):
    root, _ = models
    make_model(hidden_size=32).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="the models do not match"):
        turn_dial(str(root / "before"), str(tmp_path / "other"), [KEPT], TASK)
