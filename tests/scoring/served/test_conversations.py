"""Conversations with tools on a server: what it is sent, what comes back, and what it cannot do."""

import json

import pytest

from forget_callback import Generation, MultipleChoice, Probe, Recall, score_probe
from forget_callback.scoring.served.chat import sent
from forget_callback.scoring.served.score import bind_served, score_served
from tests.scoring.served.test_served import Service, same, serve  # noqa: F401 - a fixture

HI = {"role": "user", "content": "Who is it?"}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALLS = [{"function": {"name": "add", "arguments": {"a": i, "b": "zwölf"}}} for i in (1, 2)]
ROUND = [
    {"role": "system", "content": "Be brief."},
    HI,
    {"role": "assistant", "tool_calls": CALLS},
    {"role": "tool", "content": "13"},
    {"role": "tool", "content": "14"},
]
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls %}{{ call | tojson }}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


class ToolService(Service):
    """A server that renders tools, counts tokens, and returns calls apart from the text."""

    calls, takes = None, True

    def answer(self, path, body):
        if path != "/v1/chat/completions":
            return super().answer(path, body)
        tools = body.get("tools") if self.takes else None
        ids = self.tokenizer.apply_chat_template(body["messages"], tools=tools)["input_ids"]
        written, reason = self.write(ids, body)
        message = {"role": "assistant", "content": written}
        if self.calls:
            message, reason = {"role": "assistant", "content": None, "tool_calls": self.calls}, "tool_calls"
        self.usage = {"prompt_tokens": len(ids)}
        return {"message": message, "finish_reason": reason}


@pytest.fixture
def tool_server(serve, monkeypatch, tokenizer):  # noqa: F811
    """tool_server(**attributes) -> a `ToolService` that runs."""
    tokenizer.chat_template = TEMPLATE
    monkeypatch.setattr("tests.scoring.served.test_served.Service", ToolService)

    def start(**attributes):
        service = serve()
        vars(service).update(attributes)
        return service

    return start


def asked(tools=(ADD,), **more):
    items = [Generation(f"g{i}", messages=[HI], tools=tools, answer="42", max_new_tokens=8, **more) for i in range(2)]
    return bind_served(Probe("talks", items), None)[0]


def test_all_kinds_are_those_of_the_model_here(tool_server, make_model, tokenizer):
    """With a tokenizer conversations are rendered here, tools and all."""
    items = [
        MultipleChoice("c", messages=ROUND, tools=[ADD], choices=["It is", "She is", "42"], answer=2),
        Recall("r", messages=[HI], answer="The fox"),
        Generation("g", messages=ROUND, tools=[ADD], answer="42", match="contains", max_new_tokens=8),
    ]
    service, model = tool_server(), make_model(seed=3, max_position_embeddings=1024)
    service.model = model
    probe = Probe("talks", items)
    expected = score_probe(model, tokenizer, probe)
    found = score_served(service.server(), Probe("talks", items, template=TEMPLATE), tokenizer)
    same(found, expected)
    assert {path for path, _, _ in service.asked} == {"/v1/completions"}


def test_a_chat_server_gets_messages_and_tools(tool_server):
    service = tool_server()
    found = score_served(service.server(), asked())
    assert len(found) == 2 and found.text[0]
    path, body, _ = service.asked[-1]
    assert (path, body["messages"], body["tools"]) == ("/v1/chat/completions", [HI], [ADD])


def test_calls_have_ids_and_arguments_as_text_for_the_server():
    assistant, first, second = sent(ROUND)[2:]
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_0", "call_1"]
    assert [first["tool_call_id"], second["tool_call_id"]] == ["call_0", "call_1"]
    assert [json.loads(call["function"]["arguments"]) for call in assistant["tool_calls"]] == [
        {"a": 1, "b": "zwölf"},
        {"a": 2, "b": "zwölf"},
    ]
    named = [{**ROUND[2], "tool_calls": [{**CALLS[0], "id": "x"}]}, {**ROUND[3], "tool_call_id": "x"}]
    assert sent(named)[0]["tool_calls"][0]["id"] == sent(named)[1]["tool_call_id"] == "x"
    assert CALLS[0]["function"]["arguments"] == {"a": 1, "b": "zwölf"}, "the item's own are as they were"


def test_calls_that_the_server_returns_are_text_again(tool_server):
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    found = score_served(tool_server(calls=calls).server(), asked())
    assert found.text[0] == '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def test_a_server_that_shows_no_tools_is_an_error_with_a_remedy(tool_server, monkeypatch):
    service = tool_server(takes=False)
    with pytest.raises(ValueError, match=r"shows no tools to model 'tiny' \(\d+ tokens .*--tokenizer"):
        score_served(service.server(), asked())
    assert len(service.asked) == 2
    service.refused = "Who"
    with pytest.raises(ValueError, match=r"takes no tools for model 'tiny', and probe 'talks' has them: HTTP st"):
        score_served(service.server(), asked())
    score = score_served(tool_server(takes=False).server(), asked(tools=()))
    assert len(score) == 2, "without tools it is as good as any"
