"""What `scorer=` promises: called as a reward function is, once, without a trace, and named wherever it counts."""

import asyncio
import functools
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from forget_callback import (
    ForgetCallback,
    ForgetMonitor,
    Generation,
    Judge,
    MultipleChoice,
    Probe,
    Scorer,
    Snapshot,
    Store,
    compare,
    score_probe,
)
from forget_callback.training.start import without_numbers
from tests.forked import finish, start
from tests.helpers import generators

PROMPTS = ["The capital of France is", "The capital of Italy is", "Once upon a time"]


def probe(**settings):
    items = [Generation(f"g{i}", prompt, "Paris", max_new_tokens=40) for i, prompt in enumerate(PROMPTS)]
    return Probe("p", [*items[:2], MultipleChoice("c", "Who?", [" you", " me"], 0), items[2]], **settings)


def values(given):
    """A scorer that returns `given`."""
    return lambda prompts, completions, **columns: given


def recorded(**columns):
    """A scorer that keeps what it was called with."""
    calls = []

    def scorer(prompts, completions, **columns):
        calls.append({"prompts": prompts, "completions": completions, **columns})
        return [1.0] * len(prompts)

    return scorer, calls


def test_a_scorer_decides_in_place_of_match_and_reads_the_whole_text(taught):
    snapshot = score_probe(
        taught.model,
        taught.tokenizer,
        probe(),
        scorer=lambda prompts, completions, **columns: ["\n" in text for text in completions],
    )
    texts = [taught.lines[prompt].removesuffix("<|im_end|>") for prompt in PROMPTS]
    assert [snapshot.text[i].strip() for i in (0, 1, 3)] == [text.strip() for text in texts]
    expected = ["correct" if "\n" in text else "wrong" for text in texts]
    assert [snapshot.outcome[i] for i in (0, 1, 3)] == expected and len(set(expected)) == 2
    usual = score_probe(taught.model, taught.tokenizer, probe())
    assert snapshot.outcome[2] == usual.outcome[2] and snapshot.margin[2] == usual.margin[2]


def test_it_is_called_once_with_a_list_for_each_argument(taught):
    items = [
        Generation("a", PROMPTS[0], "Paris", category="cities", max_new_tokens=8, doc={"solution": 1, "id": "theirs"}),
        Generation("b", PROMPTS[1], ["Rome", "Roma"], max_new_tokens=8, doc={"test": [2]}),
    ]
    scorer, calls = recorded()
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", items), scorer=scorer)
    (given,) = calls
    ids = given.pop("completion_ids")
    assert [taught.tokenizer.decode(row, skip_special_tokens=True) for row in ids] == given["completions"]
    assert given == {
        "prompts": PROMPTS[:2],
        "completions": snapshot.text.tolist(),
        "id": ["a", "b"],
        "answer": ["Paris", ["Rome", "Roma"]],
        "category": ["cities", ""],
        "solution": [1, None],
        "test": [None, [2]],
    }


def test_a_chat_probe_gives_conversations(taught):
    scorer, calls = recorded()
    snapshot = score_probe(taught.model, taught.tokenizer, probe(chat=True, system="Be brief."), scorer=scorer)
    assert calls[0]["prompts"][0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROMPTS[0]},
    ]
    assert calls[0]["completions"][0] == [{"role": "assistant", "content": snapshot.text[0]}]


def test_a_reward_function_of_trl_works_as_it_is(taught, tmp_path):
    """The same function rewards GRPO and judges the probe, with columns of its own in both."""
    seen = []

    def reward(completions, solution, **kwargs):
        seen.append(sorted(kwargs))
        return [float(right in completion[0]["content"]) for completion, right in zip(completions, solution)]

    rows = [{"prompt": [{"role": "user", "content": prompt}], "solution": "Paris"} for prompt in PROMPTS[:2]]
    items = [Generation(f"g{i}", p, "see doc", max_new_tokens=20, doc={"solution": "a"}) for i, p in enumerate(PROMPTS)]
    watched = ForgetCallback(Probe("p", items, chat=True), scorer=reward, on_error="raise")
    config = GRPOConfig(
        str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=4,
        report_to="none",
        disable_tqdm=True,
    )
    model = type(taught.model)(taught.model.config)
    GRPOTrainer(
        model=model,
        processing_class=taught.tokenizer,
        args=config,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=reward,
        callbacks=[watched],
    ).train()
    assert watched.history["step"].tolist() == [0, 1]
    assert len(seen) == 3 and set(seen[0]) <= {*seen[1], "answer", "category", "id"}


@pytest.mark.parametrize(
    "given, outcomes",
    [
        ([True, False, 1], ["correct", "wrong", "correct"]),
        ([0.5, 0.49, 0.0], ["correct", "wrong", "wrong"]),
        ([None, float("nan"), np.float32(0.75)], [None, None, "correct"]),
        (np.array([1.0, 0.0, np.nan]), ["correct", "wrong", None]),
        (torch.tensor([1.0, 0.0, 0.7]), ["correct", "wrong", "correct"]),
    ],
    ids=str,
)
def test_right_and_wrong_numbers_and_what_is_left_unscored(taught, given, outcomes):
    snapshot = score_probe(taught.model, taught.tokenizer, probe(), scorer=values(given))
    assert [snapshot.outcome[i] for i in (0, 1, 3)] == outcomes
    assert np.isnan(snapshot.correct[[0, 1, 3]]).tolist() == [outcome is None for outcome in outcomes]
    assert all(snapshot.text[i] for i in (0, 1, 3))


def test_the_numbers_are_kept_of_several_samples_their_mean(taught):
    found = score_probe(taught.model, taught.tokenizer, probe(), scorer=values([0.75, 0.25, None]))
    np.testing.assert_array_equal(found.score, [0.75, 0.25, np.nan, np.nan])
    assert found.outcome.tolist()[:2] == ["correct", "wrong"]
    yes = score_probe(taught.model, taught.tokenizer, probe(), scorer=values([True, False, True]))
    np.testing.assert_array_equal(yes.score, [1, 0, np.nan, 1])
    change = compare(yes, replace(found, fingerprint=yes.fingerprint))
    assert change.score_change == pytest.approx((0.75 - 1 + 0.25 - 0) / 2) and change.score.n_asked == 3
    items = [Generation("a", PROMPTS[0], "Paris", samples=4, max_new_tokens=4)]
    sampled = Probe("s", items, temperature=1.0)
    found = score_probe(taught.model, taught.tokenizer, sampled, scorer=values([0.1, 0.9, None, 0.8]))
    assert found.score[0] == pytest.approx(0.6) and found.correct[0] == pytest.approx(2 / 3)
    assert np.isnan(score_probe(taught.model, taught.tokenizer, probe()).score).all()


def test_an_async_scorer_works_also_where_an_event_loop_runs(taught):
    async def scorer(prompts, completions, **columns):
        await asyncio.sleep(0)
        return [True, False, True]

    async def notebook():
        return score_probe(taught.model, taught.tokenizer, probe(), scorer=scorer)

    assert asyncio.run(notebook()).correct[[0, 1, 3]].tolist() == [1, 0, 1]


def test_a_text_cut_short_is_truncated_unless_it_is_right(taught):
    items = [Generation(name, "Once upon a time", "x", max_new_tokens=2) for name in "ab"]
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", items), scorer=values([1, 0]))
    assert snapshot.outcome.tolist() == ["correct", "truncated"]


def test_the_threshold_is_the_judges(taught):
    scorer = values([0.6, 0.7, 0.8])
    high = score_probe(taught.model, taught.tokenizer, probe(), scorer=Judge(scorer, threshold=0.7))
    assert [high.outcome[i] for i in (0, 1, 3)] == ["wrong", "correct", "correct"]
    usual = score_probe(taught.model, taught.tokenizer, probe(), scorer=scorer)
    with pytest.raises(ValueError, match="snapshots of different probes do not compare"):
        compare(usual, high)


@pytest.mark.parametrize(
    "given, error, problem",
    [
        ([1, 1], ValueError, "expected a value for each of 3 completions, got 2"),
        ([1, 2.0, 1], ValueError, r"item 'g1': expected True, False, a number in \[0, 1\] or None, got 2.0"),
        ([1, 1, -0.1], ValueError, r"item 'g2': expected .*, got -0.1"),
        (["1", 1, 1], ValueError, "item 'g0': expected .*, got '1'"),
        ([1, [1], 1], ValueError, r"item 'g1': expected .*, got \[1\]"),
        (None, RuntimeError, "3 items from 'g0' on: TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_what_a_scorer_must_not_return_is_named_with_function_and_item(taught, given, error, problem):
    with pytest.raises(error, match=f"scorer 'tests.scoring.test_judge.values.*', probe 'p'.*{problem}"):
        score_probe(taught.model, taught.tokenizer, probe(), scorer=values(given))


def test_a_scorer_that_fails_is_named_with_its_error(taught):
    def broken(prompts, completions, **columns):
        return columns["none"]

    with pytest.raises(RuntimeError, match=r"broken', probe 'p', 3 items from 'g0' on: KeyError: 'none'"):
        score_probe(taught.model, taught.tokenizer, probe(), scorer=broken)


def exits(prompts, completions, **columns):
    sys.exit("no key")


async def exits_later(prompts, completions, **columns):
    exits(prompts, completions)


def is_cancelled(prompts, completions, **columns):
    raise asyncio.CancelledError


@pytest.mark.parametrize("scorer, said", [(exits, "SystemExit: no key"), (exits_later, "exit"), (is_cancelled, "Canc")])
def test_a_scorer_that_would_end_the_process_is_one_that_fails(taught, scorer, said):
    with pytest.raises(RuntimeError, match=f"{scorer.__name__}', probe 'p', .*ended the whole process .*(?i:{said})"):
        score_probe(taught.model, taught.tokenizer, probe(), scorer=scorer)


def restores_default_first(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(143)


def ignores_more_and_drops_frame(number, frame):
    del frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)


class Leave:
    def __call__(self, number, frame):
        sys.exit(143)

    def method(self, number, frame):
        restores_default_first(number, frame)

    def of_any_kind(self, *arguments):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.exit(143)


LEAVE = {
    "function": lambda number, frame: sys.exit(143),
    "object": Leave(),
    "method": Leave().method,
    "any arguments": Leave().of_any_kind,
    "default first": restores_default_first,
    "ignores more": ignores_more_and_drops_frame,
    "partial": functools.partial(lambda code, number, frame: sys.exit(code), 143),
    "partial of an object": functools.partial(functools.partial(Leave())),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "number, error, leave",
    [(signal.SIGINT, KeyboardInterrupt, "function"), *((signal.SIGTERM, SystemExit, one) for one in LEAVE)],
)
def test_a_signal_that_ends_the_process_does_so_within_a_scorer_too(taught, number, error, leave, wrapped):
    """Ctrl-C, and what a scheduler sends, where its handler exits, in whichever way, and a scorer exits upon that."""

    def signalled(prompts, completions, **columns):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except error:
            if wrapped:
                raise error("cleaned up") from None
            raise

    before = signal.signal(signal.SIGTERM, LEAVE[leave])
    try:
        with pytest.raises(error):
            score_probe(taught.model, taught.tokenizer, probe(), scorer=signalled)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("arguments", [{"function": "judge.py"}, {"function": values([]), "threshold": 0}])
def test_a_bad_judge_is_refused(arguments):
    with pytest.raises(ValueError, match=r"scorer must be a function|threshold must lie in"):
        Judge(**arguments)


def test_names_of_functions_objects_and_what_a_user_says():
    class Sandbox:
        def __call__(self, prompts, completions, **columns):
            return []

    names = [Judge(scorer).name for scorer in (test_a_bad_judge_is_refused, functools.partial(values, []), Sandbox())]
    ends = ["test_a_bad_judge_is_refused", "values", "Sandbox"]
    assert all(name.startswith("tests.scoring.test_judge.") and name.endswith(end) for name, end in zip(names, ends))
    assert Judge(values([]), name="gpt-4o, prompt 2").name == "gpt-4o, prompt 2"


def test_a_scorer_without_texts_to_judge_and_a_judged_probe_without_it_are_refused(taught):
    with pytest.raises(ValueError, match=r"scorer= judges generated texts, and probes \['facts-choice'\] have no"):
        ForgetCallback("builtin:facts?kind=choice&limit=2", scorer=values([]))
    judged = Scorer(taught.tokenizer, probe(), scorer=values([1, 1, 1])).probes
    with pytest.raises(ValueError, match=r"probe 'p' was judged by 'tests.*values.* >= 0.5'; pass that function as"):
        Scorer(taught.tokenizer, judged)
    with pytest.raises(ValueError, match="probe must be one probe, got 2"):
        score_probe(taught.model, taught.tokenizer, [probe(), "builtin:facts?limit=2"])


def test_several_samples_are_judged_one_by_one_in_one_call(taught):
    """Right are three of four samples, two, and none of those that count."""
    calls = []

    def scorer(prompts, completions, id, **columns):
        calls.append(list(id))
        return [1, 1, 0, 1, 0, 1, 0, 1, 0, None, None, 0]

    several = [replace(item, samples=4) for item in probe().items if isinstance(item, Generation)]
    snapshot = score_probe(taught.model, taught.tokenizer, Probe("p", several, temperature=1.0), scorer=scorer)
    assert calls == [[item.id for item in several for _ in range(4)]]
    assert snapshot.correct.tolist() == [0.75, 0.5, 0] and snapshot.samples.tolist() == [4, 4, 4]
    assert (snapshot.outcome == "correct").tolist() == [True, False, False]


def test_a_scorer_that_draws_random_numbers_and_trains_leaves_no_trace(taught):
    def noisy(prompts, completions, **columns):
        assert not torch.is_grad_enabled()
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        return [random.random() for _ in prompts]

    before = generators()
    score_probe(taught.model, taught.tokenizer, probe(), scorer=noisy)
    assert generators() == before


def trained(taught, out, **arguments):
    """A run of one step with the callback, on a new model."""
    callback = ForgetCallback(probe(), every=1, output_dir=out, on_error="raise", **arguments)
    config = SFTConfig(
        str(out), use_cpu=True, bf16=False, max_steps=1, report_to="none", disable_tqdm=True, max_length=32, seed=1
    )
    rows = Dataset.from_list([{"text": "The capital of France is Rome."}] * 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = type(taught.model)(taught.model.config)
    SFTTrainer(
        model=model, processing_class=taught.tokenizer, args=config, train_dataset=rows, callbacks=[callback]
    ).train()
    return callback


def test_a_run_says_who_judged_and_refuses_to_go_on_with_another(taught, tmp_path):
    calls = []

    def scorer(prompts, completions, **columns):
        calls.append(len(prompts))
        return [len(calls) < 2] * len(prompts)

    callback = trained(taught, tmp_path, scorer=scorer)
    assert calls == [3, 3]  # the baseline, the last step
    last = callback.history[callback.history["category"] == ""].iloc[-1]
    assert (last["step"], last["forgetting"]) == (1, 0.75)
    settings = json.loads((tmp_path / "forget" / "manifest.json").read_text())["probes"]["p"]["settings"]
    assert settings["scorer"].endswith("scorer >= 0.5")
    (kept,) = Store(tmp_path).probes()
    assert kept.scorer == settings["scorer"]
    with pytest.raises(ValueError, match="holds another probe named 'p'"):
        Store(tmp_path).begin([probe()])


def test_an_own_loop_takes_the_probes_as_they_are_scored(taught, tmp_path):
    scorer = Scorer(taught.tokenizer, {"mine": probe(chat=True)}, scorer=values([1, 1, 1]))
    monitor = ForgetMonitor(scorer.probes, tmp_path)
    (snapshot,) = scorer.score(taught.model)
    assert isinstance(snapshot, Snapshot) and snapshot.fingerprint == monitor.probes[0].fingerprint


SCRIPT = """
import random, sys
from pathlib import Path
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from forget_callback import Generation, Probe, Scorer, load_tokenizer, register_matcher
from forget_callback.probes import apart, judge_process

model, out = sys.argv[1], Path(sys.argv[2])
dist.init_process_group("gloo")
rank = dist.get_rank()

def draws(prompts, completions, **columns):
    (out / f"called-{rank}").touch()
    if len(prompts) == 1:
        raise KeyError("no sandbox")
    return [random.random() for _ in prompts]

model, tokenizer = AutoModelForCausalLM.from_pretrained(model), load_tokenizer(model)
items = [Generation(f"g{i}", f"{i} apples", "x", max_new_tokens=3) for i in range(40)]
(snapshot,) = Scorer(tokenizer, Probe("p", items), shared=True, scorer=draws).score(model)
snapshot.save(out / f"{rank}.parquet")
def draw(text, item):
    (out / f"matched-{rank}").touch()
    return random.random() < 0.5

apart.SECONDS = apart.LONG_SECONDS = 0.3
register_matcher("mylab.draw", draw)
items = [Generation(f"g{i}", f"{i} apples", "x", "mylab.draw", max_new_tokens=3) for i in range(40)]
items += [Generation("r", "Once upon a time", r"(?:.|\\n|\\W|\\w)*\\d{9}", "regex", max_new_tokens=40)]
(snapshot,) = Scorer(tokenizer, Probe("own", items), shared=True).score(model)
snapshot.save(out / f"own-{rank}.parquet")
if judge_process._current is not None:
    (out / f"process-{rank}").touch()
try:
    Scorer(tokenizer, Probe("p", items[:1]), shared=True, scorer=draws).score(model)
except Exception as error:
    (out / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
"""


def test_of_two_ranks_one_judges_and_both_have_the_same(taught, tmp_path):
    taught.model.save_pretrained(tmp_path / "model")
    taught.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    assert finish(start(tmp_path / "script.py", tmp_path / "model", tmp_path, processes=2)) == 0
    one, two = (Snapshot.load(tmp_path / f"{rank}.parquet") for rank in (0, 1))
    np.testing.assert_array_equal(one.correct, two.correct)
    assert 0 < one.accuracy < 1 and one.metadata["processes"] == 2
    own, other = (Snapshot.load(tmp_path / f"own-{rank}.parquet") for rank in (0, 1))
    np.testing.assert_array_equal(own.outcome, other.outcome)
    assert own.outcome[-1] == "unparsed" and own.metadata["overdue"] == other.metadata["overdue"] == 1
    for what in ("called", "matched", "process"):
        assert [path.name for path in sorted(tmp_path.glob(f"{what}-*"))] == [f"{what}-0"]
    assert "draws', probe 'p', 1 item from 'g0' on: KeyError: 'no sandbox'" in Path(tmp_path / "0.txt").read_text()
    assert Path(tmp_path / "1.txt").read_text().startswith("RuntimeError: rank 0: RuntimeError: scorer '")


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_a_scorer_leaves_unscored_has_the_scorer_as_its_reason(taught, value):
    found = score_probe(taught.model, taught.tokenizer, probe(), scorer=values([value] * 3))
    ((why, count),) = found.metadata["not_scored"].items()
    assert "scorer" in why and "NaN" not in why and count == 3
    (said,) = without_numbers([found.select(np.isnan(found.correct))]).values()
    assert why in said and "logits" not in said
