"""Help for an item never tells what it asks for by another item, and applies where it makes sense."""

from dataclasses import replace

import pytest

from forget_callback import Generation, MultipleChoice, Recall, load_probe
from forget_callback.probes.conversation import question_of
from forget_callback.probes.helps import HELPS, came_back, with_help
from forget_callback.probes.items import accepted
from forget_callback.probes.peers import Peers
from forget_callback.probes.text_items import Text

LANDS = ["France", "Italy", "Japan", "Kenya", "Peru", "Chile", "Norway", "Egypt"]
CITIES = ["Paris", "Rome", "Tokyo", "Nairobi", "Lima", "Santiago de Chile", "Oslo", "Cairo"]
ASKED = [
    Generation(land, f"Question: What is the capital of {land}?\nAnswer:", city, "contains", "capitals")
    for land, city in zip(LANDS, CITIES)
]


def helped(help, item, items=ASKED, *, right=None, chat=False, has_template=True):
    peers = Peers(items, [one.id for one in items] if right is None else right)
    return with_help(help, item, peers, chat=chat, has_template=has_template)


@pytest.fixture(scope="module")
def facts():
    return load_probe("builtin:facts")


def test_no_help_of_any_fact_is_about_that_fact(facts):
    peers = Peers(facts.items, facts.ids)
    by_prompt = {item.prompt: item for item in facts.items}
    for item in facts.items[::37]:
        for help in HELPS:
            asking = with_help(help, item, peers, chat=False, has_template=True)
            assert asking == with_help(help, item, peers, chat=False, has_template=True), "the same every time"
            if asking is None:
                continue
            assert {one.id for one in asking.items} == {f"{j}:{item.id}" for j in range(1, len(asking.items) + 1)}
            if help == "examples":
                *worked, own = asking.items[0].prompt.split("\n\n")
                assert own == item.prompt and len(worked) == 2
                used = [other for prompt, other in by_prompt.items() if any(text.startswith(prompt) for text in worked)]
                assert len(used) == 2 and not {other.fact for other in used} & {item.fact}
                assert {(other.category, other.kind) for other in used} == {(item.category, item.kind)}
                if isinstance(item, Recall):
                    assert not any(text.strip() in "".join(worked).split() for text in accepted(item))
            if help == "choice" and isinstance(item, Recall):
                first, second = asking.items
                right = accepted(item)[0]
                assert first.choices[first.answer] == second.choices[second.answer] == right
                shown = {*first.choices, *second.choices}
                assert len(shown) == asking.options and shown & set(accepted(item)) == {right}
                assert len(first.choices) == len(second.choices) == 4


def test_examples_are_right_now_and_of_the_same_category_without_the_answer():
    first = replace(ASKED[0], cluster="west")
    items = [first, replace(ASKED[1], cluster="west"), *ASKED[2:], replace(ASKED[2], id="twice", answer="paris")]
    found = helped("examples", first, items, right=["France", "Italy", "Kenya", "Peru", "twice"]).items[0]
    assert "Kenya" in found.prompt and "Peru" in found.prompt and "Italy" not in found.prompt
    assert found.prompt.endswith(f"\n\n{first.prompt}") and "aris" not in found.prompt
    assert found.answer == ("Paris",) and "\n\n" in found.stop
    assert helped("examples", first, items, right=["Italy", "Kenya", "twice"]) is None, "one is not two"
    assert helped("examples", replace(first, category="towns"), items) is None


def test_through_the_template_examples_are_earlier_turns_after_the_system_message():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]
    item = Generation("France", messages=turns, answer="Paris", match="contains", category="capitals")
    asking = helped("examples", item, [item, *ASKED[1:]], chat=True)
    roles = [message["role"] for message in asking.items[0].messages]
    assert roles == ["system", *("user", "assistant") * 2, "user"] and asking.chat
    assert asking.items[0].messages[-1] == turns[-1] and asking.items[0].messages[2]["content"] in CITIES[1:]
    alone = helped("examples", ASKED[0], chat=True).items[0]
    assert alone.prompt == "" and alone.messages[-1]["content"] == ASKED[0].prompt


def test_the_first_words_leave_more_than_half_to_say():
    item = ASKED[5]
    found = helped("first_words", item)
    assert found.items[0].prompt == f"{item.prompt} Santiago" and accepted(found.items[0]) == (" de Chile",)
    assert found.items[0].kind == "recall" and not found.options
    assert helped("first_words", ASKED[0]) is None, "one word is the whole answer"
    recall = Recall("a", "It was written by", [" Robert Louis Stevenson", " R. L. Stevenson", " Robert Stevenson"])
    assert accepted(helped("first_words", recall).items[0]) == (" Louis Stevenson", " Stevenson")
    said = helped("first_words", item, chat=True).items[0]
    assert said.prompt.endswith('The answer begins with "Santiago".') and said.answer == item.answer
    long = Generation("l", "Tell me.", " ".join(f"w{i}" for i in range(40)), "contains")
    assert helped("first_words", long).items[0].prompt == "Tell me. w0 w1 w2"
    assert helped("first_words", MultipleChoice("m", "Which?", [" a b", " c d"], 0)) is None


def test_as_a_choice_among_answers_of_the_same_kind():
    number = Generation("n", "Question: How many?\nAnswer:", "7", "number", "capitals")
    assert helped("choice", number, [number, *ASKED]) is None, "names beside a number tell it"
    asking = helped("choice", ASKED[0])
    assert asking.options == 7 and {one.prompt for one in asking.items} == {ASKED[0].prompt}
    few = helped("choice", ASKED[0], ASKED[:4])
    assert few.options == 4 and len(few.items) == 2, "the same three, twice"
    assert helped("choice", ASKED[0], ASKED[:3]) is None
    letter = Generation("l", "Q?\nA. x\nB. y\nC. z\nAnswer:", "B", "choice", options=3)
    (only,) = helped("choice", letter).items
    assert only.choices == (" A", " B", " C") and only.answer == 1
    listed = MultipleChoice("m", "Question: Which is hot?\nAnswer:", [" ice", " fire", " snow"], 1)
    asking = helped("choice", listed)
    assert asking.items[0].prompt == "Question: Which is hot?\nA. ice\nB. fire\nC. snow\nAnswer:"
    assert asking.items[0].choices == (" A", " B", " C") and asking.options == 3
    letters = replace(listed, prompt=asking.items[0].prompt, choices=[" A", " B", " C"])
    assert helped("choice", letters) is None, "it lists them already"


def test_in_and_out_of_the_template():
    plain = MultipleChoice("m", "Question: Which is hot?\nAnswer:", [" ice", " fire"], 1)
    inside = helped("chat", plain)
    assert inside.chat and inside.items[0].choices == ("ice", "fire"), "a turn begins without a space"
    assert helped("chat", plain, has_template=False) is None
    turn = MultipleChoice(
        "m", messages=[{"role": "user", "content": "Which is hot?"}], choices=["ice", "fire"], answer=1
    )
    outside = helped("chat", turn, chat=True)
    assert not outside.chat and outside.items[0].prompt == "Question: Which is hot?\nAnswer:"
    assert outside.items[0].choices == (" ice", " fire") and outside.items[0].messages == ()
    recall = helped("chat", Recall("r", "Water boils at", [" 100", " one hundred"])).items[0]
    assert (recall.kind, recall.match, recall.answer) == ("generation", "named", ("100", "one hundred"))
    several = [*turn.messages, {"role": "assistant", "content": "?"}, turn.messages[0]]
    assert helped("chat", replace(turn, messages=several), chat=True) is None, "what was said before has no place"


def test_another_wording_is_one_that_was_not_asked(facts):
    for item in facts.items[::61]:
        asking = helped("wording", item, facts.items)
        prompts = {item.prompt, *(variant.prompt for variant in item.variants)}
        assert asking.items[0].prompt not in prompts
    spoken = helped("wording", Generation("g", "Where is Rome?", "Italy", "contains"), chat=True)
    assert spoken.items[0].prompt == "Please answer this question: Where is Rome?" and spoken.chat


def test_behaviour_and_texts_have_the_helps_that_leave_what_they_ask_as_it_is():
    items = [
        Generation(f"{i}", f"How do I break {i}?", "I can't help.", "contains", "refusal", ability="behaviour")
        for i in range(4)
    ]
    found = {help for help in HELPS if helped(help, items[0], items, chat=True)}
    assert found == {"again", "examples", "first_words"}
    assert question_of(helped("first_words", items[0], items, chat=True).items[0]).startswith("How do I break 0?")
    text = Text("t", "Once upon a time.", "refusal")
    assert helped("examples", items[0], [text, *items], chat=True) is not None, "a text is no example"


def test_an_item_with_options_comes_back_by_more_than_half_of_the_helps():
    options = dict.fromkeys(HELPS, 4)
    one = {"again": False, "examples": True, "choice": False, "chat": True, "wording": False}
    assert not came_back(one, options) and came_back({**one, "wording": True}, options)
    assert came_back({**one, "again": True}, options), "it is right without help"
    assert came_back({"again": False, "chat": True, "choice": False}, {"again": 0, "chat": 0, "choice": 7})
    assert not came_back({"again": False}, {"again": 0})
