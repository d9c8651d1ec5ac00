"""Special tokens that say that a tool is called are part of what a judge of tool calls reads, and of no other text."""

from dataclasses import replace

import pytest

from forget_callback import Generation, Probe, score_probe
from tests.helpers import teach

MARKS = ["[TOOL_CALLS]", "<|python_tag|>", "<|channel|>", "<|message|>"]
CALLS = {
    "Who wrote this?": '[TOOL_CALLS]find{"x": 1}',
    "What is it?": "<|python_tag|>find.call(x=1)",
    "Once upon a time": '<|channel|>to=functions.find<|message|>{"x": 1}',
}
TOOL = {"name": "find", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
TEMPLATE = "{% if tools %}{{ tools[0].name }} {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}:"


@pytest.fixture
def tokenizer_with_marks(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_call_that_special_tokens_mark_is_read(make_model, tokenizer_with_marks):
    tokenizer = tokenizer_with_marks
    model = teach(
        make_model(vocab_size=len(tokenizer)),
        tokenizer,
        [
            (f"{start}{question}:", call + tokenizer.eos_token)
            for start in ("find ", "")
            for question, call in CALLS.items()
        ],
    )
    answer = '{"name": "find", "arguments": {"x": 1}}'
    calls = [
        Generation(f"{match} {i}", messages=[{"role": "user", "content": question}], tools=[TOOL], match=match, **more)
        for i, question in enumerate(CALLS)
        for match, more in (("tool_call", {"answer": answer}), ("no_tool_call", {"answer": "No."}))
    ]
    calls = [replace(item, max_new_tokens=60) for item in calls]
    plain = [
        Generation(f"plain {i}", question, "find", "contains", max_new_tokens=60) for i, question in enumerate(CALLS)
    ]
    snapshot = score_probe(model, tokenizer, Probe("p", [*calls, *plain], chat=True))
    outcomes = dict(zip(snapshot.ids, snapshot.outcome))
    texts = dict(zip(snapshot.ids, snapshot.text))
    for i, call in enumerate(CALLS.values()):
        assert texts[f"tool_call {i}"].strip() == call
        assert not any(mark in texts[f"plain {i}"] for mark in MARKS)
        found = [outcomes[f"{kind} {i}"] for kind in ("tool_call", "no_tool_call", "plain")]
        assert found == ["correct", "wrong", "correct"]
