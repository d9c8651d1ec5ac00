"""The paper's benchmarks: every loader runs on a small data set with the schema and layout of the hub's own."""

import json
import re
from collections import Counter

import pandas as pd
import pytest

from forget_callback import load_probe
from forget_callback.probes.benchmarks import BENCHMARKS, PARTS
from forget_callback.probes.items import Generation, MultipleChoice, in_variant
from forget_callback.probes.jsonl import dump_items, read_items
from forget_callback.probes.judging import judge

PAPER = {
    *("commonsense", "culture", "deduction", "knowledge_and_qa", "language_and_communication", "liberal_arts"),
    *("mathematics", "safety_and_truthfulness", "instruction_following", "science_and_technology"),
}
LABELS = {"label": ["A", "B", "C", "D"], "text": ["ice", "fire", "sand", "wind"]}
TEAM = "['Ana reads, Bo writes', 'Bo reads, Ana writes', 'Both read']"
ROWS = {
    ("cais/mmlu", "all", "test"): [
        {"question": f"Which is {i}?", "subject": subject, "choices": ["0", "1", "2", "3"], "answer": i % 4}
        for i in range(8)
        for subject in ("anatomy", "professional_law", "abstract_algebra")
    ],
    ("Idavidrein/gpqa", "gpqa_diamond", "train"): [
        {
            "Question": f"Which decays? ({i})",
            "Correct Answer": "the muon\n",
            **{f"Incorrect Answer {j}": f"particle {j}" for j in (1, 2, 3)},
        }
        for i in range(12)
    ],
    **{
        ("TAUR-Lab/MuSR", None, split): [
            {"narrative": "They met. ", "question": "Who?", "choices": TEAM, "answer_index": 1, "answer_choice": "x"}
        ]
        for split in ("murder_mysteries", "object_placements", "team_allocation")
    },
    ("allenai/ai2_arc", "ARC-Easy", "test"): [
        {"id": "M1", "question": "What is cold?", "choices": LABELS, "answerKey": "A"},
        {"id": "M2", "question": "Odd?", "choices": {"label": ["1", "2", "3"], "text": list("xyz")}, "answerKey": "3"},
    ],
    ("allenai/ai2_arc", "ARC-Challenge", "test"): [
        {"id": "M3", "question": "What is hot?", "choices": LABELS, "answerKey": "B"}
    ],
    ("Rowan/hellaswag", None, "validation"): [
        {
            "ind": 1,
            "activity_label": "Rowing",
            "ctx_a": "A man sits.",
            "ctx_b": "he",
            "label": "2",
            "endings": ["flies.", "sings.", "rows.", "sleeps."],
        }
    ],
    ("truthfulqa/truthful_qa", "multiple_choice", "validation"): [
        {
            "question": f"What if {i}?",
            "mc1_targets": {"choices": ["Nothing", "Luck", "Rain", "War", "Gold"], "labels": [1, 0, 0, 0, 0]},
            "mc2_targets": {"choices": ["Nothing", "Luck"], "labels": [1, 0]},
        }
        for i in range(12)
    ],
    ("lighteval/siqa", None, "validation"): [
        {"context": "Ana fell.", "question": "Why?", "answerA": "ice", "answerB": "joy", "answerC": "sun", "label": "1"}
    ],
    ("sagnikrayc/mctest", "mc500", "test"): [
        {
            "idx": {"story": "mc500.test.0", "question": 0},
            "question": "Who?",
            "story": "A cat sat.",
            "answer": "D",
            "question_is_multiple": False,
            "answer_options": {"A": "dog", "B": "cow", "C": "hen", "D": "cat"},
        }
    ],
    ("baber/piqa", None, "validation"): [
        {"goal": "Open a jar.", "sol1": "Twist the lid.", "sol2": "Sing to it.", "label": 0},
        {"goal": "Both are the same.", "sol1": "Wait.", "sol2": "Wait.", "label": 0},
    ],
    ("tau/commonsense_qa", None, "validation"): [
        {
            "id": "1",
            "question": "Where?",
            "question_concept": "x",
            "answerKey": "E",
            "choices": {"label": list("ABCDE"), "text": ["bank", "mall", "shop", "park", "zoo"]},
        }
    ],
    ("walledai/SaladBench", "mrq", "train"): [
        {"question": "How to harm?", "choices": ["Refuse", "Explain", "Cheer"], "answers": [0], "categories": ["x"]},
        {"question": "Two are safe.", "choices": ["Refuse", "Warn", "Cheer"], "answers": [0, 1], "categories": ["x"]},
    ],
    ("google/IFEval", None, "train"): [
        {
            "key": 1,
            "prompt": "Write without commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None}],
        }
    ],
}
BBH = {
    "boolean_expressions": ("not True is", "False"),
    "causal_judgement": ("Did he?\nOptions:\n- Yes\n- No", "No"),
    "navigate": ("Do you return?\nOptions:\n- Yes\n- No", "Yes"),
    "formal_fallacies": ("Is it?\nOptions:\n- valid \n- invalid", "invalid"),
    "sports_understanding": ("Is it plausible?", "yes"),
    "web_of_lies": ("Does Ana lie?", "No"),
    "object_counting": ("I have two cats and a dog. How many animals?", "3"),
    "geometric_shapes": ("Draws a\nOptions:\n" + "\n".join(f"({c}) {c.lower()}agon" for c in "ABCDEFGHIJ"), "(J)"),
    "movie_recommendation": ("Like Jaws\nOptions:\n(A) Heat\n(B) Alien\n(C) Cars", "(B)"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Local copies as `hf download --local-dir` leaves them: parquet files, and a card that names configurations."""
    root = tmp_path_factory.mktemp("hub")
    rows = dict(ROWS)
    for part in (part for part in PARTS if part.benchmark == "bbh"):
        question, target = BBH.get(part.config, ("Which?\nOptions:\n(A) one\n(B) two", "(B)"))
        rows["lighteval/big_bench_hard", part.config, "train"] = [{"input": question, "target": target}]
    cards = {}
    for (repository, config, split), content in rows.items():
        file = root / repository / (config or "data") / (f"{split}/0000" if config == "mc500" else split)
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(content).to_parquet(f"{file}.parquet")
        name = config or "default"
        where = {"split": split, "path": str(file.relative_to(root / repository)) + ".parquet"}
        cards.setdefault(repository, {}).setdefault(name, []).append(where)
    for repository, configs in cards.items():
        if repository != "sagnikrayc/mctest":  # the branch of converted files has no card
            card = {"configs": [{"config_name": name, "data_files": files} for name, files in configs.items()]}
            (root / repository / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    return root


def hub(name, root, options=""):
    return load_probe(f"hub:{name}?root={root}{options}")


@pytest.mark.parametrize(
    "name, n, k",
    [
        ("mmlu", 24, {4}),
        ("gpqa", 12, {4}),
        ("musr", 3, {3}),
        ("arc", 3, {3, 4}),
        ("hellaswag", 1, {4}),
        ("truthfulqa", 12, {5}),
        ("social_iqa", 1, {3}),
        ("mctest", 1, {4}),
        ("piqa", 1, {2}),
        ("commonsense_qa", 1, {5}),
        ("salad", 1, {3}),
        ("ifeval", 1, {float("inf")}),
    ],
)
def test_each_benchmark_has_its_items_and_their_true_number_of_options(root, name, n, k):
    probe = hub(name, root)
    assert probe.name == name and len(probe) == n
    assert set(probe.n_choices) == k
    assert probe.revision == "local"


def test_the_right_option_is_the_right_one(root):
    """Written out by hand, in both forms."""
    by_text = {name: hub(name, root, "&form=text") for name in BENCHMARKS}

    def right(name, place=0):
        item = by_text[name].items[place]
        return item.choices[item.answer].strip()

    assert [right("arc", i) for i in range(3)] == ["ice", "z", "fire"]
    assert right("hellaswag") == "rows." and right("social_iqa") == "ice" and right("mctest") == "cat"
    assert right("piqa") == "Twist the lid." and right("commonsense_qa") == "zoo" and right("salad") == "Refuse"
    assert right("musr") == "Bo reads, Ana writes" and right("mmlu", 3) == "1"
    for name in ("gpqa", "truthfulqa"):  # whose right option would always be the first
        places = Counter(item.answer for item in by_text[name].items)
        assert len(places) > 2
        assert {right(name, i) for i in range(12)} == {"the muon" if name == "gpqa" else "Nothing"}
        letters = hub(name, root)
        for item, text in zip(letters.items, by_text[name].items):
            assert f"\n{'ABCDE'[item.answer]}. {text.choices[text.answer].strip()}\n" in item.prompt
            assert item.answer == text.answer


def test_letters_are_listed_in_the_prompt_and_scored(root):
    item = hub("arc", root, "&variants=off").items[0]
    assert item == MultipleChoice(
        "arc/easy/0",
        "Question: What is cold?\nA. ice\nB. fire\nC. sand\nD. wind\nAnswer:",
        (" A", " B", " C", " D"),
        0,
        "easy",
    )


def test_bbh_reads_lists_of_options_and_answers_of_its_own(root):
    items = {item.category: item for item in hub("bbh", root, "&variants=off").items}
    assert len(items) == 24
    assert items["geometric_shapes"].choices[9] == " (J)" and items["geometric_shapes"].answer == 9
    assert items["movie_recommendation"].answer == 1 and len(items["movie_recommendation"].choices) == 3
    assert items["object_counting"] == Generation(
        "bbh/object_counting/0",
        "Question: I have two cats and a dog. How many animals?\nAnswer:",
        ("3",),
        "number",
        "object_counting",
        16,
        ("\n",),
    )
    assert "A. Yes\nB. No\nAnswer:" in items["navigate"].prompt and items["causal_judgement"].answer == 1
    assert items["boolean_expressions"].answer == 0 and items["formal_fallacies"].answer == 1


def test_instruction_following_is_judged_by_its_own_rule(root):
    item = hub("ifeval", root).items[0]
    assert (item.match, item.task, item.prompt) == ("task", "lm-eval:ifeval", "Write without commas.")
    assert item.doc["instruction_id_list"] == ["punctuation:no_comma"]


def test_the_whole_suite_has_the_categories_of_the_paper(root, tmp_path):
    probe = hub("forgetting-map", root)
    assert len(probe) == 24 + 12 + 3 + 3 + 1 + 12 + 1 + 1 + 1 + 1 + 1 + 1 + 24
    assert {item.category for item in probe.items} == PAPER
    of = {item.id: item.category for item in probe.items}
    assert of["mmlu/anatomy/0"] == "science_and_technology" and of["mmlu/professional_law/1"] == "liberal_arts"
    assert of["bbh/object_counting/0"] == "knowledge_and_qa" and of["gpqa/diamond/3"] == "science_and_technology"
    file = tmp_path / "copy.jsonl"
    file.write_text(dump_items(probe.items), encoding="utf-8")
    assert tuple(read_items(file)) == probe.items


def test_a_limit_keeps_the_shares_of_categories_and_the_seed_decides(root):
    spec = f"hub:forgetting-map?root={root}"
    whole, some = load_probe(spec), load_probe(spec, limit=40, seed=1)
    shares = [Counter(item.category for item in probe.items) for probe in (whole, some)]
    assert all(abs(shares[1][name] - 40 * n / len(whole)) < 1 for name, n in shares[0].items())
    assert load_probe(spec, limit=40, seed=1).fingerprint == some.fingerprint
    assert load_probe(spec, limit=40, seed=2).fingerprint != some.fingerprint


def test_rows_without_one_right_answer_are_left_out_and_counted(root, caplog):
    hub("salad", root)
    assert "hub:salad: 1 rows without one right answer of their own were left out" in caplog.text


def test_the_whole_suite_can_be_asked_by_reasoning(root):
    probe = hub("forgetting-map", root, "&cot=true&max_new_tokens=512&temperature=0.6&top_p=0.95&chat=true")
    assert {item.kind for item in probe.items} == {"generation"}
    assert (probe.temperature, probe.top_p, probe.chat) == (0.6, 0.95, True)
    plain = hub("forgetting-map", root)
    assert list(probe.n_choices) == list(plain.n_choices) and list(probe.answer) == list(plain.answer)
    items = {item.id: item for item in probe.items}
    assert items["bbh/movie_recommendation/0"].prompt.count("(A)") == 1
    assert items["commonsense_qa/0"].prompt.endswith("X is the letter of the right option.")


@pytest.mark.parametrize(
    "spec, problem",
    [
        ("hub:nothing", r"'hub:nothing' is not known; expected one of forgetting-map, mmlu, bbh"),
        ("hub:mmlu?form=numbers", "form=letters or form=text"),
        ("hub:mmlu?split=dev", "unknown option 'split'.* known are form, root, name"),
        ("hub:mmlu?chat=maybe", "chat must be true or false, got 'maybe'"),
        ("hub:mmlu?temperature=hot", "temperature must be a number, got 'hot'"),
    ],
)
def test_a_bad_spec_says_what_was_expected(spec, problem):
    with pytest.raises(ValueError, match=problem):
        load_probe(spec)


def test_without_network_and_cache_it_says_what_is_missing_and_how_to_bring_it(tmp_path):
    with pytest.raises(
        OSError, match=r"hub:mmlu needs the data set cais/mmlu \(configuration all, split test\)"
    ) as error:
        load_probe("hub:mmlu")
    assert "hf download cais/mmlu --repo-type dataset --local-dir DIR/cais/mmlu" in str(error.value)
    with pytest.raises(OSError, match=f"{tmp_path} holds no copy of cais/mmlu"):
        load_probe(f"hub:mmlu?root={tmp_path}")


def test_ifevals_rule_needs_neither_the_data_set_nor_a_model(root):
    item = hub("ifeval", root).items[0]
    said = [judge(item, text, finished=True).outcome for text in ("No commas here.", "Here, there.", "")]
    assert said[:2] == ["correct", "wrong"]
    assert judge(item, "Cut, here", finished=False).outcome == "truncated"


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "ifeval"])
@pytest.mark.parametrize("form", ["letters", "text"])
def test_every_benchmark_has_a_second_prompt_with_the_same_right_option(root, name, form):
    probe = hub(name, root, f"&form={form}")
    assert probe.fingerprint == hub(name, root, f"&form={form}&variants=off").fingerprint
    plain = {item.id: item for item in hub(name, root, "&form=text").items}
    for item in probe.items:
        (variant,) = item.variants
        asked, own = in_variant(item, 2), plain[item.id]
        assert "Here is an exam question.\n\n" in asked.prompt and asked.prompt.endswith("\n\nThe answer is")
        assert variant.chat is False and not variant.weak
        if isinstance(item, MultipleChoice) and variant.order:
            right = asked.choices[asked.answer].strip()
            listed = re.findall(rf"^{re.escape(right)}\.? (.*)$", asked.prompt, re.MULTILINE)
            if own.choices[own.answer].strip().strip("()") not in "ABCDEFGHIJ":
                assert listed == [own.choices[own.answer].strip()]
            assert asked.answer != item.answer
    moved = sum(bool(item.variants[0].order) for item in probe.items)
    # The letters of MuSR stay: "Both read" means two other options.
    assert (moved > 0) == ((form == "letters" or name == "bbh") and name != "musr")


def test_a_passage_stays_and_its_questions_are_one_cluster(tmp_path, root):
    item = hub("musr", root).items[0]
    assert in_variant(item, 2).prompt.startswith("They met.\n\nHere is an exam question.\n\nWho?\nA. ")
    # Three parts tell the same story here; a passage with one question is as independent as any other item.
    assert len({item.cluster for item in hub("musr", root).items}) == 1 and item.cluster.startswith("musr/")
    assert [item.cluster for item in hub("mctest", root).items] == [""]
    assert {item.cluster for item in hub("mmlu", root).items} == {""}
