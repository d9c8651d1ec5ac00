"""The study: a run is one file with all that was measured, is not run twice, and the tables follow from the files."""

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from tests.smoke import make_untaught

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("recipes")


@pytest.fixture(scope="module")
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "recipes")
        yield


@pytest.fixture(scope="module")
def out(recipes, tmp_path_factory):
    """Three runs of a tiny model that was taught nothing, so that no time goes into teaching it."""
    import study

    place = tmp_path_factory.mktemp("study")
    make_untaught(place)
    (place / "model-128").rename(place / "model")
    study.main(["--out", str(place), "--seeds", "0", "--only", "sft-hot", "replay-pack", "grpo-small"])
    return place


@pytest.fixture
def runs(out):
    return {path.stem: json.loads(path.read_text()) for path in (out / "runs").glob("*.json")}


def made(name, seed, *looks, conflicts=0.1):
    """A run whose evaluations have these numbers, by probe and metric."""
    base = {"n": 10, "knowledge_method": "exact", "margin": 0.0}
    rows = [
        {"step": step, "probe": probe, **base, **numbers}
        for step, look in enumerate(looks)
        for probe, numbers in look.items()
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = {"columns": columns, "rows": [[row.get(key) for key in columns] for row in rows]}
    return {"name": name, "seed": seed, "conflicts": {"share": conflicts}, "minutes": 3.0, "history": table}


def look(task, lost, **facts):
    numbers = {"n": 30, "knowledge_method": "choice", "knowledge_lost": lost, **facts}
    return {
        "task": {"accuracy_after": task},
        "facts-choice": numbers,
        "arc": {**numbers, "n": 10, "knowledge_lost": lost + 0.4},
        "all": {
            "knowledge_method": "choice",
            "knowledge_lost": 9.0,
            "knowledge_lost_low": lost - 0.1,
            "knowledge_lost_high": lost + 0.3,
        },
        "tickets": {"kl": lost},
    }


@pytest.mark.in_turn(2)
def test_a_run_is_a_file_with_every_evaluation(out, runs):
    import study_record

    assert sorted(runs) == ["grpo-small-0", "replay-pack-0", "sft-hot-0"]
    run = runs["sft-hot-0"]
    history = study_record.frame_of(run["history"])
    assert sorted(set(history["step"])) == [0, 1, 4, 8]
    assert set(history["probe"]) == {"facts-choice", "behaviour-instructions", "text", "task", "tickets", "all"}
    assert history.loc[history["probe"] == "tickets", "kl"].iloc[-1] > 0
    for probe, own in run["items"].items():
        if probe in ("text", "tickets"):
            continue
        ids = json.loads((out / "items" / f"{probe}-{own['fingerprint'][:12]}.json").read_text())
        for step, right in zip((0, 1, 4, 8), own["correct"]):
            row = history[(history["probe"] == probe) & (history["step"] == step)].iloc[0]
            assert len(right) == len(ids) == row["n"] and "-" not in right
            assert right.count("1") / len(right) == pytest.approx(row["accuracy_after"])
    assert {"correct_2", "choice_2"} <= set(run["items"]["facts-choice"])
    assert str(out) not in json.dumps(run) and run["settings"]["dataset_name"] == "sft.jsonl"
    assert run["settings"]["learning_rate"] == 2 * 5e-4 and run["minutes"] > 0 and "torch" in run["versions"]
    assert 0 <= run["conflicts"]["share"] <= 1 and runs["grpo-small-0"]["conflicts"] is None
    assert (out / "runs" / "sft-hot-0.json").stat().st_size < 100_000
    assert not (out / "work" / "sft-hot-0" / "model").exists()


@pytest.mark.in_turn(2)
def test_the_dial_is_part_of_its_run(runs):
    import study_tables

    before, *_, most = study_tables.looks(runs["sft-hot-0"], "dial")
    assert [point["step"].iloc[0] for point in (before, most)] == [0, 75]
    assert study_tables.TASK(before) == study_tables.TASK(study_tables.looks(runs["sft-hot-0"])[0])
    assert study_tables.TEXT(most) != 0


@pytest.mark.in_turn(2)
def test_what_was_lost_is_replayed_and_nothing_that_is_asked(out, runs):
    import study
    import study_data

    from forget_callback import load_probe

    watched = load_probe(study.TINY["probes"][0])
    pool = study_data.replay_pool(watched)
    chosen = [pool[place] for place in runs["sft-hot-0"]["pack"]]
    replayed = [json.loads(line) for line in (out / "work" / "replay-pack-0" / "replay.jsonl").read_text().splitlines()]
    assert replayed == chosen and len(chosen) == study.TINY["replay"]
    asked = {item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:") for item in watched.items}
    assert asked.isdisjoint(row["prompt"][0]["content"] for row in pool)


@pytest.mark.in_turn(2)
def test_a_run_that_is_there_is_not_run_again_and_a_budget_starts_none(out, monkeypatch, capsys):
    import study

    started = []
    monkeypatch.setattr(study, "train", lambda name, seed, *rest: started.append((name, seed)) or {"minutes": 50})
    monkeypatch.setattr(study, "whole", lambda path, run: None)
    study.main(["--out", str(out), "--only", "sft-hot", "lora", "--seeds", "0", "1", "--budget-minutes", "40"])
    assert started == [("lora", 0)], "the next one would take 50 minutes as well"
    assert "sft-hot-1 and later ones are left" in capsys.readouterr().out


@pytest.mark.in_turn(2)
def test_a_pack_needs_what_another_run_lost(out, tmp_path, capsys):
    import study

    shutil.copytree(out / "model", tmp_path / "model")
    words = ["--out", str(tmp_path), "--only", "replay-pack", "--seeds", "7"]
    study.main(words)
    assert "sft-hot-7.json must be there first" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sft-hot-7.json").write_text('{"pack": "there is nothing to replay"}')
    study.main(words)
    assert "replay-pack-7 is left out: there is nothing to replay" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "replay-pack-7.json").exists()


def test_held_out_tickets_state_other_problems_of_other_products():
    import study_data

    trained, asked = study_data.tickets(540, 3), study_data.tickets(60, 0, held_out=True)
    texts = [turns[-1]["content"] for turns, _ in (*trained, *asked)]
    assert len(set(texts)) == len(texts) == 600
    assert [sum(thing == name for _, thing in trained) for name in study_data.THINGS.split()] == [5] * 108
    assert all(thing in turns[-1]["content"] for turns, thing in (*trained, *asked))
    assert {thing for _, thing in trained}.isdisjoint(thing for _, thing in asked)
    assert {thing for _, thing in study_data.EXAMPLES}.isdisjoint(thing for _, thing in (*trained, *asked))
    said = lambda turns, thing: turns[-1]["content"].replace(thing, "{}")  # noqa: E731
    old = {said(*one) for one in trained}
    assert old.isdisjoint(said(*one) for one in asked)
    assert study_data.tickets(540, 3) == trained != study_data.tickets(540, 4)


def test_the_reward_wants_the_product_and_nothing_else():
    import study_data

    said = ["Lamp", "lamp.", "It is a lamp", "a kettle", ""]
    completions = [[{"role": "assistant", "content": text}] for text in said]
    assert study_data.named(completions, product=["lamp"] * 5) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_conflict_is_a_sure_model_and_another_token():
    import study_record

    sure = torch.tensor([9.0, 0.0, 0.0, 0.0])  # of token 0, entropy far below 1 nat
    logits = torch.stack([sure, sure, torch.zeros(4), sure])[None]  # the last predicts nothing
    labels = torch.tensor([[-100, 0, 1, 1]])  # agreed; a conflict; unlikely for a model that is not sure
    trainer = SimpleNamespace(
        train_dataset=[labels],
        data_collator=lambda rows: {"input_ids": rows[0], "labels": rows[0]},
        model=type("Model", (), {"device": "cpu", "__call__": lambda self, **batch: SimpleNamespace(logits=logits)})(),
    )
    assert study_record.confident_conflicts(trainer) == {"share": pytest.approx(1 / 3), "tokens": 3}


def test_a_cell_is_the_mean_over_seeds_with_students_interval():
    import study_tables

    ends = [0.1, 0.2, 0.6]
    runs = [made("sft-hot", seed, look(0.2, 0.0), look(0.9, lost)) for seed, lost in enumerate(ends)]
    half = 100 * stats.t.interval(0.95, 2, scale=stats.sem(ends))[1]
    cells = study_tables.findings(runs).splitlines()[-1].split(" | ")
    place = list(study_tables.FINDINGS).index("knowledge lost") + 2
    assert cells[:2] == ["| SFT, twice the rate", "2 of 3"], "the interval of one run holds 0"
    assert cells[place] == f"{30 + 10:.1f} ± {half:.1f}", "30 items of one probe and 10 of another, which lost .4 more"
    assert "| - (0 of 3 runs) |" in study_tables.findings(runs)


def test_other_items_would_change_a_run_by_its_own_interval():
    import study_tables

    runs = [made("sft-hot", seed, look(0.2, 0.0), look(0.9, 0.1)) for seed in range(2)]
    assert study_tables.item_noise(runs).endswith(" is ± 20.0 (knowledge lost) on average.")


def test_regimes_are_compared_seed_by_seed():
    import study_tables

    lost = {"sft-hot": {0: 0.2, 1: 0.3, 2: 0.9, 3: 0.6}, "sft-large": {0: 0.1, 1: 0.1, 3: 0.1}}
    runs = [made(name, seed, look(0.2, 0.0), look(0.9, end)) for name, own in lost.items() for seed, end in own.items()]
    half = 100 * stats.t.interval(0.95, 2, scale=stats.sem([0.1, 0.2, 0.5]))[1]
    (row,) = study_tables.contrasts(runs).splitlines()[2:]
    cells = row.split(" | ")
    assert cells[0] == "| SFT, twice the rate, less SFT, more data (3)"
    assert cells[list(study_tables.FINDINGS).index("knowledge lost") + 1] == f"26.7 ± {half:.1f}"


def test_mitigations_are_compared_where_the_task_is_at_one_level():
    import study_tables

    plain = made("sft-hot", 0, look(0.2, 0.0), look(1.0, 0.4))
    spared = made("lora", 0, look(0.2, 0.0), look(0.8, 0.1), look(1.0, 0.2))
    never = made("grpo-large", 0, look(0.2, 0.0), look(0.7, 0.1))
    lost = study_tables.of("facts", "knowledge_lost")
    assert study_tables.crossing(study_tables.looks(plain), lost, level=0.8) == pytest.approx(0.3)
    assert math.isnan(study_tables.crossing(study_tables.looks(never), lost))
    plain["dial"] = {"history": made("", 0, look(0.2, 0.0), look(0.6, 0.0))["history"]}
    ends, less = study_tables.mitigations([plain, spared, never])
    assert "| SFT, twice the rate, 1% of it | 60.0 | 10.0 | - (0 of 1 runs) | - (0 of 1 runs) |" in ends
    assert "| the dial | 12.5 |" in less, "at 75%, .275 less 3/8 of the way from 0 at 60% to .4 at 100%"
    assert "| LoRA, 10 times the rate | 18.3 |" in less
    assert "| GRPO, more data | - (0 of 1 runs) |" in less


def test_what_warns_early_is_ranked_with_what_was_lost_in_the_end():
    import study_tables

    names = list(study_tables.NAMES)
    runs = [
        made(names[place % 5], place, look(0.2, 0.0), look(0.5, place / 50), look(0.9, place / 20), conflicts=-place)
        for place in range(10)
    ]
    rows = {line.split(" | ")[0]: line.split(" | ")[1] for line in study_tables.warnings(runs).splitlines()}
    assert rows["| KL on the new task"] == "1.00 [1.00, 1.00]"
    assert rows["| confident conflicts"] == "-1.00 [-1.00, -1.00]"
    assert rows["| fall of the margin"] == "all equal"
    assert rows["| KL on other text"] == "too few: 0 runs of 0 regimes"


def test_a_rank_correlation_is_scipys():
    import study_tables

    x, y = np.random.default_rng(0).integers(0, 9, (2, 30))
    assert study_tables.rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_seeds_of_a_regime_are_no_independent_runs():
    import study_tables

    x, regimes = np.repeat(np.arange(5.0), 8), np.repeat(np.arange(5), 8)
    y = np.repeat([1.0, 0.0, 2.0, 4.0, 3.0], 8) + 0.01 * np.random.default_rng(1).random(40)

    def width(groups):
        low, high = study_tables.spearman(x, y, groups).split("[")[1].strip("]").split(", ")
        return float(high) - float(low)

    assert width(regimes) > 1.5 * width(np.arange(40))
    assert study_tables.spearman(x[:7], y[:7], regimes[:7]).startswith("too few: 7 runs of 1 regimes")


def test_the_page_shows_the_tables_of_the_runs_that_are_kept():
    import study_record
    import study_tables

    kept = [study_record.read_run(path) for path in sorted((ROOT / "recipes/study/smollm2/runs").glob("*.json"))]
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    for part in study_tables.text(kept).split("\n\n"):
        assert part in page


def test_every_number_in_the_page_s_words_is_in_its_tables():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    words = page.partition("## What it found")[2].partition("## On your model")[0]
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    generated = [
        line
        for line in page.splitlines()
        if line.startswith(("Other items: ", "Texts had got worse by "))
        or re.fullmatch(r"\d+ runs, [\d.]+ hours\.", line)
    ]
    shown = set(re.findall(r"\d+\.\d+", "\n".join([*tables, *generated])))
    said = re.findall(r"(?<![\d.])\d{1,3}\.\d+(?![\d.])", "\n".join(set(words.splitlines()) - {*tables, *generated}))
    assert len(said) > 30 and set(said) <= shown, sorted(set(said) - shown)


def test_what_the_package_says_of_the_study_is_what_its_runs_show():
    import study_record
    import study_tables

    kept = [study_record.read_run(path) for path in sorted((ROOT / "recipes/study/smollm2/runs").glob("*.json"))]
    table = (ROOT / "forget_callback" / "runs" / "early_warnings.tsv").read_text(encoding="utf-8")
    assert study_tables.early_table(kept) == table


def text(change, low):
    return {"bits_per_byte_before": 2.0, "bits_per_byte_change": change, "bits_per_byte_change_low": low}


def test_what_followed_where_texts_got_worse_early():
    import study_tables

    def run(name, early, late, lost=0.0):
        return made(name, 0, look(0, 0), {**look(0, 0), "text": text(*early)}, {**look(0, lost), "text": text(*late)})

    runs = [
        run("sft-hot", (0.1, 0.05), (0.2, 0.1)),
        run("sft-hotter", (0.2, 0.1), (0.8, 0.1), lost=0.3),
        run("lora", (0.1, 0.05), (0.3, 0.1)),
        run("replay-own", (0.1, -0.1), (0.5, 0.1)),
        run("grpo-large", (0.1, -0.1), (0.1, -0.1)),
    ]
    assert study_tables.early_rises(runs) == (
        "Texts had got worse by more than noise after the first eighth of 3 runs. A loss shows at the end of 3 of "
        "these (knowledge in 1, behaviour in 0, text in 3), and of 1 of the 2 others. The rise was 2.0 to 4.0 times as "
        "large at the end; 1 of 3 lie within what runs of other regimes say."
    )


def test_a_line_of_early_warnings_has_the_first_numbers_and_the_last_losses():
    import study_tables

    quiet = {"text": text(0.0, 0.0), "behaviour": {"net_change_high": 0.0}}
    first = {"text": text(0.1, -0.02), "behaviour": {"net_change_high": 0.1}}
    last = {"text": text(0.5, 0.2), "behaviour": {"net_change_high": -0.1}}
    looks = [
        {**look(0.2, 0.0, drift=0.0), **quiet},
        {**look(0.5, 0.05, drift=0.7), **first},
        {**look(0.7, 0.5), **first},
        {**look(0.9, 0.1), **last},
    ]
    heads, line = (one.split("\t") for one in study_tables.early_table([made("lora", 2, *looks)]).splitlines())
    assert dict(zip(heads, line)) == {
        "name": "lora-2",
        "text_worse": "0.05",
        "text_worse_low": "-0.01",
        "kl": "0.05",
        "drift": "0.7",
        "text_worse_last": "0.25",
        "lost": "behaviour text",  # of knowledge the interval begins at 0
    }


def test_everything_is_shown(runs, tmp_path):
    import study_tables

    text = study_tables.text(list(runs.values()))
    assert text.startswith("3 runs, ") and "too few: 3 runs" in text
    assert "SFT, twice the rate, 50% of it" in text
    for draw in (study_tables.figure, study_tables.curves):
        draw(list(runs.values()), tmp_path / "drawn.png")
        assert (tmp_path / "drawn.png").read_bytes()[:4] == b"\x89PNG"
        (tmp_path / "drawn.png").unlink()
