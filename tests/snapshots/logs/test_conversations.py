"""Logs whose prompts are conversations: people see who said what, whatever form the tool wrote it in."""

import json

import pytest

from forget_callback.snapshots.logs import LogOptions, read_logs
from forget_callback.snapshots.logs.conversations import messages_in
from tests.snapshots.logs.test_lm_eval import read, row  # noqa: F401 - a fixture
from tests.snapshots.logs.test_per_item import lines
from tests.snapshots.logs.test_rollouts import nemo, rollout, verl

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is it?\n\nsystem: none"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "What is 東京?"},
]
HEADER = "<|start_header_id|>{}<|end_header_id|>"
# As the families' templates render it, shortened, and what is left of it without special tokens.
RENDERED = {
    "ChatML": ("<|im_start|>{}\n{}<|im_end|>\n", "<|im_start|>assistant\n"),
    "ChatML that opens a thought": ("<|im_start|>{}\n{}<|im_end|>\n", "<|im_start|>assistant\n<think>\n"),
    "Llama 3": (f"{HEADER}\n\n{{}}<|eot_id|>", f"{HEADER}\n\n".format("assistant")),
    "Gemma": ("<start_of_turn>{}\n{}<end_of_turn>\n", "<start_of_turn>model\n"),
    "Phi": ("<|{}|>\n{}<|end|>\n", "<|assistant|>\n"),
    "Zephyr": ("<|{}|>\n{}</s>\n", "<|assistant|>\n"),
    "verl's, of ChatML": ("{}\n{}\n", "assistant\n"),
}  # fmt: skip


@pytest.mark.parametrize("form", RENDERED)
@pytest.mark.parametrize("begin", ["", "<s>", "<|begin_of_text|>"])
def test_rendered_prompts_are_read_back(form, begin):
    turn, opened = RENDERED[form]
    text = begin + "".join(turn.format(one["role"], one["content"]) for one in TALK) + opened
    assert list(messages_in(text)) == TALK


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "Question: who?\nAnswer:",
            "user\nis a word",
            "The user\nsaid\nassistant\n",
            "[1, 2]",
            "[",
            "assistant\n",
        ),
        *("user\nWho?\nassistant\nThe answer is", "<|im_start|>user\nWho?<|im_end|>\n", "Say <|im_start|>user\n"),
        *(None, [], [1], [{"content": "x"}], {"role": "user"}, [{"role": "assistant", "content": "I"}], 7.0),
    ],
)
def test_what_is_no_conversation_stays_what_it_is(value):
    assert messages_in(value) == ()


def test_lists_in_the_words_of_other_tools():
    given = [
        {"from": "human", "value": "Hi"},
        {"role": "ai", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        {"role": "function", "content": [{"type": "text", "text": "13"}, {"type": "image_url"}]},
        {"role": "assistant", "content": ""},
    ]
    user, assistant, tool = messages_in(given)
    assert user == {"role": "user", "content": "Hi"} and tool == {"role": "tool", "content": "13\n[image_url]"}
    assert assistant["tool_calls"][0]["function"]["name"] == "add"


def test_a_log_of_lm_eval_with_a_chat_template(read):  # noqa: F811
    rendered = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in TALK)
    rendered += "<|im_start|>assistant\n"
    for prompt in (rendered, [json.dumps([{**one, "type": "text"} for one in TALK])]):  # of a model here, of a server
        arguments = {f"gen_args_{j}": {"arg_0": prompt, "arg_1": text} for j, text in enumerate((" a", " b"))}
        asked = [row(0, arguments=arguments, scores=(-1.0, -2.0)), row(1, options=("a", "b"), scores=(-1.0, -2.0))]
        if isinstance(prompt, list):
            asked = [
                row(0, arguments={"gen_args_0": {"arg_0": prompt, "arg_1": {}}}, resps=[["a"]], filtered_resps=["a"])
            ]
        log, _ = read(asked)
        first, *rest = log.to_probe().items
        assert [{k: v for k, v in one.items() if k != "type"} for one in first.messages] == TALK
        assert [item.prompt for item in rest] == ["Q1"] * len(rest)


def test_dumps_of_trainers_and_files_with_messages(tmp_path):
    text = "".join(f"{one['role']}\n{one['content']}\n" for one in TALK) + "assistant\n"
    given = [{"role": "user", "content": "Q0"}]
    files = {
        "verl": (verl(0, [1.0], prompts=[text]), TALK),
        "nemo": (nemo([1.0]), given),
        "verifiers": ([rollout(0, 1.0, prompt=TALK)], TALK),
        "own": ([{"id": "a", "score": 1, "messages": TALK}], TALK),
        "prompt": ([{"id": "a", "score": 1, "prompt": TALK}], TALK),
        "plain": ([{"id": "a", "score": 1, "prompt": "Who?"}], None),
    }
    for name, (rows, talk) in files.items():
        (log,) = read_logs(lines(tmp_path / f"{name}.jsonl", *rows), LogOptions(note=str)).values()
        (item,) = log.to_probe().items
        assert list(item.messages) == (talk or []), name
        assert item.prompt == ("" if talk else "Who?")
